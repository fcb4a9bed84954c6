//! Downloaded bytes to the picture that is written: hash, header, rules, decode, resize, encode.

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pixels::img2dataset::{Mode, resize};
use pixels::{
    Header, Limits, Picture, Refused, decode, encode_jpeg, encode_png, encode_webp, probe,
};
use sha2::{Digest as _, Sha256};

use super::budget::Decoding;
use super::opt_out::OptOutList;
use super::{EncodeFormat, FetchPlan, Reason, ResizeMode};

/// What became of one URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Hex, of the downloaded bytes.
    pub(super) sha256: Option<String>,
    pub(super) result: Result<Finished, Reason>,
}

/// A picture as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finished {
    pub(super) bytes: Vec<u8>,
    /// Width and height.
    pub(super) size: (u32, u32),
    /// Width and height as downloaded, upright.
    pub(super) original_size: (u32, u32),
}

impl Outcome {
    /// Nothing was downloaded.
    pub(super) fn refused(reason: Reason) -> Self {
        Self { sha256: None, result: Err(reason) }
    }

    /// Bytes that this outcome keeps in memory.
    pub(super) fn len(&self) -> usize {
        self.result.as_ref().map_or(0, |finished| finished.bytes.len())
    }
}

/// Makes the picture, or says why not. Never panics: a decoder's bug is one sample's failure.
pub(super) fn make(
    bytes: Vec<u8>,
    plan: &FetchPlan,
    opt_out: &OptOutList,
    gate: &Decoding,
) -> Outcome {
    let wanted = plan.compute_hash.is_some() || opt_out.wants_digests();
    let digest = wanted.then(|| hex(&Sha256::digest(&bytes)));
    let refused = digest.as_ref().is_some_and(|digest| opt_out.covers_digest(digest));
    let sha256 = digest.filter(|_| plan.compute_hash.is_some());
    if refused {
        return Outcome { sha256, result: Err(Reason::OptOut) };
    }
    let result = catch_unwind(AssertUnwindSafe(|| finish(bytes, plan, gate)))
        .unwrap_or(Err(Reason::DecoderPanic));
    Outcome { sha256, result }
}

fn finish(bytes: Vec<u8>, plan: &FetchPlan, gate: &Decoding) -> Result<Finished, Reason> {
    let limits = Limits::default();
    let header = probe(&bytes, &limits).map_err(|refused| name(&refused, &bytes))?;
    check_rules(&header, plan)?;
    // Decoded pixels, a resized copy, and about as much again inside the decoder.
    let pixels = u64::from(header.width) * u64::from(header.height);
    let _room = gate.enter(pixels.saturating_mul(8));
    let picture = decode(&bytes, &limits).map_err(|refused| name(&refused, &bytes))?;
    let original_size = (picture.width, picture.height);
    let unchanged = !is_resized(&picture, plan);
    if unchanged && plan.skip_reencode && is_container(&header, plan.encode_format) {
        return Ok(Finished { bytes, size: original_size, original_size });
    }
    drop(bytes);
    let picture = if unchanged {
        picture
    } else {
        resize(&picture, plan.image_size, mode(plan), plan.resize_only_if_bigger)
            .map_err(|refused| Reason::Picture(refused.reason))?
    };
    let size = (picture.width, picture.height);
    Ok(Finished { bytes: encode(&picture, plan)?, size, original_size })
}

/// img2dataset's size rules, on the header instead of after decoding.
fn check_rules(header: &Header, plan: &FetchPlan) -> Result<(), Reason> {
    let (long, short) = (header.width.max(header.height), header.width.min(header.height));
    if short < plan.min_image_size {
        return Err(Reason::ImageTooSmall);
    }
    let area = u64::from(long) * u64::from(short);
    if plan.max_image_area.is_some_and(|max| area > max) {
        return Err(Reason::ImageTooLarge);
    }
    if plan.max_aspect_ratio.is_some_and(|max| f64::from(long) / f64::from(short) > max) {
        return Err(Reason::AspectRatio);
    }
    Ok(())
}

/// Whether the resizer touches a picture: img2dataset's downscale test.
fn is_resized(picture: &Picture, plan: &FetchPlan) -> bool {
    let (width, height) = (picture.width, picture.height);
    let side = match plan.resize_mode {
        ResizeMode::No => return false,
        ResizeMode::KeepRatio | ResizeMode::CenterCrop => width.min(height),
        ResizeMode::KeepRatioLargest | ResizeMode::Border => width.max(height),
    };
    !plan.resize_only_if_bigger || side > plan.image_size
}

/// Whether the downloaded bytes are already what would be written. A turned picture is not: its
/// readers ignore the orientation.
fn is_container(header: &Header, format: EncodeFormat) -> bool {
    let extension = match format {
        EncodeFormat::Jpg => "jpg",
        EncodeFormat::Png => "png",
        EncodeFormat::Webp => "webp",
    };
    header.format.extension() == extension && header.orientation == 1
}

fn mode(plan: &FetchPlan) -> Mode {
    match plan.resize_mode {
        ResizeMode::Border => Mode::Border,
        ResizeMode::KeepRatio => Mode::KeepRatio,
        ResizeMode::KeepRatioLargest => Mode::KeepRatioLargest,
        ResizeMode::CenterCrop => Mode::CenterCrop,
        ResizeMode::No => Mode::No,
    }
}

fn encode(picture: &Picture, plan: &FetchPlan) -> Result<Vec<u8>, Reason> {
    /// The format has 14 bits for a side.
    const WEBP_SIDE: u32 = 16_383;
    Ok(match plan.encode_format {
        EncodeFormat::Jpg => encode_jpeg(picture, plan.encode_quality),
        EncodeFormat::Png => encode_png(picture, plan.encode_quality),
        EncodeFormat::Webp if picture.width.max(picture.height) > WEBP_SIDE => {
            return Err(Reason::Picture("output_too_large"));
        }
        EncodeFormat::Webp => encode_webp(picture),
    })
}

/// The decoder's word, but what is no picture at all is called so.
fn name(refused: &Refused, bytes: &[u8]) -> Reason {
    let unknown = refused.reason == "unsupported_format";
    if unknown && !is_other_picture(bytes) {
        return Reason::NotAnImage;
    }
    Reason::Picture(refused.reason)
}

/// Whether the first bytes are those of a picture format that is not decoded.
fn is_other_picture(bytes: &[u8]) -> bool {
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    let brand = bytes.get(4..12).unwrap_or_default();
    let vector = bytes.get(..256.min(bytes.len())).unwrap_or_default();
    starts(b"BM")
        || starts(b"II*\0")
        || starts(b"MM\0*")
        || starts(b"\0\0\x01\0") // icon
        || starts(b"\xff\x0a") // JPEG XL
        || starts(b"\0\0\0\x0cJXL ")
        || starts(b"\0\0\0\x0cjP  ") // JPEG 2000
        || [&b"ftypavif"[..], b"ftypavis", b"ftypheic", b"ftypheix", b"ftypmif1"].contains(&brand)
        || vector.windows(4).any(|w| w.eq_ignore_ascii_case(b"<svg"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(bytes: &[u8], change: impl FnOnce(&mut FetchPlan)) -> Result<Finished, Reason> {
        let mut plan = FetchPlan::default();
        change(&mut plan);
        make(bytes.to_vec(), &plan, &OptOutList::default(), &Decoding::new(1)).result
    }

    fn jpeg(width: u32, height: u32) -> Vec<u8> {
        encode_jpeg(&Picture::filled(width, height, [200, 30, 30]), 90)
    }

    #[test]
    fn the_default_plan_makes_a_square_jpeg_and_remembers_the_original_size() {
        let made = run(&jpeg(640, 320), |_| {}).unwrap();
        assert_eq!((made.size, made.original_size), ((256, 256), (640, 320)));
        assert!(made.bytes.starts_with(b"\xff\xd8\xff"));
    }

    #[test]
    fn a_small_picture_stays_as_it_is_where_only_bigger_ones_are_resized() {
        let made = run(&jpeg(64, 32), |plan| plan.resize_only_if_bigger = true).unwrap();
        assert_eq!(made.size, (64, 32));
        let largest = run(&jpeg(640, 320), |plan| {
            plan.resize_mode = ResizeMode::KeepRatioLargest;
            plan.resize_only_if_bigger = true;
        });
        assert_eq!(largest.unwrap().size, (256, 128));
    }

    #[test]
    fn bytes_are_kept_only_where_nothing_changes_and_the_container_is_right() {
        let (small, png) = (jpeg(64, 32), encode_png(&Picture::filled(64, 32, [1, 2, 3]), 6));
        let keep = |plan: &mut FetchPlan| {
            plan.skip_reencode = true;
            plan.resize_mode = ResizeMode::No;
        };
        assert_eq!(run(&small, keep).unwrap().bytes, small);
        assert_ne!(run(&png, keep).unwrap().bytes, png);
        let padded = run(&small, |plan| plan.skip_reencode = true).unwrap();
        assert_eq!(padded.size, (256, 256));
    }

    #[test]
    fn png_and_lossless_webp_keep_every_pixel() {
        let png = encode_png(&Picture::filled(64, 32, [1, 2, 3]), 6);
        for (format, quality) in [(EncodeFormat::Png, 9), (EncodeFormat::Webp, 101)] {
            let made = run(&png, |plan| {
                plan.resize_mode = ResizeMode::No;
                (plan.encode_format, plan.encode_quality) = (format, quality);
            });
            let back = decode(&made.unwrap().bytes, &Limits::default()).unwrap();
            assert_eq!(back, Picture::filled(64, 32, [1, 2, 3]));
        }
    }

    #[test]
    fn size_rules_are_img2datasets_and_include_their_own_value() {
        let picture = jpeg(60, 30);
        let reason = |change: fn(&mut FetchPlan)| run(&picture, change).err();
        assert_eq!(reason(|p| p.min_image_size = 30), None);
        assert_eq!(reason(|p| p.min_image_size = 31), Some(Reason::ImageTooSmall));
        assert_eq!(reason(|p| p.max_image_area = Some(1800)), None);
        assert_eq!(reason(|p| p.max_image_area = Some(1799)), Some(Reason::ImageTooLarge));
        assert_eq!(reason(|p| p.max_aspect_ratio = Some(2.0)), None);
        assert_eq!(reason(|p| p.max_aspect_ratio = Some(1.9)), Some(Reason::AspectRatio));
    }

    #[test]
    fn what_is_no_picture_is_told_from_what_is_broken_or_not_read() {
        let reason = |bytes: &[u8]| run(bytes, |_| {}).err().map(|r| r.word().into_owned());
        assert_eq!(reason(b"<!doctype html><title>404</title>").unwrap(), "not_an_image");
        assert_eq!(reason(b"<?xml version='1.0'?><svg/>").unwrap(), "unsupported_format");
        assert_eq!(reason(b"\0\0\0\x20ftypavif\0\0\0\0").unwrap(), "unsupported_format");
        assert_eq!(reason(b"").unwrap(), "empty");
        let whole = jpeg(640, 320);
        assert_eq!(reason(&whole[..whole.len() / 2]).unwrap(), "truncated");
    }

    #[test]
    fn the_digest_is_of_the_downloaded_bytes_even_where_they_are_no_picture() {
        let none = OptOutList::default();
        let digest =
            |plan: FetchPlan| make(b"abc".to_vec(), &plan, &none, &Decoding::new(1)).sha256;
        assert_eq!(
            digest(FetchPlan::default()).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(digest(FetchPlan { compute_hash: None, ..FetchPlan::default() }), None);
    }
}
