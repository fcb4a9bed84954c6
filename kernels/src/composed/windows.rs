//! 3 × 3 windows with padding 1 over pictures (B, H, W, C), as nine shifted pictures.

use candle_core::{D, Result, Tensor};

use super::rows::{product, spread, with_bias};
use crate::linear::Products;
use crate::window::Windows;

/// The pixel that each tap (u, v) of every window sees, zeros outside: nine of
/// (B, ⌈H/stride⌉, ⌈W/stride⌉, C), row by row.
fn taps(x: &Tensor, windows: &Windows) -> Result<Vec<Tensor>> {
    let Windows { batch, height, width, channels, stride } = *windows;
    let (rows, columns) = (windows.rows(), windows.columns());
    let beyond = |side: usize, count: usize| 2 + stride * count - side - 1;
    let x = x.pad_with_zeros(1, 1, beyond(height, rows))?.pad_with_zeros(
        2,
        1,
        beyond(width, columns),
    )?;
    let across = x.dim(2)?;
    let mut all = Vec::with_capacity(9);
    for u in 0..3 {
        let lines = x
            .narrow(1, u, stride * rows)?
            .contiguous()?
            .reshape((batch, rows, stride, across, channels))?
            .narrow(2, 0, 1)?
            .squeeze(2)?;
        for v in 0..3 {
            let seen = lines
                .narrow(2, v, stride * columns)?
                .contiguous()?
                .reshape((batch, rows, columns, stride, channels))?
                .narrow(3, 0, 1)?
                .squeeze(3)?;
            all.push(seen.contiguous()?);
        }
    }
    Ok(all)
}

/// [`crate::conv3x3_in()`]
pub(crate) fn conv3x3(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    stride: usize,
    products: Products,
) -> Result<Tensor> {
    let windows = Windows::of("conv3x3", x, stride)?;
    let out = weight.dim(0)?;
    let rows = Tensor::cat(&taps(x, &windows)?, D::Minus1)?; // (.., 9C), taps first
    let kernel =
        weight.permute((0, 2, 3, 1))?.contiguous()?.reshape((out, 9 * windows.channels))?;
    with_bias(&product(&rows, &kernel.t()?, products)?, bias)
}

/// [`crate::depthwise3x3()`]
pub(crate) fn depthwise3x3(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    stride: usize,
) -> Result<Tensor> {
    let windows = Windows::of("depthwise3x3", x, stride)?;
    let kernel = weight.reshape((windows.channels, 9))?.t()?.contiguous()?; // (9, C)
    let mut sum: Option<Tensor> = None;
    for (tap, seen) in taps(x, &windows)?.into_iter().enumerate() {
        let seen = seen.reshape(((), windows.channels))?;
        let part = (&seen * spread(&kernel.get(tap)?, seen.dim(0)?)?)?;
        sum = Some(match sum {
            Some(sum) => (sum + part)?,
            None => part,
        });
    }
    match sum {
        Some(sum) => with_bias(&sum, bias)?.reshape((
            windows.batch,
            windows.rows(),
            windows.columns(),
            windows.channels,
        )),
        None => candle_core::bail!("depthwise3x3: a window without taps"),
    }
}

/// [`crate::avg_pool3x3()`]
pub(crate) fn avg_pool3x3(x: &Tensor) -> Result<Tensor> {
    let windows = Windows::of("avg_pool3x3", x, 2)?;
    let (rows, columns) = (windows.rows(), windows.columns());
    let shares: Vec<f32> = (0..rows * columns)
        .map(|at| 1.0 / windows.taps(at / columns, at % columns).count() as f32)
        .collect();
    let shares = Tensor::from_vec(shares, (rows, columns, 1), x.device())?.to_dtype(x.dtype())?;
    let mut all = taps(x, &windows)?.into_iter();
    let Some(first) = all.next() else { candle_core::bail!("avg_pool3x3: no taps") };
    all.try_fold(first, |sum, seen| sum + seen)?.broadcast_mul(&shares)
}
