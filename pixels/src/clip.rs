//! open_clip's picture transforms: evaluation, training crop, normalising.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Picture;
use crate::pil::{self, Rect};

/// How a picture becomes square.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResizeMode {
    /// The shorter side becomes the size, then the centre is cut out.
    #[default]
    Shortest,
    /// The longer side becomes the size, then black is added on both sides.
    Longest,
    /// Both sides become the size.
    Squash,
}

impl FromStr for ResizeMode {
    type Err = String;

    /// Reads open_clip's word.
    ///
    /// # Errors
    /// Names the three words.
    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "shortest" => Ok(Self::Shortest),
            "longest" => Ok(Self::Longest),
            "squash" => Ok(Self::Squash),
            _ => Err(format!("resize_mode is shortest, longest or squash, got {word}")),
        }
    }
}

/// open_clip's evaluation transform to `size`: u8, `[size, size, 3]` interleaved, bicubic as
/// Pillow's. `resize_mode` is `shortest`, `longest` or `squash`; an empty or unknown word means
/// `shortest`, open_clip's default (check words from outside with [`ResizeMode::from_str`]).
///
/// Source: open_clip `transform.py`, `image_transform(is_train=False)`; torchvision `Resize`,
/// `CenterCrop`. Byte-equal to them on the same decoded pixels.
///
/// A picture or size without pixels gives black.
#[must_use]
pub fn clip_pixels(picture: &Picture, size: u32, resize_mode: &str) -> Vec<u8> {
    if size == 0 || picture.width == 0 || picture.height == 0 {
        return vec![0; size as usize * size as usize * 3];
    }
    let whole = Rect::all(picture);
    let square = Rect { x: 0, y: 0, width: size, height: size };
    match resize_mode.parse().unwrap_or_default() {
        ResizeMode::Squash => pil::resize(picture, whole, (size, size), square).rgb,
        ResizeMode::Shortest => {
            let long = |long: u32, short: u32| {
                (f64::from(size) * f64::from(long) / f64::from(short)) as u32
            };
            let (width, height) = if picture.width <= picture.height {
                (size, long(picture.height, picture.width))
            } else {
                (long(picture.width, picture.height), size)
            };
            let window = Rect { x: half(width - size), y: half(height - size), ..square };
            pil::resize(picture, whole, (width, height), window).rgb
        }
        ResizeMode::Longest => {
            let ratio = f64::from(picture.width.max(picture.height)) / f64::from(size);
            let side =
                |side: u32| ((f64::from(side) / ratio).round_ties_even() as u32).clamp(1, size);
            let (width, height) = (side(picture.width), side(picture.height));
            let window = Rect { x: 0, y: 0, width, height };
            let inner = pil::resize(picture, whole, (width, height), window);
            let (left, top) = ((size - width) / 2, (size - height) / 2);
            padded(&inner, size, left, top)
        }
    }
}

/// Half, an exact half going to the even neighbour, as Python rounds.
fn half(excess: u32) -> u32 {
    (f64::from(excess) / 2.0).round_ties_even() as u32
}

/// The picture at (left, top) of a black square.
fn padded(picture: &Picture, size: u32, left: u32, top: u32) -> Vec<u8> {
    let size = size as usize;
    let width = picture.width as usize;
    let mut out = vec![0; size * size * 3];
    for (y, row) in picture.rgb.chunks_exact(width * 3).enumerate() {
        let at = ((y + top as usize) * size + left as usize) * 3;
        out[at..at + width * 3].copy_from_slice(row);
    }
    out
}

/// open_clip's training transform: a random part of the picture, bicubic to `size`; u8,
/// `[size, size, 3]` interleaved. The same seed gives the same bytes.
///
/// `scale` is the share of the area that is kept (open_clip: 0.9 to 1.0), `ratio` the aspect
/// (width over height) of the part (3/4 to 4/3).
///
/// Source: torchvision `RandomResizedCrop`: ten tries, then the largest centred part whose aspect
/// lies in `ratio`. The random numbers are our own (SplitMix64), not torch's.
#[must_use]
pub fn random_resized_crop(
    picture: &Picture,
    size: u32,
    scale: (f64, f64),
    ratio: (f64, f64),
    seed: u64,
) -> Vec<u8> {
    if size == 0 || picture.width == 0 || picture.height == 0 {
        return vec![0; size as usize * size as usize * 3];
    }
    let part = random_part(picture.width, picture.height, scale, ratio, &mut SplitMix(seed));
    let square = Rect { x: 0, y: 0, width: size, height: size };
    pil::resize(picture, part, (size, size), square).rgb
}

fn random_part(
    width: u32,
    height: u32,
    scale: (f64, f64),
    ratio: (f64, f64),
    random: &mut SplitMix,
) -> Rect {
    let area = f64::from(width) * f64::from(height);
    for _ in 0..10 {
        let wanted = area * random.between(scale.0, scale.1);
        let aspect = random.between(ratio.0.ln(), ratio.1.ln()).exp();
        let w = (wanted * aspect).sqrt().round_ties_even() as u32;
        let h = (wanted / aspect).sqrt().round_ties_even() as u32;
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            let y = random.below(height - h + 1);
            let x = random.below(width - w + 1);
            return Rect { x, y, width: w, height: h };
        }
    }
    let aspect = f64::from(width) / f64::from(height);
    let rounded = |side: f64, most: u32| (side.round_ties_even() as u32).clamp(1, most);
    let (w, h) = if aspect < ratio.0 {
        (width, rounded(f64::from(width) / ratio.0, height))
    } else if aspect > ratio.1 {
        (rounded(f64::from(height) * ratio.1, width), height)
    } else {
        (width, height)
    };
    Rect { x: (width - w) / 2, y: (height - h) / 2, width: w, height: h }
}

/// SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `low..high`, from the upper 53 bits.
    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * ((self.next() >> 11) as f64 / (1_u64 << 53) as f64)
    }

    /// Uniform in `0..bound`; the bias of the multiplication is below 2^-32.
    fn below(&mut self, bound: u32) -> u32 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u32
    }
}

/// Scales to 0..1 and normalises: u8 `[size, size, 3]` interleaved to f32 `[3, size, size]`.
///
/// `(pixel / 255 - mean) / std` per channel, in f32 and in this order, as torchvision's `ToTensor`
/// and `Normalize`. Bytes beyond `size * size * 3` are ignored.
#[must_use]
pub fn normalize(pixels: &[u8], size: u32, mean: [f32; 3], std: [f32; 3]) -> Vec<f32> {
    let plane = size as usize * size as usize;
    let mut out = Vec::with_capacity(plane * 3);
    for channel in 0..3 {
        let table: [f32; 256] =
            std::array::from_fn(|value| (value as f32 / 255.0 - mean[channel]) / std[channel]);
        let channel = pixels.iter().skip(channel).step_by(3).take(plane);
        out.extend(channel.map(|&value| table[usize::from(value)]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_an_odd_excess_goes_to_the_even_neighbour() {
        assert_eq!([0, 1, 2, 3, 4, 5, 7].map(half), [0, 0, 1, 2, 2, 2, 4]);
    }

    #[test]
    fn longest_pads_a_wide_picture_above_and_below_with_black() {
        let picture = Picture::filled(4, 1, [9, 9, 9]);
        let out = clip_pixels(&picture, 4, "longest");
        let rows: Vec<u8> = out.chunks(12).map(|row| row[0]).collect();
        // 3 empty rows: one above, two below.
        assert_eq!(rows, [0, 9, 0, 0]);
    }

    #[test]
    fn every_part_lies_inside_and_keeps_its_share_and_aspect() {
        for seed in 0..500 {
            let (w, h) = (40 + seed as u32 % 60, 50);
            let part = random_part(w, h, (0.9, 1.0), (0.75, 4.0 / 3.0), &mut SplitMix(seed));
            assert!(part.x + part.width <= w && part.y + part.height <= h, "{part:?}");
            let aspect = f64::from(part.width) / f64::from(part.height);
            assert!((0.72..=1.39).contains(&aspect), "{part:?}");
        }
    }

    #[test]
    fn a_long_picture_falls_back_to_its_centre() {
        let part = random_part(1000, 90, (0.9, 1.0), (0.75, 4.0 / 3.0), &mut SplitMix(1));
        assert_eq!(part, Rect { x: 440, y: 0, width: 120, height: 90 });
        let part = random_part(90, 1000, (0.9, 1.0), (0.75, 4.0 / 3.0), &mut SplitMix(1));
        assert_eq!(part, Rect { x: 0, y: 440, width: 90, height: 120 });
    }

    #[test]
    fn the_seed_decides_the_part() {
        let rgb = (0..64 * 48 * 3).map(|i| (i * 31 % 253) as u8).collect();
        let picture = Picture { width: 64, height: 48, rgb };
        let crop = |seed| random_resized_crop(&picture, 16, (0.9, 1.0), (0.75, 4.0 / 3.0), seed);
        assert_eq!(crop(7), crop(7));
        assert_ne!(crop(7), crop(8));
    }

    #[test]
    fn normalising_separates_the_channels() {
        let out = normalize(&[0, 255, 51, 255, 0, 0], 1, [0.5, 0.0, 0.0], [0.5, 1.0, 0.1]);
        assert_eq!(out, [-1.0, 1.0, 2.0]);
    }
}
