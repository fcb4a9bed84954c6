//! WebP, through the image crate's decoder.

use std::io::{Cursor, ErrorKind};

use image::codecs::webp::WebPDecoder;
use image::{ImageDecoder, ImageError};

use super::Raw;
use crate::{Header, Picture, Refused};

/// Decodes the picture, or the first frame of an animation.
pub(super) fn decode(bytes: &[u8], header: &Header) -> Result<Raw, Refused> {
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

/// Tells a file that ended early from one that is wrong.
pub(super) fn refusal(error: &ImageError) -> Refused {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<std::io::Error>()
            && io.kind() == ErrorKind::UnexpectedEof
        {
            return Refused::new("truncated", error.to_string());
        }
        cause = inner.source();
    }
    Refused::new("broken", error.to_string())
}
