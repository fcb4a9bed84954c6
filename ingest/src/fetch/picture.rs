//! Downloaded bytes to the picture that is written: hash, header, rules, decode, resize, encode.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use pixels::img2dataset::{Means, Mode, decode_resized, resize};
use pixels::{
    Header, Limits, Picture, Refused, decode, encode_jpeg, encode_png, encode_webp, probe,
};
use stage::Gate;

use super::decode::Crew;
use super::exif;
use super::hook::Hook;
use super::meter::{Meter, Step};
use super::opt_out::OptOutList;
use super::{Digest, EncodeFormat, FetchPlan, Reason, ResizeMode};
use pixels::blur::{Face, blur, upright};

/// What became of one URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Of the downloaded bytes, as `compute_hash` wants it.
    pub(super) digest: Option<String>,
    pub(super) result: Result<Finished, Reason>,
}

/// What a link says about its picture beside the URL.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Wanted {
    /// To be blurred.
    pub(super) faces: Vec<Face>,
    /// The digest that the bytes must have, in lower-case hex.
    pub(super) digest: Option<String>,
}

/// A picture as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finished {
    pub(super) bytes: Vec<u8>,
    /// Width and height.
    pub(super) size: (u32, u32),
    /// Width and height as downloaded, upright.
    pub(super) original_size: (u32, u32),
    /// The tags as JSON, where the plan wants them.
    pub(super) exif: Option<String>,
}

impl Outcome {
    /// Nothing was downloaded.
    pub(super) fn refused(reason: Reason) -> Self {
        Self { digest: None, result: Err(reason) }
    }

    /// Bytes that this outcome keeps in memory.
    pub(super) fn len(&self) -> usize {
        self.result.as_ref().map_or(0, |finished| finished.bytes.len())
    }
}

/// Makes pictures of bodies.
pub(super) struct Maker {
    pub(super) plan: Arc<FetchPlan>,
    pub(super) opt_out: Arc<OptOutList>,
    pub(super) gate: Gate,
    pub(super) hook: Option<Arc<Hook>>,
    /// Where pictures are decoded in processes of their own.
    pub(super) crew: Option<Arc<Crew>>,
    /// Where the URL counts as [`Step::Decode`] while this works.
    pub(super) meter: Arc<Meter>,
}

impl Maker {
    /// Makes the picture, or says why not. Never panics: a decoder's bug is one sample's failure.
    pub(super) fn make(&self, url: &str, bytes: Vec<u8>, wanted: &Wanted) -> Outcome {
        let digest = self.plan.compute_hash.map(|digest| digest.of(&bytes));
        let result = catch_unwind(AssertUnwindSafe(|| {
            self.check_bytes(&bytes, wanted)?;
            self.finish(url, bytes, wanted)
        }));
        let result = result.unwrap_or(Err(Reason::DecoderPanic));
        // Of what a hook dropped or did not judge, not even the digest is kept.
        let hidden = matches!(result, Err(Reason::HookDrop | Reason::HookFailed));
        Outcome { digest: digest.filter(|_| !hidden), result }
    }

    /// The rules on the bytes themselves.
    fn check_bytes(&self, bytes: &[u8], wanted: &Wanted) -> Result<(), Reason> {
        if self.opt_out.wants_digests() && self.opt_out.covers_digest(&Digest::Sha256.of(bytes)) {
            return Err(Reason::OptOut);
        }
        match (&self.plan.verify_hash, &wanted.digest) {
            (Some((_, digest)), Some(expected)) if digest.of(bytes) != *expected => {
                Err(Reason::HashMismatch)
            }
            _ => Ok(()),
        }
    }

    fn finish(&self, url: &str, bytes: Vec<u8>, wanted: &Wanted) -> Result<Finished, Reason> {
        let plan = &self.plan;
        let limits = Limits::default();
        let header = probe(&bytes, &limits).map_err(|refused| name(&refused, &bytes))?;
        check_rules(&header, plan)?;
        let bytes = match &self.hook {
            Some(hook) => {
                let bytes = Arc::new(bytes);
                let _asking = self.meter.instead(Step::Decode, Step::Hook);
                hook.ask(url, &bytes)?;
                Arc::unwrap_or_clone(bytes)
            }
            None => bytes,
        };
        // Decoded pixels, a resized copy, and about as much again inside the decoder.
        let pixels = u64::from(header.width) * u64::from(header.height);
        let _room = self.gate.enter(pixels.saturating_mul(8));
        match &self.crew {
            Some(crew) => crew.develop(&bytes, &wanted.faces),
            None => develop(bytes, &wanted.faces, plan),
        }
    }
}

/// Decodes, resizes, blurs and encodes: the part that a worker process can do.
pub(super) fn develop(
    bytes: Vec<u8>,
    faces: &[Face],
    plan: &FetchPlan,
) -> Result<Finished, Reason> {
    let limits = Limits::default();
    let header = probe(&bytes, &limits).map_err(|refused| name(&refused, &bytes))?;
    let original_size = header.upright_size();
    let exif = plan.extract_exif.then(|| exif::read(&bytes));
    let is_resized = is_resized(original_size, plan);
    if is_resized && faces.is_empty() {
        let means = if plan.scaled_decode { Means::LARGE } else { Means::NEVER };
        let (side, mode) = (plan.image_size, mode(plan));
        let (picture, _) = decode_resized(&bytes, &limits, side, mode, false, means)
            .map_err(|refused| name(&refused, &bytes))?;
        drop(bytes);
        let size = (picture.width, picture.height);
        return Ok(Finished { bytes: encode(&picture, plan)?, size, original_size, exif });
    }
    let picture = decode(&bytes, &limits).map_err(|refused| name(&refused, &bytes))?;
    let as_it_is = !is_resized && faces.is_empty();
    if as_it_is && plan.skip_reencode && is_container(&header, plan.encode_format) {
        return Ok(Finished { bytes, size: original_size, original_size, exif });
    }
    drop(bytes);
    let faces: Vec<Face> = faces.iter().map(|face| upright(*face, header.orientation)).collect();
    let picture = resized(picture, plan, &faces)?;
    let size = (picture.width, picture.height);
    Ok(Finished { bytes: encode(&picture, plan)?, size, original_size, exif })
}

/// Resizes, and blurs faces where img2dataset does: after scaling, before cutting or padding.
fn resized(mut picture: Picture, plan: &FetchPlan, faces: &[Face]) -> Result<Picture, Reason> {
    let to = |picture: &Picture, mode, only_if_bigger| {
        resize(picture, plan.image_size, mode, only_if_bigger)
            .map_err(|refused| Reason::Picture(refused.reason))
    };
    let mode = mode(plan);
    if !is_resized((picture.width, picture.height), plan) {
        blur(&mut picture, faces);
        return Ok(picture);
    }
    let scaled = match mode {
        Mode::Border => Mode::KeepRatioLargest,
        Mode::CenterCrop => Mode::KeepRatio,
        other => other,
    };
    let mut picture = to(&picture, scaled, false)?;
    blur(&mut picture, faces);
    // The side has its size already: what is left to do is to cut or to pad.
    if scaled == mode { Ok(picture) } else { to(&picture, mode, false) }
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
fn is_resized((width, height): (u32, u32), plan: &FetchPlan) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn make(bytes: &[u8], wanted: &Wanted, change: impl FnOnce(&mut FetchPlan)) -> Outcome {
        let mut plan = FetchPlan::default();
        change(&mut plan);
        let maker = Maker {
            plan: Arc::new(plan),
            opt_out: Arc::default(),
            gate: Gate::new(1),
            hook: None,
            crew: None,
            meter: Meter::new(1),
        };
        maker.make("http://a.example/", bytes.to_vec(), wanted)
    }

    fn run(bytes: &[u8], change: impl FnOnce(&mut FetchPlan)) -> Result<Finished, Reason> {
        make(bytes, &Wanted::default(), change).result
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
        let digest =
            |kind| make(b"abc", &Wanted::default(), |plan| plan.compute_hash = kind).digest;
        assert_eq!(digest(Some(Digest::Md5)).unwrap(), "900150983cd24fb0d6963f7d28e17f72");
        assert!(digest(Some(Digest::Sha256)).unwrap().starts_with("ba7816bf8f01cfea"));
        assert_eq!(digest(None), None);
    }

    #[test]
    fn bytes_with_another_digest_than_the_expected_are_not_even_decoded() {
        let check = |kind, expected: &str| {
            let wanted = Wanted { digest: Some(expected.to_owned()), ..Wanted::default() };
            let verify = |plan: &mut FetchPlan| plan.verify_hash = Some(("h".to_owned(), kind));
            make(b"abc", &wanted, verify).result.unwrap_err()
        };
        assert_eq!(check(Digest::Md5, "900150983cd24fb0d6963f7d28e17f72"), Reason::NotAnImage);
        assert_eq!(check(Digest::Md5, "900150983cd24fb0d6963f7d28e17f73"), Reason::HashMismatch);
        assert_eq!(check(Digest::Sha256, "900150983cd24fb0d6963f7d28e17f72"), Reason::HashMismatch);
    }

    #[test]
    fn large_jpegs_are_decoded_as_means_unless_the_plan_says_no() {
        let wave = |x: u32, y: u32| (128.0 + 60.0 * (f64::from(x) / 9.0).sin()) as u32 + y % 50;
        let rgb = (0..1700 * 1600).flat_map(|i| [wave(i % 1700, i / 1700) as u8; 3]).collect();
        let file = encode_jpeg(&Picture { width: 1700, height: 1600, rgb }, 90);
        let made = |scaled_decode| {
            let made = run(&file, |plan| plan.scaled_decode = scaled_decode).unwrap();
            assert_eq!((made.size, made.original_size), ((256, 256), (1700, 1600)));
            decode(&made.bytes, &Limits::default()).unwrap().rgb
        };
        let (means, all) = (made(true), made(false));
        let error: u64 =
            means.iter().zip(&all).map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum();
        assert!(error > 0);
        // 40 dB.
        assert!(error as f64 / (means.len() as f64) < 255.0 * 255.0 / 1e4, "{error}");
    }

    /// How much neighbouring pixels of a square differ, on average.
    fn roughness(picture: &Picture, left: usize, top: usize, side: usize) -> f64 {
        let at = |x: usize, y: usize| picture.rgb[(y * picture.width as usize + x) * 3];
        let steps = (0..side * side).map(|i| (left + i % side, top + i / side));
        let sum: u32 = steps.map(|(x, y)| u32::from(at(x, y).abs_diff(at(x + 1, y)))).sum();
        f64::from(sum) / (side * side) as f64
    }

    #[test]
    fn faces_are_blurred_after_scaling_and_before_the_border() {
        let pixel = |i: u32| ((i * 7919) ^ (i >> 3) ^ (i / 640 * 31)) as u8;
        let rgb = (0..640 * 320).flat_map(|i| [pixel(i); 3]).collect();
        let png = encode_png(&Picture { width: 640, height: 320, rgb }, 1);
        let face = Wanted { faces: vec![[0.0, 0.0, 0.5, 1.0]], ..Wanted::default() };
        let made = |wanted: &Wanted, mode, size| {
            let outcome = make(&png, wanted, |plan| {
                (plan.resize_mode, plan.image_size) = (mode, size);
                (plan.encode_format, plan.encode_quality) = (EncodeFormat::Png, 1);
            });
            decode(&outcome.result.unwrap().bytes, &Limits::default()).unwrap()
        };
        let (plain, blurred) = (
            made(&Wanted::default(), ResizeMode::Border, 320),
            made(&face, ResizeMode::Border, 320),
        );
        assert_eq!((blurred.width, blurred.height), (320, 320));
        assert!(roughness(&plain, 20, 100, 100) > 10.0);
        assert!(roughness(&blurred, 20, 100, 100) < 1.0);
        // Far to the right nothing changed, and the border is white down to the picture's edge.
        assert_eq!(
            plain.rgb[(160 * 320 + 300) * 3..][..60],
            blurred.rgb[(160 * 320 + 300) * 3..][..60]
        );
        assert!(blurred.rgb[(79 * 320 + 20) * 3..][..30].iter().all(|v| *v == 255));
        let cut = made(&face, ResizeMode::CenterCrop, 320);
        assert_eq!((cut.width, cut.height), (320, 320));
        assert!(roughness(&cut, 10, 100, 60) < 1.0 && roughness(&cut, 250, 100, 60) > 10.0);
    }

    #[test]
    fn a_picture_with_a_face_is_never_kept_as_it_was_downloaded() {
        let bytes = jpeg(64, 32);
        let wanted = Wanted { faces: vec![[0.1, 0.1, 0.9, 0.9]], ..Wanted::default() };
        let outcome = make(&bytes, &wanted, |plan| {
            (plan.skip_reencode, plan.resize_mode) = (true, ResizeMode::No);
        });
        assert_ne!(outcome.result.unwrap().bytes, bytes);
    }

    #[test]
    fn exif_is_a_json_text_where_the_plan_wants_it() {
        assert_eq!(run(&jpeg(8, 8), |_| {}).unwrap().exif, None);
        let exif = run(&jpeg(8, 8), |plan| plan.extract_exif = true).unwrap().exif;
        assert_eq!(exif.as_deref(), Some("{}"));
    }
}
