//! Sorted rows of several WAT files become one sorted sequence without equal uids.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};

use stage::{Result, ResultExt};

use super::rows::{Row, Rows};

/// Sorted rows, in memory or in a temporary file.
pub(super) enum Run {
    Memory(Rows),
    Spilled { file: File, rows: usize },
}

impl Run {
    /// Moves sorted rows to an unnamed temporary file.
    pub(super) fn spill(rows: &Rows) -> Result<Self> {
        let write = || -> io::Result<File> {
            let mut out = BufWriter::with_capacity(1 << 20, tempfile::tempfile()?);
            for i in 0..rows.len() {
                write_row(&mut out, rows.row(i))?;
            }
            let mut file = out.into_inner()?;
            file.rewind()?;
            Ok(file)
        };
        let file = write().store("cannot write a temporary file")?;
        Ok(Self::Spilled { file, rows: rows.len() })
    }
}

/// Gives the rows of all runs to `each`, by uid, each uid once.
pub(super) fn merge(runs: Vec<Run>, mut each: impl FnMut(Row<'_>) -> Result<()>) -> Result<()> {
    let mut cursors = runs.into_iter().map(Cursor::new).collect::<Result<Vec<_>>>()?;
    let mut heap: BinaryHeap<Reverse<([u8; 16], usize)>> = cursors
        .iter()
        .enumerate()
        .filter_map(|(i, cursor)| Some(Reverse((cursor.row()?.uid, i))))
        .collect();
    let mut equal = Vec::new();
    while let Some(&Reverse((uid, _))) = heap.peek() {
        equal.clear();
        while let Some(&Reverse((next, i))) = heap.peek()
            && next == uid
        {
            heap.pop();
            equal.push(i);
        }
        if let Some(row) = equal.iter().filter_map(|&i| cursors[i].row()).min_by_key(Row::rank) {
            each(row)?;
        }
        for &i in &equal {
            cursors[i].advance()?;
            if let Some(row) = cursors[i].row() {
                heap.push(Reverse((row.uid, i)));
            }
        }
    }
    Ok(())
}

/// A run and the place in it.
enum Cursor {
    Memory { rows: Rows, at: usize },
    Spilled { file: BufReader<File>, left: usize, row: OwnedRow },
}

impl Cursor {
    fn new(run: Run) -> Result<Self> {
        match run {
            Run::Memory(rows) => Ok(Self::Memory { rows, at: 0 }),
            Run::Spilled { file, rows } => {
                let file = BufReader::with_capacity(256 << 10, file);
                let mut cursor = Self::Spilled { file, left: rows + 1, row: OwnedRow::default() };
                cursor.advance()?;
                Ok(cursor)
            }
        }
    }

    fn row(&self) -> Option<Row<'_>> {
        match self {
            Self::Memory { rows, at } => (*at < rows.len()).then(|| rows.row(*at)),
            Self::Spilled { left, row, .. } => (*left > 0).then(|| row.view()),
        }
    }

    fn advance(&mut self) -> Result<()> {
        match self {
            Self::Memory { at, .. } => *at += 1,
            Self::Spilled { file, left, row } => {
                *left -= 1;
                if *left > 0 {
                    row.read(file).store("cannot read a temporary file")?;
                }
            }
        }
        Ok(())
    }
}

/// A row read back; its text is kept in one buffer that is used again.
#[derive(Default)]
struct OwnedRow {
    uid: [u8; 16],
    record: u64,
    /// `url`, `alt`, `cc_filename`, `page_url`.
    lengths: [usize; 4],
    text: String,
}

impl OwnedRow {
    fn view(&self) -> Row<'_> {
        let mut at = 0;
        let [url, alt, cc_filename, page_url] = self.lengths.map(|length| {
            at += length;
            &self.text[at - length..at]
        });
        Row { uid: self.uid, url, alt, cc_filename, page_url, record: self.record }
    }

    fn read(&mut self, from: &mut impl Read) -> io::Result<()> {
        let mut head = [0; 40];
        from.read_exact(&mut head)?;
        let (uid, rest) = head.split_at(16);
        self.uid.copy_from_slice(uid);
        let mut number = [0; 8];
        number.copy_from_slice(&rest[..8]);
        self.record = u64::from_le_bytes(number);
        for (length, word) in self.lengths.iter_mut().zip(rest[8..].chunks_exact(4)) {
            *length = u32::from_le_bytes([word[0], word[1], word[2], word[3]]) as usize;
        }
        self.text.clear();
        let wanted: usize = self.lengths.iter().sum();
        let read = from.take(wanted as u64).read_to_string(&mut self.text)?;
        if read == wanted { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

fn write_row(out: &mut impl Write, row: Row<'_>) -> io::Result<()> {
    out.write_all(&row.uid)?;
    out.write_all(&row.record.to_le_bytes())?;
    let texts = [row.url, row.alt, row.cc_filename, row.page_url];
    for text in texts {
        out.write_all(&(text.len() as u32).to_le_bytes())?;
    }
    texts.iter().try_for_each(|text| out.write_all(text.as_bytes()))
}
