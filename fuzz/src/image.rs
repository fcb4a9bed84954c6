//! A picture from the network: header, decoders, and the pictures of what was decoded.

use pixels::{Limits, decode, decode_rgb_first, encode_jpeg, probe};

/// Whatever is decoded has the size that its header says, and is encoded and decoded again.
pub fn run(data: &[u8]) {
    // Small, so that an input costs little: what is refused at 40 megapixels is refused here.
    let limits = Limits { max_side: 4096, max_pixels: 1 << 18, ..Limits::default() };
    let header = probe(data, &limits);
    let upright = decode(data, &limits);
    let stored = decode_rgb_first(data, &limits);
    let Ok(header) = header else {
        assert!(upright.is_err() && stored.is_err(), "decoded without a header");
        return;
    };
    for picture in [&upright, &stored].into_iter().flatten() {
        let (w, h) = (header.width, header.height);
        let size = (picture.width, picture.height);
        assert!(size == (w, h) || size == (h, w), "{size:?} of a header of {w}x{h}");
        assert_eq!(picture.rgb.len(), w as usize * h as usize * 3);
    }
    if let Ok(picture) = upright {
        let again = decode(&encode_jpeg(&picture, 90), &limits).expect("our own JPEG");
        assert_eq!((again.width, again.height), (picture.width, picture.height));
    }
}
