//! Towers that stay as they start: open_clip's `--lock-image` and `--lock-text`.
//!
//! Zhai et al., "LiT: Zero-Shot Transfer with Locked-image text Tuning", arXiv 2111.07991. A tower
//! is cut into groups from the pixels (or words) to the feature: the embeddings, each block but the
//! last, the last block with the norm after it, the projection (open_clip `transformer.py`,
//! `VisionTransformer.lock` and `lock_text_tower`). The last groups may be left unlocked.

use std::collections::BTreeSet;

use models::ClipConfig;
use stage::{Error, Result};

/// Which towers are locked, and how many groups at their ends are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Locks {
    /// Unlocked groups of a locked image tower.
    pub image: Option<u32>,
    /// Unlocked groups of a locked text tower.
    pub text: Option<u32>,
}

/// Which tower a parameter belongs to; the temperature belongs to neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tower {
    Image,
    Text,
}

fn tower(name: &str) -> Option<Tower> {
    match name {
        "logit_scale" | "logit_bias" => None,
        _ if name.starts_with("visual.") => Some(Tower::Image),
        _ => Some(Tower::Text),
    }
}

impl Locks {
    /// Refuses to lock an image tower whose groups are not those above.
    ///
    /// # Errors
    /// A ViTamin: open_clip locks timm's trunks by other groups.
    pub fn check(self, config: &ClipConfig) -> Result<()> {
        if self.image.is_none() || config.vision.vit().is_some() {
            return Ok(());
        }
        Err(Error::recipe("lock_image is implemented for plain ViTs alone")
            .hint("lock the text tower (lock_text), or choose a ViT-* model"))
    }

    /// The names among these parameters that are trained.
    pub fn trained<'a>(
        self,
        config: &ClipConfig,
        names: impl Iterator<Item = &'a String>,
    ) -> BTreeSet<String> {
        let layers = config.vision.vit().map_or(0, |vit| vit.layers);
        let trains = |name: &str| match tower(name) {
            None => true,
            Some(Tower::Image) => self.image.is_none_or(|open| from_the_end(name, layers) < open),
            Some(Tower::Text) => {
                self.text.is_none_or(|open| from_the_end(name, config.text.layers) < open)
            }
        };
        names.filter(|name| trains(name)).cloned().collect()
    }

    /// Whether nothing of the image tower is trained.
    #[must_use]
    pub fn whole_image(self) -> bool {
        self.image == Some(0)
    }

    /// Whether nothing of the text tower is trained.
    #[must_use]
    pub fn whole_text(self) -> bool {
        self.text == Some(0)
    }
}

/// The group of a parameter, counted from the projection, which is 0.
fn from_the_end(name: &str, layers: usize) -> u32 {
    let inner = ["visual.", "text."].iter().find_map(|tower| name.strip_prefix(tower));
    let inner = inner.unwrap_or(name);
    if matches!(inner, "proj" | "text_projection") {
        return 0;
    }
    if inner.starts_with("ln_post.") || inner.starts_with("ln_final.") {
        return 1;
    }
    let block = inner.strip_prefix("transformer.resblocks.").and_then(|rest| {
        let (number, _) = rest.split_once('.')?;
        number.parse::<usize>().ok()
    });
    match block {
        Some(block) => layers.saturating_sub(block) as u32,
        None => layers as u32 + 1,
    }
}

#[cfg(test)]
mod tests {
    use models::Clip;

    use super::*;

    /// The trained parameters of `tiny-32` (names without the weights' last parts).
    fn trained(locks: Locks) -> Vec<String> {
        let config = ClipConfig::named("tiny-32").unwrap();
        let clip = Clip::init(&config, &[], 0, &candle_core::Device::Cpu).unwrap();
        let names = locks.trained(&config, clip.params().vars().keys());
        let short = |name: &String| {
            let parts: Vec<&str> = name.split('.').collect();
            let keep = parts.iter().position(|p| p.parse::<u32>().is_ok()).map_or(2, |i| i + 1);
            parts[..keep.min(parts.len())].join(".")
        };
        let short: BTreeSet<String> = names.iter().map(short).collect();
        short.into_iter().collect()
    }

    fn of_image(open: u32) -> Vec<String> {
        let names = trained(Locks { image: Some(open), text: Some(0) });
        names.into_iter().filter(|name| name != "logit_scale").collect()
    }

    #[test]
    fn a_locked_tower_trains_nothing_and_the_temperature_always_trains() {
        assert_eq!(trained(Locks { image: Some(0), text: Some(0) }), ["logit_scale"]);
    }

    #[test]
    fn the_text_tower_of_a_vitamin_can_be_locked_and_its_image_tower_not() {
        let config = ClipConfig::named("tiny-vitamin-32").unwrap();
        assert!(Locks { image: Some(0), text: None }.check(&config).is_err());
        let locks = Locks { image: None, text: Some(0) };
        locks.check(&config).unwrap();
        let names = config.tensors().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        let trained = locks.trained(&config, names.iter());
        assert!(trained.iter().all(|name| name.starts_with("visual.") || name == "logit_scale"));
        let open = Locks { image: None, text: Some(2) }.trained(&config, names.iter());
        assert!(open.contains("text.text_projection") && open.contains("text.ln_final.weight"));
        assert!(!open.contains("text.token_embedding.weight"));
    }

    #[test]
    fn groups_open_from_the_projection_backwards() {
        let layers = ClipConfig::named("tiny-32").unwrap().vision.vit().unwrap().layers;
        let block = |i: usize| format!("visual.transformer.resblocks.{i}");
        assert_eq!(of_image(1), ["visual.proj"]);
        assert_eq!(of_image(2), ["visual.ln_post", "visual.proj", block(layers - 1).as_str()]);
        assert!(of_image(3).contains(&block(layers - 2)));
        let all_blocks = of_image(layers as u32 + 1);
        assert!(all_blocks.contains(&block(0)));
        assert!(!all_blocks.contains(&"visual.conv1".to_owned()));
        assert!(of_image(layers as u32 + 2).contains(&"visual.conv1".to_owned()));
    }

    #[test]
    fn the_text_towers_groups_are_its_own() {
        let names = trained(Locks { image: Some(0), text: Some(2) });
        let layers = ClipConfig::named("tiny-32").unwrap().text.layers;
        let block = format!("transformer.resblocks.{}", layers - 1);
        assert_eq!(
            names,
            ["ln_final.weight", "ln_final.bias", "logit_scale", "text_projection", &block]
                .into_iter()
                .map(str::to_owned)
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect::<Vec<_>>()
        );
    }
}
