//! A baseline JPEG encoder for one kind of file: 4:2:0, standard tables, nothing but pixels.
//!
//! Every step is the integer arithmetic of libjpeg's defaults (its accurate DCT, its rounding of
//! colours and of chroma means, its filling of edges), so that the file is, byte for byte, what
//! OpenCV's `imwrite` gives for the same pixels and quality, on every CPU.

mod colour;
mod dct;
mod huffman;
mod markers;
mod tables;

pub(crate) use tables::ZIGZAG;

use pulp::{Arch, Simd, WithSimd};

use colour::{ACROSS, DOWN, Strips};
use dct::{Coded, Divisors};
use huffman::{Codes, Scan};

/// Encodes `rgb`, which has `width * height` pixels; neither side is 0.
pub(super) fn encode(rgb: &[u8], width: u16, height: u16, quality: u8) -> Vec<u8> {
    Arch::new().dispatch(Job { rgb, width, height, quality })
}

/// The same code for every instruction set: the dispatch only lets the compiler use wider ones.
struct Job<'a> {
    rgb: &'a [u8],
    width: u16,
    height: u16,
    quality: u8,
}

impl WithSimd for Job<'_> {
    type Output = Vec<u8>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> Vec<u8> {
        self.run()
    }
}

impl Job<'_> {
    #[inline(always)]
    fn run(&self) -> Vec<u8> {
        let quantisers = tables::quantisers(self.quality);
        let divisors = quantisers.each_ref().map(Divisors::new);
        let codes = [0, 1].map(|id| Codes::new(&tables::DC[id], &tables::AC[id]));
        let mut out = Vec::with_capacity(self.rgb.len() / 4 + 1024);
        markers::head(&mut out, self.width, self.height, &quantisers);

        let (width, height) = (self.width as usize, self.height as usize);
        let mut scan = Scan::new();
        let mut before = [0; 3];
        let mut edge = vec![[0; ACROSS * 3]; DOWN];
        let mut strips = Strips::new();
        let mut coded = [Coded::new(), Coded::new(), Coded::new()];
        for y in (0..height).step_by(DOWN) {
            let chroma_rows = (height - y).div_ceil(2).min(8);
            for x in (0..width).step_by(ACROSS) {
                if width - x < ACROSS {
                    for (line, padded) in edge.iter_mut().enumerate() {
                        self.pad(x, (y + line).min(height - 1), padded);
                    }
                    strips.fill(|line| &edge[line], chroma_rows);
                } else {
                    let row = |line: usize| self.row(x, (y + line).min(height - 1));
                    strips.fill(row, chroma_rows);
                }
                for (coded, strip) in coded.iter_mut().zip(&strips.luma) {
                    coded.fill(strip, &divisors[0]);
                }
                coded[2].fill(&strips.chroma, &divisors[1]);

                // Blocks beyond the last that has a pixel hold nothing.
                let columns = (width - x).div_ceil(8).min(8);
                let rows = (height - y).div_ceil(8).min(2);
                for mcu in 0..columns.div_ceil(2) {
                    let (left, right) = (mcu * 2, mcu * 2 + 1);
                    // Strip, block and component.
                    let blocks = [
                        (0, left, 0),
                        (0, right, 0),
                        (1, left, 0),
                        (1, right, 0),
                        (2, mcu, 1),
                        (2, mcu + 4, 2),
                    ];
                    for (strip, block, component) in blocks {
                        let codes = &codes[component.min(1)];
                        if component > 0 || strip < rows && block < columns {
                            scan.block(&coded[strip], block, codes, &mut before[component]);
                        } else {
                            scan.empty_block(codes);
                        }
                    }
                }
            }
            scan.drain(&mut out);
        }
        scan.finish(&mut out);
        markers::tail(&mut out);
        out
    }

    /// 64 pixels of a row, all inside the picture.
    #[inline(always)]
    fn row(&self, x: usize, y: usize) -> &[u8; ACROSS * 3] {
        let at = (y * self.width as usize + x) * 3;
        self.rgb[at..].first_chunk().expect("64 pixels of the row are left")
    }

    /// The rest of a row, its last pixel repeated.
    #[inline(always)]
    fn pad(&self, x: usize, y: usize, padded: &mut [u8; ACROSS * 3]) {
        let width = self.width as usize;
        let rest = &self.rgb[(y * width + x) * 3..(y + 1) * width * 3];
        let last = *rest.last_chunk::<3>().expect("a pixel is left");
        padded[..rest.len()].copy_from_slice(rest);
        for pixel in padded[rest.len()..].as_chunks_mut::<3>().0 {
            *pixel = last;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_instruction_set_gives_the_same_bytes(
            width in 1_u16..150,
            height in 1_u16..40,
            quality in 1_u8..=100,
            seed in any::<u32>(),
        ) {
            let bytes = u32::from(width) * u32::from(height) * 3;
            let noise = |i: u32| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 24) as u8;
            let rgb: Vec<u8> = (0..bytes).map(noise).collect();
            let plain = Job { rgb: &rgb, width, height, quality }.run();
            prop_assert_eq!(encode(&rgb, width, height, quality), plain);
        }
    }
}
