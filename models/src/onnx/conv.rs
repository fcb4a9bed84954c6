//! Convolution and pooling over `[N, C, H, W]`.

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

    /// The place in the picture that the window at `out` has under `k`, if it is inside.
    fn place(&self, i: usize, out: usize, k: usize, size: usize) -> Option<usize> {
        (out * self.stride[i] + k * self.dilation[i])
            .checked_sub(self.pads[i][0])
            .filter(|p| *p < size)
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
                depthwise(&window, x, [h, w], weight, bias.map_or(0.0, |b| b[channel]), out);
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

/// A convolution as the product of the weight with a matrix of windows, one a row.
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
    let mut windows = vec![0f32; rows * width];
    let [kh, kw] = window.kernel;
    windows.par_chunks_exact_mut(ow * width).enumerate().for_each(|(oy, line)| {
        for (ox, row) in line.chunks_exact_mut(width).enumerate() {
            for (plane, cells) in x.chunks_exact(h * w).zip(row.chunks_exact_mut(kh * kw)) {
                for (ky, cells) in cells.chunks_exact_mut(kw).enumerate() {
                    let Some(y) = window.place(0, oy, ky, h) else { continue };
                    for (kx, cell) in cells.iter_mut().enumerate() {
                        if let Some(x) = window.place(1, ox, kx, w) {
                            *cell = plane[y * w + x];
                        }
                    }
                }
            }
        }
    });
    let many = out.len() / rows;
    let product = || -> candle_core::Result<Vec<f32>> {
        let windows = Tensor::from_vec(windows, (rows, width), &Device::Cpu)?;
        let weight = Tensor::from_slice(weight, (many, width), &Device::Cpu)?;
        let bias = bias.map(|bias| Tensor::from_slice(bias, many, &Device::Cpu)).transpose()?;
        kernels::linear(&windows, &weight, bias.as_ref())?.flatten_all()?.to_vec1()
    };
    let product = product().internal("a convolution failed")?;
    out.par_chunks_exact_mut(rows).enumerate().for_each(|(channel, out)| {
        for (row, out) in out.iter_mut().enumerate() {
            *out = product[row * many + channel];
        }
    });
    Ok(())
}

/// One channel with a filter of its own.
fn depthwise(
    window: &Window,
    x: &[f32],
    [h, w]: [usize; 2],
    weight: &[f32],
    bias: f32,
    out: &mut [f32],
) {
    let [kh, kw] = window.kernel;
    let ow = window.size[1];
    for (oy, line) in out.chunks_exact_mut(ow).enumerate() {
        for (ox, out) in line.iter_mut().enumerate() {
            let mut sum = bias;
            for ky in 0..kh {
                let Some(y) = window.place(0, oy, ky, h) else { continue };
                for kx in 0..kw {
                    if let Some(place) = window.place(1, ox, kx, w) {
                        sum += x[y * w + place] * weight[ky * kw + kx];
                    }
                }
            }
            *out = sum;
        }
    }
}

/// `MaxPool` and `AveragePool`.
pub(super) fn pool(node: &Node, x: &Array) -> Result<Array> {
    let [n, c, h, w] = x.picture_shape()?;
    let window = Window::of(node, node.pair("kernel_shape", 0)?, [h, w])?;
    let (max, include) = (node.op == "MaxPool", node.int("count_include_pad", 0) != 0);
    let [oh, ow] = window.size;
    let [kh, kw] = window.kernel;
    let shape = [n, c, oh, ow];
    let mut out = vec![0f32; count(&shape)?];
    if out.is_empty() {
        return Array::new(&shape, out);
    }
    let x = x.floats()?;
    out.par_chunks_exact_mut(oh * ow).enumerate().for_each(|(plane, out)| {
        let x = &x[plane * h * w..][..h * w];
        for (i, out) in out.iter_mut().enumerate() {
            let (mut best, mut sum, mut seen) = (f32::NEG_INFINITY, 0f32, 0usize);
            for ky in 0..kh {
                let Some(y) = window.place(0, i / ow, ky, h) else { continue };
                for kx in 0..kw {
                    if let Some(place) = window.place(1, i % ow, kx, w) {
                        let value = x[y * w + place];
                        (best, sum, seen) = (best.max(value), sum + value, seen + 1);
                    }
                }
            }
            let cells = if include { kh * kw } else { seen.max(1) };
            *out = if max { best } else { sum / cells as f32 };
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
