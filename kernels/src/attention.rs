//! Scaled dot-product attention over packed queries, keys and values.
//!
//! Vaswani et al., "Attention Is All You Need", arXiv 1706.03762, Eq. 1, with heads. The softmax is
//! not kept: the backward pass computes it again from queries and keys, which costs a fifth of that
//! pass and saves N² numbers a head.

use candle_core::{CpuStorage, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::elementary::Float;
use crate::fused::{Fused, apply};
use crate::rows::LANES;
use crate::simd::{Level, Work};
use crate::slices::{check, tensor, values, with_float};
use crate::softmax::{softmax_row, softmax_row_gradient};

/// softmax(q kᵀ / √d) v for each head, with its gradient; `causal` lets position i see only j ≤ i.
///
/// # Shapes
/// `qkv` (B, N, 3C), queries, keys and values one after the other, each `heads` x d → (B, N, C)
///
/// # Errors
/// A width that is not 3·heads·d, other dtypes than f32 and f64, or devices than the CPU.
pub fn attention(qkv: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    check("attention", qkv)?;
    let (batch, tokens, width) = qkv.dims3()?;
    check_width(width, heads)?;
    let shape = Shape::from((batch, tokens, width / 3));
    apply(Attention { lengths: vec![tokens; batch], heads, causal, shape }, &[qkv])
}

/// [`attention()`] over sequences of different lengths that lie one after the other.
///
/// # Shapes
/// `qkv` (ΣN, 3C), `lengths` N of each sequence → (ΣN, C)
///
/// # Errors
/// As [`attention()`], and lengths that do not add up to the rows.
pub fn attention_ragged(
    qkv: &Tensor,
    lengths: &[usize],
    heads: usize,
    causal: bool,
) -> Result<Tensor> {
    check("attention", qkv)?;
    let (rows, width) = qkv.dims2()?;
    check_width(width, heads)?;
    if lengths.iter().sum::<usize>() != rows {
        candle_core::bail!("attention: lengths do not add up to the {rows} rows");
    }
    let shape = Shape::from((rows, width / 3));
    apply(Attention { lengths: lengths.to_vec(), heads, causal, shape }, &[qkv])
}

fn check_width(width: usize, heads: usize) -> Result<()> {
    if heads == 0 || width == 0 || !width.is_multiple_of(3 * heads) {
        candle_core::bail!("attention: width {width} is not 3 x {heads} heads x d");
    }
    Ok(())
}

struct Attention {
    lengths: Vec<usize>,
    heads: usize,
    causal: bool,
    shape: Shape,
}

impl Fused for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn forward(&self, inputs: &[Tensor]) -> Result<(CpuStorage, Shape)> {
        let [qkv] = inputs else { candle_core::bail!("attention takes 1 tensor") };
        with_float!("attention", qkv.dtype(), T => {
            let form = self.form(qkv)?;
            let y = forward(Level::best(), &values::<T>(qkv, "attention")?, form, &self.lengths);
            Ok((<T as candle_core::WithDType>::to_cpu_storage_owned(y), self.shape.clone()))
        })
    }

    fn backward(
        &self,
        inputs: &[Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let [qkv] = inputs else { candle_core::bail!("attention takes 1 tensor") };
        with_float!("attention", qkv.dtype(), T => {
            let (x, dy) = (values::<T>(qkv, "attention")?, values::<T>(grad, "attention")?);
            let dx = backward(Level::best(), &x, &dy, self.form(qkv)?, &self.lengths);
            Ok(vec![Some(tensor(dx, qkv.shape())?)])
        })
    }
}

impl Attention {
    fn form(&self, qkv: &Tensor) -> Result<Form> {
        let channels = qkv.dim(candle_core::D::Minus1)? / 3;
        Ok(Form { heads: self.heads, head: channels / self.heads, causal: self.causal })
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Form {
    pub(crate) heads: usize,
    /// d, the width of a head.
    pub(crate) head: usize,
    pub(crate) causal: bool,
}

pub(crate) fn forward<T: Float>(level: Level, qkv: &[T], form: Form, lengths: &[usize]) -> Vec<T> {
    let width = form.heads * form.head;
    let mut y = vec![T::ZERO; qkv.len() / 3];
    let inputs = split(qkv, lengths, 3 * width);
    let outputs = split_mut(&mut y, lengths, width);
    inputs.into_par_iter().zip(outputs).for_each_init(Scratch::default, |scratch, (qkv, y)| {
        level.run(Forward { qkv, y, form, scratch });
    });
    y
}

pub(crate) fn backward<T: Float>(
    level: Level,
    qkv: &[T],
    dy: &[T],
    form: Form,
    lengths: &[usize],
) -> Vec<T> {
    let width = form.heads * form.head;
    let mut dx = vec![T::ZERO; qkv.len()];
    let inputs = split(qkv, lengths, 3 * width);
    let gradients = split(dy, lengths, width);
    let outputs = split_mut(&mut dx, lengths, 3 * width);
    inputs
        .into_par_iter()
        .zip(gradients)
        .zip(outputs)
        .for_each_init(Scratch::default, |scratch, ((qkv, dy), dx)| {
            level.run(Backward { qkv, dy, dx, form, scratch })
        });
    dx
}

fn split<'a, T>(mut all: &'a [T], lengths: &[usize], width: usize) -> Vec<&'a [T]> {
    lengths
        .iter()
        .map(|length| {
            let (part, rest) = all.split_at(length * width);
            all = rest;
            part
        })
        .collect()
}

fn split_mut<'a, T>(mut all: &'a mut [T], lengths: &[usize], width: usize) -> Vec<&'a mut [T]> {
    lengths
        .iter()
        .map(|length| {
            let (part, rest) = std::mem::take(&mut all).split_at_mut(length * width);
            all = rest;
            part
        })
        .collect()
}

/// Buffers of one sequence and head, kept by a thread from one sequence to the next. Rows are
/// padded with zeros to whole vectors.
#[derive(Default)]
struct Scratch<T> {
    q: Vec<T>,
    k: Vec<T>,
    v: Vec<T>,
    k_t: Vec<T>,
    v_t: Vec<T>,
    dy: Vec<T>,
    weights: Vec<T>,
    slopes: Vec<T>,
    out: Vec<T>,
}

fn padded(n: usize) -> usize {
    n.div_ceil(LANES) * LANES
}

struct Forward<'a, T> {
    qkv: &'a [T],
    y: &'a mut [T],
    form: Form,
    scratch: &'a mut Scratch<T>,
}

impl<T: Float> Work for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Form { heads, head, causal } = self.form;
        let width = heads * head;
        let n = self.qkv.len() / (3 * width);
        if n == 0 {
            return;
        }
        let s = self.scratch;
        let wide = padded(head);
        for h in 0..heads {
            load(&mut s.q, self.qkv, (3 * width, h * head), (n, head), scale(head));
            load_transposed(&mut s.k_t, self.qkv, (3 * width, width + h * head), (n, head));
            load(&mut s.v, self.qkv, (3 * width, 2 * width + h * head), (n, head), T::ONE);
            weights(&mut s.weights, &s.q, &s.k_t, (n, head), causal);
            s.out.clear();
            s.out.resize(n * wide, T::ZERO);
            let p = Factor { data: &s.weights, down: padded(n), right: 1 };
            multiply(&mut s.out, p, &s.v, (n, wide, n));
            store(self.y, &s.out, (width, h * head), (n, head), T::ONE);
        }
    }
}

struct Backward<'a, T> {
    qkv: &'a [T],
    dy: &'a [T],
    dx: &'a mut [T],
    form: Form,
    scratch: &'a mut Scratch<T>,
}

impl<T: Float> Work for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Form { heads, head, causal } = self.form;
        let width = heads * head;
        let n = self.qkv.len() / (3 * width);
        if n == 0 {
            return;
        }
        let s = self.scratch;
        let (wide, long) = (padded(head), padded(n));
        for h in 0..heads {
            let (query, key, value) = (h * head, width + h * head, 2 * width + h * head);
            load(&mut s.q, self.qkv, (3 * width, query), (n, head), scale(head));
            load(&mut s.k, self.qkv, (3 * width, key), (n, head), T::ONE);
            load_transposed(&mut s.k_t, self.qkv, (3 * width, key), (n, head));
            load_transposed(&mut s.v_t, self.qkv, (3 * width, value), (n, head));
            load(&mut s.dy, self.dy, (width, h * head), (n, head), T::ONE);
            weights(&mut s.weights, &s.q, &s.k_t, (n, head), causal);
            s.out.clear();
            s.out.resize(n * wide, T::ZERO);
            // dV = Pᵀ dY
            let p_t = Factor { data: &s.weights, down: 1, right: long };
            multiply(&mut s.out, p_t, &s.dy, (n, wide, n));
            store(self.dx, &s.out, (3 * width, value), (n, head), T::ONE);
            // dP = dY Vᵀ, then dS = P·(dP - Σ dP·P)
            s.slopes.clear();
            s.slopes.resize(n * long, T::ZERO);
            let dy = Factor { data: &s.dy, down: wide, right: 1 };
            multiply(&mut s.slopes, dy, &s.v_t, (n, long, head));
            for (p, d) in s.weights.chunks_exact(long).zip(s.slopes.chunks_exact_mut(long)) {
                softmax_row_gradient(p, d);
            }
            // dQ = dS K / √d
            let ds = Factor { data: &s.slopes, down: long, right: 1 };
            multiply(&mut s.out, ds, &s.k, (n, wide, n));
            store(self.dx, &s.out, (3 * width, query), (n, head), scale(head));
            // dK = dSᵀ Q / √d, and Q is already divided
            let ds_t = Factor { data: &s.slopes, down: 1, right: long };
            multiply(&mut s.out, ds_t, &s.q, (n, wide, n));
            store(self.dx, &s.out, (3 * width, key), (n, head), T::ONE);
        }
    }
}

fn scale<T: Float>(head: usize) -> T {
    T::of(1.0 / (head as f64).sqrt())
}

/// softmax(q kᵀ) in rows of padded(n), zero where masked.
#[inline(always)]
fn weights<T: Float>(
    into: &mut Vec<T>,
    q: &[T],
    k_t: &[T],
    (n, head): (usize, usize),
    causal: bool,
) {
    let long = padded(n);
    into.clear();
    into.resize(n * long, T::ZERO);
    let q = Factor { data: q, down: padded(head), right: 1 };
    multiply(into, q, k_t, (n, long, head));
    for (i, row) in into.chunks_exact_mut(long).enumerate() {
        let seen = if causal { i + 1 } else { n };
        softmax_row(&mut row[..seen]);
        row[seen..].fill(T::ZERO);
    }
}

/// Copies n rows of a head out of rows of `stride` elements, times a factor.
#[inline(always)]
fn load<T: Float>(
    into: &mut Vec<T>,
    from: &[T],
    (stride, start): (usize, usize),
    (n, head): (usize, usize),
    factor: T,
) {
    let wide = padded(head);
    into.clear();
    into.resize(n * wide, T::ZERO);
    for (to, row) in into.chunks_exact_mut(wide).zip(from.chunks_exact(stride)) {
        for (to, from) in to.iter_mut().zip(&row[start..start + head]) {
            *to = *from * factor;
        }
    }
}

/// [`load`] with rows and columns swapped.
#[inline(always)]
fn load_transposed<T: Float>(
    into: &mut Vec<T>,
    from: &[T],
    (stride, start): (usize, usize),
    (n, head): (usize, usize),
) {
    let long = padded(n);
    into.clear();
    into.resize(head * long, T::ZERO);
    for (i, row) in from.chunks_exact(stride).enumerate() {
        for (to, from) in into.chunks_exact_mut(long).zip(&row[start..start + head]) {
            to[i] = *from;
        }
    }
}

/// The inverse of [`load`].
#[inline(always)]
fn store<T: Float>(
    into: &mut [T],
    from: &[T],
    (stride, start): (usize, usize),
    (n, head): (usize, usize),
    factor: T,
) {
    debug_assert_eq!(into.len(), n * stride);
    for (row, from) in into.chunks_exact_mut(stride).zip(from.chunks_exact(padded(head))) {
        for (to, from) in row[start..start + head].iter_mut().zip(from) {
            *to = *from * factor;
        }
    }
}

/// The left factor of a small product: element (i, l) is `data[i·down + l·right]`.
#[derive(Clone, Copy)]
struct Factor<'a, T> {
    data: &'a [T],
    down: usize,
    right: usize,
}

/// Rows of the left factor in one block.
const BLOCK: usize = 4;

/// `into` (m, n) = a (m, k) · b (k, n), n a multiple of [`LANES`]; every element is summed over k in
/// order.
#[inline(always)]
fn multiply<T: Float>(into: &mut [T], a: Factor<T>, b: &[T], (m, n, k): (usize, usize, usize)) {
    debug_assert!(n.is_multiple_of(LANES) && into.len() >= m * n && b.len() >= k * n);
    for (block, into) in into[..m * n].chunks_mut(BLOCK * n).enumerate() {
        let first = block * BLOCK;
        for column in (0..n).step_by(LANES) {
            let mut sums = [[T::ZERO; LANES]; BLOCK];
            for (l, b) in b.chunks_exact(n).take(k).enumerate() {
                let b = &b[column..column + LANES];
                for (r, sums) in sums.iter_mut().enumerate() {
                    // Rows beyond the last repeat it; their sums are not stored.
                    let row = (first + r).min(m - 1);
                    let factor = a.data[row * a.down + l * a.right];
                    for (sum, b) in sums.iter_mut().zip(b) {
                        *sum += factor * *b;
                    }
                }
            }
            for (row, sums) in into.chunks_exact_mut(n).zip(&sums) {
                row[column..column + LANES].copy_from_slice(sums);
            }
        }
    }
}
