//! The factors of products in bf16, laid out as pairs of neighbours in the inner dimension.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::fresh::{written, zeros};
use crate::gemm::Matrix;
use crate::simd::{Level, Work};

/// Columns of a panel: two AVX-512 registers of f32.
pub(crate) const WIDE: usize = 32;

/// The nearest bf16 number, ties to even; NaN stays NaN.
#[inline(always)]
pub(crate) fn rounded(value: f32) -> u32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    if value.is_nan() { (bits >> 16) | 0x40 } else { rounded }
}

/// Two neighbours as the instruction takes them: the first in the lower half.
#[inline(always)]
fn pair(first: f32, second: f32) -> u32 {
    rounded(first) | rounded(second) << 16
}

/// Columns (or rows) that are laid out together, so that what is written strided stays in the
/// first-level cache.
const TOGETHER: usize = 64;

/// Distance of two rows of the left factor with so many pairs: rows that lie a multiple of 2 KiB apart
/// would meet in the same few places of the caches.
pub(crate) fn apart(pairs: usize) -> usize {
    if pairs.is_multiple_of(512) { pairs + 16 } else { pairs }
}

/// The left factor row after row, each as pairs of neighbours, [`apart`] from the next.
pub(crate) fn pack_left(level: Level, a: Matrix<f32>) -> Vec<u32> {
    let (down, right) = a.strides;
    let (pairs, apart) = (a.columns.div_ceil(2), apart(a.columns.div_ceil(2)));
    if a.rows * pairs == 0 {
        return Vec::new();
    }
    if right == 1 {
        let write = |packed: &mut [MaybeUninit<u32>]| {
            packed.par_chunks_mut(apart).zip(a.data.par_chunks(a.columns)).for_each(
                |(to, from)| {
                    level.run(RoundRow { from, to });
                },
            );
        };
        // SAFETY: there are as many rows of `a` as chunks, and each is written to its end.
        return unsafe { written(a.rows * apart, write) };
    }
    let mut packed = zeros(a.rows * apart);
    packed.par_chunks_mut(TOGETHER * apart).enumerate().for_each(|(part, to)| {
        let count = to.len() / apart;
        let mut line = [0; TOGETHER];
        for l in 0..pairs {
            let from = part * TOGETHER * down;
            level.run(Both {
                first: &a.data[from + 2 * l * right..],
                second: (2 * l + 1 < a.columns).then(|| &a.data[from + (2 * l + 1) * right..]),
                step: down,
                to: &mut line[..count],
            });
            for (row, pair) in line[..count].iter().enumerate() {
                to[row * apart + l] = *pair;
            }
        }
    });
    packed
}

/// The right factor in panels: for each [`WIDE`] columns, for each pair of the inner dimension the
/// columns' pairs, zeros beyond the last column and the last number.
pub(crate) fn pack_right(level: Level, b: Matrix<f32>) -> Vec<u32> {
    let (down, right) = b.strides;
    let pairs = b.rows.div_ceil(2);
    let mut panels = zeros(b.columns.div_ceil(WIDE) * pairs * WIDE);
    panels.par_chunks_mut((pairs * WIDE).max(1)).enumerate().for_each(|(panel, packed)| {
        let first = panel * WIDE;
        let count = WIDE.min(b.columns - first);
        if down != 1 {
            for (l, to) in packed.chunks_exact_mut(WIDE).enumerate() {
                let from = first * right;
                level.run(Both {
                    first: &b.data[from + 2 * l * down..],
                    second: (2 * l + 1 < b.rows).then(|| &b.data[from + (2 * l + 1) * down..]),
                    step: right,
                    to: &mut to[..count],
                });
            }
            return;
        }
        let mut line = [0; TOGETHER];
        for (block, packed) in packed.chunks_mut(TOGETHER * WIDE).enumerate() {
            let steps = packed.len() / WIDE;
            for column in 0..count {
                let at = (first + column) * right + 2 * block * TOGETHER;
                let end = (2 * steps).min(b.rows - 2 * block * TOGETHER);
                level.run(Round { from: &b.data[at..at + end], to: &mut line[..steps] });
                for (to, pair) in packed[column..].iter_mut().step_by(WIDE).zip(&line[..steps]) {
                    *to = *pair;
                }
            }
        }
    });
    panels
}

/// Pairs of one element of each of two rows (or columns); the second may be missing at the end.
struct Both<'a> {
    first: &'a [f32],
    second: Option<&'a [f32]>,
    step: usize,
    to: &'a mut [u32],
}

impl Work for Both<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        match (self.second, self.step) {
            (Some(second), 1) => {
                for ((to, a), b) in self.to.iter_mut().zip(self.first).zip(second) {
                    *to = pair(*a, *b);
                }
            }
            (Some(second), step) => {
                let both = self.first.iter().step_by(step).zip(second.iter().step_by(step));
                for (to, (a, b)) in self.to.iter_mut().zip(both) {
                    *to = pair(*a, *b);
                }
            }
            (None, step) => {
                for (to, a) in self.to.iter_mut().zip(self.first.iter().step_by(step)) {
                    *to = pair(*a, 0.0);
                }
            }
        }
    }
}

/// A row of pairs, and zeros to the end.
struct RoundRow<'a> {
    from: &'a [f32],
    to: &'a mut [MaybeUninit<u32>],
}

impl Work for RoundRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let mut twos = self.from.chunks_exact(2);
        let (whole, rest) = self.to.split_at_mut(self.from.len() / 2);
        for (to, two) in whole.iter_mut().zip(&mut twos) {
            to.write(pair(two[0], two[1]));
        }
        let last = twos.remainder().first().map(|last| pair(*last, 0.0));
        for (to, value) in rest.iter_mut().zip(last.into_iter().chain(std::iter::repeat(0))) {
            to.write(value);
        }
    }
}

struct Round<'a> {
    from: &'a [f32],
    to: &'a mut [u32],
}

impl Work for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let mut twos = self.from.chunks_exact(2);
        for (to, two) in self.to.iter_mut().zip(&mut twos) {
            *to = pair(two[0], two[1]);
        }
        if let ([last], Some(to)) = (twos.remainder(), self.to.last_mut()) {
            *to = pair(*last, 0.0);
        }
    }
}
