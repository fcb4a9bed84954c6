//! What the tests against golden numbers share.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor, safetensors};

pub(crate) type Tensors = BTreeMap<String, Tensor>;

pub(crate) fn load(folder: &Path, file: &str) -> Tensors {
    safetensors::load(folder.join(file), &Device::Cpu).unwrap().into_iter().collect()
}

/// Largest absolute difference.
pub(crate) fn worst(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let difference = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
    f64::from(difference.max(0).unwrap().to_scalar::<f32>().unwrap())
}

/// Largest absolute value.
pub(crate) fn largest(a: &Tensor) -> f64 {
    worst(a, &a.zeros_like().unwrap())
}

/// open_clip's `ClipLoss`: both cross-entropies of exp(scale)·I Tᵀ.
pub(crate) fn loss(image: &Tensor, text: &Tensor, logit_scale: &Tensor) -> (Tensor, Tensor) {
    let scale = logit_scale.exp().unwrap();
    let logits = image.matmul(&text.t().unwrap()).unwrap().broadcast_mul(&scale).unwrap();
    let rows = u32::try_from(logits.dim(0).unwrap()).unwrap();
    let targets = Tensor::arange(0u32, rows, &Device::Cpu).unwrap();
    let there = kernels::cross_entropy(&logits, &targets).unwrap();
    let back = kernels::cross_entropy(&logits.t().unwrap(), &targets).unwrap();
    (logits, ((there + back).unwrap() / 2.0).unwrap())
}
