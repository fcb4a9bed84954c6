//! Entropy coding: blocks to bits (T.81, F.1.2), and bits to stuffed bytes.

use memchr::memchr;

use super::dct::Coded;
use super::tables::Listed;

/// Codes of one component class, each with room for the value bits that follow it.
pub(super) struct Codes {
    /// By size.
    dc: [Code; 16],
    /// By run * 16 + size.
    ac: [Code; 256],
}

/// A code shifted left by its symbol's size (upper 27 bits), and the length of both (lower five).
#[derive(Clone, Copy)]
struct Code(u32);

impl Code {
    fn followed_by(self, value: u32) -> (u32, u32) {
        (self.0 >> 5 | value, self.0 & 31)
    }
}

impl Codes {
    pub(super) fn new(dc: &Listed, ac: &Listed) -> Self {
        Self { dc: codes(dc), ac: codes(ac) }
    }
}

/// Codes by symbol (T.81, C.2): counted up in the order of the list, doubled at each new length.
fn codes<const N: usize>(Listed { lengths, symbols }: &Listed) -> [Code; N] {
    let mut codes = [Code(0); N];
    let mut symbols = symbols.iter();
    let mut code = 0;
    for (length, &count) in (1..).zip(lengths) {
        for &symbol in symbols.by_ref().take(count as usize) {
            let size = u32::from(symbol & 15);
            codes[symbol as usize] = Code((code << size) << 5 | (length + size));
            code += 1;
        }
        code <<= 1;
    }
    codes
}

/// The entropy-coded segment, in the making.
pub(super) struct Scan {
    /// The last `64 - free` bits are waiting; what is above them has been written.
    bits: u64,
    free: u32,
    /// Whole words that are not stuffed yet.
    words: Vec<u8>,
}

impl Scan {
    pub(super) fn new() -> Self {
        Self { bits: 0, free: 64, words: Vec::with_capacity(1 << 14) }
    }

    /// Codes block `lane`, with the DC as a difference to `before`, which becomes this block's.
    #[inline(always)]
    pub(super) fn block(&mut self, coded: &Coded, lane: usize, codes: &Codes, before: &mut i16) {
        let dc = coded.dc[lane];
        let difference = i32::from(dc) - i32::from(*before);
        *before = dc;
        let size = 32 - difference.unsigned_abs().leading_zeros();
        let low = (difference + (difference >> 31)) as u32 & ((1 << size) - 1);
        self.put(codes.dc[size as usize & 15].followed_by(low));

        let mut left = coded.nonzero[lane] & !1;
        let mut last = 0;
        while left != 0 {
            let at = left.trailing_zeros();
            left &= left - 1;
            let mut run = at - last - 1;
            last = at;
            while run > 15 {
                self.put(codes.ac[0xf0].followed_by(0));
                run -= 16;
            }
            let value = u32::from(coded.values[at as usize & 63][lane]);
            let symbol = run * 16 + (value >> 12);
            self.put(codes.ac[symbol as usize & 255].followed_by(value & 0xfff));
        }
        if last != 63 {
            self.put(codes.ac[0].followed_by(0));
        }
    }

    /// Codes a block beyond the picture's edge: the DC of the one before, nothing else.
    #[inline(always)]
    pub(super) fn empty_block(&mut self, codes: &Codes) {
        self.put(codes.dc[0].followed_by(0));
        self.put(codes.ac[0].followed_by(0));
    }

    #[inline(always)]
    fn put(&mut self, (value, length): (u32, u32)) {
        let value = u64::from(value);
        if length < self.free {
            self.bits = self.bits << length | value;
            self.free -= length;
        } else {
            let rest = length - self.free;
            let word = self.bits << self.free | value >> rest;
            self.words.extend_from_slice(&word.to_be_bytes());
            // The upper bits of `value` are written, and leave with the next word's shifts.
            self.bits = value;
            self.free = 64 - rest;
        }
    }

    /// Moves whole words to `out`, each 0xff followed by 0 (T.81, B.1.1.5).
    pub(super) fn drain(&mut self, out: &mut Vec<u8>) {
        let mut rest = self.words.as_slice();
        while let Some(at) = memchr(0xff, rest) {
            let (stuffed, after) = rest.split_at(at + 1);
            out.extend_from_slice(stuffed);
            out.push(0);
            rest = after;
        }
        out.extend_from_slice(rest);
        self.words.clear();
    }

    /// Fills the last byte with ones and moves all that is left to `out`.
    pub(super) fn finish(mut self, out: &mut Vec<u8>) {
        self.put((0x7f, 7));
        let waiting = 64 - self.free;
        if waiting >= 8 {
            let word = self.bits << self.free;
            self.words.extend_from_slice(&word.to_be_bytes()[..waiting as usize / 8]);
        }
        self.drain(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::jpeg::tables::{AC, DC};

    fn coded(block: &Coded, before: i16) -> Vec<u8> {
        let codes = Codes::new(&DC[0], &AC[0]);
        let mut scan = Scan::new();
        scan.block(block, 0, &codes, &mut { before });
        let mut out = Vec::new();
        scan.finish(&mut out);
        out
    }

    #[test]
    fn a_flat_block_is_a_difference_and_an_end() {
        let mut block = Coded::new();
        block.dc[0] = 5;
        // 0 difference: 00, end of block: 1010, ones.
        assert_eq!(coded(&block, 5), [0b0010_1011]);
        // 5: size 3 is 100, then 101. -5: 100 and 010.
        assert_eq!(coded(&block, 0), [0b1001_0110, 0b1011_1111]);
        assert_eq!(coded(&block, 10), [0b1000_1010, 0b1011_1111]);
    }

    #[test]
    fn a_long_run_takes_codes_of_sixteen_zeros_and_the_last_place_needs_no_end() {
        let mut block = Coded::new();
        block.nonzero[0] = 1 << 63;
        block.values[63][0] = 1 << 12 | 1;
        // 62 zeros: three times sixteen (11111111001), then 14 zeros and size 1 (1111111111101011).
        let bits = ["00", "11111111001", "11111111001", "11111111001", "1111111111101011", "1"];
        let bits = bits.concat();
        let mut expected = Vec::new();
        for byte in bits.as_bytes().chunks(8) {
            let digits = std::str::from_utf8(byte).unwrap();
            let byte = u8::from_str_radix(&format!("{digits:1<8}"), 2).unwrap();
            expected.push(byte);
            if byte == 0xff {
                expected.push(0);
            }
        }
        assert_eq!(coded(&block, 0), expected);
    }

    #[test]
    fn words_of_ones_are_stuffed() {
        let mut scan = Scan::new();
        for _ in 0..5 {
            scan.put((0x3ff_ffff, 26));
        }
        let mut out = Vec::new();
        scan.finish(&mut out);
        assert_eq!(out, [0xff, 0].repeat(17));
    }
}
