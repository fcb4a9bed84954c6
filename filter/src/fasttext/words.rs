//! From a line to rows of the input matrix: words, and pieces of words by hash
//! (`Dictionary::getLine`, `computeSubwords`).

use stage::{Error, Result};

use super::bytes::Bytes;

/// Ends a line; part of every one.
const END: &[u8] = b"</s>";
/// A word of a line that begins like this is a label, and no part of the text.
const LABEL: &[u8] = b"__label__";
const EMPTY: u32 = u32::MAX;

/// The vocabulary, and which buckets of pieces have a row.
#[derive(Debug)]
pub(super) struct Words {
    /// Words, then labels.
    entries: Vec<Box<[u8]>>,
    /// Open addressing by hash: numbers of entries.
    slots: Vec<u32>,
    vocabulary: usize,
    labels: Vec<String>,
    label_counts: Vec<i64>,
    bucket: u32,
    /// Shortest and longest piece, in characters.
    pieces: (usize, usize),
    rows: PieceRows,
}

/// The rows of pieces, behind those of the vocabulary.
#[derive(Debug)]
enum PieceRows {
    /// Every bucket has one.
    All,
    /// There are none.
    None,
    /// Some buckets have one: in the order of their buckets, so that a row's number is the number
    /// of buckets before it. 2 million buckets are 250 kB, which stay in the cache where a hash
    /// map of 44,000 would not.
    Some(Ranks),
}

#[derive(Debug)]
struct Ranks {
    bits: Vec<u64>,
    /// Set bits before each word of `bits`.
    before: Vec<u32>,
    /// The file's number of each row, in our order; empty once it has been taken.
    order: Vec<u32>,
    count: usize,
}

impl Words {
    pub(super) fn read(bytes: &mut Bytes<'_>, bucket: u32, pieces: (usize, usize)) -> Result<Self> {
        let (size, words, labels) = (bytes.i32()?, bytes.i32()?, bytes.i32()?);
        bytes.skip(8)?; // tokens seen in training
        let pruned = bytes.i64()?;
        let size = bytes.count(i64::from(size), 10, "words")?;
        let vocabulary = usize::try_from(words).ok().filter(|words| *words <= size);
        let vocabulary =
            vocabulary.ok_or_else(|| Error::input(format!("{words} words of {size}")))?;
        if usize::try_from(labels).ok() != Some(size - vocabulary) {
            return Err(Error::input(format!("{size} entries, {words} words and {labels} labels")));
        }
        let mut entries: Vec<Box<[u8]>> = Vec::with_capacity(size);
        let (mut label_names, mut label_counts) = (Vec::new(), Vec::new());
        for i in 0..size {
            let text = bytes.text()?;
            let count = bytes.i64()?;
            let is_label = bytes.byte()? == 1;
            if is_label != (i >= vocabulary) {
                return Err(Error::input(format!(
                    "entry {i} is not of the kind that its place says"
                )));
            }
            if is_label {
                let name = std::str::from_utf8(text);
                label_names
                    .push(name.map_err(|_| Error::input("a label that is no text"))?.to_owned());
                label_counts.push(count);
            }
            entries.push(text.into());
        }
        let rows = match pruned {
            ..0 => PieceRows::All,
            0 => PieceRows::None,
            _ => PieceRows::Some(Ranks::read(bytes, pruned, bucket)?),
        };
        let slots = index(&entries);
        Ok(Self {
            entries,
            slots,
            vocabulary,
            labels: label_names,
            label_counts,
            bucket,
            pieces,
            rows,
        })
    }

    /// Whether only some buckets have a row.
    pub(super) fn is_pruned(&self) -> bool {
        matches!(self.rows, PieceRows::Some(_))
    }

    /// Rows that the input matrix must have.
    pub(super) fn rows(&self) -> usize {
        self.vocabulary
            + match &self.rows {
                PieceRows::All => self.bucket as usize,
                PieceRows::None => 0,
                PieceRows::Some(ranks) => ranks.count,
            }
    }

    /// Rows of whole words: those before the pieces'.
    pub(super) fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// The order into which the pieces' rows must be put; empty if they lie well.
    pub(super) fn take_order(&mut self) -> Vec<u32> {
        match &mut self.rows {
            PieceRows::Some(ranks) => std::mem::take(&mut ranks.order),
            _ => Vec::new(),
        }
    }

    pub(super) fn labels(&self) -> &[String] {
        &self.labels
    }

    pub(super) fn label_counts(&self) -> &[i64] {
        &self.label_counts
    }

    /// The rows of a line, in fastText's order.
    pub(super) fn line(&self, line: &[u8], rows: &mut Vec<u32>) {
        rows.clear();
        let line = line.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let words = line.split(|byte| b" \r\t\x0b\x0c\0".contains(byte)).filter(|w| !w.is_empty());
        // Written out, the mark ends a line too.
        for word in words.take_while(|word| *word != END) {
            self.word(word, rows);
        }
        self.word(END, rows);
    }

    fn word(&self, word: &[u8], rows: &mut Vec<u32>) {
        match self.find(word) {
            Some(label) if label >= self.vocabulary => return,
            Some(known) => rows.push(known as u32),
            None if word.starts_with(LABEL) => return,
            None => {}
        }
        if word != END {
            self.pieces(word, rows);
        }
    }

    fn find(&self, word: &[u8]) -> Option<usize> {
        let mask = self.slots.len() - 1;
        let mut at = hash(word) as usize & mask;
        loop {
            match self.slots[at] {
                EMPTY => return None,
                entry if *self.entries[entry as usize] == *word => return Some(entry as usize),
                _ => at = (at + 1) & mask,
            }
        }
    }

    /// Every piece of `<word>` of the allowed lengths, but not a single bracket.
    fn pieces(&self, word: &[u8], rows: &mut Vec<u32>) {
        let (shortest, longest) = self.pieces;
        if longest == 0 || self.bucket == 0 || matches!(self.rows, PieceRows::None) {
            return;
        }
        let length = word.len() + 2;
        let byte = |i: usize| match i {
            0 => b'<',
            i if i + 1 == length => b'>',
            i => word[i - 1],
        };
        let continues = |i: usize| i < length && byte(i) & 0xc0 == 0x80;
        for start in (0..length).filter(|&i| !continues(i)) {
            let (mut end, mut hash) = (start, OFFSET);
            for chars in 1..=longest {
                if end == length {
                    break;
                }
                hash = step(hash, byte(end));
                end += 1;
                while continues(end) {
                    hash = step(hash, byte(end));
                    end += 1;
                }
                let bracket = chars == 1 && (start == 0 || end == length);
                if chars >= shortest && !bracket {
                    self.push_piece(hash % self.bucket, rows);
                }
            }
        }
    }

    #[inline]
    fn push_piece(&self, bucket: u32, rows: &mut Vec<u32>) {
        let row = match &self.rows {
            PieceRows::All => Some(bucket),
            PieceRows::None => None,
            PieceRows::Some(ranks) => ranks.rank(bucket),
        };
        rows.extend(row.map(|row| self.vocabulary as u32 + row));
    }
}

impl Ranks {
    fn read(bytes: &mut Bytes<'_>, pruned: i64, bucket: u32) -> Result<Self> {
        let count = bytes.count(pruned, 8, "kept buckets")?;
        let mut kept = Vec::with_capacity(count);
        for _ in 0..count {
            let (id, row) = (bytes.i32()?, bytes.i32()?);
            let id = u32::try_from(id).ok().filter(|&id| id < bucket);
            let row = u32::try_from(row).ok().filter(|&row| (row as usize) < count);
            let pair = id.zip(row).ok_or_else(|| Error::input("a kept bucket without a row"))?;
            kept.push(pair);
        }
        kept.sort_unstable();
        if kept.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(Error::input("a bucket that is kept twice"));
        }
        let mut bits = vec![0_u64; (bucket as usize).div_ceil(64)];
        for (id, _) in &kept {
            bits[*id as usize / 64] |= 1 << (id % 64);
        }
        let mut sum = 0;
        let before = bits.iter().map(|word| {
            sum += word.count_ones();
            sum - word.count_ones()
        });
        let before = before.collect();
        Ok(Self { bits, before, order: kept.into_iter().map(|(_, row)| row).collect(), count })
    }

    #[inline]
    fn rank(&self, bucket: u32) -> Option<u32> {
        let (at, bit) = (bucket as usize / 64, bucket % 64);
        let word = *self.bits.get(at)?;
        let below = (word & ((1 << bit) - 1)).count_ones();
        (word >> bit & 1 == 1).then(|| self.before[at] + below)
    }
}

/// A table of twice as many places as entries; of two equal entries the first is found.
fn index(entries: &[Box<[u8]>]) -> Vec<u32> {
    let mut slots = vec![EMPTY; (entries.len() * 2 + 2).next_power_of_two()];
    let mask = slots.len() - 1;
    for (i, entry) in entries.iter().enumerate() {
        let mut at = hash(entry) as usize & mask;
        while slots[at] != EMPTY {
            at = (at + 1) & mask;
        }
        slots[at] = i as u32;
    }
    slots
}

/// FNV-1a with bytes taken as signed, as `Dictionary::hash` has it.
const OFFSET: u32 = 2_166_136_261;

fn step(hash: u32, byte: u8) -> u32 {
    (hash ^ byte.cast_signed() as u32).wrapping_mul(16_777_619)
}

fn hash(word: &[u8]) -> u32 {
    word.iter().fold(OFFSET, |hash, &byte| step(hash, byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_above_127_is_hashed_as_a_negative_number() {
        // fastText 0.9.2: Dictionary::hash
        assert_eq!(hash(b""), 2_166_136_261);
        assert_eq!(hash(b"a"), 0xe40c_292c);
        assert_eq!(hash("é".as_bytes()), {
            let first = (0x811c_9dc5_u32 ^ 0xffff_ffc3).wrapping_mul(16_777_619);
            (first ^ 0xffff_ffa9).wrapping_mul(16_777_619)
        });
    }

    #[test]
    fn a_kept_bucket_is_found_by_the_buckets_before_it() {
        let mut file = Vec::new();
        for (id, row) in [(700, 0), (3, 1), (64, 2)] {
            file.extend_from_slice(&i32::to_le_bytes(id));
            file.extend_from_slice(&i32::to_le_bytes(row));
        }
        let ranks = Ranks::read(&mut Bytes::new(&file), 3, 1000).unwrap();
        assert_eq!(ranks.order, [1, 2, 0]);
        assert_eq!(
            [3, 64, 700, 4, 999].map(|b| ranks.rank(b)),
            [Some(0), Some(1), Some(2), None, None]
        );
    }
}
