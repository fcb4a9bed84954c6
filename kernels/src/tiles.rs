//! The inner loops of matrix products in f32: tiles whose sums stay in vector registers.
//!
//! Every element is summed over the inner dimension in order. Two arithmetics: `fused` rounds once
//! a step (FMA), `plain` rounds the product and the sum, as code without vectors does; within one
//! of them all vector widths give the same bits.

use crate::ahead::{Ahead, BETWEEN, near};
use crate::simd::Level;
use crate::strip::{PAD, Start, Strip};

/// Whether [`fused`] runs on this machine at this level.
pub(crate) fn has_fused(level: Level) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        level != Level::Baseline && is_x86_feature_detected!("fma")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = level;
        false
    }
}

/// The product with one rounding a step.
///
/// # Panics
/// Where [`has_fused`] is false.
///
/// # Safety
/// With [`Start::Held`] every element of the product was written before.
pub(crate) unsafe fn fused(level: Level, strip: Strip) {
    assert!(has_fused(level));
    strip.check();
    match level {
        Level::Baseline => {}
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => {
            assert!(is_x86_feature_detected!("avx2"));
            // SAFETY: AVX2 and FMA are there, and the strip was checked; what is held, by the caller.
            unsafe { fused_avx2(strip) }
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => {
            assert!(is_x86_feature_detected!("avx512f"));
            // SAFETY: AVX-512F and FMA are there, and the strip was checked; what is held, by the
            // caller.
            unsafe { fused_avx512(strip) }
        }
    }
}

/// The product with two roundings a step; not added to anything.
///
/// # Panics
/// With [`Start::Held`].
pub(crate) fn plain(level: Level, strip: Strip) {
    strip.check();
    assert!(!matches!(strip.to, Start::Held));
    match level {
        Level::Baseline => plain_baseline(strip),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => {
            assert!(is_x86_feature_detected!("avx2"));
            // SAFETY: AVX2 is there, and the strip was checked.
            unsafe { plain_avx2(strip) }
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => {
            assert!(is_x86_feature_detected!("avx512f"));
            // SAFETY: AVX-512F is there, and the strip was checked.
            unsafe { plain_avx512(strip) }
        }
    }
}

fn plain_baseline(strip: Strip) {
    let Strip { a, offset, down, right, b, stride, steps, span, into, into_stride, to, .. } = strip;
    let mut sums = vec![0f32; strip.columns];
    for i in 0..strip.rows {
        sums.fill(0.0);
        let (start, end) = span.of(i, 1, steps);
        for l in start..end {
            let factor = a[offset + i * down + l * right];
            for (sum, b) in sums.iter_mut().zip(&b[l * stride..]) {
                *sum += factor * *b;
            }
        }
        let into = &mut into.0[i * into_stride..][..strip.columns];
        for (j, (into, sum)) in into.iter_mut().zip(&sums).enumerate() {
            into.write(match to {
                Start::Row(row) => row[j] + *sum,
                _ => *sum,
            });
        }
    }
}

/// Writes a kernel and its tile of `ROWS` rows and P vectors.
#[cfg(target_arch = "x86_64")]
macro_rules! kernel {
    ($name:ident, $tile:ident, $features:literal, $vector:ident, $lanes:literal, $rows:literal = [$($third:literal: [$($r:literal)*])*],
     $load:ident, $store:ident, $broadcast:ident, $zero:ident,
     |$x:ident, $y:ident, $z:ident| $step:expr) => {
        /// # Safety
        /// The strip was checked; with `Start::Held` the product was written before.
        #[target_feature(enable = $features)]
        unsafe fn $name(mut strip: Strip) {
            let mut ahead = Ahead::new(strip.next);
            for first in (0..strip.rows).step_by($rows) {
                let mut column = 0;
                while column < strip.columns {
                    // Two vectors where the padded columns hold two.
                    let left = strip.columns.next_multiple_of(PAD) - column;
                    if left >= 2 * $lanes {
                        // SAFETY: the strip was checked, and two vectors of padded columns are left.
                        unsafe { $tile::<2>(&mut strip, first, column, &mut ahead) };
                        column += 2 * $lanes;
                    } else {
                        // SAFETY: the strip was checked, and one vector of padded columns is left.
                        unsafe { $tile::<1>(&mut strip, first, column, &mut ahead) };
                        column += $lanes;
                    }
                }
            }
        }

        /// # Safety
        /// As above, and P vectors of padded columns begin at `column`.
        #[target_feature(enable = $features)]
        #[inline]
        unsafe fn $tile<const P: usize>(
            strip: &mut Strip,
            first: usize,
            column: usize,
            ahead: &mut Ahead<f32>,
        ) {
            use std::arch::x86_64::*;
            let count = (strip.rows - first).min($rows);
            for row in first + $rows..(first + 2 * $rows).min(strip.rows) {
                for p in 0..P {
                    near(strip.into.0, row * strip.into_stride + column + p * $lanes);
                }
            }
            let (start, end) = strip.span.of(first, count, strip.steps);
            // The sums are named one by one wherever they are used, so that they stay in registers;
            // at the end they go to the product by way of these.
            let mut values = [[[0f32; $lanes]; 2]; $rows];
            let mut sums: [[$vector; P]; $rows] = [[$zero(); P]; $rows];
            if count == $rows {
                // Every third row has a pointer, and the two below it are found from there: few
                // enough numbers to stay in registers. They are moved without a claim of where to:
                // after the last step they may point past the end.
                let mut thirds = [std::ptr::null::<f32>(); $rows / 3];
                for (t, third) in thirds.iter_mut().enumerate() {
                    let at = strip.offset + (first + 3 * t) * strip.down + start * strip.right;
                    *third = strip.a.as_ptr().wrapping_add(at);
                }
                let mut from = strip.b.as_ptr().wrapping_add(start * strip.stride + column);
                let mut l = start;
                while l < end {
                    ahead.one();
                    for _ in l..(l + BETWEEN).min(end) {
                        let mut b: [$vector; P] = [$zero(); P];
                        for (p, b) in b.iter_mut().enumerate() {
                            // SAFETY: `from` is b + l·stride + column for a step l < steps, and
                            // column + (p + 1)·lanes ≤ the padded columns, so the lanes end at most
                            // at (steps - 1)·stride + padded columns ≤ b.len().
                            *b = unsafe { $load(from.add(p * $lanes)) };
                        }
                        $($(
                            // SAFETY: this is a + offset + (first + r)·down + l·right: all $rows
                            // rows are there and l < steps, so the index is at most the one that the
                            // check compared with a.len().
                            let factor = unsafe { *thirds[$third].add($r % 3 * strip.down) };
                            let $x = $broadcast(factor);
                            for p in 0..P {
                                let ($y, $z) = (b[p], sums[$r][p]);
                                sums[$r][p] = $step;
                            }
                        )*)*
                        $(thirds[$third] = thirds[$third].wrapping_add(strip.right);)*
                        from = from.wrapping_add(strip.stride);
                    }
                    l += BETWEEN;
                }
            } else {
                // Rows beyond the last repeat it; their sums are not stored.
                let mut offsets = [0; $rows];
                for (r, offset) in offsets.iter_mut().enumerate() {
                    *offset = strip.offset + (first + r.min(count - 1)) * strip.down;
                }
                for l in start..end {
                    let mut b: [$vector; P] = [$zero(); P];
                    for (p, b) in b.iter_mut().enumerate() {
                        // SAFETY: l < steps and column + (p + 1)·lanes ≤ the padded columns, so the
                        // lanes end at most at (steps - 1)·stride + padded columns ≤ b.len().
                        *b = unsafe {
                            $load(strip.b.as_ptr().add(l * strip.stride + column + p * $lanes))
                        };
                    }
                    for r in 0..$rows {
                        // SAFETY: the row is at most rows - 1 and l at most steps - 1, so the index
                        // is at most the one that the check compared with a.len().
                        let factor =
                            unsafe { *strip.a.get_unchecked(offsets[r] + l * strip.right) };
                        let $x = $broadcast(factor);
                        for p in 0..P {
                            let ($y, $z) = (b[p], sums[r][p]);
                            sums[r][p] = $step;
                        }
                    }
                }
            }
            $($(for p in 0..P {
                // SAFETY: one vector of the array of its lanes.
                unsafe { $store(values[$r][p].as_mut_ptr(), sums[$r][p]) };
            })*)*
            let shown = (P * $lanes).min(strip.columns - column);
            for (r, values) in values.iter().enumerate().take(count) {
                let into = &mut strip.into.0[(first + r) * strip.into_stride + column..][..shown];
                let sums = values.as_flattened()[..shown].iter();
                match strip.to {
                    Start::Nothing => into.iter_mut().zip(sums).for_each(|(into, sum)| {
                        into.write(*sum);
                    }),
                    Start::Row(row) => {
                        let row = &row[column..][..shown];
                        into.iter_mut().zip(sums).zip(row).for_each(|((into, sum), start)| {
                            into.write(*start + *sum);
                        });
                    }
                    Start::Held => into.iter_mut().zip(sums).for_each(|(into, sum)| {
                        // SAFETY: written before, says the caller.
                        *unsafe { into.assume_init_mut() } += *sum;
                    }),
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
kernel!(
    fused_avx2,
    fused_avx2_tile,
    "avx2,fma",
    __m256,
    8,
    6 = [0: [0 1 2] 1: [3 4 5]],
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_set1_ps,
    _mm256_setzero_ps,
    |a, b, sum| _mm256_fmadd_ps(a, b, sum)
);

#[cfg(target_arch = "x86_64")]
kernel!(
    fused_avx512,
    fused_avx512_tile,
    "avx512f,fma",
    __m512,
    16,
    12 = [0: [0 1 2] 1: [3 4 5] 2: [6 7 8] 3: [9 10 11]],
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_set1_ps,
    _mm512_setzero_ps,
    |a, b, sum| _mm512_fmadd_ps(a, b, sum)
);

#[cfg(target_arch = "x86_64")]
kernel!(
    plain_avx2,
    plain_avx2_tile,
    "avx2",
    __m256,
    8,
    6 = [0: [0 1 2] 1: [3 4 5]],
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_set1_ps,
    _mm256_setzero_ps,
    |a, b, sum| _mm256_add_ps(sum, _mm256_mul_ps(a, b))
);

#[cfg(target_arch = "x86_64")]
kernel!(
    plain_avx512,
    plain_avx512_tile,
    "avx512f",
    __m512,
    16,
    6 = [0: [0 1 2] 1: [3 4 5]],
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_set1_ps,
    _mm512_setzero_ps,
    |a, b, sum| _mm512_add_ps(sum, _mm512_mul_ps(a, b))
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strip::{Place, Span};

    fn noise(count: usize, seed: u32) -> Vec<f32> {
        (0..count as u32).map(|i| ((i * 37 + seed) % 101) as f32 / 50.0 - 1.0).collect()
    }

    /// The product by its definition.
    fn defined(
        fused: bool,
        span: Span,
        (m, n, k): (usize, usize, usize),
        a: &[f32],
        b: &[f32],
    ) -> Vec<f32> {
        let stride = n.next_multiple_of(PAD);
        let mut all = Vec::new();
        for i in 0..m {
            for j in 0..n {
                let (start, end) = span.of(i, 1, k);
                all.push((start..end).fold(0f32, |sum, l| {
                    let (a, b) = (a[i * k + l], b[l * stride + j]);
                    if fused { a.mul_add(b, sum) } else { sum + a * b }
                }));
            }
        }
        all
    }

    #[test]
    fn every_level_gives_the_bits_of_the_definition() {
        for level in Level::available() {
            for (m, n, k) in [
                (1usize, 1usize, 1usize),
                (17, 17, 17),
                (13, 40, 70),
                (6, 32, 3),
                (25, 16, 9),
                (7, 5, 0),
            ] {
                for span in [Span::All, Span::UpToRow, Span::FromRow] {
                    let stride = n.next_multiple_of(PAD);
                    let mut a = noise(m * k, 3);
                    for (i, row) in a.chunks_exact_mut(k.max(1)).enumerate() {
                        let (start, end) = span.of(i, 1, k);
                        row[..start].fill(0.0);
                        row[end..].fill(0.0);
                    }
                    let b = noise(k * stride, 7);
                    for is_fused in [false, true] {
                        let mut into = vec![9f32; m * n];
                        let strip = Strip {
                            a: &a,
                            offset: 0,
                            down: k,
                            right: 1,
                            b: &b,
                            stride,
                            steps: k,
                            span,
                            into: Place::of(&mut into),
                            into_stride: n,
                            rows: m,
                            columns: n,
                            to: Start::Nothing,
                            next: &[],
                        };
                        match is_fused {
                            true if !has_fused(*level) => continue,
                            // SAFETY: nothing is held.
                            true => unsafe { fused(*level, strip) },
                            false => plain(*level, strip),
                        }
                        let expected = defined(is_fused, span, (m, n, k), &a, &b);
                        assert_eq!(into, expected, "{level:?} {m} {n} {k} {span:?} {is_fused}");
                    }
                }
            }
        }
    }

    #[test]
    fn an_index_outside_is_refused_before_any_is_read() {
        let (a, b) = (vec![0f32; 5], vec![0f32; 32]);
        let mut into = vec![0f32; 4];
        let strip = Strip {
            a: &a,
            offset: 0,
            down: 3,
            right: 1,
            b: &b,
            stride: 16,
            steps: 3,
            span: Span::All,
            into: Place::of(&mut into),
            into_stride: 2,
            rows: 2,
            columns: 2,
            to: Start::Nothing,
            next: &[],
        };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| strip.check()));
        assert!(outcome.is_err());
    }
}
