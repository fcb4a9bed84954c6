//! Random resized crop: the one augmentation of open_clip's training transform.
//!
//! The choice of the box is torchvision's `RandomResizedCrop.get_params` (ten tries, then the
//! centre), with ratio 3/4..4/3; the resize is Pillow's bicubic. The numbers come from
//! [`Counter`], so that a crop depends on seed, pass and sample alone.

use pixels::Picture;

use crate::order::Counter;

/// A box inside a picture, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crop {
    /// Left edge.
    pub x: u32,
    /// Upper edge.
    pub y: u32,
    /// Width, at least 1.
    pub width: u32,
    /// Height, at least 1.
    pub height: u32,
}

const RATIO: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);

/// Picks a box that keeps a share of the area in `scale`, with an aspect ratio in 3/4..4/3.
#[must_use]
pub fn random_box(width: u32, height: u32, scale: [f64; 2], numbers: &mut Counter) -> Crop {
    let (w, h) = (f64::from(width), f64::from(height));
    let between = |low: f64, high: f64, unit: f64| low + (high - low) * unit;
    for _ in 0..10 {
        let target = w * h * between(scale[0], scale[1], numbers.unit());
        let aspect = between(RATIO.0.ln(), RATIO.1.ln(), numbers.unit()).exp();
        let crop_w = (target * aspect).sqrt().round_ties_even();
        let crop_h = (target / aspect).sqrt().round_ties_even();
        if crop_w >= 1.0 && crop_w <= w && crop_h >= 1.0 && crop_h <= h {
            let (crop_w, crop_h) = (crop_w as u32, crop_h as u32);
            let y = numbers.below(u64::from(height - crop_h) + 1) as u32;
            let x = numbers.below(u64::from(width - crop_w) + 1) as u32;
            return Crop { x, y, width: crop_w, height: crop_h };
        }
    }
    centre_box(width, height)
}

/// The largest centred box with an aspect ratio in 3/4..4/3.
fn centre_box(width: u32, height: u32) -> Crop {
    let (w, h) = (f64::from(width), f64::from(height));
    let (crop_w, crop_h) = if w / h < RATIO.0 {
        (width, (w / RATIO.0).round_ties_even() as u32)
    } else if w / h > RATIO.1 {
        ((h * RATIO.1).round_ties_even() as u32, height)
    } else {
        (width, height)
    };
    let (crop_w, crop_h) = (crop_w.clamp(1, width), crop_h.clamp(1, height));
    Crop { x: (width - crop_w) / 2, y: (height - crop_h) / 2, width: crop_w, height: crop_h }
}

/// Cuts the box out and stretches it to `size` × `size`, interleaved RGB.
#[must_use]
pub fn resized(picture: &Picture, crop: Crop, size: u32) -> Vec<u8> {
    if (crop.width, crop.height) == (picture.width, picture.height) {
        return pixels::clip_pixels(picture, size, "squash");
    }
    let row = picture.width as usize * 3;
    let (left, wide) = (crop.x as usize * 3, crop.width as usize * 3);
    let rgb = picture
        .rgb
        .chunks_exact(row)
        .skip(crop.y as usize)
        .take(crop.height as usize)
        .flat_map(|line| &line[left..left + wide])
        .copied()
        .collect();
    let cut = Picture { width: crop.width, height: crop.height, rgb };
    pixels::clip_pixels(&cut, size, "squash")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_box_lies_inside_the_picture(w in 1_u32..400, h in 1_u32..400, low in 0.01_f64..1.0, key: u64) {
            let crop = random_box(w, h, [low, 1.0], &mut Counter::new(&[key]));
            prop_assert!(crop.width >= 1 && crop.x + crop.width <= w);
            prop_assert!(crop.height >= 1 && crop.y + crop.height <= h);
        }
    }

    #[test]
    fn a_square_keeps_the_asked_share_of_its_area() {
        for key in 0..200 {
            let crop = random_box(1000, 1000, [0.4, 0.5], &mut Counter::new(&[key]));
            let share = f64::from(crop.width) * f64::from(crop.height) / 1e6;
            assert!((0.399..0.501).contains(&share), "{crop:?}");
            let aspect = f64::from(crop.width) / f64::from(crop.height);
            assert!((0.749..1.335).contains(&aspect), "{crop:?}");
        }
    }

    #[test]
    fn a_banner_falls_back_to_the_largest_centred_box() {
        let crop = random_box(1000, 100, [0.9, 1.0], &mut Counter::new(&[1]));
        assert_eq!(crop, Crop { x: 433, y: 0, width: 133, height: 100 });
    }
}
