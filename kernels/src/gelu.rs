//! The Gaussian error linear unit, exact and in OpenAI's approximation.
//!
//! Hendrycks, Gimpel, "Gaussian Error Linear Units", arXiv 1606.08415: x·Φ(x). `QuickGELU` of
//! openai/CLIP: x·σ(1.702 x).

use candle_core::{CpuStorage, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::composed;
use crate::elementary::Float;
use crate::fresh::zeros;
use crate::fused::{Fused, apply};
use crate::rows::ELEMENTS;
use crate::simd::{Level, Work};
use crate::slices::{check, tensor, values, with_float};

/// x·Φ(x), exact (not the tanh approximation), with its gradient.
///
/// # Shapes
/// any → the same
///
/// # Errors
/// Other dtypes than f32 and f64.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    check("gelu", x)?;
    if composed::takes(x) {
        return composed::gelu(x);
    }
    apply(Gelu { form: Form::Exact, active: None }, &[x])
}

/// x·σ(1.702 x), with its gradient.
///
/// # Shapes
/// any → the same
///
/// # Errors
/// Other dtypes than f32 and f64.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    check("quick_gelu", x)?;
    if composed::takes(x) {
        return composed::quick_gelu(x);
    }
    apply(Gelu { form: Form::Quick, active: None }, &[x])
}

/// GELU (exact, or [`quick_gelu()`] if `quick`) on the first `active` of the last dimension's
/// channels; the others pass unchanged: RePaViT's idle channels.
///
/// # Shapes
/// (.., C) → (.., C), `active` ≤ C
///
/// # Errors
/// More active channels than there are, or other dtypes than f32 and f64.
pub fn gelu_first(x: &Tensor, active: usize, quick: bool) -> Result<Tensor> {
    check("gelu_first", x)?;
    let width = x.dims().last().copied().unwrap_or(0);
    if active > width {
        candle_core::bail!("gelu_first: {active} active channels of {width}");
    }
    if composed::takes(x) {
        return composed::gelu_first(x, active, quick);
    }
    let form = if quick { Form::Quick } else { Form::Exact };
    apply(Gelu { form, active: Some(active) }, &[x])
}

/// Which of the two functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Exact,
    Quick,
}

impl Form {
    /// f(x).
    #[inline(always)]
    pub(crate) fn value<T: Float>(self, x: T) -> T {
        match self {
            Self::Exact => x * x.normal().0,
            Self::Quick => x / (T::ONE + (T::of(-1.702) * x).exponential()),
        }
    }

    /// f'(x).
    #[inline(always)]
    pub(crate) fn slope<T: Float>(self, x: T) -> T {
        match self {
            Self::Exact => {
                let (cdf, density) = x.normal();
                cdf + x * density
            }
            Self::Quick => {
                let s = T::ONE / (T::ONE + (T::of(-1.702) * x).exponential());
                s + T::of(1.702) * x * s * (T::ONE - s)
            }
        }
    }
}

struct Gelu {
    form: Form,
    active: Option<usize>,
}

impl Gelu {
    /// (row length, active channels of a row); without idle channels everything is one long row.
    fn split(&self, x: &Tensor) -> Option<(usize, usize)> {
        self.active.map(|active| (x.dims().last().copied().unwrap_or(1).max(1), active))
    }
}

impl Fused for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn forward(&self, inputs: &[Tensor]) -> Result<(CpuStorage, Shape)> {
        let [x] = inputs else { candle_core::bail!("gelu takes 1 tensor") };
        with_float!("gelu", x.dtype(), T => {
            let xs = values::<T>(x, "gelu")?;
            let y = forward(Level::best(), self.form, self.split(x), &xs);
            Ok((<T as candle_core::WithDType>::to_cpu_storage_owned(y), x.shape().clone()))
        })
    }

    fn backward(
        &self,
        inputs: &[Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let [x] = inputs else { candle_core::bail!("gelu takes 1 tensor") };
        with_float!("gelu", x.dtype(), T => {
            let (xs, dy) = (values::<T>(x, "gelu")?, values::<T>(grad, "gelu")?);
            let dx = backward(Level::best(), self.form, self.split(x), &xs, &dy);
            Ok(vec![Some(tensor(dx, x.shape())?)])
        })
    }
}

/// Elements in a piece: a whole number of rows.
fn piece(split: Option<(usize, usize)>) -> usize {
    split.map_or(ELEMENTS, |(row, _)| (ELEMENTS / row).max(1) * row)
}

pub(crate) fn forward<T: Float>(
    level: Level,
    form: Form,
    split: Option<(usize, usize)>,
    x: &[T],
) -> Vec<T> {
    let mut y = zeros(x.len());
    let piece = piece(split);
    y.par_chunks_mut(piece)
        .zip(x.par_chunks(piece))
        .for_each(|(y, x)| level.run(Forward { form, split, x, y }));
    y
}

pub(crate) fn backward<T: Float>(
    level: Level,
    form: Form,
    split: Option<(usize, usize)>,
    x: &[T],
    dy: &[T],
) -> Vec<T> {
    let mut dx = zeros(x.len());
    let piece = piece(split);
    dx.par_chunks_mut(piece)
        .zip(x.par_chunks(piece))
        .zip(dy.par_chunks(piece))
        .for_each(|((dx, x), dy)| level.run(Backward { form, split, x, dy, dx }));
    dx
}

struct Forward<'a, T> {
    form: Form,
    split: Option<(usize, usize)>,
    x: &'a [T],
    y: &'a mut [T],
}

impl<T: Float> Work for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (row, active) = self.split.unwrap_or((self.x.len().max(1), self.x.len()));
        for (y, x) in self.y.chunks_mut(row).zip(self.x.chunks(row)) {
            // One loop a form, so that each is a straight line of vector code.
            match self.form {
                Form::Exact => {
                    for (y, x) in y[..active].iter_mut().zip(x) {
                        *y = Form::Exact.value(*x);
                    }
                }
                Form::Quick => {
                    for (y, x) in y[..active].iter_mut().zip(x) {
                        *y = Form::Quick.value(*x);
                    }
                }
            }
            y[active..].copy_from_slice(&x[active..]);
        }
    }
}

struct Backward<'a, T> {
    form: Form,
    split: Option<(usize, usize)>,
    x: &'a [T],
    dy: &'a [T],
    dx: &'a mut [T],
}

impl<T: Float> Work for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (row, active) = self.split.unwrap_or((self.x.len().max(1), self.x.len()));
        let rows = self.x.chunks(row).zip(self.dy.chunks(row));
        for ((x, dy), dx) in rows.zip(self.dx.chunks_mut(row)) {
            match self.form {
                Form::Exact => {
                    for ((dx, x), dy) in dx[..active].iter_mut().zip(x).zip(dy) {
                        *dx = *dy * Form::Exact.slope(*x);
                    }
                }
                Form::Quick => {
                    for ((dx, x), dy) in dx[..active].iter_mut().zip(x).zip(dy) {
                        *dx = *dy * Form::Quick.slope(*x);
                    }
                }
            }
            dx[active..].copy_from_slice(&dy[active..]);
        }
    }
}
