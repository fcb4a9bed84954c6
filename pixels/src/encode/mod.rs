//! Encoding without metadata: the same pixels give the same bytes.

use std::io::Cursor;

use image::codecs::webp::WebPEncoder;
use image::{ExtendedColorType, ImageEncoder};

use crate::Picture;

mod jpeg;

pub(crate) use jpeg::ZIGZAG;

/// Encodes a baseline JPEG, 4:2:0 whatever the quality: byte for byte what OpenCV 4.14's `imencode`
/// (libjpeg-turbo 3.1) writes for the same pixels. `quality` is 1..=100 (img2dataset: 95).
///
/// # Panics
/// When `rgb` does not fit the size, or a side is 0 or above 65,535. No picture that [`crate::decode`]
/// or [`crate::img2dataset::resize`] gives is like that.
#[must_use]
pub fn encode_jpeg(picture: &Picture, quality: u8) -> Vec<u8> {
    let (width, height) = checked(picture);
    jpeg::encode(&picture.rgb, width, height, quality)
}

/// Encodes a PNG, 8-bit RGB. `compression` is 0..=9 as zlib counts (img2dataset: 6).
///
/// # Panics
/// As [`encode_jpeg`].
#[must_use]
pub fn encode_png(picture: &Picture, compression: u8) -> Vec<u8> {
    checked(picture);
    let mut bytes = Vec::with_capacity(picture.rgb.len() / 2 + 1024);
    let mut encoder = png::Encoder::new(&mut bytes, picture.width, picture.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_filter(png::Filter::Adaptive);
    encoder.set_deflate_compression(png::DeflateCompression::Level(compression.min(9)));
    let mut writer = encoder.write_header().expect("a checked size, into memory");
    writer.write_image_data(&picture.rgb).expect("a checked picture, into memory");
    writer.finish().expect("into memory");
    bytes
}

/// Encodes a lossless WebP.
///
/// # Panics
/// As [`encode_jpeg`], and when a side is above 16,383, the format's limit.
#[must_use]
pub fn encode_webp(picture: &Picture) -> Vec<u8> {
    checked(picture);
    let mut bytes = Cursor::new(Vec::with_capacity(picture.rgb.len() / 2 + 1024));
    WebPEncoder::new_lossless(&mut bytes)
        .write_image(&picture.rgb, picture.width, picture.height, ExtendedColorType::Rgb8)
        .expect("a checked picture of at most 16,383 a side, into memory");
    bytes.into_inner()
}

fn checked(picture: &Picture) -> (u16, u16) {
    let side = |side: u32| {
        u16::try_from(side).ok().filter(|&side| side > 0).expect("a side of 1..=65535 pixels")
    };
    let pixels = picture.width as usize * picture.height as usize;
    assert_eq!(picture.rgb.len(), pixels * 3, "three bytes a pixel");
    (side(picture.width), side(picture.height))
}
