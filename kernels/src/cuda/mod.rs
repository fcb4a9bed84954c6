//! The operators on NVIDIA GPUs, with kernels of our own (`kernels/cuda`) and cuBLAS's products.
//!
//! Each operator is one node of the graph with its own backward pass, as on the CPU, and the same
//! mathematics. f32 alone; other dtypes, and tensors without numbers, go through `composed`. Where
//! products are in bf16 ([`Products::Bf16`]) what the inside of a half of a block hands from kernel to
//! kernel is bf16 too, as under torch's autocast; what goes in and out, statistics, softmax and the
//! gradients of weights are f32. Results are the same in every run on the same GPU: nothing is
//! summed with atomics, and cuBLAS's products are reproducible on one stream.
//!
//! Reading order: `launch` (memory and launches), `product`, `calls` (a function for each kernel),
//! then the operators: `attention`, `halves`, `linear`, `rows`, `tokens`, and `optimizer`, `open`.

mod attention;
mod calls;
mod halves;
mod launch;
mod linear;
mod open;
mod optimizer;
mod product;
mod rows;
mod tokens;

pub(crate) use attention::{attention, attention_ragged};
pub(crate) use halves::halves_in_turn;
pub(crate) use linear::{linear, project};
pub(crate) use open::open_gpu;
pub(crate) use optimizer::{adamw, sum_of_squares};
pub(crate) use rows::{add_row, cross_entropy, geglu, gelu, l2_normalize, layer_norm};
pub(crate) use tokens::{embedding, patches, with_class_and_positions};

use candle_core::{CudaDevice, DType, Result, Tensor, TensorId};

use crate::collect_tensors::collect_tensor;
use crate::linear::Products;
use launch::{Buffer, Memory};

/// Whether these tensors' operators are those of this module.
pub(crate) fn takes(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|t| t.device().is_cuda() && t.dtype() == DType::F32 && t.elem_count() > 0)
}

fn device(x: &Tensor) -> Result<&CudaDevice> {
    x.device().as_cuda_device()
}

/// The format in which products take their factors.
fn format(products: Products) -> DType {
    match products {
        Products::F32 => DType::F32,
        Products::Bf16 => DType::BF16,
    }
}

/// A weight or activation in this format.
fn in_format(device: &CudaDevice, x: &Tensor, to: DType) -> Result<Tensor> {
    if x.dtype() == to {
        return Ok(x.detach());
    }
    Ok(calls::rounded(device, x, (1, x.elem_count()))?.shaped(x.shape())?.tensor())
}

/// The gradient dyᵀ x (n, k) of a weight, where it is collected, else as a tensor.
fn weight_gradient(
    device: &CudaDevice,
    id: Option<&TensorId>,
    (dy, x): (&dyn Memory, &dyn Memory),
    (n, k, rows): (usize, usize, usize),
) -> Result<Option<Tensor>> {
    let write = |before: Option<&Tensor>| match before {
        Some(sum) => {
            product::of_columns(device, (dy, x), (n, k, rows), sum, true)?;
            Ok(sum.clone())
        }
        None => {
            let new = Buffer::new(device, (n, k), DType::F32)?;
            product::of_columns(device, (dy, x), (n, k, rows), &new, false)?;
            Ok(new.tensor())
        }
    };
    match collect_tensor(id, &(n, k).into(), write) {
        Some(done) => done.map(|()| None),
        None => write(None).map(Some),
    }
}

/// Any other gradient, where it is collected, else as it is.
fn gradient(id: Option<&TensorId>, gradient: Tensor) -> Result<Option<Tensor>> {
    let write = |before: Option<&Tensor>| match before {
        Some(sum) => sum + &gradient,
        None => Ok(gradient.clone()),
    };
    match collect_tensor(id, gradient.shape(), write) {
        Some(done) => done.map(|()| None),
        None => Ok(Some(gradient)),
    }
}
