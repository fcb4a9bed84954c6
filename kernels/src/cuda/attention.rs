//! Scaled dot-product attention (arXiv 1706.03762, Eq. 1): heads apart, products of all of them at
//! once, a softmax of what each query sees, heads together.
//!
//! In bf16 one kernel does all of that for short sequences. Elsewhere, unlike on the CPU, the softmax is
//! kept for the backward pass: memory is there, and a product saved.

use std::sync::{Mutex, PoisonError};

use candle_core::{CudaDevice, DType, Result, Shape, Storage, Tensor};

use super::calls::{self, Heads};
use super::launch::{Buffer, Memory};
use super::product::{Factor, product};
use super::{device, format, in_format};
use crate::attention::Form;
use crate::fused::{Fused, apply};
use crate::linear::Products;

/// Rows of scores begin at multiples of so many numbers: cuBLAS's fast products want 16 bytes.
const STRIDE: usize = 8;

/// [`crate::attention_in()`]
pub(crate) fn attention(
    qkv: &Tensor,
    heads: usize,
    causal: bool,
    products: Products,
) -> Result<Tensor> {
    let (batch, tokens, width) = qkv.dims3()?;
    let shape = Shape::from((batch, tokens, width / 3));
    run(qkv, (vec![tokens; batch], shape), heads, causal, products)
}

/// [`crate::attention_ragged_in()`]
pub(crate) fn attention_ragged(
    qkv: &Tensor,
    lengths: &[usize],
    heads: usize,
    causal: bool,
    products: Products,
) -> Result<Tensor> {
    let (rows, width) = qkv.dims2()?;
    let shape = Shape::from((rows, width / 3));
    run(qkv, (lengths.to_vec(), shape), heads, causal, products)
}

fn run(
    qkv: &Tensor,
    (lengths, shape): (Vec<usize>, Shape),
    heads: usize,
    causal: bool,
    products: Products,
) -> Result<Tensor> {
    let form = Form { heads, head: shape.dims()[shape.rank() - 1] / heads, causal };
    let kept = Mutex::new(None);
    apply(Attention { form, lengths, shape, format: format(products), kept }, &[qkv])
}

struct Attention {
    form: Form,
    lengths: Vec<usize>,
    shape: Shape,
    format: DType,
    /// With the rows in this format.
    kept: Mutex<Option<(Tensor, Kept)>>,
}

impl Attention {
    fn inside(
        &self,
        device: &CudaDevice,
        qkv: &Tensor,
        sequences: &Sequences,
    ) -> Result<(Buffer, (Tensor, Kept))> {
        let rows = in_format(device, qkv, self.format)?;
        let (y, kept) = forward(device, (&rows, None, self.format), self.form, sequences)?;
        Ok((y, (rows, kept)))
    }
}

impl Fused for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn forward_anywhere(&self, inputs: &[Tensor]) -> Result<(Storage, Shape)> {
        let (qkv, device) = (&inputs[0], device(&inputs[0])?);
        let sequences = Sequences::new(device, &self.lengths)?;
        let (y, kept) = self.inside(device, qkv, &sequences)?;
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
        Ok(in_f32(device, y, self.shape.clone())?.result())
    }

    fn backward(
        &self,
        inputs: &[Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let (qkv, device) = (&inputs[0], device(&inputs[0])?);
        let sequences = Sequences::new(device, &self.lengths)?;
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (rows, kept) = match kept {
            Some(kept) => kept,
            None => self.inside(device, qkv, &sequences)?.1,
        };
        let dy = in_format(device, grad, self.format)?;
        let dy: (&dyn Memory, DType) = (&dy, self.format);
        let dx = backward(device, (&rows, None), &kept, dy, self.form, &sequences)?;
        Ok(vec![Some(in_f32(device, dx, qkv.shape().clone())?.tensor())])
    }
}

/// Numbers of either format in f32.
fn in_f32(device: &CudaDevice, x: Buffer, shape: Shape) -> Result<Buffer> {
    let (dtype, count, ..) = x.at()?;
    if dtype == DType::F32 {
        return x.shaped(shape);
    }
    calls::sum(device, None, (&x, dtype), None, (1, count))?.shaped(shape)
}

/// Sequences that lie one after the other.
pub(crate) struct Sequences {
    batch: usize,
    /// Of the longest.
    tokens: usize,
    rows: usize,
    /// Where each begins; None where all are as long.
    starts: Option<Tensor>,
}

impl Sequences {
    pub(crate) fn new(device: &CudaDevice, lengths: &[usize]) -> Result<Self> {
        let tokens = lengths.iter().copied().max().unwrap_or(0);
        let rows = lengths.iter().sum();
        let starts = match lengths.iter().all(|n| *n == tokens) {
            true => None,
            false => {
                let ends = lengths.iter().scan(0, |end, n| {
                    *end += *n as u32;
                    Some(*end)
                });
                let starts: Vec<u32> = std::iter::once(0).chain(ends).collect();
                let device = candle_core::Device::Cuda(device.clone());
                Some(Tensor::from_vec(starts, lengths.len() + 1, &device)?)
            }
        };
        Ok(Self { batch: lengths.len(), tokens, rows, starts })
    }

    fn heads(&self, form: Form) -> Heads<'_> {
        let Form { heads, head, .. } = form;
        let starts = self.starts.as_ref().map(|starts| starts as &dyn Memory);
        Heads { batch: self.batch, heads, head, tokens: self.tokens, rows: self.rows, starts }
    }
}

/// What the backward pass needs beside the rows themselves.
pub(crate) enum Kept {
    /// Queries (divided by √d), keys and values apart, and the softmax.
    Apart { parts: Buffer, weights: Buffer },
    /// Nothing: a kernel of short sequences makes all of it again from the rows.
    Rows,
}

/// y (ΣN, C) of rows (ΣN, 3C) plus `bias` (3C).
pub(crate) fn forward(
    device: &CudaDevice,
    (qkv, bias, format): (&dyn Memory, Option<&dyn Memory>, DType),
    form: Form,
    sequences: &Sequences,
) -> Result<(Buffer, Kept)> {
    let heads = sequences.heads(form);
    if let (DType::BF16, Some(short)) = (format, heads.short(device)?) {
        let y = heads.attend(device, short, (qkv, bias), (form.causal, scale(form)))?;
        return Ok((y, Kept::Rows));
    }
    let parts = heads.apart(device, (qkv, bias, format), 3, scale(form))?;
    let sizes = Sizes::new(sequences, form);
    let (batch, tokens, head) = (sizes.batch, sizes.tokens, form.head);
    let scores = Buffer::new(device, (batch * tokens, sizes.stride), DType::F32)?;
    let (q, k, v) = (sizes.part(&parts, 0), sizes.part(&parts, 1), sizes.part(&parts, 2));
    let by_keys = (batch, tokens, tokens, head);
    product(device, (&q, &k.turned()), &sizes.square(&scores), by_keys, false)?;
    let weights = heads.softmax(device, &scores, sizes.stride, form.causal, format)?;
    drop(scores);
    let apart = Buffer::new(device, (batch * tokens, head), format)?;
    let by_values = (batch, tokens, head, tokens);
    product(device, (&sizes.square(&weights), &v), &sizes.part(&apart, 0), by_values, false)?;
    let y = heads.together(device, (&apart, format), 1, 1.0)?;
    Ok((y, Kept::Apart { parts, weights }))
}

/// The gradient (ΣN, 3C) of the rows.
pub(crate) fn backward(
    device: &CudaDevice,
    (qkv, bias): (&dyn Memory, Option<&dyn Memory>),
    kept: &Kept,
    (dy, format): (&dyn Memory, DType),
    form: Form,
    sequences: &Sequences,
) -> Result<Buffer> {
    let heads = sequences.heads(form);
    let (parts, weights) = match kept {
        Kept::Apart { parts, weights } => (parts, weights),
        Kept::Rows => {
            let Some(short) = heads.short(device)? else {
                candle_core::bail!("attention: other sequences than those of the forward pass")
            };
            let rows = (qkv, bias);
            return heads.attend_backward(device, short, rows, dy, (form.causal, scale(form)));
        }
    };
    let sizes = Sizes::new(sequences, form);
    let (batch, tokens, head) = (sizes.batch, sizes.tokens, form.head);
    let part = |i: usize| sizes.part(parts, i);
    let dy = heads.apart(device, (dy, None, format), 1, 1.0)?;
    let gradients = Buffer::new(device, (3 * batch * tokens, head), format)?;
    let to = |i: usize| sizes.part(&gradients, i);
    let (by_values, by_keys) = ((batch, tokens, head, tokens), (batch, tokens, tokens, head));
    let dy = sizes.part(&dy, 0);
    // dV = Pᵀ dY, dP = dY Vᵀ, then dS = P (dP - Σ dP P)
    product(device, (&sizes.square(weights).turned(), &dy), &to(2), by_values, false)?;
    let dp = Buffer::new(device, (batch * tokens, sizes.stride), DType::F32)?;
    product(device, (&dy, &part(2).turned()), &sizes.square(&dp), by_keys, false)?;
    let ds = heads.softmax_backward(device, (weights, format), &dp, sizes.stride)?;
    drop(dp);
    // dQ = dS K / √d; dK = dSᵀ Q / √d, and Q is already divided
    product(device, (&sizes.square(&ds), &part(1)), &to(0), by_values, false)?;
    product(device, (&sizes.square(&ds).turned(), &part(0)), &to(1), by_values, false)?;
    heads.together(device, (&gradients, format), 3, scale(form))
}

fn scale(form: Form) -> f32 {
    (1.0 / (form.head as f64).sqrt()) as f32
}

/// How the matrices of all heads of all sequences lie.
struct Sizes {
    /// Heads of all sequences.
    batch: usize,
    tokens: usize,
    head: usize,
    stride: usize,
}

impl Sizes {
    fn new(sequences: &Sequences, form: Form) -> Self {
        Self {
            batch: sequences.batch * form.heads,
            tokens: sequences.tokens,
            head: form.head,
            stride: sequences.tokens.next_multiple_of(STRIDE),
        }
    }

    /// The i-th part: (tokens, d) of each head.
    fn part<'a>(&self, memory: &'a Buffer, i: usize) -> Factor<'a> {
        let step = self.tokens * self.head;
        Factor::new(memory, self.head).step(step).from(i * self.batch * step)
    }

    /// Scores: (tokens, tokens) of each head, in rows of `stride`.
    fn square<'a>(&self, memory: &'a Buffer) -> Factor<'a> {
        Factor::new(memory, self.stride).step(self.tokens * self.stride)
    }
}
