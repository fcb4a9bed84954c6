//! Scaled dot-product attention over packed queries, keys and values.
//!
//! Vaswani et al., "Attention Is All You Need", arXiv 1706.03762, Eq. 1, with heads. The softmax is
//! not kept: the backward pass computes it again from queries and keys, which costs a fifth of that
//! pass and saves N² numbers a head.

use candle_core::{CpuStorage, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::composed;
use crate::elementary::Float;
use crate::fresh::zeros;
use crate::fused::{Fused, apply};
use crate::linear::Products;
use crate::simd::{Level, Work};
use crate::slices::{check, tensor, values, with_float};
use crate::softmax::{softmax_row, softmax_row_gradient};
use crate::strip::{PAD, Place, Span, Start, Strip};
use crate::tiles::plain;

/// softmax(q kᵀ / √d) v for each head, with its gradient; `causal` lets position i see only j ≤ i.
///
/// # Shapes
/// `qkv` (B, N, 3C), queries, keys and values one after the other, each `heads` x d → (B, N, C)
///
/// # Errors
/// A width that is not 3·heads·d, or other dtypes than f32 and f64.
pub fn attention(qkv: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    attention_in(qkv, heads, causal, Products::F32)
}

/// [`attention()`] with products of this format on a GPU; on the CPU they are those of the dtype.
///
/// # Shapes
/// As [`attention()`].
///
/// # Errors
/// As [`attention()`].
pub fn attention_in(
    qkv: &Tensor,
    heads: usize,
    causal: bool,
    products: Products,
) -> Result<Tensor> {
    check("attention", qkv)?;
    let (batch, tokens, width) = qkv.dims3()?;
    check_width(width, heads)?;
    if composed::takes(qkv) {
        return composed::attention(qkv, heads, causal, products);
    }
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
    attention_ragged_in(qkv, lengths, heads, causal, Products::F32)
}

/// [`attention_ragged()`] with products of this format on a GPU, as [`attention_in()`].
///
/// # Shapes
/// As [`attention_ragged()`].
///
/// # Errors
/// As [`attention_ragged()`].
pub fn attention_ragged_in(
    qkv: &Tensor,
    lengths: &[usize],
    heads: usize,
    causal: bool,
    products: Products,
) -> Result<Tensor> {
    check("attention", qkv)?;
    let (rows, width) = qkv.dims2()?;
    check_width(width, heads)?;
    if lengths.iter().sum::<usize>() != rows {
        candle_core::bail!("attention: lengths do not add up to the {rows} rows");
    }
    if composed::takes(qkv) {
        return composed::attention_ragged(qkv, lengths, heads, causal, products);
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
    let mut y = zeros(qkv.len() / 3);
    let inputs = split(qkv, lengths, 3 * width);
    let outputs = split_mut(&mut y, lengths, width);
    inputs.into_par_iter().zip(outputs).for_each_init(Scratch::default, |scratch, (qkv, y)| {
        level.run(Forward { qkv, y, form, level, scratch });
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
    let mut dx = zeros(qkv.len());
    let inputs = split(qkv, lengths, 3 * width);
    let gradients = split(dy, lengths, width);
    let outputs = split_mut(&mut dx, lengths, 3 * width);
    inputs.into_par_iter().zip(gradients).zip(outputs).for_each_init(
        Scratch::default,
        |scratch, ((qkv, dy), dx)| {
            level.run(Backward { qkv, dy, dx, form, level, scratch });
        },
    );
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
    n.next_multiple_of(PAD)
}

struct Forward<'a, T> {
    qkv: &'a [T],
    y: &'a mut [T],
    form: Form,
    level: Level,
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
        let (s, level) = (self.scratch, self.level);
        let wide = padded(head);
        let seen = if causal { Span::UpToRow } else { Span::All };
        for h in 0..heads {
            load(&mut s.q, self.qkv, (3 * width, h * head), (n, head), scale(head));
            load_transposed(&mut s.k_t, self.qkv, (3 * width, width + h * head), (n, head));
            load(&mut s.v, self.qkv, (3 * width, 2 * width + h * head), (n, head), T::ONE);
            weights(level, &mut s.weights, &s.q, &s.k_t, (n, head), causal);
            renew(&mut s.out, n * wide);
            let p = Factor { data: &s.weights, down: padded(n), right: 1 };
            multiply(level, &mut s.out, p, &s.v, (n, wide, n), seen);
            store(self.y, &s.out, (width, h * head), (n, head), T::ONE);
        }
    }
}

struct Backward<'a, T> {
    qkv: &'a [T],
    dy: &'a [T],
    dx: &'a mut [T],
    form: Form,
    level: Level,
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
        let (s, level) = (self.scratch, self.level);
        let (wide, long) = (padded(head), padded(n));
        // Row i of P and dS is zero behind i, column j of them before j.
        let (seen, seeing) =
            if causal { (Span::UpToRow, Span::FromRow) } else { (Span::All, Span::All) };
        for h in 0..heads {
            let (query, key, value) = (h * head, width + h * head, 2 * width + h * head);
            load(&mut s.q, self.qkv, (3 * width, query), (n, head), scale(head));
            load(&mut s.k, self.qkv, (3 * width, key), (n, head), T::ONE);
            load_transposed(&mut s.k_t, self.qkv, (3 * width, key), (n, head));
            load_transposed(&mut s.v_t, self.qkv, (3 * width, value), (n, head));
            load(&mut s.dy, self.dy, (width, h * head), (n, head), T::ONE);
            weights(level, &mut s.weights, &s.q, &s.k_t, (n, head), causal);
            renew(&mut s.out, n * wide);
            // dV = Pᵀ dY
            let p_t = Factor { data: &s.weights, down: 1, right: long };
            multiply(level, &mut s.out, p_t, &s.dy, (n, wide, n), seeing);
            store(self.dx, &s.out, (3 * width, value), (n, head), T::ONE);
            // dP = dY Vᵀ, then dS = P·(dP - Σ dP·P)
            renew(&mut s.slopes, n * long);
            let dy = Factor { data: &s.dy, down: wide, right: 1 };
            multiply(level, &mut s.slopes, dy, &s.v_t, (n, long, head), Span::All);
            for (p, d) in s.weights.chunks_exact(long).zip(s.slopes.chunks_exact_mut(long)) {
                softmax_row_gradient(p, d);
            }
            // dQ = dS K / √d
            let ds = Factor { data: &s.slopes, down: long, right: 1 };
            multiply(level, &mut s.out, ds, &s.k, (n, wide, n), seen);
            store(self.dx, &s.out, (3 * width, query), (n, head), scale(head));
            // dK = dSᵀ Q / √d, and Q is already divided
            let ds_t = Factor { data: &s.slopes, down: 1, right: long };
            multiply(level, &mut s.out, ds_t, &s.q, (n, wide, n), seeing);
            store(self.dx, &s.out, (3 * width, key), (n, head), T::ONE);
        }
    }
}

fn scale<T: Float>(head: usize) -> T {
    T::of(1.0 / (head as f64).sqrt())
}

/// Makes a buffer `len` long; what it holds is overwritten by the caller, but for the padding,
/// which a longer life leaves as numbers that no result is computed from.
#[inline(always)]
fn renew<T: Float>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() != len {
        buffer.clear();
        buffer.resize(len, T::ZERO);
    }
}

/// softmax(q kᵀ) in rows of padded(n), zero where masked.
#[inline(always)]
fn weights<T: Float>(
    level: Level,
    into: &mut Vec<T>,
    q: &[T],
    k_t: &[T],
    (n, head): (usize, usize),
    causal: bool,
) {
    let long = padded(n);
    renew(into, n * long);
    let q = Factor { data: q, down: padded(head), right: 1 };
    multiply(level, into, q, k_t, (n, long, head), Span::All);
    for (i, row) in into.chunks_exact_mut(long).enumerate() {
        let seen = if causal { i + 1 } else { n };
        // Whole vectors: e^-∞ is 0.
        row[seen..].fill(T::LOWEST);
        softmax_row(row);
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
    renew(into, n * wide);
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
    renew(into, head * long);
    for (i, row) in from.chunks_exact(stride).enumerate() {
        for (to, from) in into.iter_mut().skip(i).step_by(long).zip(&row[start..start + head]) {
            *to = *from;
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

/// `into` (m, n) = a (m, k) · b (k, n), n a multiple of [`PAD`]; every element is summed over k in
/// order, without fused steps.
#[inline(always)]
fn multiply<T: Float>(
    level: Level,
    into: &mut [T],
    a: Factor<T>,
    b: &[T],
    (m, n, k): (usize, usize, usize),
    span: Span,
) {
    if let (Some(data), Some(b)) = (T::single(a.data), T::single(b))
        && let Some(into) = T::single_mut(into)
    {
        let strip = Strip {
            a: data,
            offset: 0,
            down: a.down,
            right: a.right,
            b,
            stride: n,
            steps: k,
            span,
            into: Place::of(into),
            into_stride: n,
            rows: m,
            columns: n,
            to: Start::Nothing,
            next: &[],
        };
        return plain(level, strip);
    }
    for (i, into) in into[..m * n].chunks_exact_mut(n).enumerate() {
        into.fill(T::ZERO);
        let (start, end) = span.of(i, 1, k);
        for l in start..end {
            let factor = a.data[i * a.down + l * a.right];
            for (sum, b) in into.iter_mut().zip(&b[l * n..]) {
                *sum += factor * *b;
            }
        }
    }
}
