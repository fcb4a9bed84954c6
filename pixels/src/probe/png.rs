//! PNG headers: IHDR first, then chunk by chunk without looking inside (PNG, third edition, 5.3).

use super::{Format, Header, Probed, be32, exif};
use crate::Refused;

/// Deflate codes at most 258 bytes in 2 bits, so no stream expands more than 1032 times.
const MAX_EXPANSION: u64 = 1032;

/// What the decoder wants to know besides size and orientation.
pub(crate) struct Details {
    /// Whether the data chunks can hold every row at deflate's best.
    pub(crate) plausible: bool,
    /// Whether the picture is grey without an alpha channel.
    pub(crate) gray: bool,
}

/// Reads IHDR and walks over the chunks for the data's length and an `eXIf`.
pub(crate) fn read(bytes: &[u8]) -> Result<Probed, Refused> {
    let truncated = || Refused::new("truncated", "in IHDR");
    if bytes.get(12..16).ok_or_else(truncated)? != b"IHDR" {
        return Err(Refused::new("broken", "the first chunk is not IHDR"));
    }
    let width = be32(bytes, 16).ok_or_else(truncated)?;
    let height = be32(bytes, 20).ok_or_else(truncated)?;
    let &[depth, color, ..] = bytes.get(24..29).ok_or_else(truncated)? else {
        return Err(truncated());
    };
    let channels = match color {
        0 | 3 => 1,
        2 => 3,
        4 => 2,
        6 => 4,
        _ => return Err(Refused::new("broken", format!("colour type {color}"))),
    };
    let mut orientation = 1;
    let mut data_bytes = 0_u64;
    let mut at = 8;
    while let (Some(length), Some(kind)) = (be32(bytes, at), bytes.get(at + 4..at + 8)) {
        let start = at + 8;
        let Some(end) = start.checked_add(length as usize) else { break };
        match kind {
            b"IDAT" => data_bytes += (end.min(bytes.len()) - start) as u64,
            b"eXIf" => {
                if let Some(segment) = bytes.get(start..end) {
                    orientation = exif::orientation(segment);
                }
            }
            b"IEND" => break,
            _ => {}
        }
        let Some(next) = end.checked_add(4) else { break };
        at = next;
    }
    let row_bits = u64::from(width) * channels * u64::from(depth);
    let plausible = u128::from(row_bits.div_ceil(8)) * u128::from(height)
        <= u128::from(data_bytes) * u128::from(MAX_EXPANSION);
    let header = Header { format: Format::Png, width, height, orientation };
    Ok(Probed { header, details: super::Details::Png(Details { plausible, gray: color == 0 }) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(kind: [u8; 4], body: &[u8]) -> Vec<u8> {
        let mut bytes = (body.len() as u32).to_be_bytes().to_vec();
        bytes.extend(kind);
        bytes.extend(body);
        bytes.extend([0; 4]);
        bytes
    }

    fn png(width: u32, height: u32, chunks: &[Vec<u8>]) -> Vec<u8> {
        let mut header = width.to_be_bytes().to_vec();
        header.extend(height.to_be_bytes());
        header.extend([1, 0, 0, 0, 0]);
        let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
        bytes.extend(chunk(*b"IHDR", &header));
        bytes.extend(chunks.concat());
        bytes
    }

    #[test]
    fn orientation_is_found_on_either_side_of_the_data() {
        let exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x03\0\0\0";
        let after = png(5, 7, &[chunk(*b"IDAT", &[0; 9]), chunk(*b"eXIf", exif)]);
        let header = read(&after).unwrap().header;
        assert_eq!((header.width, header.height, header.orientation), (5, 7, 3));
    }

    #[test]
    fn a_gigapixel_of_one_bit_in_few_bytes_is_implausible() {
        let probed = read(&png(30_000, 30_000, &[chunk(*b"IDAT", &vec![0; 109_000])])).unwrap();
        assert!(matches!(
            probed.details,
            super::super::Details::Png(Details { plausible: false, .. })
        ));
        let probed = read(&png(30_000, 30_000, &[chunk(*b"IDAT", &vec![0; 110_000])])).unwrap();
        assert!(matches!(
            probed.details,
            super::super::Details::Png(Details { plausible: true, .. })
        ));
    }

    #[test]
    fn a_chunk_length_beyond_the_file_ends_the_walk() {
        let mut bytes = png(5, 7, &[]);
        bytes.extend([0xff, 0xff, 0xff, 0xff]);
        bytes.extend(b"tEXt");
        assert_eq!(read(&bytes).unwrap().header.width, 5);
    }
}
