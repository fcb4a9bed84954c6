//! The segments before the coded data (T.81, annex B), of files that are decoded here.

use super::huffman::{Class, Table};
use crate::encode::ZIGZAG;
use crate::probe::be16;

/// A file of one scan: what its headers say, and its coded data without stuffing.
pub(super) struct File {
    pub(super) width: usize,
    pub(super) height: usize,
    /// Three of a colour picture, one of a grey one.
    pub(super) components: Vec<Component>,
    /// MCUs from one restart to the next; 0 for no restarts.
    pub(super) restart: usize,
    pub(super) coded: Coded,
    dc: [Option<Box<Table>>; 4],
    ac: [Option<Box<Table>>; 4],
}

/// A component of the frame and of its scan.
pub(super) struct Component {
    id: u8,
    /// Blocks of an MCU, across and down.
    pub(super) sampling: (usize, usize),
    /// In natural order.
    pub(super) quantisers: [i16; 64],
    table: u8,
    dc: usize,
    ac: usize,
}

/// Coded data without stuffed bytes and restart markers.
pub(super) struct Coded {
    pub(super) data: Vec<u8>,
    /// Where each interval between restarts ends in `data`.
    pub(super) ends: Vec<usize>,
}

impl File {
    /// Reads a file without metadata and stray bytes. Nothing for what is not decoded here: other
    /// processes than sequential Huffman coding, more than one scan, 4 components; and for what is
    /// wrong.
    pub(super) fn read(clean: &[u8]) -> Option<Self> {
        let mut quantisers = [None; 4];
        let mut file = Self {
            width: 0,
            height: 0,
            components: Vec::new(),
            restart: 0,
            coded: Coded { data: Vec::new(), ends: Vec::new() },
            dc: [const { None }; 4],
            ac: [const { None }; 4],
        };
        let mut rest = clean.strip_prefix(b"\xff\xd8")?;
        loop {
            let &[0xff, marker] = rest.first_chunk()? else { return None };
            let length = usize::from(be16(rest, 2)?);
            let segment = rest.get(4..2 + length)?;
            rest = &rest[2 + length..];
            match marker {
                0xc0 | 0xc1 => file.frame(segment)?,
                0xc2..=0xc3 | 0xc5..=0xcf => return None,
                0xc4 => file.huffman(segment)?,
                0xdb => read_quantisers(segment, &mut quantisers)?,
                0xdd => file.restart = usize::from(be16(segment, 0)?),
                0xda => break file.scan(segment)?,
                _ => {}
            }
        }
        for component in &mut file.components {
            component.quantisers = quantisers[usize::from(component.table)]?;
        }
        let end;
        (file.coded, end) = Coded::read(rest)?;
        (rest.get(end..)? == b"\xff\xd9").then_some(file)
    }

    /// The tables of a component.
    pub(super) fn tables(&self, component: &Component) -> Option<(&Table, &Table)> {
        Some((self.dc[component.dc].as_deref()?, self.ac[component.ac].as_deref()?))
    }

    fn frame(&mut self, segment: &[u8]) -> Option<()> {
        let count = usize::from(*segment.get(5)?);
        if !self.components.is_empty() || !matches!(count, 1 | 3) || segment[0] != 8 {
            return None;
        }
        self.height = usize::from(be16(segment, 1)?);
        self.width = usize::from(be16(segment, 3)?);
        for &[id, sampling, table] in segment.get(6..6 + count * 3)?.as_chunks::<3>().0 {
            let (h, v) = (usize::from(sampling >> 4), usize::from(sampling & 15));
            if !matches!((h, v), (1..=2, 1..=2)) || table > 3 {
                return None;
            }
            // A scan of one component codes block after block (A.2.2).
            let sampling = if count == 1 { (1, 1) } else { (h, v) };
            let quantisers = [0; 64];
            self.components.push(Component { id, sampling, quantisers, table, dc: 0, ac: 0 });
        }
        Some(())
    }

    fn huffman(&mut self, mut segment: &[u8]) -> Option<()> {
        while let Some((&kind, rest)) = segment.split_first() {
            let (lengths, rest) = rest.split_first_chunk::<16>()?;
            let count = lengths.iter().map(|&count| usize::from(count)).sum();
            let (symbols, rest) = rest.split_at_checked(count)?;
            let (class, tables) = match kind >> 4 {
                0 => (Class::Dc, &mut self.dc),
                1 => (Class::Ac, &mut self.ac),
                _ => return None,
            };
            *tables.get_mut(usize::from(kind & 15))? = Some(Table::new(lengths, symbols, class)?);
            segment = rest;
        }
        Some(())
    }

    /// A scan header of all components in the frame's order, over all coefficients.
    fn scan(&mut self, segment: &[u8]) -> Option<()> {
        let count = self.components.len();
        if count == 0 || segment.len() != 4 + count * 2 || usize::from(segment[0]) != count {
            return None;
        }
        for (component, &[id, tables]) in
            self.components.iter_mut().zip(segment[1..].as_chunks::<2>().0)
        {
            (component.dc, component.ac) = (usize::from(tables >> 4), usize::from(tables & 15));
            if id != component.id || component.dc > 3 || component.ac > 3 {
                return None;
            }
        }
        (segment[1 + count * 2..] == [0, 63, 0]).then_some(())
    }
}

fn read_quantisers(mut segment: &[u8], tables: &mut [Option<[i16; 64]>; 4]) -> Option<()> {
    while let Some((&kind, rest)) = segment.split_first() {
        let table = tables.get_mut(usize::from(kind & 15))?;
        let mut quantisers = [0; 64];
        // Sixteen bits a quantiser are rare, and zune-jpeg's.
        let (values, rest) = rest.split_first_chunk::<64>().filter(|_| kind >> 4 == 0)?;
        for (&natural, &value) in ZIGZAG.iter().zip(values) {
            quantisers[usize::from(natural)] = i16::from(value);
        }
        *table = Some(quantisers);
        segment = rest;
    }
    Some(())
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
