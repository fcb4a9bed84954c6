//! Bytes of a file, and numbers out of bytes, without trust in any length.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use stage::{Error, Result, ResultExt};

/// `length` bytes at `offset`; the caller has held `length` against the file's or a limit.
pub(super) fn read_at(mut file: &File, offset: u64, length: u64) -> Result<Vec<u8>> {
    file.seek(SeekFrom::Start(offset)).input("cannot read")?;
    let mut buffer = Vec::new();
    let size = usize::try_from(length).input("more bytes than this machine can address")?;
    buffer.try_reserve_exact(size).model("no memory for a tensor")?;
    file.take(length).read_to_end(&mut buffer).input("cannot read")?;
    if buffer.len() == size {
        return Ok(buffer);
    }
    Err(Error::model(format!("the file ends {} bytes early", size - buffer.len()))
        .hint("copy the file again; it was cut off"))
}

/// Little-endian numbers, taken one by one.
pub(super) struct Bytes<'a> {
    rest: &'a [u8],
}

impl<'a> Bytes<'a> {
    pub(super) fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let Some((head, rest)) = self.rest.split_at_checked(count) else {
            return Err(Error::model(format!(
                "{count} bytes are announced where {} are left",
                self.rest.len()
            ))
            .hint("copy the file again; it was cut off or is damaged"));
        };
        self.rest = rest;
        Ok(head)
    }

    pub(super) fn skip(&mut self, count: usize) -> Result<()> {
        self.take(count).map(|_| ())
    }

    pub(super) fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Up to and without the next line feed.
    pub(super) fn line(&mut self) -> Result<&'a [u8]> {
        let Some(length) = self.rest.iter().position(|byte| *byte == b'\n') else {
            return Err(Error::model("a line has no end")
                .hint("copy the file again; it was cut off or is damaged"));
        };
        let line = self.take(length)?;
        self.skip(1)?;
        Ok(line)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }
}
