//! Pictures and captions to CLIP features.
//!
//! Pictures are decoded as open_clip's training and evaluation see a shard, on the stage's
//! threads, while the model works on the batch before.
//! A pair's features do not depend on its neighbours: see [`ClipEncoder::encode`].

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};
use models::{Clip, Mode, Tokenizer};
use pixels::Limits;
use stage::{Cancel, Checkpoint, Error, Pairs, Preprocess, Result, ResultExt};

use crate::judge::JudgeContext;

/// Rows of one forward pass on the CPU.
pub const CPU_PASS: usize = 32;

/// A CLIP model with its tokenizer and preprocessing, ready to encode pairs.
pub struct ClipEncoder {
    clip: Clip,
    tokenizer: Tokenizer,
    preprocess: Preprocess,
    limits: Limits,
    /// Rows of one forward pass.
    batch_size: usize,
    threads: usize,
    device: Device,
    cancel: Cancel,
}

/// The features of one pair, not normalised, of [`ClipEncoder::dim`] numbers each.
#[derive(Debug, Clone, Copy)]
pub struct Features<'a> {
    /// Of the picture.
    pub image: &'a [f32],
    /// Of the caption.
    pub text: &'a [f32],
}

impl ClipEncoder {
    /// Opens a checkpoint by the name that a recipe gives it.
    ///
    /// # Errors
    /// When it is not found or not usable: unknown change, preprocessing or tokenizer.
    pub fn open(cx: &JudgeContext<'_>, checkpoint: &str, batch_size: u32) -> Result<Self> {
        let (handle, base) = cx.checkpoint(checkpoint)?;
        Self::from_checkpoint(cx, &handle, &base, batch_size)
            .map_err(|e| e.at(format!("checkpoint `{checkpoint}`")))
    }

    fn from_checkpoint(
        cx: &JudgeContext<'_>,
        checkpoint: &Checkpoint,
        base: &Path,
        batch_size: u32,
    ) -> Result<Self> {
        validate_batch_size(batch_size)?;
        let preprocess = &checkpoint.preprocess;
        if preprocess.interpolation != "bicubic" {
            let message = format!("no interpolation `{}`, only bicubic", preprocess.interpolation);
            return Err(Error::model(message));
        }
        if !["shortest", "longest", "squash"].contains(&preprocess.resize_mode.as_str()) {
            let message = "no resize_mode `{}`, only shortest, longest and squash";
            return Err(Error::model(message.replace("{}", &preprocess.resize_mode)));
        }
        if checkpoint.tokenizer != "clip" {
            let message = format!("no tokenizer `{}`, only clip", checkpoint.tokenizer);
            return Err(Error::model(message));
        }
        Ok(Self {
            clip: models::open(checkpoint, base, &cx.device)?,
            tokenizer: Tokenizer::clip(),
            preprocess: preprocess.clone(),
            limits: Limits::default(),
            batch_size: if cx.device.is_cpu() { CPU_PASS } else { batch_size as usize },
            threads: cx.stage.threads.max(1),
            device: cx.device.clone(),
            cancel: cx.stage.cancel.clone(),
        })
    }

    /// Numbers in one feature vector.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.clip.config().embed_dim()
    }

    /// Encodes these rows and hands each over in order: its features, or the word for why its
    /// picture cannot be decoded (`no_image`, or the decoder's own).
    ///
    /// On the CPU every forward pass has exactly [`CPU_PASS`] rows, blank ones at the end, because a
    /// matrix product adds up in another order for another number of rows (seen: the last bits of
    /// a score at one row and at four). So the features of a pair are the same bits whatever pairs
    /// stand beside it and however the pairs are cut into calls; calls of few pairs waste work.
    ///
    /// # Errors
    /// The model's, `each`'s, or an interruption.
    pub fn encode(
        &self,
        pairs: &Pairs,
        rows: &[usize],
        mut each: impl FnMut(usize, Result<Features<'_>, &'static str>) -> Result<()>,
    ) -> Result<()> {
        let (sender, receiver) = sync_channel(1);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for rows in rows.chunks(self.batch_size) {
                    // The other side hung up: it has an error to tell.
                    if sender.send(self.prepare(pairs, rows)).is_err() {
                        return;
                    }
                }
            });
            for (rows, inputs) in rows.chunks(self.batch_size).zip(receiver) {
                self.cancel.check()?;
                self.forward(rows, inputs, &mut each)?;
            }
            Ok(())
        })
    }

    /// Decodes and tokenizes one batch on the stage's threads.
    fn prepare(&self, pairs: &Pairs, rows: &[usize]) -> Vec<Input> {
        let slots: Vec<Mutex<Input>> = rows.iter().map(|_| Mutex::new(Err("no_image"))).collect();
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..self.threads.min(rows.len()) {
                scope.spawn(|| {
                    while let Some((&row, slot)) = {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        rows.get(i).zip(slots.get(i))
                    } {
                        let input = self.prepare_one(pairs, row);
                        *slot.lock().unwrap_or_else(PoisonError::into_inner) = input;
                    }
                });
            }
        });
        let unlock = |slot: Mutex<Input>| slot.into_inner().unwrap_or_else(PoisonError::into_inner);
        slots.into_iter().map(unlock).collect()
    }

    fn prepare_one(&self, pairs: &Pairs, row: usize) -> Input {
        let bytes = pairs.image(row).ok_or("no_image")?;
        let picture = pixels::decode_rgb_first(bytes, &self.limits).map_err(|e| e.reason)?;
        let size = self.clip.config().image_size();
        let square = pixels::clip_pixels(&picture, size, &self.preprocess.resize_mode);
        let Preprocess { mean, std, .. } = self.preprocess;
        let context = self.clip.config().context_length();
        Ok(Prepared {
            pixels: pixels::normalize(&square, size, mean, std),
            tokens: self.tokenizer.context(pairs.captions().value(row), context),
        })
    }

    fn forward(
        &self,
        rows: &[usize],
        inputs: Vec<Input>,
        each: &mut impl FnMut(usize, Result<Features<'_>, &'static str>) -> Result<()>,
    ) -> Result<()> {
        let config = self.clip.config();
        let side = config.image_size() as usize;
        let context = config.context_length();
        let mut pixels = Vec::with_capacity(self.batch_size * 3 * side * side);
        let mut tokens = Vec::with_capacity(self.batch_size * context);
        let mut places = Vec::with_capacity(rows.len());
        let mut filled = 0;
        for input in inputs {
            places.push(input.map(|input| {
                pixels.extend_from_slice(&input.pixels);
                tokens.extend_from_slice(&input.tokens);
                filled += 1;
                filled - 1
            }));
        }
        let (images, texts) = if filled == 0 {
            (Vec::new(), Vec::new())
        } else {
            pixels.resize(self.batch_size * 3 * side * side, 0.0);
            let blank = self.tokenizer.context("", context);
            (filled..self.batch_size).for_each(|_| tokens.extend_from_slice(&blank));
            self.towers(pixels, tokens).model("the model cannot encode the pairs")?
        };
        for (&row, place) in rows.iter().zip(places) {
            each(row, place.map(|i| Features { image: &images[i], text: &texts[i] }))?;
        }
        Ok(())
    }

    /// Features of exactly `batch_size` rows.
    fn towers(
        &self,
        pixels: Vec<f32>,
        tokens: Vec<u32>,
    ) -> Result<(Rows, Rows), Box<dyn std::error::Error + Send + Sync>> {
        let config = self.clip.config();
        let (batch, side) = (self.batch_size, config.image_size() as usize);
        let pixels = Tensor::from_vec(pixels, (batch, 3, side, side), &self.device)?;
        let tokens = Tensor::from_vec(tokens, (batch, config.context_length()), &self.device)?;
        let rows = |features: Tensor| features.to_dtype(DType::F32)?.to_vec2::<f32>();
        let images = rows(self.clip.encode_image(&pixels, Mode::Eval)?)?;
        let texts = rows(self.clip.encode_text(&tokens, Mode::Eval)?)?;
        Ok((images, texts))
    }
}

/// Feature vectors, one a row.
type Rows = Vec<Vec<f32>>;

/// A pair before the model, or why its picture cannot be decoded.
type Input = Result<Prepared, &'static str>;

struct Prepared {
    /// `[3 * side * side]`, normalised, channel first.
    pixels: Vec<f32>,
    /// Exactly the context length.
    tokens: Vec<u32>,
}

/// Cosine of two vectors of one length; NaN where one of them has no direction. Added up in f64 in
/// the order of the numbers, so that it is the same on every machine.
#[must_use]
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    (dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt())) as f32
}

/// Checks the field `batch_size` of plans that run a model.
pub(crate) fn validate_batch_size(batch_size: u32) -> Result<()> {
    if (1..=4096).contains(&batch_size) {
        return Ok(());
    }
    Err(Error::recipe(format!("batch_size must lie in 1..=4096, got {batch_size}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_is_one_zero_minus_one_and_undefined_without_direction() {
        let bits = |a, b| cosine(a, b).to_bits();
        assert_eq!(bits(&[3.0, 4.0], &[6.0, 8.0]), 1.0_f32.to_bits());
        assert_eq!(bits(&[1.0, 0.0], &[0.0, 2.0]), 0.0_f32.to_bits());
        assert_eq!(bits(&[1.0, 0.0], &[-2.0, 0.0]), (-1.0_f32).to_bits());
        assert!(cosine(&[0.0, 0.0], &[1.0, 0.0]).is_nan());
        assert!(cosine(&[f32::INFINITY, 0.0], &[1.0, 0.0]).is_nan());
    }
}
