//! To a size whatever the shape, bilinear: what small classifiers and detectors were trained on.

use crate::Picture;
use crate::pil::{Kernel, Rect, resize_by};

/// The picture at exactly this size, Pillow's `resize(size, BILINEAR)`; its aspect ratio is lost.
/// A side of 0 counts as 1.
#[must_use]
pub fn squash(picture: &Picture, width: u32, height: u32) -> Picture {
    let size = (width.max(1), height.max(1));
    let all = Rect { x: 0, y: 0, width: size.0, height: size.1 };
    resize_by(Kernel::Bilinear, picture, Rect::all(picture), size, all)
}

/// The square of this side in the middle; where a side is shorter, all of that side.
#[must_use]
pub fn cut_centre(picture: &Picture, side: u32) -> Picture {
    let (width, height) = (picture.width.min(side), picture.height.min(side));
    let (x, y) = ((picture.width - width) / 2, (picture.height - height) / 2);
    let stride = picture.width as usize * 3;
    let lines = picture.rgb.chunks_exact(stride.max(1)).skip(y as usize).take(height as usize);
    let cut = x as usize * 3..(x + width) as usize * 3;
    Picture { width, height, rgb: lines.flat_map(|line| &line[cut.clone()]).copied().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_four_becomes_two_by_the_triangle_of_pillow() {
        // PIL.Image.fromarray(...).resize((2, 1), BILINEAR) gives 43 and 157.
        let rgb = [0u8, 50, 150, 200].iter().flat_map(|v| [*v; 3]).collect();
        let line = Picture { width: 4, height: 1, rgb };
        let small = squash(&line, 2, 1);
        assert_eq!(small.rgb, [43, 43, 43, 157, 157, 157]);
    }

    #[test]
    fn the_middle_is_cut_out_and_a_short_side_stays() {
        let rgb = (0u8..5).flat_map(|v| [v; 3]).collect();
        let line = Picture { width: 5, height: 1, rgb };
        let cut = cut_centre(&line, 3);
        assert_eq!((cut.width, cut.height), (3, 1));
        assert_eq!(cut.rgb, [1, 1, 1, 2, 2, 2, 3, 3, 3]);
    }
}
