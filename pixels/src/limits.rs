//! Caps on pictures from outside, and the words in which a picture is refused.

use std::fmt;

/// Caps that hold before anything is allocated for pixels.
///
/// [`Default`] gives 16,384 pixels a side, 40 megapixels, aspect 20, 20 JPEG scans.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Longest side, in pixels.
    pub max_side: u32,
    /// Largest area, in pixels.
    pub max_pixels: u64,
    /// Longer side over shorter side, at least 1.
    pub max_aspect: f64,
    /// Most scans of a JPEG. An ordinary progressive file has about 10.
    pub max_scans: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_side: 16_384, max_pixels: 40_000_000, max_aspect: 20.0, max_scans: 20 }
    }
}

impl Limits {
    /// Holds a declared size to the caps.
    ///
    /// # Errors
    /// `zero_size`, `side_too_large`, `too_many_pixels`, `aspect_too_large`.
    pub fn check_size(&self, width: u32, height: u32) -> Result<(), Refused> {
        let (long, short) = (width.max(height), width.min(height));
        let size = format!("{width}x{height}");
        if short == 0 {
            return Err(Refused::new("zero_size", size));
        }
        if long > self.max_side {
            return Err(Refused::new("side_too_large", format!("{size}, limit {}", self.max_side)));
        }
        if u64::from(width) * u64::from(height) > self.max_pixels {
            let detail = format!("{size}, limit {} pixels", self.max_pixels);
            return Err(Refused::new("too_many_pixels", detail));
        }
        if f64::from(long) > self.max_aspect * f64::from(short) {
            let detail = format!("{size}, limit {}", self.max_aspect);
            return Err(Refused::new("aspect_too_large", detail));
        }
        Ok(())
    }
}

/// Why a picture is refused.
///
/// | reason | meaning |
/// | --- | --- |
/// | `empty` | no bytes |
/// | `unsupported_format` | the first bytes are not those of JPEG, PNG, WebP or GIF |
/// | `jpeg_arithmetic`, `jpeg_lossless`, `jpeg_hierarchical`, `jpeg_precision` | a kind of JPEG that is not read (precision: not 8 bits a sample) |
/// | `jpeg_dnl` | the height of a JPEG stands after its first scan |
/// | `zero_size`, `side_too_large`, `too_many_pixels`, `aspect_too_large` | [`Limits::check_size`] |
/// | `too_many_scans` | more scans, or more scans times pixels, than an honest JPEG has |
/// | `truncated` | the file ends before its picture does |
/// | `broken` | anything else that breaks the format's rules |
/// | `decoder_panic` | a decoder gave up in a way it must not; the process goes on |
/// | `output_too_large` | the picture asked for would be larger than [`crate::img2dataset::MAX_OUTPUT_PIXELS`] |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// One stable snake_case word.
    pub reason: &'static str,
    /// What exactly, with figures; for people.
    pub detail: String,
}

impl Refused {
    /// A refusal.
    pub fn new(reason: &'static str, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.detail.is_empty() {
            f.write_str(self.reason)
        } else {
            write!(f, "{}: {}", self.reason, self.detail)
        }
    }
}

impl std::error::Error for Refused {}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(width: u32, height: u32) -> Option<&'static str> {
        Limits::default().check_size(width, height).err().map(|refused| refused.reason)
    }

    #[test]
    fn caps_admit_their_own_value_and_refuse_the_next() {
        assert_eq!(reason(16_384, 2_441), None);
        assert_eq!(reason(16_385, 2_000), Some("side_too_large"));
        assert_eq!(reason(8_000, 5_000), None);
        assert_eq!(reason(8_000, 5_001), Some("too_many_pixels"));
        assert_eq!(reason(2_000, 100), None);
        assert_eq!(reason(2_001, 100), Some("aspect_too_large"));
        assert_eq!(reason(0, 5), Some("zero_size"));
    }

    #[test]
    fn the_largest_declared_sizes_do_not_overflow() {
        let limits = Limits { max_side: u32::MAX, ..Limits::default() };
        assert_eq!(limits.check_size(u32::MAX, u32::MAX).unwrap_err().reason, "too_many_pixels");
    }
}
