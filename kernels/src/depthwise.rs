//! The depthwise 3 × 3 convolution with padding 1, channels last.

use candle_core::{CpuStorage, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::composed;
use crate::elementary::Float;
use crate::fresh::zeros;
use crate::fused::{Fused, apply};
use crate::linear::column_sums;
use crate::rows::add_to;
use crate::simd::{Level, Work};
use crate::slices::{check, tensor, values, with_float};
use crate::window::Windows;

/// `y[b, i, j, c] = bias[c] + Σ x[b, i·stride + u - 1, j·stride + v - 1, c] · weight[c, 0, u, v]`
/// over u, v in 0..3, zeros outside of the picture; with all gradients.
///
/// # Shapes
/// `x` (B, H, W, C), `weight` (C, 1, 3, 3), `bias` (C) → (B, ⌈H/stride⌉, ⌈W/stride⌉, C)
///
/// # Errors
/// Other shapes, or dtypes than one of f32 and f64.
pub fn depthwise3x3(x: &Tensor, weight: &Tensor, bias: &Tensor, stride: usize) -> Result<Tensor> {
    check("depthwise3x3", x)?;
    let windows = Windows::of("depthwise3x3", x, stride)?;
    let channels = windows.channels;
    if weight.dims() != [channels, 1, 3, 3] || bias.dims() != [channels] {
        candle_core::bail!(
            "depthwise3x3: x {:?}, weight {:?}, bias {:?}; expected (B, H, W, C), (C, 1, 3, 3), (C)",
            x.dims(),
            weight.dims(),
            bias.dims()
        );
    }
    if composed::takes(x) {
        return composed::depthwise3x3(x, weight, bias, stride);
    }
    apply(Depthwise { stride }, &[x, weight, bias])
}

struct Depthwise {
    stride: usize,
}

/// Output rows in one piece of a weight's gradient; fixed, for sums that no thread count changes.
const LINES: usize = 16;

/// (C, 9) → (9, C), or back with the sizes swapped.
fn swapped<T: Float>(from: &[T], rows: usize, columns: usize) -> Vec<T> {
    let mut to = Vec::with_capacity(from.len());
    for column in 0..columns {
        to.extend((0..rows).map(|row| from[row * columns + column]));
    }
    to
}

impl Fused for Depthwise {
    fn name(&self) -> &'static str {
        "depthwise3x3"
    }

    fn forward(&self, inputs: &[Tensor]) -> Result<(CpuStorage, Shape)> {
        let [x, weight, bias] = inputs else { candle_core::bail!("depthwise3x3 takes 3 tensors") };
        let windows = Windows::of("depthwise3x3", x, self.stride)?;
        with_float!("depthwise3x3", x.dtype(), T => {
            let (xs, w) = (values::<T>(x, "depthwise3x3")?, values::<T>(weight, "depthwise3x3")?);
            let bias = values::<T>(bias, "depthwise3x3")?;
            let w = swapped(&w, windows.channels, 9);
            let y = forward(Level::best(), &windows, &xs, &w, &bias);
            let y = <T as candle_core::WithDType>::to_cpu_storage_owned(y);
            let sides = (windows.batch, windows.rows(), windows.columns(), windows.channels);
            Ok((y, Shape::from(sides)))
        })
    }

    fn backward(
        &self,
        inputs: &[Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let [x, weight, _] = inputs else { candle_core::bail!("depthwise3x3 takes 3 tensors") };
        let windows = Windows::of("depthwise3x3", x, self.stride)?;
        with_float!("depthwise3x3", x.dtype(), T => {
            let (xs, w) = (values::<T>(x, "depthwise3x3")?, values::<T>(weight, "depthwise3x3")?);
            let dy = values::<T>(grad, "depthwise3x3")?;
            let w = swapped(&w, windows.channels, 9);
            let (dx, dw) = backward(Level::best(), &windows, &xs, &w, &dy);
            let db = column_sums(Level::best(), &dy, windows.channels);
            Ok(vec![
                Some(tensor(dx, x.shape())?),
                Some(tensor(swapped(&dw, 9, windows.channels), weight.shape())?),
                Some(tensor(db, windows.channels)?),
            ])
        })
    }
}

/// y; `weight` is (9, C).
pub(crate) fn forward<T: Float>(
    level: Level,
    windows: &Windows,
    x: &[T],
    weight: &[T],
    bias: &[T],
) -> Vec<T> {
    let (channels, columns) = (windows.channels, windows.columns());
    let picture = windows.height * windows.line();
    let mut y = zeros(windows.batch * windows.rows() * columns * channels);
    y.par_chunks_mut(columns * channels).enumerate().for_each(|(i, y)| {
        let (b, oy) = (i / windows.rows(), i % windows.rows());
        let x = &x[b * picture..][..picture];
        level.run(Forward { windows, x, weight, bias, oy, y });
    });
    y
}

/// Gradients of x and of the weight (9, C).
pub(crate) fn backward<T: Float>(
    level: Level,
    windows: &Windows,
    x: &[T],
    weight: &[T],
    dy: &[T],
) -> (Vec<T>, Vec<T>) {
    let (channels, line) = (windows.channels, windows.columns() * windows.channels);
    let (picture, result) = (windows.height * windows.line(), windows.rows() * line);
    let mut dx = zeros(x.len());
    dx.par_chunks_mut(windows.line()).enumerate().for_each(|(i, dx)| {
        let (b, y) = (i / windows.height, i % windows.height);
        let dy = &dy[b * result..][..result];
        level.run(BackwardX { windows, dy, weight, y, dx });
    });
    let pieces = (windows.batch * windows.rows()).div_ceil(LINES);
    let mut sums = vec![T::ZERO; pieces * 9 * channels];
    sums.par_chunks_mut(9 * channels).zip(dy.par_chunks(LINES * line)).enumerate().for_each(
        |(piece, (dw, dy))| {
            for (i, dy) in dy.chunks_exact(line).enumerate() {
                let at = piece * LINES + i;
                let (b, oy) = (at / windows.rows(), at % windows.rows());
                let x = &x[b * picture..][..picture];
                level.run(BackwardW { windows, x, dy, oy, dw });
            }
        },
    );
    let mut dw = vec![T::ZERO; 9 * channels];
    for sums in sums.chunks_exact(9 * channels) {
        add_to(&mut dw, sums);
    }
    (dx, dw)
}

/// `into[c] += a[c] · b[c]`
#[inline(always)]
fn add_product<T: Float>(into: &mut [T], a: &[T], b: &[T]) {
    for ((into, a), b) in into.iter_mut().zip(a).zip(b) {
        *into += *a * *b;
    }
}

struct Forward<'a, T> {
    windows: &'a Windows,
    x: &'a [T],
    weight: &'a [T],
    bias: &'a [T],
    oy: usize,
    y: &'a mut [T],
}

impl<T: Float> Work for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let channels = self.windows.channels;
        for (ox, y) in self.y.chunks_exact_mut(channels).enumerate() {
            y.copy_from_slice(self.bias);
            for (tap, pixel) in self.windows.taps(self.oy, ox) {
                let x = &self.x[pixel * channels..][..channels];
                add_product(y, x, &self.weight[tap * channels..][..channels]);
            }
        }
    }
}

struct BackwardX<'a, T> {
    windows: &'a Windows,
    dy: &'a [T],
    weight: &'a [T],
    y: usize,
    dx: &'a mut [T],
}

impl<T: Float> Work for BackwardX<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let channels = self.windows.channels;
        for (x, dx) in self.dx.chunks_exact_mut(channels).enumerate() {
            for (tap, window) in self.windows.windows(self.y, x) {
                let dy = &self.dy[window * channels..][..channels];
                add_product(dx, dy, &self.weight[tap * channels..][..channels]);
            }
        }
    }
}

struct BackwardW<'a, T> {
    windows: &'a Windows,
    x: &'a [T],
    dy: &'a [T],
    oy: usize,
    dw: &'a mut [T],
}

impl<T: Float> Work for BackwardW<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let channels = self.windows.channels;
        for (ox, dy) in self.dy.chunks_exact(channels).enumerate() {
            for (tap, pixel) in self.windows.taps(self.oy, ox) {
                let x = &self.x[pixel * channels..][..channels];
                add_product(&mut self.dw[tap * channels..][..channels], x, dy);
            }
        }
    }
}
