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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suffix_follows_the_bytes_not_a_wish() {
        assert_eq!(suffix_of(b"\xff\xd8\xff\xe0"), Some("jpg"));
        assert_eq!(suffix_of(b"\x89PNG\r\n\x1a\n...."), Some("png"));
        assert_eq!(suffix_of(b"RIFF\x04\0\0\0WEBPVP8 "), Some("webp"));
        assert_eq!(suffix_of(b"GIF89a"), None);
    }
}
