//! GIF headers: the logical screen and the first frame's place on it (GIF89a specification,
//! sections 18 to 23).

use std::ops::Range;

use super::{Format, Header, Probed, le16};
use crate::Refused;

/// The first frame: where it lies on the screen and where its data are.
pub(crate) struct Details {
    pub(crate) left: u32,
    pub(crate) top: u32,
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) interlaced: bool,
    /// The colour index that shows what is behind.
    pub(crate) transparent: Option<u8>,
    /// The bytes of the palette, three a colour; empty where there is none.
    pub(crate) palette: Range<usize>,
    /// Where the frame's code size stands, followed by its data.
    pub(crate) data: usize,
}

/// Walks to the first frame. The size is the screen's, widened to hold the frame, as Pillow does.
pub(crate) fn read(bytes: &[u8]) -> Result<Probed, Refused> {
    let byte = |at: usize| bytes.get(at).copied().ok_or_else(truncated);
    let side = |at: usize| le16(bytes, at).map(u32::from).ok_or_else(truncated);
    let (screen_width, screen_height) = (side(6)?, side(8)?);
    let global = palette(byte(10)?, 13);
    let mut at = global.end;
    let mut transparent = None;
    loop {
        match byte(at)? {
            b'!' => {
                // A graphic control extension: size 4, flags, delay (2 bytes), index.
                if byte(at + 1)? == 0xf9 && byte(at + 2)? == 4 {
                    let shows_through = byte(at + 3)? & 1 == 1;
                    transparent = if shows_through { Some(byte(at + 6)?) } else { None };
                }
                at = skip_blocks(bytes, at + 2)?;
            }
            b',' => break,
            b';' => return Err(Refused::new("broken", "no frame")),
            // Stray bytes between blocks are stepped over, as browsers do.
            _ => at += 1,
        }
    }
    let flags = byte(at + 9)?;
    let local = palette(flags, at + 10);
    let details = Details {
        left: side(at + 1)?,
        top: side(at + 3)?,
        width: side(at + 5)?,
        height: side(at + 7)?,
        interlaced: flags & 0x40 != 0,
        transparent,
        data: local.end,
        palette: if local.is_empty() { global } else { local },
    };
    if details.palette.end > bytes.len() {
        return Err(truncated());
    }
    if details.width == 0 || details.height == 0 {
        return Err(Refused::new("zero_size", "the first frame"));
    }
    let header = Header {
        format: Format::Gif,
        width: screen_width.max(details.left + details.width),
        height: screen_height.max(details.top + details.height),
        orientation: 1,
    };
    Ok(Probed { header, details: super::Details::Gif(details) })
}

fn truncated() -> Refused {
    Refused::new("truncated", "before the first frame")
}

/// A palette at `start`, if the flags say there is one.
fn palette(flags: u8, start: usize) -> Range<usize> {
    let colours = if flags & 0x80 == 0 { 0 } else { 2_usize << (flags & 7) };
    start..start + colours * 3
}

/// The place behind a chain of sub-blocks, which a block of length 0 ends.
fn skip_blocks(bytes: &[u8], mut at: usize) -> Result<usize, Refused> {
    loop {
        let length = usize::from(*bytes.get(at).ok_or_else(truncated)?);
        at += 1 + length;
        if length == 0 {
            return Ok(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_is_found_behind_extensions_and_widens_the_screen() {
        let mut bytes = b"GIF89a\x02\0\x02\0\x80\0\0abcdef".to_vec();
        bytes.extend(b"!\xfe\x02hi\0!\xf9\x04\x01\0\0\x01\0");
        bytes.extend(b",\x01\0\x02\0\x03\0\x01\0\x40\x02\0");
        let probed = read(&bytes).unwrap();
        assert_eq!((probed.header.width, probed.header.height), (4, 3));
        let super::super::Details::Gif(details) = probed.details else { panic!() };
        assert_eq!(details.transparent, Some(1));
        assert_eq!(&bytes[details.palette], b"abcdef");
        assert_eq!(bytes[details.data], 2);
        assert!(details.interlaced);
    }

    #[test]
    fn every_prefix_is_truncated() {
        let bytes = b"GIF89a\x02\0\x02\0\x80\0\0abcdef!\xfe\x02hi\0,\x01\0\x02\0\x03\0\x01\0\x40";
        for end in 6..bytes.len() {
            let refused = read(&bytes[..end]).err().unwrap();
            assert_eq!(refused.reason, "truncated", "{end}");
        }
    }
}
