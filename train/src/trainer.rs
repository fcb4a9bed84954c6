//! One optimiser step: forward, backward, accumulation, clip, AdamW, clamp.

use candle_core::{Result as TensorResult, Tensor};
use models::{Clip, Mode};
use stage::{Error, Result, ResultExt};

use crate::adamw::{self, AdamW, Constants};
use crate::gradients::{Gradients, clip_factor};
use crate::loss::clip_loss;
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

/// A model with its optimiser.
pub struct Trainer {
    /// The model.
    pub clip: Clip,
    /// AdamW's state.
    pub optimizer: AdamW,
    schedule: Schedule,
    grad_clip_norm: Option<f64>,
}

/// `exp(logit_scale)` stays in 1..=100 (arXiv 2103.00020 §2.5; open_clip clamps after each step).
const LOGIT_SCALE: (f32, f32) = (0.0, 4.605_170_2); // ln 100

impl Trainer {
    /// Starts with zero moments; `decays` is usually [`adamw::decays`].
    pub fn new(
        clip: Clip,
        constants: Constants,
        decays: impl Fn(&str, usize) -> bool,
        schedule: Schedule,
        grad_clip_norm: Option<f64>,
    ) -> Self {
        let optimizer = AdamW::new(clip.params().vars(), constants, decays);
        Self { clip, optimizer, schedule, grad_clip_norm }
    }

    /// open_clip's optimiser for this model.
    #[must_use]
    pub fn open_clip(
        clip: Clip,
        constants: Constants,
        schedule: Schedule,
        grad_clip_norm: Option<f64>,
    ) -> Self {
        Self::new(clip, constants, adamw::decays, schedule, grad_clip_norm)
    }

    /// Step number `step` (from 0) on these micro-batches, which share one loss.
    ///
    /// A step whose loss or gradient is not finite changes nothing and says so.
    pub fn step(&mut self, step: u64, micro: &[Batch]) -> Result<Step> {
        self.try_step(step, micro).model(format!("step {step}"))
    }

    fn try_step(&mut self, step: u64, micro: &[Batch]) -> TensorResult<Step> {
        let lr = self.schedule.at(step);
        let before = self.buffers()?;
        let (loss, gradients) = match micro {
            [batch] => self.whole(batch)?,
            _ => self.accumulated(micro, &before)?,
        };
        let grad_norm = gradients.norm()?;
        let skipped = if !loss.is_finite() {
            Some("non_finite_loss")
        } else if !grad_norm.is_finite() {
            Some("non_finite_gradient")
        } else {
            None
        };
        if skipped.is_some() {
            // The statistics have seen the numbers that broke the loss.
            self.set_buffers(&before)?;
        } else {
            let factor = clip_factor(grad_norm, self.grad_clip_norm);
            self.optimizer.step(self.clip.params().vars(), &gradients, lr, factor)?;
            self.clamp_logit_scale()?;
        }
        let logit_scale = self.clip.logit_scale().to_scalar()?;
        Ok(Step { loss, grad_norm, lr, logit_scale, skipped })
    }

    /// One forward pass, one loss.
    fn whole(&self, batch: &Batch) -> TensorResult<(f32, Gradients)> {
        let (image, text) = self.features(batch)?;
        let loss = clip_loss(&image, &text, self.clip.logit_scale())?;
        let mut gradients = Gradients::default();
        gradients.add(self.clip.params().vars(), &mut loss.backward()?)?;
        Ok((loss.to_scalar()?, gradients))
    }

    /// open_clip's accumulation: features of every micro-batch without gradient, then each
    /// micro-batch again with gradient, spliced among the others' features under the joint loss.
    ///
    /// As there, the gradient of `logit_scale` counts once for every micro-batch.
    fn accumulated(&self, micro: &[Batch], before: &[Tensor]) -> TensorResult<(f32, Gradients)> {
        let mut images = Vec::with_capacity(micro.len());
        let mut texts = Vec::with_capacity(micro.len());
        for batch in micro {
            let (image, text) = self.features(batch)?;
            images.push(image.detach());
            texts.push(text.detach());
        }
        // Running statistics move once for every sample, in the pass that trains.
        self.set_buffers(before)?;
        let mut gradients = Gradients::default();
        let mut first = None;
        for (i, batch) in micro.iter().enumerate() {
            let (image, text) = self.features(batch)?;
            let splice = |cached: &[Tensor], live: &Tensor| {
                let mut rows: Vec<&Tensor> = cached.iter().collect();
                rows[i] = live;
                Tensor::cat(&rows, 0)
            };
            let (image, text) = (splice(&images, &image)?, splice(&texts, &text)?);
            let loss = clip_loss(&image, &text, self.clip.logit_scale())?;
            gradients.add(self.clip.params().vars(), &mut loss.backward()?)?;
            first.get_or_insert(loss.to_scalar()?);
        }
        Ok((first.unwrap_or(f32::NAN), gradients))
    }

    /// Normalised features of both towers, (B, E) each.
    fn features(&self, batch: &Batch) -> TensorResult<(Tensor, Tensor)> {
        let inside = |e: Error| candle_core::Error::Msg(e.to_string());
        let image = self.clip.encode_image(&batch.pixels, Mode::Train).map_err(inside)?;
        let text = self.clip.encode_text(&batch.tokens, Mode::Train).map_err(inside)?;
        Ok((models::normalize(&image).map_err(inside)?, models::normalize(&text).map_err(inside)?))
    }

    fn clamp_logit_scale(&self) -> TensorResult<()> {
        let Some(var) = self.clip.params().vars().get("logit_scale") else { return Ok(()) };
        let value: f32 = var.to_scalar()?;
        if !(LOGIT_SCALE.0..=LOGIT_SCALE.1).contains(&value) {
            let clamped = value.clamp(LOGIT_SCALE.0, LOGIT_SCALE.1);
            var.set(&Tensor::new(clamped, var.device())?)?;
        }
        Ok(())
    }

    /// Copies of the running statistics: a few kilobytes.
    fn buffers(&self) -> TensorResult<Vec<Tensor>> {
        self.clip.params().buffers().values().map(|buffer| buffer.as_tensor().copy()).collect()
    }

    fn set_buffers(&self, values: &[Tensor]) -> TensorResult<()> {
        for (buffer, value) in self.clip.params().buffers().values().zip(values) {
            buffer.set(value)?;
        }
        Ok(())
    }
}
