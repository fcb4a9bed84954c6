//! The JPEG encoder: OpenCV's bytes, pictures that come back, sizes at the edges.

use pixels::{Limits, Picture, decode_rgb_first, encode_jpeg};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

/// What OpenCV 4.14.0 (libjpeg-turbo 3.1.2) wrote at qualities 1, 50, 75, 95 and 100:
/// `bench/interop/opencv_jpeg_digests.py`.
const OPENCV: [(&str, u32, u32, &str); 40] = [
    ("noise", 1, 1, "95c7fb10b1f1c789"),
    ("noise", 1, 17, "b62a3e2b52e6935b"),
    ("noise", 17, 1, "125f56738205b8c8"),
    ("noise", 8, 8, "51964718e69d9f93"),
    ("noise", 15, 33, "360c3601ee3dc495"),
    ("noise", 64, 48, "8a8eaef9436a55f1"),
    ("noise", 65, 49, "06c1170bb7367537"),
    ("noise", 333, 217, "4e6d17ef56e6a05a"),
    ("noise", 65500, 1, "c032166ffc01c710"),
    ("noise", 1, 65500, "d80dc94e86e7d234"),
    ("black_or_white", 1, 1, "9e7ede6eb469667f"),
    ("black_or_white", 1, 17, "68d5612a4534d6dd"),
    ("black_or_white", 17, 1, "126e47616a58ba4a"),
    ("black_or_white", 8, 8, "7f78f207835758c6"),
    ("black_or_white", 15, 33, "b05f7c362d04ecfb"),
    ("black_or_white", 64, 48, "c6dc5eff44146ade"),
    ("black_or_white", 65, 49, "b42b21eaef2e578f"),
    ("black_or_white", 333, 217, "ba4601340ca7579f"),
    ("black_or_white", 65500, 1, "1ba8a7ab2ef80291"),
    ("black_or_white", 1, 65500, "a17802699921a2ac"),
    ("blocks", 1, 1, "9e7ede6eb469667f"),
    ("blocks", 1, 17, "3142e5f18d3534f9"),
    ("blocks", 17, 1, "d99532a31953e2c1"),
    ("blocks", 8, 8, "248082396079d6e1"),
    ("blocks", 15, 33, "1681008923ead69b"),
    ("blocks", 64, 48, "079a2b6b63d31662"),
    ("blocks", 65, 49, "eeb44d554710d4e7"),
    ("blocks", 333, 217, "b9ccc135dbda8e46"),
    ("blocks", 65500, 1, "a948a8078f4f52cd"),
    ("blocks", 1, 65500, "8d8db93ef7dc174a"),
    ("waves", 1, 1, "9d64cc525476b71e"),
    ("waves", 1, 17, "a26992e045342fd9"),
    ("waves", 17, 1, "15fd3f50e5b37b07"),
    ("waves", 8, 8, "e67378c3ca556727"),
    ("waves", 15, 33, "1ffe050ceca523a3"),
    ("waves", 64, 48, "b5859e546a896d62"),
    ("waves", 65, 49, "c5a9ff3acc47e29b"),
    ("waves", 333, 217, "806b722ea086d306"),
    ("waves", 65500, 1, "9b9ceb88e6c8dff2"),
    ("waves", 1, 65500, "d2c5fd547e34cb59"),
];

/// The pictures of the script above.
fn picture(kind: &str, width: u32, height: u32) -> Picture {
    let mut rgb = Vec::new();
    for y in 0..height {
        for x in 0..width {
            for channel in 0..3 {
                let index = (y * width + x) * 3 + channel;
                let noise = index.wrapping_mul(2_654_435_761) >> 24;
                let value = match kind {
                    "noise" => noise,
                    "black_or_white" => (noise >> 7) * 255,
                    "blocks" => (x / 16 + y / 16 + channel) % 2 * 255,
                    _ => {
                        let wave = (x * (3 + channel) + y * (5 - channel)) & 511;
                        wave.abs_diff(256) * 15 / 16 + (noise >> 4)
                    }
                };
                rgb.push(value as u8);
            }
        }
    }
    Picture { width, height, rgb }
}

/// Opens even pictures of 65,535x1, which are far from the usual proportions.
fn opened(file: &[u8]) -> Picture {
    let limits = Limits { max_aspect: 100_000.0, max_side: 65_535, ..Limits::default() };
    decode_rgb_first(file, &limits).unwrap()
}

#[test]
fn the_bytes_are_opencvs() {
    for (kind, width, height, expected) in OPENCV {
        let picture = picture(kind, width, height);
        let mut digest = Sha256::new();
        for quality in [1, 50, 75, 95, 100] {
            digest.update(encode_jpeg(&picture, quality));
        }
        let first = *digest.finalize().first_chunk().unwrap();
        let found = format!("{:016x}", u64::from_be_bytes(first));
        assert_eq!(found, expected, "{kind} {width}x{height}");
    }
}

fn psnr(a: &Picture, b: &Picture) -> f64 {
    assert_eq!((a.width, a.height), (b.width, b.height));
    let squares: f64 =
        a.rgb.iter().zip(&b.rgb).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum();
    10.0 * (255.0 * 255.0 * a.rgb.len() as f64 / squares).log10()
}

#[test]
fn soft_pictures_come_back_better_with_quality() {
    // Without the chroma of single pixels, which 4:2:0 does not keep.
    let mut soft = picture("waves", 333, 217);
    for pixel in soft.rgb.chunks_exact_mut(3) {
        pixel.fill(pixel[1]);
    }
    // Half a decibel below what was measured.
    for (quality, least) in [(1, 24.5), (50, 34.0), (75, 34.7), (95, 42.7), (100, 58.3)] {
        let found = psnr(&soft, &opened(&encode_jpeg(&soft, quality)));
        assert!(found >= least, "quality {quality}: {found:.2} dB");
    }
}

#[test]
fn the_largest_steps_from_block_to_block_come_back() {
    let mut blocks = picture("blocks", 64, 48);
    for pixel in blocks.rgb.chunks_exact_mut(3) {
        pixel.fill(pixel[0]);
    }
    assert_eq!(opened(&encode_jpeg(&blocks, 100)), blocks);
}

#[test]
fn the_longest_sides_open() {
    for (width, height) in [(65_535, 1), (1, 65_535), (1, 1), (1, 17), (17, 1)] {
        let opened = opened(&encode_jpeg(&picture("noise", width, height), 100));
        assert_eq!((opened.width, opened.height), (width, height));
    }
}

#[test]
#[should_panic(expected = "three bytes a pixel")]
fn too_few_pixels_are_the_callers_mistake() {
    let _ = encode_jpeg(&Picture { width: 2, height: 2, rgb: vec![0; 11] }, 95);
}

proptest! {
    #[test]
    fn any_small_picture_opens_with_its_size(
        (width, height, rgb) in (1_u32..40, 1_u32..40).prop_flat_map(|(width, height)| {
            let bytes = (width * height * 3) as usize;
            (Just(width), Just(height), prop::collection::vec(any::<u8>(), bytes))
        }),
        quality in 1_u8..=100,
    ) {
        let opened = opened(&encode_jpeg(&Picture { width, height, rgb }, quality));
        prop_assert_eq!((opened.width, opened.height), (width, height));
    }
}
