//! Resizing as img2dataset 1.47 does it (albumentations 1.4.24 and OpenCV): the same sizes, the
//! same white borders, `INTER_AREA` down and `INTER_LANCZOS4` up.

mod area;
mod lanczos;
mod means;

use serde::{Deserialize, Serialize};

use crate::{Picture, Refused};

pub use means::{Means, decode_resized};

/// No output has more pixels: keeping the ratio of a 1x1000 picture at 256 would need 65 million.
pub const MAX_OUTPUT_PIXELS: u64 = 40_000_000;
/// No output has a longer side, so that every output can be a JPEG.
pub const MAX_OUTPUT_SIDE: u32 = 65_535;

/// What `image_size` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Nothing is resized.
    No,
    /// The shorter side becomes `image_size`.
    KeepRatio,
    /// The longer side becomes `image_size`.
    KeepRatioLargest,
    /// The shorter side becomes `image_size`, then the square in the middle is cut out.
    CenterCrop,
    /// The longer side becomes `image_size`, then white is added on both sides to a square.
    #[default]
    Border,
}

/// Resizes as img2dataset's `Resizer` does.
///
/// With `resize_only_if_bigger`, a picture whose side of interest (the shorter for `KeepRatio` and
/// `CenterCrop`, the longer for `KeepRatioLargest` and `Border`) is not above `image_size` stays as
/// it is: not resized, not cut, not padded.
///
/// # Errors
/// `zero_size` where the picture or `image_size` has no pixels; `output_too_large` beyond
/// [`MAX_OUTPUT_PIXELS`] or [`MAX_OUTPUT_SIDE`].
pub fn resize(
    picture: &Picture,
    image_size: u32,
    mode: Mode,
    resize_only_if_bigger: bool,
) -> Result<Picture, Refused> {
    let whole = (picture.width, picture.height);
    let Some(to) = Target::new(whole, image_size, mode, resize_only_if_bigger)? else {
        return Ok(picture.clone());
    };
    let resized = if to.size == whole {
        picture.clone()
    } else if to.shrinks {
        area::shrink(picture, to.size)
    } else {
        lanczos::enlarge(picture, to.size)
    };
    Ok(finished(resized, image_size, mode))
}

/// Cuts or pads.
fn finished(resized: Picture, image_size: u32, mode: Mode) -> Picture {
    match mode {
        Mode::CenterCrop => cut_centre(&resized, image_size),
        Mode::Border => pad_white(&resized, image_size),
        _ => resized,
    }
}

/// What a picture is resized to, before it is cut or padded.
struct Target {
    size: (u32, u32),
    shrinks: bool,
}

impl Target {
    /// Nothing for a picture that stays as it is.
    fn new(
        (width, height): (u32, u32),
        image_size: u32,
        mode: Mode,
        only_if_bigger: bool,
    ) -> Result<Option<Self>, Refused> {
        let side = match mode {
            Mode::No => return Ok(None),
            Mode::KeepRatio | Mode::CenterCrop => width.min(height),
            Mode::KeepRatioLargest | Mode::Border => width.max(height),
        };
        if width.min(height) == 0 || image_size == 0 {
            return Err(Refused::new("zero_size", format!("{width}x{height} to {image_size}")));
        }
        let shrinks = side > image_size;
        if only_if_bigger && !shrinks {
            return Ok(None);
        }
        let size = output_size((width, height), side, image_size);
        let area = u64::from(size.0) * u64::from(size.1);
        let padded = u64::from(image_size) * u64::from(image_size);
        if size.0.max(size.1).max(image_size) > MAX_OUTPUT_SIDE
            || area > MAX_OUTPUT_PIXELS
            || (mode == Mode::Border && padded > MAX_OUTPUT_PIXELS)
        {
            let detail = format!("{width}x{height} to {}x{}", size.0, size.1);
            return Err(Refused::new("output_too_large", detail));
        }
        Ok(Some(Self { size, shrinks }))
    }
}

/// Both sides times `image_size / side`, rounded to nearest, an exact half to even; at least 1
/// (OpenCV fails on 0).
fn output_size((width, height): (u32, u32), side: u32, image_size: u32) -> (u32, u32) {
    let scale = f64::from(image_size) / f64::from(side);
    let scaled = |side: u32| ((f64::from(side) * scale).round_ties_even() as u32).max(1);
    (scaled(width), scaled(height))
}

fn cut_centre(picture: &Picture, size: u32) -> Picture {
    let (x, y) = (((picture.width - size) / 2) as usize, ((picture.height - size) / 2) as usize);
    let (width, side) = (picture.width as usize, size as usize);
    let rgb = (y..y + side)
        .flat_map(|row| &picture.rgb[(row * width + x) * 3..(row * width + x + side) * 3])
        .copied()
        .collect();
    Picture { width: size, height: size, rgb }
}

fn pad_white(picture: &Picture, size: u32) -> Picture {
    let (left, top) =
        (((size - picture.width) / 2) as usize, ((size - picture.height) / 2) as usize);
    let mut out = Picture::filled(size, size, [255; 3]);
    let width = picture.width as usize * 3;
    for (y, row) in picture.rgb.chunks_exact(width).enumerate() {
        let at = ((y + top) * size as usize + left) * 3;
        out.rgb[at..at + width].copy_from_slice(row);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(width: u32, height: u32, to: u32, mode: Mode, only_if_bigger: bool) -> (u32, u32) {
        let picture = Picture::filled(width, height, [7; 3]);
        let out = resize(&picture, to, mode, only_if_bigger).unwrap();
        assert_eq!(out.rgb.len(), out.width as usize * out.height as usize * 3);
        (out.width, out.height)
    }

    #[test]
    fn the_other_side_is_rounded_to_nearest() {
        assert_eq!(size(777, 1333, 256, Mode::KeepRatioLargest, false), (149, 256));
        assert_eq!(size(513, 1025, 256, Mode::KeepRatioLargest, false), (128, 256));
        assert_eq!(size(513, 1025, 256, Mode::KeepRatio, false), (256, 512));
    }

    #[test]
    fn only_if_bigger_leaves_small_pictures_alone_in_every_mode() {
        for mode in
            [Mode::No, Mode::KeepRatio, Mode::KeepRatioLargest, Mode::CenterCrop, Mode::Border]
        {
            assert_eq!(size(30, 20, 64, mode, true), (30, 20));
        }
        assert_eq!(size(100, 20, 64, Mode::CenterCrop, true), (100, 20));
        assert_eq!(size(100, 20, 64, Mode::Border, true), (64, 64));
    }

    #[test]
    fn thin_pictures_do_not_become_huge() {
        let thin = Picture::filled(1, 1000, [7; 3]);
        let refused = resize(&thin, 256, Mode::KeepRatio, false).unwrap_err();
        assert_eq!(refused.reason, "output_too_large");
        let refused = resize(&thin, 100_000, Mode::Border, false).unwrap_err();
        assert_eq!(refused.reason, "output_too_large");
        assert_eq!(size(1, 1000, 256, Mode::KeepRatioLargest, false), (1, 256));
    }

    #[test]
    fn the_border_is_white_and_an_odd_pixel_goes_below() {
        let picture = Picture::filled(4, 1, [7; 3]);
        let out = resize(&picture, 4, Mode::Border, false).unwrap();
        let rows: Vec<u8> = out.rgb.chunks(12).map(|row| row[0]).collect();
        assert_eq!(rows, [255, 7, 255, 255]);
    }

    #[test]
    fn the_centre_is_cut_with_the_odd_pixel_on_the_right() {
        let rgb = (0..5).flat_map(|v| [v; 3]).collect::<Vec<u8>>().repeat(2);
        let picture = Picture { width: 5, height: 2, rgb };
        let out = resize(&picture, 2, Mode::CenterCrop, false).unwrap();
        assert_eq!(out.rgb.chunks(3).map(|p| p[0]).collect::<Vec<_>>(), [1, 2, 1, 2]);
    }
}
