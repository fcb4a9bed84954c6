//! JPEG, through zune-jpeg in strict mode: a truncated file is an error, not a grey rest.

use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::Raw;
use crate::probe::jpeg::{Colours, Details};
use crate::{Header, Limits, Picture, Refused};

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
    let rgb = decode_clean(&clean(bytes, details), options(limits), header)?;
    let (width, height) = (header.width, header.height);
    Ok(Raw { picture: Picture { width, height, rgb }, alpha: None })
}

fn options(limits: &Limits) -> DecoderOptions {
    DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(limits.max_side as usize)
        .set_max_height(limits.max_side as usize)
        .jpeg_set_max_scans(limits.max_scans as usize)
        .jpeg_set_out_colorspace(ColorSpace::RGB)
}

fn decode_clean(
    clean: &[u8],
    options: DecoderOptions,
    header: &Header,
) -> Result<Vec<u8>, Refused> {
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(clean), options);
    let rgb = decoder.decode().map_err(|error| refusal(&error))?;
    let (width, height) = (header.width as usize, header.height as usize);
    if decoder.dimensions() != Some((width, height)) || rgb.len() != width * height * 3 {
        return Err(Refused::new("broken", "the decoder saw another size"));
    }
    Ok(rgb)
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
    use crate::encode_jpeg;
    use crate::probe::{Details as AnyDetails, Probed};

    #[test]
    fn every_cpu_gives_the_same_pixels() {
        for (width, height) in [(64, 48), (65, 33), (7, 9), (16, 200), (333, 17)] {
            let bytes: u32 = width * height * 3;
            let rgb = (0..bytes).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            let file = encode_jpeg(&Picture { width, height, rgb }, 85);
            let limits = Limits::default();
            let Probed { header, details: AnyDetails::Jpeg(details) } =
                Probed::read(&file, &limits).unwrap()
            else {
                panic!("a JPEG")
            };
            let clean = clean(&file, &details);
            let here = decode_clean(&clean, options(&limits), &header).unwrap();
            let plain = options(&limits).set_use_unsafe(false);
            assert_eq!(decode_clean(&clean, plain, &header).unwrap(), here, "{width}x{height}");
        }
    }
}
