//! Broken and hostile pictures, made from good ones or from nothing.

use pixels::{Limits, Picture};

/// The same picture without its transparency.
pub(crate) fn on_white(png: &[u8]) -> Vec<u8> {
    pixels::decode(png, &Limits::default()).map(|p| pixels::encode_png(&p, 6)).unwrap_or_default()
}

/// The same picture as a JPEG on white.
pub(crate) fn as_jpeg(png: &[u8]) -> Vec<u8> {
    pixels::decode(png, &Limits::default()).map(|p| pixels::encode_jpeg(&p, 90)).unwrap_or_default()
}

/// A JPEG that stops in the middle of its scan.
pub(crate) fn truncated(png: &[u8]) -> Vec<u8> {
    let mut bytes = as_jpeg(png);
    bytes.truncate(bytes.len() / 2);
    bytes
}

/// Eight pixels square.
pub(crate) fn tiny() -> Vec<u8> {
    png(8, 8, 90)
}

/// 728 × 90, as advertisements are; each of another grey, so that they are not one picture.
pub(crate) fn banner(n: usize) -> Vec<u8> {
    png(728, 90, (40 + 5 * n) as u8)
}

/// A header that declares 30,000 × 30,000 pixels and almost no data behind it.
pub(crate) fn huge() -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut header = Vec::new();
    header.extend(30_000_u32.to_be_bytes());
    header.extend(30_000_u32.to_be_bytes());
    header.extend([1, 0, 0, 0, 0]);
    chunk(&mut bytes, *b"IHDR", &header);
    chunk(&mut bytes, *b"IDAT", &[0x78, 0x9c, 0x03, 0, 0, 0, 0, 1]);
    chunk(&mut bytes, *b"IEND", &[]);
    bytes
}

/// A progressive JPEG of 6000 × 6000 pixels with 98 scans that hold nothing: about 2 kB that cost
/// an unguarded decoder seconds.
pub(crate) fn scan_bomb() -> Vec<u8> {
    let mut bytes = vec![0xff, 0xd8];
    let mut segment = |marker: u8, body: &[u8]| {
        bytes.extend([0xff, marker]);
        bytes.extend((body.len() as u16 + 2).to_be_bytes());
        bytes.extend(body);
    };
    segment(0xdb, &[&[0_u8][..], &[1; 64]].concat());
    segment(0xc2, &[8, 0x17, 0x70, 0x17, 0x70, 1, 1, 0x11, 0]);
    // One code of length 1 for symbol 0, in a DC and an AC table.
    let mut table = vec![0_u8; 18];
    table[1] = 1;
    segment(0xc4, &table);
    table[0] = 0x10;
    segment(0xc4, &table);
    for scan in 0..98_u8 {
        let band = if scan == 0 { [0, 0] } else { [1, 63] };
        segment(0xda, &[1, 1, 0, band[0], band[1], 0]);
    }
    bytes.extend([0xff, 0xd9]);
    bytes
}

fn png(width: u32, height: u32, grey: u8) -> Vec<u8> {
    let rgb = vec![grey; (width * height * 3) as usize];
    pixels::encode_png(&Picture { width, height, rgb }, 6)
}

fn chunk(out: &mut Vec<u8>, kind: [u8; 4], body: &[u8]) {
    out.extend((body.len() as u32).to_be_bytes());
    let start = out.len();
    out.extend(kind);
    out.extend(body);
    let crc = crc32(&out[start..]);
    out.extend(crc.to_be_bytes());
}

/// CRC-32 as PNG has it (ISO 3309).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |mut crc, byte| {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
        crc
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(bytes: &[u8]) -> &'static str {
        match pixels::decode(bytes, &Limits::default()) {
            Ok(picture) => panic!("{} × {} was decoded", picture.width, picture.height),
            Err(refused) => refused.reason,
        }
    }

    #[test]
    fn the_crc_is_pngs() {
        assert_eq!(crc32(b"IEND"), 0xae42_6082);
    }

    #[test]
    fn the_scan_bomb_is_small_and_refused() {
        let bomb = scan_bomb();
        assert!(bomb.len() < 2_300, "{}", bomb.len());
        assert!(matches!(reason(&bomb), "too_many_scans" | "truncated" | "too_many_pixels"));
    }

    #[test]
    fn the_huge_header_is_refused_before_its_pixels() {
        assert_eq!(reason(&huge()), "side_too_large");
    }
}
