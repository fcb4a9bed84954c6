//! OpenCV's `INTER_AREA`, shrinking: each output pixel is the mean of the area it covers.
//!
//! Source: the algorithm of OpenCV's `resize.cpp` (4.14): a table of weights for each axis, sums in
//! f32 in source order, rounding half to even; ratios that are whole on both axes sum integers, and
//! 2x2 rounds half up.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use crate::Picture;

/// Shrinks to `size` (width, height), which is at least 1 and at most the picture's on both axes.
pub(super) fn shrink(picture: &Picture, size: (u32, u32)) -> Picture {
    shrink_part(picture, (f64::from(picture.width), f64::from(picture.height)), size)
}

/// Shrinks what lies left of and above `part` (width, height), which may end within the picture's
/// last column and row.
pub(super) fn shrink_part(picture: &Picture, part: (f64, f64), size: (u32, u32)) -> Picture {
    Arch::new().dispatch(Job { picture, part, size })
}

/// The same code for every instruction set: the dispatch only lets the compiler use wider ones.
struct Job<'a> {
    picture: &'a Picture,
    part: (f64, f64),
    size: (u32, u32),
}

impl WithSimd for Job<'_> {
    type Output = Picture;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> Picture {
        self.run()
    }
}

impl Job<'_> {
    #[inline(always)]
    fn run(&self) -> Picture {
        let Self { picture, part, size } = *self;
        match (whole(scale(part.0, size.0)), whole(scale(part.1, size.1))) {
            (Some(x), Some(y)) => blocks(picture, size, x, y),
            _ => weighted(picture, part, size),
        }
    }
}

/// Source pixels for one output pixel, rounded the way OpenCV comes to it.
fn scale(from: f64, to: u32) -> f64 {
    1.0 / (f64::from(to) / from)
}

fn whole(scale: f64) -> Option<usize> {
    ((scale - scale.round()).abs() < f64::EPSILON).then_some(scale.round() as usize)
}

/// Means of whole blocks.
#[inline(always)]
fn blocks(picture: &Picture, (width, height): (u32, u32), x_by: usize, y_by: usize) -> Picture {
    let stride = picture.width as usize * 3;
    let share = 1.0 / (x_by * y_by) as f32;
    let halves_up = (x_by, y_by) == (2, 2);
    let mut rgb = Vec::with_capacity(width as usize * height as usize * 3);
    let mut columns = vec![0_u32; stride];
    for rows in picture.rgb.chunks_exact(stride * y_by).take(height as usize) {
        columns.fill(0);
        for row in rows.chunks_exact(stride) {
            for (sum, &value) in columns.iter_mut().zip(row) {
                *sum += u32::from(value);
            }
        }
        for block in columns.chunks_exact(x_by * 3).take(width as usize) {
            let mut sums = [0_u32; 3];
            for pixel in block.chunks_exact(3) {
                for (sum, &value) in sums.iter_mut().zip(pixel) {
                    *sum += value;
                }
            }
            if halves_up {
                rgb.extend(sums.map(|sum| ((sum + 2) >> 2) as u8));
            } else {
                rgb.extend(sums.map(|sum| rounded(sum as f32 * share)));
            }
        }
    }
    Picture { width, height, rgb }
}

/// Half to even, for values in 0..=255: at 2^23 the last bit of an f32 counts ones. Plain
/// `round_ties_even` is a function call on CPUs from before SSE 4.1, which is what we build for.
#[inline(always)]
fn rounded(value: f32) -> u8 {
    (value + 8_388_608.0).to_bits() as u8
}

/// What the output positions of one axis take.
struct Cells {
    cells: Vec<Cell>,
    /// The cells' weights, one after the other.
    weights: Vec<f32>,
}

/// Consecutive source positions from `start`, with these of the weights.
struct Cell {
    start: usize,
    weights: Range<usize>,
}

impl Cells {
    fn iter(&self) -> impl Iterator<Item = (usize, &[f32])> {
        self.cells.iter().map(|cell| (cell.start, &self.weights[cell.weights.clone()]))
    }
}

/// The cells of one axis of `from` pixels, of which `part` count. A sliver below a thousandth of a
/// pixel is left out.
fn cells(from: u32, part: f64, to: u32) -> Cells {
    const SLIVER: f64 = 1e-3;
    let scale = scale(part, to);
    let mut cells = Vec::with_capacity(to as usize);
    let mut weights = Vec::with_capacity(from as usize + 2 * to as usize);
    for to in 0..to {
        let begin = f64::from(to) * scale;
        let end = begin + scale;
        let size = scale.min(part - begin);
        let last_whole = (end.floor() as usize).min(from as usize - 1);
        let first_whole = (begin.ceil() as usize).min(last_whole);
        let mut start = first_whole;
        let first = weights.len();
        let before = first_whole as f64 - begin;
        if before > SLIVER {
            start -= 1;
            weights.push((before / size) as f32);
        }
        weights.extend((first_whole..last_whole).map(|_| (1.0 / size) as f32));
        let after = end - last_whole as f64;
        if after > SLIVER {
            weights.push((after.min(1.0).min(size) / size) as f32);
        }
        cells.push(Cell { start, weights: first..weights.len() });
    }
    Cells { cells, weights }
}

/// Rows that are narrowed together: one look at the weights serves them all.
const TOGETHER: usize = 4;

#[inline(always)]
fn weighted(picture: &Picture, part: (f64, f64), (width, height): (u32, u32)) -> Picture {
    let columns = cells(picture.width, part.0, width);
    let rows = cells(picture.height, part.1, height);
    let stride = picture.width as usize * 3;
    let out_stride = width as usize * 3;
    let mut rgb = Vec::with_capacity(out_stride * height as usize);
    // One value more than the pixels have, see `narrow`.
    let mut exact = [(); TOGETHER].map(|()| vec![0_f32; stride + 1]);
    let mut narrowed = [(); TOGETHER].map(|()| vec![0_f32; out_stride + 1]);
    let mut ready = 0..0;
    let mut sums = vec![0_f32; out_stride];
    for (start, weights) in rows.iter() {
        for (index, &weight) in weights.iter().enumerate() {
            let y = start + index;
            if !ready.contains(&y) {
                let rest = picture.rgb[y * stride..].chunks_exact(stride);
                for (exact, row) in exact.iter_mut().zip(rest) {
                    for (exact, &value) in exact.iter_mut().zip(row) {
                        *exact = f32::from(value);
                    }
                }
                narrow(&exact, &columns, &mut narrowed);
                ready = y..y + TOGETHER;
            }
            let narrowed = &narrowed[y - ready.start];
            if index == 0 {
                for (sum, &value) in sums.iter_mut().zip(narrowed) {
                    *sum = weight * value;
                }
            } else {
                for (sum, &value) in sums.iter_mut().zip(narrowed) {
                    *sum += weight * value;
                }
            }
        }
        rgb.extend(sums.iter().map(|&sum| rounded(sum)));
    }
    Picture { width, height, rgb }
}

/// Narrows rows. All rows have one value more than their pixels: four lanes at a time are one
/// vector, and the next pixel is written over the fourth.
#[inline(always)]
fn narrow(rows: &[Vec<f32>; TOGETHER], columns: &Cells, narrowed: &mut [Vec<f32>; TOGETHER]) {
    // Rows of one length need one check of a place for all.
    let (length, out_length) = (rows[0].len(), narrowed[0].len());
    let rows = rows.each_ref().map(|row| &row[..length]);
    let mut narrowed = narrowed.each_mut().map(|row| &mut row[..out_length]);
    let mut to = 0;
    for (start, weights) in columns.iter() {
        let mut sums = [[0_f32; 4]; TOGETHER];
        let mut at = start * 3;
        for &weight in weights {
            if let Some(end) = at.checked_add(4)
                && end <= length
            {
                for (sums, row) in sums.iter_mut().zip(rows) {
                    for (sum, &value) in sums.iter_mut().zip(&row[at..end]) {
                        *sum += value * weight;
                    }
                }
            }
            at += 3;
        }
        let end = to + 4;
        if end <= out_length {
            for (row, sums) in narrowed.iter_mut().zip(&sums) {
                row[to..end].copy_from_slice(sums);
            }
        }
        to += 3;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shrunk(values: &[u8], width: u32, size: (u32, u32)) -> Vec<u8> {
        let rgb = values.iter().flat_map(|&value| [value; 3]).collect();
        let picture = Picture { width, height: values.len() as u32 / width, rgb };
        shrink(&picture, size).rgb.chunks(3).map(|pixel| pixel[0]).collect()
    }

    #[test]
    fn two_by_two_rounds_half_up_and_other_blocks_half_to_even() {
        assert_eq!(shrunk(&[0, 1, 0, 1], 2, (1, 1)), [1]);
        assert_eq!(shrunk(&[0, 1], 2, (1, 1)), [0]);
        assert_eq!(shrunk(&[1, 2], 2, (1, 1)), [2]);
        assert_eq!(shrunk(&[0, 0, 9, 3, 3, 3], 3, (1, 2)), [3, 3]);
    }

    #[test]
    fn a_pixel_on_the_edge_is_shared_by_its_part() {
        // 3 to 2: each output covers 1.5 pixels.
        assert_eq!(shrunk(&[30, 60, 90], 3, (2, 1)), [40, 80]);
        // 5 to 2: 2.5 each.
        assert_eq!(shrunk(&[10, 20, 30, 40, 50], 5, (2, 1)), [18, 42]);
    }

    #[test]
    fn every_instruction_set_gives_the_same_pixels() {
        for (from, size) in
            [((333, 217), (256, 167)), ((97, 9), (96, 9)), ((64, 63), (16, 21)), ((5, 7), (1, 1))]
        {
            let bytes: u32 = from.0 * from.1 * 3;
            let rgb = (0..bytes).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            let picture = Picture { width: from.0, height: from.1, rgb };
            let part = (f64::from(from.0), f64::from(from.1));
            let plain = Job { picture: &picture, part, size }.run();
            assert_eq!(shrink(&picture, size), plain, "{size:?}");
        }
    }

    #[test]
    fn halves_go_to_the_even_neighbour() {
        let values = [0.0, 0.5, 0.500_01, 1.5, 2.5, 254.5, 254.51, 255.0, 255.000_03];
        assert_eq!(values.map(rounded), [0, 0, 1, 2, 2, 254, 255, 255, 255]);
    }

    #[test]
    fn a_part_may_end_within_the_last_column() {
        let rgb = [[10; 3], [20; 3], [90; 3]].concat();
        let picture = Picture { width: 3, height: 1, rgb };
        let out = shrink_part(&picture, (2.5, 1.0), (2, 1));
        // 10 and a quarter of 20; the rest of 20 and half of 90.
        assert_eq!([out.rgb[0], out.rgb[3]], [12, 48]);
    }

    #[test]
    fn one_axis_may_stay() {
        assert_eq!(shrunk(&[10, 20, 30, 200, 210, 220], 3, (2, 2)), [13, 27, 203, 217]);
    }
}
