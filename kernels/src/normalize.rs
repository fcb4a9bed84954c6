//! Rows of unit length.

use candle_core::{CpuStorage, Result, Shape, Tensor};

use crate::composed;
use crate::elementary::Float;
use crate::fused::{Fused, apply};
use crate::rows::{lane_sum, lane_sum2};
use crate::slices::{check, tensor, values, with_float};

/// Shortest length that is divided by: `torch.nn.functional.normalize`'s eps.
const SHORTEST: f64 = 1e-12;

/// x / max(|x|, 1e-12) over the last dimension, with gradient.
///
/// # Shapes
/// (.., C) → (.., C)
///
/// # Errors
/// A scalar or an empty last dimension, or other dtypes than f32 and f64.
pub fn l2_normalize(x: &Tensor) -> Result<Tensor> {
    check("l2_normalize", x)?;
    if x.dims().last().is_none_or(|width| *width == 0) {
        candle_core::bail!("l2_normalize: x {:?}; expected (.., C) with C > 0", x.dims());
    }
    if composed::takes(x) {
        return composed::l2_normalize(x);
    }
    apply(Normalize, &[x])
}

struct Normalize;

impl Fused for Normalize {
    fn name(&self) -> &'static str {
        "l2_normalize"
    }

    fn forward(&self, inputs: &[Tensor]) -> Result<(CpuStorage, Shape)> {
        let x = &inputs[0];
        let width = x.dim(candle_core::D::Minus1)?;
        with_float!("l2_normalize", x.dtype(), T => {
            let mut y = values::<T>(x, "l2_normalize")?.to_vec();
            for row in y.chunks_exact_mut(width) {
                let length = length(row);
                for v in row {
                    *v /= length;
                }
            }
            Ok((<T as candle_core::WithDType>::to_cpu_storage_owned(y), x.shape().clone()))
        })
    }

    /// dx = (dy - y·Σ dy·y) / |x|
    fn backward(
        &self,
        inputs: &[Tensor],
        y: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let x = &inputs[0];
        let width = x.dim(candle_core::D::Minus1)?;
        with_float!("l2_normalize", x.dtype(), T => {
            let (xs, ys) = (values::<T>(x, "l2_normalize")?, values::<T>(y, "l2_normalize")?);
            let mut dx = values::<T>(grad, "l2_normalize")?.to_vec();
            let rows = xs.chunks_exact(width).zip(ys.chunks_exact(width));
            for ((x, y), dx) in rows.zip(dx.chunks_exact_mut(width)) {
                let (length, dot) = (length(x), lane_sum2(dx, y, |a, b| a * b));
                for (d, y) in dx.iter_mut().zip(y) {
                    *d = (*d - *y * dot) / length;
                }
            }
            Ok(vec![Some(tensor(dx, x.shape())?)])
        })
    }
}

fn length<T: Float>(row: &[T]) -> T {
    lane_sum(row, |v| v * v).root().larger(T::of(SHORTEST))
}
