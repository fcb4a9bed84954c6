//! Pictures made to cost time, memory or a crash; every one is refused by name, at once.

use std::time::{Duration, Instant};

use pixels::{
    Format, Limits, Picture, decode, decode_rgb_first, encode_jpeg, encode_png, encode_webp, probe,
};
use proptest::prelude::*;

fn reason(bytes: &[u8]) -> &'static str {
    let begun = Instant::now();
    let refused = decode(bytes, &Limits::default()).expect_err("a refusal");
    assert!(begun.elapsed() < Duration::from_secs(1), "{refused} after {:?}", begun.elapsed());
    assert_eq!(decode_rgb_first(bytes, &Limits::default()).unwrap_err(), refused);
    refused.reason
}

/// A picture in which neighbours differ, so that files have data to lose.
fn busy(width: u32, height: u32) -> Picture {
    let rgb =
        (0..width * height * 3).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    Picture { width, height, rgb }
}

fn segment(marker: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff, marker];
    bytes.extend((body.len() as u16 + 2).to_be_bytes());
    bytes.extend(body);
    bytes
}

/// Tables for one grey component: quantisation all 1; one Huffman table each for DC and AC, whose
/// only code is 0.
fn tables() -> Vec<u8> {
    let mut quantisation = vec![0];
    quantisation.extend([1; 64]);
    let mut bytes = segment(0xdb, &quantisation);
    for class in [0x00, 0x10] {
        let mut huffman = vec![class, 1];
        huffman.extend([0; 15]);
        huffman.push(0);
        bytes.extend(segment(0xc4, &huffman));
    }
    bytes
}

fn frame(kind: u8, width: u16, height: u16) -> Vec<u8> {
    let [h1, h0] = height.to_be_bytes();
    let [w1, w0] = width.to_be_bytes();
    segment(kind, &[8, h1, h0, w1, w0, 1, 1, 0x11, 0])
}

fn jpeg(kind: u8, width: u16, height: u16, scans: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff, 0xd8];
    bytes.extend(tables());
    bytes.extend(frame(kind, width, height));
    bytes.extend(scans);
    bytes.extend([0xff, 0xd9]);
    bytes
}

/// A scan header for the lowest coefficient, then `data`.
fn scan(data: &[u8]) -> Vec<u8> {
    let mut bytes = segment(0xda, &[1, 1, 0, 0, 0, 0]);
    bytes.extend(data);
    bytes
}

#[test]
fn a_progressive_jpeg_of_98_empty_scans_is_refused_before_decoding() {
    let bytes = jpeg(0xc2, 6000, 6000, &scan(&[]).repeat(98));
    assert!(bytes.len() < 2292, "{}", bytes.len());
    let begun = Instant::now();
    assert_eq!(reason(&bytes), "too_many_scans");
    assert_eq!(probe(&bytes, &Limits::default()).unwrap_err().reason, "too_many_scans");
    assert!(begun.elapsed() < Duration::from_millis(50));
    // At the cap the scans pass, but not their missing data.
    let bytes = jpeg(0xc2, 3000, 3000, &scan(&[]).repeat(20));
    assert!(probe(&bytes, &Limits::default()).is_ok());
    assert_eq!(reason(&bytes), "truncated");
}

#[test]
fn scans_times_pixels_are_capped_too() {
    // 13 scans of 36 megapixels are less than 20 scans, but more work than 12 of 40.
    let bytes = jpeg(0xc2, 6000, 6000, &scan(&vec![0; 100_000]).repeat(14));
    assert_eq!(reason(&bytes), "too_many_scans");
}

#[test]
fn a_huge_jpeg_with_64_bytes_of_data_is_refused_before_allocating() {
    assert_eq!(reason(&jpeg(0xc0, 12_000, 12_000, &scan(&[0x55; 64]))), "too_many_pixels");
    assert_eq!(reason(&jpeg(0xc0, 6000, 6000, &scan(&[0x55; 64]))), "truncated");
    assert_eq!(reason(&jpeg(0xc0, 65_500, 65_500, &scan(&[0x55; 64]))), "side_too_large");
    assert_eq!(reason(&jpeg(0xc0, 16_000, 100, &scan(&[0x55; 64]))), "aspect_too_large");
    assert_eq!(reason(&jpeg(0xc0, 0, 0, &scan(&[]))), "zero_size");
    assert_eq!(reason(&jpeg(0xc0, 16, 0, &scan(&[]))), "jpeg_dnl");
}

#[test]
fn jpegs_that_are_not_read_say_what_they_are() {
    assert_eq!(reason(&jpeg(0xc3, 8, 8, &scan(&[0; 9]))), "jpeg_lossless");
    assert_eq!(reason(&jpeg(0xc9, 8, 8, &scan(&[0; 9]))), "jpeg_arithmetic");
    assert_eq!(reason(&jpeg(0xc5, 8, 8, &scan(&[0; 9]))), "jpeg_hierarchical");
    let mut twelve = jpeg(0xc1, 8, 8, &scan(&[0; 9]));
    let at = twelve.windows(2).position(|pair| pair == [0xff, 0xc1]).unwrap() + 4;
    twelve[at] = 12;
    assert_eq!(reason(&twelve), "jpeg_precision");
}

#[test]
fn every_truncated_file_is_refused_and_never_filled_with_grey() {
    let picture = busy(64, 48);
    let files = [encode_jpeg(&picture, 90), encode_png(&picture, 6), encode_webp(&picture), gif()];
    for bytes in files {
        assert!(decode(&bytes, &Limits::default()).is_ok());
        for share in [5, 20, 50, 80, 95] {
            let end = bytes.len() * share / 100;
            let refused = decode(&bytes[..end], &Limits::default()).unwrap_err();
            let format = Format::sniff(&bytes).unwrap();
            assert_eq!(refused.reason, "truncated", "{format:?} cut to {share} %: {refused}");
        }
    }
    let jpeg = encode_jpeg(&picture, 90);
    assert_eq!(reason(&jpeg[..jpeg.len() - 2]), "truncated");
}

#[test]
fn metadata_bombs_are_stepped_over() {
    // 64 MiB of zeros, compressed to 64 kB, as iCCP, zTXt and iTXt in front of the data.
    let zeros = zlib_zeros(1 << 26);
    let profile = [&b"p\0\0"[..], &zeros].concat();
    let text = [&b"t\0\0"[..], &zeros].concat();
    let international = [&b"t\0\x01\0\0\0"[..], &zeros].concat();
    let plain = encode_png(&busy(8, 8), 6);
    let mut bytes = plain[..33].to_vec();
    bytes.extend(chunk(*b"iCCP", &profile));
    bytes.extend(chunk(*b"zTXt", &text));
    bytes.extend(chunk(*b"iTXt", &international));
    bytes.extend(&plain[33..]);
    let before = peak_kib();
    assert_eq!(decode(&bytes, &Limits::default()).unwrap(), busy(8, 8));
    if let (Some(before), Some(after)) = (before, peak_kib()) {
        assert!(after - before < 16 << 10, "{} KiB more", after - before);
    }
}

#[test]
fn a_png_with_a_wrong_checksum_or_too_few_rows_is_refused() {
    let plain = encode_png(&busy(8, 8), 6);
    let mut wrong = plain.clone();
    wrong[50] ^= 1;
    assert_eq!(reason(&wrong), "broken");
    // Twice as many rows as there are data for.
    let mut short = plain.clone();
    short[23] = 16;
    let sum = crc(&short[12..29]).to_be_bytes();
    short[29..33].copy_from_slice(&sum);
    assert_eq!(reason(&short), "broken");
}

#[test]
fn a_one_bit_png_of_900_megapixels_is_refused_by_its_header() {
    let mut header = 30_000_u32.to_be_bytes().repeat(2);
    header.extend([1, 0, 0, 0, 0]);
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    bytes.extend(chunk(*b"IHDR", &header));
    bytes.extend(chunk(*b"IDAT", &zlib_zeros(30_000 * 3751)));
    bytes.extend(chunk(*b"IEND", &[]));
    assert_eq!(reason(&bytes), "side_too_large");
    let wide = Limits { max_side: 65_535, ..Limits::default() };
    assert_eq!(decode(&bytes, &wide).unwrap_err().reason, "too_many_pixels");
}

#[test]
fn gif_screens_are_capped_and_further_frames_cost_nothing() {
    let mut screen = gif();
    screen[6..10].copy_from_slice(&[0xff; 4]);
    assert_eq!(reason(&screen), "side_too_large");
    let one = gif();
    let frame = &one[13 + 3 * 256..one.len() - 1];
    let mut many = one[..one.len() - 1].to_vec();
    many.extend(frame.repeat(2000));
    many.push(b';');
    let begun = Instant::now();
    assert_eq!(decode(&many, &Limits::default()), decode(&one, &Limits::default()));
    assert!(begun.elapsed() < Duration::from_millis(200));
}

#[test]
fn a_webp_whose_canvas_lies_about_its_frame_is_refused() {
    let plain = encode_webp(&busy(8, 8));
    let body = &plain[12..];
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((4 + 18 + body.len() as u32).to_le_bytes());
    bytes.extend(b"WEBPVP8X\x0a\0\0\0\0\0\0\0");
    bytes.extend([99, 0, 0, 99, 0, 0]);
    bytes.extend(body);
    assert_eq!(reason(&bytes), "broken");
}

#[test]
fn a_picture_followed_by_something_else_is_that_picture() {
    for bytes in [encode_jpeg(&busy(9, 9), 90), encode_png(&busy(9, 9), 6), gif()] {
        let polyglot = [&bytes[..], b"PK\x03\x04 <script>alert(1)</script>"].concat();
        assert_eq!(decode(&polyglot, &Limits::default()), decode(&bytes, &Limits::default()));
    }
}

#[test]
fn exif_turns_the_picture_and_does_not_survive_encoding() {
    let exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let plain = encode_jpeg(&busy(16, 8), 90);
    let turned = [&plain[..2], &segment(0xe1, exif), &plain[2..]].concat();
    let header = probe(&turned, &Limits::default()).unwrap();
    assert_eq!((header.width, header.height, header.orientation), (16, 8, 6));
    assert_eq!(header.upright_size(), (8, 16));
    let stored = decode(&plain, &Limits::default()).unwrap();
    let upright = decode(&turned, &Limits::default()).unwrap();
    assert_eq!((upright.width, upright.height), (8, 16));
    // The first row of the upright picture is the first column of the stored one, from below.
    assert_eq!(upright.rgb[..3], stored.rgb[7 * 16 * 3..7 * 16 * 3 + 3]);
    assert_eq!(decode_rgb_first(&turned, &Limits::default()).unwrap(), stored);
    assert!(!encode_jpeg(&upright, 90).windows(4).any(|four| four == b"Exif"));
}

#[test]
fn stray_bytes_and_bad_comments_between_jpeg_headers_do_no_harm() {
    let plain = encode_jpeg(&busy(16, 8), 90);
    let stray = [&plain[..2], &[0xff, 0xfe, 0, 0], b"stray bytes, many", &plain[2..]].concat();
    assert_eq!(decode(&stray, &Limits::default()), decode(&plain, &Limits::default()));
}

#[test]
fn adobes_word_decides_what_the_components_mean() {
    // 8x8 pixels of one colour: every component's coefficient codes as "no difference", so all
    // samples are 128.
    let adobe =
        |transform| segment(0xee, &[b"Adobe\0\x64\0\0\0\0".as_slice(), &[transform]].concat());
    let flat = |components: u8, transform: Option<u8>| {
        let mut bytes = vec![0xff, 0xd8];
        bytes.extend(transform.map(adobe).unwrap_or_default());
        bytes.extend(tables());
        let mut frame = vec![8, 0, 8, 0, 8, components];
        let mut header = vec![components];
        for id in 1..=components {
            frame.extend([id, 0x11, 0]);
            header.extend([id, 0]);
        }
        header.extend([0, 63, 0]);
        bytes.extend(segment(0xc0, &frame));
        bytes.extend(segment(0xda, &header));
        // Two zero bits a component, then ones.
        bytes.push(if components == 3 { 0x03 } else { 0x00 });
        bytes.extend([0xff, 0xd9]);
        decode(&bytes, &Limits::default()).unwrap().rgb[..3].to_vec()
    };
    assert_eq!(flat(3, None), [128, 128, 128]);
    assert_eq!(flat(3, Some(0)), [128, 128, 128]);
    // CMYK stored inverted: 128 * 128 / 255.
    assert_eq!(flat(4, Some(0)), [64, 64, 64]);
    assert_eq!(flat(4, None), [64, 64, 64]);
    // YCCK: 255 - R becomes the stored C.
    assert_eq!(flat(4, Some(2)), [64, 64, 64]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn damaged_files_never_crash(
        kind in 0_usize..4,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
        whole in any::<bool>(),
    ) {
        let picture = busy(40, 24);
        let mut bytes = match kind {
            0 => encode_jpeg(&picture, 80),
            1 => encode_png(&picture, 6),
            2 => encode_webp(&picture),
            _ => gif(),
        };
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        if !whole {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(picture) = decode(&bytes, &Limits::default()) {
            prop_assert_eq!(picture.rgb.len(), picture.width as usize * picture.height as usize * 3);
        }
    }

    #[test]
    fn noise_behind_magic_bytes_never_crashes(
        kind in 0_usize..4,
        noise in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let magic: [&[u8]; 4] =
            [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\xff\0\0\0WEBPVP8", b"GIF89a"];
        let _ = decode(&[magic[kind], &noise].concat(), &Limits::default());
    }
}

/// A GIF of 32x24 pixels in 256 greys, with 9-bit codes that are never compressed.
fn gif() -> Vec<u8> {
    let mut bytes = b"GIF89a\x20\0\x18\0\xf7\0\0".to_vec();
    bytes.extend((0..=255_u8).flat_map(|gray| [gray; 3]));
    bytes.extend(b",\0\0\0\0\x20\0\x18\0\0\x08");
    let mut codes = Vec::new();
    for index in 0..32 * 24_u32 {
        // A clear code before the codes would grow to 10 bits.
        if index % 250 == 0 {
            codes.push(256);
        }
        codes.push(index * 37 % 256);
    }
    codes.push(257);
    let (mut held, mut bits) = (0_u32, 0);
    let mut data = Vec::new();
    for code in codes {
        bits |= code << held;
        held += 9;
        while held >= 8 {
            data.push(bits as u8);
            bits >>= 8;
            held -= 8;
        }
    }
    data.push(bits as u8);
    for block in data.chunks(255) {
        bytes.push(block.len() as u8);
        bytes.extend(block);
    }
    bytes.extend(b"\0;");
    bytes
}

fn chunk(kind: [u8; 4], body: &[u8]) -> Vec<u8> {
    let mut bytes = (body.len() as u32).to_be_bytes().to_vec();
    bytes.extend(kind);
    bytes.extend(body);
    let sum = crc(&bytes[4..]);
    bytes.extend(sum.to_be_bytes());
    bytes
}

/// CRC-32 as PNG has it, bit by bit.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| {
            if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 }
        })
    })
}

/// A zlib stream of about `length` zeros at deflate's best ratio: one fixed-code block of a literal
/// and runs of 258, 13 bits a run. The checksum is left out: nobody may come that far.
fn zlib_zeros(length: usize) -> Vec<u8> {
    let mut bytes = vec![0x78, 0x9c];
    let (mut held, mut bits) = (0, 0_u64);
    let mut put = |value: u64, count: u32, bytes: &mut Vec<u8>| {
        bits |= value << held;
        held += count;
        while held >= 8 {
            bytes.push(bits as u8);
            bits >>= 8;
            held -= 8;
        }
    };
    put(0b011, 3, &mut bytes);
    // Literal 0 is 00110000, length 258 is code 285 = 11000101, distance 1 is 00000; codes go
    // with their upper bit first.
    put(0b0000_1100, 8, &mut bytes);
    for _ in 0..length / 258 {
        put(0b1010_0011, 8, &mut bytes);
        put(0, 5, &mut bytes);
    }
    put(0, 7 + 8, &mut bytes);
    bytes
}

/// The most memory this process has held, where the system says so.
fn peak_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
