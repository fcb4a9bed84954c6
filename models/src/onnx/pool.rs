//! Pooling over `[N, C, H, W]`.

use rayon::prelude::*;
use stage::{Error, Result};

use super::array::{Array, count};
use super::attributes::Attributes;
use super::budget::{Budget, steps};
use super::windows::{Grid, Windows};

/// What is made of the numbers under a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// The largest, where a border counts as the lowest finite number; NaN if there is one, where
    /// onnxruntime may give another number under the window.
    Max,
    /// The mean, of the borders too if `padded`.
    Average { padded: bool },
}

/// `MaxPool` and `AveragePool`.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    kind: Kind,
    windows: Windows,
    kernel: [usize; 2],
}

impl Pool {
    pub(super) fn of(max: bool, attributes: &mut Attributes) -> Result<Self> {
        let kernel = attributes.pair("kernel_shape")?;
        let kernel = kernel.ok_or_else(|| Error::model("a pool without kernel_shape"))?;
        let ceil = attributes.flag("ceil_mode")?;
        let windows = Windows { ceil, ..Windows::of(attributes)? };
        let kind = if max {
            attributes.ignore("storage_order"); // of the second output, which is refused
            Kind::Max
        } else {
            Kind::Average { padded: attributes.flag("count_include_pad")? }
        };
        if kind != Kind::Max && windows.dilation != [1, 1] {
            return Err(Error::model("an average of every n-th number"));
        }
        // As onnxruntime: a window that sees no number has no value.
        if (0..2).any(|i| windows.pads[i].iter().any(|pad| *pad >= kernel[i])) {
            let message = format!("pads {:?} as large as the window {kernel:?}", windows.pads);
            return Err(Error::model(message));
        }
        Ok(Self { kind, windows, kernel })
    }

    pub(super) fn run(&self, x: &Array, budget: &mut Budget<'_>) -> Result<Array> {
        let [n, c, h, w] = x.picture_shape()?;
        let grid = self.windows.over(self.kernel, [h, w])?;
        let [oh, ow] = grid.out;
        let shape = [n, c, oh, ow];
        let all = count(&shape)?;
        if h * w == 0 {
            return Err(Error::model("a pool over a picture without pixels"));
        }
        let looked_at = steps(&shape).saturating_mul(steps(&[grid.cells()]));
        let laid_out = steps(&[n, c, grid.laid_out()]);
        let at_once = rayon::current_num_threads().min(n.saturating_mul(c));
        let room = all.saturating_add(grid.laid_out().saturating_mul(at_once));
        budget.take(looked_at.saturating_add(laid_out), room)?;
        let mut out = vec![0f32; all];
        if all == 0 {
            return Array::new(&shape, out);
        }
        let x = x.floats()?;
        let counts = self.counts(&grid);
        let max = self.kind == Kind::Max;
        let (border, begin) = if max { (f32::MIN, f32::NEG_INFINITY) } else { (0.0, 0.0) };
        let scratch = || vec![0f32; grid.laid_out()];
        let planes = out.par_chunks_exact_mut(oh * ow).enumerate();
        planes.for_each_init(scratch, |laid_out, (plane, out)| {
            grid.lay_out(&x[plane * h * w..][..h * w], border, laid_out);
            for (y, line) in out.chunks_exact_mut(ow).enumerate() {
                line.fill(begin);
                for cell in 0..grid.cells() {
                    let seen = line.iter_mut().zip(&laid_out[grid.place(cell, y)..][..ow]);
                    if max {
                        seen.for_each(|(most, x)| *most = larger(*most, *x));
                    } else {
                        seen.for_each(|(sum, x)| *sum += x);
                    }
                }
                if let Some([down, right]) = &counts {
                    let counts = right.iter().map(|right| (down[y] * right).max(1) as f32);
                    line.iter_mut().zip(counts).for_each(|(sum, count)| *sum /= count);
                }
            }
        });
        Array::new(&shape, out)
    }

    /// By how many numbers the sums are divided: the product for line and column.
    fn counts(&self, grid: &Grid) -> Option<[Vec<usize>; 2]> {
        let count = |i: usize, padded: bool| match padded {
            true => grid.inside_padded(i, self.windows.pads[i][1]),
            false => grid.inside(i),
        };
        match self.kind {
            Kind::Max => None,
            Kind::Average { padded } => Some([count(0, padded), count(1, padded)]),
        }
    }
}

/// The larger number, or NaN.
fn larger(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}

/// `GlobalAveragePool`.
pub(super) fn global_average(x: &Array, budget: &mut Budget<'_>) -> Result<Array> {
    let [n, c, h, w] = x.picture_shape()?;
    if h * w == 0 {
        return Err(Error::model("the mean of a picture without pixels"));
    }
    budget.take(steps(x.shape()), n * c)?;
    let mean = |plane: &[f32]| plane.iter().sum::<f32>() / (h * w) as f32;
    Array::new(&[n, c, 1, 1], x.floats()?.chunks_exact(h * w).map(mean).collect())
}
