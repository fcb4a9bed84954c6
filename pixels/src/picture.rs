//! `Picture`: decoded pixels, and turning them upright.

/// An interleaved 8-bit RGB picture: `rgb[(y * width + x) * 3 + channel]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `width * height * 3` bytes, row by row.
    pub rgb: Vec<u8>,
}

impl Picture {
    /// A picture of one colour.
    #[must_use]
    pub fn filled(width: u32, height: u32, rgb: [u8; 3]) -> Self {
        let pixels = width as usize * height as usize;
        Self { width, height, rgb: rgb.repeat(pixels) }
    }

    /// Turns the picture upright, given its EXIF orientation (1..=8, other values do nothing).
    ///
    /// Source: EXIF 2.32, tag 0x0112: the value says where row 0 and column 0 of the stored
    /// picture belong in the picture as seen.
    #[must_use]
    pub fn upright(self, orientation: u8) -> Self {
        if !(2..=8).contains(&orientation) {
            return self;
        }
        let (width, height) = (self.width as usize, self.height as usize);
        let swapped = orientation >= 5;
        let (out_width, out_height) = if swapped { (height, width) } else { (width, height) };
        let mut rgb = Vec::with_capacity(self.rgb.len());
        for y in 0..out_height {
            for x in 0..out_width {
                let (from_x, from_y) = match orientation {
                    2 => (width - 1 - x, y),
                    3 => (width - 1 - x, height - 1 - y),
                    4 => (x, height - 1 - y),
                    5 => (y, x),
                    6 => (y, height - 1 - x),
                    7 => (width - 1 - y, height - 1 - x),
                    _ => (width - 1 - y, x),
                };
                let at = (from_y * width + from_x) * 3;
                rgb.extend_from_slice(&self.rgb[at..at + 3]);
            }
        }
        Self { width: out_width as u32, height: out_height as u32, rgb }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two rows of three gray pixels: 1 2 3 / 4 5 6.
    fn turned(orientation: u8) -> (u32, u32, Vec<u8>) {
        let rgb = (1..=6).flat_map(|v| [v; 3]).collect();
        let picture = Picture { width: 3, height: 2, rgb }.upright(orientation);
        (picture.width, picture.height, picture.rgb.chunks(3).map(|pixel| pixel[0]).collect())
    }

    #[test]
    fn all_eight_orientations_put_the_stored_corner_where_exif_says() {
        assert_eq!(turned(1), (3, 2, vec![1, 2, 3, 4, 5, 6]));
        assert_eq!(turned(2), (3, 2, vec![3, 2, 1, 6, 5, 4]));
        assert_eq!(turned(3), (3, 2, vec![6, 5, 4, 3, 2, 1]));
        assert_eq!(turned(4), (3, 2, vec![4, 5, 6, 1, 2, 3]));
        assert_eq!(turned(5), (2, 3, vec![1, 4, 2, 5, 3, 6]));
        assert_eq!(turned(6), (2, 3, vec![4, 1, 5, 2, 6, 3]));
        assert_eq!(turned(7), (2, 3, vec![6, 3, 5, 2, 4, 1]));
        assert_eq!(turned(8), (2, 3, vec![3, 6, 2, 5, 1, 4]));
        assert_eq!(turned(0), turned(1));
        assert_eq!(turned(9), turned(1));
    }
}
