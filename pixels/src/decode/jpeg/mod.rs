//! JPEG in strict mode: a truncated file is an error, not a grey rest.
//!
//! Grey and YCbCr files of Huffman codes, sequential or progressive, are decoded here, with the
//! integer arithmetic of libjpeg's defaults (its accurate inverse DCT, its triangle filter over
//! chroma, its rounding of colours): pixels are those of libjpeg-turbo, and so Pillow's and
//! OpenCV's, on every CPU. Every other file, and every file with anything wrong in it, is
//! zune-jpeg's to decode or to refuse.

mod colour;
mod file;
mod foreign;
mod huffman;
mod idct;
mod lanes;
mod progressive;
mod sequential;

use pulp::{Arch, NullaryFnOnce, Simd, WithSimd};

use super::Raw;
use crate::probe::jpeg::{Colours, Details};
use crate::{Header, Limits, Picture, Refused};
use file::File;
use lanes::{Lanes, Plain};
use sequential::Pixels;

/// Decodes to RGB; grey is spread, CMYK and YCCK become `(255 - C)(255 - K) / 255` under Adobe's
/// inversion, as PIL reads them.
pub(super) fn decode(
    bytes: &[u8],
    header: &Header,
    details: &Details,
    limits: &Limits,
) -> Result<Raw, Refused> {
    if !details.ended {
        return Err(Refused::new("truncated", "no end marker"));
    }
    if !details.plausible {
        return Err(Refused::new("truncated", "less than a bit for each block"));
    }
    let clean = clean(bytes, details);
    let (width, height) = (header.width, header.height);
    let rgb = match here(&clean, header, details, 8) {
        Some(pixels) => pixels.rgb,
        None => foreign::decode(&clean, header, limits)?,
    };
    Ok(Raw { picture: Picture { width, height, rgb }, alpha: None })
}

/// Decodes to means of `by` x `by` pixels (2, 4 or 8), as long as that is done here.
pub(super) fn decode_means(
    bytes: &[u8],
    header: &Header,
    details: &Details,
    by: u32,
) -> Option<Picture> {
    if !details.ended || !details.plausible || !matches!(by, 2 | 4 | 8) {
        return None;
    }
    let pixels = here(&clean(bytes, details), header, details, 8 / by as usize)?;
    let (width, height) = (pixels.width as u32, pixels.height as u32);
    Some(Picture { width, height, rgb: pixels.rgb })
}

/// Decodes what is decoded here; a block of luma becomes `side` x `side` pixels.
fn here(clean: &[u8], header: &Header, details: &Details, side: usize) -> Option<Pixels> {
    if !matches!(details.colours, Colours::Gray | Colours::YCbCr) {
        return None;
    }
    let file = File::read(clean)?;
    if (file.width, file.height) != (header.width as usize, header.height as usize) {
        return None;
    }
    Job { file: &file, side }.dispatch()
}

/// The same code for every instruction set: the dispatch lets the compiler use wider ones.
struct Job<'a> {
    file: &'a File,
    side: usize,
}

impl Job<'_> {
    fn dispatch(self) -> Option<Pixels> {
        #[cfg(target_arch = "x86_64")]
        if let Some(v3) = pulp::x86::V3::try_new() {
            return v3.vectorize(JobOn { lanes: v3, job: self });
        }
        Arch::new().dispatch(self)
    }
}

/// A job with its instruction set.
struct JobOn<'a, L> {
    lanes: L,
    job: Job<'a>,
}

impl<L: Lanes> NullaryFnOnce for JobOn<'_, L> {
    type Output = Option<Pixels>;

    #[inline(always)]
    fn call(self) -> Self::Output {
        sequential::decode(self.lanes, self.job.file, self.job.side)
    }
}

impl WithSimd for Job<'_> {
    type Output = Option<Pixels>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> Self::Output {
        sequential::decode(Plain, self.file, self.side)
    }
}

/// The file without metadata and stray bytes, which a strict decoder would stumble over or store:
/// tables, headers and coded data, and the one Adobe segment that says what the components mean.
fn clean(bytes: &[u8], details: &Details) -> Vec<u8> {
    let length: usize = details.parts.iter().map(std::ops::Range::len).sum();
    let mut clean = Vec::with_capacity(length + 20);
    clean.extend(b"\xff\xd8");
    let transform = match details.colours {
        Colours::Gray | Colours::YCbCr => None,
        Colours::Rgb | Colours::Cmyk => Some(0),
        Colours::Ycck => Some(2),
    };
    if let Some(transform) = transform {
        clean.extend(b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0");
        clean.push(transform);
    }
    for part in &details.parts {
        clean.extend(&bytes[part.clone()]);
    }
    clean.extend(b"\xff\xd9");
    clean
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::encode_jpeg;
    use crate::probe::{Details as AnyDetails, Probed};

    fn noise(width: u32, height: u32, bits: u32) -> Picture {
        let bytes = width * height * 3;
        let value = |i: u32| (i.wrapping_mul(2_654_435_761) >> 24 >> bits) as u8;
        Picture { width, height, rgb: (0..bytes).map(value).collect() }
    }

    fn parts(file: &[u8]) -> Option<(Vec<u8>, Header, Details)> {
        let probed = Probed::read(file, &Limits::default()).ok()?;
        let AnyDetails::Jpeg(details) = probed.details else { return None };
        let whole = details.ended && details.plausible;
        whole.then(|| (clean(file, &details), probed.header, details))
    }

    type Both = (Option<Pixels>, Result<Vec<u8>, Refused>);

    /// What is decoded here, and how zune-jpeg judges the same file.
    fn both(file: &[u8], side: usize) -> Option<Both> {
        let (clean, header, details) = parts(file)?;
        let theirs = foreign::decode(&clean, &header, &Limits::default());
        Some((here(&clean, &header, &details, side), theirs))
    }

    #[test]
    fn ordinary_files_are_decoded_here_and_nearly_as_by_zune() {
        for (width, height) in [(64, 48), (65, 33), (7, 9), (16, 200), (333, 17)] {
            let file = encode_jpeg(&noise(width, height, 3), 85);
            let (ours, theirs) = both(&file, 8).unwrap();
            let (ours, theirs) = (ours.unwrap().rgb, theirs.unwrap());
            let error = ours.iter().zip(&theirs).map(|(a, b)| u64::from(a.abs_diff(*b)));
            assert!(error.sum::<u64>() < ours.len() as u64 / 2, "{width}x{height}");
        }
    }

    #[test]
    fn grey_means_are_within_one_level() {
        let mut picture = noise(61, 43, 1);
        for pixel in picture.rgb.as_chunks_mut::<3>().0 {
            *pixel = [64 + pixel[0] / 2; 3];
        }
        let file = encode_jpeg(&picture, 95);
        let whole = both(&file, 8).unwrap().0.unwrap();
        for by in [2, 4, 8] {
            let means = both(&file, 8 / by).unwrap().0.unwrap();
            assert_eq!((means.width, means.height), (61_usize.div_ceil(by), 43_usize.div_ceil(by)));
            for y in 0..43 / by {
                for x in 0..61 / by {
                    let of = |i: usize| whole.rgb[((y * by + i / by) * 61 + x * by + i % by) * 3];
                    let sum: u32 = (0..by * by).map(|i| u32::from(of(i))).sum();
                    let exact = f64::from(sum) / (by * by) as f64;
                    let mean = means.rgb[(y * means.width + x) * 3];
                    assert!((f64::from(mean) - exact).abs() <= 1.0, "{by}: {mean} for {exact}");
                }
            }
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_pixels() {
        for (width, height) in [(64, 48), (65, 33), (7, 9), (333, 17)] {
            let file = encode_jpeg(&noise(width, height, 0), 85);
            let file = File::read(&parts(&file).unwrap().0).unwrap();
            for side in [8, 4, 2, 1] {
                let wide = Job { file: &file, side }.dispatch().unwrap();
                let plain = sequential::decode(Plain, &file, side).unwrap();
                assert_eq!(wide.rgb, plain.rgb, "{width}x{height} {side}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn what_is_decoded_here_is_whole_to_zune_too(
            size in (1_u32..60, 1_u32..60),
            quality in 1_u8..=100,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in prop::option::of(any::<prop::sample::Index>()),
            side in prop::sample::select(vec![8_usize, 4, 2, 1]),
        ) {
            let mut file = encode_jpeg(&noise(size.0, size.1, 0), quality);
            for (index, value) in changes {
                let at = index.index(file.len());
                file[at] = value;
            }
            if let Some(cut) = cut {
                file.truncate(cut.index(file.len()));
                file.extend([0xff, 0xd9]);
            }
            if let Some((ours, theirs)) = both(&file, side)
                && ours.is_some()
            {
                prop_assert!(theirs.is_ok(), "{:?}", theirs);
            }
        }
    }
}
