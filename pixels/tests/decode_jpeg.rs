//! JPEG files of every kind that is decoded by our own decoder: the pixels are libjpeg-turbo's.
//!
//! The files are left in `jpegs` of cargo's folder for tests; `bench/interop/opencv_jpeg_pixels.py`
//! decodes them with OpenCV and Pillow and says that every digest below is theirs.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use pixels::img2dataset::{Means, Mode, decode_resized};
use pixels::{Limits, decode};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

/// Codes by symbol, and the lengths and symbols of their table.
struct Huffman {
    codes: HashMap<u8, (u32, u32)>,
    lengths: [u8; 16],
    symbols: Vec<u8>,
}

impl Huffman {
    fn new(lengths: [u8; 16], symbols: Vec<u8>) -> Self {
        let (mut codes, mut code, mut next) = (HashMap::new(), 0, symbols.iter());
        for (length, &count) in (1..).zip(&lengths) {
            for &symbol in next.by_ref().take(count.into()) {
                codes.insert(symbol, (code, length));
                code += 1;
            }
            code <<= 1;
        }
        assert!(next.next().is_none());
        Self { codes, lengths, symbols }
    }

    /// Twelve sizes, codes of 2 to 9 bits.
    fn dc() -> Self {
        Self::new([0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0], (0..12).collect())
    }

    /// All runs and sizes, codes of 3 to 16 bits; short runs of small values first.
    fn ac() -> Self {
        let all = (0..16_u8).flat_map(|run| (1..=10).map(move |size| run << 4 | size));
        let mut symbols: Vec<u8> = all.chain([0xf0]).collect();
        symbols.sort_by_key(|symbol| ((symbol >> 4) + (symbol & 15) * 2, *symbol));
        symbols.insert(0, 0);
        Self::new([0, 0, 2, 2, 2, 2, 2, 2, 4, 8, 16, 16, 16, 16, 16, 58], symbols)
    }

    fn listed(&self, class: u8) -> Vec<u8> {
        [&[class][..], &self.lengths, &self.symbols].concat()
    }
}

/// A file in the making.
struct Bits {
    out: Vec<u8>,
    held: u32,
    count: u32,
}

impl Bits {
    fn put(&mut self, value: u32, length: u32) {
        for at in (0..length).rev() {
            self.held = self.held << 1 | (value >> at & 1);
            self.count += 1;
            if self.count == 8 {
                self.out.push(self.held as u8);
                if self.held as u8 == 0xff {
                    self.out.push(0);
                }
                self.count = 0;
            }
        }
    }

    fn fill(&mut self) {
        while self.count != 0 {
            self.put(1, 1);
        }
    }

    fn coefficient(&mut self, huffman: &Huffman, run: u8, value: i32) {
        let size = 32 - value.unsigned_abs().leading_zeros();
        let (code, length) = huffman.codes[&(run << 4 | size as u8)];
        self.put(code, length);
        let low = if value < 0 { value - 1 } else { value };
        self.put(low as u32 & ((1 << size) - 1), size);
    }
}

struct Noise(u32);

impl Noise {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((u64::from(self.0) * u64::from(bound)) >> 32) as u32
    }
}

/// What a file is like.
struct Kind {
    name: &'static str,
    frame: u8,
    size: (u16, u16),
    /// Blocks of an MCU, across and down, by component.
    sampling: &'static [(u8, u8)],
    restart: u16,
    /// The most coefficients of a block.
    busy: u32,
    /// A scan for each component.
    apart: bool,
}

fn segment(out: &mut Vec<u8>, marker: u8, body: &[u8]) {
    out.extend([0xff, marker]);
    out.extend((body.len() as u16 + 2).to_be_bytes());
    out.extend(body);
}

/// A file of random coefficients.
fn file(kind: &Kind) -> Vec<u8> {
    let (dc, ac) = (Huffman::dc(), Huffman::ac());
    let mut out = b"\xff\xd8".to_vec();
    segment(&mut out, 0xe0, b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0");
    for table in 0..2_u8 {
        let quantisers: Vec<u8> = (0..64).map(|at| 2 + table + at / 4).collect();
        segment(&mut out, 0xdb, &[&[table][..], &quantisers].concat());
    }
    let count = kind.sampling.len() as u8;
    let mut frame = vec![8];
    frame.extend(kind.size.1.to_be_bytes());
    frame.extend(kind.size.0.to_be_bytes());
    frame.push(count);
    for (id, (h, v)) in (1..).zip(kind.sampling) {
        frame.extend([id, h << 4 | v, u8::from(id > 1)]);
    }
    segment(&mut out, kind.frame, &frame);
    segment(&mut out, 0xc4, &dc.listed(0));
    segment(&mut out, 0xc4, &ac.listed(0x10));
    if kind.restart > 0 {
        segment(&mut out, 0xdd, &kind.restart.to_be_bytes());
    }
    let mut noise = Noise(kind.size.0.into());
    let planes: Vec<Plane> =
        (0..kind.sampling.len()).map(|at| Plane::new(kind, at, &mut noise)).collect();
    let mut bits = Bits { out, held: 0, count: 0 };
    let all: Vec<usize> = (0..planes.len()).collect();
    let whole = Spectrum { first: 0, last: 63, high: 0, low: 0 };
    match kind.frame {
        0xc2 => {
            let dc = |high, low| Spectrum { first: 0, last: 0, high, low };
            let scans = [(1, 5, 0, 2), (6, 63, 0, 2), (1, 63, 2, 1), (1, 63, 1, 0)];
            scan(&mut bits, kind, &planes, &all, &dc(0, 1));
            scan(&mut bits, kind, &planes, &all, &dc(1, 0));
            for (first, last, high, low) in scans {
                for &at in &all {
                    scan(&mut bits, kind, &planes, &[at], &Spectrum { first, last, high, low });
                }
            }
        }
        _ if kind.apart => all.iter().for_each(|&at| scan(&mut bits, kind, &planes, &[at], &whole)),
        _ => scan(&mut bits, kind, &planes, &all, &whole),
    }
    bits.out.extend([0xff, 0xd9]);
    bits.out
}

/// The coefficients of a component, in zigzag order.
struct Plane {
    sampling: (usize, usize),
    /// Blocks across with those that fill up the last MCU, and without them; blocks down without.
    across: usize,
    own: (usize, usize),
    blocks: Vec<[i32; 64]>,
}

/// MCUs across and down, and the most blocks of one.
fn mcus(kind: &Kind) -> ((usize, usize), (usize, usize)) {
    let most = |of: fn(&(u8, u8)) -> u8| usize::from(kind.sampling.iter().map(of).max().unwrap());
    let most = if kind.sampling.len() == 1 { (1, 1) } else { (most(|s| s.0), most(|s| s.1)) };
    let (width, height) = (usize::from(kind.size.0), usize::from(kind.size.1));
    ((width.div_ceil(8 * most.0), height.div_ceil(8 * most.1)), most)
}

impl Plane {
    fn new(kind: &Kind, at: usize, noise: &mut Noise) -> Self {
        let ((mcus_across, mcus_down), most) = mcus(kind);
        let (h, v) = if most == (1, 1) { (1, 1) } else { kind.sampling[at] };
        let (h, v) = (usize::from(h), usize::from(v));
        let own =
            |pixels: u16, own: usize, most: usize| (usize::from(pixels) * own).div_ceil(8 * most);
        let across = mcus_across * h;
        Self {
            sampling: (h, v),
            across,
            own: (own(kind.size.0, h, most.0), own(kind.size.1, v, most.1)),
            blocks: (0..across * mcus_down * v).map(|_| block(noise, kind.busy)).collect(),
        }
    }
}

/// Many small AC coefficients, few large ones.
fn block(noise: &mut Noise, busy: u32) -> [i32; 64] {
    let mut block = [0; 64];
    block[0] = noise.below(300) as i32 - 150;
    let mut at = 0;
    for _ in 0..noise.below(busy + 1) {
        let run = if noise.below(8) == 0 { noise.below(40) } else { noise.below(3) };
        at += run as usize + 1;
        if at > 63 {
            break;
        }
        let bound = if noise.below(30) == 0 { 300 } else { 1 << noise.below(6) };
        let value = noise.below(bound) as i32 + 1;
        block[at] = if noise.below(2) == 0 { value } else { -value };
    }
    block
}

/// What a scan brings.
struct Spectrum {
    first: usize,
    last: usize,
    high: u8,
    low: u8,
}

fn scan(bits: &mut Bits, kind: &Kind, planes: &[Plane], which: &[usize], spectrum: &Spectrum) {
    let mut header = vec![which.len() as u8];
    header.extend(which.iter().flat_map(|&at| [at as u8 + 1, 0]));
    header.extend([spectrum.first as u8, spectrum.last as u8, spectrum.high << 4 | spectrum.low]);
    segment(&mut bits.out, 0xda, &header);
    let (dc, ac) = (Huffman::dc(), Huffman::ac());
    let alone = which.len() == 1;
    let (across, down) = if alone { planes[which[0]].own } else { mcus(kind).0 };
    let mut before = [0; 3];
    for mcu in 0..across * down {
        let restart = usize::from(kind.restart);
        if restart > 0 && mcu > 0 && mcu % restart == 0 {
            before = [0; 3];
            bits.fill();
            bits.out.extend([0xff, 0xd0 + ((mcu / restart - 1) % 8) as u8]);
        }
        for (&at, before) in which.iter().zip(&mut before) {
            let plane = &planes[at];
            let (h, v) = if alone { (1, 1) } else { plane.sampling };
            for at in 0..h * v {
                let (x, y) = (mcu % across * h + at % h, mcu / across * v + at / h);
                let block = &plane.blocks[y * plane.across + x];
                if spectrum.first == 0 {
                    let value = block[0] >> spectrum.low;
                    if spectrum.high == 0 {
                        bits.coefficient(&dc, 0, value - *before);
                        *before = value;
                    } else {
                        bits.put(value as u32 & 1, 1);
                    }
                }
                if spectrum.last > 0 {
                    bits.spectrum(&ac, block, spectrum);
                }
            }
        }
    }
    bits.fill();
}

impl Bits {
    fn symbol(&mut self, huffman: &Huffman, symbol: u8) {
        let (code, length) = huffman.codes[&symbol];
        self.put(code, length);
    }

    /// AC coefficients: whole ones, or one bit more of each (T.81, G.1.2.3).
    fn spectrum(&mut self, ac: &Huffman, block: &[i32; 64], spectrum: &Spectrum) {
        let size = |at: usize| block[at].unsigned_abs() >> spectrum.low;
        let range = spectrum.first.max(1)..=spectrum.last;
        let last_new = range.clone().rev().find(|&at| match spectrum.high {
            0 => size(at) > 0,
            _ => size(at) == 1,
        });
        let mut run = 0;
        let mut more = Vec::new();
        for at in range {
            if size(at) == 0 {
                run += 1;
                continue;
            }
            while run > 15 && last_new.is_some_and(|last| at <= last) {
                self.symbol(ac, 0xf0);
                more.drain(..).for_each(|bit| self.put(bit, 1));
                run -= 16;
            }
            if spectrum.high > 0 && size(at) > 1 {
                more.push(size(at) & 1);
                continue;
            }
            let value = size(at) as i32 * block[at].signum();
            self.coefficient(ac, run, value);
            more.drain(..).for_each(|bit| self.put(bit, 1));
            run = 0;
        }
        if run > 0 || !more.is_empty() {
            self.symbol(ac, 0);
            more.drain(..).for_each(|bit| self.put(bit, 1));
        }
    }
}

const GRAY: &[(u8, u8)] = &[(1, 1)];
const S444: &[(u8, u8)] = &[(1, 1), (1, 1), (1, 1)];
const S422: &[(u8, u8)] = &[(2, 1), (1, 1), (1, 1)];
const S420: &[(u8, u8)] = &[(2, 2), (1, 1), (1, 1)];
const S440: &[(u8, u8)] = &[(1, 2), (1, 1), (1, 1)];

fn kinds() -> Vec<(Kind, &'static str)> {
    let kind = |name, frame, size, sampling, restart, busy| Kind {
        name,
        frame,
        size,
        sampling,
        restart,
        busy,
        apart: name == "apart",
    };
    vec![
        (kind("gray", 0xc0, (100, 75), GRAY, 0, 20), "761ae3a418b2c358"),
        (kind("gray_2x2", 0xc0, (33, 17), &[(2, 2)], 3, 20), "ee106e47a6ef389e"),
        (kind("444", 0xc0, (97, 50), S444, 0, 20), "7d3dc81a67a89e8c"),
        (kind("422", 0xc0, (97, 50), S422, 0, 20), "d57095012bd3d2f1"),
        (kind("420", 0xc0, (97, 51), S420, 0, 20), "31b11ac4b7c6ed48"),
        (kind("440", 0xc0, (97, 51), S440, 0, 20), "95b2a89be490a89e"),
        (kind("444_of_2x1", 0xc0, (70, 51), &[(2, 1); 3], 0, 20), "376bfb6287197287"),
        (kind("extended", 0xc1, (64, 48), S420, 0, 20), "65212a6845767de7"),
        (kind("full", 0xc0, (64, 48), S420, 0, 63), "5572459ac1864e98"),
        (kind("flat", 0xc0, (64, 48), S420, 0, 0), "194acae3531ec625"),
        (kind("restart_1", 0xc0, (130, 60), S420, 1, 9), "b48feae2be7f7769"),
        (kind("restart_4", 0xc0, (130, 60), S422, 4, 9), "3ec9aa6e471fcbee"),
        (kind("restart_row", 0xc0, (130, 60), S444, 17, 9), "d3b9db294a1cb1e4"),
        (kind("one_pixel", 0xc0, (1, 1), S420, 0, 9), "57915430250d0497"),
        (kind("narrow_420", 0xc0, (3, 40), S420, 0, 9), "32680d85e94f6bcc"),
        (kind("narrow_422", 0xc0, (4, 40), S422, 0, 9), "18331d0f29cd91c9"),
        (kind("narrow_440", 0xc0, (1, 40), S440, 0, 9), "74878c88bc64fc1d"),
        (kind("low_420", 0xc0, (40, 1), S420, 0, 9), "fd7de0a301e26515"),
        (kind("row_more_420", 0xc0, (48, 33), S420, 0, 9), "efdf463363807966"),
        (kind("wide", 0xc0, (2000, 9), S420, 0, 9), "f61225466b7d9f63"),
        (kind("apart", 0xc0, (75, 43), S420, 0, 20), "34710d88707c0219"),
        (kind("progressive_gray", 0xc2, (75, 43), GRAY, 0, 20), "a0e5b85f31b7e23c"),
        (kind("progressive_444", 0xc2, (75, 43), S444, 0, 63), "54a0a9773c403dfd"),
        (kind("progressive_420", 0xc2, (75, 43), S420, 0, 20), "34710d88707c0219"),
        (kind("progressive_restart", 0xc2, (75, 43), S422, 3, 20), "d0304b6500d61bf8"),
    ]
}

#[test]
fn pixels_of_every_sampling_are_libjpeg_turbos() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("jpegs");
    fs::create_dir_all(&folder).unwrap();
    let limits = Limits { max_aspect: 1e9, ..Limits::default() };
    for (kind, expected) in kinds() {
        let file = file(&kind);
        fs::write(folder.join(kind.name).with_extension("jpg"), &file).unwrap();
        let picture = decode(&file, &limits).unwrap();
        assert_eq!((picture.width, picture.height), (kind.size.0.into(), kind.size.1.into()));
        let digest = Sha256::digest(&picture.rgb);
        let digest = format!("{:016x}", u64::from_be_bytes(digest[..8].try_into().unwrap()));
        assert_eq!(digest, expected, "{}", kind.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damaged_files_of_every_kind_are_read_or_refused_without_a_panic(
        kind in 0_usize..25,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = file(&kinds()[kind].0);
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
            bytes.extend([0xff, 0xd9]);
        }
        let limits = Limits { max_pixels: 1_000_000, max_aspect: 1e9, ..Limits::default() };
        let means = Means { on_a_pixel: 1.0, least_pixels: 0 };
        let whole = decode(&bytes, &limits).map(|picture| (picture.width, picture.height));
        let small = decode_resized(&bytes, &limits, 8, Mode::KeepRatioLargest, false, means);
        for refused in [whole.as_ref().err(), small.as_ref().err()].into_iter().flatten() {
            prop_assert_ne!(refused.reason, "decoder_panic");
        }
        prop_assert_eq!(whole.err(), small.err());
    }
}
