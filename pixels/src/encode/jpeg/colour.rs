//! RGB to YCbCr (JFIF 1.02, section 7: CCIR 601, full range) in 16-bit fixed point, and the 2x2
//! mean of the chroma, both with libjpeg's rounding.

/// Pixels of a row that are coded together: four MCUs of 16.
pub(super) const ACROSS: usize = 64;
/// Rows of an MCU.
pub(super) const DOWN: usize = 16;

/// 64x16 pixels as three strips of eight blocks: the upper eight of luma, the lower eight, and
/// four of Cb beside four of Cr. `strip[y][x]`.
pub(super) struct Strips {
    pub(super) luma: [[[u8; ACROSS]; 8]; 2],
    pub(super) chroma: [[u8; ACROSS]; 8],
}

impl Strips {
    pub(super) const fn new() -> Self {
        Self { luma: [[[0; ACROSS]; 8]; 2], chroma: [[0; ACROSS]; 8] }
    }

    /// Converts rows of 64 RGB pixels; `chroma_rows` (1..=8) of the chroma are means of rows, and
    /// those below repeat the last.
    #[inline(always)]
    pub(super) fn fill<'a>(
        &mut self,
        row: impl Fn(usize) -> &'a [u8; ACROSS * 3],
        chroma_rows: usize,
    ) {
        let mut cb = [[0; ACROSS]; 2];
        let mut cr = [[0; ACROSS]; 2];
        for pair in 0..DOWN / 2 {
            for below in 0..2 {
                let y = pair * 2 + below;
                let luma = &mut self.luma[y / 8][y % 8];
                convert(row(y), luma, &mut cb[below], &mut cr[below]);
            }
            let (left, right) = self.chroma[pair].split_at_mut(ACROSS / 2);
            halve(&cb, left);
            halve(&cr, right);
        }
        for y in chroma_rows..8 {
            self.chroma[y] = self.chroma[chroma_rows - 1];
        }
    }
}

/// Weights times 2^16. Those of each output sum to 2^16 (Y) or 0 (Cb, Cr).
#[inline(always)]
fn convert(
    rgb: &[u8; ACROSS * 3],
    luma: &mut [u8; ACROSS],
    cb: &mut [u8; ACROSS],
    cr: &mut [u8; ACROSS],
) {
    const HALF: i32 = 1 << 15;
    // 128 and a rounding that lets 255.5 be 255.
    const CENTRE: i32 = (128 << 16) + HALF - 1;
    let mut planes = [[0_u8; ACROSS]; 3];
    for (x, pixel) in rgb.as_chunks::<3>().0.iter().enumerate() {
        planes[0][x] = pixel[0];
        planes[1][x] = pixel[1];
        planes[2][x] = pixel[2];
    }
    for x in 0..ACROSS {
        let [r, g, b] = [planes[0][x], planes[1][x], planes[2][x]].map(i32::from);
        luma[x] = ((19595 * r + 38470 * g + 7471 * b + HALF) >> 16) as u8;
        cb[x] = ((32768 * b - 11059 * r - 21709 * g + CENTRE) >> 16) as u8;
        cr[x] = ((32768 * r - 27439 * g - 5329 * b + CENTRE) >> 16) as u8;
    }
}

/// Means of 2x2; what lies between two values goes down and up in turns along the row.
#[inline(always)]
fn halve(rows: &[[u8; ACROSS]; 2], means: &mut [u8]) {
    let (above, below) = (rows[0].as_chunks::<2>().0, rows[1].as_chunks::<2>().0);
    for (x, mean) in means.iter_mut().enumerate().take(ACROSS / 2) {
        let sum = [above[x][0], above[x][1], below[x][0], below[x][1]].map(u16::from);
        let bias = 1 + (x & 1) as u16;
        *mean = ((sum[0] + sum[1] + sum[2] + sum[3] + bias) >> 2) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pixel: [u8; 3]) -> [u8; 3] {
        let rgb: Vec<u8> = pixel.repeat(ACROSS);
        let mut strips = Strips::new();
        strips.fill(|_| rgb.first_chunk().unwrap(), 8);
        [strips.luma[1][7][63], strips.chroma[7][31], strips.chroma[7][63]]
    }

    #[test]
    fn primaries_are_those_of_jfif() {
        assert_eq!(of([0, 0, 0]), [0, 128, 128]);
        assert_eq!(of([255, 255, 255]), [255, 128, 128]);
        assert_eq!(of([255, 0, 0]), [76, 85, 255]);
        assert_eq!(of([0, 255, 0]), [150, 44, 21]);
        assert_eq!(of([0, 0, 255]), [29, 255, 107]);
    }

    #[test]
    fn half_way_means_go_down_and_up_in_turns() {
        let rows = [[0; ACROSS], std::array::from_fn(|x| (x % 2) as u8)];
        let mut means = [9; 4];
        // 1/4, then with both rows 2/4.
        halve(&rows, &mut means);
        assert_eq!(means, [0, 0, 0, 0]);
        halve(&[rows[1]; 2], &mut means);
        assert_eq!(means, [0, 1, 0, 1]);
    }

    #[test]
    fn chroma_below_the_picture_repeats_its_last_row() {
        let red = [255, 0, 0].repeat(ACROSS);
        let blue = [0, 0, 255].repeat(ACROSS);
        let mut strips = Strips::new();
        strips.fill(|y| if y < 2 { &red } else { &blue }.first_chunk().unwrap(), 1);
        assert_eq!(strips.chroma[7][0], 85);
        assert_eq!(strips.luma[0][2][0], 29);
    }
}
