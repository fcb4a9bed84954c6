//! PNG, through the png crate; chunks that say nothing about pixels are not inflated.

use std::io::{Cursor, ErrorKind};

use png::{BitDepth, ColorType, Decoder, DecodingError, Limits, Transformations};

use super::{Gray16, Raw};
use crate::probe::png::Details;
use crate::{Header, Picture, Refused};

/// What the png crate may hold besides the picture itself: rows, the palette, metadata.
const DECODER_BYTES: usize = 64 << 20;

/// Decodes the default picture; palettes, key colours and depths below 8 are expanded.
pub(super) fn decode(
    bytes: &[u8],
    header: &Header,
    details: &Details,
    gray16: Gray16,
) -> Result<Raw, Refused> {
    if !details.plausible {
        return Err(Refused::new("truncated", "the data cannot hold this many rows"));
    }
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: DECODER_BYTES });
    decoder.set_transformations(Transformations::EXPAND);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let mut reader = decoder.read_info().map_err(|error| refusal(&error))?;
    let size = reader.output_buffer_size().ok_or_else(|| Refused::new("broken", "size"))?;
    let mut samples = vec![0; size];
    let info = reader.next_frame(&mut samples).map_err(|error| refusal(&error))?;
    samples.truncate(info.buffer_size());
    if info.bit_depth == BitDepth::Sixteen {
        let clip = details.gray && gray16 == Gray16::Clipped;
        let narrowed = |sample: &[u8]| match (clip, sample[0]) {
            (true, 0) => sample[1],
            (true, _) => 255,
            (false, upper) => upper,
        };
        samples = samples.chunks_exact(2).map(narrowed).collect();
    }
    let (width, height) = (header.width, header.height);
    if (info.width, info.height) != (width, height) {
        return Err(Refused::new("broken", "the decoder saw another size"));
    }
    let opaque = |rgb| Raw { picture: Picture { width, height, rgb }, alpha: None };
    Ok(match info.color_type {
        ColorType::Rgb => opaque(samples),
        ColorType::Grayscale => opaque(samples.iter().flat_map(|&gray| [gray; 3]).collect()),
        ColorType::GrayscaleAlpha => Raw {
            alpha: Some(samples.chunks_exact(2).map(|pixel| pixel[1]).collect()),
            ..opaque(samples.chunks_exact(2).flat_map(|pixel| [pixel[0]; 3]).collect())
        },
        ColorType::Rgba => Raw::from_rgba(width, height, &samples),
        ColorType::Indexed => return Err(Refused::new("broken", "the palette was not expanded")),
    })
}

fn refusal(error: &DecodingError) -> Refused {
    let text = error.to_string();
    let reason = match error {
        DecodingError::IoError(cause) if cause.kind() == ErrorKind::UnexpectedEof => "truncated",
        _ => "broken",
    };
    Refused::new(reason, text)
}
