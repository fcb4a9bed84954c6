//! Pictures and captions to CLIP features, decoded ahead of the model.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};
use pixels::Limits;
use stage::{Cancel, Checkpoint, Context, Error, Pairs, Preprocess, Result, ResultExt};

use crate::{Clip, ClipConfig, Mode, Tokenizer};

/// A CLIP model with its tokenizer and preprocessing, ready to encode pairs.
///
/// Every forward pass has exactly `batch_size` rows, blank ones at the end, because a matrix
/// product may add up in another order for another number of rows. So the features of a picture or
/// a caption are the same bits whatever stands beside it.
pub struct Encoder {
    clip: Clip,
    tokenizer: Tokenizer,
    preprocess: Preprocess,
    limits: Limits,
    batch_size: usize,
    threads: usize,
    device: Device,
    cancel: Cancel,
}

/// Feature vectors, one a row, not normalised.
type Rows = Vec<Vec<f32>>;

/// A picture before the model, `[3 * side * side]`, or why it cannot be decoded.
type Pixels = Result<Vec<f32>, &'static str>;

impl Encoder {
    /// Opens a checkpoint; `base` is the folder that its paths are relative to.
    ///
    /// # Errors
    /// When it is not usable: unknown change, preprocessing or tokenizer.
    pub fn open(
        checkpoint: &Checkpoint,
        base: &Path,
        batch_size: u32,
        cx: &Context,
    ) -> Result<Self> {
        let preprocess = &checkpoint.preprocess;
        if preprocess.interpolation != "bicubic" {
            let message = format!("no interpolation `{}`, only bicubic", preprocess.interpolation);
            return Err(Error::model(message));
        }
        if !["shortest", "longest", "squash"].contains(&preprocess.resize_mode.as_str()) {
            let given = &preprocess.resize_mode;
            let message = format!("no resize_mode `{given}`, only shortest, longest and squash");
            return Err(Error::model(message));
        }
        if checkpoint.tokenizer != "clip" {
            let message = format!("no tokenizer `{}`, only clip", checkpoint.tokenizer);
            return Err(Error::model(message));
        }
        let device = crate::device(cx.device)?;
        let clip = crate::open(checkpoint, base, &device)?.with_packed_weights()?;
        clip.config().check_tokenizer(0)?;
        Ok(Self {
            clip,
            tokenizer: Tokenizer::clip(),
            preprocess: preprocess.clone(),
            limits: Limits::default(),
            batch_size: batch_size.max(1) as usize,
            threads: cx.threads.max(1),
            device,
            cancel: cx.cancel.clone(),
        })
    }

    /// The same with bf16 weights: [`Clip::with_half_weights`].
    ///
    /// # Errors
    /// Weights that are not f32.
    pub fn with_half_weights(self) -> Result<Self> {
        Ok(Self { clip: self.clip.with_half_weights()?, ..self })
    }

    /// The model's configuration.
    #[must_use]
    pub fn config(&self) -> &ClipConfig {
        self.clip.config()
    }

    /// Features of the pictures of these rows, in order; where a picture cannot be decoded, the
    /// word for why (`no_image`, or the decoder's own).
    ///
    /// Pictures are decoded as open_clip's training and evaluation see a shard, on the context's
    /// threads, while the model works on the batch before.
    ///
    /// # Errors
    /// The model's, or an interruption.
    pub fn images(
        &self,
        pairs: &Pairs,
        rows: &[usize],
    ) -> Result<Vec<Result<Vec<f32>, &'static str>>> {
        let mut features = Vec::with_capacity(rows.len());
        let (sender, receiver) = sync_channel(1);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for rows in rows.chunks(self.batch_size) {
                    // The other side hung up: it has an error to tell.
                    if sender.send(self.decode(pairs, rows)).is_err() {
                        return;
                    }
                }
            });
            for pixels in receiver {
                self.cancel.check()?;
                self.image_batch(pixels, &mut features)?;
            }
            Ok(features)
        })
    }

    /// Features of these captions, in order.
    ///
    /// # Errors
    /// The model's, or an interruption.
    pub fn texts<S: AsRef<str>>(&self, captions: &[S]) -> Result<Rows> {
        let context = self.config().context_length();
        let mut features = Vec::with_capacity(captions.len());
        for chunk in captions.chunks(self.batch_size) {
            self.cancel.check()?;
            let mut tokens = Vec::with_capacity(self.batch_size * context);
            for i in 0..self.batch_size {
                let caption = chunk.get(i).map_or("", AsRef::as_ref);
                tokens.extend(self.tokenizer.context(caption, context));
            }
            let rows = Tensor::from_vec(tokens, (self.batch_size, context), &Device::Cpu)
                .model("the model cannot take the captions")
                .and_then(|tokens| to_rows(&self.clip.encode_text(&tokens, Mode::Eval)?))?;
            features.extend(rows.into_iter().take(chunk.len()));
        }
        Ok(features)
    }

    /// Refuses features that are no numbers: of a diverged or damaged model, of which no rank and
    /// no accuracy means anything.
    ///
    /// # Errors
    /// [`stage::Kind::Model`] with how many there are.
    pub fn check_finite<'a>(features: impl Iterator<Item = &'a [f32]>, what: &str) -> Result<()> {
        let (mut all, mut bad) = (0_u64, 0_u64);
        for row in features {
            all += 1;
            bad += u64::from(!row.iter().all(|value| value.is_finite()));
        }
        if bad == 0 {
            return Ok(());
        }
        Err(Error::model(format!("the features of {bad} of {all} {what} are no numbers")).hint(
            "the training of this checkpoint diverged, or its weights are damaged: see its metrics.jsonl",
        ))
    }

    fn decode(&self, pairs: &Pairs, rows: &[usize]) -> Vec<Pixels> {
        let slots: Vec<Mutex<Pixels>> = rows.iter().map(|_| Mutex::new(Err("no_image"))).collect();
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..self.threads.min(rows.len()) {
                scope.spawn(|| {
                    loop {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        let (Some(&row), Some(slot)) = (rows.get(i), slots.get(i)) else { return };
                        let pixels = self.decode_one(pairs, row);
                        *slot.lock().unwrap_or_else(PoisonError::into_inner) = pixels;
                    }
                });
            }
        });
        slots.into_iter().map(|s| s.into_inner().unwrap_or_else(PoisonError::into_inner)).collect()
    }

    fn decode_one(&self, pairs: &Pairs, row: usize) -> Pixels {
        let bytes = pairs.image(row).ok_or("no_image")?;
        let picture = pixels::decode_rgb_first(bytes, &self.limits).map_err(|e| e.reason)?;
        let size = self.config().image_size();
        let square = pixels::clip_pixels(&picture, size, &self.preprocess.resize_mode);
        Ok(pixels::normalize(&square, size, self.preprocess.mean, self.preprocess.std))
    }

    fn image_batch(
        &self,
        batch: Vec<Pixels>,
        features: &mut Vec<Result<Vec<f32>, &'static str>>,
    ) -> Result<()> {
        let side = self.config().image_size() as usize;
        let mut flat = Vec::with_capacity(self.batch_size * 3 * side * side);
        for pixels in batch.iter().flatten() {
            flat.extend_from_slice(pixels);
        }
        let mut rows = if flat.is_empty() {
            Vec::new()
        } else {
            flat.resize(self.batch_size * 3 * side * side, 0.0);
            let shape = (self.batch_size, 3, side, side);
            let pixels = Tensor::from_vec(flat, shape, &self.device).model("pixels")?;
            to_rows(&self.clip.encode_image(&pixels, Mode::Eval)?)?
        }
        .into_iter();
        for pixels in batch {
            features.push(pixels.and_then(|_| rows.next().ok_or("no_image")));
        }
        Ok(())
    }
}

fn to_rows(features: &Tensor) -> Result<Rows> {
    features.to_dtype(DType::F32).and_then(|f| f.to_vec2::<f32>()).model("features")
}
