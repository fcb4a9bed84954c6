//! Matrix products of f32 numbers rounded to bf16, with f32 sums.
//!
//! Products of two bf16 numbers are exact in f32. The order of the sums is that of the instruction
//! VDPBF16PS (Intel SDM): of each pair of neighbours in the inner dimension the second product is
//! added first. So machines with and without the instruction give the same bits, numbers below the
//! smallest normal one and beyond the largest finite one apart, and so does any number of threads.

use rayon::prelude::*;

use crate::fresh::zeros;
use crate::gemm::Matrix;
use crate::simd::{Level, Work};

/// Columns of a panel: two AVX-512 registers of f32.
const WIDE: usize = 32;

/// Rows of a tile.
const TALL: usize = 12;

/// Pairs of the inner dimension in one block, so that a panel's part (32 KiB) stays in the
/// first-level cache.
const DEPTH: usize = 256;

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

/// `into = a b`, or `into += a b` if `add`, of the factors rounded to bf16; `into` is row after row.
pub(crate) fn half_product(into: &mut [f32], add: bool, a: Matrix<f32>, b: Matrix<f32>) {
    half_product_at(Level::best(), has_instruction(), into, add, a, b);
}

pub(crate) fn half_product_at(
    level: Level,
    instruction: bool,
    into: &mut [f32],
    add: bool,
    a: Matrix<f32>,
    b: Matrix<f32>,
) {
    assert_eq!(a.columns, b.rows, "inner dimensions");
    assert_eq!(into.len(), a.rows * b.columns, "the product");
    if !add {
        into.fill(0.0);
    }
    if into.is_empty() || b.rows == 0 {
        return;
    }
    let (left, right) = (pack_left(level, a), pack_right(level, b));
    multiply(level, instruction, into, &left, &right, b.rows.div_ceil(2));
}

/// Columns (or rows) that are laid out together, so that what is written strided stays in the
/// first-level cache.
const TOGETHER: usize = 64;

/// The left factor row after row, each as pairs of neighbours.
pub(crate) fn pack_left(level: Level, a: Matrix<f32>) -> Vec<u32> {
    let (down, right) = a.strides;
    let pairs = a.columns.div_ceil(2);
    let mut packed = zeros(a.rows * pairs);
    if packed.is_empty() {
        return packed;
    }
    if right == 1 {
        packed.par_chunks_mut(pairs).zip(a.data.par_chunks(a.columns)).for_each(|(to, from)| {
            level.run(Round { from, to });
        });
        return packed;
    }
    packed.par_chunks_mut(TOGETHER * pairs).enumerate().for_each(|(part, to)| {
        let count = to.len() / pairs;
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
                to[row * pairs + l] = *pair;
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

/// `y += left right` for factors laid out by [`pack_left`] and [`pack_right`] with so many pairs.
pub(crate) fn multiply(
    level: Level,
    instruction: bool,
    y: &mut [f32],
    left: &[u32],
    right: &[u32],
    pairs: usize,
) {
    let rows = left.len() / pairs.max(1);
    if rows == 0 || y.is_empty() {
        return;
    }
    let columns = y.len() / rows;
    let tasks = 2 * rayon::current_num_threads().max(1);
    let task = rows.div_ceil(tasks).next_multiple_of(TALL).min(32 * TALL);
    y.par_chunks_mut(task * columns).zip(left.par_chunks(task * pairs)).for_each(|(y, left)| {
        for start in (0..pairs).step_by(DEPTH) {
            let steps = DEPTH.min(pairs - start);
            for (panel, b) in right.chunks_exact(pairs * WIDE).enumerate() {
                let b = &b[start * WIDE..(start + steps) * WIDE];
                let first = panel * WIDE;
                let count = WIDE.min(columns - first);
                for (y, a) in y.chunks_mut(TALL * columns).zip(left.chunks(TALL * pairs)) {
                    let rows = y.len() / columns;
                    let y = &mut y[first..];
                    let tile = Tile { a: &a[start..], pairs, b, rows, y, columns, count };
                    tile.run(instruction, level);
                }
            }
        }
    });
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

/// Whether this machine has the instruction.
pub(crate) fn has_instruction() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
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

/// `y += a b` for at most [`TALL`] rows and [`WIDE`] columns.
struct Tile<'a> {
    /// Pair l of row i is `a[i·pairs + l]`.
    a: &'a [u32],
    pairs: usize,
    /// Pair l of column j is `b[l·WIDE + j]`.
    b: &'a [u32],
    rows: usize,
    /// Element (i, j) is `y[i·columns + j]` for j < count.
    y: &'a mut [f32],
    columns: usize,
    count: usize,
}

impl Tile<'_> {
    fn run(self, instruction: bool, level: Level) {
        let steps = self.b.len() / WIDE;
        // What the loops read and write without a check.
        assert!((1..=TALL).contains(&self.rows) && (1..=WIDE).contains(&self.count));
        assert!(steps > 0 && self.b.len() == steps * WIDE);
        assert!(self.a.len() >= (self.rows - 1) * self.pairs + steps);
        assert!(self.y.len() >= (self.rows - 1) * self.columns + self.count);
        #[cfg(target_arch = "x86_64")]
        if instruction && has_instruction() {
            // SAFETY: the instruction is there, and the sizes were checked in the lines above.
            unsafe { tile_avx512(self, steps) };
            return;
        }
        let _ = instruction;
        level.run(Emulated { tile: self, steps });
    }
}

#[cfg(target_arch = "x86_64")]
/// # Safety
/// The machine has AVX-512 F and BF16; `a` holds `steps` pairs of every row, `b` holds
/// `steps · WIDE` pairs, `y` holds `count` elements of every row.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile_avx512(tile: Tile, steps: usize) {
    use std::arch::x86_64::{
        __m512, __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_loadu_si512,
        _mm512_set1_epi32, _mm512_setzero_ps, _mm512_storeu_ps,
    };
    let Tile { a, pairs, b, rows, y, columns, count } = tile;
    let mut values = [[0f32; WIDE]; TALL];
    let mut sums: [[__m512; 2]; TALL] = [[_mm512_setzero_ps(); 2]; TALL];
    let whole = count == WIDE;
    for (i, sums) in sums.iter_mut().enumerate().take(rows) {
        let from = if whole {
            y[i * columns..].as_ptr()
        } else {
            values[i][..count].copy_from_slice(&y[i * columns..][..count]);
            values[i].as_ptr()
        };
        // SAFETY: `from` points at WIDE = 32 elements: of `y` where all columns are there (checked
        // by the caller), of `values` where not.
        unsafe { *sums = [_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16))] };
    }
    // Rows beyond the last repeat it; their sums are not stored.
    let offsets: [usize; TALL] = std::array::from_fn(|i| i.min(rows - 1) * pairs);
    let bits = |v: __m512i| -> __m512bh {
        // SAFETY: both types are 512 bits without invalid patterns.
        unsafe { std::mem::transmute(v) }
    };
    for l in 0..steps {
        // SAFETY: l < steps, and b has steps·WIDE elements of 4 bytes.
        let b: [__m512bh; 2] = unsafe {
            let at = b.as_ptr().add(l * WIDE);
            [bits(_mm512_loadu_si512(at.cast())), bits(_mm512_loadu_si512(at.add(16).cast()))]
        };
        for i in 0..TALL {
            // SAFETY: offsets[i] + l ≤ (rows - 1)·pairs + steps - 1 < a.len().
            let a = unsafe { *a.get_unchecked(offsets[i] + l) };
            let a = bits(_mm512_set1_epi32(a.cast_signed()));
            sums[i][0] = _mm512_dpbf16_ps(sums[i][0], a, b[0]);
            sums[i][1] = _mm512_dpbf16_ps(sums[i][1], a, b[1]);
        }
    }
    for (i, sums) in sums.iter().enumerate().take(rows) {
        let to = if whole { y[i * columns..].as_mut_ptr() } else { values[i].as_mut_ptr() };
        // SAFETY: as for the loads.
        unsafe {
            _mm512_storeu_ps(to, sums[0]);
            _mm512_storeu_ps(to.add(16), sums[1]);
        }
        if !whole {
            y[i * columns..][..count].copy_from_slice(&values[i][..count]);
        }
    }
}

/// The instruction's arithmetic in plain steps.
struct Emulated<'a> {
    tile: Tile<'a>,
    steps: usize,
}

impl Work for Emulated<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Tile { a, pairs, b, rows, y, columns, count } = self.tile;
        let low = |pair: u32| f32::from_bits(pair << 16);
        let high = |pair: u32| f32::from_bits(pair & 0xffff_0000);
        for i in 0..rows {
            let mut sums = [0f32; WIDE];
            sums[..count].copy_from_slice(&y[i * columns..][..count]);
            for (a, b) in a[i * pairs..][..self.steps].iter().zip(b.chunks_exact(WIDE)) {
                let (first, second) = (low(*a), high(*a));
                for (sum, b) in sums.iter_mut().zip(b) {
                    // The products are exact.
                    let with_second = *sum + second * high(*b);
                    *sum = with_second + first * low(*b);
                }
            }
            y[i * columns..][..count].copy_from_slice(&sums[..count]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(count: usize, seed: u32) -> Vec<f32> {
        let bits =
            |i: u32| i.wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(40_503)) >> 8;
        (0..count as u32).map(|i| bits(i) as f32 / (1 << 23) as f32 - 1.0).collect()
    }

    #[test]
    fn bf16_is_rounded_to_the_nearest_even() {
        for (value, bits) in [
            (1.0, 0x3f80),
            (-2.5, 0xc020),
            (1.003_906_25, 0x3f80), // a tie, down to even
            (1.011_718_75, 0x3f82), // a tie, up to even
            (1.003_907, 0x3f81),
            (f32::INFINITY, 0x7f80),
            (f32::MAX, 0x7f80),
        ] {
            assert_eq!(rounded(value), bits, "{value}");
        }
        assert!(f32::from_bits(rounded(f32::NAN) << 16).is_nan());
        assert_eq!(rounded(1.1), 0x3f8d); // 1.1015625
    }

    /// The definition: pairs in order, the second product first.
    fn defined(a: Matrix<f32>, b: Matrix<f32>, start: f32) -> Vec<f32> {
        let at = |m: &Matrix<f32>, i: usize, j: usize| {
            if i < m.rows && j < m.columns {
                f32::from_bits(rounded(m.data[i * m.strides.0 + j * m.strides.1]) << 16)
            } else {
                0.0
            }
        };
        let mut all = Vec::new();
        for i in 0..a.rows {
            for j in 0..b.columns {
                all.push((0..a.columns.div_ceil(2)).fold(start, |sum, l| {
                    let sum = sum + at(&a, i, 2 * l + 1) * at(&b, 2 * l + 1, j);
                    sum + at(&a, i, 2 * l) * at(&b, 2 * l, j)
                }));
            }
        }
        all
    }

    #[test]
    fn every_level_and_every_layout_give_the_bits_of_the_definition() {
        for (m, n, k) in [(1, 1, 1), (13, 33, 7), (70, 40, 131), (12, 32, 514)] {
            let (a, b) = (noise(m * k, 3), noise(k * n, 7));
            let rows = (Matrix::new(&a, m, k), Matrix::new(&b, k, n));
            let columns = (Matrix::new(&a, k, m).transposed(), Matrix::new(&b, n, k).transposed());
            for (a, b) in [rows, columns, (rows.0, columns.1), (columns.0, rows.1)] {
                for level in Level::available() {
                    for instruction in [false, true] {
                        let mut c = vec![5.0; m * n];
                        half_product_at(*level, instruction, &mut c, false, a, b);
                        assert_eq!(c, defined(a, b, 0.0), "{level:?} {m} {n} {k}");
                        c.fill(5.0);
                        half_product_at(*level, instruction, &mut c, true, a, b);
                        assert_eq!(c, defined(a, b, 5.0), "{level:?} {m} {n} {k}");
                    }
                }
            }
        }
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bits() {
        let (a, b) = (noise(200 * 70, 3), noise(70 * 90, 7));
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut c = vec![0.0; 200 * 90];
            pool.install(|| {
                half_product(&mut c, false, Matrix::new(&a, 200, 70), Matrix::new(&b, 70, 90));
            });
            c
        };
        assert_eq!(with(1), with(3));
    }
}
