//! The walk over a tar's headers that both readers share: from one member to the next.
//!
//! Strict where two readers could see two archives: sizes that disagree, two long names for one
//! member, a second archive behind the first, and everything that a shard has no use for (links,
//! devices, sparse files) is refused. Python's `tarfile` and GNU tar see the same members in
//! whatever is accepted here.

use stage::{Error, Result};

use crate::tar_header::{BLOCK, Block, Kind, MAX_EXTENSION, MAX_MEMBER, decode, padding};
use crate::tar_name::check_read;

/// A regular file in a tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name, without leading `./`.
    pub name: String,
    /// Where its data start, bytes from the start of the tar.
    pub offset: u64,
    /// Length of its data, bytes; at most [`crate::MAX_MEMBER`].
    pub len: u64,
}

/// Where the bytes of a tar come from.
pub(crate) trait Source {
    /// Fills `buffer` from `offset` on; fewer bytes only at the end. A forward-only source is
    /// asked for growing offsets.
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize>;
    /// Length of the tar as far as it is known.
    fn known_len(&self) -> Option<u64>;
}

/// Why a walk stopped before its end.
#[derive(Debug)]
pub(crate) struct Broken {
    /// The bytes end too early; what came before is whole.
    pub(crate) cut: bool,
    pub(crate) error: Error,
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self { cut: false, error }
    }
}

/// From header to header.
#[derive(Debug)]
pub(crate) struct Walk<S> {
    pub(crate) source: S,
    shard: String,
    /// Where the next header is.
    next: u64,
    ended: bool,
}

/// What PAX and GNU extension headers say about the next member.
#[derive(Debug, Default)]
struct Extension {
    path: Option<Vec<u8>>,
    size: Option<u64>,
}

impl<S: Source> Walk<S> {
    pub(crate) fn new(shard: &str, source: S) -> Self {
        Self { source, shard: shard.to_owned(), next: 0, ended: false }
    }

    /// The next regular file; directories are passed over. `None` once the archive has ended.
    pub(crate) fn next_member(&mut self) -> Result<Option<Member>, Broken> {
        if self.ended {
            return Ok(None);
        }
        let mut extension = Extension::default();
        loop {
            let start = self.next;
            let header = match decode(&self.header(start)?) {
                Ok(Some(header)) => header,
                Ok(None) if extension.path.is_some() || extension.size.is_some() => {
                    return Err(self.refuse("", start, "a long name without its member"));
                }
                Ok(None) => {
                    self.ended = true;
                    self.expect_no_second_archive(start)?;
                    return Ok(None);
                }
                Err(why) => return Err(self.refuse("", start, &why)),
            };
            let data = start + BLOCK as u64;
            let lossy = String::from_utf8_lossy(&header.name).into_owned();
            match header.kind {
                Kind::Refused(what) => {
                    return Err(self.refuse(&lossy, start, &format!("{what}, not a regular file")));
                }
                Kind::LongName | Kind::Pax | Kind::GlobalPax => {
                    let body = self.extension_data(&lossy, data, header.size)?;
                    let read = match header.kind {
                        Kind::LongName => extension.long_name(&body),
                        Kind::Pax => extension.pax(&body, false),
                        _ => Extension::default().pax(&body, true),
                    };
                    read.map_err(|why| self.refuse(&lossy, start, &why))?;
                    self.next = data + header.size + padding(header.size);
                    continue;
                }
                // Readers disagree whether data follow a directory.
                Kind::Directory if header.size != 0 || extension.size.unwrap_or(0) != 0 => {
                    return Err(self.refuse(&lossy, start, "a directory with data"));
                }
                Kind::Directory => {
                    let name = extension.path.take().unwrap_or(header.name);
                    check_read(&name).map_err(|why| self.refuse("", start, &why))?;
                    self.next = data;
                    extension = Extension::default();
                    continue;
                }
                Kind::File => {}
            }
            let name = extension.path.take().unwrap_or(header.name);
            let name = check_read(&name).map_err(|why| self.refuse("", start, &why))?;
            let len = match extension.size {
                Some(pax) if header.size != 0 && header.size != pax => {
                    let why = format!("size {} in its header but {pax} in PAX", header.size);
                    return Err(self.refuse(&name, start, &why));
                }
                Some(pax) => pax,
                None => header.size,
            };
            if len > MAX_MEMBER {
                let why = format!("{len} bytes, at most {MAX_MEMBER} are accepted");
                return Err(self.refuse(&name, start, &why));
            }
            // The size is capped and the offset lies within a file: neither sum overflows.
            if let Some(end) = self.source.known_len().filter(|&end| end < data + len) {
                return Err(self.cut(&name, data, &format!("{len} bytes, {} left", end - data)));
            }
            self.next = data + len + padding(len);
            return Ok(Some(Member { name, offset: data, len }));
        }
    }

    /// Ends the walk: there is no next member.
    pub(crate) fn stop(&mut self) {
        self.ended = true;
    }

    /// The data of the member that was returned last.
    pub(crate) fn data(&mut self, member: &Member) -> Result<Vec<u8>, Broken> {
        let len = usize::try_from(member.len).unwrap_or(usize::MAX);
        let mut data = vec![0; len];
        let read = self.source.read_at(member.offset, &mut data)?;
        if read < len {
            let why = format!("{len} bytes, {read} left");
            return Err(self.cut(&member.name, member.offset, &why));
        }
        Ok(data)
    }

    fn header(&mut self, offset: u64) -> Result<Block, Broken> {
        let mut block = [0; BLOCK];
        let read = self.source.read_at(offset, &mut block)?;
        if read < BLOCK {
            return Err(self.cut("", offset, "the archive ends without its end blocks"));
        }
        Ok(block)
    }

    fn extension_data(&mut self, name: &str, offset: u64, len: u64) -> Result<Vec<u8>, Broken> {
        if len > MAX_EXTENSION {
            let why =
                format!("a long-name block of {len} bytes, at most {MAX_EXTENSION} are accepted");
            return Err(self.refuse(name, offset, &why));
        }
        self.data(&Member { name: name.to_owned(), offset, len })
    }

    /// `cat a.tar b.tar` ends for every reader after `a`; the samples of `b` would be lost silently.
    fn expect_no_second_archive(&mut self, end: u64) -> Result<(), Broken> {
        let mut offset = end + BLOCK as u64;
        let mut block = [0; BLOCK];
        while self.source.read_at(offset, &mut block)? == BLOCK {
            if let Ok(Some(header)) = decode(&block) {
                let name = String::from_utf8_lossy(&header.name).into_owned();
                return Err(self.refuse(&name, offset, "follows the end of the archive"));
            }
            offset += BLOCK as u64;
        }
        Ok(())
    }

    fn refuse(&mut self, name: &str, offset: u64, why: &str) -> Broken {
        self.ended = true;
        Broken { cut: false, error: self.error(name, offset, why) }
    }

    fn cut(&mut self, name: &str, offset: u64, why: &str) -> Broken {
        self.ended = true;
        let error = self.error(name, offset, &format!("truncated: {why}"));
        Broken { cut: true, error: error.hint("copy or make the shard again") }
    }

    fn error(&self, name: &str, offset: u64, why: &str) -> Error {
        let error = Error::input(why);
        let error = if name.is_empty() { error } else { error.at(format!("member {name}")) };
        error.at(format!("offset {offset}")).at(format!("shard {}", self.shard))
    }
}

impl Extension {
    fn long_name(&mut self, body: &[u8]) -> Result<(), String> {
        let end = body.iter().position(|&b| b == 0).unwrap_or(body.len());
        self.set_path(&body[..end])
    }

    /// Records of the form `<length> <key>=<value>\n`.
    fn pax(&mut self, mut body: &[u8], global: bool) -> Result<(), String> {
        while !body.is_empty() {
            let malformed = || "malformed PAX record".to_owned();
            let space = body.iter().position(|&b| b == b' ').ok_or_else(malformed)?;
            let length = decimal(&body[..space]).ok_or_else(malformed)?;
            let length = usize::try_from(length).ok().filter(|&l| l > space + 1 && l <= body.len());
            let (record, rest) = body.split_at(length.ok_or_else(malformed)?);
            let record = record[space + 1..].strip_suffix(b"\n").ok_or_else(malformed)?;
            let equals = record.iter().position(|&b| b == b'=').ok_or_else(malformed)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" | b"size" if global => {
                    return Err("a global PAX header sets a name or a size".to_owned());
                }
                b"path" => self.set_path(value)?,
                b"size" => {
                    let size = decimal(value).ok_or_else(|| "PAX size is no number".to_owned())?;
                    if self.size.replace(size).is_some() {
                        return Err("two PAX sizes for one member".to_owned());
                    }
                }
                _ if key.starts_with(b"GNU.sparse") => return Err("sparse file".to_owned()),
                _ => {}
            }
            body = rest;
        }
        Ok(())
    }

    fn set_path(&mut self, path: &[u8]) -> Result<(), String> {
        match self.path.replace(path.to_vec()) {
            Some(_) => Err("two long names for one member".to_owned()),
            None => Ok(()),
        }
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_records_carry_their_own_length() {
        let mut extension = Extension::default();
        extension.pax(b"19 path=caf\xc3\xa9/x.jpg\n12 size=1234\n", false).unwrap_err();
        let mut extension = Extension::default();
        extension.pax(b"20 path=caf\xc3\xa9/x.jpg\n13 size=1234\n", false).unwrap();
        assert_eq!(extension.size, Some(1234));
        assert_eq!(extension.path.as_deref(), Some("café/x.jpg".as_bytes()));
    }

    #[test]
    fn malformed_pax_records_are_refused() {
        for bad in [
            &b"5 a=b"[..],
            b"6 ab=c",
            b"99 a=b\n",
            b"0 a=b\n",
            b"-6 a=b\n",
            b"18446744073709551616 a=b\n",
            b"6 a:b\n",
            b"17 size=12345678x\n",
            b"21 GNU.sparse.size=1\n",
        ] {
            assert!(Extension::default().pax(bad, false).is_err(), "{bad:?}");
        }
    }
}
