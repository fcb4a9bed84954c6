//! OpenCV's `INTER_LANCZOS4` for 8-bit pictures: 8 taps, weights of 11 bits, edges repeated.
//!
//! Source: the algorithm of OpenCV's `resize.cpp` (4.14); the kernel is sinc(x) sinc(x / 4).

use std::f64::consts::PI;

use pulp::{Arch, Simd, WithSimd};

use crate::Picture;

const TAPS: usize = 8;
/// Fractional bits of a weight; both passes together have twice as many.
const BITS: u32 = 11;

/// Resizes to `size` (width, height), at least 1 on both axes.
pub(super) fn enlarge(picture: &Picture, size: (u32, u32)) -> Picture {
    Arch::new().dispatch(Job { picture, size })
}

/// The same code for every instruction set: the dispatch only lets the compiler use wider ones.
struct Job<'a> {
    picture: &'a Picture,
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
        let Self { picture, size: (width, height) } = *self;
        let columns = taps(picture.width, width);
        let rows = taps(picture.height, height);
        let stride = picture.width as usize * 3;
        let out_stride = width as usize * 3;
        let mut rgb = Vec::with_capacity(out_stride * height as usize);
        // One value more than the pixels have, see `widen_row`.
        let mut exact = vec![0_i32; stride + 1];
        // The last 8 widened rows, each at its row number modulo 8.
        let mut wide = vec![0_i32; out_stride * TAPS];
        let mut next = 0;
        let mut sums = vec![0_i32; out_stride];
        for tap in &rows {
            let last = tap.from[TAPS - 1];
            next = next.max(tap.from[0]);
            while next <= last {
                let row = &picture.rgb[next * stride..(next + 1) * stride];
                for (exact, &value) in exact.iter_mut().zip(row) {
                    *exact = i32::from(value);
                }
                let at = next % TAPS * out_stride;
                widen_row(&exact, &columns, &mut wide[at..at + out_stride]);
                next += 1;
            }
            sums.fill(1 << (2 * BITS - 1));
            for (&from, &weight) in tap.from.iter().zip(&tap.weights) {
                let row = &wide[from % TAPS * out_stride..][..out_stride];
                for (sum, &value) in sums.iter_mut().zip(row) {
                    *sum += value * weight;
                }
            }
            rgb.extend(sums.iter().map(|sum| (sum >> (2 * BITS)).clamp(0, 255) as u8));
        }
        Picture { width, height, rgb }
    }
}

/// Where an output position looks, clamped to the picture, and with which weights.
struct Tap {
    from: [usize; TAPS],
    weights: [i32; TAPS],
}

fn taps(from: u32, to: u32) -> Vec<Tap> {
    let scale = 1.0 / (f64::from(to) / f64::from(from));
    (0..to)
        .map(|to| {
            // In f32, as OpenCV keeps positions.
            let position = ((f64::from(to) + 0.5) * scale - 0.5) as f32;
            let start = position.floor();
            let weights = weights(position - start);
            let last = i64::from(from) - 1;
            let at = |tap: usize| (start as i64 - 3 + tap as i64).clamp(0, last) as usize;
            Tap { from: std::array::from_fn(at), weights }
        })
        .collect()
}

/// Weights of the 8 neighbours of a position `fraction` (0..1) past the fourth.
///
/// Of sinc(x) sinc(x / 4) the factor sin(pi x) is the same for all taps but for its sign, and is
/// left out; sums and shares are f32, so that weights round as OpenCV's do.
fn weights(fraction: f32) -> [i32; TAPS] {
    let mut kernel: [f32; TAPS] = std::array::from_fn(|tap| {
        let x = fraction + 3.0 - tap as f32;
        if x.abs() < 1e-6 {
            return 1e30;
        }
        let angle = -f64::from(x) * PI / 4.0;
        let sign = if tap % 2 == 0 { 1.0 } else { -1.0 };
        (sign * angle.sin() / (angle * angle)) as f32
    });
    let share = 1.0 / kernel.iter().sum::<f32>();
    for weight in &mut kernel {
        *weight *= share;
    }
    kernel.map(|weight| (weight * (1 << BITS) as f32).round_ties_even() as i32)
}

/// Widens a row that has one value more than its pixels: four lanes at a time are one vector, and
/// the fourth is thrown away.
#[inline(always)]
fn widen_row(row: &[i32], columns: &[Tap], wide: &mut [i32]) {
    for (pixel, tap) in wide.as_chunks_mut::<3>().0.iter_mut().zip(columns) {
        let mut sums = [0_i32; 4];
        for (&from, &weight) in tap.from.iter().zip(&tap.weights) {
            if let Some(lanes) = row.get(from * 3..).and_then(<[i32]>::first_chunk::<4>) {
                for (sum, &value) in sums.iter_mut().zip(lanes) {
                    *sum += value * weight;
                }
            }
        }
        pixel.copy_from_slice(&sums[..3]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_on_a_pixel_is_that_pixel() {
        assert_eq!(weights(0.0), [0, 0, 0, 2048, 0, 0, 0, 0]);
    }

    #[test]
    fn weights_mirror() {
        let mut mirrored = weights(0.75);
        mirrored.reverse();
        assert_eq!(weights(0.25), mirrored);
    }

    #[test]
    fn every_instruction_set_gives_the_same_pixels() {
        for (from, size) in [((33, 21), (64, 41)), ((7, 9), (100, 128)), ((1, 1), (5, 3))] {
            let bytes: u32 = from.0 * from.1 * 3;
            let rgb = (0..bytes).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            let picture = Picture { width: from.0, height: from.1, rgb };
            assert_eq!(enlarge(&picture, size), Job { picture: &picture, size }.run(), "{size:?}");
        }
    }

    #[test]
    fn a_flat_picture_stays_flat_within_the_rounding_of_weights() {
        let out = enlarge(&Picture::filled(3, 2, [100; 3]), (10, 9));
        assert_eq!(out.rgb.len(), 10 * 9 * 3);
        assert!(out.rgb.iter().all(|&value| value.abs_diff(100) <= 1));
    }
}
