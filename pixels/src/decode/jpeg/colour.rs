//! YCbCr to RGB (JFIF 1.02, section 7: CCIR 601, full range) in 16-bit fixed point with libjpeg's
//! rounding, and the rows of chroma made as wide as those of luma.

/// 1.402 - 1 times 2^16.
pub(super) const RED: i16 = 26345;
/// 1.772 - 2 times 2^16.
pub(super) const BLUE: i16 = -14942;
/// -0.34414 and 1 - 0.71414 times 2^16, of Cb and Cr.
pub(super) const GREEN: [i16; 2] = [-22554, 18734];

/// A pixel.
#[inline(always)]
pub(super) fn rgb(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let [y, cb, cr] = [y, cb, cr].map(i32::from);
    let (cb, cr) = (cb - 128, cr - 128);
    let red = y + cr + ((cr * i32::from(RED) + HALF) >> 16);
    let blue = y + 2 * cb + ((cb * i32::from(BLUE) + HALF) >> 16);
    let [of_cb, of_cr] = GREEN.map(i32::from);
    let green = y - cr + ((cb * of_cb + cr * of_cr + HALF) >> 16);
    [red, green, blue].map(|value| value.clamp(0, 255) as u8)
}

/// A row of chroma between two rows, 3/4 of the nearer one and 1/4 of the other: sums of four.
/// Between, the first and the last are doubled in front of and behind the row.
#[inline(always)]
pub(super) fn blend(near: &[u8], far: &[u8], sums: &mut [u16]) {
    let width = near.len();
    let inner = &mut sums[1..=width];
    for ((sum, &near), &far) in inner.iter_mut().zip(near).zip(far) {
        *sum = 3 * u16::from(near) + u16::from(far);
    }
    double_ends(sums, width);
}

fn double_ends(sums: &mut [u16], width: usize) {
    sums[0] = sums[1];
    sums[width + 1] = sums[width];
}

/// Twice as many samples, each 3/4 of the nearer and 1/4 of the next; `sums` as [`blend`] leaves
/// them. What lies half way goes down and up in turns.
#[inline(always)]
pub(super) fn widen_blended(sums: &[u16], wide: &mut [u8]) {
    widen(sums, wide, [8, 7], 4);
}

/// The same for a row that is not blended.
#[inline(always)]
pub(super) fn widen_row(row: &[u8], sums: &mut [u16], wide: &mut [u8]) {
    for (sum, &value) in sums[1..].iter_mut().zip(row) {
        *sum = u16::from(value);
    }
    double_ends(sums, row.len());
    widen(&sums[..row.len() + 2], wide, [1, 2], 2);
}

#[inline(always)]
fn widen(sums: &[u16], wide: &mut [u8], bias: [u16; 2], shift: u32) {
    let width = sums.len() - 2;
    let (left, here, right) = (&sums[..width], &sums[1..=width], &sums[2..]);
    let pairs = wide.as_chunks_mut::<2>().0;
    for (((pair, &left), &here), &right) in pairs.iter_mut().zip(left).zip(here).zip(right) {
        let first = (3 * here + left + bias[0]) >> shift;
        let second = (3 * here + right + bias[1]) >> shift;
        *pair = (first | second << 8).to_le_bytes();
    }
}

/// A row of chroma between two rows where it is as wide as luma already.
#[inline(always)]
pub(super) fn blend_only(near: &[u8], far: &[u8], upper: bool, out: &mut [u8]) {
    let bias = if upper { 1 } else { 2 };
    for ((out, &near), &far) in out.iter_mut().zip(near).zip(far) {
        *out = ((3 * u16::from(near) + u16::from(far) + bias) >> 2) as u8;
    }
}

/// Each sample twice.
#[inline(always)]
pub(super) fn repeat(row: &[u8], wide: &mut [u8]) {
    for (pair, &value) in wide.as_chunks_mut::<2>().0.iter_mut().zip(row) {
        *pair = [value; 2];
    }
}
