//! DataComp subset files: sorted `(u64, u64)` rows, `.npy` with dtype `u8,u8`, or raw.
//!
//! A uid is 32 hex digits; a row holds its halves as two little-endian integers, 16 bytes. Rows
//! ascend as unsigned pairs, which is the order of the hex strings; DataComp's resharder searches
//! them by halves. A uid that stands there k times is wanted k times. Source: DataComp's README,
//! `baselines/apply_filter.py` and `resharder.py`; the header's bytes measured with numpy 2.4.

use std::fmt;
use std::io::Write;

use stage::{Error, Result};

use crate::{Blob, npy, write_error};

const DESCR: &str = "[('f0', '<u8'), ('f1', '<u8')]";
const ROW: usize = 16;
/// Bytes of a headerless file that are read at once: a whole number of rows.
const CHUNK: usize = 1 << 20;

/// A sample's name in DataComp: 128 bits, written as 32 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(pub u64, pub u64);

impl Uid {
    /// Reads exactly 32 hex digits, of either case.
    #[must_use]
    #[allow(clippy::needless_bitwise_bool)] // a branch would keep it from being vectorised
    pub fn parse(hex: &str) -> Option<Self> {
        let hex: &[u8; 32] = hex.as_bytes().try_into().ok()?;
        // Branchless over the whole row, for pools have billions of them.
        let (mut digits, mut sound) = ([0; 32], true);
        for (digit, &byte) in digits.iter_mut().zip(hex) {
            let decimal = byte.wrapping_sub(b'0');
            let letter = (byte | 0x20).wrapping_sub(b'a');
            sound &= (decimal < 10) | (letter < 6);
            *digit = if decimal < 10 { decimal } else { letter.wrapping_add(10) };
        }
        let half = |digits: &[u8]| {
            digits.iter().fold(0, |value: u64, &digit| value << 4 | u64::from(digit))
        };
        sound.then(|| Self(half(&digits[..16]), half(&digits[16..])))
    }

    fn from_row(row: &[u8; ROW]) -> Self {
        let value = u128::from_le_bytes(*row);
        Self(value as u64, (value >> 64) as u64)
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.0, self.1)
    }
}

/// Writes `uids` as numpy would. They must ascend; equal neighbours are kept.
///
/// # Errors
/// [`stage::Kind::Internal`] when they do not ascend, [`stage::Kind::Store`] when writing fails.
pub fn write(out: &mut dyn Write, uids: &[Uid]) -> Result<()> {
    write_runs(out, &[uids])
}

/// As [`write()`], of several lists one behind the other.
///
/// # Errors
/// As [`write()`].
pub fn write_runs<R: AsRef<[Uid]>>(out: &mut dyn Write, runs: &[R]) -> Result<()> {
    let mut before: Option<Uid> = None;
    for (row, &uid) in runs.iter().flat_map(AsRef::as_ref).enumerate() {
        if let Some(before) = before.filter(|before| *before > uid) {
            let message = format!("subset rows must ascend, but row {row} is {uid} after {before}");
            return Err(Error::internal(message));
        }
        before = Some(uid);
    }
    let count: usize = runs.iter().map(|run| run.as_ref().len()).sum();
    let mut write = || {
        out.write_all(&npy::header(DESCR, &[count]))?;
        let mut bytes = Vec::with_capacity(CHUNK);
        for chunk in runs.iter().flat_map(|run| run.as_ref().chunks(CHUNK / ROW)) {
            bytes.clear();
            for uid in chunk {
                bytes.extend_from_slice(&uid.0.to_le_bytes());
                bytes.extend_from_slice(&uid.1.to_le_bytes());
            }
            out.write_all(&bytes)?;
        }
        out.flush()
    };
    write().map_err(write_error)
}

/// Reads a subset file, with or without a header.
///
/// # Errors
/// [`stage::Kind::Input`] when the header is of another dtype or shape, the rows are cut off, or
/// they do not ascend.
pub fn read(blob: &Blob) -> Result<Vec<Uid>> {
    let head = blob.read_at(0, blob.len().min(npy::MAGIC.len() as u64) as usize)?;
    let start = if head.as_ref() == npy::MAGIC {
        let header = npy::Header::read(blob)?;
        if header.descr() != DESCR || header.shape().len() != 1 {
            return Err(Error::input(format!(
                "dtype {} of shape {:?} where a list of uids (dtype u8,u8) is needed",
                header.descr(),
                header.shape()
            ))
            .at(blob.name()));
        }
        header.data_offset()
    } else {
        0
    };
    let bytes = blob.len() - start;
    if !bytes.is_multiple_of(ROW as u64) {
        let error = format!("{bytes} bytes of rows are not a whole number of 16-byte rows");
        return Err(Error::input(error).at(blob.name()).hint("copy the file again"));
    }
    let mut uids: Vec<Uid> = Vec::new();
    let rows = (bytes / ROW as u64) as usize;
    uids.try_reserve_exact(rows)
        .map_err(|_| Error::input(format!("{rows} rows do not fit in memory")).at(blob.name()))?;
    let mut offset = start;
    while offset < blob.len() {
        let len = (blob.len() - offset).min(CHUNK as u64);
        let chunk = blob.read_at(offset, len as usize)?;
        for row in chunk.as_chunks::<ROW>().0 {
            let uid = Uid::from_row(row);
            if uids.last().is_some_and(|last| *last > uid) {
                return Err(Error::input(format!("row {} ({uid}) is out of order", uids.len()))
                    .at(blob.name())
                    .hint("sort the rows: numpy.sort(numpy.load(..))"));
            }
            uids.push(uid);
        }
        offset += len;
    }
    Ok(uids)
}
