//! Files of many scans (T.81, annex G, and non-interleaved sequential ones): all coefficients
//! first.

use super::file::{Component, File, Part, Scan};
use super::huffman::{Bits, Table, natural};

/// The coefficients of a component, row by row of blocks.
pub(super) struct Stored {
    blocks: Vec<[i16; 64]>,
    /// Blocks in a row, those that fill up the last MCU among them.
    across: usize,
    /// Blocks across and down that a scan of this component alone has.
    own: (usize, usize),
    sampling: (usize, usize),
    /// For each zigzag position: the lowest bit that is known.
    known: [Option<u8>; 64],
}

impl Stored {
    fn new(file: &File, component: &Component) -> Self {
        let (most, mcus, (h, v)) = (file.most(), file.mcus(), component.sampling);
        let own = |pixels: usize, own: usize, most: usize| (pixels * own).div_ceil(8 * most);
        let (across, down) = (mcus.0 * h, mcus.1 * v);
        Self {
            blocks: vec![[0; 64]; across * down],
            across,
            own: (own(file.width, h, most.0), own(file.height, v, most.1)),
            sampling: (h, v),
            known: [None; 64],
        }
    }

    /// A row of blocks.
    pub(super) fn row(&self, row: usize) -> Option<&[[i16; 64]]> {
        self.blocks.get(row * self.across..(row + 1) * self.across)
    }

    fn at(&mut self, across: usize, down: usize) -> Option<&mut [i16; 64]> {
        self.blocks.get_mut(down * self.across + across)
    }

    /// Whether a scan brings what is missing, and only that.
    fn follows(&mut self, scan: &Scan) -> bool {
        let (first, last) = scan.spectrum;
        let before = if scan.high == 0 { None } else { Some(scan.high) };
        let one_less = scan.high == 0 || scan.low + 1 == scan.high;
        self.known[first..=last].iter_mut().all(|known| {
            let follows = *known == before && one_less;
            *known = Some(scan.low);
            follows
        })
    }
}

/// Decodes all scans. Nothing where one is wrong, or where bits of a coefficient are missing at the
/// end: libjpeg then smooths blocks.
#[inline(always)]
pub(super) fn coefficients(file: &File) -> Option<Vec<Stored>> {
    let mut all: Vec<Stored> =
        file.components.iter().map(|component| Stored::new(file, component)).collect();
    for scan in &file.scans {
        for part in &scan.parts {
            if !all[part.component].follows(scan) {
                return None;
            }
        }
        Reader { scan, progressive: file.progressive, before: [0; 4], run: 0 }
            .read(&mut all, file.mcus())?;
    }
    let complete = |stored: &Stored| stored.known.iter().all(|known| *known == Some(0));
    all.iter().all(complete).then_some(all)
}

/// A scan in the reading.
struct Reader<'a> {
    scan: &'a Scan,
    progressive: bool,
    /// The DC before, of each of the scan's components.
    before: [i32; 4],
    /// Blocks that end before they begin.
    run: u32,
}

impl Reader<'_> {
    #[inline(always)]
    fn read(&mut self, all: &mut [Stored], mcus: (usize, usize)) -> Option<()> {
        let coded = &self.scan.coded;
        let mut bits = Bits::new(&coded.data, 0);
        let mut ends = coded.ends.iter();
        let alone = self.scan.parts.len() == 1;
        let (across, down) = if alone { all[self.scan.parts[0].component].own } else { mcus };
        for mcu in 0..across * down {
            if self.scan.restart != 0 && mcu != 0 && mcu % self.scan.restart == 0 {
                let &end = ends.next()?;
                if !bits.ended_at(end) {
                    return None;
                }
                bits = Bits::new(&coded.data, end);
                (self.before, self.run) = ([0; 4], 0);
            }
            let (x, y) = (mcu % across, mcu / across);
            for (at, part) in self.scan.parts.iter().enumerate() {
                let stored = &mut all[part.component];
                let (h, v) = if alone { (1, 1) } else { stored.sampling };
                for block in 0..h * v {
                    let block = stored.at(x * h + block % h, y * v + block / h)?;
                    self.block(&mut bits, at, part, block)?;
                }
            }
        }
        let &end = ends.next()?;
        (bits.ended_at(end) && ends.next().is_none()).then_some(())
    }

    #[inline(always)]
    fn block(
        &mut self,
        bits: &mut Bits<'_>,
        at: usize,
        part: &Part,
        block: &mut [i16; 64],
    ) -> Option<()> {
        let low = u32::from(self.scan.low);
        if !self.progressive {
            let tables = (part.dc.as_deref()?, part.ac.as_deref()?);
            bits.block(tables, &mut self.before[at], block)?;
        } else if self.scan.spectrum.0 == 0 {
            if self.scan.high == 0 {
                let before = &mut self.before[at];
                *before = before.wrapping_add(bits.difference(part.dc.as_deref()?)?);
                block[0] = (*before << low) as i16;
            } else if bits.bit() {
                block[0] |= 1 << low;
            }
        } else if self.scan.high == 0 {
            self.first_bits(bits, part.ac.as_deref()?, block)?;
        } else {
            self.next_bit(bits, part.ac.as_deref()?, block)?;
        }
        Some(())
    }

    /// G.1.2.2.
    #[inline(always)]
    fn first_bits(&mut self, bits: &mut Bits<'_>, ac: &Table, block: &mut [i16; 64]) -> Option<()> {
        if self.run > 0 {
            self.run -= 1;
            return Some(());
        }
        let (first, last) = self.scan.spectrum;
        let low = u32::from(self.scan.low);
        let (_, end) = bits.coefficients(ac, first - 1, last, low, block)?;
        if let Some(size) = end {
            self.run = (1 << size) - 1 + bits.plain(size);
        }
        Some(())
    }

    /// G.1.2.3: a bit more of each coefficient that is not 0, and coefficients of one bit between.
    #[inline(always)]
    fn next_bit(&mut self, bits: &mut Bits<'_>, ac: &Table, block: &mut [i16; 64]) -> Option<()> {
        let (mut at, last) = self.scan.spectrum;
        let bit = 1_i16 << self.scan.low;
        if self.run == 0 {
            while at <= last {
                let (places, size) = bits.places(ac)?;
                if places == 0 {
                    self.run = (1 << size) + bits.plain(size);
                    break;
                }
                let value = match size {
                    0 => 0,
                    1 if bits.bit() => bit,
                    1 => -bit,
                    _ => return None,
                };
                // As many zeros are passed over as there are places before the last.
                let mut zeros = places - 1;
                while at <= last {
                    let coefficient = &mut block[natural(at)];
                    if *coefficient != 0 {
                        refine(coefficient, bit, bits);
                    } else if zeros == 0 {
                        break;
                    } else {
                        zeros -= 1;
                    }
                    at += 1;
                }
                if value != 0 {
                    if at > last {
                        return None;
                    }
                    block[natural(at)] = value;
                }
                at += 1;
            }
        }
        if self.run > 0 {
            for at in at..=last {
                let coefficient = &mut block[natural(at)];
                if *coefficient != 0 {
                    refine(coefficient, bit, bits);
                }
            }
            self.run -= 1;
        }
        Some(())
    }
}

#[inline(always)]
fn refine(coefficient: &mut i16, bit: i16, bits: &mut Bits<'_>) {
    if bits.bit() && *coefficient & bit == 0 {
        *coefficient = coefficient.wrapping_add(if *coefficient > 0 { bit } else { -bit });
    }
}
