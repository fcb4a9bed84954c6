//! Batch normalisation of the channels of the last dimension.
//!
//! Ioffe, Szegedy, "Batch Normalization", arXiv 1502.03167. Rows are all positions of all samples,
//! as `BatchNorm1d` sees a (B, C, N) tensor.

use candle_core::{CpuStorage, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::composed;
use crate::elementary::Float;
use crate::fused::{Fused, apply};
use crate::linear::column_sums;
use crate::rows::{PIECE, add_to};
use crate::simd::{Level, Work};
use crate::slices::{check, tensor, values, with_float};

/// What a batch says about its channels.
#[derive(Debug, Clone)]
pub struct BatchStatistics {
    /// Mean of each channel (C).
    pub mean: Tensor,
    /// Biased variance of each channel (C): what the batch is normalised with.
    pub variance: Tensor,
    /// Number of rows; running statistics take variance · count / (count - 1).
    pub count: usize,
}

/// `(x - mean) / sqrt(variance + eps) * weight + bias` with the batch's own statistics, through
/// which the gradient flows, and those statistics.
///
/// # Shapes
/// `x` (.., C), `weight` (C), `bias` (C) → (.., C)
///
/// # Errors
/// Other shapes, no rows, or dtypes than one of f32 and f64.
pub fn batch_norm_train(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<(Tensor, BatchStatistics)> {
    let width = check_shapes(x, &[weight, bias])?;
    let count = x.elem_count() / width;
    if count == 0 {
        candle_core::bail!("batch_norm: no rows");
    }
    if composed::takes(x) {
        let (mean, variance) = composed::moments(x)?;
        let y = composed::batch_norm(x, weight, bias, &mean, &variance, eps)?;
        let (mean, variance) = (mean.detach(), variance.detach());
        return Ok((y, BatchStatistics { mean, variance, count }));
    }
    let values_of = x.detach().contiguous()?;
    let (mean, variance) = with_float!("batch_norm", x.dtype(), T => {
        let (mean, variance) = moments(Level::best(), &values::<T>(&values_of, "batch_norm")?, width);
        (tensor(mean, width)?, tensor(variance, width)?)
    });
    let operator = BatchNorm { mean: mean.clone(), variance: variance.clone(), eps, train: true };
    Ok((apply(operator, &[x, weight, bias])?, BatchStatistics { mean, variance, count }))
}

/// `(x - mean) / sqrt(variance + eps) * weight + bias` with given statistics, which are constants.
///
/// # Shapes
/// `x` (.., C), `weight`, `bias`, `mean`, `variance` (C) → (.., C)
///
/// # Errors
/// Other shapes, or dtypes than one of f32 and f64.
pub fn batch_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    mean: &Tensor,
    variance: &Tensor,
    eps: f64,
) -> Result<Tensor> {
    check_shapes(x, &[weight, bias, mean, variance])?;
    let (mean, variance) = (mean.detach().contiguous()?, variance.detach().contiguous()?);
    if composed::takes(x) {
        return composed::batch_norm(x, weight, bias, &mean, &variance, eps);
    }
    apply(BatchNorm { mean, variance, eps, train: false }, &[x, weight, bias])
}

fn check_shapes(x: &Tensor, channels: &[&Tensor]) -> Result<usize> {
    check("batch_norm", x)?;
    let width = x.dims().last().copied().unwrap_or(0);
    if width == 0 || channels.iter().any(|t| t.dims() != [width]) {
        candle_core::bail!(
            "batch_norm: x {:?}, per channel {:?}; expected (.., C) and (C)",
            x.dims(),
            channels.iter().map(|t| t.dims()).collect::<Vec<_>>()
        );
    }
    Ok(width)
}

struct BatchNorm {
    mean: Tensor,
    variance: Tensor,
    eps: f64,
    train: bool,
}

impl BatchNorm {
    fn scales<T: Float>(&self) -> Result<Vec<T>> {
        let variance = values::<T>(&self.variance, "batch_norm")?;
        Ok(variance.iter().map(|v| T::ONE / (*v + T::of(self.eps)).root()).collect())
    }
}

impl Fused for BatchNorm {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn forward(&self, inputs: &[Tensor]) -> Result<(CpuStorage, Shape)> {
        let [x, weight, bias] = inputs else { candle_core::bail!("batch_norm takes 3 tensors") };
        with_float!("batch_norm", x.dtype(), T => {
            let (xs, w) = (values::<T>(x, "batch_norm")?, values::<T>(weight, "batch_norm")?);
            let (b, mean) = (values::<T>(bias, "batch_norm")?, values::<T>(&self.mean, "batch_norm")?);
            let scale: Vec<T> =
                self.scales::<T>()?.iter().zip(w.iter()).map(|(s, w)| *s * *w).collect();
            let level = Level::best();
            let mut y = vec![<T as Float>::ZERO; xs.len()];
            let piece = PIECE * w.len();
            y.par_chunks_mut(piece).zip(xs.par_chunks(piece)).for_each(|(y, x)| {
                level.run(Forward { x, mean: &mean, scale: &scale, bias: &b, y });
            });
            Ok((<T as candle_core::WithDType>::to_cpu_storage_owned(y), x.shape().clone()))
        })
    }

    fn backward(
        &self,
        inputs: &[Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let [x, weight, _] = inputs else { candle_core::bail!("batch_norm takes 3 tensors") };
        with_float!("batch_norm", x.dtype(), T => {
            let (xs, w) = (values::<T>(x, "batch_norm")?, values::<T>(weight, "batch_norm")?);
            let (dy, mean) = (values::<T>(grad, "batch_norm")?, values::<T>(&self.mean, "batch_norm")?);
            let scale = self.scales::<T>()?;
            let (dx, dw, db) = backward(Level::best(), &xs, &w, &mean, &scale, &dy, self.train);
            let width = w.len();
            Ok(vec![
                Some(tensor(dx, x.shape())?),
                Some(tensor(dw, width)?),
                Some(tensor(db, width)?),
            ])
        })
    }
}

/// Mean and biased variance of each channel, in two passes.
pub(crate) fn moments<T: Float>(level: Level, x: &[T], width: usize) -> (Vec<T>, Vec<T>) {
    let share = T::ONE / T::of((x.len() / width) as f64);
    let mut mean = column_sums(level, x, width);
    for m in &mut mean {
        *m *= share;
    }
    let pieces = x.len().div_ceil(PIECE * width);
    let mut sums = vec![T::ZERO; pieces * width];
    sums.par_chunks_mut(width)
        .zip(x.par_chunks(PIECE * width))
        .for_each(|(sums, x)| level.run(SquareSums { x, mean: &mean, sums }));
    let mut variance = vec![T::ZERO; width];
    for sums in sums.chunks_exact(width) {
        add_to(&mut variance, sums);
    }
    for v in &mut variance {
        *v *= share;
    }
    (mean, variance)
}

/// Gradients of x, weight and bias. With n = (x - mean)·scale and R rows:
/// dx = weight·scale·(dy - Σdy/R - n·Σ(dy·n)/R), or weight·scale·dy with constant statistics.
pub(crate) fn backward<T: Float>(
    level: Level,
    x: &[T],
    weight: &[T],
    mean: &[T],
    scale: &[T],
    dy: &[T],
    train: bool,
) -> (Vec<T>, Vec<T>, Vec<T>) {
    let width = weight.len();
    let piece = PIECE * width;
    let pieces = x.len().div_ceil(piece);
    let mut sums = vec![T::ZERO; pieces * 2 * width];
    sums.par_chunks_mut(2 * width).zip(x.par_chunks(piece)).zip(dy.par_chunks(piece)).for_each(
        |((sums, x), dy)| {
            let (dw, db) = sums.split_at_mut(width);
            level.run(GradientSums { x, dy, mean, scale, dw, db });
        },
    );
    let (mut dw, mut db) = (vec![T::ZERO; width], vec![T::ZERO; width]);
    for sums in sums.chunks_exact(2 * width) {
        add_to(&mut dw, &sums[..width]);
        add_to(&mut db, &sums[width..]);
    }
    // dx = a·dy + b·(x - mean) + c for each channel.
    let share = T::ONE / T::of((x.len() / width) as f64);
    let a: Vec<T> = weight.iter().zip(scale).map(|(w, s)| *w * *s).collect();
    let (b, c): (Vec<T>, Vec<T>) = (0..width)
        .map(|i| match train {
            true => (-(a[i] * scale[i] * dw[i] * share), -(a[i] * db[i] * share)),
            false => (T::ZERO, T::ZERO),
        })
        .unzip();
    let mut dx = vec![T::ZERO; x.len()];
    dx.par_chunks_mut(piece)
        .zip(x.par_chunks(piece))
        .zip(dy.par_chunks(piece))
        .for_each(|((dx, x), dy)| level.run(Backward { x, dy, mean, a: &a, b: &b, c: &c, dx }));
    (dx, dw, db)
}

struct Forward<'a, T> {
    x: &'a [T],
    mean: &'a [T],
    scale: &'a [T],
    bias: &'a [T],
    y: &'a mut [T],
}

impl<T: Float> Work for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let width = self.mean.len();
        for (y, x) in self.y.chunks_exact_mut(width).zip(self.x.chunks_exact(width)) {
            let channels = self.mean.iter().zip(self.scale).zip(self.bias);
            for ((y, x), ((m, s), b)) in y.iter_mut().zip(x).zip(channels) {
                *y = (*x - *m) * *s + *b;
            }
        }
    }
}

struct SquareSums<'a, T> {
    x: &'a [T],
    mean: &'a [T],
    sums: &'a mut [T],
}

impl<T: Float> Work for SquareSums<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for row in self.x.chunks_exact(self.sums.len()) {
            for ((s, x), m) in self.sums.iter_mut().zip(row).zip(self.mean) {
                *s += (*x - *m) * (*x - *m);
            }
        }
    }
}

struct GradientSums<'a, T> {
    x: &'a [T],
    dy: &'a [T],
    mean: &'a [T],
    scale: &'a [T],
    dw: &'a mut [T],
    db: &'a mut [T],
}

impl<T: Float> Work for GradientSums<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let width = self.mean.len();
        for (x, dy) in self.x.chunks_exact(width).zip(self.dy.chunks_exact(width)) {
            add_to(self.db, dy);
            let channels = self.mean.iter().zip(self.scale);
            for (((dw, x), dy), (m, s)) in self.dw.iter_mut().zip(x).zip(dy).zip(channels) {
                *dw += *dy * ((*x - *m) * *s);
            }
        }
    }
}

struct Backward<'a, T> {
    x: &'a [T],
    dy: &'a [T],
    mean: &'a [T],
    a: &'a [T],
    b: &'a [T],
    c: &'a [T],
    dx: &'a mut [T],
}

impl<T: Float> Work for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let width = self.mean.len();
        let rows = self.x.chunks_exact(width).zip(self.dy.chunks_exact(width));
        for ((x, dy), dx) in rows.zip(self.dx.chunks_exact_mut(width)) {
            let lines = self.mean.iter().zip(self.a).zip(self.b).zip(self.c);
            for (((dx, x), dy), (((m, a), b), c)) in dx.iter_mut().zip(x).zip(dy).zip(lines) {
                *dx = *a * *dy + *b * (*x - *m) + *c;
            }
        }
    }
}
