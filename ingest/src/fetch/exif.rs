//! EXIF as a JSON object in one string, for img2dataset's column `exif`.
//!
//! Names are those of the Python package exifread, which img2dataset uses: `Image Make`,
//! `EXIF ISOSpeedRatings`. We differ in three ways. Places (the whole GPS directory) are left out:
//! where somebody was when a picture was made is personal. Numbers stay numbers where exifread has
//! words for them. Maker's notes, thumbnails and undefined blobs are left out, too.
//!
//! Source of the layout: Exif 2.3 (CIPA DC-008), TIFF 6.0.

use serde_json::{Map, Value};

/// The tags of a downloaded picture as a JSON object, `{}` where there are none. Broken EXIF gives
/// what could be read.
pub(super) fn read(bytes: &[u8]) -> String {
    let mut tags = Map::new();
    if let Some(tiff) = block(bytes).and_then(Tiff::new) {
        let first = tiff.u32(4).map(|at| at as usize);
        let exif = first.and_then(|at| tiff.directory(at, "Image", &mut tags));
        if let Some(at) = exif {
            tiff.directory(at, "EXIF", &mut tags);
        }
    }
    Value::Object(tags).to_string()
}

/// The TIFF structure inside a JPEG, PNG or WebP.
fn block(bytes: &[u8]) -> Option<&[u8]> {
    if bytes.starts_with(b"\xff\xd8") {
        return jpeg(bytes);
    }
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        return chunks(bytes, 8, true, *b"eXIf", 4);
    }
    if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        let block = chunks(bytes, 12, false, *b"EXIF", 0)?;
        return Some(block.strip_prefix(b"Exif\0\0").unwrap_or(block));
    }
    None
}

fn jpeg(bytes: &[u8]) -> Option<&[u8]> {
    let mut at = 2;
    loop {
        let &[0xff, marker, high, low] = bytes.get(at..at + 4)? else { return None };
        let length = usize::from(u16::from_be_bytes([high, low]));
        match marker {
            0xff => at += 1, // fill byte
            0xda | 0xd9 => return None,
            _ => {
                let body = bytes.get(at + 4..at + 2 + length)?;
                if let (0xe1, Some(tiff)) = (marker, body.strip_prefix(b"Exif\0\0")) {
                    return Some(tiff);
                }
                at += 2 + length;
            }
        }
    }
}

/// The body of a named chunk in PNG (length, name, body, checksum) or RIFF (name, length, body,
/// padded to even).
fn chunks(bytes: &[u8], mut at: usize, png: bool, wanted: [u8; 4], tail: usize) -> Option<&[u8]> {
    loop {
        let (a, b) = (bytes.get(at..at + 4)?, bytes.get(at + 4..at + 8)?);
        let (name, length) = if png {
            (b, u32::from_be_bytes(a.try_into().ok()?))
        } else {
            (a, u32::from_le_bytes(b.try_into().ok()?))
        };
        let length = length as usize;
        if name == wanted {
            return bytes.get(at + 8..(at + 8).checked_add(length)?);
        }
        let padding = if png { 0 } else { length & 1 };
        at = at.checked_add(8 + length + padding + tail)?;
    }
}

/// Directory entries that are read, at most; the standard knows about a hundred.
const MOST_ENTRIES: u16 = 256;
/// Characters and numbers of one value that are kept.
const MOST_TEXT: usize = 200;
const MOST_NUMBERS: usize = 16;

struct Tiff<'a> {
    bytes: &'a [u8],
    little: bool,
}

impl<'a> Tiff<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        match bytes.get(..4)? {
            b"II*\0" => Some(Self { bytes, little: true }),
            b"MM\0*" => Some(Self { bytes, little: false }),
            _ => None,
        }
    }

    fn u16(&self, at: usize) -> Option<u16> {
        let two = self.bytes.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if self.little { u16::from_le_bytes(two) } else { u16::from_be_bytes(two) })
    }

    fn u32(&self, at: usize) -> Option<u32> {
        let four = self.bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if self.little { u32::from_le_bytes(four) } else { u32::from_be_bytes(four) })
    }

    /// Reads the tags of a directory, and gives the place of the EXIF directory if it names one.
    fn directory(&self, at: usize, group: &str, tags: &mut Map<String, Value>) -> Option<usize> {
        let mut exif = None;
        for entry in 0..self.u16(at)?.min(MOST_ENTRIES) {
            let at = at + 2 + 12 * usize::from(entry);
            let Some(tag) = self.u16(at) else { break };
            match tag {
                0x8769 => exif = self.u32(at + 8).map(|at| at as usize),
                0x8825 | 0x927c | 0xa005 => {} // places, maker's notes, interoperability
                _ => {
                    if let Some(text) = self.value(at) {
                        let name = name(tag).map_or_else(|| format!("Tag 0x{tag:04X}"), Into::into);
                        tags.insert(format!("{group} {name}"), Value::String(text));
                    }
                }
            }
        }
        exif
    }

    /// A value as text, as exifread prints it.
    fn value(&self, entry: usize) -> Option<String> {
        let (kind, count) = (self.u16(entry + 2)?, self.u32(entry + 4)? as usize);
        let size = match kind {
            1 | 2 | 6 => 1,
            3 | 8 => 2,
            4 | 9 => 4,
            5 | 10 => 8,
            _ => return None,
        };
        let length = count.checked_mul(size)?;
        let at = if length <= 4 { entry + 8 } else { self.u32(entry + 8)? as usize };
        let raw = self.bytes.get(at..at.checked_add(length)?)?;
        if kind == 2 {
            let text = raw.split(|b| *b == 0).next().unwrap_or_default();
            let text = String::from_utf8_lossy(&text[..text.len().min(4 * MOST_TEXT)]);
            let shown = text.trim().chars().filter(|c| !c.is_control()).take(MOST_TEXT);
            return Some(shown.collect());
        }
        let number = |i: usize| {
            let at = at + i * size;
            Some(match kind {
                1 => raw[i].to_string(),
                6 => (raw[i] as i8).to_string(),
                3 => self.u16(at)?.to_string(),
                8 => (self.u16(at)? as i16).to_string(),
                4 => self.u32(at)?.to_string(),
                9 => (self.u32(at)? as i32).to_string(),
                5 => ratio(i64::from(self.u32(at)?), i64::from(self.u32(at + 4)?)),
                _ => {
                    let (a, b) = (self.u32(at)? as i32, self.u32(at + 4)? as i32);
                    ratio(i64::from(a), i64::from(b))
                }
            })
        };
        let numbers: Vec<String> =
            (0..count.min(MOST_NUMBERS)).map(number).collect::<Option<_>>()?;
        match numbers.as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            many => Some(format!("[{}]", many.join(", "))),
        }
    }
}

/// `1/60`, in lowest terms; a whole number without its 1.
fn ratio(over: i64, under: i64) -> String {
    let (mut a, mut b) = (over.unsigned_abs(), under.unsigned_abs());
    while b != 0 {
        (a, b) = (b, a % b);
    }
    let common = (a as i64).max(1);
    match (over / common, under / common) {
        (over, 1) => over.to_string(),
        (over, under) => format!("{over}/{under}"),
    }
}

fn name(tag: u16) -> Option<&'static str> {
    Some(match tag {
        0x0100 => "ImageWidth",
        0x0101 => "ImageLength",
        0x0102 => "BitsPerSample",
        0x0103 => "Compression",
        0x0106 => "PhotometricInterpretation",
        0x010e => "ImageDescription",
        0x010f => "Make",
        0x0110 => "Model",
        0x0112 => "Orientation",
        0x0115 => "SamplesPerPixel",
        0x011a => "XResolution",
        0x011b => "YResolution",
        0x0128 => "ResolutionUnit",
        0x0131 => "Software",
        0x0132 => "DateTime",
        0x013b => "Artist",
        0x013e => "WhitePoint",
        0x013f => "PrimaryChromaticities",
        0x0211 => "YCbCrCoefficients",
        0x0213 => "YCbCrPositioning",
        0x0214 => "ReferenceBlackWhite",
        0x4746 => "Rating",
        0x8298 => "Copyright",
        0x829a => "ExposureTime",
        0x829d => "FNumber",
        0x8822 => "ExposureProgram",
        0x8827 => "ISOSpeedRatings",
        0x9003 => "DateTimeOriginal",
        0x9004 => "DateTimeDigitized",
        0x9102 => "CompressedBitsPerPixel",
        0x9201 => "ShutterSpeedValue",
        0x9202 => "ApertureValue",
        0x9203 => "BrightnessValue",
        0x9204 => "ExposureBiasValue",
        0x9205 => "MaxApertureValue",
        0x9206 => "SubjectDistance",
        0x9207 => "MeteringMode",
        0x9208 => "LightSource",
        0x9209 => "Flash",
        0x920a => "FocalLength",
        0x9214 => "SubjectArea",
        0x9290 => "SubSecTime",
        0x9291 => "SubSecTimeOriginal",
        0x9292 => "SubSecTimeDigitized",
        0xa001 => "ColorSpace",
        0xa002 => "ExifImageWidth",
        0xa003 => "ExifImageLength",
        0xa20e => "FocalPlaneXResolution",
        0xa20f => "FocalPlaneYResolution",
        0xa210 => "FocalPlaneResolutionUnit",
        0xa215 => "ExposureIndex",
        0xa217 => "SensingMethod",
        0xa401 => "CustomRendered",
        0xa402 => "ExposureMode",
        0xa403 => "WhiteBalance",
        0xa404 => "DigitalZoomRatio",
        0xa405 => "FocalLengthIn35mmFilm",
        0xa406 => "SceneCaptureType",
        0xa407 => "GainControl",
        0xa408 => "Contrast",
        0xa409 => "Saturation",
        0xa40a => "Sharpness",
        0xa40c => "SubjectDistanceRange",
        0xa432 => "LensSpecification",
        0xa433 => "LensMake",
        0xa434 => "LensModel",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One directory of these entries: tag, type, count, value or offset.
    fn directory(entries: &[(u16, u16, u32, u32)]) -> Vec<u8> {
        let mut out = (entries.len() as u16).to_le_bytes().to_vec();
        for (tag, kind, count, value) in entries {
            out.extend(tag.to_le_bytes());
            out.extend(kind.to_le_bytes());
            out.extend(count.to_le_bytes());
            out.extend(value.to_le_bytes());
        }
        out.extend([0; 4]);
        out
    }

    /// Make `Acme`, orientation 6, a place, and in the EXIF directory an exposure of 10/600 s.
    fn tiff() -> Vec<u8> {
        let mut out = b"II*\0\x08\0\0\0".to_vec();
        out.extend(directory(&[
            (0x010f, 2, 5, 62),
            (0x0112, 3, 1, 6),
            (0x8769, 4, 1, 75),
            (0x8825, 4, 1, 8),
        ]));
        assert_eq!(out.len(), 62);
        out.extend(b"Acme\0");
        out.extend([10, 0, 0, 0, 88, 2, 0, 0]);
        assert_eq!(out.len(), 75);
        out.extend(directory(&[(0x829a, 5, 1, 67), (0x8827, 3, 2, 200 * 65_536 + 100)]));
        out
    }

    const TAGS: &str = r#"{"Image Make":"Acme","Image Orientation":"6","EXIF ExposureTime":"1/60","EXIF ISOSpeedRatings":"[100, 200]"}"#;

    #[test]
    fn tags_of_all_containers_are_read_and_places_left_out() {
        let tiff = tiff();
        let app1 = [&b"Exif\0\0"[..], &tiff].concat();
        let length = ((app1.len() + 2) as u16).to_be_bytes();
        let jpeg = [&b"\xff\xd8\xff\xe0\0\x04ab\xff\xe1"[..], &length, &app1, b"\xff\xda"].concat();
        assert_eq!(read(&jpeg), TAGS);
        let length = (tiff.len() as u32).to_be_bytes();
        let png = [&b"\x89PNG\r\n\x1a\n\0\0\0\x01IHDRx1234"[..], &length, b"eXIf", &tiff].concat();
        assert_eq!(read(&png), TAGS);
        let length = (tiff.len() as u32).to_le_bytes();
        let webp = [&b"RIFF\0\0\0\0WEBPVP8X\x01\0\0\0x\0EXIF"[..], &length, &tiff].concat();
        assert_eq!(read(&webp), TAGS);
    }

    #[test]
    fn pictures_without_exif_and_broken_exif_give_what_there_is() {
        assert_eq!(read(b""), "{}");
        assert_eq!(read(b"\xff\xd8\xff\xda"), "{}");
        assert_eq!(read(b"GIF89a"), "{}");
        let whole = [&b"\xff\xd8\xff\xe1\x00\x80Exif\0\0"[..], &tiff()].concat();
        for end in 0..whole.len() {
            read(&whole[..end]); // never panics
        }
        // A directory that points at itself is read once more and no deeper.
        let mut circle = b"MM\0*\0\0\0\x08\0\x01".to_vec();
        circle.extend(b"\x87\x69\0\x04\0\0\0\x01\0\0\0\x08");
        let png =
            [&b"\x89PNG\r\n\x1a\n"[..], &(circle.len() as u32).to_be_bytes(), b"eXIf", &circle];
        assert_eq!(read(&png.concat()), "{}");
    }

    #[test]
    fn ratios_are_in_lowest_terms() {
        assert_eq!([ratio(10, 600), ratio(72, 1), ratio(-3, 6)], ["1/60", "72", "-1/2"]);
        assert_eq!([ratio(1, 0), ratio(0, 0), ratio(0, 5)], ["1/0", "0/0", "0"]);
    }
}
