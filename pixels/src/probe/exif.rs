//! The one EXIF value that matters: the orientation.

use super::{be16, be32, le16, le32};

/// Most entries of the first directory that are looked at; cameras write about fifteen.
const MAX_ENTRIES: usize = 256;
const ORIENTATION: u16 = 0x0112;
const SHORT: u16 = 3;

/// The orientation (1..=8) in a TIFF structure, with or without the `Exif\0\0` in front; 1 where
/// there is none or it is broken.
///
/// Source: TIFF 6.0, section 2: byte order, 42, offset of the first directory; a directory is a
/// count and 12-byte entries (tag, type, count, value).
pub(crate) fn orientation(bytes: &[u8]) -> u8 {
    let tiff = bytes.strip_prefix(b"Exif\0\0").unwrap_or(bytes);
    find(tiff).filter(|value| (1..=8).contains(value)).unwrap_or(1)
}

type ReadAt<T> = fn(&[u8], usize) -> Option<T>;

fn find(tiff: &[u8]) -> Option<u8> {
    let (read16, read32): (ReadAt<u16>, ReadAt<u32>) = match tiff.get(..4)? {
        b"II*\0" => (le16, le32),
        b"MM\0*" => (be16, be32),
        _ => return None,
    };
    let directory = usize::try_from(read32(tiff, 4)?).ok()?;
    let entries = usize::from(read16(tiff, directory)?).min(MAX_ENTRIES);
    for entry in 0..entries {
        let at = directory.checked_add(2 + entry * 12)?;
        if read16(tiff, at)? == ORIENTATION {
            let short = read16(tiff, at + 2)? == SHORT && read32(tiff, at + 4)? == 1;
            return if short { u8::try_from(read16(tiff, at + 8)?).ok() } else { None };
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_byte_orders_are_read() {
        let little = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0";
        let big = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x08\0\0";
        assert_eq!(orientation(little), 6);
        assert_eq!(orientation(big), 8);
    }

    #[test]
    fn every_shorter_or_pointless_structure_means_upright() {
        let little = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0";
        for end in 0..20 {
            assert_eq!(orientation(&little[..end.min(18)]), 1);
        }
        assert_eq!(orientation(b"II*\0\xff\xff\xff\xff"), 1);
        assert_eq!(orientation(b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0"), 1);
        assert_eq!(orientation(b"II*\0\x08\0\0\0\x01\0\x12\x01\x04\0\x01\0\0\0\x06\0\0\0"), 1);
    }
}
