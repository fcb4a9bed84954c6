//! Softmax over the last dimension.

use candle_core::{CpuStorage, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::composed;
use crate::elementary::Float;
use crate::fused::{Fused, apply};
use crate::rows::{PIECE, lane_max, lane_sum, lane_sum2};
use crate::simd::{Level, Work};
use crate::slices::{check, tensor, values, with_float};

/// `exp(x - max) / sum` over the last dimension, with its gradient.
///
/// # Shapes
/// (.., C) → (.., C)
///
/// # Errors
/// A scalar or an empty last dimension, or other dtypes than f32 and f64.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    check("softmax", x)?;
    if x.dims().last().is_none_or(|width| *width == 0) {
        candle_core::bail!("softmax: x {:?}; expected (.., C) with C > 0", x.dims());
    }
    if composed::takes(x) {
        return composed::softmax(x);
    }
    apply(Softmax, &[x])
}

struct Softmax;

impl Fused for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn forward(&self, inputs: &[Tensor]) -> Result<(CpuStorage, Shape)> {
        let [x] = inputs else { candle_core::bail!("softmax takes 1 tensor") };
        let width = x.dim(candle_core::D::Minus1)?;
        with_float!("softmax", x.dtype(), T => {
            let mut y = values::<T>(x, "softmax")?.to_vec();
            let level = Level::best();
            y.par_chunks_mut(PIECE * width).for_each(|y| level.run(Forward { width, y }));
            Ok((<T as candle_core::WithDType>::to_cpu_storage_owned(y), x.shape().clone()))
        })
    }

    fn backward(&self, _: &[Tensor], y: &Tensor, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let width = y.dim(candle_core::D::Minus1)?;
        with_float!("softmax", y.dtype(), T => {
            let ys = values::<T>(y, "softmax")?;
            let mut dx = values::<T>(grad, "softmax")?.to_vec();
            let level = Level::best();
            dx.par_chunks_mut(PIECE * width)
                .zip(ys.par_chunks(PIECE * width))
                .for_each(|(dx, y)| level.run(Backward { width, y, dx }));
            Ok(vec![Some(tensor(dx, y.shape())?)])
        })
    }
}

/// Replaces a row by its softmax.
#[inline(always)]
pub(crate) fn softmax_row<T: Float>(row: &mut [T]) {
    let max = lane_max(row);
    for v in row.iter_mut() {
        *v = (*v - max).exponential();
    }
    let scale = T::ONE / lane_sum(row, |v| v);
    for v in row.iter_mut() {
        *v *= scale;
    }
}

/// Replaces the gradient of a softmax by that of its input: dx = y·(dy - Σ dy·y).
#[inline(always)]
pub(crate) fn softmax_row_gradient<T: Float>(y: &[T], dy: &mut [T]) {
    let dot = lane_sum2(dy, y, |dy, y| dy * y);
    for (d, y) in dy.iter_mut().zip(y) {
        *d = *y * (*d - dot);
    }
}

struct Forward<'a, T> {
    width: usize,
    y: &'a mut [T],
}

impl<T: Float> Work for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for row in self.y.chunks_exact_mut(self.width) {
            softmax_row(row);
        }
    }
}

struct Backward<'a, T> {
    width: usize,
    y: &'a [T],
    dx: &'a mut [T],
}

impl<T: Float> Work for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (y, dx) in self.y.chunks_exact(self.width).zip(self.dx.chunks_exact_mut(self.width)) {
            softmax_row_gradient(y, dx);
        }
    }
}
