//! Guarded decoding: caps first, one decoder a format, every failure a [`Refused`].

mod gif;
mod jpeg;
mod png;
mod webp;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::probe::{Details, Probed};
use crate::{Header, Limits, Picture, Refused};

/// Decodes to RGB as img2dataset sees a picture, and upright: transparency on white, 16-bit
/// samples cut to their upper 8, the first frame of an animation, EXIF orientation applied.
///
/// A truncated file is refused, never filled up.
///
/// # Errors
/// Every reason of [`Refused`] but `output_too_large`.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Picture, Refused> {
    let (header, raw) = decode_raw(bytes, limits, Gray16::Upper8)?;
    Ok(raw.on_white().upright(header.orientation))
}

/// Decodes as PIL's `convert("RGB")` does: transparency dropped (colours hidden under it stay),
/// orientation ignored, 16-bit grey clipped at 255 (that is PIL's way from `I;16`). This is what
/// open_clip sees of a shard.
///
/// # Errors
/// As [`decode`].
pub fn decode_rgb_first(bytes: &[u8], limits: &Limits) -> Result<Picture, Refused> {
    Ok(decode_raw(bytes, limits, Gray16::Clipped)?.1.picture)
}

/// Decodes a JPEG, as it is stored, to means of `by` x `by` pixels (2, 4 or 8): the upper left part
/// of width / by and height / by of them, rounded up. Nothing for any other file, and where
/// [`decode`] must say what is wrong.
pub(crate) fn decode_means(bytes: &[u8], limits: &Limits, by: u32) -> Option<Picture> {
    let Probed { header, details: Details::Jpeg(details) } = Probed::read(bytes, limits).ok()?
    else {
        return None;
    };
    jpeg::decode_means(bytes, &header, &details, by)
}

/// A decoded picture before its transparency is settled.
struct Raw {
    picture: Picture,
    /// One byte a pixel; none where every pixel is opaque.
    alpha: Option<Vec<u8>>,
}

impl Raw {
    /// Splits RGBA.
    fn from_rgba(width: u32, height: u32, rgba: &[u8]) -> Self {
        let rgb = rgba.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
        let alpha = rgba.chunks_exact(4).map(|pixel| pixel[3]).collect();
        Self { picture: Picture { width, height, rgb }, alpha: Some(alpha) }
    }

    /// img2dataset's matte: `rint(clip(alpha / 255 * rgb + 255 - alpha))`, in f32 as numpy does.
    fn on_white(self) -> Picture {
        let Some(alpha) = self.alpha else { return self.picture };
        let mut picture = self.picture;
        for (pixel, &alpha) in picture.rgb.chunks_exact_mut(3).zip(&alpha) {
            if alpha != 255 {
                let share = f32::from(alpha) / 255.0;
                for value in pixel {
                    let matted = share * f32::from(*value) + 255.0 - f32::from(alpha);
                    *value = matted.clamp(0.0, 255.0).round_ties_even() as u8;
                }
            }
        }
        picture
    }
}

/// How a grey sample of 16 bits becomes 8.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gray16 {
    Upper8,
    Clipped,
}

fn decode_raw(bytes: &[u8], limits: &Limits, gray16: Gray16) -> Result<(Header, Raw), Refused> {
    let Probed { header, details } = Probed::read(bytes, limits)?;
    let raw = guarded(|| match details {
        Details::Jpeg(details) => jpeg::decode(bytes, &header, &details, limits),
        Details::Png(details) => png::decode(bytes, &header, &details, gray16),
        Details::WebP => webp::decode(bytes, &header),
        Details::Gif(details) => gif::decode(bytes, &header, &details),
    })?;
    Ok((header, raw))
}

/// Runs a decoder that is not ours: what it panics over is a refused picture.
fn guarded<T>(decoder: impl FnOnce() -> Result<T, Refused>) -> Result<T, Refused> {
    catch_unwind(AssertUnwindSafe(decoder)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        Err(Refused::new("decoder_panic", text))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_refused_picture() {
        let refused = guarded::<()>(|| panic!("index {} out of bounds", 7)).unwrap_err();
        assert_eq!(refused, Refused::new("decoder_panic", "index 7 out of bounds"));
    }

    #[test]
    fn transparency_shows_white_and_hides_nothing_from_rgb_first() {
        let raw = || Raw::from_rgba(3, 1, &[10, 20, 30, 0, 10, 20, 30, 255, 10, 20, 31, 128]);
        assert_eq!(raw().picture.rgb, [10, 20, 30, 10, 20, 30, 10, 20, 31]);
        assert_eq!(raw().on_white().rgb, [255, 255, 255, 10, 20, 30, 132, 137, 143]);
    }
}
