//! The loss over the samples of several forward passes and several ranks, by way of their features.
//!
//! The features of all are gathered first; the loss is a function of them and of the temperature,
//! and its gradient with respect to this rank's features is what the towers' backward passes start
//! from. That is open_clip's accumulation with cached features (`open_clip_train/train.py`) and its
//! `gather_features` (`open_clip/loss.py`), with the loss worked out once instead of once a pass.

use candle_core::{Result as TensorResult, Tensor, Var};
use stage::{Result, ResultExt};

use crate::loss::{clip_loss, local_clip_loss};
use crate::ranks::{Ranks, gather_floats};
use crate::slices;

/// How the loss is divided among ranks: open_clip's `--local-loss` and `--gather-with-grad`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Division {
    /// Each rank scores its own rows against all, in place of all against all.
    pub local_loss: bool,
    /// The gradient flows through the gathered features too.
    pub gather_with_grad: bool,
}

impl Default for Division {
    fn default() -> Self {
        Self { local_loss: true, gather_with_grad: true }
    }
}

/// The loss, and where the backward passes start.
pub(crate) struct Joint {
    /// Over all samples, the same on every rank.
    pub(crate) loss: f32,
    /// Gradient with respect to this rank's image features (n, E). Summed over ranks, the towers'
    /// gradients from here are the loss's.
    pub(crate) image: Tensor,
    /// The same for text.
    pub(crate) text: Tensor,
    /// Gradient of the temperature, the same on every rank.
    pub(crate) logit_scale: f32,
}

/// The loss of all ranks' features and its gradient.
///
/// `image` and `text` are this rank's (n, E), rows of length 1, without history; every rank has as
/// many.
pub(crate) fn joint(
    image: &Tensor,
    text: &Tensor,
    logit_scale: f32,
    division: Division,
    ranks: &mut dyn Ranks,
) -> Result<Joint> {
    let inside = "the loss over all ranks failed";
    let own = floats(image).and_then(|mut all| {
        all.extend(floats(text)?);
        Ok(all)
    });
    let gathered = gather_floats(ranks, &own.model(inside)?)?;
    let all = |half: usize| -> TensorResult<Tensor> {
        let rows: Vec<f32> = gathered
            .iter()
            .flat_map(|both| &both[half * both.len() / 2..(half + 1) * both.len() / 2])
            .copied()
            .collect();
        Tensor::from_vec(rows, (gathered.len() * image.dim(0)?, image.dim(1)?), image.device())
    };
    let mut place = Place {
        all_image: leaf(all(0)).model(inside)?,
        all_text: leaf(all(1)).model(inside)?,
        scale: leaf(Tensor::new(logit_scale, image.device())).model(inside)?,
        rank: ranks.rank(),
        size: ranks.size(),
        rows: image.dim(0).model(inside)?,
    };
    if !division.local_loss || place.size == 1 {
        return place.global(division).model(inside);
    }
    place.local(division, ranks)
}

fn leaf(values: TensorResult<Tensor>) -> TensorResult<Var> {
    Var::from_tensor(&values?)
}

/// Features of all ranks as leaves of a graph of their own.
struct Place {
    all_image: Var,
    all_text: Var,
    scale: Var,
    rank: usize,
    size: usize,
    rows: usize,
}

impl Place {
    fn own(&self, all: &Tensor) -> TensorResult<Tensor> {
        all.narrow(0, self.rank * self.rows, self.rows)?.contiguous()
    }

    /// Every rank works out the whole loss.
    fn global(&self, division: Division) -> TensorResult<Joint> {
        let loss = clip_loss(&self.all_image, &self.all_text, &self.scale)?;
        let gradients = loss.backward()?;
        // open_clip without gather_with_grad: only this rank's copy of the loss reaches its
        // features, and averaging over ranks leaves a part of the gradient.
        let share = if division.gather_with_grad { 1.0 } else { 1.0 / self.size as f64 };
        let of = |leaf: &Var| match gradients.get(leaf) {
            Some(gradient) => self.own(gradient)? * share,
            None => candle_core::bail!("the loss does not depend on the features"),
        };
        let scale = gradients.get(&self.scale).map_or(Ok(0.0), Tensor::to_scalar)?;
        Ok(Joint {
            loss: loss.to_scalar()?,
            image: of(&self.all_image)?,
            text: of(&self.all_text)?,
            logit_scale: scale,
        })
    }

    /// Each rank works out the loss of its own rows; the loss is the mean over ranks.
    fn local(&mut self, division: Division, ranks: &mut dyn Ranks) -> Result<Joint> {
        let inside = "the loss over all ranks failed";
        let through = division.gather_with_grad;
        let worked = (|| -> TensorResult<(f32, f32, Vec<f32>)> {
            let own = |all: &Var| {
                if through {
                    self.own(all)
                } else {
                    leaf(self.own(&all.detach())).map(|v| v.as_tensor().clone())
                }
            };
            let (image, text) = (own(&self.all_image)?, own(&self.all_text)?);
            let (all_image, all_text) = match through {
                true => (self.all_image.as_tensor().clone(), self.all_text.as_tensor().clone()),
                false => (self.all_image.detach(), self.all_text.detach()),
            };
            let first = self.rank * self.rows;
            let loss =
                local_clip_loss([&image, &text], [&all_image, &all_text], &self.scale, first)?;
            let gradients = loss.backward()?;
            let leaves: [&Tensor; 2] =
                if through { [&self.all_image, &self.all_text] } else { [&image, &text] };
            let mut flat = Vec::new();
            for leaf in leaves {
                match gradients.get(leaf) {
                    Some(gradient) => flat.extend(floats(gradient)?),
                    None => candle_core::bail!("the loss does not depend on the features"),
                }
            }
            let scale = gradients.get(&self.scale).map_or(Ok(0.0), Tensor::to_scalar)?;
            Ok((loss.to_scalar()?, scale, flat))
        })();
        let (loss, scale, mut flat) = worked.model(inside)?;
        if through {
            ranks.sum(&mut flat)?;
        }
        let parts = gather_floats(ranks, &[loss, scale])?;
        let mean = |i: usize| parts.iter().map(|part| part[i]).sum::<f32>() / self.size as f32;
        let finish = || -> TensorResult<Joint> {
            let share = 1.0 / self.size as f64;
            let width = self.all_image.dim(1)?;
            let (image, text) = flat.split_at(flat.len() / 2);
            let of = |half: &[f32]| -> TensorResult<Tensor> {
                let rows = half.len() / width;
                let all = Tensor::from_slice(half, (rows, width), self.all_image.device())?;
                let own = if through { self.own(&all)? } else { all };
                own * share
            };
            Ok(Joint { loss: mean(0), image: of(image)?, text: of(text)?, logit_scale: mean(1) })
        };
        finish().model(inside)
    }
}

pub(crate) fn floats(tensor: &Tensor) -> TensorResult<Vec<f32>> {
    slices::with(&tensor.contiguous()?, <[f32]>::to_vec)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::ranks::Alone;

    const ROWS: usize = 4;
    const WIDTH: usize = 3;

    fn features(values: &[f32]) -> Tensor {
        Tensor::from_slice(values, (ROWS, WIDTH), &Device::Cpu).unwrap()
    }

    fn numbers(salt: f32) -> Vec<f32> {
        (0..ROWS * WIDTH).map(|i| (i as f32 * 1.7 + salt).sin() * 0.6).collect()
    }

    fn loss(image: &[f32], text: &[f32], scale: f32) -> f64 {
        let scale = Tensor::new(scale, &Device::Cpu).unwrap();
        let loss = clip_loss(&features(image), &features(text), &scale).unwrap();
        f64::from(loss.to_scalar::<f32>().unwrap())
    }

    /// The slope of `f` at `x` in its i-th number.
    fn slope(x: &[f32], i: usize, f: impl Fn(&[f32]) -> f64) -> f64 {
        const STEP: f32 = 1e-2;
        let at = |by: f32| {
            let mut moved = x.to_vec();
            moved[i] += by;
            f(&moved)
        };
        (at(STEP) - at(-STEP)) / f64::from(2.0 * STEP)
    }

    #[test]
    fn the_features_gradients_are_the_losss_slopes() {
        let (image, text, scale) = (numbers(0.0), numbers(2.0), 0.7);
        let got =
            joint(&features(&image), &features(&text), scale, Division::default(), &mut Alone)
                .unwrap();
        assert!((f64::from(got.loss) - loss(&image, &text, scale)).abs() < 1e-6);
        let (by_image, by_text) = (floats(&got.image).unwrap(), floats(&got.text).unwrap());
        for i in 0..ROWS * WIDTH {
            let expected = slope(&image, i, |image| loss(image, &text, scale));
            assert!((f64::from(by_image[i]) - expected).abs() < 1e-4, "image {i}: {expected}");
            let expected = slope(&text, i, |text| loss(&image, text, scale));
            assert!((f64::from(by_text[i]) - expected).abs() < 1e-4, "text {i}: {expected}");
        }
        let expected = slope(&[scale], 0, |scale| loss(&image, &text, scale[0]));
        assert!((f64::from(got.logit_scale) - expected).abs() < 1e-4);
    }
}
