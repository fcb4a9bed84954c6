//! Average pooling over 3 × 3 windows, channels last.

use candle_core::{CpuStorage, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::composed;
use crate::elementary::Float;
use crate::fused::{Fused, apply};
use crate::rows::add_to;
use crate::slices::{check, tensor, values, with_float};
use crate::window::Windows;

/// The mean of the pixels of each 3 × 3 window (stride 2, padding 1) that lie in the picture:
/// `AvgPool2d(3, 2, 1, count_include_pad=False)`; with its gradient.
///
/// # Shapes
/// `x` (B, H, W, C) → (B, ⌈H/2⌉, ⌈W/2⌉, C)
///
/// # Errors
/// Other shapes, or other dtypes than f32 and f64.
pub fn avg_pool3x3(x: &Tensor) -> Result<Tensor> {
    check("avg_pool3x3", x)?;
    Windows::of("avg_pool3x3", x, 2)?;
    if composed::takes(x) {
        return composed::avg_pool3x3(x);
    }
    apply(AvgPool, &[x])
}

struct AvgPool;

impl Fused for AvgPool {
    fn name(&self) -> &'static str {
        "avg_pool3x3"
    }

    fn forward(&self, inputs: &[Tensor]) -> Result<(CpuStorage, Shape)> {
        let [x] = inputs else { candle_core::bail!("avg_pool3x3 takes 1 tensor") };
        let windows = Windows::of("avg_pool3x3", x, 2)?;
        let (rows, columns, channels) = (windows.rows(), windows.columns(), windows.channels);
        let picture = windows.height * windows.line();
        with_float!("avg_pool3x3", x.dtype(), T => {
            let xs = values::<T>(x, "avg_pool3x3")?;
            let mut y = vec![<T as Float>::ZERO; windows.batch * rows * columns * channels];
            y.par_chunks_mut(columns * channels).enumerate().for_each(|(i, y)| {
                let x = &xs[i / rows * picture..][..picture];
                for (ox, y) in y.chunks_exact_mut(channels).enumerate() {
                    let mut count = 0u32;
                    for (_, pixel) in windows.taps(i % rows, ox) {
                        add_to(y, &x[pixel * channels..][..channels]);
                        count += 1;
                    }
                    let count = <T as Float>::of(f64::from(count));
                    y.iter_mut().for_each(|y| *y /= count);
                }
            });
            let y = <T as candle_core::WithDType>::to_cpu_storage_owned(y);
            Ok((y, Shape::from((windows.batch, rows, columns, channels))))
        })
    }

    fn backward(
        &self,
        inputs: &[Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let windows = Windows::of("avg_pool3x3", &inputs[0], 2)?;
        let (rows, columns, channels) = (windows.rows(), windows.columns(), windows.channels);
        let result = rows * columns * channels;
        let counts: Vec<usize> = (0..rows * columns)
            .map(|at| windows.taps(at / columns, at % columns).count())
            .collect();
        with_float!("avg_pool3x3", grad.dtype(), T => {
            let dy = values::<T>(grad, "avg_pool3x3")?;
            let mut dx = vec![<T as Float>::ZERO; inputs[0].elem_count()];
            dx.par_chunks_mut(windows.line()).enumerate().for_each(|(i, dx)| {
                let dy = &dy[i / windows.height * result..][..result];
                for (x, dx) in dx.chunks_exact_mut(channels).enumerate() {
                    for (_, window) in windows.windows(i % windows.height, x) {
                        let count = <T as Float>::of(counts[window] as f64);
                        for (dx, dy) in dx.iter_mut().zip(&dy[window * channels..]) {
                            *dx += *dy / count;
                        }
                    }
                }
            });
            Ok(vec![Some(tensor(dx, inputs[0].shape())?)])
        })
    }
}
