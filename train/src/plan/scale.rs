//! DataComp's compute scales (Gadre et al., arXiv 2304.14108, `scale_configs.py`).
//!
//! The step counts are those that open_clip really makes: it rounds the samples of an epoch up to
//! whole batches, and those up to a multiple of its four workers, for each of the five epochs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A DataComp scale by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// 128,000 samples.
    Debug,
    /// 12.8 million samples.
    Small,
    /// 128 million samples.
    Medium,
    /// 1.28 billion samples.
    Large,
    /// 12.8 billion samples.
    Xlarge,
}

/// What one scale fixes. All of them draw samples with replacement (`dataset_resampled`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScaleConfig {
    /// Model by open_clip's name.
    pub model: &'static str,
    /// Samples of one optimiser step.
    pub global_batch: u32,
    /// Peak learning rate.
    pub lr: f64,
    /// Steps of each of the five epochs, as open_clip rounds them.
    pub steps_per_epoch: u64,
    /// Steps of warmup.
    pub warmup: u64,
    /// AdamW's beta2.
    pub beta2: f64,
}

/// Epochs of every DataComp training (`num_checkpoints`).
pub const DATACOMP_EPOCHS: u64 = 5;

impl Scale {
    /// The preset's numbers.
    #[must_use]
    pub fn config(self) -> ScaleConfig {
        let config = |model, global_batch, lr, steps_per_epoch, warmup, beta2| ScaleConfig {
            model,
            global_batch,
            lr,
            steps_per_epoch,
            warmup,
            beta2,
        };
        match self {
            Self::Debug => config("ViT-B-32", 1024, 1e-4, 28, 500, 0.98),
            Self::Small => config("ViT-B-32", 4096, 5e-4, 628, 500, 0.98),
            Self::Medium => config("ViT-B-32", 4096, 5e-4, 6_252, 500, 0.98),
            Self::Large => config("ViT-B-16", 8192, 5e-4, 31_252, 500, 0.98),
            Self::Xlarge => config("ViT-L-14", 90_112, 1e-3, 28_412, 10_000, 0.95),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// open_clip's `get_wds_dataset`: up to whole batches, then up to a multiple of the workers.
    fn rounded_twice(samples: u64, batch: u64, workers: u64) -> u64 {
        samples.div_ceil(batch).div_ceil(workers) * workers
    }

    #[test]
    fn the_table_is_open_clips_rounding_of_a_fifth_of_the_samples() {
        let samples = [
            (Scale::Debug, 128_000),
            (Scale::Small, 12_800_000),
            (Scale::Medium, 128_000_000),
            (Scale::Large, 1_280_000_000),
            (Scale::Xlarge, 12_800_000_000),
        ];
        for (scale, all) in samples {
            let config = scale.config();
            let steps = rounded_twice(all / DATACOMP_EPOCHS, u64::from(config.global_batch), 4);
            assert_eq!(config.steps_per_epoch, steps, "{scale:?}");
        }
    }

    #[test]
    fn steps_in_all_are_the_known_ones() {
        let steps = |scale: Scale| scale.config().steps_per_epoch * DATACOMP_EPOCHS;
        assert_eq!(
            [Scale::Small, Scale::Medium, Scale::Large, Scale::Xlarge].map(steps),
            [3_140, 31_260, 156_260, 142_060]
        );
    }
}
