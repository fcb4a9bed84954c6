//! A plan with every choice made.

use serde::Serialize;
use serde_json::{Value, json};
use stage::{Error, Result};

use super::{DATACOMP_EPOCHS, Precision, Scale, TrainPlan};
use crate::decay::Rule;
use crate::schedule::{Cooldown, Schedule, Shape};

/// A plan with every choice made, save those that need the model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Settings {
    /// Model name or path of a JSON.
    pub model: String,
    /// Ranks that train together.
    pub world_size: usize,
    /// Samples of a forward pass of one rank.
    pub batch_size: usize,
    /// Forward passes of an optimiser step.
    pub accum_freq: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// AdamW's beta1.
    pub beta1: f64,
    /// AdamW's beta2.
    pub beta2: f64,
    /// AdamW's epsilon.
    pub eps: f64,
    /// Decoupled weight decay.
    pub wd: f64,
    /// Which parameters decay.
    pub wd_rule: Rule,
    /// Learning rate over the steps.
    pub lr_scheduler: Shape,
    /// Steps of warmup.
    pub warmup: u64,
    /// Steps of cooldown, its end and its power.
    pub cooldown: Cooldown,
    /// Optimiser steps in all.
    pub steps: u64,
    /// Optimiser steps of one epoch: what `on_epoch`, `save_frequency` and `results.jsonl` count.
    pub steps_per_epoch: u64,
    /// Optimiser steps of one pass over the data; of one epoch where samples are drawn with
    /// replacement.
    pub steps_per_pass: u64,
    /// Whether samples are drawn with replacement.
    pub dataset_resampled: bool,
    /// Largest gradient norm.
    pub grad_clip_norm: Option<f64>,
    /// Whether blocks are computed again in the backward pass.
    pub grad_checkpointing: bool,
    /// Share of patch tokens that are left out, where the plan overrides the model.
    pub force_patch_dropout: Option<f64>,
    /// Side of the pictures, where the plan overrides the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force_image_size: Option<u32>,
    /// Whether the activation is the quick GELU, whatever the model says.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub force_quick_gelu: bool,
    /// How much oftener samples of each source are drawn.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub train_data_upsampling_factors: Vec<f64>,
    /// What the plan says of pictures, in open_clip's fields: mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_mean: Option<[f32; 3]>,
    /// Standard deviation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_std: Option<[f32; 3]>,
    /// Resize mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_resize_mode: Option<String>,
    /// Interpolation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_interpolation: Option<String>,
    /// Number format of the computation.
    #[serde(skip_serializing_if = "Precision::is_full")]
    pub precision: Precision,
    /// Groups of the image tower that are trained, where it is locked.
    pub lock_image: Option<u32>,
    /// Groups of the text tower that are trained, where it is locked.
    pub lock_text: Option<u32>,
    /// Whether a rank scores only its own rows.
    pub local_loss: bool,
    /// Whether the gradient flows through the features of all ranks.
    pub gather_with_grad: bool,
    /// Seed.
    pub seed: u64,
    /// Kept share of the area of a random crop.
    pub aug_scale: Option<[f64; 2]>,
    /// Share of idle channels.
    pub idle_channels: Option<f64>,
    /// Tokens of a caption, where the plan overrides the model.
    pub context_length: Option<usize>,
    /// Epochs between two kept checkpoints.
    pub save_frequency: u32,
    /// Whether a kept checkpoint replaces the one before.
    pub delete_previous_checkpoint: bool,
}

impl TrainPlan {
    /// Makes every choice, for a source of this many samples and this many ranks. `seed` is the
    /// recipe's.
    ///
    /// # Errors
    /// [`stage::Kind::Recipe`] as [`TrainPlan::validate`], or a scale's batch that the ranks do not
    /// divide; [`stage::Kind::Input`] when the samples do not fill one step.
    pub fn resolve(&self, samples: usize, world_size: usize, seed: u64) -> Result<Settings> {
        self.validate()?;
        let preset = self.scale.map(Scale::config);
        let accum_freq = self.accum_freq as usize;
        let batch_size = self.batch(world_size)?;
        let global = (batch_size * accum_freq * world_size) as u64;
        let dataset_resampled = self.dataset_resampled.unwrap_or(preset.is_some());
        let whole = samples as u64 / global;
        if samples == 0 || (whole == 0 && !dataset_resampled) {
            return Err(too_few(samples, batch_size, accum_freq, world_size));
        }
        let steps_per_epoch = match (self.train_num_samples, preset) {
            (Some(samples), _) => self.epoch_of(samples, batch_size * world_size),
            // With another batch the preset still sees as many samples.
            (None, Some(p)) => (p.steps_per_epoch * u64::from(p.global_batch)).div_ceil(global),
            (None, None) => whole.max(1),
        };
        let steps_per_pass = if dataset_resampled { steps_per_epoch } else { whole };
        let epochs = self.epochs.map_or(DATACOMP_EPOCHS, u64::from);
        let steps = self.steps.unwrap_or(steps_per_epoch.saturating_mul(epochs));
        let warmup =
            self.warmup.or(preset.map(|p| p.warmup)).unwrap_or_else(|| (steps / 10).min(10_000));
        let cooldown = Cooldown {
            steps: u64::from(self.epochs_cooldown.unwrap_or(0)).saturating_mul(steps_per_epoch),
            end: self.lr_cooldown_end,
            power: self.lr_cooldown_power,
        };
        if cooldown.steps > steps {
            return Err(Error::recipe(format!(
                "epochs_cooldown is {} steps long, the training {steps}",
                cooldown.steps
            )));
        }
        Ok(Settings {
            model: self.model.clone().or(preset.map(|p| p.model.to_owned())).unwrap_or_default(),
            world_size,
            batch_size,
            accum_freq,
            lr: self.lr.or(preset.map(|p| p.lr)).unwrap_or(5e-4),
            beta1: self.beta1,
            beta2: self.beta2.or(preset.map(|p| p.beta2)).unwrap_or(0.98),
            eps: self.eps,
            wd: self.wd,
            wd_rule: self.wd_rule,
            lr_scheduler: self.lr_scheduler,
            warmup,
            cooldown,
            steps,
            steps_per_epoch,
            steps_per_pass,
            dataset_resampled,
            grad_clip_norm: self.grad_clip_norm,
            grad_checkpointing: self.grad_checkpointing,
            force_patch_dropout: self.force_patch_dropout,
            force_image_size: self.force_image_size,
            force_quick_gelu: self.force_quick_gelu,
            train_data_upsampling_factors: self.train_data_upsampling_factors.clone(),
            image_mean: self.image_mean,
            image_std: self.image_std,
            image_resize_mode: self.image_resize_mode.clone(),
            image_interpolation: self.image_interpolation.clone(),
            precision: self.precision,
            lock_image: self.lock_image.then_some(self.lock_image_unlocked_groups),
            lock_text: self.lock_text.then_some(self.lock_text_unlocked_layers),
            local_loss: self.local_loss,
            gather_with_grad: self.gather_with_grad,
            seed: self.seed.unwrap_or(seed),
            aug_scale: self.aug_scale,
            idle_channels: self.idle_channels,
            context_length: self.context_length,
            save_frequency: self.save_frequency,
            delete_previous_checkpoint: self.delete_previous_checkpoint,
        })
    }

    /// Samples of a forward pass of one rank.
    fn batch(&self, world_size: usize) -> Result<usize> {
        if let Some(batch) = self.batch_size {
            return Ok(batch.max(1) as usize);
        }
        let Some(scale) = self.scale else { return Ok(64) };
        let global = scale.config().global_batch as usize;
        let parts = self.accum_freq as usize * world_size;
        if global.is_multiple_of(parts) {
            return Ok(global / parts);
        }
        Err(Error::recipe(format!(
            "accum_freq times the number of ranks must divide the scale's batch of {global}, got {} x {world_size}",
            self.accum_freq
        )))
    }

    /// Steps of an epoch of this many samples, `batch` of them a forward pass of all ranks: open_clip
    /// rounds up to whole passes, then to a multiple of its workers, and drops what does not fill
    /// an accumulation.
    fn epoch_of(&self, samples: u64, batch: usize) -> u64 {
        let workers = u64::from(self.workers);
        let passes = samples.div_ceil(batch as u64).div_ceil(workers) * workers;
        let accum = u64::from(self.accum_freq);
        if workers == 1 { passes.div_ceil(accum) } else { (passes / accum).max(1) }
    }
}

fn too_few(samples: usize, batch: usize, accum: usize, world: usize) -> Error {
    let global = batch * accum * world;
    let factors: Vec<String> = [(batch, true), (accum, accum > 1), (world, world > 1)]
        .into_iter()
        .filter(|(_, shown)| *shown)
        .map(|(factor, _)| factor.to_string())
        .collect();
    let product =
        if factors.len() > 1 { format!(" ({})", factors.join(" x ")) } else { String::new() };
    Error::input(format!("{samples} samples do not fill one step of {global}{product}"))
        .hint("lower batch_size, give more data, or set `dataset_resampled: true`")
}

impl Settings {
    /// Samples of one optimiser step, of all ranks.
    #[must_use]
    pub fn global_batch(&self) -> usize {
        self.batch_size * self.accum_freq * self.world_size
    }

    /// Whether the checkpoint after this epoch is kept.
    #[must_use]
    pub fn keeps(&self, epoch: u64) -> bool {
        self.save_frequency > 0 && epoch.is_multiple_of(u64::from(self.save_frequency))
    }

    /// The epochs whose checkpoints are there in the end of a training that began at this step.
    pub fn kept_epochs(&self, began: u64) -> impl Iterator<Item = u64> {
        let whole = self.steps / self.steps_per_epoch.max(1);
        let first = began / self.steps_per_epoch.max(1) + 1;
        let kept: Vec<u64> = (first..=whole).filter(|epoch| self.keeps(*epoch)).collect();
        let all = if self.delete_previous_checkpoint { 1 } else { kept.len() };
        let skipped = kept.len().saturating_sub(all);
        kept.into_iter().skip(skipped)
    }

    /// The files of a kept checkpoint: weights by open_clip's names, and the state to go on from.
    #[must_use]
    pub fn kept_files(&self, epoch: u64) -> [String; 2] {
        [format!("epoch_{epoch}.safetensors"), format!("epoch_{epoch}.state.safetensors")]
    }

    /// The learning rate over the steps.
    #[must_use]
    pub fn schedule(&self) -> Schedule {
        Schedule {
            shape: self.lr_scheduler,
            lr: self.lr,
            warmup: self.warmup,
            steps: self.steps,
            cooldown: self.cooldown,
        }
    }

    /// What must be equal for a saved state to go on: the model is named by its content elsewhere,
    /// and ranks may be added while the samples of a step stay the same.
    #[must_use]
    pub fn identity(&self) -> Value {
        json!(Self {
            model: String::new(),
            batch_size: self.batch_size * self.world_size,
            world_size: 1,
            ..self.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> TrainPlan {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn defaults_are_open_clips_for_vits() {
        let s = plan(r#"{"model": "tiny-32", "steps": 1000}"#).resolve(10_000, 1, 7).unwrap();
        assert_eq!((s.lr, s.beta1, s.beta2, s.eps, s.wd), (5e-4, 0.9, 0.98, 1e-6, 0.2));
        assert_eq!((s.batch_size, s.accum_freq, s.warmup, s.seed), (64, 1, 100, 7));
        assert!(!s.dataset_resampled);
    }

    #[test]
    fn datacomp_scales_have_open_clips_true_step_counts() {
        let steps = |scale| {
            plan(&format!(r#"{{"scale": "{scale}"}}"#)).resolve(1 << 40, 1, 0).unwrap().steps
        };
        assert_eq!(steps("debug"), 140);
        assert_eq!(steps("small"), 3_140);
        assert_eq!(steps("medium"), 31_260);
        assert_eq!(steps("large"), 156_260);
        assert_eq!(steps("xlarge"), 142_060);
    }

    #[test]
    fn a_scale_sets_model_batch_rate_and_beta2_and_fields_beside_it_override() {
        let s = plan(r#"{"scale": "xlarge", "accum_freq": 2, "lr": 5e-4}"#)
            .resolve(1 << 30, 4, 0)
            .unwrap();
        assert_eq!(
            (s.model.as_str(), s.batch_size, s.global_batch()),
            ("ViT-L-14", 11_264, 90_112)
        );
        assert_eq!((s.lr, s.beta2, s.warmup), (5e-4, 0.95, 10_000));
        assert!(s.dataset_resampled);
        let odd = plan(r#"{"scale": "small"}"#).resolve(1 << 30, 3, 0).unwrap_err().to_string();
        assert!(odd.ends_with("divide the scale's batch of 4096, got 1 x 3"), "{odd}");
    }

    #[test]
    fn the_last_incomplete_step_of_an_epoch_is_left_out() {
        let s = plan(r#"{"model": "tiny-32", "batch_size": 8, "accum_freq": 2, "epochs": 3}"#)
            .resolve(40, 1, 0)
            .unwrap();
        assert_eq!((s.steps_per_epoch, s.steps), (2, 6));
    }

    #[test]
    fn a_given_number_of_samples_is_rounded_up_to_whole_steps() {
        let s =
            plan(r#"{"model": "tiny-32", "batch_size": 8, "epochs": 2, "train_num_samples": 20}"#)
                .resolve(16, 1, 0)
                .unwrap();
        assert_eq!((s.steps_per_epoch, s.steps_per_pass, s.steps), (3, 2, 6));
    }

    #[test]
    fn workers_round_an_epoch_as_open_clips_do() {
        let small = r#"{"model": "tiny-32", "batch_size": 512, "epochs": 5, "workers": 4,
            "train_num_samples": 2560000}"#;
        assert_eq!(plan(small).resolve(1 << 30, 8, 0).unwrap().steps, 3_140);
    }

    #[test]
    fn a_cooldown_is_counted_in_epochs() {
        let s = plan(
            r#"{"model": "tiny-32", "batch_size": 8, "epochs": 4, "lr_scheduler": "const-cooldown",
                "epochs_cooldown": 1}"#,
        );
        let s = s.resolve(40, 1, 0).unwrap();
        assert_eq!((s.steps, s.schedule().cooldown.steps), (20, 5));
    }

    #[test]
    fn too_few_samples_for_a_step_say_both_numbers() {
        let small = plan(r#"{"model": "tiny-32", "batch_size": 64, "steps": 1}"#);
        let message = small.resolve(10, 1, 0).unwrap_err();
        assert_eq!(message.to_string(), "10 samples do not fill one step of 64");
        let message = small.resolve(100, 2, 0).unwrap_err();
        assert_eq!(message.to_string(), "100 samples do not fill one step of 128 (64 x 2)");
    }

    #[test]
    fn drawing_with_replacement_needs_no_full_step() {
        let s = plan(
            r#"{"model": "tiny-32", "batch_size": 64, "steps": 3, "dataset_resampled": true}"#,
        );
        let s = s.resolve(10, 1, 0).unwrap();
        assert_eq!((s.steps_per_epoch, s.steps_per_pass), (1, 1));
    }

    #[test]
    fn more_ranks_with_the_same_samples_a_step_are_the_same_training() {
        let one = plan(r#"{"model": "tiny-32", "batch_size": 64, "steps": 3}"#);
        let two = plan(r#"{"model": "tiny-32", "batch_size": 32, "steps": 3}"#);
        let identity = |plan: &TrainPlan, ranks| plan.resolve(640, ranks, 0).unwrap().identity();
        assert_eq!(identity(&one, 1), identity(&two, 2));
        assert_ne!(identity(&one, 1), identity(&two, 1));
    }
}
