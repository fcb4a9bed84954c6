//! Attention, and the halves of a block.

use candle_core::{D, Result, Tensor};

use super::rows::{embedding, gelu, layer_norm, linear, mask, quick_gelu, softmax, spread};
use crate::halves::{Half, HalfForm};
use crate::recompute::recompute;

/// [`crate::attention()`]
pub(crate) fn attention(qkv: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    let (batch, tokens, _) = qkv.dims3()?;
    let mask = mask(&vec![tokens; batch], tokens, causal, qkv.dtype(), qkv.device())?;
    masked(qkv, heads, mask.as_ref())
}

/// (B, N, 3C) → (B, N, C)
fn masked(qkv: &Tensor, heads: usize, mask: Option<&Tensor>) -> Result<Tensor> {
    let (batch, tokens, width) = qkv.dims3()?;
    let (width, head) = (width / 3, width / 3 / heads);
    let all = qkv.reshape((batch, tokens, 3, heads, head))?.permute((2, 0, 3, 1, 4))?;
    let part = |i: usize| all.get(i)?.contiguous(); // (B, H, N, d)
    let (q, k, v) = (part(0)?, part(1)?, part(2)?);
    let scores = (q * (1.0 / (head as f64).sqrt()))?.matmul(&k.t()?)?;
    let scores = match mask {
        Some(mask) if mask.dim(0)? == 1 => {
            let all = spread(&mask.flatten_all()?, batch * heads)?;
            (&scores + all.reshape(scores.shape())?)?
        }
        Some(mask) => scores.broadcast_add(mask)?,
        None => scores,
    };
    let y = softmax(&scores)?.matmul(&v)?; // (B, H, N, d)
    y.transpose(1, 2)?.contiguous()?.reshape((batch, tokens, width))
}

/// [`crate::attention_ragged()`]: sequences of one length as they are, others padded to the longest.
pub(crate) fn attention_ragged(
    qkv: &Tensor,
    lengths: &[usize],
    heads: usize,
    causal: bool,
) -> Result<Tensor> {
    let (rows, width) = qkv.dims2()?;
    let tokens = lengths.iter().copied().max().unwrap_or(0);
    if rows == 0 {
        return qkv.narrow(1, 0, width / 3);
    }
    if lengths.iter().all(|n| *n == tokens) {
        let y = attention(&qkv.reshape((lengths.len(), tokens, width))?, heads, causal)?;
        return y.reshape((rows, width / 3));
    }
    // Where each row stands among the padded ones, and which row each of those takes: row 0 in the
    // padding, which nobody looks at.
    let (mut places, mut taken, mut first) = (Vec::with_capacity(rows), Vec::new(), 0);
    for n in lengths {
        places.extend((0..*n).map(|i| (taken.len() + i) as u32));
        taken.extend((0..tokens).map(|i| if i < *n { (first + i) as u32 } else { 0 }));
        first += n;
    }
    let padded = embedding(qkv, &taken, &[lengths.len(), tokens, width])?;
    let mask = mask(lengths, tokens, causal, qkv.dtype(), qkv.device())?;
    let y = masked(&padded, heads, mask.as_ref())?;
    embedding(&y.flatten_to(1)?, &places, &[rows, width / 3])
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
    let lengths = lengths.to_vec();
    run(x, half, form, move |first| {
        let (width, shape) = (first.dim(D::Minus1)?, first.dims().to_vec());
        let y = attention_ragged(&first.reshape(((), width))?, &lengths, heads, causal)?;
        let mut shape = shape;
        shape.pop();
        shape.push(width / 3);
        y.reshape(shape)
    })
}

/// [`crate::mlp_half()`]
pub(crate) fn mlp_half(x: &Tensor, half: Half, quick: bool, form: HalfForm) -> Result<Tensor> {
    run(x, half, form, move |first| if quick { quick_gelu(first) } else { gelu(first) })
}

fn run(
    x: &Tensor,
    half: Half,
    form: HalfForm,
    middle: impl Fn(&Tensor) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    let Half { norm: [gain, shift], first: [w1, b1], second: [w2, b2] } = half;
    let inputs = [x, gain, shift, w1, b1, w2, b2];
    let part = move |all: &[Tensor]| -> Result<Tensor> {
        let [x, gain, shift, w1, b1, w2, b2] = all else {
            candle_core::bail!("half of a block takes 7 tensors")
        };
        let first = linear(&layer_norm(x, gain, shift, form.eps)?, w1, Some(b1), form.products)?;
        x + linear(&middle(&first)?, w2, Some(b2), form.products)?
    };
    if form.again {
        return recompute(&inputs, part);
    }
    part(&inputs.map(Tensor::clone))
}
