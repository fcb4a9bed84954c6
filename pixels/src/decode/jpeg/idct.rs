//! The inverse DCT, and means of its output for pictures that are decoded smaller.
//!
//! Source: Loeffler, Ligtenberg, Moschytz, "Practical fast 1-D DCT algorithms with 11
//! multiplications", ICASSP 1989, in the 13-bit fixed point of the IJG's accurate integer DCT: its
//! butterflies multiplied out are the matrix below, number by number, so that samples are equal to
//! those of libjpeg-turbo.

/// Fractional bits of the matrix, and those that the first pass leaves in.
const CONST_BITS: u32 = 13;
const PASS_BITS: u32 = 2;
/// Each pass's output is sqrt(8) too large.
const ROOTS: u32 = 3;

/// How far each pass shifts.
pub(super) const SHIFTS: [i32; 2] =
    [(CONST_BITS - PASS_BITS) as i32, (CONST_BITS + PASS_BITS + ROOTS) as i32];

/// Coefficients 0 and 4, then 2 and 6, for the even half of the outputs 0 and 1; 2 and 3 mirror
/// them.
pub(super) const EVEN: [[i16; 2]; 4] = [[8192, 8192], [8192, -8192], [10703, 4433], [4433, -10704]];
/// Coefficients 1 and 7, then 3 and 5, for the odd half of each of the outputs 0 to 3.
pub(super) const ODD: [[[i16; 2]; 2]; 4] = [
    [[11363, 2260], [9633, 6437]],
    [[9633, -6436], [-2259, -11362]],
    [[6437, 9633], [-11362, 2261]],
    [[2260, -11363], [-6436, 9633]],
];

/// `MATRIX[x][k]`: what coefficient `k` gives to output `x`.
const MATRIX: [[i32; 8]; 8] = {
    let mut matrix = [[0; 8]; 8];
    let mut x = 0;
    while x < 4 {
        let (zero_four, two_six) = match x {
            0 => (EVEN[0], EVEN[2]),
            1 => (EVEN[1], EVEN[3]),
            2 => (EVEN[1], [-EVEN[3][0], -EVEN[3][1]]),
            _ => (EVEN[0], [-EVEN[2][0], -EVEN[2][1]]),
        };
        let [[one, seven], [three, five]] = ODD[x];
        let row = [zero_four[0], one, two_six[0], three, zero_four[1], five, two_six[1], seven];
        let mut k = 0;
        while k < 8 {
            let weight = row[k] as i32;
            matrix[x][k] = weight;
            matrix[7 - x][k] = if k % 2 == 0 { weight } else { -weight };
            k += 1;
        }
        x += 1;
    }
    matrix
};

/// Samples of a block, row by row.
#[inline(always)]
pub(super) fn block(coefficients: &[i16; 64], quantisers: &[i16; 64]) -> [[u8; 8]; 8] {
    let frequencies = dequantised(coefficients, quantisers);
    // Columns, then rows; `half_way[x][v]`. Sums wrap and results saturate as in vectors.
    let mut half_way = [[0_i32; 8]; 8];
    for (x, column) in half_way.iter_mut().enumerate() {
        let sums = multiplied(|k| i32::from(frequencies[k][x]));
        for (value, sum) in column.iter_mut().zip(sums) {
            *value = i32::from(saturated(rounded(sum, SHIFTS[0] as u32)));
        }
    }
    std::array::from_fn(|y| {
        multiplied(|k| half_way[k][y]).map(|sum| sample(rounded(sum, SHIFTS[1] as u32)))
    })
}

/// A sample of a block whose AC coefficients are all 0.
#[inline(always)]
pub(super) fn flat(coefficient: i16, quantiser: i16) -> u8 {
    let half_way = saturated(i32::from(coefficient.wrapping_mul(quantiser)) << PASS_BITS);
    sample(rounded(i32::from(half_way), PASS_BITS + ROOTS))
}

/// `V` x `H` means of 8/V x 8/H samples each, row by row.
#[inline(always)]
pub(super) fn means<const V: usize, const H: usize>(
    coefficients: &[i16; 64],
    quantisers: &[i16; 64],
) -> [[u8; H]; V] {
    let (down, across) = (const { summed::<V>() }, const { summed::<H>() });
    let frequencies = dequantised(coefficients, quantisers);
    // `half_way[u][y]`, so that the rows of a pass are its lanes.
    let mut half_way = [[0_i32; V]; 8];
    let mut sums = [[0_i32; 8]; V];
    for (sums, weights) in sums.iter_mut().zip(&down) {
        for (row, &weight) in frequencies.iter().zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum = sum.wrapping_add(i32::from(value).wrapping_mul(weight));
            }
        }
    }
    let shift = SHIFTS[0] as u32 + (8 / V as u32).ilog2();
    for (y, sums) in sums.iter().enumerate() {
        for (column, &sum) in half_way.iter_mut().zip(sums) {
            column[y] = rounded(sum, shift);
        }
    }
    let mut out = [[0; H]; V];
    let shift = SHIFTS[1] as u32 + (8 / H as u32).ilog2();
    for (x, weights) in across.iter().enumerate() {
        let mut sums = [0_i32; V];
        for (column, &weight) in half_way.iter().zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(column) {
                *sum = sum.wrapping_add(value.wrapping_mul(weight));
            }
        }
        for (row, &sum) in out.iter_mut().zip(&sums) {
            row[x] = sample(rounded(sum, shift));
        }
    }
    out
}

/// Sums of 8 / N neighbouring rows of the matrix.
const fn summed<const N: usize>() -> [[i32; 8]; N] {
    let mut sums = [[0; 8]; N];
    let mut x = 0;
    while x < 8 {
        let mut k = 0;
        while k < 8 {
            sums[x * N / 8][k] += MATRIX[x][k];
            k += 1;
        }
        x += 1;
    }
    sums
}

#[inline(always)]
fn dequantised(coefficients: &[i16; 64], quantisers: &[i16; 64]) -> [[i16; 8]; 8] {
    let mut frequencies = [[0; 8]; 8];
    for ((value, &coefficient), &quantiser) in
        frequencies.as_flattened_mut().iter_mut().zip(coefficients).zip(quantisers)
    {
        *value = coefficient.wrapping_mul(quantiser);
    }
    frequencies
}

#[inline(always)]
fn multiplied(values: impl Fn(usize) -> i32) -> [i32; 8] {
    MATRIX.map(|weights| {
        let products =
            weights.iter().enumerate().map(|(k, weight)| values(k).wrapping_mul(*weight));
        products.fold(0, i32::wrapping_add)
    })
}

#[inline(always)]
fn rounded(sum: i32, shift: u32) -> i32 {
    sum.wrapping_add(1 << (shift - 1)) >> shift
}

#[inline(always)]
fn saturated(value: i32) -> i16 {
    value.clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as i16
}

#[inline(always)]
fn sample(value: i32) -> u8 {
    (value.clamp(-128, 127) + 128) as u8
}
