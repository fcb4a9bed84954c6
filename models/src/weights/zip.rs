//! The directory of a zip file whose members are stored, not compressed, as `torch.save` writes it.
//!
//! PKWARE's APPNOTE 6.3, §4.3: the end record, its 64-bit form, central headers, local headers.
//! Nothing is believed: every length is held against the file's before it is used.

use std::collections::BTreeMap;
use std::fs::File;

use stage::{Error, Result};

use super::bytes::{Bytes, read_at};

/// Largest central directory, bytes; a checkpoint of 65,536 tensors has about 8 MB.
const MOST_DIRECTORY: u64 = 64 << 20;
/// Most members.
const MOST_MEMBERS: u64 = 1 << 18;

/// A member: where its local header stands, and its length.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Member {
    header: u64,
    length: u64,
    /// Length inside the file; another one means compression.
    packed: u64,
    method: u16,
    encrypted: bool,
}

/// The members of a zip file by name.
#[derive(Debug)]
pub(super) struct Directory {
    members: BTreeMap<String, Member>,
    /// Where the central directory begins: no member's bytes reach beyond it.
    end: u64,
}

impl Directory {
    /// Reads the directory of a file of `length` bytes.
    pub(super) fn read(file: &File, length: u64) -> Result<Self> {
        let end = EndRecord::find(file, length)?;
        let directory = end.offset.checked_add(end.bytes).filter(|after| *after <= length);
        if directory.is_none() || end.bytes > MOST_DIRECTORY || end.members > MOST_MEMBERS {
            return Err(broken(&format!(
                "a directory of {} members and {} bytes at {}, in a file of {length} bytes",
                end.members, end.bytes, end.offset
            )));
        }
        let buffer = read_at(file, end.offset, end.bytes)?;
        let mut bytes = Bytes::new(&buffer);
        let mut members = BTreeMap::new();
        for _ in 0..end.members {
            let (name, member) = central(&mut bytes)?;
            if members.insert(name.clone(), member).is_some() {
                return Err(broken(&format!("two members are called `{name}`")));
            }
        }
        Ok(Self { members, end: end.offset })
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.members.keys().map(String::as_str)
    }

    /// Where the bytes of a member begin, and how many there are; nothing if there is no such one.
    pub(super) fn place(&self, file: &File, name: &str) -> Result<Option<(u64, u64)>> {
        let Some(member) = self.members.get(name) else { return Ok(None) };
        let at = |e: Error| e.at(format!("member `{name}`"));
        if member.encrypted || member.method != 0 || member.packed != member.length {
            let what = if member.encrypted { "encrypted" } else { "compressed" };
            return Err(at(Error::model(format!(
                "the member is {what} (method {}); torch.save stores",
                member.method
            ))
            .hint("save the model again with torch.save, or as safetensors")));
        }
        let past = || at(broken(&format!("{} bytes at {}", member.length, member.header)));
        let header = member.header.checked_add(30).filter(|after| *after <= self.end);
        header.ok_or_else(past)?;
        let local = read_at(file, member.header, 30).map_err(at)?;
        let mut bytes = Bytes::new(&local);
        if bytes.u32()? != 0x0403_4b50 {
            return Err(at(broken(&format!("no local header at {}", member.header))));
        }
        bytes.skip(22)?;
        let (name_length, extra) = (u64::from(bytes.u16()?), u64::from(bytes.u16()?));
        let start = member.header + 30 + name_length + extra;
        let whole = start.checked_add(member.length).is_some_and(|after| after <= self.end);
        if whole { Ok(Some((start, member.length))) } else { Err(past()) }
    }
}

/// The end of the central directory.
struct EndRecord {
    members: u64,
    bytes: u64,
    offset: u64,
}

impl EndRecord {
    /// Looks for the last end record in the last 64 KiB, where a comment may stand behind it.
    fn find(file: &File, length: u64) -> Result<Self> {
        let tail = length.min(22 + 65_535);
        let start = length - tail;
        let buffer = read_at(file, start, tail)?;
        let signature = 0x0605_4b50u32.to_le_bytes();
        let found = buffer.windows(4).rposition(|window| window == signature.as_slice());
        let Some(found) = found.filter(|found| buffer.len() - found >= 22) else {
            return Err(broken("there is no end record"));
        };
        let mut bytes = Bytes::new(&buffer[found + 4..]);
        let (disk, first, here, members) = (bytes.u16()?, bytes.u16()?, bytes.u16()?, bytes.u16()?);
        let (size, offset) = (bytes.u32()?, bytes.u32()?);
        let at = start + found as u64;
        if let Some(large) = Self::large(file, length, at)? {
            return Ok(large);
        }
        if disk != 0 || first != 0 || here != members {
            return Err(broken("the archive is spread over several files"));
        }
        Ok(Self { members: members.into(), bytes: size.into(), offset: offset.into() })
    }

    /// The 64-bit end record, if its locator stands before the end record.
    fn large(file: &File, length: u64, end: u64) -> Result<Option<Self>> {
        let Some(locator) = end.checked_sub(20) else { return Ok(None) };
        let buffer = read_at(file, locator, 20)?;
        let mut bytes = Bytes::new(&buffer);
        if bytes.u32()? != 0x0706_4b50 {
            return Ok(None);
        }
        bytes.skip(4)?;
        let at = bytes.u64()?;
        if at.checked_add(56).is_none_or(|after| after > length) {
            return Err(broken(&format!("a 64-bit end record at {at} of {length} bytes")));
        }
        let buffer = read_at(file, at, 56)?;
        let mut bytes = Bytes::new(&buffer);
        if bytes.u32()? != 0x0606_4b50 {
            return Err(broken(&format!("no 64-bit end record at {at}")));
        }
        bytes.skip(28)?;
        Ok(Some(Self { members: bytes.u64()?, bytes: bytes.u64()?, offset: bytes.u64()? }))
    }
}

/// One header of the central directory.
fn central(bytes: &mut Bytes) -> Result<(String, Member)> {
    if bytes.u32()? != 0x0201_4b50 {
        return Err(broken("the directory has fewer members than it says"));
    }
    bytes.skip(4)?;
    let (flags, method) = (bytes.u16()?, bytes.u16()?);
    bytes.skip(8)?;
    let (packed, length) = (bytes.u32()?, bytes.u32()?);
    let (name, extra, comment) = (bytes.u16()?, bytes.u16()?, bytes.u16()?);
    bytes.skip(8)?;
    let header = bytes.u32()?;
    let name = std::str::from_utf8(bytes.take(name.into())?)
        .map_err(|_| broken("a member's name is not UTF-8"))?
        .to_owned();
    let mut extra = Bytes::new(bytes.take(extra.into())?);
    bytes.skip(comment.into())?;
    let mut member = Member {
        header: header.into(),
        length: length.into(),
        packed: packed.into(),
        method,
        encrypted: flags & 1 != 0,
    };
    while extra.left() >= 4 {
        let (tag, size) = (extra.u16()?, extra.u16()?);
        let mut field = Bytes::new(extra.take(size.into())?);
        if tag != 1 {
            continue;
        }
        // Only what is all ones in the header stands here, in this order.
        for (short, value) in [
            (length, &mut member.length),
            (packed, &mut member.packed),
            (header, &mut member.header),
        ] {
            if short == u32::MAX {
                *value = field.u64()?;
            }
        }
    }
    Ok((name, member))
}

fn broken(what: &str) -> Error {
    Error::model(format!("not a whole zip file: {what}"))
        .hint("copy the file again; it was cut off or is damaged")
}
