//! Fused operators with their backward passes (candle CustomOps). SKELETON: signatures are the contract.
#![allow(missing_docs, unused)]
use candle_core::{Result, Tensor};
/// (.., C) -> (.., C)
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> { todo!() }
/// exact erf GELU
pub fn gelu(x: &Tensor) -> Result<Tensor> { todo!() }
/// x * sigmoid(1.702 x)
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> { todo!() }
/// Packed (B, N, 3C) -> (B, N, C): softmax(q k^T / sqrt(d)) v, heads split C; causal masks j > i
pub fn attention(qkv: &Tensor, heads: usize, causal: bool) -> Result<Tensor> { todo!() }
/// softmax over the last dimension, with backward
pub fn softmax(x: &Tensor) -> Result<Tensor> { todo!() }
/// mean over rows of -log softmax(logits)[row, target[row]]; logits (R, C), targets u32 (R)
pub fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> { todo!() }
