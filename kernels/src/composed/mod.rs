//! The operators of this crate as compositions of candle's, for tensors on a GPU.
//!
//! The same mathematics, with candle's kernels and candle's gradients: right first, and some three
//! to five times slower than fused kernels would be. On the CPU the tests put them beside
//! the operators, numbers and gradients, which is how they are checked without a GPU. Sums and products
//! of a GPU come in an order of its own: results agree with those of the CPU to rounding.

mod attention;
mod rows;
mod windows;

pub(crate) use attention::{attention, attention_half, attention_ragged, mlp_half};
pub(crate) use rows::{
    batch_norm, cross_entropy, embedding, geglu, gelu, gelu_first, l2_normalize, layer_norm,
    linear, moments, patches, product, quick_gelu, softmax, with_class_and_positions,
};
pub(crate) use windows::{avg_pool3x3, conv3x3, depthwise3x3};

use candle_core::Tensor;

/// Whether this tensor's operators are compositions.
pub(crate) fn takes(x: &Tensor) -> bool {
    !x.device().is_cpu()
}

#[cfg(test)]
mod tests;
