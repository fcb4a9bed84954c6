//! Entropy decoding: Huffman tables that give code, run and value in one look (T.81, annexes C
//! and F), and the bits they read.

use std::rc::Rc;

use crate::encode::ZIGZAG;

/// Bits of a look. Most coefficients of a photograph have a code and a value that fit together.
const LOOK: u32 = 11;

/// A Huffman table for DC differences or AC coefficients.
///
/// An entry of `looks` is, from below: 4 bits of length, 4 bits of size, 8 bits of places to go
/// forward (run + 1), 16 bits of value. Where code and value fit in a look the length is that of
/// both; else the value is 0 and the length that of the code. 0 is a code longer than a look. No
/// way forward is an end of the block, and the size then says of how many more.
pub(super) struct Table {
    looks: [u32; 1 << LOOK],
    /// By length: the first code, in 16 bits, that is longer.
    limits: [u32; 17],
    /// By length: what to add to a code for its place among the symbols.
    offsets: [i32; 17],
    symbols: [u8; 256],
}

/// What a table's symbols mean.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Dc,
    Ac,
}

impl Table {
    /// Reads a table as a DHT segment lists it: how many codes of 1..=16 bits, and their symbols.
    /// Nothing where the codes do not fit their lengths or a DC size is above 11.
    pub(super) fn new(lengths: &[u8; 16], listed: &[u8], class: Class) -> Option<Rc<Self>> {
        let mut table = Box::new(Self {
            looks: [0; 1 << LOOK],
            limits: [0; 17],
            offsets: [0; 17],
            symbols: [0; 256],
        });
        table.symbols.get_mut(..listed.len())?.copy_from_slice(listed);
        let mut symbols = listed.iter();
        let (mut code, mut place) = (0_u32, 0_i32);
        for (length, &count) in (1..).zip(lengths) {
            table.offsets[length as usize] = place - code as i32;
            for &symbol in symbols.by_ref().take(count as usize) {
                if code >= 1 << length || class == Class::Dc && symbol > 11 {
                    return None;
                }
                if length <= LOOK {
                    let first = (code << (LOOK - length)) as usize;
                    let entries = &mut table.looks[first..first + (1 << (LOOK - length))];
                    fill(entries, length, symbol, class);
                }
                code += 1;
            }
            place += i32::from(count);
            table.limits[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Some(table.into())
    }

    /// Length and symbol of a code that stands in the upper bits.
    #[inline(always)]
    fn long(&self, held: u64) -> Option<(u32, u8)> {
        let code = (held >> 48) as u32;
        let length = (1..=16).find(|&length| code < self.limits[length])?;
        let place = (code >> (16 - length)) as i32 + self.offsets[length];
        Some((length as u32, *self.symbols.get(place as usize)?))
    }
}

/// Places to go forward and size of an AC symbol, as [`Table`] has them.
#[inline(always)]
fn meaning(symbol: u8) -> (u32, u32) {
    match (u32::from(symbol >> 4), u32::from(symbol & 15)) {
        (15, 0) => (16, 0),
        (run, 0) => (0, run),
        (run, size) => (run + 1, size),
    }
}

/// The entries that begin with a code: all values of the bits that follow it.
fn fill(entries: &mut [u32], length: u32, symbol: u8, class: Class) {
    let (places, size) = match class {
        Class::Dc => (0, u32::from(symbol)),
        Class::Ac => meaning(symbol),
    };
    let ends = class == Class::Ac && places == 0;
    if ends || size == 0 || size > LOOK - length {
        entries.fill(places << 8 | size << 4 | length);
        return;
    }
    let same = entries.len() >> size;
    for (value, entries) in (0..).zip(entries.chunks_exact_mut(same)) {
        let value = extended(value, size) as u32;
        entries.fill(value << 16 | places << 8 | size << 4 | (length + size));
    }
}

/// The value of `size` (1..=15) bits: those that begin with 0 are negative (T.81, table F.1).
#[inline(always)]
fn extended(bits: u32, size: u32) -> i32 {
    let negative = (bits >> (size - 1)) ^ 1;
    bits as i32 - ((negative << size) as i32 - negative as i32)
}

/// Bits of coded data without stuffing, the most significant first. Behind the end come zeros.
pub(super) struct Bits<'a> {
    data: &'a [u8],
    /// The next byte that is not held.
    at: usize,
    /// The next bits, from above.
    held: u64,
    /// How many of them are true.
    count: u32,
}

impl<'a> Bits<'a> {
    /// Reads from byte `at` on.
    pub(super) fn new(data: &'a [u8], at: usize) -> Self {
        Self { data, at, held: 0, count: 0 }
    }

    /// Whether the bits that were taken end within the byte before `end`.
    pub(super) fn ended_at(&self, end: usize) -> bool {
        let taken = self.at * 8 - self.count as usize;
        taken <= end * 8 && taken + 8 > end * 8
    }

    /// Holds at least 56 bits.
    #[inline(always)]
    fn refill(&mut self) {
        let next = match self.data.get(self.at..).and_then(<[u8]>::first_chunk) {
            Some(next) => u64::from_be_bytes(*next),
            None => self.last_bytes(),
        };
        self.held |= next >> self.count;
        self.at += ((63 - self.count) >> 3) as usize;
        self.count |= 0b11_1000;
    }

    #[cold]
    fn last_bytes(&self) -> u64 {
        let mut next = [0; 8];
        if let Some(rest) = self.data.get(self.at..) {
            next[..rest.len()].copy_from_slice(rest);
        }
        u64::from_be_bytes(next)
    }

    #[inline(always)]
    fn skip(&mut self, bits: u32) {
        self.held <<= bits;
        self.count -= bits;
    }

    /// The value of `size` bits; nothing is 0.
    #[inline(always)]
    fn value(&mut self, size: u32) -> i32 {
        if size == 0 {
            return 0;
        }
        let bits = (self.held >> (64 - size)) as u32;
        self.skip(size);
        extended(bits, size)
    }

    /// One bit.
    #[inline(always)]
    pub(super) fn bit(&mut self) -> bool {
        if self.count == 0 {
            self.refill();
        }
        let bit = self.held >> 63 != 0;
        self.skip(1);
        bit
    }

    /// `size` (0..=15) bits as they are.
    #[inline(always)]
    pub(super) fn plain(&mut self, size: u32) -> u32 {
        if size == 0 {
            return 0;
        }
        self.refill();
        let bits = (self.held >> (64 - size)) as u32;
        self.skip(size);
        bits
    }

    /// The difference of a DC coefficient to the one before.
    #[inline(always)]
    pub(super) fn difference(&mut self, dc: &Table) -> Option<i32> {
        self.refill();
        let entry = dc.looks[(self.held >> (64 - LOOK)) as usize];
        if entry >> 16 != 0 {
            self.skip(entry & 15);
            return Some((entry as i32) >> 16);
        }
        let (length, size) = match entry {
            0 => dc.long(self.held)?,
            _ => (entry & 15, (entry >> 4) as u8 & 15),
        };
        self.skip(length);
        Some(self.value(u32::from(size)))
    }

    /// Places to go forward and size of the next AC code, without its value.
    #[inline(always)]
    pub(super) fn places(&mut self, ac: &Table) -> Option<(usize, u32)> {
        self.refill();
        let (length, symbol) = ac.long(self.held)?;
        self.skip(length);
        let (places, size) = meaning(symbol);
        Some((places as usize, size))
    }

    /// AC coefficients behind zigzag position `at` up to `last`, times 2^`shift`, of a block where
    /// they are all 0 so far: the last position that was given, and the size of the end if there
    /// was one. Nothing where a code is none or the block is too long.
    #[inline(always)]
    pub(super) fn coefficients(
        &mut self,
        ac: &Table,
        mut at: usize,
        last: usize,
        shift: u32,
        block: &mut [i16; 64],
    ) -> Option<(usize, Option<u32>)> {
        let mut end = None;
        'block: while at < last {
            self.refill();
            // Five looks take at most 55 bits.
            for _ in 0..5 {
                let entry = ac.looks[(self.held >> (64 - LOOK)) as usize];
                let value = (entry as i32) >> 16;
                if value != 0 {
                    self.skip(entry & 15);
                    at += (entry >> 8) as usize & 0xff;
                    // Positions beyond the block fall on its last, and are refused below.
                    block[natural(at)] = (value << shift) as i16;
                    if at >= last {
                        break 'block;
                    }
                    continue;
                }
                let (places, size) = if entry == 0 {
                    self.places(ac)?
                } else {
                    self.skip(entry & 15);
                    ((entry >> 8) as usize & 0xff, (entry >> 4) & 15)
                };
                if places == 0 {
                    end = Some(size);
                    break 'block;
                }
                at += places;
                if size != 0 {
                    self.refill();
                    block[natural(at)] = (self.value(size) << shift) as i16;
                }
                continue 'block;
            }
        }
        (at <= last).then_some((at, end))
    }

    /// Decodes a block whose coefficients are all 0 so far, with a DC that is a difference to
    /// `before`, and gives the last zigzag position that is not 0. Nothing as above.
    #[inline(always)]
    pub(super) fn block(
        &mut self,
        (dc, ac): (&Table, &Table),
        before: &mut i32,
        block: &mut [i16; 64],
    ) -> Option<u8> {
        *before = before.wrapping_add(self.difference(dc)?);
        block[0] = *before as i16;
        Some(self.coefficients(ac, 0, 63, 0, block)?.0 as u8)
    }
}

/// Natural position of a zigzag position, or of one that a run behind the last reaches.
#[inline(always)]
pub(super) fn natural(at: usize) -> usize {
    usize::from(NATURAL[at & 127] & 63)
}

/// Natural position of each zigzag position, and of those that a run behind the last reaches.
static NATURAL: [u8; 128] = {
    let mut natural = [63; 128];
    let mut at = 0;
    while at < 64 {
        natural[at] = ZIGZAG[at];
        at += 1;
    }
    natural
};
