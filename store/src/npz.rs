//! `.npz`: the zip of `.npy` members that `numpy.savez` and `numpy.savez_compressed` write.
//!
//! Format: `numpy/lib/npyio.py` and PKWARE's APPNOTE 6.3 (sections 4.3.7, 4.3.12 to 4.3.16, 4.5.3).
//! A stored member is read where it lies; a deflated one is inflated into a file without a name
//! each time [`File::array`] is asked for it, up to the length that the directory gives and never beyond [`MAX_INFLATED`]. Checksums of
//! members are not looked at: a shape that does not fit its bytes is what damage looks like.
//!
//! ```
//! # fn main() -> stage::Result<()> {
//! let bytes = std::fs::read("no/such.npz").unwrap_or_default();
//! let error = store::npz::File::open(&store::Blob::from_bytes("a.npz", bytes.into())).unwrap_err();
//! assert_eq!(error.to_string(), "a.npz: not a zip archive");
//! # Ok(())
//! # }
//! ```

use std::io::{self, Read, Write};

use flate2::read::DeflateDecoder;
use stage::{Error, Result, ResultExt};

use crate::{Blob, npy};

/// A directory of this many bytes has tens of thousands of members; DataComp's have five.
const MAX_DIRECTORY: u64 = 4 << 20;
/// Largest member that is inflated: 10 million rows of 768 halves.
pub const MAX_INFLATED: u64 = 16 << 30;
const END: &[u8; 4] = b"PK\x05\x06";
const END_64: &[u8; 4] = b"PK\x06\x06";
const LOCATOR_64: &[u8; 4] = b"PK\x06\x07";
const ENTRY: &[u8; 4] = b"PK\x01\x02";
const LOCAL: &[u8; 4] = b"PK\x03\x04";

/// An archive whose directory was read.
#[derive(Debug)]
pub struct File {
    blob: Blob,
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    name: String,
    method: u16,
    stored: u64,
    size: u64,
    header: u64,
}

impl File {
    /// Reads the directory.
    ///
    /// # Errors
    /// [`stage::Kind::Input`] that names the file when it is no archive or a broken one.
    pub fn open(blob: &Blob) -> Result<Self> {
        let members = directory(blob).map_err(|e| e.at(blob.name()))?;
        Ok(Self { blob: blob.clone(), members })
    }

    /// Names of the arrays.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|m| m.name.strip_suffix(".npy").unwrap_or(&m.name))
    }

    /// The array of this name, as `numpy.load(file)[name]`.
    ///
    /// # Errors
    /// [`stage::Kind::Input`] that names file and array: missing, packed in an unknown way, or no
    /// sound `.npy`.
    pub fn array(&self, name: &str) -> Result<npy::File> {
        let place = format!("{}: {name}", self.blob.name());
        let found = self.names().zip(&self.members).find(|(known, _)| *known == name);
        let (_, member) = found.ok_or_else(|| {
            let names: Vec<&str> = self.names().take(20).collect();
            let message = format!("no array `{name}`; there are {}", names.join(", "));
            Error::input(message).at(self.blob.name())
        })?;
        let packed = self.packed(member, &place).map_err(|e| e.at(&place))?;
        let blob = match member.method {
            0 if member.stored == member.size => packed,
            8 => inflate(&packed, member.size, &place).map_err(|e| e.at(&place))?,
            method => {
                let message = format!("packed by method {method}; stored and deflated are read");
                return Err(Error::input(message).at(place));
            }
        };
        npy::File::open(&blob)
    }

    /// A member's bytes as they lie.
    fn packed(&self, member: &Member, place: &str) -> Result<Blob> {
        let head = self.blob.read_at(member.header, 30)?;
        if !head.starts_with(LOCAL) {
            return Err(Error::input(format!("no member at byte {}", member.header)));
        }
        let lengths = u64::from(short(&head, 26)) + u64::from(short(&head, 28));
        self.blob.part(place, member.header + 30 + lengths, member.stored)
    }
}

fn inflate(packed: &Blob, size: u64, place: &str) -> Result<Blob> {
    if size > MAX_INFLATED {
        let message = format!("{size} bytes when inflated; at most {MAX_INFLATED} are");
        return Err(Error::input(message).hint("save it with numpy.savez, without compression"));
    }
    let mut copy = tempfile::tempfile().store("cannot make a temporary file")?;
    let mut inflated = DeflateDecoder::new(packed.reader()).take(size.saturating_add(1));
    let length = copied(&mut inflated, &mut copy)?;
    if length != size {
        let than = if length > size { "more" } else { "fewer" };
        return Err(Error::input(format!("{than} bytes than the {size} of the directory")));
    }
    Ok(Blob::of_copy(place, copy, length))
}

/// Copies all; what cannot be read is the archive's fault, what cannot be written the disk's.
fn copied(from: &mut dyn Read, to: &mut dyn Write) -> Result<u64> {
    let mut buffer = vec![0; 128 << 10];
    let mut length = 0;
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(length),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).input("cannot be inflated"),
        };
        let part = buffer.get(..count).unwrap_or_default();
        to.write_all(part).store("cannot write the inflated copy").map_err(|e| {
            e.hint("it lies in the folder for temporary files (TMPDIR), which needs room for it")
        })?;
        length += count as u64;
    }
}

fn directory(blob: &Blob) -> Result<Vec<Member>> {
    // The end record lies before a comment of at most 64 KiB.
    let tail = blob.len().min(22 + 0xffff);
    let start = blob.len() - tail;
    let tail = blob.read_at(start, tail as usize)?;
    let at = tail.windows(4).rposition(|four| four == END).filter(|at| at + 22 <= tail.len());
    let at = at.ok_or_else(|| Error::input("not a zip archive"))?;
    let (mut length, mut offset) =
        (u64::from(word(&tail, at + 12)), u64::from(word(&tail, at + 16)));
    // numpy writes the longer records only where the shorter ones do not suffice.
    if let Some(locator) = at.checked_sub(20).filter(|l| tail[*l..].starts_with(LOCATOR_64)) {
        let record = blob.read_at(long(&tail, locator + 8), 56)?;
        if !record.starts_with(END_64) {
            return Err(Error::input("broken zip archive: no end record where one must be"));
        }
        (length, offset) = (long(&record, 40), long(&record, 48));
    }
    if length > MAX_DIRECTORY {
        let message = format!("a directory of {length} bytes; at most {MAX_DIRECTORY} are read");
        return Err(Error::input(message));
    }
    let directory = blob.read_at(offset, length as usize)?;
    let mut rest: &[u8] = &directory;
    let mut members = Vec::new();
    while !rest.is_empty() {
        let broken = || Error::input("broken zip archive: its directory is cut off");
        if !rest.starts_with(ENTRY) || rest.len() < 46 {
            return Err(broken());
        }
        let [name, extra, comment] = [28, 30, 32].map(|at| usize::from(short(rest, at)));
        let (entry, behind) =
            rest.split_at_checked(46 + name + extra + comment).ok_or_else(broken)?;
        let mut member = Member {
            name: String::from_utf8_lossy(&entry[46..46 + name]).into_owned(),
            method: short(entry, 10),
            stored: u64::from(word(entry, 20)),
            size: u64::from(word(entry, 24)),
            header: u64::from(word(entry, 42)),
        };
        widen(&mut member, &entry[46 + name..46 + name + extra]);
        members.push(member);
        rest = behind;
    }
    Ok(members)
}

/// Takes the numbers that did not fit into 32 bits from the zip64 field.
fn widen(member: &mut Member, mut fields: &[u8]) {
    const FULL: u64 = 0xffff_ffff;
    while fields.len() >= 4 {
        let (kind, length) = (short(fields, 0), usize::from(short(fields, 2)));
        let Some((field, behind)) = fields[4..].split_at_checked(length) else { return };
        if kind == 1 {
            let (mut numbers, _) = field.as_chunks::<8>();
            for number in [&mut member.size, &mut member.stored, &mut member.header] {
                if *number == FULL
                    && let [first, rest @ ..] = numbers
                {
                    *number = u64::from_le_bytes(*first);
                    numbers = rest;
                }
            }
        }
        fields = behind;
    }
}

/// A little-endian number at a place that the caller has looked at; 0 beyond the end.
fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|part| part.try_into().ok()).unwrap_or([0; N])
}

fn short(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(number(bytes, at))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(number(bytes, at))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(number(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_the_stores_fault_and_damage_the_inputs() {
        let mut room = [0; 3];
        let error = copied(&mut &b"four"[..], &mut &mut room[..]).unwrap_err();
        assert_eq!(error.kind(), stage::Kind::Store);
        assert!(error.hint_text().unwrap_or_default().contains("TMPDIR"), "{error}");
        let mut broken = DeflateDecoder::new(&[0xff_u8; 8][..]);
        let error = copied(&mut broken, &mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), stage::Kind::Input);
        assert_eq!(copied(&mut &b"four"[..], &mut Vec::new()).unwrap(), 4);
    }
}
