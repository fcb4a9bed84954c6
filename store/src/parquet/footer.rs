//! Walks over a parquet footer before the parquet crate parses it.
//!
//! parquet 59 reserves memory for as many row groups and children as the footer claims (arrow-rs
//! pull request 9868 repairs it in 60): a few bytes could ask for gigabytes, and a failed
//! reservation aborts the process. The walk allocates nothing. Format: Thrift's compact protocol,
//! `parquet.thrift`.

use stage::{Error, Result};

use crate::Blob;

/// Most bytes of a footer.
const MAX_FOOTER: u64 = 64 << 20;
/// Most columns and groups of columns.
const MAX_SCHEMA: u64 = 10_000;
const MAX_ROW_GROUPS: u64 = 100_000;
/// Most columns times row groups: each costs the parser about half a kilobyte.
const MAX_CHUNKS: u64 = 2_000_000;
/// Thrift structs and lists within each other.
const MAX_DEPTH: u32 = 32;

const MAGIC: &[u8; 4] = b"PAR1";

/// Checks that a file's ends and the counts in its footer are possible.
pub(super) fn check(blob: &Blob) -> Result<()> {
    if blob.len() < 12 || blob.read_at(0, 4)?.as_ref() != MAGIC {
        return Err(Error::input("not a parquet file"));
    }
    let tail = blob.read_at(blob.len() - 8, 8)?;
    match &tail[4..] {
        b"PARE" => return Err(Error::input("an encrypted parquet file")),
        magic if magic != MAGIC => {
            return Err(Error::input("a parquet file without its end").hint("copy the file again"));
        }
        _ => {}
    }
    let len = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
    if len > blob.len() - 12 {
        let file = blob.len();
        return Err(Error::input(format!("a footer of {len} bytes in a file of {file}")));
    }
    if len > MAX_FOOTER {
        let message = format!("a footer of {len} bytes; at most {MAX_FOOTER} are read");
        return Err(Error::input(message));
    }
    let bytes = blob.read_at(blob.len() - 8 - len, len as usize)?;
    let mut walk = Walk { rest: &bytes, schema: 0, chunks: 0 };
    walk.structure(Place::File, 0)
}

/// Which struct is walked, as far as its counts matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// `FileMetaData`: 2 is the schema, 4 the row groups.
    File,
    /// `SchemaElement`: 5 is the number of children.
    Schema,
    /// `RowGroup`: 1 is the columns.
    RowGroup,
    Other,
}

struct Walk<'a> {
    rest: &'a [u8],
    schema: u64,
    chunks: u64,
}

const INT32: u8 = 5;
const LIST: u8 = 9;
const SET: u8 = 10;

impl Walk<'_> {
    fn structure(&mut self, place: Place, depth: u32) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(broken("nested too deep"));
        }
        let mut field = 0i64;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Ok(());
            }
            field = match head >> 4 {
                0 => self.signed()?,
                delta => field + i64::from(delta),
            };
            match (place, field, head & 15) {
                (Place::Schema, 5, INT32) => {
                    let children = self.signed()?;
                    if children < 0 || children as u64 > self.schema {
                        return Err(broken(&format!("{children} children of a column")));
                    }
                }
                // In a struct a truth value is its type: nothing follows.
                (_, _, 1 | 2) => {}
                (_, _, LIST | SET) => self.list(place, field, depth)?,
                (_, _, kind) => self.value(kind, Place::Other, depth)?,
            }
        }
    }

    fn list(&mut self, place: Place, field: i64, depth: u32) -> Result<()> {
        let head = self.byte()?;
        let count = match u64::from(head >> 4) {
            15 => self.unsigned()?,
            count => count,
        };
        if count > self.rest.len() as u64 {
            let left = self.rest.len();
            return Err(broken(&format!("a list of {count} in the last {left} bytes")));
        }
        let of = match (place, field) {
            (Place::File, 2) => {
                self.schema = count;
                at_most(count, MAX_SCHEMA, "columns")?;
                Place::Schema
            }
            (Place::File, 4) => {
                at_most(count, MAX_ROW_GROUPS, "row groups")?;
                Place::RowGroup
            }
            (Place::RowGroup, 1) => {
                self.chunks += count;
                at_most(self.chunks, MAX_CHUNKS, "columns times row groups")?;
                Place::Other
            }
            _ => Place::Other,
        };
        for _ in 0..count {
            self.value(head & 15, of, depth + 1)?;
        }
        Ok(())
    }

    fn value(&mut self, kind: u8, place: Place, depth: u32) -> Result<()> {
        match kind {
            1..=3 => self.skip(1),
            4..=6 => self.unsigned().map(|_| ()),
            7 => self.skip(8),
            8 => {
                let len = self.unsigned()?;
                self.skip(len)
            }
            LIST | SET if depth <= MAX_DEPTH => self.list(Place::Other, 0, depth),
            12 => self.structure(place, depth + 1),
            // Maps (11) and UUIDs (13) do not occur in parquet's footer.
            kind => Err(broken(&format!("a value of type {kind}"))),
        }
    }

    fn byte(&mut self) -> Result<u8> {
        let (&first, rest) = self.rest.split_first().ok_or_else(|| broken("truncated"))?;
        self.rest = rest;
        Ok(first)
    }

    fn skip(&mut self, len: u64) -> Result<()> {
        let rest = usize::try_from(len).ok().and_then(|len| self.rest.get(len..));
        self.rest = rest.ok_or_else(|| broken("truncated"))?;
        Ok(())
    }

    fn unsigned(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(broken("an integer of more than 64 bits"))
    }

    /// Zigzag: 0, -1, 1, -2, ...
    fn signed(&mut self) -> Result<i64> {
        let value = self.unsigned()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }
}

fn at_most(count: u64, cap: u64, what: &str) -> Result<()> {
    if count <= cap {
        return Ok(());
    }
    Err(Error::input(format!("a parquet file of {count} {what}; at most {cap} are read")))
}

fn broken(why: &str) -> Error {
    Error::input(format!("broken parquet footer: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that holds nothing but this footer.
    fn file(footer: &[u8]) -> Blob {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(footer);
        bytes.extend((footer.len() as u32).to_le_bytes());
        bytes.extend(MAGIC);
        Blob::from_bytes("x.parquet", bytes.into())
    }

    fn refusal(footer: &[u8]) -> String {
        check(&file(footer)).unwrap_err().to_string()
    }

    #[test]
    fn a_list_longer_than_the_footer_is_refused() {
        // Field 4 (row groups), a list of 2^31 - 1 structs.
        let message = refusal(&[0x49, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x07, 0]);
        assert_eq!(message, "broken parquet footer: a list of 2147483647 in the last 1 bytes");
    }

    #[test]
    fn more_children_than_columns_are_refused() {
        // Field 2 (schema), one struct, whose field 5 says 2^30 children.
        let message = refusal(&[0x29, 0x1c, 0x55, 0x80, 0x80, 0x80, 0x80, 0x08, 0, 0]);
        assert_eq!(message, "broken parquet footer: 1073741824 children of a column");
    }

    #[test]
    fn too_many_row_groups_are_refused() {
        let mut footer = vec![0x49, 0xfc, 0xa1, 0x8d, 0x06];
        footer.resize(footer.len() + 100_001, 0);
        assert!(refusal(&footer).contains("100001 row groups; at most 100000"), "");
    }

    #[test]
    fn deep_nesting_is_refused() {
        assert!(refusal(&[0x1c; 1000]).contains("nested too deep"));
        assert!(refusal(&[&[0x19][..], &[0x19; 1000]].concat()).contains("broken"), "");
    }

    #[test]
    fn a_footer_longer_than_its_file_is_refused() {
        let mut bytes = b"PAR1\0\0\0\0".to_vec();
        bytes.extend(1_000_000u32.to_le_bytes());
        bytes.extend(MAGIC);
        let error = check(&Blob::from_bytes("x", bytes.into())).unwrap_err();
        assert_eq!(error.to_string(), "a footer of 1000000 bytes in a file of 16");
    }

    #[test]
    fn other_files_are_refused() {
        for bytes in [&b""[..], b"PAR1", b"PAR1PAR1PAR", b"PK\x03\x04aaaaaaaaaaaa"] {
            assert!(check(&Blob::from_bytes("x", bytes.to_vec().into())).is_err());
        }
    }
}
