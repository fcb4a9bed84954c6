//! CLIP: an image tower, a text tower and a temperature.
//!
//! Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
//! arXiv 2103.00020, in open_clip's form (`model.py`, `transformer.py`).

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use stage::{Change, Error, Result, ResultExt};

use crate::block::Source;
use crate::config::ClipConfig;
use crate::linear::Layout;
use crate::params::Params;
use crate::parts::{ROWS, in_parts};
use crate::repavit::fold_block;
use crate::shapes::{self, Ffn, Shape};
use crate::text::{Text, TokenRows};
use crate::vision::{Run, Step, Vision};
use crate::{init, positions, weights};

/// Whether a forward pass trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Gradients are recorded; BatchNorm takes the batch's statistics and updates the running ones.
    Train,
    /// No gradient is recorded (memory stays small); BatchNorm takes the running statistics.
    Eval,
}

/// A CLIP model with its tensors.
#[derive(Debug, Clone)]
pub struct Clip {
    config: ClipConfig,
    changes: Vec<Change>,
    params: Params,
    /// The towers over the trainable tensors, and over the same values without history.
    train: (Vision, Text),
    eval: (Vision, Text),
    /// Whether `eval` takes a batch in parts: where weights are laid out for products whose rows do
    /// not depend on each other.
    parted: bool,
    logit_scale: Tensor,
}

impl Clip {
    /// open_clip's initialisation from a seed; `changes` picks the form of the image tower's FFN.
    ///
    /// # Errors
    /// Changes that do not go together.
    pub fn init(
        config: &ClipConfig,
        changes: &[Change],
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let shapes = shapes::of(config, shapes::ffn(config, changes)?);
        let tensors = shapes
            .iter()
            .map(|shape| Ok((shape.name.clone(), init::tensor(shape, seed, device)?)))
            .collect::<Result<_>>()?;
        Self::from_tensors(config, changes, tensors, device)
    }

    /// From tensors by open_clip's names, converted to f32 unless they are f64.
    ///
    /// # Errors
    /// Names all missing and extra tensors and all of another shape, with both shapes.
    pub fn from_tensors(
        config: &ClipConfig,
        changes: &[Change],
        mut tensors: BTreeMap<String, Tensor>,
        device: &Device,
    ) -> Result<Self> {
        let ffn = shapes::ffn(config, changes)?;
        let shapes = shapes::of(config, ffn);
        check_tensors(&shapes, &tensors)?;
        let mut params = Params::default();
        for shape in &shapes {
            let Some(tensor) = tensors.remove(&shape.name) else { continue };
            let var = own(&tensor, device)
                .model("cannot place a tensor")
                .map_err(|e| e.at(&shape.name))?;
            let named = if shape.role.trained() { &mut params.vars } else { &mut params.buffers };
            named.insert(shape.name.clone(), var);
        }
        Self::build(config.clone(), changes.to_vec(), params, ffn).model("cannot build the model")
    }

    fn build(
        config: ClipConfig,
        changes: Vec<Change>,
        params: Params,
        ffn: Option<Ffn>,
    ) -> candle_core::Result<Self> {
        let trainable: BTreeMap<_, _> =
            params.vars.iter().map(|(n, v)| (n.clone(), v.as_tensor().clone())).collect();
        let train = towers(&config, &params, &trainable, ffn, Layout::Plain)?;
        let eval = towers(&config, &params, &params.constant(), ffn, Layout::Plain)?;
        let logit_scale = trainable["logit_scale"].clone();
        Ok(Self { config, changes, params, train, eval, parted: false, logit_scale })
    }

    /// The same model with bf16 weights in the linear layers of its blocks, and convolutions of a
    /// ViTamin in bf16, wherever it is used without gradient. Sums, attention, norms and all else
    /// stay f32; so features differ from those of f32 weights in the third digit. Later changes of
    /// the parameters are half seen without gradient: those of biases, norms, embeddings and
    /// projections, which share the parameters' memory, and not those of the rounded weights. Round
    /// again after a change.
    ///
    /// # Errors
    /// Weights that are not f32.
    pub fn with_half_weights(self) -> Result<Self> {
        self.laid_out(Layout::Half).model("cannot round the weights to bf16")
    }

    /// The same model with a copy of the weights of its blocks' linear layers, laid out for the
    /// products wherever it is used without gradient: the same bits, faster, for as many bytes
    /// again. Later changes of the parameters are half seen without gradient: those of biases, norms,
    /// embeddings and projections, which share the parameters' memory, and not those of the copied
    /// weights. Lay out again after a change.
    ///
    /// # Errors
    /// Weights that are not f32.
    pub fn with_packed_weights(self) -> Result<Self> {
        self.laid_out(Layout::Packed).model("cannot lay out the weights")
    }

    fn laid_out(self, layout: Layout) -> candle_core::Result<Self> {
        let ffn = shapes::ffn(&self.config, &self.changes).map_err(candle_core::Error::wrap)?;
        let eval = towers(&self.config, &self.params, &self.params.constant(), ffn, layout)?;
        let parted = self.device().is_cpu() && kernels::rows_stand_alone();
        Ok(Self { eval, parted, ..self })
    }

    /// Its configuration.
    #[must_use]
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// What was changed in the plain architecture.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Its tensors.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The device of its tensors.
    #[must_use]
    pub fn device(&self) -> &Device {
        self.logit_scale.device()
    }

    /// Features of pictures, not normalised.
    ///
    /// # Shapes
    /// `pixels` (B, 3, S, S), normalised as the checkpoint's preprocessing says → (B, E)
    ///
    /// # Errors
    /// Another shape.
    pub fn encode_image(&self, pixels: &Tensor, mode: Mode) -> Result<Tensor> {
        self.check_pixels(pixels)?;
        let run = self.run(mode, Step::default());
        let forward = |pixels: &Tensor| match run.train {
            true => self.train.0.forward(pixels, run),
            false => self.eval.0.forward(pixels, run),
        };
        let features = match self.parted && !run.train {
            true => in_parts(pixels, ROWS / self.config.vision.tokens().clamp(1, ROWS), forward),
            false => forward(pixels),
        };
        features.model("the image tower failed")
    }

    /// [`Clip::encode_image`] in training mode, with what a training step adds: patch dropout and
    /// drop path from a seed, gradient checkpointing.
    ///
    /// # Shapes
    /// `pixels` (B, 3, S, S) → (B, E)
    ///
    /// # Errors
    /// As [`Clip::encode_image`].
    pub fn encode_image_step(&self, pixels: &Tensor, step: Step) -> Result<Tensor> {
        self.check_pixels(pixels)?;
        self.train.0.forward(pixels, self.run(Mode::Train, step)).model("the image tower failed")
    }

    fn run(&self, mode: Mode, step: Step) -> Run {
        Run { train: mode == Mode::Train, quick: self.config.quick_gelu, step }
    }

    /// Features of captions, not normalised: the state at the first place of the largest id.
    ///
    /// # Shapes
    /// `tokens` (B, N) u32, N ≤ context → (B, E)
    ///
    /// # Errors
    /// Another shape, or an id outside the vocabulary.
    pub fn encode_text(&self, tokens: &Tensor, mode: Mode) -> Result<Tensor> {
        self.check_tokens(tokens)?;
        /// Captions in a part: they have a dozen tokens each, and a few have all.
        const CAPTIONS: usize = 16;
        let run = self.run(mode, Step::default());
        let forward = |tokens: &Tensor| match run.train {
            true => self.train.1.forward(tokens, run),
            false => self.eval.1.forward(tokens, run),
        };
        let features = match self.parted && !run.train {
            true => in_parts(tokens, CAPTIONS, forward),
            false => forward(tokens),
        };
        features.model("the text tower failed")
    }

    /// [`Clip::encode_text`] in training mode, with the used rows of the token table as a variable
    /// of their own: after `loss.backward()` the gradient of `token_embedding.weight` is that of
    /// [`TokenRows::values`] in those rows and zero elsewhere, and the store holds none under the
    /// table itself.
    ///
    /// # Shapes
    /// `tokens` (B, N) u32, N ≤ context → (B, E)
    ///
    /// # Errors
    /// Another shape, or an id outside the vocabulary.
    pub fn encode_text_rows(&self, tokens: &Tensor) -> Result<(Tensor, TokenRows)> {
        self.encode_text_rows_step(tokens, Step::default())
    }

    /// [`Clip::encode_text`] in training mode, with gradient checkpointing if the step says so.
    ///
    /// # Errors
    /// As [`Clip::encode_text`].
    pub fn encode_text_step(&self, tokens: &Tensor, step: Step) -> Result<Tensor> {
        self.check_tokens(tokens)?;
        self.train.1.forward(tokens, self.run(Mode::Train, step)).model("the text tower failed")
    }

    /// [`Clip::encode_text_rows`] with gradient checkpointing if the step says so.
    ///
    /// # Errors
    /// As [`Clip::encode_text_rows`].
    pub fn encode_text_rows_step(
        &self,
        tokens: &Tensor,
        step: Step,
    ) -> Result<(Tensor, TokenRows)> {
        self.check_tokens(tokens)?;
        let run = self.run(Mode::Train, step);
        self.train.1.forward_rows(tokens, run).model("the text tower failed")
    }

    /// What lies between the layers of the image tower, without gradient. A plain ViT: `ln_pre`,
    /// `resblocks.{i}` and `ln_post`, each (B, G + 1, C). A ViTamin: `stem.norm1_gelu`, `stem`,
    /// `stages.{s}.{i}` (with `.shortcut` where it has a convolution), `pool.norm` and `pool`, each
    /// (B, H, W, C), `tokens_before_pos` and `blocks.{i}` (B, N, C), `fc_norm` (B, C).
    ///
    /// # Errors
    /// As [`Clip::encode_image`].
    pub fn image_states(&self, pixels: &Tensor) -> Result<BTreeMap<String, Tensor>> {
        self.check_pixels(pixels)?;
        let mut states = BTreeMap::new();
        let mut seen = |name: String, x: &Tensor| drop(states.insert(name, x.clone()));
        self.eval
            .0
            .states(pixels, self.config.quick_gelu, &mut seen)
            .model("the image tower failed")?;
        Ok(states)
    }

    /// The tokens of captions inside the tower, without gradient and at all positions:
    /// `resblocks.{i}` and `ln_final`, each (B, N, C).
    ///
    /// # Errors
    /// As [`Clip::encode_text`].
    pub fn text_states(&self, tokens: &Tensor) -> Result<BTreeMap<String, Tensor>> {
        self.check_tokens(tokens)?;
        let mut states = BTreeMap::new();
        let mut seen = |name: String, x: &Tensor| drop(states.insert(name, x.clone()));
        self.eval
            .1
            .states(tokens, self.config.quick_gelu, &mut seen)
            .model("the text tower failed")?;
        Ok(states)
    }

    /// The scalar parameter, before exp.
    #[must_use]
    pub fn logit_scale(&self) -> &Tensor {
        &self.logit_scale
    }

    /// The inference form of a model with idle channels; the same features to rounding.
    ///
    /// # Errors
    /// A model without idle channels.
    pub fn folded(&self) -> Result<Self> {
        let [Change::IdleChannels { ratio }] = self.changes.as_slice() else {
            return Err(Error::model(format!(
                "a model with changes {:?} has no idle channels to fold",
                self.changes
            ))
            .hint("train with `idle_channels`, whose BatchNorm makes the fold possible"));
        };
        let changes = [Change::Folded { ratio: *ratio }];
        let mut tensors: BTreeMap<String, Tensor> = self.params.tensors();
        for (i, block) in self.eval.0.vit().map_or(&[][..], |vit| &vit.blocks).iter().enumerate() {
            let at = format!("visual.transformer.resblocks.{i}.mlp.");
            let Some(ffn) = block.idle_ffn() else { continue };
            let folded = fold_block(&ffn).map_err(|e| e.at(format!("block {i}")))?;
            tensors.retain(|name, _| !name.starts_with(&at));
            tensors.insert(format!("{at}c_idle.weight"), folded.idle_weight);
            tensors.insert(format!("{at}c_idle.bias"), folded.idle_bias);
            if let Some((u, shift, v)) = folded.active {
                tensors.insert(format!("{at}c_fc.weight"), u);
                tensors.insert(format!("{at}c_fc.bias"), shift);
                tensors.insert(format!("{at}c_proj.weight"), v);
            }
        }
        Self::from_tensors(&self.config, &changes, tensors, self.device())
    }

    /// The same model for pictures of another side or captions of another length: its tables of
    /// positions are resampled as open_clip does, all else stays.
    ///
    /// # Errors
    /// A configuration that differs in more, or a form with other tensors.
    pub fn fitted(&self, config: &ClipConfig) -> Result<Self> {
        let mut tensors = self.params.tensors();
        positions::fit(&mut tensors, config).model("cannot resample the positions")?;
        // Fixed positions are those of the new grid, not the old ones read between their places.
        for shape in shapes::of(config, shapes::ffn(config, &self.changes)?) {
            if matches!(shape.role, shapes::Role::Grid(_)) {
                tensors.insert(shape.name.clone(), init::tensor(&shape, 0, self.device())?);
            }
        }
        Self::from_tensors(config, &self.changes, tensors, self.device())
    }

    /// Writes all tensors as safetensors, whole or not at all; equal models give equal bytes.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let bytes = weights::to_bytes(&self.params.tensors())?;
        crate::checkpoint::write_file(path, &bytes)
    }

    fn check_pixels(&self, pixels: &Tensor) -> Result<()> {
        let side = self.config.vision.image_size();
        match pixels.dims() {
            [_, 3, h, w] if *h == side && *w == side => Ok(()),
            other => Err(Error::model(format!(
                "pixels have shape {other:?}, the model takes [B, 3, {side}, {side}]"
            ))),
        }
    }

    fn check_tokens(&self, tokens: &Tensor) -> Result<()> {
        let context = self.config.text.context_length;
        match tokens.dims() {
            [_, n] if (1..=context).contains(n) && tokens.dtype() == DType::U32 => Ok(()),
            other => Err(Error::model(format!(
                "tokens are {:?} of shape {other:?}, the model takes U32 of [B, 1..={context}]",
                tokens.dtype()
            ))),
        }
    }
}

/// Both towers over these tensors.
fn towers(
    config: &ClipConfig,
    params: &Params,
    tensors: &BTreeMap<String, Tensor>,
    ffn: Option<Ffn>,
    layout: Layout,
) -> candle_core::Result<(Vision, Text)> {
    let source = Source { tensors, buffers: &params.buffers, layout };
    let text = Text::new(&source, &config.text, shapes::text_prefix(config))?;
    Ok((Vision::new(&source, &config.vision, ffn)?, text))
}

/// Rows of unit length (`x / max(|x|, 1e-12)`), with gradient.
///
/// # Shapes
/// (.., C) → (.., C)
///
/// # Errors
/// A scalar.
pub fn normalize(x: &Tensor) -> Result<Tensor> {
    kernels::l2_normalize(x).model("cannot normalise features")
}

/// A variable of its own with these values.
pub(crate) fn own(tensor: &Tensor, device: &Device) -> candle_core::Result<Var> {
    let dtype = if tensor.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let tensor = tensor.detach().to_dtype(dtype)?.to_device(device)?.contiguous()?;
    Var::from_tensor(&tensor.copy()?)
}

/// Names listed in one message at most.
const LISTED: usize = 6;

pub(crate) fn check_tensors(shapes: &[Shape], tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    let mut problems = Vec::new();
    let known: BTreeMap<&str, &Shape> = shapes.iter().map(|s| (s.name.as_str(), s)).collect();
    let missing: Vec<&str> =
        known.keys().filter(|name| !tensors.contains_key(**name)).copied().collect();
    let extra: Vec<&str> =
        tensors.keys().map(String::as_str).filter(|name| !known.contains_key(name)).collect();
    let misshapen: Vec<String> = known
        .values()
        .filter_map(|shape| {
            let got = tensors.get(&shape.name)?.dims();
            let wrong = got != shape.dims.as_slice();
            wrong.then(|| format!("`{}` has shape {got:?}, expected {:?}", shape.name, shape.dims))
        })
        .collect();
    if !missing.is_empty() {
        problems.push(format!("missing {}", listed(&missing)));
    }
    if !extra.is_empty() {
        problems.push(format!("unknown {}", listed(&extra)));
    }
    if !misshapen.is_empty() {
        let more = misshapen.len().saturating_sub(LISTED);
        let mut text = misshapen[..misshapen.len() - more].join(", ");
        if more > 0 {
            text += &format!(" and {more} more");
        }
        problems.push(text);
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(Error::model(format!("the tensors do not fit the model: {}", problems.join("; ")))
        .hint("check that the configuration and the `changes` belong to these weights"))
}

fn listed(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(LISTED).map(|name| format!("`{name}`")).collect();
    let more = names.len().saturating_sub(LISTED);
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}
