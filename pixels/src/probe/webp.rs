//! WebP headers: RIFF chunks (RFC 9649).

use super::{Details, Format, Header, Probed, exif, le16, le32};
use crate::Refused;

/// Reads the first frame's size or the canvas, and an `EXIF` chunk.
pub(crate) fn read(bytes: &[u8]) -> Result<Probed, Refused> {
    let truncated = || Refused::new("truncated", "in the first chunk");
    let kind = bytes.get(12..16).ok_or_else(truncated)?;
    let body = bytes.get(20..).unwrap_or_default();
    let mut orientation = 1;
    let (width, height) = match kind {
        b"VP8 " => lossy_size(body)?,
        b"VP8L" => lossless_size(body)?,
        b"VP8X" => {
            let canvas = body.get(..10).ok_or_else(truncated)?;
            let side =
                |at: usize| u32::from_le_bytes([canvas[at], canvas[at + 1], canvas[at + 2], 0]) + 1;
            if let Some(segment) = find_chunk(bytes, *b"EXIF") {
                orientation = exif::orientation(segment);
            }
            (side(4), side(7))
        }
        _ => return Err(Refused::new("broken", format!("first chunk {}", kind.escape_ascii()))),
    };
    let header = Header { format: Format::WebP, width, height, orientation };
    Ok(Probed { header, details: Details::WebP })
}

/// RFC 6386, 9.1: three bytes of frame tag, the start code, then 14 bits a side.
fn lossy_size(body: &[u8]) -> Result<(u32, u32), Refused> {
    let truncated = || Refused::new("truncated", "in the frame header");
    let tag = *body.first().ok_or_else(truncated)?;
    if tag & 1 != 0 {
        return Err(Refused::new("broken", "the frame is not a key frame"));
    }
    if body.get(3..6).ok_or_else(truncated)? != b"\x9d\x01\x2a" {
        return Err(Refused::new("broken", "start code"));
    }
    let side = |at| le16(body, at).map(|value| u32::from(value & 0x3fff)).ok_or_else(truncated);
    Ok((side(6)?, side(8)?))
}

/// RFC 9649, 3.4: signature, then 14 bits a side less one.
fn lossless_size(body: &[u8]) -> Result<(u32, u32), Refused> {
    let truncated = || Refused::new("truncated", "in the frame header");
    if *body.first().ok_or_else(truncated)? != 0x2f {
        return Err(Refused::new("broken", "lossless signature"));
    }
    let bits = le32(body, 1).ok_or_else(truncated)?;
    Ok(((bits & 0x3fff) + 1, ((bits >> 14) & 0x3fff) + 1))
}

fn find_chunk(bytes: &[u8], wanted: [u8; 4]) -> Option<&[u8]> {
    let mut at = 12_usize;
    loop {
        let kind = bytes.get(at..at.checked_add(4)?)?;
        let length = usize::try_from(le32(bytes, at + 4)?).ok()?;
        let start = at + 8;
        let end = start.checked_add(length)?;
        if kind == wanted {
            return bytes.get(start..end);
        }
        // Chunks begin at even offsets.
        at = end.checked_add(length % 2)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(chunks: &[u8]) -> Vec<u8> {
        [b"RIFF\0\0\0\0WEBP", chunks].concat()
    }

    fn size(chunks: &[u8]) -> (u32, u32, u8) {
        let header = read(&file(chunks)).unwrap().header;
        (header.width, header.height, header.orientation)
    }

    #[test]
    fn the_three_first_chunks_give_their_sizes() {
        assert_eq!(size(b"VP8 \x0a\0\0\0\0\0\0\x9d\x01\x2a\x80\x00\x40\x40"), (128, 64, 1));
        assert_eq!(size(b"VP8L\x05\0\0\0\x2f\x07\xc0\x00\x00"), (8, 4, 1));
        let extended = b"VP8X\x0a\0\0\0\x08\0\0\0\xff\x01\0\x07\0\0\
            EXIF\x14\0\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0";
        assert_eq!(size(extended), (512, 8, 6));
    }

    #[test]
    fn an_endless_chunk_chain_ends() {
        assert_eq!(find_chunk(&file(b"VP8X\xff\xff\xff\xff"), *b"EXIF"), None);
        assert_eq!(find_chunk(&file(&b"JUNK\0\0\0\0".repeat(1000)), *b"EXIF"), None);
    }
}
