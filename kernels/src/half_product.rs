//! Matrix products of f32 numbers rounded to bf16, with f32 sums.
//!
//! Products of two bf16 numbers are exact in f32. The order of the sums is that of the instruction
//! VDPBF16PS (Intel SDM): of each pair of neighbours in the inner dimension the second product is
//! added first. So machines with and without the instruction give the same bits, numbers below the
//! smallest normal one and beyond the largest finite one apart, and so does any number of threads.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::ahead::{Ahead, BETWEEN, near};
use crate::fresh::{repeated, written, zeros};
use crate::gemm::Matrix;
use crate::half_layout::{WIDE, apart, pack_left, pack_right};
use crate::panels::{panels_together, rows_in_a_task};
use crate::simd::{Level, Work};
use crate::strip::Start;

/// Rows of a tile.
const TALL: usize = 12;

/// Pairs of the inner dimension in one block, so that a panel's part (32 KiB) stays in the
/// first-level cache.
const DEPTH: usize = 256;

/// `a b` of the factors rounded to bf16, plus the same row everywhere if there is one, in a new
/// buffer.
pub(crate) fn new_half_product(a: Matrix<f32>, b: Matrix<f32>, row: Option<&[f32]>) -> Vec<f32> {
    assert_eq!(a.columns, b.rows, "inner dimensions");
    let level = Level::best();
    let right = pack_right(level, b);
    let start = row.map_or(Start::Nothing, Start::Row);
    packed_half_product(level, has_instruction(), a, &right, b.columns, start)
}

/// The same of a right factor laid out by [`pack_right`].
pub(crate) fn packed_half_product(
    level: Level,
    instruction: bool,
    a: Matrix<f32>,
    right: &[u32],
    columns: usize,
    start: Start,
) -> Vec<f32> {
    if a.rows * columns == 0 || a.columns == 0 {
        return match start {
            Start::Row(row) => repeated(row, a.rows),
            _ => zeros(a.rows * columns),
        };
    }
    assert!(!matches!(start, Start::Held));
    let left = pack_left(level, a);
    let write = |y: &mut [MaybeUninit<f32>]| {
        // SAFETY: nothing is held before.
        unsafe { multiply(level, instruction, y, start, &left, right, a.columns.div_ceil(2)) };
    };
    // SAFETY: the product writes every element.
    unsafe { written(a.rows * columns, write) }
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
    if into.is_empty() || b.rows == 0 {
        if !add {
            into.fill(0.0);
        }
        return;
    }
    let (left, right) = (pack_left(level, a), pack_right(level, b));
    let start = if add { Start::Held } else { Start::Nothing };
    let (first, len) = (into.as_mut_ptr().cast(), into.len());
    // SAFETY: the same numbers, borrowed as long; all of them are numbers, and the product writes
    // nothing else.
    unsafe {
        let into = std::slice::from_raw_parts_mut(first, len);
        multiply(level, instruction, into, start, &left, &right, b.rows.div_ceil(2));
    }
}

/// Writes `left right`, added to what `start` says, for factors laid out by [`pack_left`] and
/// [`pack_right`] with so many pairs: every element, numbers alone. No factor is empty.
///
/// # Safety
/// With [`Start::Held`] all of `y` is numbers.
unsafe fn multiply(
    level: Level,
    instruction: bool,
    y: &mut [MaybeUninit<f32>],
    start: Start,
    left: &[u32],
    right: &[u32],
    pairs: usize,
) {
    let apart = apart(pairs);
    let rows = left.len() / apart;
    let columns = y.len() / rows;
    assert_eq!(y.len(), rows * columns, "the product");
    let task = rows_in_a_task(rows);
    let all = columns.div_ceil(WIDE);
    // A panel's part, in the order of their use.
    let part = |panel: usize, start: usize| {
        &right[(panel * pairs + start) * WIDE..][..DEPTH.min(pairs - start) * WIDE]
    };
    y.par_chunks_mut(task * columns).zip(left.par_chunks(task * apart)).for_each(|(y, left)| {
        let together = panels_together(y.len() / columns, pairs, columns);
        for group in (0..all).step_by(together) {
            let end = (group + together).min(all);
            for from in (0..pairs).step_by(DEPTH) {
                for panel in group..end {
                    let mut ahead = Ahead::new(if panel + 1 < end {
                        part(panel + 1, from)
                    } else if from + DEPTH < pairs {
                        part(group, from + DEPTH)
                    } else if end < all {
                        part(end, 0)
                    } else {
                        &[]
                    });
                    let (b, first) = (part(panel, from), panel * WIDE);
                    let to = match start {
                        _ if from > 0 => Start::Held,
                        Start::Row(row) => Start::Row(&row[first..]),
                        other => other,
                    };
                    let shown = WIDE.min(columns - first);
                    let places = y.chunks_mut(TALL * columns).map(|y| &mut y[first..]);
                    for (y, a) in places.zip(left.chunks(TALL * apart)) {
                        let rows = a.len() / apart;
                        let a = &a[from..];
                        let tile = Tile { a, apart, b, rows, y, columns, shown, to };
                        // SAFETY: what is held before the first block of the inner dimension is
                        // numbers, says the caller; the first block writes all of these columns in
                        // all rows of this task, and later ones come after it.
                        unsafe { tile.run(instruction, level, &mut ahead) };
                    }
                }
            }
        }
    });
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

/// `y (+)= a b` for at most [`TALL`] rows and [`WIDE`] columns.
struct Tile<'a> {
    /// Pair l of row i is `a[i·apart + l]`.
    a: &'a [u32],
    apart: usize,
    /// Pair l of column j is `b[l·WIDE + j]`.
    b: &'a [u32],
    rows: usize,
    /// Element (i, j) is `y[i·columns + j]` for j < shown.
    y: &'a mut [MaybeUninit<f32>],
    columns: usize,
    shown: usize,
    to: Start<'a>,
}

impl Tile<'_> {
    /// # Safety
    /// With [`Start::Held`] the tile's part of `y` is numbers.
    unsafe fn run(mut self, instruction: bool, level: Level, ahead: &mut Ahead<u32>) {
        let steps = self.b.len() / WIDE;
        // What the loops read and write without a check.
        assert!((1..=TALL).contains(&self.rows) && (1..=WIDE).contains(&self.shown));
        assert!(steps > 0 && self.b.len() == steps * WIDE);
        assert!(self.a.len() >= (self.rows - 1) * self.apart + steps);
        assert!(self.y.len() >= (self.rows - 1) * self.columns + self.shown);
        for row in TALL..2 * TALL {
            near(self.y, row * self.columns);
            near(self.y, row * self.columns + WIDE / 2);
        }
        #[cfg(target_arch = "x86_64")]
        if instruction && has_instruction() {
            // SAFETY: the instruction is there, the sizes were checked in the lines above, and what is
            // held is numbers.
            unsafe { tile_avx512(&mut self, steps, ahead) };
            return;
        }
        let _ = (instruction, ahead);
        // SAFETY: what is held is numbers.
        let sums = unsafe { self.begin() };
        level.run(Emulated { tile: self, sums, steps });
    }

    /// What the products are added to.
    ///
    /// # Safety
    /// As for [`Tile::run`].
    #[inline(always)]
    unsafe fn begin(&self) -> [[f32; WIDE]; TALL] {
        let mut sums = [[0f32; WIDE]; TALL];
        for (i, sums) in sums.iter_mut().enumerate().take(self.rows) {
            match self.to {
                Start::Nothing => {}
                Start::Row(row) => sums[..self.shown].copy_from_slice(&row[..self.shown]),
                Start::Held => {
                    let y = &self.y[i * self.columns..][..self.shown];
                    for (sum, y) in sums.iter_mut().zip(y) {
                        // SAFETY: a number, says the caller.
                        *sum = unsafe { y.assume_init() };
                    }
                }
            }
        }
        sums
    }

    #[inline(always)]
    fn end(&mut self, sums: &[[f32; WIDE]; TALL]) {
        for (i, sums) in sums.iter().enumerate().take(self.rows) {
            let y = &mut self.y[i * self.columns..][..self.shown];
            for (y, sum) in y.iter_mut().zip(sums) {
                y.write(*sum);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
/// # Safety
/// The machine has AVX-512 F and BF16; `a` holds `steps` pairs of every row, `b` holds
/// `steps · WIDE` pairs; and as for [`Tile::run`].
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile_avx512(tile: &mut Tile, steps: usize, ahead: &mut Ahead<u32>) {
    use std::arch::x86_64::{
        __m512, __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_loadu_si512,
        _mm512_set1_epi32, _mm512_setzero_ps, _mm512_storeu_ps,
    };
    let Tile { a, apart, b, rows, columns, shown, to, .. } = *tile;
    let mut sums: [[__m512; 2]; TALL] = [[_mm512_setzero_ps(); 2]; TALL];
    // A whole tile comes from the product and goes there without a stop.
    let whole = rows == TALL && shown == WIDE;
    let mut values = [[MaybeUninit::<f32>::uninit(); WIDE]; TALL];
    match to {
        Start::Row(row) if whole => {
            let row = &row[..WIDE];
            // SAFETY: two vectors of a row of WIDE numbers.
            let both =
                unsafe { [_mm512_loadu_ps(row.as_ptr()), _mm512_loadu_ps(row.as_ptr().add(16))] };
            sums = [both; TALL];
        }
        Start::Nothing if whole => {}
        Start::Held if whole => {
            for (i, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the row i < rows of y has WIDE numbers from i·columns, says the check.
                *sums = unsafe {
                    let from = tile.y.as_ptr().add(i * columns).cast::<f32>();
                    [_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16))]
                };
            }
        }
        _ => {
            // SAFETY: what is held is numbers.
            values = unsafe { tile.begin() }.map(|row| row.map(MaybeUninit::new));
            for (sums, values) in sums.iter_mut().zip(&values) {
                // SAFETY: each row of `values` is two vectors of numbers.
                *sums = unsafe {
                    let from = values.as_ptr().cast::<f32>();
                    [_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16))]
                };
            }
        }
    }
    // Rows beyond the last repeat it; nobody looks at their sums.
    let offsets: [usize; TALL] = std::array::from_fn(|i| i.min(rows - 1) * apart);
    let bits = |v: __m512i| -> __m512bh {
        // SAFETY: both types are 512 bits without invalid patterns.
        unsafe { std::mem::transmute(v) }
    };
    for l in 0..steps {
        if l % BETWEEN == 0 {
            ahead.one();
        }
        // SAFETY: l < steps, and b has steps·WIDE elements of 4 bytes.
        let b: [__m512bh; 2] = unsafe {
            let at = b.as_ptr().add(l * WIDE);
            [bits(_mm512_loadu_si512(at.cast())), bits(_mm512_loadu_si512(at.add(16).cast()))]
        };
        for i in 0..TALL {
            // SAFETY: offsets[i] + l ≤ (rows - 1)·apart + steps - 1 < a.len().
            let a = unsafe { *a.get_unchecked(offsets[i] + l) };
            let a = bits(_mm512_set1_epi32(a.cast_signed()));
            sums[i][0] = _mm512_dpbf16_ps(sums[i][0], a, b[0]);
            sums[i][1] = _mm512_dpbf16_ps(sums[i][1], a, b[1]);
        }
    }
    for i in 0..TALL {
        let to = if whole { &mut tile.y[i * columns..][..WIDE] } else { &mut values[i][..] };
        // SAFETY: `to` is two vectors long.
        unsafe {
            let to = to.as_mut_ptr().cast::<f32>();
            _mm512_storeu_ps(to, sums[i][0]);
            _mm512_storeu_ps(to.add(16), sums[i][1]);
        }
    }
    if !whole {
        for (i, values) in values.iter().enumerate().take(rows) {
            tile.y[i * columns..][..shown].copy_from_slice(&values[..shown]);
        }
    }
}

/// The instruction's arithmetic in plain steps.
struct Emulated<'a> {
    tile: Tile<'a>,
    sums: [[f32; WIDE]; TALL],
    steps: usize,
}

impl Work for Emulated<'_> {
    type Output = ();

    #[inline(always)]
    fn run(mut self) {
        let Tile { a, apart, b, rows, .. } = self.tile;
        let low = |pair: u32| f32::from_bits(pair << 16);
        let high = |pair: u32| f32::from_bits(pair & 0xffff_0000);
        for (i, sums) in self.sums.iter_mut().enumerate().take(rows) {
            for (a, b) in a[i * apart..][..self.steps].iter().zip(b.chunks_exact(WIDE)) {
                let (first, second) = (low(*a), high(*a));
                for (sum, b) in sums.iter_mut().zip(b) {
                    // The products are exact.
                    let with_second = *sum + second * high(*b);
                    *sum = with_second + first * low(*b);
                }
            }
        }
        self.tile.end(&self.sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::half_layout::rounded;

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
        for (m, n, k) in [(1, 1, 1), (13, 33, 7), (70, 40, 131), (12, 32, 514), (25, 33, 1024)] {
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
