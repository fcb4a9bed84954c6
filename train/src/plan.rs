//! What a recipe says about a training, in open_clip's words.
//!
//! Names and defaults follow open_clip's `params.py`; where we differ the field says so.

mod check;
pub mod open_clip;
mod scale;
mod settings;

use kernels::Products;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;

pub use scale::{DATACOMP_EPOCHS, Scale, ScaleConfig};
pub use settings::Settings;

use crate::decay::Rule;
use crate::schedule::Shape;

/// A CLIP training. Either `epochs` or `steps` says how long, unless `scale` does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainPlan {
    /// A model name (`ViT-B-32`, `tiny-32`, ...) or the path of an open_clip model JSON. Required
    /// unless `scale` is given.
    pub model: Option<String>,
    /// A DataComp scale: sets model, batch, learning rate, length, warmup, beta2 and
    /// `dataset_resampled`. A field given beside it overrides it. Default none.
    pub scale: Option<Scale>,
    /// Start from these weights instead of random ones: a clipmill checkpoint (its folder or
    /// `checkpoint.json`), a folder of open_clip's or a Hugging Face CLIP's with its configuration, a
    /// file of weights (`.safetensors`, `.pt`, `.pth`, `.bin`, `.index.json`), or the id of a stage
    /// that gives a checkpoint. A configuration beside the weights must say the same of the model
    /// as `model` does, and its preprocessing is this training's. Default none.
    pub pretrained: Option<String>,
    /// `latest` goes on from the newest saved state of this output, which happens anyway; a path
    /// goes on from that state (`checkpoints/epoch_3.state.safetensors`), whatever its settings
    /// were. Default `latest`.
    pub resume: Option<String>,
    /// Shards to train on besides those that the stage takes: paths, folders, globs, brace ranges
    /// or object store URLs; read by the runner. open_clip's `train_data`. Default none.
    #[serde(alias = "train_data")]
    #[schemars(extend("aliases" = ["train_data"]))]
    pub data: Vec<String>,
    /// With `dataset_resampled`: how much oftener a sample of each source is drawn than one of a source
    /// with factor 1, 0 or more; the sources are the entries of `data` and the parts that `::` parts
    /// in them, behind the shards that the stage takes, if any. A list, or `1::2::0.5`. open_clip
    /// weighs whole shards. Default none: all samples alike.
    #[serde(deserialize_with = "factors", skip_serializing_if = "Vec::is_empty")]
    pub train_data_upsampling_factors: Vec<f64>,
    /// Draw samples with replacement instead of passing over the data: a function of seed, epoch
    /// and step. Default false, or true with a scale. (open_clip draws whole shards.)
    pub dataset_resampled: Option<bool>,
    /// Samples in a forward pass of one rank, 1..=1048576. Default 64, or the scale's batch divided
    /// by `accum_freq` and the number of ranks.
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
    /// Rounds the forward passes of an epoch of `train_num_samples` up to a multiple of this, as
    /// open_clip does with its loader processes (there 4), 1..=1024. Default 1. Threads are
    /// `--threads`.
    pub workers: u32,
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
    /// Which parameters decay: `legacy` (open_clip up to 3.x, which made DataComp's models; position
    /// tables decay) or `current` (open_clip 4.x; they do not). Default legacy.
    pub wd_rule: Rule,
    /// Steps of linear warmup. Default a tenth of the steps, at most 10000 (open_clip: always
    /// 10000), or the scale's.
    pub warmup: Option<u64>,
    /// What the learning rate does after the warmup: `cosine`, `const` or `const-cooldown`. Default
    /// cosine.
    pub lr_scheduler: Shape,
    /// Epochs of cooldown at the end, at least 1; needed for `const-cooldown`. Default none.
    pub epochs_cooldown: Option<u32>,
    /// Learning rate at the end of the cooldown, 0 or more. Default 0.
    pub lr_cooldown_end: f64,
    /// Power of the cooldown's fall, above 0; 1 is a straight line. Default 1.
    pub lr_cooldown_power: f64,
    /// Largest norm of all gradients together, above 0. Default none.
    pub grad_clip_norm: Option<f64>,
    /// Keeps only the inputs of the towers' blocks and computes the rest again in the backward pass
    /// (gradient checkpointing): less memory for a second forward pass of the blocks. `clipmill
    /// model` estimates both. Default false.
    pub grad_checkpointing: bool,
    /// Share of the patch tokens of a plain ViT that a step leaves out, 0 or more and below 1
    /// (FLIP, arXiv 2212.00794). Default the model's own.
    pub force_patch_dropout: Option<f64>,
    /// Side of the pictures in place of the model's own, a multiple of its patch: open_clip's flag,
    /// for a square. Positions of a `pretrained` checkpoint are resampled (bicubic). Default the
    /// model's own.
    pub force_image_size: Option<u32>,
    /// x·σ(1.702 x) in place of the exact GELU, whatever the model says; open_clip's flag. Default
    /// false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub force_quick_gelu: bool,
    /// Mean of R, G, B in 0..1 that is taken off the pictures. Default that of `pretrained`'s
    /// configuration, else OpenAI's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_mean: Option<[f32; 3]>,
    /// Standard deviation of R, G, B that they are divided by, above 0. Default as `image_mean`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_std: Option<[f32; 3]>,
    /// How pictures become squares where no random crop does it: in validation, in evaluations of the
    /// checkpoint, and with `aug_scale: null`. `shortest`, `longest` or `squash`. Default as
    /// `image_mean`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_resize_mode: Option<String>,
    /// `bicubic`, in place of another that `pretrained`'s configuration says. Default as
    /// `image_mean`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_interpolation: Option<String>,
    /// Keeps the image tower as it starts (LiT, arXiv 2111.07991). Default false.
    pub lock_image: bool,
    /// Groups at the end of a locked image tower that are trained: 1 the projection, 2 the last
    /// block too, and so on. Default 0.
    pub lock_image_unlocked_groups: u32,
    /// Keeps the text tower as it starts. Default false.
    pub lock_text: bool,
    /// Groups at the end of a locked text tower that are trained: 1 the projection, 2 the last
    /// block too, and so on. Default 0.
    pub lock_text_unlocked_layers: u32,
    /// Seed of initialisation, data order and augmentation. Default the recipe's seed.
    pub seed: Option<u64>,
    /// Number format of the computation: `fp32`, or `amp_bf16` (also `amp_bfloat16`, `bf16` and
    /// `amp`, which in open_clip is fp16 with a scaled loss): products of the blocks' linear layers take both factors rounded to bf16, forward and
    /// backward; weights, sums, norms, softmax, loss and saved states stay f32. Default fp32.
    pub precision: Precision,
    /// Share of the area that the random crop keeps, low and high, each in 0..=1; `null` crops as
    /// the evaluation does. Default [0.9, 1.0].
    pub aug_scale: Option<[f64; 2]>,
    /// Trains in RePaViT's form: BatchNorm in the image tower's FFN and this share of its hidden
    /// channels idle, 0..=1, so that `compress: {repavit: {}}` can fold it. Default none.
    pub idle_channels: Option<f64>,
    /// Tokens of a caption, 3..=1024; open_clip's `force_context_length`. Default the model's.
    #[serde(alias = "force_context_length")]
    #[schemars(extend("aliases" = ["force_context_length"]))]
    pub context_length: Option<usize>,
    /// With several ranks: each scores only its own rows against all. The same gradient for less
    /// work. Default true, as DataComp (open_clip: false). Changes nothing on one rank.
    pub local_loss: bool,
    /// With several ranks: the gradient flows through the features of all. Default true, as
    /// DataComp (open_clip: false, which gives another gradient). Changes nothing on one rank.
    pub gather_with_grad: bool,
    /// Shards to validate on while training, as `data`: `clip_val_loss` and the ranks of both
    /// directions go into `results.jsonl`. Default none.
    pub val_data: Vec<String>,
    /// Epochs between two validations; 0 never. The last epoch always validates. Default 1.
    pub val_frequency: u32,
    /// The plan of an `eval` stage, measured while training; its numbers go into `results.jsonl`.
    /// In place of open_clip's `imagenet_val`. Default none.
    pub evaluation: Option<Value>,
    /// Epochs between two such evaluations; 0 never. The last epoch always evaluates. Default 2.
    pub zeroshot_frequency: u32,
    /// Steps between two saved states, from which a killed training goes on, at least 1. Default
    /// 200. Changes no output.
    pub save_every: u64,
    /// Epochs between two kept `checkpoints/epoch_K.safetensors` with their states
    /// (`epoch_K.state.safetensors`); 0 keeps only the end. Default 0 (open_clip: 1).
    pub save_frequency: u32,
    /// Writes `checkpoints/epoch_latest.safetensors` into the work folder after every epoch, for
    /// evaluations beside the training. Default false. Changes no output.
    pub save_most_recent: bool,
    /// Removes the kept checkpoint before the one just kept. Default false.
    pub delete_previous_checkpoint: bool,
    /// Steps between two lines of `out.log` and two points of TensorBoard, at least 1. Default 100.
    /// Changes no output.
    pub log_every_n_steps: u64,
    /// Refuses a training that by estimate does not fit into the memory of the machine, and says
    /// what would. Default true. Changes no output.
    pub check_memory: bool,
}

impl Default for TrainPlan {
    fn default() -> Self {
        Self {
            model: None,
            scale: None,
            pretrained: None,
            resume: None,
            data: Vec::new(),
            train_data_upsampling_factors: Vec::new(),
            dataset_resampled: None,
            batch_size: None,
            accum_freq: 1,
            epochs: None,
            steps: None,
            train_num_samples: None,
            workers: 1,
            lr: None,
            beta1: 0.9,
            beta2: None,
            eps: 1e-6,
            wd: 0.2,
            wd_rule: Rule::Legacy,
            warmup: None,
            lr_scheduler: Shape::Cosine,
            epochs_cooldown: None,
            lr_cooldown_end: 0.0,
            lr_cooldown_power: 1.0,
            grad_clip_norm: None,
            grad_checkpointing: false,
            force_patch_dropout: None,
            force_image_size: None,
            force_quick_gelu: false,
            image_mean: None,
            image_std: None,
            image_resize_mode: None,
            image_interpolation: None,
            lock_image: false,
            lock_image_unlocked_groups: 0,
            lock_text: false,
            lock_text_unlocked_layers: 0,
            seed: None,
            precision: Precision::Fp32,
            aug_scale: Some([0.9, 1.0]),
            idle_channels: None,
            context_length: None,
            local_loss: true,
            gather_with_grad: true,
            val_data: Vec::new(),
            val_frequency: 1,
            evaluation: None,
            zeroshot_frequency: 2,
            save_every: 200,
            save_frequency: 0,
            save_most_recent: false,
            delete_previous_checkpoint: false,
            log_every_n_steps: 100,
            check_memory: true,
        }
    }
}

/// Numbers, or open_clip's words for them: `1::2::0.5`.
fn factors<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        One(f64),
        Words(String),
        Many(Vec<Given>),
    }
    fn read<E: de::Error>(given: Given, all: &mut Vec<f64>) -> Result<(), E> {
        match given {
            Given::One(factor) => all.push(factor),
            Given::Words(words) => {
                for word in words.split("::") {
                    all.push(word.trim().parse().map_err(|_| {
                        E::custom(format!(
                            "`{word}` is no factor, expected numbers as in `1::2::0.5`"
                        ))
                    })?);
                }
            }
            Given::Many(many) => many.into_iter().try_for_each(|given| read(given, all))?,
        }
        Ok(())
    }
    let mut all = Vec::new();
    read(Given::deserialize(deserializer)?, &mut all)?;
    Ok(all)
}

/// Fields that change no byte of the output; the runner leaves them out of the stage's key.
pub const WITHOUT_EFFECT: [&str; 4] =
    ["save_every", "save_most_recent", "log_every_n_steps", "check_memory"];

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

impl Precision {
    /// The format of products; None where it is not here.
    #[must_use]
    pub fn products(self) -> Option<Products> {
        match self {
            Self::Fp32 => Some(Products::F32),
            Self::Amp | Self::AmpBf16 | Self::AmpBfloat16 | Self::Bf16 => Some(Products::Bf16),
            Self::Fp16 | Self::PureBf16 | Self::PureFp16 => None,
        }
    }

    /// open_clip's word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Amp => "amp",
            Self::AmpBf16 => "amp_bf16",
            Self::AmpBfloat16 => "amp_bfloat16",
            Self::Bf16 => "bf16",
            Self::Fp16 => "fp16",
            Self::PureBf16 => "pure_bf16",
            Self::PureFp16 => "pure_fp16",
        }
    }

    /// Whether it is the default, which identities of older states leave out.
    #[must_use]
    pub fn is_full(&self) -> bool {
        *self == Self::Fp32
    }
}
