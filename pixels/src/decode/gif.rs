//! The first frame of a GIF, through the image crate's decoder.

use std::io::Cursor;

use image::ImageDecoder;
use image::codecs::gif::GifDecoder;

use super::Raw;
use super::webp::refusal;
use crate::{Header, Refused};

/// Decodes the first frame on its screen.
pub(super) fn decode(bytes: &[u8], header: &Header) -> Result<Raw, Refused> {
    let decoder = GifDecoder::new(Cursor::new(bytes)).map_err(|error| refusal(&error))?;
    let (width, height) = (header.width, header.height);
    if decoder.dimensions() != (width, height) {
        return Err(Refused::new("broken", "the decoder saw another size"));
    }
    let mut samples = vec![0; width as usize * height as usize * 4];
    decoder.read_image(&mut samples).map_err(|error| refusal(&error))?;
    Ok(Raw::from_rgba(width, height, &samples))
}
