//! The segments around the coded data (T.81, annex B, and JFIF 1.01), in libjpeg's order.

use super::tables::{AC, DC, Listed, ZIGZAG};

/// All that stands before the entropy-coded segment.
pub(super) fn head(out: &mut Vec<u8>, width: u16, height: u16, quantisers: &[[u8; 64]; 2]) {
    out.extend(b"\xff\xd8");
    // Version 1.01, pixels without a density, no thumbnail.
    segment(out, 0xe0, b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0");
    for (id, table) in (0..).zip(quantisers) {
        let mut listed = vec![id];
        listed.extend(ZIGZAG.map(|natural| table[natural as usize]));
        segment(out, 0xdb, &listed);
    }
    let [[h1, h0], [w1, w0]] = [height.to_be_bytes(), width.to_be_bytes()];
    // Y at 2x2 with table 0; Cb and Cr at 1x1 with table 1.
    segment(out, 0xc0, &[8, h1, h0, w1, w0, 3, 1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1]);
    for id in [0, 1] {
        for (class, Listed { lengths, symbols }) in [(0, &DC[id]), (0x10, &AC[id])] {
            let mut listed = vec![class | id as u8];
            listed.extend(lengths);
            listed.extend(*symbols);
            segment(out, 0xc4, &listed);
        }
    }
    segment(out, 0xda, &[3, 1, 0x00, 2, 0x11, 3, 0x11, 0, 63, 0]);
}

/// The end of the file.
pub(super) fn tail(out: &mut Vec<u8>) {
    out.extend(b"\xff\xd9");
}

fn segment(out: &mut Vec<u8>, marker: u8, content: &[u8]) {
    out.extend([0xff, marker]);
    out.extend((content.len() as u16 + 2).to_be_bytes());
    out.extend(content);
}
