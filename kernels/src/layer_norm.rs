//! Layer normalisation over the last dimension.
//!
//! Ba, Kiros, Hinton, "Layer Normalization", arXiv 1607.06450; the variance is the biased one.

use candle_core::{CpuStorage, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::composed;
use crate::elementary::Float;
use crate::fresh::zeros;
use crate::fused::{Fused, apply};
use crate::rows::{PIECE, add_to, lane_sum, lane_sum2};
use crate::simd::{Level, Work};
use crate::slices::{check, tensor, values, with_float};

/// `(x - mean) / sqrt(variance + eps) * weight + bias`, with gradients for all three tensors.
///
/// # Shapes
/// `x` (.., C), `weight` (C), `bias` (C) → (.., C)
///
/// # Errors
/// Other shapes, or dtypes than one of f32 and f64.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    check("layer_norm", x)?;
    let width = x.dims().last().copied().unwrap_or(0);
    if width == 0 || weight.dims() != [width] || bias.dims() != [width] {
        candle_core::bail!(
            "layer_norm: x {:?}, weight {:?}, bias {:?}; expected (.., C), (C), (C)",
            x.dims(),
            weight.dims(),
            bias.dims()
        );
    }
    if composed::takes(x) {
        return composed::layer_norm(x, weight, bias, eps);
    }
    apply(LayerNorm { eps }, &[x, weight, bias])
}

struct LayerNorm {
    eps: f64,
}

impl Fused for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn forward(&self, inputs: &[Tensor]) -> Result<(CpuStorage, Shape)> {
        let [x, weight, bias] = inputs else { candle_core::bail!("layer_norm takes 3 tensors") };
        with_float!("layer_norm", x.dtype(), T => {
            let (xs, w) = (values::<T>(x, "layer_norm")?, values::<T>(weight, "layer_norm")?);
            let b = values::<T>(bias, "layer_norm")?;
            let y = forward(Level::best(), &xs, &w, &b, T::of(self.eps));
            Ok((<T as candle_core::WithDType>::to_cpu_storage_owned(y), x.shape().clone()))
        })
    }

    fn backward(
        &self,
        inputs: &[Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let [x, weight, _] = inputs else { candle_core::bail!("layer_norm takes 3 tensors") };
        with_float!("layer_norm", x.dtype(), T => {
            let (xs, w) = (values::<T>(x, "layer_norm")?, values::<T>(weight, "layer_norm")?);
            let dy = values::<T>(grad, "layer_norm")?;
            let (dx, dw, db) = backward(Level::best(), &xs, &w, &dy, T::of(self.eps));
            let width = w.len();
            Ok(vec![
                Some(tensor(dx, x.shape())?),
                Some(tensor(dw, width)?),
                Some(tensor(db, width)?),
            ])
        })
    }
}

/// y for rows of `weight.len()` elements.
pub(crate) fn forward<T: Float>(level: Level, x: &[T], weight: &[T], bias: &[T], eps: T) -> Vec<T> {
    let width = weight.len();
    let mut y = zeros(x.len());
    y.par_chunks_mut(PIECE * width)
        .zip(x.par_chunks(PIECE * width))
        .for_each(|(y, x)| level.run(Forward { x, weight, bias, eps, y }));
    y
}

/// Gradients of x, weight and bias.
pub(crate) fn backward<T: Float>(
    level: Level,
    x: &[T],
    weight: &[T],
    dy: &[T],
    eps: T,
) -> (Vec<T>, Vec<T>, Vec<T>) {
    let width = weight.len();
    let mut dx = zeros(x.len());
    let pieces = x.len().div_ceil(PIECE * width);
    let mut sums = vec![T::ZERO; pieces * 2 * width];
    dx.par_chunks_mut(PIECE * width)
        .zip(x.par_chunks(PIECE * width))
        .zip(dy.par_chunks(PIECE * width))
        .zip(sums.par_chunks_mut(2 * width))
        .for_each(|(((dx, x), dy), sums)| {
            let (dw, db) = sums.split_at_mut(width);
            level.run(Backward { x, weight, dy, eps, dx, dw, db });
        });
    let (mut dw, mut db) = (vec![T::ZERO; width], vec![T::ZERO; width]);
    for sums in sums.chunks_exact(2 * width) {
        add_to(&mut dw, &sums[..width]);
        add_to(&mut db, &sums[width..]);
    }
    (dx, dw, db)
}

struct Forward<'a, T> {
    x: &'a [T],
    weight: &'a [T],
    bias: &'a [T],
    eps: T,
    y: &'a mut [T],
}

impl<T: Float> Work for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let width = self.weight.len();
        for (y, x) in self.y.chunks_exact_mut(width).zip(self.x.chunks_exact(width)) {
            let (mean, scale) = moments(x, self.eps);
            for (((y, x), w), b) in y.iter_mut().zip(x).zip(self.weight).zip(self.bias) {
                *y = (*x - mean) * scale * *w + *b;
            }
        }
    }
}

/// Mean and 1 / sqrt(variance + eps) of a row.
#[inline(always)]
fn moments<T: Float>(x: &[T], eps: T) -> (T, T) {
    let share = T::ONE / T::of(x.len() as f64);
    let mean = lane_sum(x, |v| v) * share;
    let variance = lane_sum(x, |v| (v - mean) * (v - mean)) * share;
    (mean, T::ONE / (variance + eps).root())
}

struct Backward<'a, T> {
    x: &'a [T],
    weight: &'a [T],
    dy: &'a [T],
    eps: T,
    dx: &'a mut [T],
    dw: &'a mut [T],
    db: &'a mut [T],
}

impl<T: Float> Work for Backward<'_, T> {
    type Output = ();

    /// With n = (x - mean)·s and g = dy·weight: dx = s·(g - mean(g) - n·mean(g·n)).
    #[inline(always)]
    fn run(self) {
        let width = self.weight.len();
        let share = T::ONE / T::of(width as f64);
        let rows = self.x.chunks_exact(width).zip(self.dy.chunks_exact(width));
        for ((x, dy), dx) in rows.zip(self.dx.chunks_exact_mut(width)) {
            let (mean, scale) = moments(x, self.eps);
            for (((dx, dy), w), db) in
                dx.iter_mut().zip(dy).zip(self.weight).zip(self.db.iter_mut())
            {
                *db += *dy;
                *dx = *dy * *w;
            }
            for ((dw, dy), x) in self.dw.iter_mut().zip(dy).zip(x) {
                *dw += *dy * ((*x - mean) * scale);
            }
            let mean_g = lane_sum(dx, |g| g) * share;
            let mean_gn = lane_sum2(dx, x, |g, x| g * ((x - mean) * scale)) * share;
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = scale * (*dx - mean_g - (*x - mean) * scale * mean_gn);
            }
        }
    }
}
