//! Convolution over `[N, C, H, W]`.

use std::ops::Range;

use kernels::Products;
use rayon::prelude::*;
use stage::{Error, Result, ResultExt};

use super::array::{Array, count};
use super::attributes::Attributes;
use super::budget::{Budget, steps};
use super::numbers::Map;
use super::product::laid_out as laid_out_factor;
use super::windows::{Grid, Windows};

/// Numbers of windows that are laid out at a time, to stay in the second-level cache.
const LAID_OUT: usize = 1 << 17;
/// Fewest places that are laid out at a time.
const FEWEST: usize = 32;
/// Most numbers that one output is made of.
const WIDEST: usize = 1 << 18;

/// `Conv`, and what is done with each of its numbers after it.
#[derive(Debug, Clone)]
pub(super) struct Conv {
    windows: Windows,
    kernel: Option<[usize; 2]>,
    groups: usize,
    pub(super) after: Option<Map>,
}

/// Sizes of one convolution.
struct Sizes {
    /// Input channels of a group, and output channels of it.
    channels: usize,
    many: usize,
    /// Numbers of a plane of the input, and of the output.
    plane: usize,
    rows: usize,
}

impl Conv {
    pub(super) fn of(attributes: &mut Attributes) -> Result<Self> {
        let groups = attributes.int("group", 1)?;
        let groups = usize::try_from(groups).ok().filter(|groups| *groups > 0);
        Ok(Self {
            windows: Windows::of(attributes)?,
            kernel: attributes.pair("kernel_shape")?,
            groups: groups.ok_or_else(|| Error::model("a convolution without groups"))?,
            after: None,
        })
    }

    /// `x` [N, C, H, W], `weight` [M, C/groups, kH, kW], `bias` [M].
    pub(super) fn run(
        &self,
        x: &Array,
        weight: &Array,
        bias: Option<&Array>,
        budget: &mut Budget<'_>,
    ) -> Result<Array> {
        let [n, c, h, w] = x.picture_shape()?;
        let [m, channels, kh, kw] = weight.picture_shape()?;
        let groups = self.groups;
        let fits = channels.checked_mul(groups) == Some(c)
            && m % groups == 0
            && bias.is_none_or(|bias| bias.shape() == [m])
            && self.kernel.is_none_or(|kernel| kernel == [kh, kw]);
        if !fits {
            let message =
                format!("x {:?}, weight {:?}, {groups} groups", x.shape(), weight.shape());
            return Err(Error::model(message));
        }
        let grid = self.windows.over([kh, kw], [h, w])?;
        let [oh, ow] = grid.out;
        let shape = [n, m, oh, ow];
        let all = count(&shape)?;
        let width = channels * grid.cells();
        if width > WIDEST {
            return Err(Error::model(format!("windows of {width} numbers, more than {WIDEST}")));
        }
        let sizes = Sizes { channels, many: m / groups, plane: h * w, rows: oh * ow };
        let by_planes = channels == 1 && groups > 1;
        let (moved, room) = match by_planes {
            true => Self::room_by_planes(&grid, m),
            false => self.room_as_products(&grid, &sizes),
        };
        budget.take(
            steps(&shape)
                .saturating_mul(steps(&[width]))
                .saturating_add(steps(&[n]).saturating_mul(moved)),
            all.saturating_mul(2).saturating_add(room),
        )?;
        let mut out = vec![0f32; all];
        if all == 0 {
            return Array::new(&shape, out);
        }
        let (x, weight) = (x.floats()?, weight.floats()?);
        let bias = bias.map(Array::floats).transpose()?;
        for (sample, out) in out.chunks_exact_mut(m * sizes.rows).enumerate() {
            let x = &x[sample * c * sizes.plane..][..c * sizes.plane];
            if by_planes {
                self.by_planes(&grid, &sizes, x, weight, bias, out);
                continue;
            }
            for (group, out) in out.chunks_exact_mut(sizes.many * sizes.rows).enumerate() {
                let x = &x[group * channels * sizes.plane..][..channels * sizes.plane];
                let weight = &weight[group * sizes.many * width..][..sizes.many * width];
                let bias = bias.map(|b| &b[group * sizes.many..][..sizes.many]);
                self.as_products(&grid, &sizes, x, weight, bias, out)?;
            }
        }
        Array::new(&shape, out)
    }

    /// Numbers that [`Self::by_planes`] moves for a sample, and its working memory: a plane is laid
    /// out for every output channel, and each thread has one.
    fn room_by_planes(grid: &Grid, m: usize) -> (u64, usize) {
        let planes = rayon::current_num_threads().min(m);
        (steps(&[m, grid.laid_out()]), grid.laid_out().saturating_mul(planes))
    }

    /// Numbers that [`Self::as_products`] moves for a sample, and its working memory.
    fn room_as_products(&self, grid: &Grid, sizes: &Sizes) -> (u64, usize) {
        let width = sizes.channels * grid.cells();
        if grid.is_plain() {
            let panels = laid_out_factor(width, sizes.rows);
            return (steps(&[self.groups, panels]), panels);
        }
        let at_a_time = places_at_a_time(width, sizes.rows);
        let parts = sizes.rows.div_ceil(at_a_time.max(1));
        let planes = grid.laid_out().saturating_mul(sizes.channels);
        let panels = laid_out_factor(width, at_a_time);
        let part = panels.saturating_add(width.saturating_mul(at_a_time));
        let room = part.saturating_mul(parts_at_once().min(parts));
        let moved = steps(&[parts, part]).saturating_add(planes as u64);
        (steps(&[self.groups]).saturating_mul(moved), planes.saturating_add(room))
    }

    /// Every output channel from the one input channel of its group: sums in the order of the window,
    /// from the bias on.
    fn by_planes(
        &self,
        grid: &Grid,
        sizes: &Sizes,
        x: &[f32],
        weight: &[f32],
        bias: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let (cells, width) = (grid.cells(), grid.out[1]);
        let scratch = || vec![0f32; grid.laid_out()];
        let planes = out.par_chunks_exact_mut(sizes.rows).enumerate();
        planes.for_each_init(scratch, |laid_out, (channel, out)| {
            let from = &x[channel / sizes.many * sizes.plane..][..sizes.plane];
            grid.lay_out(from, 0.0, laid_out);
            let weight = &weight[channel * cells..][..cells];
            let bias = bias.map_or(0.0, |bias| bias[channel]);
            for (y, line) in out.chunks_exact_mut(width).enumerate() {
                line.fill(bias);
                let seen = |cell: usize| &laid_out[grid.place(cell, y)..][..width];
                let mut cell = 0;
                // Three at a time, so that the line is read and written once for them.
                while let Some(&[u, v, w]) = weight.get(cell..cell + 3) {
                    let three = seen(cell).iter().zip(seen(cell + 1)).zip(seen(cell + 2));
                    for (sum, ((a, b), c)) in line.iter_mut().zip(three) {
                        *sum = *sum + a * u + b * v + c * w;
                    }
                    cell += 3;
                }
                for (cell, weight) in weight.iter().enumerate().skip(cell) {
                    let seen = line.iter_mut().zip(seen(cell));
                    seen.for_each(|(sum, x)| *sum += x * weight);
                }
                if let Some(after) = self.after {
                    after.apply(line);
                }
            }
        });
    }

    /// A group as the product of the weight [M, K] with the matrix of windows [K, places], for some
    /// places at a time. Every output is a sum of its own, so their number changes no bits.
    fn as_products(
        &self,
        grid: &Grid,
        sizes: &Sizes,
        x: &[f32],
        weight: &[f32],
        bias: Option<&[f32]>,
        out: &mut [f32],
    ) -> Result<()> {
        let Sizes { channels, many, rows, .. } = *sizes;
        let width = channels * grid.cells();
        let begun = |out: &mut [f32], places: usize| {
            if let Some(bias) = bias {
                out.chunks_exact_mut(places).zip(bias).for_each(|(out, bias)| out.fill(*bias));
            }
        };
        let finish = |out: &mut [f32]| {
            if let Some(after) = self.after {
                after.apply(out);
            }
        };
        let product = |out: &mut [f32], windows: &[f32], places: usize| {
            let sizes = [many, width, places];
            Products::F32.add_product(out, weight, windows, sizes).internal("a convolution failed")
        };
        if grid.is_plain() {
            begun(out, rows);
            product(out, x, rows)?;
            out.par_chunks_mut(LAID_OUT).for_each(finish);
            return Ok(());
        }
        let planes = laid_out(grid, sizes, x);
        let at_a_time = places_at_a_time(width, rows);
        let make = |part: usize| {
            let places = part * at_a_time..rows.min((part + 1) * at_a_time);
            let mut windows = vec![0f32; width * places.len()];
            collect(grid, &planes, places.clone(), &mut windows);
            let mut out = vec![0f32; many * places.len()];
            begun(&mut out, places.len());
            product(&mut out, &windows, places.len())?;
            finish(&mut out);
            Ok(out)
        };
        let (all, at_once) = (rows.div_ceil(at_a_time), parts_at_once());
        for first in (0..all).step_by(at_once) {
            let parts = (first..all.min(first + at_once)).into_par_iter().map(make);
            let parts = parts.collect::<Result<Vec<_>>>()?;
            out.par_chunks_exact_mut(rows).enumerate().for_each(|(channel, out)| {
                for (out, part) in out.chunks_mut(at_a_time).skip(first).zip(&parts) {
                    out.copy_from_slice(&part[channel * out.len()..][..out.len()]);
                }
            });
        }
        Ok(())
    }
}

/// How many places of the output [`Conv::as_products`] lays out windows for at a time.
fn places_at_a_time(width: usize, rows: usize) -> usize {
    (LAID_OUT / width.max(1)).max(FEWEST).next_multiple_of(FEWEST).min(rows)
}

/// How many of those parts there may be at a time. A thread that waits inside one begins another, so
/// the number of threads alone is no bound.
fn parts_at_once() -> usize {
    4 * rayon::current_num_threads().max(1)
}

/// The planes of a group, laid out.
fn laid_out(grid: &Grid, sizes: &Sizes, x: &[f32]) -> Vec<f32> {
    let length = grid.laid_out();
    let mut planes = vec![0f32; length * sizes.channels];
    planes.par_chunks_exact_mut(length).enumerate().for_each(|(channel, plane)| {
        grid.lay_out(&x[channel * sizes.plane..][..sizes.plane], 0.0, plane);
    });
    planes
}

/// The matrix of windows for these places of the output: [K, places].
fn collect(grid: &Grid, planes: &[f32], places: Range<usize>, into: &mut [f32]) {
    let width = grid.out[1];
    let mut rows = into.chunks_exact_mut(places.len());
    for plane in planes.chunks_exact(grid.laid_out()) {
        for (cell, mut row) in (0..grid.cells()).zip(&mut rows) {
            let mut at = places.start;
            while !row.is_empty() {
                let (line, column) = (at / width, at % width);
                let length = (width - column).min(row.len());
                let (now, later) = row.split_at_mut(length);
                now.copy_from_slice(&plane[grid.place(cell, line) + column..][..length]);
                (row, at) = (later, at + length);
            }
        }
    }
}
