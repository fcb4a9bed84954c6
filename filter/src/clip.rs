//! Pictures and captions to CLIP features, pair by pair, over [`models::Encoder`].

use models::Encoder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage::{Error, Pairs, Result};

use crate::judge::JudgeContext;

/// Rows of one forward pass: a number of its own, so that no setting changes the last bits.
pub const CPU_PASS: u32 = 32;

/// The numbers that a model's weights are used in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// As they are.
    #[default]
    F32,
    /// Rounded to bf16 in the linear layers, with sums in f32: up to twice as fast where the
    /// machine has AVX512-BF16, slower where not; the same bits on both, numbers below the smallest
    /// normal one and sums beyond the largest finite one apart. A cosine moves by a few thousandths.
    Bf16,
}

impl Precision {
    /// Whether weights are used as they are.
    #[must_use]
    pub fn is_f32(&self) -> bool {
        *self == Self::F32
    }
}

/// A CLIP model with its tokenizer and preprocessing, ready to encode pairs.
pub struct ClipEncoder(Encoder);

/// The features of one pair, not normalised, of [`ClipEncoder::dim`] numbers each.
#[derive(Debug, Clone, Copy)]
pub struct Features<'a> {
    /// Of the picture.
    pub image: &'a [f32],
    /// Of the caption.
    pub text: &'a [f32],
}

impl ClipEncoder {
    /// Opens a checkpoint by the name that a recipe gives it; `batch_size` is of a pass on a GPU, on
    /// the CPU it is [`CPU_PASS`].
    ///
    /// # Errors
    /// When it is not found or not usable: unknown change, preprocessing or tokenizer.
    pub fn open(
        cx: &JudgeContext<'_>,
        checkpoint: &str,
        precision: Precision,
        batch_size: u32,
    ) -> Result<Self> {
        let (handle, base) = cx.checkpoint(checkpoint)?;
        let pass = if cx.stage.device == stage::Device::Cpu { CPU_PASS } else { batch_size };
        let open = || {
            let encoder = Encoder::open(&handle, &base, pass, cx.stage)?;
            if precision.is_f32() { Ok(encoder) } else { encoder.with_half_weights() }
        };
        open().map(Self).map_err(|e| e.at(format!("checkpoint `{checkpoint}`")))
    }

    /// Numbers in one feature vector.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.0.config().embed_dim()
    }

    /// Encodes the pictures of these rows alone, as [`Self::encode`] does both.
    ///
    /// # Errors
    /// The model's, `each`'s, or an interruption.
    pub fn encode_images(
        &self,
        pairs: &Pairs,
        rows: &[usize],
        mut each: impl FnMut(usize, Result<&[f32], &'static str>) -> Result<()>,
    ) -> Result<()> {
        let images = self.0.images(pairs, rows)?;
        rows.iter().zip(&images).try_for_each(|(&row, image)| match image {
            Ok(image) => each(row, Ok(image)),
            Err(reason) => each(row, Err(reason)),
        })
    }

    /// Encodes these rows and hands each over in order: its features, or the word for why its
    /// picture cannot be decoded (`no_image`, or the decoder's own).
    ///
    /// The features of a pair are the same bits whatever pairs stand beside it and however the pairs
    /// are cut into calls; calls of few pairs waste work.
    ///
    /// # Errors
    /// The model's, `each`'s, or an interruption.
    pub fn encode(
        &self,
        pairs: &Pairs,
        rows: &[usize],
        mut each: impl FnMut(usize, Result<Features<'_>, &'static str>) -> Result<()>,
    ) -> Result<()> {
        let images = self.0.images(pairs, rows)?;
        let seen = rows.iter().zip(&images).filter(|(_, image)| image.is_ok());
        let captions: Vec<&str> = seen.map(|(&row, _)| pairs.captions().value(row)).collect();
        let mut texts = self.0.texts(&captions)?.into_iter();
        for (&row, image) in rows.iter().zip(&images) {
            let features = match image {
                Ok(image) => {
                    let text = texts.next().ok_or_else(|| Error::internal("no text features"))?;
                    each(row, Ok(Features { image, text: &text }))
                }
                Err(reason) => each(row, Err(reason)),
            };
            features?;
        }
        Ok(())
    }
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
