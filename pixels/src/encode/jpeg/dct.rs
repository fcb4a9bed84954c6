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
        let mut frequencies = [[0; LANES]; 64];
        transform(strip, &mut frequencies);
        self.quantise(&frequencies, divisors);
    }

    /// Divides by the quantisers, half away from zero.
    #[inline(always)]
    fn quantise(&mut self, frequencies: &[[i16; LANES]; 64], divisors: &Divisors) {
        for (at, to) in self.values.iter_mut().enumerate() {
            let from = &frequencies[turned(ZIGZAG[at])];
            let divisor = divisors.0[at];
            for lane in 0..LANES {
                let value = i32::from(from[lane]);
                let negative = value >> 31;
                let quotient = divisor.divide(((value ^ negative) - negative) as u32);
                // The exponent of an exact float counts bits: 1 is 2^0, one bit.
                let bits = ((quotient as i32 as f32).to_bits() >> 23).max(126) - 126;
                // A negative value is written as its bits less one.
                let low = (quotient ^ negative as u32) & ((1 << bits) - 1);
                to[lane] = (bits << 12 | low) as u16;
            }
        }
        for (to, &value) in self.dc.iter_mut().zip(&frequencies[0]) {
            let value = i32::from(value);
            let negative = value >> 31;
            let quotient = divisors.0[0].divide(value.unsigned_abs()) as i32;
            *to = ((quotient ^ negative) - negative) as i16;
        }
        let mut ones = [[0_u8; LANES]; 64];
        for (one, &value) in ones.as_flattened_mut().iter_mut().zip(self.values.as_flattened()) {
            *one = u8::from(value != 0);
        }
        // Eight flags of a block in a byte, eight such bytes of all blocks in a word.
        let mut flags = [[0]; 8];
        for (flags, ones) in flags.iter_mut().zip(ones.as_chunks::<8>().0) {
            for (bit, ones) in ones.iter().enumerate() {
                flags[0] |= u64::from_le_bytes(*ones) << bit;
            }
        }
        transpose(&mut flags);
        self.nonzero = flags.map(|[flags]| flags);
    }
}

/// How to divide by a quantiser times 8, the scale of the DCT.
#[derive(Clone, Copy)]
struct Divisor {
    half: u32,
    factor: u32,
}

impl Divisor {
    const SHIFT: u32 = 19;

    const fn new(quantiser: u8) -> Self {
        let quantiser = quantiser as u32;
        Self { half: quantiser * 4, factor: (1_u32 << Self::SHIFT).div_ceil(quantiser) }
    }

    /// Exact for sizes up to 8,300, more than the transform gives: `n` is below 2^11 and
    /// `factor * quantiser` above 2^19 by less than 2^8, so that the error is less than one
    /// `quantiser`-th, the distance of a quotient from the next whole one.
    #[inline(always)]
    const fn divide(self, size: u32) -> u32 {
        let n = (size + self.half) >> 3;
        (n * self.factor) >> Self::SHIFT
    }
}

/// Divisors in zigzag order.
pub(super) struct Divisors([Divisor; 64]);

impl Divisors {
    pub(super) fn new(quantisers: &[u8; 64]) -> Self {
        Self(ZIGZAG.map(|natural| Divisor::new(quantisers[natural as usize])))
    }
}

/// Transposes N matrices of 8x8 bytes at once, a word a row: halves first, then quarters, then
/// single bytes change places.
#[inline(always)]
fn transpose<const N: usize>(words: &mut [[u64; N]; 8]) {
    for (apart, mask) in
        [(4, 0x0000_0000_ffff_ffff), (2, 0x0000_ffff_0000_ffff), (1, 0x00ff_00ff_00ff_00ff_u64)]
    {
        let shift = apart as u32 * 8;
        for at in 0..8 {
            if at & apart == 0 {
                let (a, b) = (words[at], words[at + apart]);
                for n in 0..N {
                    words[at][n] = a[n] & mask | (b[n] & mask) << shift;
                    words[at + apart][n] = (a[n] >> shift) & mask | b[n] & !mask;
                }
            }
        }
    }
}

/// Where [`transform`] leaves a frequency: column by column.
const fn turned(natural: u8) -> usize {
    (natural % 8 * 8 + natural / 8) as usize
}

/// Fractional bits of the constants, and those that the first pass leaves in.
const CONST_BITS: u32 = 13;
const PASS_BITS: u32 = 2;

/// The two-dimensional DCT, times 8. `out[u * 8 + v][lane]` has u cycles across and v down.
#[inline(always)]
fn transform(strip: &[[u8; ACROSS]; 8], out: &mut [[i16; LANES]; 64]) {
    let mut words = [[0; 8]; 8];
    for (y, row) in strip.iter().enumerate() {
        for (words, block) in words.iter_mut().zip(row.as_chunks::<8>().0) {
            words[y] = u64::from_le_bytes(*block);
        }
    }
    transpose(&mut words);
    let mut pixels = [[0; LANES]; 64];
    for (x, words) in words.iter().enumerate() {
        for (y, word) in words.iter().enumerate() {
            pixels[x * 8 + y] = word.to_le_bytes();
        }
    }
    // Rows first. The sums of eight samples are those of unsigned ones less 8 * 128; differences
    // are the same. Results are times 4, at most 4096 in size.
    let mut half_way = [[0; LANES]; 64];
    let rounded =
        |value: i32| (value + (1 << (CONST_BITS - PASS_BITS - 1))) >> (CONST_BITS - PASS_BITS);
    pass(&pixels, &mut half_way, 1024, |value| value << PASS_BITS, rounded);
    // Columns, which take the 4 out again and leave the 8 of two passes without their 1 / sqrt(8).
    let scaled = |value: i32| (value + (1 << (PASS_BITS - 1))) >> PASS_BITS;
    let rounded =
        |value: i32| (value + (1 << (CONST_BITS + PASS_BITS - 1))) >> (CONST_BITS + PASS_BITS);
    pass(&half_way, out, 0, scaled, rounded);
}

/// Eight DCTs along the slow axis of `from`, which becomes the fast one of `out`.
#[inline(always)]
fn pass<T: Copy + Into<i32>>(
    from: &[[T; LANES]; 64],
    out: &mut [[i16; LANES]; 64],
    offset: i32,
    scaled: impl Fn(i32) -> i32,
    rounded: impl Fn(i32) -> i32,
) {
    for (at, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        for lane in 0..LANES {
            let values = std::array::from_fn(|k| from[k * 8 + at][lane].into());
            let ([zero, four], [one, two, three, five, six, seven]) = one_dimension(values);
            out[0][lane] = scaled(zero - offset) as i16;
            out[1][lane] = rounded(one) as i16;
            out[2][lane] = rounded(two) as i16;
            out[3][lane] = rounded(three) as i16;
            out[4][lane] = scaled(four) as i16;
            out[5][lane] = rounded(five) as i16;
            out[6][lane] = rounded(six) as i16;
            out[7][lane] = rounded(seven) as i16;
        }
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
        let mut out = [[0; LANES]; 64];
        transform(&strip, &mut out);
        for (at, lanes) in out.iter().enumerate() {
            for (lane, &ours) in lanes.iter().enumerate() {
                let ours = f64::from(ours) / 8.0;
                assert!((ours - exact(&strip, lane, at % 8, at / 8)).abs() < 0.25, "{lane} {at}");
            }
        }
    }

    #[test]
    fn every_quantiser_divides_exactly_half_away_from_zero() {
        let mut coded = Coded::new();
        for quantiser in 1..=255_u8 {
            let divisor = Divisor::new(quantiser);
            for value in -8300..=8300_i16 {
                let eight = i32::from(quantiser) * 8;
                let rounded =
                    (i32::from(value).abs() + eight / 2) / eight * i32::from(value).signum();
                let ours = divisor.divide(u32::from(value.unsigned_abs()));
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
        frequencies[1][3] = 80; // down: zigzag 2
        frequencies[63][3] = -80;
        frequencies[8][5] = 80; // across: zigzag 1
        let mut coded = Coded::new();
        coded.quantise(&frequencies, &Divisors::new(&[10; 64]));
        assert_eq!(coded.nonzero, [0, 0, 0, 1 << 2 | 1 << 63, 0, 1 << 1, 0, 0]);
    }

    #[test]
    fn transposing_swaps_rows_and_columns() {
        let bytes: [[u8; 8]; 8] =
            std::array::from_fn(|y| std::array::from_fn(|x| (y * 8 + x) as u8));
        let mut words = bytes.map(|row| [u64::from_le_bytes(row), 0]);
        transpose(&mut words);
        for (y, row) in bytes.iter().enumerate() {
            for (x, &byte) in row.iter().enumerate() {
                assert_eq!(words[x][0].to_le_bytes()[y], byte);
            }
        }
    }
}
