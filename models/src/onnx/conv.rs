//! Convolution and pooling over `[N, C, H, W]`.

use std::ops::Range;

use candle_core::{Device, Tensor};
use rayon::prelude::{IndexedParallelIterator, ParallelIterator, ParallelSliceMut};
use stage::{Error, Result, ResultExt};

use super::array::{Array, count};
use super::graph::Node;

/// How a window goes over a picture.
struct Window {
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    /// Before and after, of height and width.
    pads: [[usize; 2]; 2],
    /// Of the output.
    size: [usize; 2],
}

impl Window {
    fn of(node: &Node, kernel: [usize; 2], size: [usize; 2]) -> Result<Self> {
        if let Some(padding) = node.text("auto_pad")
            && padding != b"NOTSET"
        {
            let padding = String::from_utf8_lossy(padding);
            return Err(Error::model(format!("auto_pad {padding}; only explicit pads are known")));
        }
        let stride = node.pair("strides", 1)?;
        let dilation = node.pair("dilations", 1)?;
        let pads = match node.ints("pads") {
            None => [[0; 2]; 2],
            Some(&[top, left, bottom, right])
                if [top, left, bottom, right].iter().all(|p| (0..=4096).contains(p)) =>
            {
                [[top as usize, bottom as usize], [left as usize, right as usize]]
            }
            Some(pads) => return Err(Error::model(format!("pads {pads:?}"))),
        };
        let ceil = node.int("ceil_mode", 0) != 0;
        let mut out = [0; 2];
        for i in 0..2 {
            let reach = dilation[i].checked_mul(kernel[i].wrapping_sub(1)).map(|reach| reach + 1);
            let padded = size[i] + pads[i][0] + pads[i][1];
            let Some(room) = reach
                .filter(|_| kernel[i] > 0 && stride[i] > 0)
                .and_then(|reach| padded.checked_sub(reach))
            else {
                return Err(Error::model(format!(
                    "a window of {kernel:?} does not fit into {size:?}"
                )));
            };
            out[i] = room / stride[i] + 1;
            // A last, partial window counts where it begins inside the picture or before it.
            if ceil && room % stride[i] != 0 && out[i] * stride[i] < size[i] + pads[i][0] {
                out[i] += 1;
            }
        }
        Ok(Self { kernel, stride, dilation, pads, size: out })
    }

    /// The line or column of the picture that the window at `out` has under `k`, if inside.
    fn place(&self, i: usize, out: usize, k: usize, side: usize) -> Option<usize> {
        let place = out * self.stride[i] + k * self.dilation[i];
        place.checked_sub(self.pads[i][0]).filter(|place| *place < side)
    }

    /// The outputs of a line whose window has column `k` inside the picture, and the column that
    /// the first of them has there; those after it follow at the stride.
    fn columns(&self, k: usize, side: usize) -> (Range<usize>, usize) {
        let (shift, pad, stride) = (k * self.dilation[1], self.pads[1][0], self.stride[1]);
        let first = pad.saturating_sub(shift).div_ceil(stride);
        let last = (side + pad).saturating_sub(shift).div_ceil(stride).min(self.size[1]);
        let first = first.min(last);
        (first..last, (first * stride + shift).saturating_sub(pad))
    }

    /// Calls `each` for every line of the output: the outputs that have this cell of the window
    /// inside the picture, and the numbers that lie there.
    fn cell(
        &self,
        cell: usize,
        plane: &[f32],
        [h, w]: [usize; 2],
        out: &mut [f32],
        mut each: impl FnMut(&mut [f32], Cells<'_>),
    ) {
        let (ky, kx) = (cell / self.kernel[1], cell % self.kernel[1]);
        let (columns, from) = self.columns(kx, w);
        if columns.is_empty() {
            return;
        }
        for (oy, line) in out.chunks_exact_mut(self.size[1]).enumerate() {
            if let Some(y) = self.place(0, oy, ky, h) {
                let line_of_picture = &plane[y * w + from..(y + 1) * w];
                each(
                    &mut line[columns.clone()],
                    Cells { line: line_of_picture, stride: self.stride[1] },
                );
            }
        }
    }

    /// The same for every cell of the window, one after another, so that sums have the order of
    /// the window whatever lies beside them.
    fn over(
        &self,
        plane: &[f32],
        size: [usize; 2],
        out: &mut [f32],
        mut each: impl FnMut(usize, &mut [f32], Cells<'_>),
    ) {
        for cell in 0..self.kernel[0] * self.kernel[1] {
            self.cell(cell, plane, size, out, |out, cells| each(cell, out, cells));
        }
    }
}

/// Numbers of one line at a stride.
struct Cells<'a> {
    line: &'a [f32],
    stride: usize,
}

impl Cells<'_> {
    /// Joins each number with its output. Stride 1 is a loop of its own, for the compiler's sake.
    fn join(&self, out: &mut [f32], join: impl Fn(f32, f32) -> f32) {
        if self.stride == 1 {
            out.iter_mut().zip(self.line).for_each(|(out, x)| *out = join(*out, *x));
        } else {
            let cells = self.line.iter().step_by(self.stride);
            out.iter_mut().zip(cells).for_each(|(out, x)| *out = join(*out, *x));
        }
    }
}

/// `Conv`: `x` [N, C, H, W], `weight` [M, C/groups, kH, kW], `bias` [M].
pub(super) fn conv(node: &Node, x: &Array, weight: &Array, bias: Option<&Array>) -> Result<Array> {
    let [n, c, h, w] = x.picture_shape()?;
    let [m, per_group, kh, kw] = weight.picture_shape()?;
    let groups = usize::try_from(node.int("group", 1)).unwrap_or(0);
    let fits = groups > 0 && per_group.checked_mul(groups) == Some(c) && m % groups == 0;
    if !fits || bias.is_some_and(|bias| bias.shape() != [m]) {
        let message = format!("x {:?}, weight {:?}, {groups} groups", x.shape(), weight.shape());
        return Err(Error::model(message));
    }
    let window = Window::of(node, [kh, kw], [h, w])?;
    let [oh, ow] = window.size;
    let shape = [n, m, oh, ow];
    let mut out = vec![0f32; count(&shape)?];
    let (x, weight) = (x.floats()?, weight.floats()?);
    let bias = bias.map(Array::floats).transpose()?;
    let (width, rows) = (per_group * kh * kw, oh * ow);
    if rows == 0 || width == 0 || m == 0 {
        return Array::new(&shape, out);
    }
    for (sample, out) in out.chunks_exact_mut(m * rows).enumerate() {
        let x = &x[sample * c * h * w..][..c * h * w];
        if per_group == 1 {
            let many = m / groups;
            out.par_chunks_exact_mut(rows).enumerate().for_each(|(channel, out)| {
                let x = &x[channel / many * h * w..][..h * w];
                let weight = &weight[channel * kh * kw..][..kh * kw];
                out.fill(bias.map_or(0.0, |b| b[channel]));
                window.over(x, [h, w], out, |cell, out, cells| {
                    cells.join(out, |sum, x| sum + x * weight[cell]);
                });
            });
            continue;
        }
        for group in 0..groups {
            let x = &x[group * per_group * h * w..][..per_group * h * w];
            let weight = &weight[group * (m / groups) * width..][..m / groups * width];
            let out = &mut out[group * (m / groups) * rows..][..m / groups * rows];
            let bias = bias.map(|b| &b[group * (m / groups)..][..m / groups]);
            as_product(&window, x, [h, w], weight, bias, out, width)?;
        }
    }
    Array::new(&shape, out)
}

/// A convolution as the product of the weight [M, K] with the matrix of windows [K, places].
fn as_product(
    window: &Window,
    x: &[f32],
    [h, w]: [usize; 2],
    weight: &[f32],
    bias: Option<&[f32]>,
    out: &mut [f32],
    width: usize,
) -> Result<()> {
    let [oh, ow] = window.size;
    let rows = oh * ow;
    count(&[rows, width])?;
    let cells = window.kernel[0] * window.kernel[1];
    let plain = cells == 1 && window.stride == [1, 1] && window.pads == [[0; 2]; 2];
    let windows = if plain {
        x.to_vec()
    } else {
        let mut windows = vec![0f32; rows * width];
        windows.par_chunks_exact_mut(rows * cells).enumerate().for_each(|(channel, windows)| {
            let plane = &x[channel * h * w..][..h * w];
            for (cell, row) in windows.chunks_exact_mut(rows).enumerate() {
                window.cell(cell, plane, [h, w], row, |out, cells| cells.join(out, |_, x| x));
            }
        });
        windows
    };
    let many = out.len() / rows;
    let product = || -> candle_core::Result<Vec<f32>> {
        let windows = Tensor::from_vec(windows, (width, rows), &Device::Cpu)?;
        let weight = Tensor::from_slice(weight, (many, width), &Device::Cpu)?;
        kernels::project(&weight, &windows)?.flatten_all()?.to_vec1()
    };
    out.copy_from_slice(&product().internal("a convolution failed")?);
    if let Some(bias) = bias {
        for (plane, bias) in out.chunks_exact_mut(rows).zip(bias) {
            plane.iter_mut().for_each(|out| *out += bias);
        }
    }
    Ok(())
}

/// `MaxPool` and `AveragePool`.
pub(super) fn pool(node: &Node, x: &Array) -> Result<Array> {
    let [n, c, h, w] = x.picture_shape()?;
    let window = Window::of(node, node.pair("kernel_shape", 0)?, [h, w])?;
    let [oh, ow] = window.size;
    let shape = [n, c, oh, ow];
    let max = node.op == "MaxPool";
    let mut out = vec![if max { f32::NEG_INFINITY } else { 0.0 }; count(&shape)?];
    if out.is_empty() || h * w == 0 {
        return Array::new(&shape, out);
    }
    let all = (window.kernel[0] * window.kernel[1]) as f32;
    let mut seen = vec![all; oh * ow];
    if !max && node.int("count_include_pad", 0) == 0 {
        seen.fill(0.0);
        let ones = vec![1f32; h * w];
        window.over(&ones, [h, w], &mut seen, |_, seen, ones| ones.join(seen, |a, b| a + b));
    }
    let x = x.floats()?;
    out.par_chunks_exact_mut(oh * ow).enumerate().for_each(|(plane, out)| {
        let plane = &x[plane * h * w..][..h * w];
        if max {
            window.over(plane, [h, w], out, |_, out, cells| cells.join(out, f32::max));
        } else {
            window.over(plane, [h, w], out, |_, out, cells| cells.join(out, |a, b| a + b));
            out.iter_mut().zip(&seen).for_each(|(sum, seen)| *sum /= seen.max(1.0));
        }
    });
    Array::new(&shape, out)
}

/// `GlobalAveragePool`.
pub(super) fn global_average(x: &Array) -> Result<Array> {
    let [n, c, h, w] = x.picture_shape()?;
    if h * w == 0 {
        return Err(Error::model("the mean of a picture without pixels"));
    }
    let mean = |plane: &[f32]| plane.iter().sum::<f32>() / (h * w) as f32;
    Array::new(&[n, c, 1, 1], x.floats()?.chunks_exact(h * w).map(mean).collect())
}
