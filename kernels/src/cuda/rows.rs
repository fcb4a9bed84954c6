//! What works row by row or number by number.

use std::sync::{Mutex, PoisonError};

use candle_core::{D, DType, Device, Result, Shape, Storage, Tensor, TensorId};

use super::launch::Memory;
use super::{calls, device, gradient};
use crate::fused::{Fused, apply};

/// [`crate::layer_norm()`]
pub(crate) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let operator = LayerNorm { eps: eps as f32, kept: Mutex::new(None) };
    apply(operator, &[x, weight, bias])
}

/// [`crate::gelu()`] and [`crate::quick_gelu()`]
pub(crate) fn gelu(x: &Tensor, quick: bool) -> Result<Tensor> {
    apply(Gelu { quick }, &[x])
}

/// [`crate::geglu()`]
pub(crate) fn geglu(gate: &Tensor, value: &Tensor) -> Result<Tensor> {
    apply(Geglu, &[gate, value])
}

/// [`crate::l2_normalize()`]
pub(crate) fn l2_normalize(x: &Tensor) -> Result<Tensor> {
    apply(UnitRows, &[x])
}

/// [`crate::cross_entropy()`]
pub(crate) fn cross_entropy(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let targets = Tensor::from_slice(targets, targets.len(), logits.device())?;
    apply(CrossEntropy { targets, sums: Mutex::new(None) }, &[logits])
}

/// [`crate::add_row()`]
pub(crate) fn add_row(x: &Tensor, row: &Tensor) -> Result<Tensor> {
    apply(AddRow, &[x, row])
}

/// Rows of (.., C).
fn rows(x: &Tensor) -> Result<calls::Rows> {
    let width = x.dim(D::Minus1)?;
    Ok((x.elem_count() / width, width))
}

struct LayerNorm {
    eps: f32,
    /// Mean and scale of each row.
    kept: Mutex<Option<[Tensor; 2]>>,
}

impl Fused for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn forward_anywhere(&self, inputs: &[Tensor]) -> Result<(Storage, Shape)> {
        let [x, gain, shift] = inputs else { candle_core::bail!("layer_norm takes 3 tensors") };
        let pair: [&dyn Memory; 2] = [gain, shift];
        let (y, [mean, scale]) =
            calls::layer_norm(device(x)?, x, pair, self.eps, rows(x)?, DType::F32)?;
        let kept = [mean.tensor(), scale.tensor()];
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
        Ok(y.shaped(x.shape())?.result())
    }

    fn backward(
        &self,
        inputs: &[Tensor],
        output: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        self.backward_collected(inputs, &[], output, grad)
    }

    fn backward_collected(
        &self,
        inputs: &[Tensor],
        ids: &[TensorId],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let [x, gain, _] = inputs else { candle_core::bail!("layer_norm takes 3 tensors") };
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some([mean, scale]) = kept else { candle_core::bail!("layer_norm did not run") };
        let [dx, dgain, dshift] = calls::layer_norm_backward(
            device(x)?,
            (x, gain),
            (grad, DType::F32),
            [&mean, &scale],
            None,
            rows(x)?,
        )?;
        Ok(vec![
            Some(dx.shaped(x.shape())?.tensor()),
            gradient(ids.get(1), dgain.tensor())?,
            gradient(ids.get(2), dshift.tensor())?,
        ])
    }
}

struct Gelu {
    quick: bool,
}

impl Fused for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn forward_anywhere(&self, inputs: &[Tensor]) -> Result<(Storage, Shape)> {
        let x = &inputs[0];
        let sizes = (1, x.elem_count());
        let y = calls::gelu(device(x)?, (x, None), DType::F32, sizes, self.quick)?;
        Ok(y.shaped(x.shape())?.result())
    }

    fn backward(
        &self,
        inputs: &[Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let x = &inputs[0];
        let dx = calls::gelu_slopes(device(x)?, (x, grad), x.elem_count(), self.quick)?;
        Ok(vec![Some(dx.shaped(x.shape())?.tensor())])
    }
}

struct Geglu;

impl Fused for Geglu {
    fn name(&self) -> &'static str {
        "geglu"
    }

    fn forward_anywhere(&self, inputs: &[Tensor]) -> Result<(Storage, Shape)> {
        let (gate, value) = (&inputs[0], &inputs[1]);
        let y = calls::geglu(device(gate)?, (gate, value), gate.elem_count())?;
        Ok(y.shaped(gate.shape())?.result())
    }

    fn backward(
        &self,
        inputs: &[Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let (gate, value) = (&inputs[0], &inputs[1]);
        let all: (&dyn Memory, &dyn Memory, &dyn Memory) = (gate, value, grad);
        let both = calls::geglu_backward(device(gate)?, all, gate.elem_count())?;
        both.into_iter().map(|d| Ok(Some(d.shaped(gate.shape())?.tensor()))).collect()
    }
}

struct UnitRows;

impl Fused for UnitRows {
    fn name(&self) -> &'static str {
        "l2_normalize"
    }

    fn forward_anywhere(&self, inputs: &[Tensor]) -> Result<(Storage, Shape)> {
        let x = &inputs[0];
        Ok(calls::unit_rows(device(x)?, x, rows(x)?)?.shaped(x.shape())?.result())
    }

    fn backward(
        &self,
        inputs: &[Tensor],
        y: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let x = &inputs[0];
        let dx = calls::unit_rows_backward(device(x)?, [x, y, grad], rows(x)?)?;
        Ok(vec![Some(dx.shaped(x.shape())?.tensor())])
    }
}

struct CrossEntropy {
    targets: Tensor,
    /// log Σ e^x of each row.
    sums: Mutex<Option<Tensor>>,
}

impl Fused for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn forward_anywhere(&self, inputs: &[Tensor]) -> Result<(Storage, Shape)> {
        let logits = &inputs[0];
        let both: (&dyn Memory, &dyn Memory) = (logits, &self.targets);
        let (mean, sums) = calls::cross_entropy(device(logits)?, both, rows(logits)?)?;
        *self.sums.lock().unwrap_or_else(PoisonError::into_inner) = Some(sums.tensor());
        Ok(mean.result())
    }

    fn backward(
        &self,
        inputs: &[Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let logits = &inputs[0];
        let sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(sums) = sums else { candle_core::bail!("cross_entropy did not run") };
        let all: [&dyn Memory; 4] = [logits, &self.targets, &sums, grad];
        let dx = calls::cross_entropy_backward(device(logits)?, all, rows(logits)?)?;
        Ok(vec![Some(dx.shaped(logits.shape())?.tensor())])
    }
}

struct AddRow;

impl Fused for AddRow {
    fn name(&self) -> &'static str {
        "add_row"
    }

    fn forward_anywhere(&self, inputs: &[Tensor]) -> Result<(Storage, Shape)> {
        let (x, row) = (&inputs[0], &inputs[1]);
        let width = row.elem_count();
        let sizes = (x.elem_count() / width, width);
        let y = calls::sum(device(x)?, None, (x, DType::F32), Some(row), sizes)?;
        Ok(y.shaped(x.shape())?.result())
    }

    fn backward(
        &self,
        inputs: &[Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let row = &inputs[1];
        let sizes = (grad.elem_count() / row.elem_count(), row.elem_count());
        let drow = calls::column_sums(device(grad)?, (grad, DType::F32), sizes)?;
        Ok(vec![Some(grad.clone()), Some(drow.shaped(row.shape())?.tensor())])
    }
}

/// Indices, in the memory of a device.
pub(super) fn indices(numbers: &[u32], device: &Device) -> Result<Tensor> {
    Tensor::from_slice(numbers, numbers.len(), device)
}
