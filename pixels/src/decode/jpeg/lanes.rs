//! The steps that are written out for an instruction set, because compilers do not find them: the
//! inverse DCT and colours. Every set gives the same samples.

use super::{colour, idct};

/// An instruction set.
pub(super) trait Lanes: Copy {
    /// The samples of two blocks, side by side.
    fn idct(self, blocks: &[[i16; 64]; 2], quantisers: &[i16; 64]) -> [[u8; 16]; 8];

    /// Sixteen pixels of YCbCr to RGB.
    fn rgb(self, y: &[u8; 16], cb: &[u8; 16], cr: &[u8; 16]) -> [[u8; 3]; 16];
}

/// Whatever the compiler makes of plain integers.
#[derive(Clone, Copy)]
pub(super) struct Plain;

impl Lanes for Plain {
    #[inline(always)]
    fn idct(self, blocks: &[[i16; 64]; 2], quantisers: &[i16; 64]) -> [[u8; 16]; 8] {
        let [left, right] = [0, 1].map(|at: usize| idct::block(&blocks[at], quantisers));
        let mut rows = [[0; 16]; 8];
        for (row, (left, right)) in rows.iter_mut().zip(left.iter().zip(&right)) {
            row[..8].copy_from_slice(left);
            row[8..].copy_from_slice(right);
        }
        rows
    }

    #[inline(always)]
    fn rgb(self, y: &[u8; 16], cb: &[u8; 16], cr: &[u8; 16]) -> [[u8; 3]; 16] {
        std::array::from_fn(|x| colour::rgb(y[x], cb[x], cr[x]))
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{__m128i, __m256i};

    use pulp::cast;
    use pulp::x86::V3;

    use super::Lanes;
    use crate::decode::jpeg::colour::{BLUE, GREEN, RED};
    use crate::decode::jpeg::idct::{EVEN, ODD, SHIFTS};

    // Loops and methods that are always inlined: what goes through `map` or `from_fn` is compiled
    // once without the instruction set, and calls each instruction as a function.
    impl Lanes for V3 {
        #[inline(always)]
        fn idct(self, blocks: &[[i16; 64]; 2], quantisers: &[i16; 64]) -> [[u8; 16]; 8] {
            let (left, right, quantisers) = (rows(&blocks[0]), rows(&blocks[1]), rows(quantisers));
            let mut values = [self.avx._mm256_setzero_si256(); 8];
            for v in 0..8 {
                let quantisers = self.both(quantisers[v], quantisers[v]);
                values[v] = self.avx2._mm256_mullo_epi16(self.both(left[v], right[v]), quantisers);
            }
            let columns = self.turned(self.pass::<{ SHIFTS[0] }>(values));
            self.samples(self.pass::<{ SHIFTS[1] }>(columns))
        }

        #[inline(always)]
        fn rgb(self, y: &[u8; 16], cb: &[u8; 16], cr: &[u8; 16]) -> [[u8; 3]; 16] {
            let avx2 = self.avx2;
            let centre = self.avx._mm256_set1_epi16(128);
            let y = avx2._mm256_cvtepu8_epi16(cast(*y));
            let cb = avx2._mm256_sub_epi16(avx2._mm256_cvtepu8_epi16(cast(*cb)), centre);
            let cr = avx2._mm256_sub_epi16(avx2._mm256_cvtepu8_epi16(cast(*cr)), centre);
            let red = avx2._mm256_add_epi16(avx2._mm256_add_epi16(y, cr), self.part(cr, RED));
            let twice = avx2._mm256_add_epi16(cb, cb);
            let blue = avx2._mm256_add_epi16(avx2._mm256_add_epi16(y, twice), self.part(cb, BLUE));
            let green = avx2._mm256_packs_epi32(
                self.shares(avx2._mm256_unpacklo_epi16(cb, cr)),
                self.shares(avx2._mm256_unpackhi_epi16(cb, cr)),
            );
            let green = avx2._mm256_add_epi16(avx2._mm256_sub_epi16(y, cr), green);
            self.interleaved(self.bytes(red), self.bytes(green), self.bytes(blue))
        }
    }

    #[inline(always)]
    fn rows(block: &[i16; 64]) -> &[[i16; 8]; 8] {
        pulp::bytemuck::cast_ref(block)
    }

    /// Three times sixteen bytes: where each byte of one channel goes, others are left empty.
    const fn places(channel: usize) -> [[i8; 16]; 3] {
        let mut places = [[-1; 16]; 3];
        let mut pixel = 0;
        while pixel < 16 {
            let to = pixel * 3 + channel;
            places[to / 16][to % 16] = pixel as i8;
            pixel += 1;
        }
        places
    }
    const PLACES: [[[i8; 16]; 3]; 3] = [places(0), places(1), places(2)];

    /// Parts of the above. In the inverse DCT each half of a vector is a block.
    trait Steps: Copy {
        fn both(self, left: [i16; 8], right: [i16; 8]) -> __m256i;
        fn multiplied(self, pairs: __m256i, weights: [i16; 2]) -> __m256i;
        fn pass<const SHIFT: i32>(self, rows: [__m256i; 8]) -> [__m256i; 8];
        fn half_pass<const SHIFT: i32>(self, pairs: [__m256i; 4]) -> [__m256i; 8];
        fn turned(self, rows: [__m256i; 8]) -> [__m256i; 8];
        fn half_turned(self, pairs: [__m256i; 4]) -> [__m256i; 4];
        fn packed(self, column: __m256i, fourth_next: __m256i) -> __m256i;
        fn samples(self, columns: [__m256i; 8]) -> [[u8; 16]; 8];
        fn part(self, value: __m256i, weight: i16) -> __m256i;
        fn shares(self, pairs: __m256i) -> __m256i;
        fn bytes(self, values: __m256i) -> __m128i;
        fn interleaved(self, red: __m128i, green: __m128i, blue: __m128i) -> [[u8; 3]; 16];
    }

    impl Steps for V3 {
        #[inline(always)]
        fn both(self, left: [i16; 8], right: [i16; 8]) -> __m256i {
            let left = self.avx._mm256_castsi128_si256(cast(left));
            self.avx2._mm256_inserti128_si256::<1>(left, cast(right))
        }

        /// Sums of neighbours times their weights, in 32 bits.
        #[inline(always)]
        fn multiplied(self, pairs: __m256i, weights: [i16; 2]) -> __m256i {
            self.avx2._mm256_madd_epi16(pairs, self.avx._mm256_set1_epi32(cast(weights)))
        }

        /// Eight points down each of eight columns.
        #[inline(always)]
        fn pass<const SHIFT: i32>(self, rows: [__m256i; 8]) -> [__m256i; 8] {
            let zero = self.avx._mm256_setzero_si256();
            let (mut low, mut high) = ([zero; 4], [zero; 4]);
            for (at, (a, b)) in [(0, 4), (2, 6), (1, 7), (3, 5)].into_iter().enumerate() {
                low[at] = self.avx2._mm256_unpacklo_epi16(rows[a], rows[b]);
                high[at] = self.avx2._mm256_unpackhi_epi16(rows[a], rows[b]);
            }
            let low = self.half_pass::<SHIFT>(low);
            let high = self.half_pass::<SHIFT>(high);
            let mut out = [zero; 8];
            for x in 0..8 {
                out[x] = self.avx2._mm256_packs_epi32(low[x], high[x]);
            }
            out
        }

        #[inline(always)]
        fn half_pass<const SHIFT: i32>(self, pairs: [__m256i; 4]) -> [__m256i; 8] {
            let avx2 = self.avx2;
            let [zero_four, two_six, one_seven, three_five] = pairs;
            let half = self.avx._mm256_set1_epi32(1 << (SHIFT - 1));
            let outer = avx2._mm256_add_epi32(self.multiplied(zero_four, EVEN[0]), half);
            let inner = avx2._mm256_add_epi32(self.multiplied(zero_four, EVEN[1]), half);
            let outer_part = self.multiplied(two_six, EVEN[2]);
            let inner_part = self.multiplied(two_six, EVEN[3]);
            let even = [
                avx2._mm256_add_epi32(outer, outer_part),
                avx2._mm256_add_epi32(inner, inner_part),
                avx2._mm256_sub_epi32(inner, inner_part),
                avx2._mm256_sub_epi32(outer, outer_part),
            ];
            let mut out = [half; 8];
            for x in 0..4 {
                let one_seven = self.multiplied(one_seven, ODD[x][0]);
                let odd = avx2._mm256_add_epi32(one_seven, self.multiplied(three_five, ODD[x][1]));
                let (sum, difference) =
                    (avx2._mm256_add_epi32(even[x], odd), avx2._mm256_sub_epi32(even[x], odd));
                out[x] = avx2._mm256_srai_epi32::<SHIFT>(sum);
                out[7 - x] = avx2._mm256_srai_epi32::<SHIFT>(difference);
            }
            out
        }

        /// Rows become columns.
        #[inline(always)]
        fn turned(self, r: [__m256i; 8]) -> [__m256i; 8] {
            let mut left = [r[0]; 4];
            let mut right = [r[0]; 4];
            for at in 0..4 {
                left[at] = self.avx2._mm256_unpacklo_epi16(r[at * 2], r[at * 2 + 1]);
                right[at] = self.avx2._mm256_unpackhi_epi16(r[at * 2], r[at * 2 + 1]);
            }
            let ([a, b, c, d], [e, f, g, h]) = (self.half_turned(left), self.half_turned(right));
            [a, b, c, d, e, f, g, h]
        }

        /// Four columns, of pairs of rows.
        #[inline(always)]
        fn half_turned(self, [a, b, c, d]: [__m256i; 4]) -> [__m256i; 4] {
            let avx2 = self.avx2;
            let (above, below) =
                (avx2._mm256_unpacklo_epi32(a, b), avx2._mm256_unpacklo_epi32(c, d));
            let (above_2, below_2) =
                (avx2._mm256_unpackhi_epi32(a, b), avx2._mm256_unpackhi_epi32(c, d));
            [
                avx2._mm256_unpacklo_epi64(above, below),
                avx2._mm256_unpackhi_epi64(above, below),
                avx2._mm256_unpacklo_epi64(above_2, below_2),
                avx2._mm256_unpackhi_epi64(above_2, below_2),
            ]
        }

        /// Two columns as bytes; differences to 128 become samples.
        #[inline(always)]
        fn packed(self, column: __m256i, fourth_next: __m256i) -> __m256i {
            let packed = self.avx2._mm256_packs_epi16(column, fourth_next);
            self.avx2._mm256_xor_si256(packed, self.avx._mm256_set1_epi8(-128))
        }

        /// Columns of differences to 128 become rows of samples.
        #[inline(always)]
        fn samples(self, columns: [__m256i; 8]) -> [[u8; 16]; 8] {
            let avx2 = self.avx2;
            let a = self.packed(columns[0], columns[4]);
            let b = self.packed(columns[1], columns[5]);
            let c = self.packed(columns[2], columns[6]);
            let d = self.packed(columns[3], columns[7]);
            let (ab, cd) = (avx2._mm256_unpacklo_epi8(a, b), avx2._mm256_unpacklo_epi8(c, d));
            let (ef, gh) = (avx2._mm256_unpackhi_epi8(a, b), avx2._mm256_unpackhi_epi8(c, d));
            // Four columns of rows 0 to 3, and of rows 4 to 7.
            let (left, left_4) =
                (avx2._mm256_unpacklo_epi16(ab, cd), avx2._mm256_unpackhi_epi16(ab, cd));
            let (right, right_4) =
                (avx2._mm256_unpacklo_epi16(ef, gh), avx2._mm256_unpackhi_epi16(ef, gh));
            let mut rows = [
                avx2._mm256_unpacklo_epi32(left, right),
                avx2._mm256_unpackhi_epi32(left, right),
                avx2._mm256_unpacklo_epi32(left_4, right_4),
                avx2._mm256_unpackhi_epi32(left_4, right_4),
            ];
            // Two rows of one block beside those of the other.
            for rows in &mut rows {
                *rows = avx2._mm256_permute4x64_epi64::<0b11_01_10_00>(*rows);
            }
            cast(rows)
        }

        /// A value times its weight: twice the value, shifted by 16 and, after rounding, by 1.
        #[inline(always)]
        fn part(self, value: __m256i, weight: i16) -> __m256i {
            let twice = self.avx2._mm256_add_epi16(value, value);
            let product = self.avx2._mm256_mulhi_epi16(twice, self.avx._mm256_set1_epi16(weight));
            let rounded = self.avx2._mm256_add_epi16(product, self.avx._mm256_set1_epi16(1));
            self.avx2._mm256_srai_epi16::<1>(rounded)
        }

        /// Both chromas' part of green.
        #[inline(always)]
        fn shares(self, pairs: __m256i) -> __m256i {
            let sum = self.multiplied(pairs, GREEN);
            let sum = self.avx2._mm256_add_epi32(sum, self.avx._mm256_set1_epi32(1 << 15));
            self.avx2._mm256_srai_epi32::<16>(sum)
        }

        #[inline(always)]
        fn bytes(self, values: __m256i) -> __m128i {
            let upper = self.avx2._mm256_extracti128_si256::<1>(values);
            self.sse2._mm_packus_epi16(self.avx._mm256_castsi256_si128(values), upper)
        }

        #[inline(always)]
        fn interleaved(self, red: __m128i, green: __m128i, blue: __m128i) -> [[u8; 3]; 16] {
            let mut thirds = [red; 3];
            for (third, out) in thirds.iter_mut().enumerate() {
                let red = self.ssse3._mm_shuffle_epi8(red, cast(PLACES[0][third]));
                let green = self.ssse3._mm_shuffle_epi8(green, cast(PLACES[1][third]));
                let blue = self.ssse3._mm_shuffle_epi8(blue, cast(PLACES[2][third]));
                *out = self.sse2._mm_or_si128(self.sse2._mm_or_si128(red, green), blue);
            }
            cast(thirds)
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use proptest::prelude::*;
    use pulp::x86::V3;

    use super::*;

    proptest! {
        #[test]
        fn every_instruction_set_gives_the_same_samples(
            seed in any::<u64>(),
            bits in 0_u32..16,
            kept in 0_usize..64,
        ) {
            let Some(v3) = V3::try_new() else { return Ok(()) };
            let mut state = seed;
            let mut noise = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 48) as i16
            };
            // Coefficients of all sizes, those that overflow among them.
            let mut blocks = [[0; 64]; 2];
            for block in &mut blocks {
                block[..=kept].fill_with(|| noise() >> bits);
            }
            let quantisers = std::array::from_fn(|_| noise() & 0xff);
            let vectors = v3.vectorize(|| v3.idct(&blocks, &quantisers));
            prop_assert_eq!(vectors, Plain.idct(&blocks, &quantisers));
        }

        #[test]
        fn every_instruction_set_gives_the_same_colours(
            y in any::<[u8; 16]>(),
            cb in any::<[u8; 16]>(),
            cr in any::<[u8; 16]>(),
        ) {
            let Some(v3) = V3::try_new() else { return Ok(()) };
            let vectors = v3.vectorize(|| v3.rgb(&y, &cb, &cr));
            prop_assert_eq!(vectors, Plain.rgb(&y, &cb, &cr));
        }
    }
}
