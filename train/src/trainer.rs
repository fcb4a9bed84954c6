//! One optimiser step: forward, backward, accumulation, ranks, clip, AdamW, clamp.

use std::collections::BTreeMap;

use candle_core::{Result as TensorResult, Tensor, Var};
use kernels::Products;
use models::{Clip, Mode};
use stage::{Error, Result, ResultExt};

use crate::adamw::{AdamW, Constants};
use crate::gradients::{Gradients, clip_factor};
use crate::joint::{Division, joint};
use crate::lock::Locks;
use crate::loss::clip_loss;
use crate::memory;
use crate::ranks::{Alone, Ranks};
use crate::schedule::Schedule;

/// Pictures and captions of one forward pass.
#[derive(Debug, Clone)]
pub struct Batch {
    /// (B, 3, S, S) f32, normalised.
    pub pixels: Tensor,
    /// (B, context) u32.
    pub tokens: Tensor,
    /// Who they are, for messages.
    pub uids: Vec<String>,
}

/// What one step did.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The loss over the whole step, before the update.
    pub loss: f32,
    /// Norm of all gradients before clipping.
    pub grad_norm: f64,
    /// Learning rate used.
    pub lr: f64,
    /// The scale parameter after update and clamp, before exp.
    pub logit_scale: f32,
    /// Why nothing was updated: `non_finite_loss` or `non_finite_gradient`.
    pub skipped: Option<&'static str>,
}

/// What of a trainer is chosen.
#[derive(Debug, Clone, Copy)]
pub struct Choices {
    /// AdamW's constants.
    pub constants: Constants,
    /// Learning rate over the steps.
    pub schedule: Schedule,
    /// Largest norm of all gradients together.
    pub grad_clip_norm: Option<f64>,
    /// Towers that are not trained.
    pub locks: Locks,
    /// Seed of patch dropout and drop path; None leaves nothing out.
    pub noise: Option<u64>,
    /// Whether blocks keep only their inputs and are computed again in the backward pass.
    pub recompute: bool,
    /// Format of the products of the blocks' linear layers.
    pub products: Products,
    /// How ranks divide the loss.
    pub division: Division,
}

impl Choices {
    /// Everything is trained, nothing is clipped.
    #[must_use]
    pub fn plain(constants: Constants, schedule: Schedule) -> Self {
        let (locks, division) = (Locks::default(), Division::default());
        let (noise, recompute, products) = (None, false, Products::F32);
        let grad_clip_norm = None;
        Self { constants, schedule, grad_clip_norm, locks, noise, recompute, products, division }
    }
}

/// Which forward pass of a training: its noise depends on this and the seed alone.
#[derive(Debug, Clone, Copy)]
struct Place {
    step: u64,
    rank: usize,
    part: usize,
}

impl Place {
    /// `SplitMix64`'s output at each number in turn.
    fn seed(self, seed: u64) -> u64 {
        [self.step, self.rank as u64, self.part as u64].iter().fold(seed, |seed, number| {
            let z = (seed ^ number).wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        })
    }
}

/// A model with its optimiser.
pub struct Trainer {
    /// The model.
    pub clip: Clip,
    /// AdamW's state.
    pub optimizer: AdamW,
    /// The parameters that are trained.
    trained: BTreeMap<String, Var>,
    /// Of the step in work; the buffers live as long as the trainer.
    gradients: Gradients,
    choices: Choices,
}

/// `exp(logit_scale)` stays in 1..=100 (arXiv 2103.00020 §2.5; open_clip clamps after each step).
const LOGIT_SCALE: (f32, f32) = (0.0, 4.605_170_2); // ln 100

/// The name of the temperature.
const SCALE: &str = "logit_scale";

impl Trainer {
    /// Starts with zero moments; `decays(name, dims)` is usually [`crate::decay::Rule::decays`].
    ///
    /// # Errors
    /// A device without memory for the moments.
    pub fn new(clip: Clip, choices: Choices, decays: impl Fn(&str, usize) -> bool) -> Result<Self> {
        let vars = clip.params().vars();
        let names = choices.locks.trained(clip.config(), vars.keys());
        let trained: BTreeMap<String, Var> = vars
            .iter()
            .filter(|(name, _)| names.contains(*name))
            .map(|(name, var)| (name.clone(), var.clone()))
            .collect();
        let optimizer = AdamW::new(&trained, choices.constants, decays);
        let optimizer = optimizer.model("cannot place the optimiser's moments")?;
        let gradients = Gradients::new(&trained);
        Ok(Self { clip, optimizer, trained, gradients, choices })
    }

    /// The parameters that are trained, by name.
    #[must_use]
    pub fn trained(&self) -> &BTreeMap<String, Var> {
        &self.trained
    }

    /// Step number `step` (from 0) on these micro-batches, which share one loss.
    ///
    /// A step whose loss or gradient is not finite changes nothing and says so.
    ///
    /// # Errors
    /// The model's.
    pub fn step(&mut self, step: u64, micro: &[Batch]) -> Result<Step> {
        self.step_among(step, micro.len(), &|i| Ok(micro[i].clone()), &mut Alone)
    }

    /// The same on all ranks at once. `micro(i)` makes the i-th of `count` micro-batches, twice where
    /// there are several.
    ///
    /// # Errors
    /// The model's, or another rank's.
    pub fn step_among(
        &mut self,
        step: u64,
        count: usize,
        micro: &dyn Fn(usize) -> Result<Batch>,
        ranks: &mut dyn Ranks,
    ) -> Result<Step> {
        let at = |e: Error| memory::of_gpu(e).at(format!("step {step}"));
        let lr = self.choices.schedule.at(step);
        let before = self.buffers().model("statistics").map_err(at)?;
        self.gradients.clear();
        let loss = if count == 1 && ranks.size() == 1 {
            self.whole(&micro(0)?, Place { step, rank: 0, part: 0 }).map_err(at)?
        } else {
            self.by_features(step, count, micro, &before, ranks).map_err(at)?
        };
        let grad_norm = if loss.is_finite() {
            self.gradients.norm().model("the norm of the gradients failed").map_err(at)?
        } else {
            f64::NAN
        };
        let skipped = if !loss.is_finite() {
            Some("non_finite_loss")
        } else if !grad_norm.is_finite() {
            Some("non_finite_gradient")
        } else {
            None
        };
        let mut act = || -> TensorResult<f32> {
            if skipped.is_none() {
                let factor = clip_factor(grad_norm, self.choices.grad_clip_norm);
                self.optimizer.step(&self.trained, &self.gradients, lr, factor)?;
                clamp(&self.clip)?;
            } else {
                // The statistics have seen the numbers that broke the loss.
                set_buffers(&self.clip, &before)?;
            }
            self.clip.logit_scale().to_scalar()
        };
        let logit_scale = act().model("the update failed").map_err(at)?;
        Ok(Step { loss, grad_norm, lr, logit_scale, skipped })
    }

    /// One forward pass, one rank, one loss; no gradients where it is not finite.
    fn whole(&mut self, batch: &Batch, place: Place) -> Result<f32> {
        let (image, text) = self.features(batch, place)?;
        let mut backward = || -> TensorResult<f32> {
            let loss = clip_loss(&image, &text, self.clip.logit_scale())?;
            let value: f32 = loss.to_scalar()?;
            if value.is_finite() {
                self.gradients.add(&loss)?;
            }
            Ok(value)
        };
        backward().model("the backward pass failed")
    }

    /// Features of every micro-batch and rank first, then the loss, then each micro-batch backward
    /// from its features' gradient. Of several micro-batches nothing but the features is kept, and
    /// the second pass works them out again.
    ///
    /// As with open_clip's accumulation, the gradient of the temperature counts once for every
    /// micro-batch.
    fn by_features(
        &mut self,
        step: u64,
        count: usize,
        micro: &dyn Fn(usize) -> Result<Batch>,
        before: &[Tensor],
        ranks: &mut dyn Ranks,
    ) -> Result<f32> {
        let inside = "the backward pass failed";
        let rank = ranks.rank();
        let place = |part: usize| Place { step, rank, part };
        let mut live = None;
        let (mut images, mut texts) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for i in 0..count {
            let (image, text) = self.features(&micro(i)?, place(i))?;
            images.push(image.detach());
            texts.push(text.detach());
            live = (count == 1).then_some((image, text));
        }
        let cat = |parts: &[Tensor]| Tensor::cat(parts, 0).model(inside);
        let (image, text) = (cat(&images)?, cat(&texts)?);
        let scale: f32 = self.clip.logit_scale().to_scalar().model(inside)?;
        let joint = joint(&image, &text, scale, self.choices.division, ranks)?;
        if !joint.loss.is_finite() {
            return Ok(joint.loss);
        }
        if count > 1 {
            // Running statistics move once for every sample, in the pass that trains.
            set_buffers(&self.clip, before).model(inside)?;
        }
        let mut first = 0;
        for i in 0..count {
            let (image, text) = match live.take() {
                Some(live) => live,
                // The same noise as in the first pass.
                None => self.features(&micro(i)?, place(i))?,
            };
            let mut backward = || -> TensorResult<()> {
                let rows = image.dim(0)?;
                let part = |all: &Tensor| all.narrow(0, first, rows)?.contiguous();
                // Its gradient with respect to the features is the loss's.
                let product = ((&image * part(&joint.image)?)?.sum_all()?
                    + (&text * part(&joint.text)?)?.sum_all()?)?;
                first += rows;
                self.gradients.add(&product)
            };
            backward().model(inside)?;
        }
        if ranks.size() > 1 {
            self.gradients.sum_over(SCALE, ranks)?;
            self.average_buffers(ranks)?;
        }
        if self.trained.contains_key(SCALE) {
            self.gradients.set(SCALE, joint.logit_scale * count as f32).model(inside)?;
        }
        Ok(joint.loss)
    }

    /// Normalised features of both towers, (B, E) each. A tower that is not trained at all records
    /// nothing.
    fn features(&self, batch: &Batch, place: Place) -> Result<(Tensor, Tensor)> {
        let noise = self.choices.noise.map(|seed| place.seed(seed));
        let Choices { recompute, products, .. } = self.choices;
        let step = models::Step { noise, recompute, products };
        let image = match self.choices.locks.whole_image() {
            true => self.clip.encode_image(&batch.pixels, Mode::Eval)?,
            false => self.clip.encode_image_step(&batch.pixels, step)?,
        };
        let text = match self.choices.locks.whole_text() {
            true => self.clip.encode_text(&batch.tokens, Mode::Eval)?,
            false => self.clip.encode_text_step(&batch.tokens, step)?,
        };
        Ok((models::normalize(&image)?, models::normalize(&text)?))
    }

    /// Copies of the running statistics: a few kilobytes.
    fn buffers(&self) -> TensorResult<Vec<Tensor>> {
        self.clip.params().buffers().values().map(|buffer| buffer.as_tensor().copy()).collect()
    }

    /// The mean of all ranks' running statistics.
    fn average_buffers(&self, ranks: &mut dyn Ranks) -> Result<()> {
        let share = 1.0 / ranks.size() as f64;
        for (name, buffer) in self.clip.params().buffers() {
            let mut values = crate::joint::floats(buffer.as_tensor()).model(name)?;
            ranks.sum(&mut values)?;
            let mean = Tensor::from_vec(values, buffer.dims(), buffer.device());
            mean.and_then(|sum| buffer.set(&(sum * share)?)).model(name)?;
        }
        Ok(())
    }

    /// Makes weights, statistics and moments those of rank 0.
    ///
    /// # Errors
    /// Another rank's.
    pub fn take_from_first(&mut self, ranks: &mut dyn Ranks) -> Result<()> {
        if ranks.size() == 1 {
            return Ok(());
        }
        let params = self.clip.params();
        for (name, var) in params.vars().iter().chain(params.buffers()) {
            let mut values = crate::joint::floats(var.as_tensor()).model(name)?;
            ranks.broadcast(&mut values)?;
            let tensor = Tensor::from_vec(values, var.dims(), var.device());
            tensor.and_then(|tensor| var.set(&tensor)).model(name)?;
        }
        self.optimizer.take_from_first(ranks)
    }
}

fn clamp(clip: &Clip) -> TensorResult<()> {
    let Some(var) = clip.params().vars().get(SCALE) else { return Ok(()) };
    let value: f32 = var.to_scalar()?;
    if !(LOGIT_SCALE.0..=LOGIT_SCALE.1).contains(&value) {
        let clamped = value.clamp(LOGIT_SCALE.0, LOGIT_SCALE.1);
        var.set(&Tensor::new(clamped, var.device())?)?;
    }
    Ok(())
}

fn set_buffers(clip: &Clip, values: &[Tensor]) -> TensorResult<()> {
    for (buffer, value) in clip.params().buffers().values().zip(values) {
        buffer.set(value)?;
    }
    Ok(())
}
