//! The forward DCT and quantisation of eight blocks at once, one block a lane: no step crosses
//! lanes, so that compilers turn each line into one vector instruction.

use super::colour::ACROSS;
use super::tables::ZIGZAG;

/// Blocks that are transformed together.
pub(super) const LANES: usize = 8;

/// Quantised blocks, ready for entropy coding.
pub(super) struct Coded {
    /// The DC coefficient of each block, -1024..=1023.
    pub(super) dc: [i16; LANES],
    /// For each zigzag position and block: the coefficient's size in bits (upper four bits) and the
    /// bits that follow its code.
    pub(super) values: [[u16; LANES]; 64],
    /// For each block: which zigzag positions are not 0.
    pub(super) nonzero: [u64; LANES],
}

impl Coded {
    pub(super) const fn new() -> Self {
        Self { dc: [0; LANES], values: [[0; LANES]; 64], nonzero: [0; LANES] }
    }

    /// Transforms and quantises a strip of eight blocks.
    #[inline(always)]
    pub(super) fn fill(&mut self, strip: &[[u8; ACROSS]; 8], divisors: &Divisors) {
        let mut samples = [[0_i16; LANES]; 64];
        rows(strip, &mut samples);
        let mut frequencies = [[0_i16; LANES]; 64];
        columns(&samples, &mut frequencies);
        self.quantise(&frequencies, divisors);
    }

    /// Divides by the quantisers, half away from zero.
    #[inline(always)]
    fn quantise(&mut self, frequencies: &[[i16; LANES]; 64], divisors: &Divisors) {
        let mut flags = [[0_u8; LANES]; 8];
        for (group, flags) in flags.iter_mut().enumerate() {
            let mut any = [0_u32; LANES];
            for bit in 0..8 {
                let at = group * 8 + bit;
                let from = &frequencies[ZIGZAG[at] as usize];
                let Divisor { half, factor, shift } = divisors.0[at];
                let to = &mut self.values[at];
                for lane in 0..LANES {
                    let value = i32::from(from[lane]);
                    let sign = value >> 31;
                    let size = ((value ^ sign) - sign) as u32;
                    let quotient = (((size + half) >> 3) * factor) >> shift;
                    // The exponent of an exact float counts bits: 1 is 2^0, one bit.
                    let bits = ((quotient as f32).to_bits() >> 23).max(126) - 126;
                    // A negative value is written as its bits less one.
                    let low = (quotient ^ sign as u32) & ((1 << bits) - 1);
                    to[lane] = (bits << 12 | low) as u16;
                    any[lane] |= u32::from(quotient != 0) << bit;
                    if at == 0 {
                        self.dc[lane] = ((quotient as i32 ^ sign) - sign) as i16;
                    }
                }
            }
            *flags = any.map(|any| any as u8);
        }
        self.nonzero = transposed(flags).map(u64::from_le_bytes);
    }
}

/// How to divide by a quantiser (times 8, the scale of the DCT): add `half`, drop three bits,
/// multiply, shift.
#[derive(Clone, Copy)]
struct Divisor {
    half: u32,
    factor: u32,
    shift: u32,
}

/// Divisors in zigzag order.
pub(super) struct Divisors([Divisor; 64]);

impl Divisors {
    pub(super) fn new(quantisers: &[u8; 64]) -> Self {
        Self(ZIGZAG.map(|natural| {
            let quantiser = u32::from(quantisers[natural as usize]);
            // Exact for numerators below 2^13: the factor is too big by less than one part in
            // 2^13 of it. Products stay below 2^27.
            let shift = 13 + quantiser.next_power_of_two().trailing_zeros();
            Divisor { half: quantiser * 4, factor: (1_u32 << shift).div_ceil(quantiser), shift }
        }))
    }
}

/// Transposes 8x8 bytes, halves of the matrix first.
#[inline(always)]
fn transposed(rows: [[u8; 8]; 8]) -> [[u8; 8]; 8] {
    let mut words = rows.map(u64::from_le_bytes);
    for (apart, mask) in
        [(4, 0x0000_0000_ffff_ffff), (2, 0x0000_ffff_0000_ffff), (1, 0x00ff_00ff_00ff_00ff_u64)]
    {
        let shift = apart as u32 * 8;
        for upper in 0..8 {
            if upper & apart == 0 {
                let (a, b) = (words[upper], words[upper + apart]);
                words[upper] = a & mask | (b & mask) << shift;
                words[upper + apart] = (a >> shift) & mask | b & !mask;
            }
        }
    }
    words.map(u64::to_le_bytes)
}

/// Fractional bits of the constants, and those that the first pass leaves in.
const CONST_BITS: u32 = 13;
const PASS_BITS: u32 = 2;

/// The DCT of the rows, times 4: at most 4096 in size.
#[inline(always)]
fn rows(strip: &[[u8; ACROSS]; 8], out: &mut [[i16; LANES]; 64]) {
    for (row, out) in strip.iter().zip(out.as_chunks_mut::<8>().0) {
        let blocks = row.as_chunks::<8>().0.first_chunk().expect("64 pixels are 8 blocks");
        let columns = transposed(*blocks);
        for lane in 0..LANES {
            let pixels = columns.map(|column| i32::from(column[lane]) - 128);
            let (even, odd) = one_dimension(pixels);
            let scaled = |value: i32| value << PASS_BITS;
            let rounded = |value: i32| {
                (value + (1 << (CONST_BITS - PASS_BITS - 1))) >> (CONST_BITS - PASS_BITS)
            };
            store(out, lane, even, odd, scaled, rounded);
        }
    }
}

/// The DCT of the columns, which takes the 4 out again and leaves the 8 of two unscaled passes.
#[inline(always)]
fn columns(from: &[[i16; LANES]; 64], out: &mut [[i16; LANES]; 64]) {
    for column in 0..8 {
        let mut frequencies = [[0_i16; LANES]; 8];
        for lane in 0..LANES {
            let values = std::array::from_fn(|row| i32::from(from[row * 8 + column][lane]));
            let (even, odd) = one_dimension(values);
            let scaled = |value: i32| (value + (1 << (PASS_BITS - 1))) >> PASS_BITS;
            let rounded = |value: i32| {
                (value + (1 << (CONST_BITS + PASS_BITS - 1))) >> (CONST_BITS + PASS_BITS)
            };
            store(&mut frequencies, lane, even, odd, scaled, rounded);
        }
        for (row, values) in frequencies.iter().enumerate() {
            out[row * 8 + column] = *values;
        }
    }
}

#[inline(always)]
fn store(
    out: &mut [[i16; LANES]; 8],
    lane: usize,
    even: [i32; 2],
    odd: [i32; 6],
    scaled: impl Fn(i32) -> i32,
    rounded: impl Fn(i32) -> i32,
) {
    out[0][lane] = scaled(even[0]) as i16;
    out[4][lane] = scaled(even[1]) as i16;
    for (at, value) in [1, 2, 3, 5, 6, 7].into_iter().zip(odd) {
        out[at][lane] = rounded(value) as i16;
    }
}

/// Eight points with 11 multiplications and one more that keeps every path at one factor: outputs
/// 0 and 4 as they are, and 1, 2, 3, 5, 6, 7 times 2^13. All are sqrt(8) too large.
///
/// Source: Loeffler, Ligtenberg, Moschytz, "Practical fast 1-D DCT algorithms with 11
/// multiplications", ICASSP 1989, figure 1; constants of 13 bits as in the IJG's accurate integer
/// DCT, so that coefficients are equal to libjpeg's.
#[inline(always)]
fn one_dimension(x: [i32; 8]) -> ([i32; 2], [i32; 6]) {
    let [s0, s1, s2, s3] = [x[0] + x[7], x[1] + x[6], x[2] + x[5], x[3] + x[4]];
    let [d0, d1, d2, d3] = [x[0] - x[7], x[1] - x[6], x[2] - x[5], x[3] - x[4]];

    // sqrt(2) cos(6 pi / 16) = 0.541196100, and what it lacks or has too much of.
    let (t0, t1) = (s0 + s3, s1 + s2);
    let (t2, t3) = (s1 - s2, s0 - s3);
    let both = (t2 + t3) * 4433;
    let two = both + t3 * 6270;
    let six = both - t2 * 15137;

    // sqrt(2) cos(3 pi / 16) = 1.175875602 in the middle of the odd half.
    let (z1, z2, z3, z4) = (d3 + d0, d2 + d1, d3 + d1, d2 + d0);
    let z5 = (z3 + z4) * 9633;
    let (z1, z2) = (z1 * -7373, z2 * -20995);
    let (z3, z4) = (z3 * -16069 + z5, z4 * -3196 + z5);
    let seven = d3 * 2446 + z1 + z3;
    let five = d2 * 16819 + z2 + z4;
    let three = d1 * 25172 + z2 + z3;
    let one = d0 * 12299 + z1 + z4;
    ([t0 + t1, t0 - t1], [one, two, three, five, six, seven])
}

#[cfg(test)]
mod tests {
    use std::f64::consts::{FRAC_1_SQRT_2, PI};

    use super::*;

    fn noise(seed: u32) -> [[u8; ACROSS]; 8] {
        let mut state = seed;
        std::array::from_fn(|_| {
            std::array::from_fn(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
        })
    }

    /// T.81, A.3.3, in f64.
    fn exact(strip: &[[u8; ACROSS]; 8], lane: usize, v: usize, u: usize) -> f64 {
        let scale = |k: usize| if k == 0 { FRAC_1_SQRT_2 } else { 1.0 };
        let wave = |x: usize, k: usize| ((2 * x + 1) as f64 * k as f64 * PI / 16.0).cos();
        let mut sum = 0.0;
        for (y, row) in strip.iter().enumerate() {
            for x in 0..8 {
                sum += (f64::from(row[lane * 8 + x]) - 128.0) * wave(x, u) * wave(y, v);
            }
        }
        sum * scale(u) * scale(v) / 4.0
    }

    #[test]
    fn coefficients_are_the_standards_within_a_quarter() {
        let strip = noise(1);
        let mut samples = [[0; LANES]; 64];
        let mut out = [[0; LANES]; 64];
        rows(&strip, &mut samples);
        columns(&samples, &mut out);
        for lane in 0..LANES {
            for at in 0..64 {
                let ours = f64::from(out[at][lane]) / 8.0;
                assert!((ours - exact(&strip, lane, at / 8, at % 8)).abs() < 0.25, "{lane} {at}");
            }
        }
    }

    #[test]
    fn every_quantiser_divides_exactly_half_away_from_zero() {
        let mut coded = Coded::new();
        for quantiser in 1..=255_u8 {
            let divisors = Divisors::new(&[quantiser; 64]);
            for value in -8300..=8300_i16 {
                let eight = i32::from(quantiser) * 8;
                let rounded =
                    (i32::from(value).abs() + eight / 2) / eight * i32::from(value).signum();
                let Divisor { half, factor, shift } = divisors.0[0];
                let ours = (((u32::from(value.unsigned_abs()) + half) >> 3) * factor) >> shift;
                assert_eq!(ours as i32, rounded.abs(), "{value} / {eight}");
            }
        }
        coded.quantise(&[[-12, 12, 11, -11, 4, -4, 3, -8192]; 64], &Divisors::new(&[1; 64]));
        assert_eq!(coded.dc, [-2, 2, 1, -1, 1, -1, 0, -1024]);
        let two_bits = 2 << 12;
        let one_bit = 1 << 12;
        assert_eq!(
            coded.values[1],
            [
                two_bits | 1,
                two_bits | 2,
                one_bit | 1,
                one_bit,
                one_bit | 1,
                one_bit,
                0,
                11 << 12 | 1023
            ]
        );
        assert_eq!(coded.nonzero[0], u64::MAX);
        assert_eq!(coded.nonzero[6], 0);
    }

    #[test]
    fn the_mask_has_a_bit_for_each_zigzag_position_that_is_not_zero() {
        let mut frequencies = [[0; LANES]; 64];
        frequencies[8][3] = 80; // row 1, column 0: zigzag 2
        frequencies[63][3] = -80;
        frequencies[1][5] = 80;
        let mut coded = Coded::new();
        coded.quantise(&frequencies, &Divisors::new(&[10; 64]));
        assert_eq!(coded.nonzero, [0, 0, 0, 1 << 2 | 1 << 63, 0, 1 << 1, 0, 0]);
    }

    #[test]
    fn transposing_swaps_rows_and_columns() {
        let rows: [[u8; 8]; 8] =
            std::array::from_fn(|y| std::array::from_fn(|x| (y * 8 + x) as u8));
        let out = transposed(rows);
        for y in 0..8 {
            for x in 0..8 {
                assert_eq!(out[x][y], rows[y][x]);
            }
        }
    }
}
