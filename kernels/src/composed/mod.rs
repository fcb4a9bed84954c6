//! The operators of this crate for tensors on a GPU.
//!
//! Each function here is what an operator does there: our own kernels where there are any
//! (`crate::cuda`, f32), else a composition of candle's operators. A composition is the same
//! mathematics with candle's kernels and candle's gradients: right, and several times slower than a
//! kernel of its own. On the CPU the tests put the compositions beside the operators, numbers and
//! gradients, which is how they are checked without a GPU; `tests/on_device.rs` does it with one.
//! Sums and products of a GPU come in an order of its own: results agree with those of the CPU to
//! rounding.

mod attention;
mod rows;
mod windows;

pub(crate) use rows::{batch_norm, gelu_first, moments, softmax};
pub(crate) use windows::{avg_pool3x3, conv3x3, depthwise3x3};

use candle_core::{Result, Tensor};

use crate::halves::{Half, HalfForm};
#[cfg(feature = "cuda")]
use crate::halves_in_turn::HalfOf;
use crate::linear::Products;

/// Whether this tensor's operators are those of this module.
pub(crate) fn takes(x: &Tensor) -> bool {
    !x.device().is_cpu()
}

/// Leaves for our own kernels where they take these tensors.
macro_rules! on_gpu {
    ($tensors:expr => $result:expr) => {
        #[cfg(feature = "cuda")]
        if crate::cuda::takes(&$tensors) {
            return $result;
        }
    };
}

#[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "for our own kernels"))]
/// [`crate::attention_in()`]; the composition's products are those of the dtype.
pub(crate) fn attention(
    qkv: &Tensor,
    heads: usize,
    causal: bool,
    products: Products,
) -> Result<Tensor> {
    on_gpu!([qkv] => crate::cuda::attention(qkv, heads, causal, products));
    attention::attention(qkv, heads, causal)
}

#[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "for our own kernels"))]
/// [`crate::attention_ragged_in()`], as [`attention`].
pub(crate) fn attention_ragged(
    qkv: &Tensor,
    lengths: &[usize],
    heads: usize,
    causal: bool,
    products: Products,
) -> Result<Tensor> {
    on_gpu!([qkv] => crate::cuda::attention_ragged(qkv, lengths, heads, causal, products));
    attention::attention_ragged(qkv, lengths, heads, causal)
}

/// [`crate::attention_half()`]
pub(crate) fn attention_half(
    x: &Tensor,
    half: Half,
    lengths: &[usize],
    heads: usize,
    causal: bool,
    form: HalfForm,
) -> Result<Tensor> {
    on_gpu!(of(x, half) => crate::cuda::halves_in_turn(
        x,
        &[HalfOf::Attention { half, lengths, heads, causal, form }],
    ));
    attention::attention_half(x, half, lengths, heads, causal, form)
}

/// [`crate::mlp_half()`]
pub(crate) fn mlp_half(x: &Tensor, half: Half, quick: bool, form: HalfForm) -> Result<Tensor> {
    on_gpu!(of(x, half) => crate::cuda::halves_in_turn(x, &[HalfOf::Mlp { half, quick, form }]));
    attention::mlp_half(x, half, quick, form)
}

#[cfg(feature = "cuda")]
fn of<'a>(x: &'a Tensor, half: Half<'a>) -> [&'a Tensor; 7] {
    let Half { norm: [gain, shift], first: [w1, b1], second: [w2, b2] } = half;
    [x, gain, shift, w1, b1, w2, b2]
}

/// [`crate::linear_in()`]
pub(crate) fn linear(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    products: Products,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    {
        let rounded = weight.dtype() == candle_core::DType::BF16 && weight.elem_count() > 0;
        let weights = rounded || crate::cuda::takes(&[weight]);
        if weights && crate::cuda::takes(&[x, bias.unwrap_or(x)]) {
            return crate::cuda::linear(x, weight, bias, products);
        }
    }
    rows::linear(x, weight, bias, products)
}

/// [`crate::project()`]
pub(crate) fn project(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    on_gpu!([x, weight] => crate::cuda::project(x, weight));
    rows::product(x, weight, Products::F32)
}

/// [`crate::layer_norm()`]
pub(crate) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    on_gpu!([x, weight, bias] => crate::cuda::layer_norm(x, weight, bias, eps));
    rows::layer_norm(x, weight, bias, eps)
}

/// [`crate::gelu()`]
pub(crate) fn gelu(x: &Tensor) -> Result<Tensor> {
    on_gpu!([x] => crate::cuda::gelu(x, false));
    rows::gelu(x)
}

/// [`crate::quick_gelu()`]
pub(crate) fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    on_gpu!([x] => crate::cuda::gelu(x, true));
    rows::quick_gelu(x)
}

/// [`crate::geglu()`]
pub(crate) fn geglu(gate: &Tensor, value: &Tensor) -> Result<Tensor> {
    on_gpu!([gate, value] => crate::cuda::geglu(gate, value));
    rows::geglu(gate, value)
}

/// [`crate::add_row()`], everywhere.
pub(crate) fn add_row(x: &Tensor, row: &Tensor) -> Result<Tensor> {
    on_gpu!([x, row] => crate::cuda::add_row(x, row));
    rows::with_bias(x, row)
}

/// [`crate::cross_entropy()`]
pub(crate) fn cross_entropy(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
    on_gpu!([logits] => crate::cuda::cross_entropy(logits, targets));
    rows::cross_entropy(logits, targets)
}

/// [`crate::embedding()`]
pub(crate) fn embedding(table: &Tensor, ids: &[u32], shape: &[usize]) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if !ids.is_empty() && crate::cuda::takes(&[table]) {
        return crate::cuda::embedding(table, ids, shape);
    }
    rows::embedding(table, ids, shape)
}

/// [`crate::l2_normalize()`]
pub(crate) fn l2_normalize(x: &Tensor) -> Result<Tensor> {
    on_gpu!([x] => crate::cuda::l2_normalize(x));
    rows::l2_normalize(x)
}

/// [`crate::patches()`]
pub(crate) fn patches(x: &Tensor, patch: usize) -> Result<Tensor> {
    on_gpu!([x] => crate::cuda::patches(x, patch));
    rows::patches(x, patch)
}

/// [`crate::with_class_and_positions()`]
pub(crate) fn with_class_and_positions(
    class: &Tensor,
    tokens: &Tensor,
    positions: &Tensor,
) -> Result<Tensor> {
    on_gpu!([class, tokens, positions] =>
        crate::cuda::with_class_and_positions(class, tokens, positions));
    rows::with_class_and_positions(class, tokens, positions)
}

#[cfg(test)]
mod tests;
