//! zune-jpeg, for the files that are not decoded here.

use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use crate::{Header, Limits, Refused};

/// Decodes a file without metadata and stray bytes.
pub(super) fn decode(clean: &[u8], header: &Header, limits: &Limits) -> Result<Vec<u8>, Refused> {
    decode_with(clean, options(limits), header)
}

fn options(limits: &Limits) -> DecoderOptions {
    DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(limits.max_side as usize)
        .set_max_height(limits.max_side as usize)
        .jpeg_set_max_scans(limits.max_scans as usize)
        .jpeg_set_out_colorspace(ColorSpace::RGB)
}

fn decode_with(clean: &[u8], options: DecoderOptions, header: &Header) -> Result<Vec<u8>, Refused> {
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(clean), options);
    let rgb = decoder.decode().map_err(|error| refusal(&error))?;
    let (width, height) = (header.width as usize, header.height as usize);
    if decoder.dimensions() != Some((width, height)) || rgb.len() != width * height * 3 {
        return Err(Refused::new("broken", "the decoder saw another size"));
    }
    Ok(rgb)
}

fn refusal(error: &DecodeErrors) -> Refused {
    let text = error.to_string();
    let reason = match error {
        DecodeErrors::ExhaustedData | DecodeErrors::IoErrors(_) => "truncated",
        _ if text.contains("Premature") => "truncated",
        _ if text.contains("Too many scans") => "too_many_scans",
        _ => "broken",
    };
    Refused::new(reason, text.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{Details, Probed};
    use crate::{Picture, encode_jpeg};

    #[test]
    fn every_cpu_gives_the_same_pixels() {
        for (width, height) in [(64, 48), (65, 33), (7, 9), (16, 200), (333, 17)] {
            let bytes: u32 = width * height * 3;
            let rgb = (0..bytes).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            let file = encode_jpeg(&Picture { width, height, rgb }, 85);
            let limits = Limits::default();
            let Probed { header, details: Details::Jpeg(details) } =
                Probed::read(&file, &limits).unwrap()
            else {
                panic!("a JPEG")
            };
            let clean = super::super::clean(&file, &details);
            let here = decode(&clean, &header, &limits).unwrap();
            let plain = options(&limits).set_use_unsafe(false);
            assert_eq!(decode_with(&clean, plain, &header).unwrap(), here, "{width}x{height}");
        }
    }
}
