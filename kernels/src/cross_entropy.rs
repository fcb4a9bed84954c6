//! Cross-entropy of rows of logits against whole-number targets.

use candle_core::{CpuStorage, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::composed;
use crate::elementary::Float;
use crate::fused::{Fused, apply};
use crate::rows::{lane_max, lane_sum};
use crate::simd::{Level, Work};
use crate::slices::{check, indices, tensor, values, with_float};

/// Mean over the rows of `-log softmax(logits)[row, target[row]]`, with its gradient.
///
/// # Shapes
/// `logits` (R, C), `targets` u32 (R) → ()
///
/// # Errors
/// Other shapes, no rows, a target ≥ C, or other dtypes than f32 and f64.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    check("cross_entropy", logits)?;
    let (rows, classes) = logits.dims2()?;
    if targets.dims() != [rows] || rows == 0 {
        candle_core::bail!(
            "cross_entropy: logits {:?}, targets {:?}; expected (R, C), (R) with R > 0",
            logits.dims(),
            targets.dims()
        );
    }
    let targets = indices(targets, "cross_entropy")?;
    if let Some(target) = targets.iter().find(|t| **t as usize >= classes) {
        candle_core::bail!("cross_entropy: target {target} of {classes} classes");
    }
    if composed::takes(logits) {
        return composed::cross_entropy(logits, &targets);
    }
    apply(CrossEntropy { targets }, &[logits])
}

struct CrossEntropy {
    targets: Vec<u32>,
}

impl Fused for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn forward(&self, inputs: &[Tensor]) -> Result<(CpuStorage, Shape)> {
        let [logits] = inputs else { candle_core::bail!("cross_entropy takes 1 tensor") };
        let (rows, classes) = logits.dims2()?;
        with_float!("cross_entropy", logits.dtype(), T => {
            let x = values::<T>(logits, "cross_entropy")?;
            let level = Level::best();
            let losses: Vec<f64> = x
                .par_chunks(classes)
                .zip(&self.targets)
                .map(|(row, target)| {
                    let (max, sum) = level.run(LogSum { row });
                    (sum.logarithm() + (max - row[*target as usize])).wide()
                })
                .collect();
            // In f64 and in order: the mean costs nothing and does not depend on the threads.
            let mean = T::of(losses.iter().sum::<f64>() / rows as f64);
            Ok((<T as candle_core::WithDType>::to_cpu_storage_owned(vec![mean]), Shape::from(())))
        })
    }

    fn backward(
        &self,
        inputs: &[Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let [logits] = inputs else { candle_core::bail!("cross_entropy takes 1 tensor") };
        let (rows, classes) = logits.dims2()?;
        with_float!("cross_entropy", logits.dtype(), T => {
            let mut dx = values::<T>(logits, "cross_entropy")?.to_vec();
            let scale = grad.to_scalar::<T>()? / T::of(rows as f64);
            let level = Level::best();
            dx.par_chunks_mut(classes).zip(&self.targets).for_each(|(row, target)| {
                level.run(RowGradient { row, target: *target as usize, scale });
            });
            Ok(vec![Some(tensor(dx, (rows, classes))?)])
        })
    }
}

/// max and Σ exp(x - max) of a row.
struct LogSum<'a, T> {
    row: &'a [T],
}

impl<T: Float> Work for LogSum<'_, T> {
    type Output = (T, T);

    #[inline(always)]
    fn run(self) -> (T, T) {
        let max = lane_max(self.row);
        (max, lane_sum(self.row, |v| (v - max).exponential()))
    }
}

/// Replaces a row of logits by (softmax - target)·scale.
struct RowGradient<'a, T> {
    row: &'a mut [T],
    target: usize,
    scale: T,
}

impl<T: Float> Work for RowGradient<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        crate::softmax::softmax_row(self.row);
        self.row[self.target] -= T::ONE;
        for v in self.row.iter_mut() {
            *v *= self.scale;
        }
    }
}
