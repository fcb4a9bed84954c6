//! The segments around the coded data (T.81, annex B), of files that are decoded here.

use std::rc::Rc;

use super::huffman::{Class, Table};
use crate::encode::ZIGZAG;
use crate::probe::be16;

/// What the headers say, and the coded data without stuffing.
pub(super) struct File {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) progressive: bool,
    /// Three of a colour picture, one of a grey one.
    pub(super) components: Vec<Component>,
    pub(super) scans: Vec<Scan>,
}

/// A component of the frame.
pub(super) struct Component {
    id: u8,
    /// Blocks of an MCU, across and down.
    pub(super) sampling: (usize, usize),
    /// In natural order.
    pub(super) quantisers: [i16; 64],
    /// Where they are, until the component's first scan.
    table: Option<usize>,
}

/// Coefficients of some components, over a part of the spectrum, from one bit to another.
pub(super) struct Scan {
    pub(super) parts: Vec<Part>,
    /// First and last zigzag position.
    pub(super) spectrum: (usize, usize),
    /// The lowest bit that was there before, 0 for none, and the lowest bit of this scan.
    pub(super) high: u8,
    pub(super) low: u8,
    /// MCUs from one restart to the next; 0 for no restarts.
    pub(super) restart: usize,
    pub(super) coded: Coded,
}

/// A component of a scan, by its place in the frame, and its tables.
pub(super) struct Part {
    pub(super) component: usize,
    pub(super) dc: Option<Rc<Table>>,
    pub(super) ac: Option<Rc<Table>>,
}

/// Coded data without stuffed bytes and restart markers.
pub(super) struct Coded {
    pub(super) data: Vec<u8>,
    /// Where each interval between restarts ends in `data`.
    pub(super) ends: Vec<usize>,
}

/// Tables as they stand at a scan.
#[derive(Default)]
struct Tables {
    quantisers: [Option<[i16; 64]>; 4],
    dc: [Option<Rc<Table>>; 4],
    ac: [Option<Rc<Table>>; 4],
    restart: usize,
}

impl File {
    /// Reads a file without metadata and stray bytes. Nothing for what is not decoded here: other
    /// codes than Huffman's, 4 components, quantisers of 16 bits, unusual sampling; and for what is
    /// wrong.
    pub(super) fn read(clean: &[u8]) -> Option<Self> {
        let mut tables = Tables::default();
        let (mut width, mut height) = (0, 0);
        let mut file =
            Self { width, height, progressive: false, components: vec![], scans: vec![] };
        let mut rest = clean.strip_prefix(b"\xff\xd8")?;
        while rest != b"\xff\xd9" {
            let &[0xff, marker] = rest.first_chunk()? else { return None };
            let length = usize::from(be16(rest, 2)?);
            let segment = rest.get(4..2 + length)?;
            rest = &rest[2 + length..];
            match marker {
                0xc0..=0xc2 => {
                    if !file.components.is_empty() {
                        return None;
                    }
                    file.progressive = marker == 0xc2;
                    (width, height) = file.frame(segment)?;
                }
                0xc3 | 0xc5..=0xcf => return None,
                0xc4 => tables.add_huffman(segment)?,
                0xdb => tables.add_quantisers(segment)?,
                0xdd => tables.restart = usize::from(be16(segment, 0)?),
                0xda => {
                    let end;
                    let mut scan = file.scan(segment, &tables)?;
                    (scan.coded, end) = Coded::read(rest)?;
                    if file.progressive {
                        // One of many; room was made for all that follows.
                        scan.coded.data.shrink_to_fit();
                    }
                    file.scans.push(scan);
                    rest = rest.get(end..)?;
                }
                _ => {}
            }
        }
        (file.width, file.height) = (width, height);
        let known = file.components.iter().all(|component| component.table.is_none());
        (known && !file.scans.is_empty()).then_some(file)
    }

    /// The one scan of a file whose blocks are whole in the order of its MCUs.
    pub(super) fn single_scan(&self) -> Option<&Scan> {
        let [scan] = self.scans.as_slice() else { return None };
        let all = scan.parts.len() == self.components.len();
        (!self.progressive && all).then_some(scan)
    }

    /// The most blocks of an MCU, across and down.
    pub(super) fn most(&self) -> (usize, usize) {
        self.components.iter().fold((1, 1), |most, component| {
            (most.0.max(component.sampling.0), most.1.max(component.sampling.1))
        })
    }

    /// MCUs across and down.
    pub(super) fn mcus(&self) -> (usize, usize) {
        let most = self.most();
        (self.width.div_ceil(8 * most.0), self.height.div_ceil(8 * most.1))
    }

    fn frame(&mut self, segment: &[u8]) -> Option<(usize, usize)> {
        let count = usize::from(*segment.get(5)?);
        if !matches!(count, 1 | 3) || segment[0] != 8 {
            return None;
        }
        for &[id, sampling, table] in segment.get(6..6 + count * 3)?.as_chunks::<3>().0 {
            let (h, v) = (usize::from(sampling >> 4), usize::from(sampling & 15));
            if !matches!((h, v), (1..=2, 1..=2)) {
                return None;
            }
            // A frame of one component has its blocks one after the other (A.2.2).
            let sampling = if count == 1 { (1, 1) } else { (h, v) };
            let table = Some(usize::from(table));
            self.components.push(Component { id, sampling, quantisers: [0; 64], table });
        }
        Some((usize::from(be16(segment, 3)?), usize::from(be16(segment, 1)?)))
    }

    /// A scan header: its components in the frame's order.
    fn scan(&mut self, segment: &[u8], tables: &Tables) -> Option<Scan> {
        let count = usize::from(*segment.first()?);
        let listed = segment.get(1..1 + count * 2)?.as_chunks::<2>().0;
        let &[first, last, bits] = segment.get(1 + count * 2..)? else { return None };
        let mut parts: Vec<Part> = Vec::new();
        for &[id, numbers] in listed {
            let component = self.components.iter().position(|component| component.id == id)?;
            if parts.last().is_some_and(|part| part.component >= component) {
                return None;
            }
            let own = &mut self.components[component];
            if let Some(table) = own.table.take() {
                own.quantisers = (*tables.quantisers.get(table)?)?;
            }
            parts.push(Part {
                component,
                dc: tables.dc.get(usize::from(numbers >> 4))?.clone(),
                ac: tables.ac.get(usize::from(numbers & 15))?.clone(),
            });
        }
        let (high, low) = (bits >> 4, bits & 15);
        let whole = (first, last, bits) == (0, 63, 0);
        let part = match first {
            0 => last == 0,
            _ => last >= first && last < 64 && count == 1,
        };
        let valid = if self.progressive { part && low < 14 } else { whole };
        // No more than ten blocks in an MCU (B.2.3).
        let own = |part: &Part| self.components[part.component].sampling;
        let blocks: usize = parts.iter().map(|part| own(part).0 * own(part).1).sum();
        if parts.is_empty() || !valid || parts.len() > 1 && blocks > 10 {
            return None;
        }
        let spectrum = (usize::from(first), usize::from(last));
        let coded = Coded { data: vec![], ends: vec![] };
        Some(Scan { parts, spectrum, high, low, restart: tables.restart, coded })
    }
}

impl Tables {
    fn add_huffman(&mut self, mut segment: &[u8]) -> Option<()> {
        while let Some((&kind, rest)) = segment.split_first() {
            let (lengths, rest) = rest.split_first_chunk::<16>()?;
            let count = lengths.iter().map(|&count| usize::from(count)).sum();
            let (symbols, rest) = rest.split_at_checked(count)?;
            let (class, tables) = match kind >> 4 {
                0 => (Class::Dc, &mut self.dc),
                1 => (Class::Ac, &mut self.ac),
                _ => return None,
            };
            let table = Table::new(lengths, symbols, class)?;
            *tables.get_mut(usize::from(kind & 15))? = Some(table);
            segment = rest;
        }
        Some(())
    }

    fn add_quantisers(&mut self, mut segment: &[u8]) -> Option<()> {
        while let Some((&kind, rest)) = segment.split_first() {
            // Sixteen bits a quantiser are rare, and zune-jpeg's.
            let (values, rest) = rest.split_first_chunk::<64>().filter(|_| kind >> 4 == 0)?;
            let mut quantisers = [0; 64];
            for (&natural, &value) in ZIGZAG.iter().zip(values) {
                quantisers[usize::from(natural)] = i16::from(value);
            }
            *self.quantisers.get_mut(usize::from(kind & 15))? = Some(quantisers);
            segment = rest;
        }
        Some(())
    }
}

impl Coded {
    /// Takes coded data apart, and says where they end: at a marker that is no restart. Nothing
    /// where restarts are not numbered in turn.
    fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let mut data = Vec::with_capacity(bytes.len() + 8);
        let mut ends = Vec::new();
        let mut at = 0;
        loop {
            let found = at + memchr::memchr(0xff, bytes.get(at..)?)?;
            match *bytes.get(found + 1)? {
                0 => data.extend_from_slice(&bytes[at..=found]),
                marker @ 0xd0..=0xd7 => {
                    data.extend_from_slice(&bytes[at..found]);
                    if usize::from(marker & 7) != ends.len() % 8 {
                        return None;
                    }
                    ends.push(data.len());
                }
                _ => {
                    data.extend_from_slice(&bytes[at..found]);
                    ends.push(data.len());
                    return Some((Self { data, ends }, found));
                }
            }
            at = found + 2;
        }
    }
}
