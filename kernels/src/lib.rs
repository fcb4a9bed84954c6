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
//! Everything here runs on the CPU in f32 or f64; another dtype or device is refused with an error.
//! Results do not depend on the number of threads or on which SIMD level ran: work is cut into
//! pieces of fixed size, sums are taken in fixed lanes and in a fixed order, and multiplications
//! and additions are never contracted. The one exception is the matrix product of the `gemm`
//! crate (see [`linear()`]), whose blocking follows the caches of the machine; it is the same at
//! any number of threads.
//!
//! Reading order: [`linear()`], [`layer_norm()`], [`gelu()`], [`attention()`], [`batch_norm()`],
//! [`softmax()`], [`cross_entropy()`], [`embedding()`], [`patches()`], [`l2_normalize()`],
//! [`adamw_step()`]; below them `simd` (the
//! choice of SIMD level, the only `unsafe` code but for the call of gemm), `elementary`
//! (exponential and normal distribution), `slices` (tensors as slices) and `fused` (operators with
//! more than three inputs).
#![allow(unsafe_code)] // in `simd` and `gemm` alone

mod adamw;
mod attention;
mod batch_norm;
mod cross_entropy;
mod elementary;
mod embedding;
mod fused;
mod gelu;
mod gemm;
mod layer_norm;
mod linear;
mod normalize;
mod patches;
mod rows;
mod simd;
mod slices;
mod softmax;
mod tiles;

pub use adamw::{AdamW, adamw_step};
pub use attention::{attention, attention_ragged};
pub use batch_norm::{BatchStatistics, batch_norm, batch_norm_train};
pub use cross_entropy::cross_entropy;
pub use embedding::embedding;
pub use gelu::{gelu, gelu_first, quick_gelu};
pub use layer_norm::layer_norm;
pub use linear::linear;
pub use normalize::l2_normalize;
pub use patches::{patches, with_class_and_positions};
pub use softmax::softmax;
