//! Large JPEGs straight to a small size: blocks of 2x2, 4x4 or 8x8 pixels become their mean in the
//! inverse DCT, and the resize goes on from there.

use super::{Mode, Target, area, finished, resize};
use crate::{Format, Limits, Picture, Refused, decode, decode_means, probe};

/// When a JPEG is decoded as means of blocks of its pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Means {
    /// How many means must fall on a pixel of the output, along both axes.
    pub on_a_pixel: f64,
    /// Pixels that the JPEG must have.
    pub least_pixels: u64,
}

impl Means {
    /// The resize is itself a mean over areas, so that only pixels at the edges of its areas count
    /// otherwise than they should. With 3 to 3.25 means on a pixel, 36 files of 18 photographs keep
    /// 43.0 dB at least where blocks are 2x2, 41.6 where they are 4x4 and 40.6 where they are 8x8, 50
    /// to 45 on average, against the resize of all pixels (`examples/means.rs`); with 2 they lose up
    /// to 36. Drawings whose edges lie exactly between output pixels lose more: a chessboard of single
    /// pixels 29 with blocks of 2x2, 22 with 4x4 and 15 with 8x8.
    pub const LARGE: Self = Self { on_a_pixel: 3.0, least_pixels: 1_000_000 };
    /// Every pixel is decoded.
    pub const NEVER: Self = Self { on_a_pixel: f64::INFINITY, least_pixels: u64::MAX };

    /// The side of the largest blocks for a picture of this size: 8, 4 or 2.
    fn block(self, from: (u32, u32), to: (u32, u32)) -> Option<u32> {
        if u64::from(from.0) * u64::from(from.1) < self.least_pixels {
            return None;
        }
        let ratio = |from: u32, to: u32| f64::from(from) / f64::from(to);
        let least = ratio(from.0, to.0).min(ratio(from.1, to.1));
        [8, 4, 2].into_iter().find(|&by| least / f64::from(by) >= self.on_a_pixel)
    }
}

/// Decodes, turns upright and resizes: the picture, and its size (width, height) before.
///
/// The result of [`decode`] and [`resize`], pixel by pixel, but for JPEGs that `means` speaks of.
///
/// # Errors
/// As [`decode`] and [`resize`].
pub fn decode_resized(
    bytes: &[u8],
    limits: &Limits,
    image_size: u32,
    mode: Mode,
    resize_only_if_bigger: bool,
    means: Means,
) -> Result<(Picture, (u32, u32)), Refused> {
    let header = probe(bytes, limits)?;
    let whole = header.upright_size();
    let target = Target::new(whole, image_size, mode, resize_only_if_bigger);
    if header.format == Format::Jpeg
        && let Ok(Some(Target { size, shrinks: true })) = target
    {
        // The picture is turned after it has become small.
        let stored = if header.orientation >= 5 { (size.1, size.0) } else { size };
        if let Some(by) = means.block((header.width, header.height), stored)
            && let Some(picture) = decode_means(bytes, limits, by)
        {
            let part = (f64::from(header.width), f64::from(header.height));
            let part = (part.0 / f64::from(by), part.1 / f64::from(by));
            let small = area::shrink_part(&picture, part, stored).upright(header.orientation);
            return Ok((finished(small, image_size, mode), whole));
        }
    }
    let picture = decode(bytes, limits)?;
    let resized = resize(&picture, image_size, mode, resize_only_if_bigger)?;
    Ok((resized, whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_as_large_as_their_means_are_many() {
        let block = |from, to| Means::LARGE.block(from, to);
        assert_eq!(block((1536, 1536), (256, 256)), Some(2));
        assert_eq!(block((1535, 1535), (256, 256)), None);
        assert_eq!(block((4000, 3000), (333, 250)), Some(4));
        // The axis with fewer means decides.
        assert_eq!(block((4000, 3000), (333, 256)), Some(2));
        assert_eq!(block((8000, 5000), (160, 100)), Some(8));
        // Small pictures are decoded whole, whatever they become.
        assert_eq!(block((999, 1000), (10, 10)), None);
        assert_eq!(Means::NEVER.block((60_000, 60_000), (1, 1)), None);
    }
}
