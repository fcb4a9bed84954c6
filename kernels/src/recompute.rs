//! Gradient checkpointing: a part of a model that is computed again in the backward pass.
//!
//! Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174. Between the two
//! passes only the inputs and the result live; what the part keeps inside is made again when its
//! gradient is asked for, at the price of a second forward pass.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, Result, Shape, Storage, Tensor, Var};

use crate::fused::{Fused, apply};

/// `part(inputs)` without its history, and its gradients by computing it again.
///
/// `part` must use no other tensor that needs a gradient, give the same numbers each time, and
/// change nothing outside (no running statistics).
///
/// # Shapes
/// any
///
/// # Errors
/// Those of `part`, or no input.
pub fn recompute<F>(inputs: &[&Tensor], part: F) -> Result<Tensor>
where
    F: Fn(&[Tensor]) -> Result<Tensor> + Send + Sync + 'static,
{
    apply(Recompute { part }, inputs)
}

struct Recompute<F> {
    part: F,
}

impl<F> Fused for Recompute<F>
where
    F: Fn(&[Tensor]) -> Result<Tensor> + Send + Sync + 'static,
{
    fn name(&self) -> &'static str {
        "recompute"
    }

    fn forward(&self, inputs: &[Tensor]) -> Result<(CpuStorage, Shape)> {
        let y = (self.part)(inputs)?.contiguous()?;
        let (storage, layout) = y.storage_and_layout();
        let (Storage::Cpu(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets())
        else {
            candle_core::bail!("recompute: a result on another device")
        };
        let storage = match storage {
            CpuStorage::F32(values) => CpuStorage::F32(values[start..end].to_vec()),
            CpuStorage::F64(values) => CpuStorage::F64(values[start..end].to_vec()),
            _ => candle_core::bail!("recompute takes f32 or f64, got {:?}", y.dtype()),
        };
        Ok((storage, y.shape().clone()))
    }

    fn forward_anywhere(&self, inputs: &[Tensor]) -> Result<(Storage, Shape)> {
        if inputs.iter().all(|x| x.device().is_cpu()) {
            return self.forward(inputs).map(|(storage, shape)| (Storage::Cpu(storage), shape));
        }
        // A storage of its own, without a view's offset.
        let y = (self.part)(inputs)?.force_contiguous()?;
        let (storage, layout) = y.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) => {
                Ok((Storage::Cuda(storage.try_clone(layout)?), y.shape().clone()))
            }
            _ => candle_core::bail!("recompute runs on the CPU and on CUDA"),
        }
    }

    fn backward(
        &self,
        inputs: &[Tensor],
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let vars = inputs.iter().map(Var::from_tensor).collect::<Result<Vec<_>>>()?;
        let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
        // The gradient of Σ y·g by y is g.
        let y = (self.part)(&tensors)?;
        let grads = (y * gradient.detach())?.sum_all()?.backward()?;
        Ok(vars.iter().map(|var| grads.get(var).cloned()).collect())
    }
}
