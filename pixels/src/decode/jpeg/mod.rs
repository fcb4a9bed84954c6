//! JPEG in strict mode: a truncated file is an error, not a grey rest.
//!
//! Files of one sequential scan, which most photographs are, are decoded here, with the integer
//! arithmetic of libjpeg's defaults (its accurate inverse DCT, its triangle filter over chroma, its
//! rounding of colours): pixels are those of libjpeg-turbo, and so Pillow's and OpenCV's, on every
//! CPU. Every other file, and every file with anything wrong in it, is zune-jpeg's to decode or to
//! refuse.

mod colour;
mod file;
mod foreign;
mod huffman;
mod idct;
mod lanes;
mod sequential;

use pulp::{Arch, Simd, WithSimd};

use super::Raw;
use crate::probe::jpeg::{Colours, Details};
use crate::{Header, Limits, Picture, Refused};
use file::File;
use lanes::Plain;
use sequential::Pixels;

/// Decodes to RGB; grey is spread, CMYK and YCCK become `(255 - C)(255 - K) / 255` under Adobe's
/// inversion, as PIL reads them.
pub(super) fn decode(
    bytes: &[u8],
    header: &Header,
    details: &Details,
    limits: &Limits,
) -> Result<Raw, Refused> {
    if !details.ended {
        return Err(Refused::new("truncated", "no end marker"));
    }
    if !details.plausible {
        return Err(Refused::new("truncated", "less than a bit for each block"));
    }
    let clean = clean(bytes, details);
    let (width, height) = (header.width, header.height);
    let rgb = match here(&clean, header, details, 8) {
        Some(pixels) => pixels.rgb,
        None => foreign::decode(&clean, header, limits)?,
    };
    Ok(Raw { picture: Picture { width, height, rgb }, alpha: None })
}

/// Decodes what is decoded here; a block of luma becomes `side` x `side` pixels.
fn here(clean: &[u8], header: &Header, details: &Details, side: usize) -> Option<Pixels> {
    if !matches!(details.colours, Colours::Gray | Colours::YCbCr) {
        return None;
    }
    let file = File::read(clean)?;
    if (file.width, file.height) != (header.width as usize, header.height as usize) {
        return None;
    }
    Job { file: &file, side }.dispatch()
}

/// The same code for every instruction set: the dispatch lets the compiler use wider ones.
struct Job<'a> {
    file: &'a File,
    side: usize,
}

impl Job<'_> {
    fn dispatch(self) -> Option<Pixels> {
        #[cfg(target_arch = "x86_64")]
        if let Some(v3) = pulp::x86::V3::try_new() {
            return v3.vectorize(
                #[inline(always)]
                || sequential::decode(v3, self.file, self.side),
            );
        }
        Arch::new().dispatch(self)
    }
}

impl WithSimd for Job<'_> {
    type Output = Option<Pixels>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> Self::Output {
        sequential::decode(Plain, self.file, self.side)
    }
}

/// The file without metadata and stray bytes, which a strict decoder would stumble over or store:
/// tables, headers and coded data, and the one Adobe segment that says what the components mean.
fn clean(bytes: &[u8], details: &Details) -> Vec<u8> {
    let length: usize = details.parts.iter().map(std::ops::Range::len).sum();
    let mut clean = Vec::with_capacity(length + 20);
    clean.extend(b"\xff\xd8");
    let transform = match details.colours {
        Colours::Gray | Colours::YCbCr => None,
        Colours::Rgb | Colours::Cmyk => Some(0),
        Colours::Ycck => Some(2),
    };
    if let Some(transform) = transform {
        clean.extend(b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0");
        clean.push(transform);
    }
    for part in &details.parts {
        clean.extend(&bytes[part.clone()]);
    }
    clean.extend(b"\xff\xd9");
    clean
}
