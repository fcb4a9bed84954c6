//! AdamW and the norm of gradients, many tensors at once.

use candle_core::{Result, Tensor};

use super::calls::{TABLE, Table, total};
use super::device;
use super::launch::Memory;
use crate::adamw_tensors::TensorStep;

/// [`crate::adamw_tensors()`] where all are f32 on one GPU and differ in `keep` alone.
pub(crate) fn adamw(steps: &mut [TensorStep]) -> Result<()> {
    for steps in steps.chunks(TABLE) {
        let Some(first) = steps.first() else { continue };
        let device = device(first.parameter)?;
        let rows: Vec<([&dyn Memory; 4], f32)> = steps
            .iter()
            .map(|step| {
                let [m, v] = &*step.moments;
                let memory: [&dyn Memory; 4] = [step.parameter.as_tensor(), step.gradient, m, v];
                (memory, step.pass.keep)
            })
            .collect();
        let pass = first.pass;
        let numbers = [
            pass.factor,
            pass.one_minus_beta1,
            pass.beta2,
            pass.one_minus_beta2,
            pass.correction2,
            pass.eps,
            pass.step_size,
        ];
        Table::new(device, &rows)?.adamw(device, rows.len(), numbers)?;
    }
    Ok(())
}

/// Σ x² over all numbers of f32 tensors on one GPU, in f64.
pub(crate) fn sum_of_squares(tensors: &[&Tensor]) -> Result<f64> {
    let Some(first) = tensors.first() else { return Ok(0.0) };
    let device = device(first)?;
    let mut sums = Vec::new();
    for tensors in tensors.chunks(TABLE) {
        let rows: Vec<([&dyn Memory; 4], f32)> =
            tensors.iter().map(|t| ([*t as &dyn Memory; 4], 0.0)).collect();
        sums.push(Table::new(device, &rows)?.squares(device, rows.len())?.tensor().flatten_all()?);
    }
    let all = Tensor::cat(&sums, 0)?;
    total(device, &all, all.elem_count())?.tensor().to_scalar()
}
