//! Multiplications of a model, from its configuration: for the share of the machine that a training
//! uses.
//!
//! Counted as open_clip's profiler does: every matrix product and the patch convolution, attention's
//! two products included, norms and activations left out. Captions count with their true length,
//! because padding is never worked on.

use models::{ClipConfig, count};

/// Multiply-adds of forward passes.
#[derive(Debug, Clone, PartialEq)]
pub struct Macs {
    /// One picture through the image tower.
    pub image: u64,
    config: ClipConfig,
}

impl Macs {
    /// Of both towers.
    #[must_use]
    pub fn of(config: &ClipConfig) -> Self {
        Self { image: count::image(config).products(), config: config.clone() }
    }

    /// One caption of this many tokens through the text tower.
    #[must_use]
    pub fn text(&self, tokens: usize) -> u64 {
        count::caption(&self.config, tokens).products()
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
