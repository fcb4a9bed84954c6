//! Row of MCUs after row of MCUs: coefficients, samples, pixels.

use super::colour;
use super::file::{Component, File, Scan};
use super::huffman::{Bits, Table};
use super::idct;
use super::lanes::Lanes;
use super::progressive::{self, Stored};

/// A decoded picture: its size and RGB.
pub(super) struct Pixels {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) rgb: Vec<u8>,
}

/// Decodes a file whose luma blocks become `side` x `side` pixels: 8, or 4, 2, 1 for a picture of
/// means. Nothing where anything is wrong with the coded data.
#[inline(always)]
pub(super) fn decode<L: Lanes>(lanes: L, file: &File, side: usize) -> Option<Pixels> {
    let (most, (mcus_across, mcus_down)) = (file.most(), file.mcus());
    let plane = |component| Plane::new(file, component, most, mcus_across, side);
    let mut planes: Vec<Plane> = file.components.iter().map(plane).collect();
    // Luma has every sample, and both kinds of chroma as many as each other.
    let same = |a: &Plane, b: &Plane| a.stretch == b.stretch && a.lines == b.lines;
    match planes.as_slice() {
        [_] => {}
        [luma, cb, cr] if luma.stretch == (1, 1) && same(cb, cr) => {}
        _ => return None,
    }
    let mut source = match file.single_scan() {
        Some(scan) => Source::Scan(Stream::new(scan)?),
        None => Source::Stored(progressive::coefficients(file)?),
    };
    let mut out = Rows::new(file, side, most);
    for row in 0..mcus_down {
        match &mut source {
            Source::Scan(stream) => stream.row(&mut planes, mcus_across)?,
            Source::Stored(all) => {
                for (plane, stored) in planes.iter_mut().zip(all) {
                    plane.load(stored, row)?;
                }
            }
        }
        for plane in &mut planes {
            plane.transform(lanes);
        }
        out.write(lanes, &planes, row, row + 1 == mcus_down);
        planes.iter_mut().for_each(Plane::keep_last);
    }
    if let Source::Scan(stream) = &mut source {
        stream.finish()?;
    }
    Some(Pixels { width: out.width, height: out.height, rgb: out.rgb })
}

/// Where coefficients come from.
enum Source<'a> {
    Scan(Stream<'a>),
    Stored(Vec<Stored>),
}

/// A scan of whole blocks, in the order of its MCUs.
struct Stream<'a> {
    bits: Bits<'a>,
    scan: &'a Scan,
    tables: Vec<(&'a Table, &'a Table)>,
    /// Ends of the intervals that are not over.
    ends: std::slice::Iter<'a, usize>,
    /// MCUs left in this interval.
    left: usize,
    /// The DC before, of each component.
    before: [i32; 4],
}

impl<'a> Stream<'a> {
    fn new(scan: &'a Scan) -> Option<Self> {
        let tables = scan.parts.iter().map(|p| Some((p.dc.as_deref()?, p.ac.as_deref()?)));
        Some(Self {
            bits: Bits::new(&scan.coded.data, 0),
            scan,
            tables: tables.collect::<Option<_>>()?,
            ends: scan.coded.ends.iter(),
            left: if scan.restart == 0 { usize::MAX } else { scan.restart },
            before: [0; 4],
        })
    }

    #[inline(always)]
    fn row(&mut self, planes: &mut [Plane<'_>], mcus_across: usize) -> Option<()> {
        for plane in &mut *planes {
            plane.blocks.as_flattened_mut().fill(0);
        }
        for mcu in 0..mcus_across {
            if self.left == 0 {
                self.finish_interval()?;
            }
            self.left -= 1;
            for ((plane, tables), before) in
                planes.iter_mut().zip(&self.tables).zip(&mut self.before)
            {
                plane.mcu(mcu, &mut self.bits, *tables, before)?;
            }
        }
        Some(())
    }

    fn finish_interval(&mut self) -> Option<()> {
        let &end = self.ends.next()?;
        if !self.bits.ended_at(end) {
            return None;
        }
        self.bits = Bits::new(&self.scan.coded.data, end);
        self.left = self.scan.restart;
        self.before = [0; 4];
        Some(())
    }

    /// Nothing is left.
    fn finish(&mut self) -> Option<()> {
        self.finish_interval()?;
        self.ends.next().is_none().then_some(())
    }
}

/// A component's part of a row of MCUs.
struct Plane<'a> {
    quantisers: &'a [i16; 64],
    /// Blocks of an MCU, across and down.
    sampling: (usize, usize),
    /// Coefficients, block row by block row.
    blocks: Vec<[i16; 64]>,
    /// The last zigzag position of each block that is not 0.
    last: Vec<u8>,
    /// Blocks in a row of them, an even number.
    across: usize,
    /// Samples of a block, across and down.
    side: (usize, usize),
    /// Pixels of the output for a sample, across and down.
    stretch: (usize, usize),
    /// Samples that belong to the picture, across and down.
    size: (usize, usize),
    /// Rows of samples; in front of them the last row of the MCUs above.
    samples: Vec<u8>,
    /// A multiple of 16.
    stride: usize,
    lines: usize,
}

impl<'a> Plane<'a> {
    fn new(
        file: &'a File,
        component: &'a Component,
        most: (usize, usize),
        mcus_across: usize,
        side: usize,
    ) -> Self {
        let (h, v) = component.sampling;
        // What is not decoded smaller by the picture's scale is not stretched either.
        let axis = |most: usize, own: usize| {
            let ratio = most / own;
            let samples = (side * ratio).min(8);
            (samples, side * ratio / samples)
        };
        let ((wide, stretch_x), (high, stretch_y)) = (axis(most.0, h), axis(most.1, v));
        let size = |pixels: usize, stretch: usize| (pixels * side).div_ceil(8).div_ceil(stretch);
        let across = (mcus_across * h).next_multiple_of(2);
        let (stride, lines) = ((across * wide).next_multiple_of(16), v * high);
        Self {
            quantisers: &component.quantisers,
            sampling: component.sampling,
            blocks: vec![[0; 64]; across * v],
            last: vec![0; across * v],
            across,
            side: (wide, high),
            stretch: (stretch_x, stretch_y),
            size: (size(file.width, stretch_x), size(file.height, stretch_y)),
            samples: vec![0; stride * (lines + 1) + 64],
            stride,
            lines,
        }
    }

    /// Decodes the blocks of an MCU.
    #[inline(always)]
    fn mcu(
        &mut self,
        mcu: usize,
        bits: &mut Bits<'_>,
        tables: (&Table, &Table),
        before: &mut i32,
    ) -> Option<()> {
        let (h, v) = self.sampling;
        for down in 0..v {
            for across in 0..h {
                let at = down * self.across + mcu * h + across;
                let block = self.blocks.get_mut(at)?;
                *self.last.get_mut(at)? = bits.block(tables, before, block)?;
            }
        }
        Some(())
    }

    /// Takes the blocks of a row of MCUs.
    #[inline(always)]
    fn load(&mut self, stored: &Stored, row: usize) -> Option<()> {
        let v = self.sampling.1;
        for down in 0..v {
            let from = stored.row(row * v + down)?;
            let at = down * self.across;
            self.blocks.get_mut(at..at + from.len())?.copy_from_slice(from);
        }
        for (last, block) in self.last.iter_mut().zip(&self.blocks) {
            let any = block[1..].iter().fold(0, |any, value| any | value);
            *last = if any == 0 { 0 } else { 63 };
        }
        Some(())
    }

    /// Coefficients to samples.
    #[inline(always)]
    fn transform<L: Lanes>(&mut self, lanes: L) {
        match self.side {
            (8, 8) => self.transform_whole(lanes),
            (4, 4) => self.transform_means::<4, 4>(),
            (2, 2) => self.transform_means::<2, 2>(),
            (1, 1) => self.transform_means::<1, 1>(),
            (8, 4) => self.transform_means::<4, 8>(),
            (4, 8) => self.transform_means::<8, 4>(),
            (4, 2) => self.transform_means::<2, 4>(),
            (2, 4) => self.transform_means::<4, 2>(),
            (2, 1) => self.transform_means::<1, 2>(),
            _ => self.transform_means::<2, 1>(),
        }
    }

    #[inline(always)]
    fn transform_whole<L: Lanes>(&mut self, lanes: L) {
        let pairs = self.blocks.as_chunks::<2>().0.iter().zip(self.last.as_chunks::<2>().0);
        for (at, (blocks, last)) in pairs.enumerate() {
            let rows = if *last == [0, 0] {
                let [left, right] = [0, 1].map(|side: usize| {
                    let value = idct::flat(blocks[side][0], self.quantisers[0]);
                    u64::from_ne_bytes([value; 8])
                });
                let row = u128::from(left) | u128::from(right) << 64;
                [row.to_le_bytes(); 8]
            } else {
                lanes.idct(blocks, self.quantisers)
            };
            let (down, across) = (at * 2 / self.across, at * 2 % self.across);
            let start = (1 + down * 8) * self.stride + across * 8;
            for (line, row) in self.samples[start..].chunks_mut(self.stride).zip(&rows) {
                if let Some(to) = line.first_chunk_mut() {
                    *to = *row;
                }
            }
        }
    }

    #[inline(always)]
    fn transform_means<const V: usize, const H: usize>(&mut self) {
        for (at, (block, &last)) in self.blocks.iter().zip(&self.last).enumerate() {
            let rows = if last == 0 {
                [[idct::flat(block[0], self.quantisers[0]); H]; V]
            } else {
                idct::means::<V, H>(block, self.quantisers)
            };
            let (down, across) = (at / self.across, at % self.across);
            let start = (1 + down * V) * self.stride + across * H;
            for (line, row) in self.samples[start..].chunks_mut(self.stride).zip(&rows) {
                if let Some(to) = line.first_chunk_mut() {
                    *to = *row;
                }
            }
        }
    }

    /// The last row becomes the one in front of the next.
    fn keep_last(&mut self) {
        let last = self.lines * self.stride;
        self.samples.copy_within(last..last + self.stride, 0);
    }

    /// Line 0 is the last of the MCUs above.
    fn line(&self, line: usize) -> &[u8] {
        &self.samples[line * self.stride..(line + 1) * self.stride]
    }
}

/// Pixels, row after row.
struct Rows {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
    /// Rows of a row of MCUs.
    lines: usize,
    /// Both chromas as wide as luma.
    chroma: [Vec<u8>; 2],
    sums: Vec<u16>,
    row: Vec<[[u8; 3]; 16]>,
}

impl Rows {
    fn new(file: &File, side: usize, most: (usize, usize)) -> Self {
        let (width, height) = ((file.width * side).div_ceil(8), (file.height * side).div_ceil(8));
        let room = width.next_multiple_of(32) + 64;
        Self {
            width,
            height,
            rgb: Vec::with_capacity(width * height * 3),
            lines: side * most.1,
            chroma: [(); 2].map(|()| vec![0; room]),
            sums: vec![0; room],
            row: vec![[[0; 3]; 16]; room / 16],
        }
    }

    /// Writes all rows whose chroma has both its neighbours.
    #[inline(always)]
    fn write<L: Lanes>(&mut self, lanes: L, planes: &[Plane<'_>], row: usize, last: bool) {
        let luma = &planes[0];
        let stretch_y = planes.get(1).map_or(1, |chroma| chroma.stretch.1);
        let waiting = usize::from(stretch_y == 2);
        // Row 0 of the picture is line `ahead` of the planes.
        let top = row * self.lines;
        let end = if last { self.height } else { top + self.lines - waiting };
        for y in (if row == 0 { 0 } else { top - waiting })..end.min(self.height) {
            let luma = luma.line(y + 1 - top);
            if let [_, cb, cr] = planes {
                let [wide_cb, wide_cr] = &mut self.chroma;
                let cb = stretched(cb, y, row, &mut self.sums, wide_cb);
                let cr = stretched(cr, y, row, &mut self.sums, wide_cr);
                let rows = [luma, cb, cr].map(|row| row.as_chunks::<16>().0);
                let chunks = self.row.iter_mut().zip(rows[0]).zip(rows[1]).zip(rows[2]);
                for (((pixels, y), cb), cr) in chunks {
                    *pixels = lanes.rgb(y, cb, cr);
                }
                let bytes = self.row.as_flattened().as_flattened();
                self.rgb.extend_from_slice(&bytes[..self.width * 3]);
            } else {
                self.rgb.extend(luma[..self.width].iter().flat_map(|&gray| [gray; 3]));
            }
        }
    }
}

/// Chroma for row `y` of the picture.
#[inline(always)]
fn stretched<'a>(
    plane: &'a Plane<'_>,
    y: usize,
    mcu_row: usize,
    sums: &mut [u16],
    wide: &'a mut [u8],
) -> &'a [u8] {
    let (stretch_x, stretch_y) = plane.stretch;
    let width = plane.size.0;
    // Rows of the plane are numbered over the whole picture, then within this row of MCUs.
    let line = |y: usize| plane.line(y.min(plane.size.1 - 1) + 1 - mcu_row * plane.lines);
    let near = y / stretch_y;
    let upper = y.is_multiple_of(2);
    let far = if upper { near.saturating_sub(1) } else { near + 1 };
    // libjpeg repeats where there are too few samples to blend.
    match (stretch_x, stretch_y) {
        (1, 1) => return line(near),
        (1, _) => {
            colour::blend_only(&line(near)[..width], &line(far)[..width], upper, wide);
        }
        (_, _) if width <= 2 => colour::repeat(&line(near)[..width], wide),
        (_, 1) => colour::widen_row(&line(near)[..width], sums, wide),
        _ => {
            colour::blend(&line(near)[..width], &line(far)[..width], sums);
            colour::widen_blended(&sums[..width + 2], wide);
        }
    }
    wide
}
