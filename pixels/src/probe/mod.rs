//! Reads headers only: format by magic bytes, size, orientation, and what would make decoding
//! dear. Nothing is allocated and nothing is inflated here.

pub(crate) mod exif;
pub(crate) mod gif;
pub(crate) mod jpeg;
pub(crate) mod png;
pub(crate) mod webp;

use crate::{Limits, Refused};

/// Formats that are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Baseline or progressive Huffman JPEG of 8 bits a sample.
    Jpeg,
    /// PNG; of an animated one the default picture.
    Png,
    /// WebP, lossy or lossless; of an animated one the first frame.
    WebP,
    /// GIF; the first frame.
    Gif,
}

impl Format {
    /// Tells the format by its first bytes; names and content types are not asked.
    #[must_use]
    pub fn sniff(bytes: &[u8]) -> Option<Self> {
        if bytes.starts_with(b"\xff\xd8\xff") {
            Some(Self::Jpeg)
        } else if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
            Some(Self::Png)
        } else if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
            Some(Self::WebP)
        } else if bytes.starts_with(b"GIF87a") || bytes.starts_with(b"GIF89a") {
            Some(Self::Gif)
        } else {
            None
        }
    }

    /// The usual file name extension: `jpg`, `png`, `webp`, `gif`.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::Jpeg => "jpg",
            Self::Png => "png",
            Self::WebP => "webp",
            Self::Gif => "gif",
        }
    }
}

/// What the header says, before any decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The format, by magic bytes.
    pub format: Format,
    /// Pixels in a stored row, before the orientation is applied.
    pub width: u32,
    /// Stored rows.
    pub height: u32,
    /// EXIF orientation, 1..=8; 1 where there is none.
    pub orientation: u8,
}

impl Header {
    /// Width and height as a viewer shows the picture.
    #[must_use]
    pub fn upright_size(&self) -> (u32, u32) {
        if self.orientation >= 5 { (self.height, self.width) } else { (self.width, self.height) }
    }
}

/// Reads the header and holds it to the caps.
///
/// # Errors
/// Every reason of [`Refused`] that shows without decoding.
pub fn probe(bytes: &[u8], limits: &Limits) -> Result<Header, Refused> {
    Probed::read(bytes, limits).map(|probed| probed.header)
}

/// A header with what its decoder wants to know besides.
pub(crate) struct Probed {
    pub(crate) header: Header,
    pub(crate) details: Details,
}

pub(crate) enum Details {
    Jpeg(jpeg::Details),
    Png(png::Details),
    WebP,
    Gif(gif::Details),
}

impl Probed {
    pub(crate) fn read(bytes: &[u8], limits: &Limits) -> Result<Self, Refused> {
        if bytes.is_empty() {
            return Err(Refused::new("empty", ""));
        }
        let Some(format) = Format::sniff(bytes) else {
            return Err(Refused::new("unsupported_format", first_bytes(bytes)));
        };
        let probed = match format {
            Format::Jpeg => jpeg::read(bytes, limits)?,
            Format::Png => png::read(bytes)?,
            Format::WebP => webp::read(bytes)?,
            Format::Gif => gif::read(bytes)?,
        };
        limits.check_size(probed.header.width, probed.header.height)?;
        Ok(probed)
    }
}

fn first_bytes(bytes: &[u8]) -> String {
    format!("starts with {}", bytes[..bytes.len().min(8)].escape_ascii())
}

/// Two bytes, most significant first, if they are there.
pub(crate) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// Four bytes, most significant first.
pub(crate) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// Two bytes, least significant first.
pub(crate) fn le16(bytes: &[u8], at: usize) -> Option<u16> {
    be16(bytes, at).map(u16::swap_bytes)
}

/// Four bytes, least significant first.
pub(crate) fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    be32(bytes, at).map(u32::swap_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(bytes: &[u8]) -> &'static str {
        probe(bytes, &Limits::default()).unwrap_err().reason
    }

    #[test]
    fn only_magic_bytes_decide() {
        assert_eq!(reason(b""), "empty");
        assert_eq!(reason(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "unsupported_format");
        assert_eq!(reason(b"<!DOCTYPE html>"), "unsupported_format");
        assert_eq!(reason(b"BM\x9a\0\0\0"), "unsupported_format");
        assert_eq!(reason(b"II*\0\x08\0\0\0"), "unsupported_format");
        assert_eq!(reason(b"\0\0\0\x1cftypavif"), "unsupported_format");
        assert_eq!(reason(b"RIFF\x04\0\0\0WAVE"), "unsupported_format");
        assert_eq!(reason(b"PK\x03\x04"), "unsupported_format");
    }

    #[test]
    fn magic_bytes_alone_are_a_truncated_picture() {
        for magic in [
            &b"\xff\xd8\xff"[..],
            b"\x89PNG\r\n\x1a\n",
            b"RIFF\xff\xff\xff\xffWEBP",
            b"GIF89a",
            b"GIF89a\x10\0\x10\0",
        ] {
            assert_eq!(reason(magic), "truncated", "{}", magic.escape_ascii());
        }
    }
}
