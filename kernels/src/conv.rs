//! The 3 × 3 convolution with padding 1, channels last.
//!
//! A convolution is a product of window rows with the flattened kernel. The window rows of a few
//! output rows are laid out, used and forgotten: all at once they would be nine times the picture.

use candle_core::{CpuStorage, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::composed;
use crate::elementary::Float;
use crate::fresh::repeated;
use crate::fused::{Fused, apply};
use crate::gemm::Matrix;
use crate::linear::{Products, column_sums};
use crate::simd::Level;
use crate::slices::{check, tensor, values, with_float};
use crate::window::Windows;

/// `y[b, i, j, o] = bias[o] + Σ x[b, i·stride + u - 1, j·stride + v - 1, c] · weight[o, c, u, v]`
/// over u, v in 0..3 and all c, zeros outside of the picture; with all gradients.
///
/// # Shapes
/// `x` (B, H, W, C), `weight` (O, C, 3, 3), `bias` (O) → (B, ⌈H/stride⌉, ⌈W/stride⌉, O)
///
/// # Errors
/// Other shapes, or dtypes than one of f32 and f64.
pub fn conv3x3(x: &Tensor, weight: &Tensor, bias: &Tensor, stride: usize) -> Result<Tensor> {
    conv3x3_in(x, weight, bias, stride, Products::F32)
}

/// [`conv3x3()`] with products of this format, forward and backward.
///
/// # Shapes
/// As [`conv3x3()`].
///
/// # Errors
/// As [`conv3x3()`]; [`Products::Bf16`] takes f32 alone.
pub fn conv3x3_in(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    stride: usize,
    products: Products,
) -> Result<Tensor> {
    check("conv3x3", x)?;
    let windows = Windows::of("conv3x3", x, stride)?;
    let out = weight.dims().first().copied().unwrap_or(0);
    if out == 0 || weight.dims() != [out, windows.channels, 3, 3] || bias.dims() != [out] {
        candle_core::bail!(
            "conv3x3: x {:?}, weight {:?}, bias {:?}; expected (B, H, W, C), (O, C, 3, 3), (O)",
            x.dims(),
            weight.dims(),
            bias.dims()
        );
    }
    if composed::takes(x) {
        return composed::conv3x3(x, weight, bias, stride, products);
    }
    apply(Conv { stride, products }, &[x, weight, bias])
}

struct Conv {
    stride: usize,
    products: Products,
}

/// Elements of window rows that are laid out at a time; fixed, so that the order of the sums of a
/// weight's gradient depends on the shape alone.
const LAID_OUT: usize = 1 << 20;

/// (O, C, 3, 3) → (O, 3, 3, C)
fn taps_first<T: Float>(weight: &[T], out: usize, channels: usize) -> Vec<T> {
    let mut rows = Vec::with_capacity(weight.len());
    for kernel in weight.chunks_exact(9 * channels).take(out) {
        for tap in 0..9 {
            rows.extend(kernel[tap..].iter().step_by(9));
        }
    }
    rows
}

/// (O, 3, 3, C) → (O, C, 3, 3)
fn channels_first<T: Float>(rows: &[T], out: usize, channels: usize) -> Vec<T> {
    let mut weight = Vec::with_capacity(rows.len());
    for kernel in rows.chunks_exact(9 * channels).take(out) {
        for channel in 0..channels {
            weight.extend(kernel[channel..].iter().step_by(channels));
        }
    }
    weight
}

/// Output rows (of all pictures, counted through) that are laid out at a time.
fn lines_at_a_time(windows: &Windows) -> usize {
    (LAID_OUT / (windows.columns() * 9 * windows.channels)).max(1)
}

/// The window rows (3, 3, C) of `lines` output rows from `first`, counted through all pictures.
fn lay_out<T: Float>(windows: &Windows, x: &[T], first: usize, rows: &mut [T]) {
    let channels = windows.channels;
    let picture = windows.height * windows.line();
    let line = windows.columns() * 9 * channels;
    rows.par_chunks_mut(line).enumerate().for_each(|(i, rows)| {
        let (b, oy) = ((first + i) / windows.rows(), (first + i) % windows.rows());
        let x = &x[b * picture..][..picture];
        rows.fill(T::ZERO);
        for (ox, row) in rows.chunks_exact_mut(9 * channels).enumerate() {
            for (tap, pixel) in windows.taps(oy, ox) {
                row[tap * channels..][..channels]
                    .copy_from_slice(&x[pixel * channels..][..channels]);
            }
        }
    });
}

impl Fused for Conv {
    fn name(&self) -> &'static str {
        "conv3x3"
    }

    fn forward(&self, inputs: &[Tensor]) -> Result<(CpuStorage, Shape)> {
        let [x, weight, bias] = inputs else { candle_core::bail!("conv3x3 takes 3 tensors") };
        let windows = Windows::of("conv3x3", x, self.stride)?;
        let (out, channels) = (weight.dim(0)?, windows.channels);
        let (lines, columns) = (windows.batch * windows.rows(), windows.columns());
        with_float!("conv3x3", x.dtype(), T => {
            let (xs, w) = (values::<T>(x, "conv3x3")?, values::<T>(weight, "conv3x3")?);
            let bias = values::<T>(bias, "conv3x3")?;
            let w = taps_first(&w, out, channels);
            let mut y: Vec<T> = repeated(&bias, lines * columns);
            let step = lines_at_a_time(&windows);
            let mut rows = vec![<T as Float>::ZERO; step.min(lines) * columns * 9 * channels];
            for (i, y) in y.chunks_mut(step * columns * out).enumerate() {
                let count = y.len() / out;
                let rows = &mut rows[..count * 9 * channels];
                lay_out(&windows, &xs, i * step, rows);
                let kernel = Matrix::new(&w, out, 9 * channels).transposed();
                self.products.of(y, true, Matrix::new(rows, count, 9 * channels), kernel)?;
            }
            let y = <T as candle_core::WithDType>::to_cpu_storage_owned(y);
            Ok((y, Shape::from((windows.batch, windows.rows(), columns, out))))
        })
    }

    fn backward(
        &self,
        inputs: &[Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let [x, weight, _] = inputs else { candle_core::bail!("conv3x3 takes 3 tensors") };
        let windows = Windows::of("conv3x3", x, self.stride)?;
        let (out, channels) = (weight.dim(0)?, windows.channels);
        let (lines, columns) = (windows.batch * windows.rows(), windows.columns());
        with_float!("conv3x3", x.dtype(), T => {
            let (xs, w) = (values::<T>(x, "conv3x3")?, values::<T>(weight, "conv3x3")?);
            let dy = values::<T>(grad, "conv3x3")?;
            let w = taps_first(&w, out, channels);
            let mut dw = vec![<T as Float>::ZERO; w.len()];
            let mut dx = vec![<T as Float>::ZERO; xs.len()];
            // A picture at a time where it is small enough, whole pictures in any case: a pixel's
            // gradient gathers windows of up to three output rows.
            let step = (lines_at_a_time(&windows) / windows.rows()).max(1) * windows.rows();
            let mut rows = vec![<T as Float>::ZERO; step.min(lines) * columns * 9 * channels];
            let picture = windows.height * windows.line();
            let chunks = dy.chunks(step * columns * out);
            let places = dx.chunks_mut(step / windows.rows() * picture);
            for (i, (dy, dx)) in chunks.zip(places).enumerate() {
                let count = dy.len() / out;
                let rows = &mut rows[..count * 9 * channels];
                lay_out(&windows, &xs, i * step, rows);
                let dys = Matrix::new(dy, count, out);
                let laid = Matrix::new(rows, count, 9 * channels);
                self.products.of(&mut dw, true, dys.transposed(), laid)?;
                self.products.of(rows, false, dys, Matrix::new(&w, out, 9 * channels))?;
                gather(&windows, rows, dx);
            }
            let db = column_sums(Level::best(), &dy, out);
            Ok(vec![
                Some(tensor(dx, x.shape())?),
                Some(tensor(channels_first(&dw, out, channels), weight.shape())?),
                Some(tensor(db, out)?),
            ])
        })
    }
}

/// Adds what the window rows of whole pictures hold of each pixel: the reverse of [`lay_out`].
fn gather<T: Float>(windows: &Windows, rows: &[T], dx: &mut [T]) {
    let channels = windows.channels;
    let all = windows.rows() * windows.columns() * 9 * channels;
    dx.par_chunks_mut(windows.line()).enumerate().for_each(|(i, dx)| {
        let (b, y) = (i / windows.height, i % windows.height);
        let rows = &rows[b * all..][..all];
        for (x, dx) in dx.chunks_exact_mut(channels).enumerate() {
            for (tap, window) in windows.windows(y, x) {
                let row = &rows[(window * 9 + tap) * channels..][..channels];
                crate::rows::add_to(dx, row);
            }
        }
    });
}
