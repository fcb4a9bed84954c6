//! What a recipe says about a training, in open_clip's words.
//!
//! Names and defaults follow open_clip's `params.py`; where we differ the field says so. The
//! `scale` presets are DataComp's `scale_configs.py` with the step counts that open_clip really
//! makes of them (it rounds up to whole batches and then to a multiple of its four workers, for
//! each of the five epochs).

use models::ClipConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage::{Error, Result};

use crate::schedule::{Schedule, Shape};

/// A CLIP training. Either `epochs` or `steps` says how long, unless `scale` does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainPlan {
    /// A model name (`ViT-B-32`, `tiny-32`, ...) or the path of an open_clip model JSON. Required
    /// unless `scale` is given.
    pub model: Option<String>,
    /// A DataComp scale: sets model, batch, learning rate, length, warmup and beta2. A field given
    /// beside it overrides it. Default none.
    pub scale: Option<Scale>,
    /// Shards to train on besides those that the stage takes: paths, folders, globs, brace ranges
    /// or object store URLs; read by the runner. open_clip's `train_data`. Default none.
    #[serde(alias = "train_data")]
    pub data: Vec<String>,
    /// Samples in a forward pass, 1..=1048576. Default 64, or the scale's batch divided by
    /// `accum_freq`.
    pub batch_size: Option<u32>,
    /// Forward passes that share one loss and one optimiser step, 1..=65536. Default 1.
    pub accum_freq: u32,
    /// Passes over the data (or over `train_num_samples`), at least 1. Give this or `steps`.
    pub epochs: Option<u32>,
    /// Optimiser steps, at least 1. Give this or `epochs`.
    pub steps: Option<u64>,
    /// Samples in one epoch, at least 1; rounded up to whole steps. Default: every sample once,
    /// the last incomplete step left out.
    pub train_num_samples: Option<u64>,
    /// Peak learning rate, above 0. Default 0.0005, or the scale's.
    pub lr: Option<f64>,
    /// AdamW's decay of the first moment, 0..1. Default 0.9.
    pub beta1: f64,
    /// AdamW's decay of the second moment, 0..1. Default 0.98, or the scale's.
    pub beta2: Option<f64>,
    /// AdamW's epsilon, above 0. Default 1e-6.
    pub eps: f64,
    /// Decoupled weight decay, 0 or more. Default 0.2.
    pub wd: f64,
    /// Steps of linear warmup. Default a tenth of the steps, at most 10000 (open_clip: always
    /// 10000), or the scale's.
    pub warmup: Option<u64>,
    /// What the learning rate does after the warmup. Default cosine.
    pub lr_scheduler: Shape,
    /// Largest norm of all gradients together, above 0. Default none.
    pub grad_clip_norm: Option<f64>,
    /// Seed of initialisation, data order and augmentation. Default the recipe's seed.
    pub seed: Option<u64>,
    /// Number format of the computation. Only `fp32` for now.
    pub precision: Precision,
    /// Share of the area that the random crop keeps, low and high, each in 0..=1; `null` crops as
    /// the evaluation does. Default [0.9, 1.0].
    pub aug_scale: Option<[f64; 2]>,
    /// Trains in RePaViT's form: BatchNorm in the image tower's FFN and this share of its hidden
    /// channels idle, 0..=1, so that `compress: {repavit: {}}` can fold it. Default none.
    pub idle_channels: Option<f64>,
    /// Tokens of a caption, 3..=1024. Default the model's.
    pub context_length: Option<usize>,
    /// Steps between two saved states, from which a killed training goes on, at least 1. Default
    /// 200. Changes no output.
    pub save_every: u64,
    /// Epochs between two kept `checkpoints/epoch_K.safetensors`; 0 keeps only the end. Default 0
    /// (open_clip: 1).
    pub save_frequency: u32,
    /// Steps between two lines of `out.log`, at least 1. Default 100. Changes no output.
    pub log_every_n_steps: u64,
}

impl Default for TrainPlan {
    fn default() -> Self {
        Self {
            model: None,
            scale: None,
            data: Vec::new(),
            batch_size: None,
            accum_freq: 1,
            epochs: None,
            steps: None,
            train_num_samples: None,
            lr: None,
            beta1: 0.9,
            beta2: None,
            eps: 1e-6,
            wd: 0.2,
            warmup: None,
            lr_scheduler: Shape::Cosine,
            grad_clip_norm: None,
            seed: None,
            precision: Precision::Fp32,
            aug_scale: Some([0.9, 1.0]),
            idle_channels: None,
            context_length: None,
            save_every: 200,
            save_frequency: 0,
            log_every_n_steps: 100,
        }
    }
}

/// DataComp's compute scales (Gadre et al., arXiv 2304.14108, `scale_configs.py`).
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

/// open_clip's words for number formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are open_clip's and say it")]
pub enum Precision {
    #[serde(alias = "f32")]
    Fp32,
    Amp,
    AmpBf16,
    AmpBfloat16,
    Bf16,
    Fp16,
    PureBf16,
    PureFp16,
}

/// What one scale fixes.
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

/// A plan with every choice made, save those that need the number of samples.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Settings {
    /// Model name or path of a JSON.
    pub model: String,
    /// Samples of a forward pass.
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
    /// Learning rate over the steps.
    pub lr_scheduler: Shape,
    /// Steps of warmup.
    pub warmup: u64,
    /// Optimiser steps in all.
    pub steps: u64,
    /// Optimiser steps of one epoch: what `on_epoch`, `save_frequency` and `results.jsonl` count.
    pub steps_per_epoch: u64,
    /// Optimiser steps of one pass over the data.
    pub steps_per_pass: u64,
    /// Largest gradient norm.
    pub grad_clip_norm: Option<f64>,
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
}

impl TrainPlan {
    /// Checks every range and that exactly one of `epochs` and `steps` says how long.
    ///
    /// # Errors
    /// [`stage::Kind::Recipe`], naming the field.
    pub fn validate(&self) -> Result<()> {
        if self.model.is_none() && self.scale.is_none() {
            return Err(Error::recipe("model is required")
                .hint("name one (`tiny-32`, `ViT-B-32`), give a JSON path, or set `scale`"));
        }
        if let Some(name) = &self.model {
            // A JSON file is read when the stage runs.
            if !name.to_ascii_lowercase().ends_with(".json") {
                ClipConfig::named(name).map_err(|e| e.at("model"))?;
            }
        }
        match (self.epochs, self.steps, self.scale) {
            (Some(_), Some(_), _) => {
                return Err(Error::recipe("epochs and steps are both given")
                    .hint("keep the one that says how long to train"));
            }
            (None, None, None) => {
                return Err(Error::recipe("neither epochs nor steps is given")
                    .hint("say how long to train with one of them, or set `scale`"));
            }
            _ => {}
        }
        if let Some(batch) = self.batch_size {
            range("batch_size", f64::from(batch), 1.0, 1_048_576.0)?;
        }
        range("accum_freq", f64::from(self.accum_freq), 1.0, 65_536.0)?;
        at_least_one("epochs", self.epochs.map(u64::from))?;
        at_least_one("steps", self.steps)?;
        at_least_one("train_num_samples", self.train_num_samples)?;
        at_least_one("save_every", Some(self.save_every))?;
        at_least_one("log_every_n_steps", Some(self.log_every_n_steps))?;
        positive("lr", self.lr)?;
        positive("eps", Some(self.eps))?;
        positive("grad_clip_norm", self.grad_clip_norm)?;
        below_one("beta1", self.beta1)?;
        below_one("beta2", self.beta2.unwrap_or(0.98))?;
        if !(self.wd.is_finite() && self.wd >= 0.0) {
            return Err(Error::recipe(format!("wd must be 0 or more, got {}", self.wd)));
        }
        if let Some([low, high]) = self.aug_scale
            && !(low > 0.0 && low <= high && high <= 1.0)
        {
            return Err(Error::recipe(format!(
                "aug_scale must satisfy 0 < low ≤ high ≤ 1, got [{low}, {high}]"
            )));
        }
        if let Some(ratio) = self.idle_channels {
            range("idle_channels", ratio, 0.0, 1.0)?;
        }
        if let Some(length) = self.context_length {
            range("context_length", length as f64, 3.0, 1024.0)?;
        }
        if self.precision != Precision::Fp32 {
            let name = serde_json::to_string(&self.precision).unwrap_or_default();
            return Err(Error::recipe(format!(
                "precision must be fp32, got {}",
                name.trim_matches('"')
            ))
            .hint("leave the field out: only fp32 is implemented"));
        }
        if let (Some(scale), None) = (self.scale, self.batch_size) {
            let global = scale.config().global_batch;
            if global % self.accum_freq != 0 {
                return Err(Error::recipe(format!(
                    "accum_freq must divide the scale's batch of {global}, got {}",
                    self.accum_freq
                )));
            }
        }
        Ok(())
    }

    /// Makes every choice, for a source of this many samples. `seed` is the recipe's.
    ///
    /// # Errors
    /// [`stage::Kind::Recipe`] as [`TrainPlan::validate`]; [`stage::Kind::Input`] when the samples
    /// do not fill one step.
    pub fn resolve(&self, samples: usize, seed: u64) -> Result<Settings> {
        self.validate()?;
        let preset = self.scale.map(Scale::config);
        let batch_size = self
            .batch_size
            .or(preset.map(|p| p.global_batch / self.accum_freq))
            .unwrap_or(64)
            .max(1) as usize;
        let accum_freq = self.accum_freq as usize;
        let global = (batch_size * accum_freq) as u64;
        let steps_per_pass = samples as u64 / global;
        if steps_per_pass == 0 {
            let micro = if accum_freq == 1 {
                String::new()
            } else {
                format!(" ({batch_size} x {accum_freq})")
            };
            return Err(Error::input(format!(
                "{samples} samples do not fill one step of {global}{micro}"
            ))
            .hint("lower batch_size, or give more data"));
        }
        let steps_per_epoch = match (self.train_num_samples, preset) {
            (Some(samples), _) => samples.div_ceil(global),
            // With another batch the preset still sees as many samples.
            (None, Some(p)) => (p.steps_per_epoch * u64::from(p.global_batch)).div_ceil(global),
            (None, None) => steps_per_pass,
        };
        let epochs = self.epochs.map_or(DATACOMP_EPOCHS, u64::from);
        let steps = self.steps.unwrap_or(steps_per_epoch.saturating_mul(epochs));
        let warmup =
            self.warmup.or(preset.map(|p| p.warmup)).unwrap_or_else(|| (steps / 10).min(10_000));
        Ok(Settings {
            model: self.model.clone().or(preset.map(|p| p.model.to_owned())).unwrap_or_default(),
            batch_size,
            accum_freq,
            lr: self.lr.or(preset.map(|p| p.lr)).unwrap_or(5e-4),
            beta1: self.beta1,
            beta2: self.beta2.or(preset.map(|p| p.beta2)).unwrap_or(0.98),
            eps: self.eps,
            wd: self.wd,
            lr_scheduler: self.lr_scheduler,
            warmup,
            steps,
            steps_per_epoch,
            steps_per_pass,
            grad_clip_norm: self.grad_clip_norm,
            seed: self.seed.unwrap_or(seed),
            aug_scale: self.aug_scale,
            idle_channels: self.idle_channels,
            context_length: self.context_length,
            save_frequency: self.save_frequency,
        })
    }
}

impl Settings {
    /// Samples of one optimiser step.
    #[must_use]
    pub fn global_batch(&self) -> usize {
        self.batch_size * self.accum_freq
    }

    /// The learning rate over the steps.
    #[must_use]
    pub fn schedule(&self) -> Schedule {
        Schedule { shape: self.lr_scheduler, lr: self.lr, warmup: self.warmup, steps: self.steps }
    }
}

fn range(field: &str, value: f64, low: f64, high: f64) -> Result<()> {
    if value >= low && value <= high {
        return Ok(());
    }
    Err(Error::recipe(format!("{field} must lie in {low}..={high}, got {value}")))
}

fn at_least_one(field: &str, value: Option<u64>) -> Result<()> {
    match value {
        Some(0) => Err(Error::recipe(format!("{field} must be at least 1, got 0"))),
        _ => Ok(()),
    }
}

fn positive(field: &str, value: Option<f64>) -> Result<()> {
    match value {
        Some(v) if !(v.is_finite() && v > 0.0) => {
            Err(Error::recipe(format!("{field} must be above 0, got {v}")))
        }
        _ => Ok(()),
    }
}

fn below_one(field: &str, value: f64) -> Result<()> {
    if (0.0..1.0).contains(&value) {
        return Ok(());
    }
    Err(Error::recipe(format!("{field} must lie in 0..1, got {value}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> TrainPlan {
        serde_json::from_str(json).unwrap()
    }

    fn refusal(json: &str) -> String {
        plan(json).validate().unwrap_err().to_string()
    }

    #[test]
    fn defaults_are_open_clips_for_vits() {
        let s = plan(r#"{"model": "tiny-32", "steps": 1000}"#).resolve(10_000, 7).unwrap();
        assert_eq!((s.lr, s.beta1, s.beta2, s.eps, s.wd), (5e-4, 0.9, 0.98, 1e-6, 0.2));
        assert_eq!((s.batch_size, s.accum_freq, s.warmup, s.seed), (64, 1, 100, 7));
    }

    #[test]
    fn datacomp_scales_have_open_clips_true_step_counts() {
        let steps =
            |scale| plan(&format!(r#"{{"scale": "{scale}"}}"#)).resolve(1 << 40, 0).unwrap().steps;
        assert_eq!(steps("debug"), 140);
        assert_eq!(steps("small"), 3_140);
        assert_eq!(steps("medium"), 31_260);
        assert_eq!(steps("large"), 156_260);
        assert_eq!(steps("xlarge"), 142_060);
    }

    #[test]
    fn a_scale_sets_model_batch_rate_and_beta2_and_fields_beside_it_override() {
        let s = plan(r#"{"scale": "xlarge", "accum_freq": 2, "lr": 5e-4}"#)
            .resolve(1 << 30, 0)
            .unwrap();
        assert_eq!(
            (s.model.as_str(), s.batch_size, s.global_batch()),
            ("ViT-L-14", 45_056, 90_112)
        );
        assert_eq!((s.lr, s.beta2, s.warmup), (5e-4, 0.95, 10_000));
    }

    #[test]
    fn the_last_incomplete_step_of_an_epoch_is_left_out() {
        let s = plan(r#"{"model": "tiny-32", "batch_size": 8, "accum_freq": 2, "epochs": 3}"#)
            .resolve(40, 0)
            .unwrap();
        assert_eq!((s.steps_per_epoch, s.steps), (2, 6));
    }

    #[test]
    fn a_given_number_of_samples_is_rounded_up_to_whole_steps() {
        let s =
            plan(r#"{"model": "tiny-32", "batch_size": 8, "epochs": 2, "train_num_samples": 20}"#)
                .resolve(16, 0)
                .unwrap();
        assert_eq!((s.steps_per_epoch, s.steps_per_pass, s.steps), (3, 2, 6));
    }

    #[test]
    fn exactly_one_of_epochs_and_steps() {
        assert_eq!(refusal(r#"{"model": "tiny-32"}"#), "neither epochs nor steps is given");
        assert_eq!(
            refusal(r#"{"model": "tiny-32", "epochs": 1, "steps": 1}"#),
            "epochs and steps are both given"
        );
    }

    #[test]
    fn a_wrong_value_is_refused_by_field() {
        let with =
            |field: &str| refusal(&format!(r#"{{"model": "tiny-32", "steps": 1, {field}}}"#));
        assert_eq!(with(r#""beta1": 1.0"#), "beta1 must lie in 0..1, got 1");
        assert_eq!(with(r#""lr": 0"#), "lr must be above 0, got 0");
        assert_eq!(with(r#""wd": -0.1"#), "wd must be 0 or more, got -0.1");
        assert_eq!(with(r#""batch_size": 0"#), "batch_size must lie in 1..=1048576, got 0");
        assert_eq!(with(r#""idle_channels": 75"#), "idle_channels must lie in 0..=1, got 75");
        assert_eq!(
            with(r#""aug_scale": [0.9, 2]"#),
            "aug_scale must satisfy 0 < low ≤ high ≤ 1, got [0.9, 2]"
        );
        assert_eq!(with(r#""precision": "amp_bf16""#), "precision must be fp32, got amp_bf16");
        assert_eq!(refusal(r#"{"steps": 1}"#), "model is required");
    }

    #[test]
    fn an_unknown_field_is_refused() {
        assert!(serde_json::from_str::<TrainPlan>(r#"{"learning_rate": 1}"#).is_err());
    }

    #[test]
    fn too_few_samples_for_a_step_say_both_numbers() {
        let message = plan(r#"{"model": "tiny-32", "batch_size": 64, "steps": 1}"#)
            .resolve(10, 0)
            .unwrap_err();
        assert_eq!(message.to_string(), "10 samples do not fill one step of 64");
    }
}
