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

    impl Lanes for V3 {
        #[inline(always)]
        fn idct(self, blocks: &[[i16; 64]; 2], quantisers: &[i16; 64]) -> [[u8; 16]; 8] {
            let [left, right] = [0, 1].map(|at: usize| rows(&blocks[at]));
            let quantisers = rows(quantisers);
            let rows = std::array::from_fn(|v| {
                let values = self.both(left[v], right[v]);
                self.avx2._mm256_mullo_epi16(values, self.both(quantisers[v], quantisers[v]))
            });
            let columns = self.turned(self.pass::<{ SHIFTS[0] }>(rows));
            let columns = self.pass::<{ SHIFTS[1] }>(columns);
            self.samples(columns)
        }

        #[inline(always)]
        fn rgb(self, y: &[u8; 16], cb: &[u8; 16], cr: &[u8; 16]) -> [[u8; 3]; 16] {
            let (avx2, avx) = (self.avx2, self.avx);
            let wide = |bytes: &[u8; 16]| avx2._mm256_cvtepu8_epi16(cast(*bytes));
            let centred = |bytes| avx2._mm256_sub_epi16(wide(bytes), avx._mm256_set1_epi16(128));
            let (y, cb, cr) = (wide(y), centred(cb), centred(cr));
            // Twice the value times the weight, shifted by 16 and, after rounding, by 1.
            let part = |value: __m256i, weight: i16| {
                let twice = avx2._mm256_add_epi16(value, value);
                let product = avx2._mm256_mulhi_epi16(twice, avx._mm256_set1_epi16(weight));
                let rounded = avx2._mm256_add_epi16(product, avx._mm256_set1_epi16(1));
                avx2._mm256_srai_epi16::<1>(rounded)
            };
            let red = avx2._mm256_add_epi16(avx2._mm256_add_epi16(y, cr), part(cr, RED));
            let twice = avx2._mm256_add_epi16(cb, cb);
            let blue = avx2._mm256_add_epi16(avx2._mm256_add_epi16(y, twice), part(cb, BLUE));
            let both = |pairs: __m256i| {
                let sum = self.multiplied(pairs, GREEN);
                let sum = avx2._mm256_add_epi32(sum, avx._mm256_set1_epi32(1 << 15));
                avx2._mm256_srai_epi32::<16>(sum)
            };
            let green = avx2._mm256_packs_epi32(
                both(avx2._mm256_unpacklo_epi16(cb, cr)),
                both(avx2._mm256_unpackhi_epi16(cb, cr)),
            );
            let green = avx2._mm256_add_epi16(avx2._mm256_sub_epi16(y, cr), green);
            self.interleaved([red, green, blue])
        }
    }

    fn rows(block: &[i16; 64]) -> &[[i16; 8]; 8] {
        block.as_chunks().0.try_into().expect("64 values are eight of eight")
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

    /// What the two halves of [`Lanes::idct`] have in common; each half of a vector is a block.
    trait Steps: Copy {
        fn both(self, left: [i16; 8], right: [i16; 8]) -> __m256i;
        fn multiplied(self, pairs: __m256i, weights: [i16; 2]) -> __m256i;
        fn pass<const SHIFT: i32>(self, rows: [__m256i; 8]) -> [__m256i; 8];
        fn half_pass<const SHIFT: i32>(self, pairs: [__m256i; 4]) -> [__m256i; 8];
        fn turned(self, rows: [__m256i; 8]) -> [__m256i; 8];
        fn samples(self, columns: [__m256i; 8]) -> [[u8; 16]; 8];
        fn interleaved(self, channels: [__m256i; 3]) -> [[u8; 3]; 16];
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
            let pairs = [(0, 4), (2, 6), (1, 7), (3, 5)];
            let low = pairs.map(|(a, b)| self.avx2._mm256_unpacklo_epi16(rows[a], rows[b]));
            let high = pairs.map(|(a, b)| self.avx2._mm256_unpackhi_epi16(rows[a], rows[b]));
            let low = self.half_pass::<SHIFT>(low);
            let high = self.half_pass::<SHIFT>(high);
            std::array::from_fn(|x| self.avx2._mm256_packs_epi32(low[x], high[x]))
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
            let odd = ODD.map(|[a, b]| {
                let one_seven = self.multiplied(one_seven, a);
                avx2._mm256_add_epi32(one_seven, self.multiplied(three_five, b))
            });
            std::array::from_fn(|x| {
                let sum = if x < 4 {
                    avx2._mm256_add_epi32(even[x], odd[x])
                } else {
                    avx2._mm256_sub_epi32(even[7 - x], odd[7 - x])
                };
                avx2._mm256_srai_epi32::<SHIFT>(sum)
            })
        }

        /// Rows become columns.
        #[inline(always)]
        fn turned(self, r: [__m256i; 8]) -> [__m256i; 8] {
            let avx2 = self.avx2;
            let low16 = |a, b| avx2._mm256_unpacklo_epi16(a, b);
            let high16 = |a, b| avx2._mm256_unpackhi_epi16(a, b);
            let low32 = |a, b| avx2._mm256_unpacklo_epi32(a, b);
            let high32 = |a, b| avx2._mm256_unpackhi_epi32(a, b);
            let low64 = |a, b| avx2._mm256_unpacklo_epi64(a, b);
            let high64 = |a, b| avx2._mm256_unpackhi_epi64(a, b);
            // Columns 0 to 3 and 4 to 7 of two rows each.
            let left = [0, 2, 4, 6].map(|y: usize| low16(r[y], r[y + 1]));
            let right = [0, 2, 4, 6].map(|y: usize| high16(r[y], r[y + 1]));
            let quarter = |[a, b, c, d]: [__m256i; 4]| {
                let (above, below) = (low32(a, b), low32(c, d));
                let (above_2, below_2) = (high32(a, b), high32(c, d));
                [
                    low64(above, below),
                    high64(above, below),
                    low64(above_2, below_2),
                    high64(above_2, below_2),
                ]
            };
            let ([a, b, c, d], [e, f, g, h]) = (quarter(left), quarter(right));
            [a, b, c, d, e, f, g, h]
        }

        /// Columns of differences to 128 become rows of samples.
        #[inline(always)]
        fn samples(self, columns: [__m256i; 8]) -> [[u8; 16]; 8] {
            let avx2 = self.avx2;
            // Columns x and x + 4.
            let packed: [__m256i; 4] = std::array::from_fn(|x| {
                let packed = avx2._mm256_packs_epi16(columns[x], columns[x + 4]);
                avx2._mm256_xor_si256(packed, self.avx._mm256_set1_epi8(-128))
            });
            let [a, b, c, d] = packed;
            let left = [avx2._mm256_unpacklo_epi8(a, b), avx2._mm256_unpacklo_epi8(c, d)];
            let right = [avx2._mm256_unpackhi_epi8(a, b), avx2._mm256_unpackhi_epi8(c, d)];
            // Four columns of rows 0 to 3, and of rows 4 to 7.
            let halves = [left, right].map(|[a, b]| {
                [avx2._mm256_unpacklo_epi16(a, b), avx2._mm256_unpackhi_epi16(a, b)]
            });
            let [[left, left_4], [right, right_4]] = halves;
            let rows = [
                avx2._mm256_unpacklo_epi32(left, right),
                avx2._mm256_unpackhi_epi32(left, right),
                avx2._mm256_unpacklo_epi32(left_4, right_4),
                avx2._mm256_unpackhi_epi32(left_4, right_4),
            ];
            // Two rows of one block beside those of the other.
            cast(rows.map(|rows| avx2._mm256_permute4x64_epi64::<0b11_01_10_00>(rows)))
        }

        #[inline(always)]
        fn interleaved(self, channels: [__m256i; 3]) -> [[u8; 3]; 16] {
            let bytes = channels.map(|values| {
                let upper = self.avx2._mm256_extracti128_si256::<1>(values);
                self.sse2._mm_packus_epi16(self.avx._mm256_castsi256_si128(values), upper)
            });
            let thirds: [__m128i; 3] = std::array::from_fn(|third| {
                let [red, green, blue] = [0, 1, 2].map(|channel: usize| {
                    self.ssse3._mm_shuffle_epi8(bytes[channel], cast(PLACES[channel][third]))
                });
                self.sse2._mm_or_si128(self.sse2._mm_or_si128(red, green), blue)
            });
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
