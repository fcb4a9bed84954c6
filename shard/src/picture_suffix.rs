//! Which members are pictures, and which suffix a picture gets.

/// Suffixes of pictures, the preferred first (open_clip's `jpg;png;jpeg;webp`).
pub(crate) const PICTURES: [&str; 4] = ["jpg", "png", "jpeg", "webp"];

/// The suffix for these encoded bytes by their magic, where they are a JPEG, PNG or WebP.
pub(crate) fn suffix_of(picture: &[u8]) -> Option<&'static str> {
    if picture.starts_with(b"\xff\xd8\xff") {
        Some("jpg")
    } else if picture.starts_with(b"\x89PNG\r\n\x1a\n") {
        Some("png")
    } else if picture.starts_with(b"RIFF") && picture.get(8..12) == Some(b"WEBP") {
        Some("webp")
    } else {
        None
    }
}

/// Endings of pictures and films that a member may have beside the sample's own picture.
const OTHERS: [&str; 24] = [
    "jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "tif", "tiff", "avif",
    "heic", "heif", "jxl", "jp2", "ico", "ppm", "pgm", "psd", "mp4", "mov", "webm", "avi",
];
/// Endings behind which another one says what is inside.
const PACKED: [&str; 5] = ["gz", "bz2", "xz", "zst", "lz4"];

/// Whether a member of this suffix is called a picture: `orig.jpg`, `GIF`, `thumb.png.gz`.
pub(crate) fn is_called_picture(suffix: &str) -> bool {
    let mut parts = suffix.rsplit('.').map(str::to_ascii_lowercase);
    let last = parts.find(|part| !PACKED.contains(&&**part));
    last.is_some_and(|part| OTHERS.contains(&&*part))
}

/// Whether these bytes begin as a picture does, whatever their name.
pub(crate) fn is_picture(bytes: &[u8]) -> bool {
    let head = |at: usize, magic: &[u8]| bytes.get(at..).is_some_and(|b| b.starts_with(magic));
    // Text may begin with `BM` too; a bitmap goes on with its own length.
    let bitmap = head(0, b"BM")
        && bytes.get(2..6).and_then(|len| len.try_into().ok()).map(u32::from_le_bytes)
            == u32::try_from(bytes.len()).ok();
    suffix_of(bytes).is_some()
        || head(0, b"GIF8")
        || bitmap
        || head(0, b"II*\0")
        || head(0, b"MM\0*")
        || head(4, b"ftyp")
        || head(0, b"\xff\x0a")
        || head(4, b"JXL \r\n")
        || head(4, b"jP  \r\n")
        || head(0, b"8BPS")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_known_by_the_end_of_its_suffix_or_by_its_first_bytes() {
        for suffix in ["jpg", "orig.jpg", "GIF", "thumb.png.gz"] {
            assert!(is_called_picture(suffix), "{suffix}");
        }
        for suffix in ["json", "txt", "jpg.json", "gz", "", "cls"] {
            assert!(!is_called_picture(suffix), "{suffix}");
        }
        assert!(is_picture(b"GIF89a") && is_picture(b"\0\0\0\x1cftypavif"));
        assert!(is_picture(b"BM\x08\0\0\0..") && !is_picture(b"BMW, red") && !is_picture(b""));
    }

    #[test]
    fn the_suffix_follows_the_bytes_not_a_wish() {
        assert_eq!(suffix_of(b"\xff\xd8\xff\xe0"), Some("jpg"));
        assert_eq!(suffix_of(b"\x89PNG\r\n\x1a\n...."), Some("png"));
        assert_eq!(suffix_of(b"RIFF\x04\0\0\0WEBPVP8 "), Some("webp"));
        assert_eq!(suffix_of(b"GIF89a"), None);
    }
}
