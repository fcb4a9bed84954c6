//! Multiplications of a model, from its configuration: for the share of the machine that a training
//! uses.
//!
//! Counted as open_clip's profiler does: every matrix product and the patch convolution, attention's
//! two products included, norms and activations left out. Captions count with their true length,
//! because padding is never worked on.

use models::ClipConfig;

/// Multiply-adds of forward passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Macs {
    /// One picture through the image tower.
    pub image: u64,
    text: Tower,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tower {
    layers: u64,
    width: u64,
    hidden: u64,
    embed: u64,
}

impl Tower {
    /// Blocks over `tokens` tokens, and the projection of one.
    fn macs(self, tokens: u64) -> u64 {
        let Self { layers, width, hidden, embed } = self;
        let products = tokens * (4 * width * width + 2 * width * hidden);
        let attention = 2 * tokens * tokens * width;
        layers * (products + attention) + width * embed
    }
}

impl Macs {
    /// Of both towers.
    #[must_use]
    pub fn of(config: &ClipConfig) -> Self {
        let (v, t) = (&config.vision, &config.text);
        let number = |value: usize| value as u64;
        let image = Tower {
            layers: number(v.layers),
            width: number(v.width),
            hidden: number(v.hidden()),
            embed: number(config.embed_dim),
        };
        let text = Tower {
            layers: number(t.layers),
            width: number(t.width),
            hidden: number(t.hidden()),
            embed: number(config.embed_dim),
        };
        let patch = number(3 * v.patch_size * v.patch_size * v.width * v.patches());
        Self { image: patch + image.macs(number(v.patches() + 1)), text }
    }

    /// One caption of this many tokens through the text tower.
    #[must_use]
    pub fn text(&self, tokens: usize) -> u64 {
        self.text.macs(tokens as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_captions_give_open_clips_profile() {
        // open_clip docs/model_profile.csv: GFLOPs (two a multiply-add) of the image tower, of both.
        let profile =
            [("ViT-B-32", 8.82, 14.78), ("ViT-B-16", 35.13, 41.09), ("ViT-L-14", 162.03, 175.33)];
        for (name, image, both) in profile {
            let macs = Macs::of(&ClipConfig::named(name).unwrap());
            let gflops = |macs: u64| 2.0 * macs as f64 / 1e9;
            assert!((gflops(macs.image) - image).abs() < 0.006, "{name}: {}", gflops(macs.image));
            assert!((gflops(macs.image + macs.text(77)) - both).abs() < 0.011, "{name}");
        }
    }

    #[test]
    fn a_short_caption_costs_less() {
        let macs = Macs::of(&ClipConfig::named("ViT-B-32").unwrap());
        assert!(macs.text(10) * 7 < macs.text(77));
    }
}
