//! Decoding and resizing in one: the same pixels as one after the other, and for large JPEGs nearly.

use pixels::img2dataset::{Means, Mode, decode_resized, resize};
use pixels::{Limits, Picture, decode, encode_jpeg, encode_png};

const MODES: [Mode; 5] =
    [Mode::No, Mode::KeepRatio, Mode::KeepRatioLargest, Mode::CenterCrop, Mode::Border];

/// Waves and stripes under noise of some levels.
fn photo(width: u32, height: u32) -> Picture {
    let mut state = 1_u32;
    let mut rgb = Vec::new();
    for i in 0..width * height {
        let (u, v) = (f64::from(i % width) / 90.0, f64::from(i / width) / 70.0);
        let stripe = if (u + v).fract() < 0.4 { 40.0 } else { 0.0 };
        for phase in [0.0, 2.0, 4.0] {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let base = 110.0 + 70.0 * (u + phase).sin() * (v + phase).cos() + stripe;
            rgb.push((base + f64::from(state >> 28)) as u8);
        }
    }
    Picture { width, height, rgb }
}

/// The file with an EXIF orientation.
fn turned(file: &[u8], orientation: u8) -> Vec<u8> {
    let mut exif =
        b"\xff\xe1\0\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
    [&file[..2], &exif, &file[2..]].concat()
}

fn apart(file: &[u8], size: u32, mode: Mode) -> Picture {
    resize(&decode(file, &Limits::default()).unwrap(), size, mode, false).unwrap()
}

fn in_one(file: &[u8], size: u32, mode: Mode, means: Means) -> Picture {
    decode_resized(file, &Limits::default(), size, mode, false, means).unwrap().0
}

#[test]
fn ordinary_pictures_are_the_same_pixel_by_pixel() {
    let picture = photo(900, 700);
    for file in [encode_jpeg(&picture, 90), encode_png(&picture, 1)] {
        for mode in MODES {
            let ours = in_one(&file, 100, mode, Means::LARGE);
            assert_eq!(ours, apart(&file, 100, mode), "{mode:?}");
        }
    }
}

#[test]
fn large_jpegs_keep_their_size_and_40_db_in_every_mode_and_orientation() {
    // Sides that are no multiples of a block of means.
    let file = encode_jpeg(&photo(1603, 1211), 90);
    for orientation in 1..=8 {
        let file = turned(&file, orientation);
        for mode in MODES {
            let whole = apart(&file, 200, mode);
            assert_eq!(in_one(&file, 200, mode, Means::NEVER), whole, "{orientation} {mode:?}");
            let ours = in_one(&file, 200, mode, Means::LARGE);
            assert_eq!((ours.width, ours.height), (whole.width, whole.height));
            let pairs = ours.rgb.iter().zip(&whole.rgb);
            let squares: u64 = pairs.map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum();
            assert!(mode == Mode::No || squares > 0, "no means: {orientation} {mode:?}");
            let error = squares as f64 / ours.rgb.len() as f64;
            assert!(error < 255.0 * 255.0 / 1e4, "{orientation} {mode:?}: {error}");
        }
    }
}

#[test]
fn the_size_before_is_upright_and_refusals_are_those_of_decode() {
    let file = turned(&encode_jpeg(&photo(1300, 1000), 90), 6);
    let limits = Limits::default();
    let run = |file: &[u8]| decode_resized(file, &limits, 64, Mode::Border, false, Means::LARGE);
    assert_eq!(run(&file).unwrap().1, (1000, 1300));
    let cut = &file[..file.len() / 2];
    assert_eq!(run(cut).unwrap_err(), decode(cut, &limits).unwrap_err());
    let mut ended = cut.to_vec();
    ended.extend([0xff, 0xd9]);
    // What the other decoder lets pass is not decoded to means.
    assert_eq!(run(&ended).map(|made| made.0), Ok(apart(&ended, 64, Mode::Border)));
    assert_eq!(run(b"").unwrap_err().reason, "empty");
}
