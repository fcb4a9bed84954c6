//! Fused operators with their backward passes, as candle custom operators.
//!
//! ```
//! use candle_core::{Device, Tensor, Var};
//! # fn main() -> candle_core::Result<()> {
//! let x = Var::from_tensor(&Tensor::new(&[[1f32, 2., 4.]], &Device::Cpu)?)?;
//! let loss = kernels::gelu(&x)?.sum_all()?;
//! let gradient = loss.backward()?.get(&x).unwrap().to_vec2::<f32>()?;
//! assert!((gradient[0][0] - 1.083_315_5).abs() < 1e-6);
//! # Ok(())
//! # }
//! ```
//!
//! Why not candle's own: `candle_nn::ops::layer_norm` and `softmax_last_dim` have no backward pass
//! and do not say so, GELU's backward is a dozen kernels with rounded constants, and every node of
//! the graph costs one zeroed tensor and one addition in the backward pass. Hence few, large
//! operators, each with a gradient check against finite differences.
//!
//! Everything here takes f32 or f64; another dtype is refused with an error. What is said here of
//! numbers is of the CPU: tensors on a GPU go through kernels of our own (`cuda`), or where there is
//! none through compositions of candle's operators (`composed`).
//! Results do not depend on the number of threads: work is cut into pieces of fixed size, and sums
//! are taken in fixed lanes and in a fixed order. They do not depend on which SIMD level ran either:
//! multiplications and additions are contracted nowhere but in the matrix products, and there at
//! every level. The exceptions are products in f64, and on machines without FMA, which are the
//! `gemm` crate's and follow the caches of the machine. In f32 with FMA a row of a result does not
//! depend on the rows beside it.
//!
//! Reading order: [`linear()`], [`layer_norm()`], [`gelu()`], [`attention()`], the halves of a block
//! made of them ([`attention_half()`], [`mlp_half()`]), [`Collected`], [`batch_norm()`],
//! [`softmax()`], [`cross_entropy()`], [`embedding()`], [`patches()`], [`l2_normalize()`],
//! [`adamw_step()`], [`keep_freed_memory()`],
//! [`limit_address_space()`]; below them `gemm`, `panels` and `tiles` (matrix products),
//! `simd` (the choice of SIMD level), `elementary` (exponential and normal distribution), `rows`
//! (sums), `slices` (tensors as slices) `fused` (operators with any number of inputs)
//! and, with the features of their names, `cuda` (the operators on GPUs, with the kernels of
//! `kernels/cuda`) and `nccl` (sums over GPUs).
#![allow(unsafe_code)] // in `simd`, `strip`, `tiles`, `ahead`, `panels`, `half_layout`, `half_product`, `gemm`, `fresh`, `memory`, `nccl` and `cuda`, each with its proof

mod adamw;
mod adamw_pass;
mod adamw_tensors;
mod add_row;
mod ahead;
mod attention;
mod batch_norm;
mod collect;
mod collect_tensors;
mod composed;
mod conv;
mod cross_entropy;
#[cfg(feature = "cuda")]
mod cuda;
mod depthwise;
mod elementary;
mod embedding;
mod fresh;
mod fused;
mod geglu;
mod gelu;
mod gemm;
mod half;
mod half_layout;
mod half_product;
mod halves;
mod halves_in_turn;
mod layer_norm;
mod linear;
mod memory;
#[cfg(feature = "nccl")]
pub mod nccl;
mod normalize;
mod open_gpu;
mod over;
mod packed;
mod panels;
mod patches;
mod pool;
mod recompute;
mod rows;
mod simd;
mod slices;
mod softmax;
mod strip;
mod sum;
mod tiles;
mod window;

pub use adamw::{AdamW, adamw_step};
pub use adamw_pass::{AdamWPass, sum_of_squares};
pub use adamw_tensors::{TensorStep, adamw_tensors, sum_of_squares_tensors};
pub use add_row::add_row;
pub use attention::{attention, attention_in, attention_ragged, attention_ragged_in};
pub use batch_norm::{BatchStatistics, batch_norm, batch_norm_train};
pub use collect::Collected;
pub use collect_tensors::CollectedTensors;
pub use conv::{conv3x3, conv3x3_in};
pub use cross_entropy::cross_entropy;
pub use depthwise::depthwise3x3;
pub use embedding::embedding;
pub use geglu::geglu;
pub use gelu::{gelu, gelu_first, quick_gelu};
pub use half::HalfLinear;
pub use halves::{Half, HalfForm, attention_half, mlp_half};
pub use halves_in_turn::{HalfOf, halves_in_turn};
pub use layer_norm::layer_norm;
pub use linear::{Products, linear, linear_in, project};
pub use memory::{keep_freed_memory, limit_address_space};
pub use normalize::l2_normalize;
pub use open_gpu::open_gpu;
pub use over::{add_over, geglu_over, gelu_over};
pub use packed::PackedLinear;
pub use panels::{on_one_thread, rows_stand_alone};
pub use patches::{patches, with_class_and_positions};
pub use pool::avg_pool3x3;
pub use recompute::recompute;
pub use softmax::softmax;
pub use sum::add;

#[cfg(test)]
mod levels;
