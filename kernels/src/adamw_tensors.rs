//! AdamW and the sum of squares where parameters, gradients and moments are tensors of a device.

use candle_core::{Result, Tensor, Var};

use crate::AdamWPass;

/// One parameter's part of a step.
#[derive(Debug)]
pub struct TensorStep<'a> {
    /// The numbers of the step.
    pub pass: AdamWPass,
    /// What is updated in place.
    pub parameter: &'a Var,
    /// Of the parameter's shape.
    pub gradient: &'a Tensor,
    /// First and second moment, of the parameter's shape.
    pub moments: &'a mut [Tensor; 2],
}

/// One step of AdamW; on a GPU in few launches.
///
/// # Errors
/// Other shapes than the parameter's, or another dtype than f32.
pub fn adamw_tensors(steps: &mut [TensorStep]) -> Result<()> {
    #[cfg(feature = "cuda")]
    if let Some(first) = steps.first().map(|step| step.pass) {
        let alike = |step: &TensorStep| AdamWPass { keep: first.keep, ..step.pass } == first;
        let here = |step: &TensorStep| {
            let [m, v] = &*step.moments;
            crate::cuda::takes(&[step.parameter.as_tensor(), step.gradient, m, v])
        };
        if steps.iter().all(|step| alike(step) && here(step)) {
            return crate::cuda::adamw(steps);
        }
    }
    steps
        .iter_mut()
        .try_for_each(|step| step.pass.apply_tensors(step.parameter, step.gradient, step.moments))
}

/// Σ x² over all numbers of all tensors. Not finite if any number is not.
///
/// # Errors
/// candle's.
pub fn sum_of_squares_tensors(tensors: &[&Tensor]) -> Result<f64> {
    if tensors.is_empty() {
        return Ok(0.0);
    }
    #[cfg(feature = "cuda")]
    if crate::cuda::takes(tensors) {
        return crate::cuda::sum_of_squares(tensors);
    }
    // One number a tensor, and one copy to main memory for all of them.
    let sums = tensors.iter().map(|tensor| tensor.sqr()?.sum_all()).collect::<Result<Vec<_>>>()?;
    Ok(Tensor::stack(&sums, 0)?.to_vec1::<f32>()?.iter().map(|v| f64::from(*v)).sum())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn squares_are_summed_over_all_tensors() {
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        let (a, b) = (tensor(&[3.0]), tensor(&[4.0, 12.0]));
        assert!((sum_of_squares_tensors(&[&a, &b]).unwrap() - 169.0).abs() < 1e-9);
        assert!(sum_of_squares_tensors(&[]).unwrap().abs() < f64::EPSILON);
        assert!(!sum_of_squares_tensors(&[&a, &tensor(&[f32::NAN])]).unwrap().is_finite());
    }
}
