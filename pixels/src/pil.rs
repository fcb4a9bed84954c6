//! Pillow's bicubic and bilinear resampling, byte for byte.
//!
//! Source: Pillow's `Resample.c` as described in figures: bicubic with a = -0.5 or a triangle, stretched when
//! shrinking; weights rounded to 22 fractional bits; horizontal pass first, 8 bits in between.

use crate::Picture;

/// Fractional bits of a weight: 32 less 8 for the pixel less 2 for overshoot.
const PRECISION: u32 = 22;

/// How neighbours are weighed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// Keys' cubic.
    Bicubic,
    /// A triangle.
    Bilinear,
}

impl Kernel {
    /// Half of its width before stretching.
    fn support(self) -> f64 {
        match self {
            Self::Bicubic => 2.0,
            Self::Bilinear => 1.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        match self {
            Self::Bicubic => bicubic(x),
            Self::Bilinear => (1.0 - x.abs()).max(0.0),
        }
    }
}

/// A rectangle of pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rect {
    pub(crate) x: u32,
    pub(crate) y: u32,
    pub(crate) width: u32,
    pub(crate) height: u32,
}

impl Rect {
    /// All of a picture.
    pub(crate) fn all(picture: &Picture) -> Self {
        Self { x: 0, y: 0, width: picture.width, height: picture.height }
    }
}

/// Cuts `source` out of the picture, resizes it to `size` (width, height), and gives back the part
/// `window` of the result; only that part is computed.
///
/// Both rectangles must lie inside what they cut.
pub(crate) fn resize(picture: &Picture, source: Rect, size: (u32, u32), window: Rect) -> Picture {
    resize_by(Kernel::Bicubic, picture, source, size, window)
}

/// The same with any kernel.
pub(crate) fn resize_by(
    kernel: Kernel,
    picture: &Picture,
    source: Rect,
    size: (u32, u32),
    window: Rect,
) -> Picture {
    let columns = Taps::new(kernel, source.width, size.0, window.x, window.width);
    let rows = Taps::new(kernel, source.height, size.1, window.y, window.height);
    // Rows of the source that the window's rows look at.
    let first = rows.starts.iter().copied().min().unwrap_or(0);
    let last = rows.starts.iter().zip(&rows.lengths).map(|(s, l)| s + l).max().unwrap_or(0);
    let width = window.width as usize;
    let stride = picture.width as usize * 3;
    let mut narrow = vec![0_u8; (last - first) * width * 3];
    for (out, y) in narrow.chunks_exact_mut(width * 3).zip(first..last) {
        let at = (source.y as usize + y) * stride + source.x as usize * 3;
        horizontal(&picture.rgb[at..at + source.width as usize * 3], &columns, out);
    }
    let mut rgb = vec![0_u8; width * window.height as usize * 3];
    let mut sums = vec![0_i32; width * 3];
    for (index, out) in rgb.chunks_exact_mut(width * 3).enumerate() {
        let (start, weights) = rows.of(index);
        vertical(&narrow[(start - first) * width * 3..], weights, &mut sums, out);
    }
    Picture { width: window.width, height: window.height, rgb }
}

/// Where each output position looks, and with which weights.
struct Taps {
    starts: Vec<usize>,
    lengths: Vec<usize>,
    /// `most` weights a position, zero beyond its length.
    weights: Vec<i32>,
    most: usize,
}

impl Taps {
    /// Weights for output positions `from..from + count` of `to` out of `input` pixels.
    fn new(kernel: Kernel, input: u32, to: u32, from: u32, count: u32) -> Self {
        let scale = f64::from(input) / f64::from(to);
        let stretch = scale.max(1.0);
        let support = kernel.support() * stretch;
        let most = support.ceil() as usize * 2 + 1;
        let mut taps = Self {
            starts: Vec::with_capacity(count as usize),
            lengths: Vec::with_capacity(count as usize),
            weights: vec![0; count as usize * most],
            most,
        };
        let mut exact = Vec::with_capacity(most);
        for (index, row) in taps.weights.chunks_exact_mut(most).enumerate() {
            let centre = (f64::from(from) + index as f64 + 0.5) * scale;
            // Casts to integers cut towards zero, and below zero to zero.
            let start = (centre - support + 0.5) as usize;
            let end = ((centre + support + 0.5) as usize).min(input as usize);
            exact.clear();
            exact.extend((start..end).map(|at| kernel.at((at as f64 - centre + 0.5) / stretch)));
            let sum: f64 = exact.iter().sum();
            for (weight, &value) in row.iter_mut().zip(&exact) {
                let share = if sum == 0.0 { value } else { value / sum };
                *weight = (share * f64::from(1 << PRECISION)).round() as i32;
            }
            taps.starts.push(start);
            taps.lengths.push(end - start);
        }
        taps
    }

    fn of(&self, index: usize) -> (usize, &[i32]) {
        let at = index * self.most;
        (self.starts[index], &self.weights[at..at + self.lengths[index]])
    }
}

/// Keys' cubic with a = -0.5.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn horizontal(row: &[u8], columns: &Taps, out: &mut [u8]) {
    for (index, pixel) in out.chunks_exact_mut(3).enumerate() {
        let (start, weights) = columns.of(index);
        let mut sums = [1 << (PRECISION - 1); 3];
        for (from, &weight) in row[start * 3..].chunks_exact(3).zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(from) {
                *sum += i32::from(value) * weight;
            }
        }
        for (value, sum) in pixel.iter_mut().zip(sums) {
            *value = narrowed(sum);
        }
    }
}

fn vertical(rows: &[u8], weights: &[i32], sums: &mut [i32], out: &mut [u8]) {
    sums.fill(1 << (PRECISION - 1));
    for (row, &weight) in rows.chunks_exact(out.len()).zip(weights) {
        for (sum, &value) in sums.iter_mut().zip(row) {
            *sum += i32::from(value) * weight;
        }
    }
    for (value, &sum) in out.iter_mut().zip(&*sums) {
        *value = narrowed(sum);
    }
}

fn narrowed(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gray(values: &[u8], width: u32) -> Picture {
        let rgb: Vec<u8> = values.iter().flat_map(|&value| [value; 3]).collect();
        Picture { width, height: values.len() as u32 / width, rgb }
    }

    #[test]
    fn the_same_size_gives_the_same_bytes() {
        let picture = gray(&[3, 200, 17, 9, 255, 0], 3);
        let all = Rect::all(&picture);
        assert_eq!(resize(&picture, all, (3, 2), all), picture);
    }

    #[test]
    fn a_flat_picture_stays_flat_at_any_size() {
        let picture = gray(&[77; 35], 7);
        for (width, height) in [(1, 1), (3, 9), (64, 2)] {
            let window = Rect { x: 0, y: 0, width, height };
            let out = resize(&picture, Rect::all(&picture), (width, height), window);
            assert!(out.rgb.iter().all(|&value| value == 77), "{width}x{height}");
        }
    }

    #[test]
    fn a_window_is_the_same_part_of_the_whole() {
        let values: Vec<u8> = (0..30 * 20).map(|i| (i * 37 % 251) as u8).collect();
        let picture = gray(&values, 30);
        let source = Rect { x: 2, y: 1, width: 27, height: 18 };
        let whole = Rect { x: 0, y: 0, width: 14, height: 11 };
        let window = Rect { x: 3, y: 2, width: 6, height: 7 };
        let big = resize(&picture, source, (14, 11), whole);
        let part = resize(&picture, source, (14, 11), window);
        for y in 0..7 {
            let at = ((y + 2) * 14 + 3) * 3;
            assert_eq!(part.rgb[y * 18..(y + 1) * 18], big.rgb[at..at + 18]);
        }
    }
}
