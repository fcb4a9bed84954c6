//! WebP, through the image crate's decoder.

use std::io::Cursor;

use image::codecs::webp::WebPDecoder;
use image::{ImageDecoder, ImageError};

use super::Raw;
use crate::probe::le32;
use crate::{Header, Picture, Refused};

/// Decodes the picture, or the first frame of an animation. The decoder calls a file that ends
/// early corrupt; what the file says of its own length tells the two apart.
pub(super) fn decode(bytes: &[u8], header: &Header) -> Result<Raw, Refused> {
    read(bytes, header).map_err(|refused| {
        let declared = le32(bytes, 4).map_or(0, |size| u64::from(size) + 8);
        if declared > bytes.len() as u64 {
            Refused::new("truncated", format!("{} of {declared} bytes", bytes.len()))
        } else {
            refused
        }
    })
}

fn read(bytes: &[u8], header: &Header) -> Result<Raw, Refused> {
    let decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(|error| refusal(&error))?;
    let (width, height) = (header.width, header.height);
    if decoder.dimensions() != (width, height) {
        return Err(Refused::new("broken", "the decoder saw another size"));
    }
    let channels = usize::from(decoder.color_type().channel_count());
    let mut samples = vec![0; width as usize * height as usize * channels];
    decoder.read_image(&mut samples).map_err(|error| refusal(&error))?;
    Ok(if channels == 4 {
        Raw::from_rgba(width, height, &samples)
    } else {
        Raw { picture: Picture { width, height, rgb: samples }, alpha: None }
    })
}

fn refusal(error: &ImageError) -> Refused {
    Refused::new("broken", error.to_string())
}
