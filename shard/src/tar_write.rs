//! Writes a tar whose bytes depend on nothing but the members: ustar, no clock, no owner.

use std::io::{BufWriter, Write};

use stage::{Error, Result};
use store::write_error;

use crate::tar_header::{BLOCK, MAX_MEMBER, encode, padding};
use crate::tar_name::check_written;

/// Streams members into a tar.
///
/// Regular files of mode 0444 with uid, gid and mtime 0 and no user or group name; two zero blocks
/// end the archive and nothing pads it further (GNU tar and Python's `tarfile` need no more).
///
/// ```
/// let mut tar = shard::TarWriter::new(Vec::new());
/// tar.append("000000000.txt", b"a cat")?;
/// assert_eq!(tar.finish()?.len(), 4 * 512);
/// # Ok::<(), stage::Error>(())
/// ```
#[derive(Debug)]
pub struct TarWriter<W: Write> {
    out: BufWriter<W>,
    bytes: u64,
}

impl<W: Write> TarWriter<W> {
    /// Starts an archive.
    pub fn new(out: W) -> Self {
        Self { out: BufWriter::with_capacity(256 << 10, out), bytes: 0 }
    }

    /// Appends one member.
    ///
    /// # Errors
    /// When the name breaks the rule of [`check_written`], the data is larger than 64 MiB (readers
    /// would refuse it), or the output fails.
    pub fn append(&mut self, name: &str, data: &[u8]) -> Result<()> {
        check_written(name)?;
        let len = data.len() as u64;
        if len > MAX_MEMBER {
            return Err(Error::input(format!("{len} bytes, at most {MAX_MEMBER} are accepted"))
                .at(format!("member {name}")));
        }
        let zeros = &[0; BLOCK][..padding(len) as usize];
        self.write(&encode(name, len)).and_then(|()| self.write(data))?;
        self.write(zeros)
    }

    /// Bytes written so far, headers and padding included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Ends the archive and gives the output back, flushed as far as this writer goes.
    pub fn finish(mut self) -> Result<W> {
        self.write(&[0; 2 * BLOCK])?;
        self.out.into_inner().map_err(|e| write_error(e.into_error()))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes).map_err(write_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_archive_is_two_zero_blocks() {
        assert_eq!(TarWriter::new(Vec::new()).finish().unwrap(), vec![0; 1024]);
    }

    #[test]
    fn a_header_holds_neither_clock_nor_owner() {
        let mut tar = TarWriter::new(Vec::new());
        tar.append("000000000.jpg", b"abc").unwrap();
        assert_eq!(tar.bytes(), 1024);
        let bytes = tar.finish().unwrap();
        assert_eq!(bytes.len(), 4 * 512);
        assert_eq!(
            &bytes[100..148],
            b"0000444\x000000000\x000000000\x0000000000003\x0000000000000\0"
        );
        assert_eq!(&bytes[156..158], b"0\0");
        assert_eq!(&bytes[257..265], b"ustar\x0000");
        assert!(bytes[265..329].iter().all(|&b| b == 0));
        assert_eq!(&bytes[512..516], b"abc\0");
    }

    #[test]
    fn a_name_that_readers_would_split_wrongly_is_refused() {
        let error = TarWriter::new(Vec::new()).append("a/b.jpg", b"").unwrap_err();
        assert!(error.to_string().contains("a/b.jpg"), "{error}");
    }
}
