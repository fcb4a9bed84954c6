//! The two tar readers: headers only with random access, and everything from a stream.

use std::io::Read;

use bytes::Bytes;
use stage::{Error, Result, ResultExt};
use store::Blob;

use crate::tar_walk::{Broken, Member, Source, Walk};

/// Bytes fetched at a time around a header: one picture's json, txt and the next sample's header
/// usually lie within them.
const WINDOW: usize = 4 << 10;

/// All regular files of a tar, in order, from its headers alone.
///
/// # Errors
/// Names shard, offset and member: a truncated archive, a broken header, a member that has no
/// place in a shard (link, device, sparse file, hostile name, more than 64 MiB).
pub fn index(blob: &Blob) -> Result<Vec<Member>> {
    match index_whole(blob)? {
        (members, None) => Ok(members),
        (_, Some(cut)) => Err(cut),
    }
}

/// Like [`index`], but keeps what a truncated archive still holds whole; the second value then says
/// where it was cut.
///
/// # Errors
/// As [`index`], but for truncation.
pub fn index_whole(blob: &Blob) -> Result<(Vec<Member>, Option<Error>)> {
    let name = blob.name();
    // Over a network one pass over everything takes less time than a request for each header.
    if blob.is_remote() {
        let (input, len) = (blob.reader(), Some(blob.len()));
        return members(Walk::new(name, Stream { input, position: 0, ended: false, len }));
    }
    members(Walk::new(name, Window::new(blob)))
}

fn members<S: Source>(mut walk: Walk<S>) -> Result<(Vec<Member>, Option<Error>)> {
    let mut members = Vec::new();
    loop {
        match walk.next_member() {
            Ok(Some(member)) => members.push(member),
            Ok(None) => return Ok((members, None)),
            Err(Broken { cut: true, error }) => return Ok((members, Some(error))),
            Err(Broken { error, .. }) => return Err(error),
        }
    }
}

/// Reads a tar from a stream, member by member.
///
/// ```
/// let mut tar = shard::TarWriter::new(Vec::new());
/// tar.append("000000000.txt", b"a cat")?;
/// let bytes = tar.finish()?;
/// let mut reader = shard::TarReader::new("00000.tar", &bytes[..]);
/// let (member, data) = reader.next().unwrap()?;
/// assert_eq!((member.name.as_str(), &data[..]), ("000000000.txt", &b"a cat"[..]));
/// # Ok::<(), stage::Error>(())
/// ```
#[derive(Debug)]
pub struct TarReader<R> {
    walk: Walk<Stream<R>>,
    keep_whole: bool,
    cut: Option<Error>,
}

impl<R: Read> TarReader<R> {
    /// Reads `input`; `shard` is its name in messages. Bring a buffered input.
    pub fn new(shard: &str, input: R) -> Self {
        let stream = Stream { input, position: 0, ended: false, len: None };
        Self { walk: Walk::new(shard, stream), keep_whole: false, cut: None }
    }

    /// Ends the iteration at a truncation instead of giving an error; [`Self::cut`] then says where.
    #[must_use]
    pub fn keep_whole(mut self) -> Self {
        self.keep_whole = true;
        self
    }

    /// Where a truncated archive was cut, once the iteration has ended.
    #[must_use]
    pub fn cut(&self) -> Option<&Error> {
        self.cut.as_ref()
    }

    fn read(&mut self) -> Result<Option<(Member, Bytes)>, Broken> {
        let Some(member) = self.walk.next_member()? else {
            return Ok(None);
        };
        let data = self.walk.data(&member)?;
        Ok(Some((member, Bytes::from(data))))
    }
}

impl<R: Read> Iterator for TarReader<R> {
    type Item = Result<(Member, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.read() {
            Ok(entry) => entry.map(Ok),
            Err(Broken { cut: true, error }) if self.keep_whole => {
                self.cut = Some(error);
                None
            }
            Err(Broken { error, .. }) => {
                // Whatever follows a broken place has no meaning.
                self.walk.stop();
                Some(Err(error))
            }
        }
    }
}

/// Random access with a small window over the headers.
struct Window<'a> {
    blob: &'a Blob,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    fn new(blob: &'a Blob) -> Self {
        Self { blob, start: 0, bytes: Vec::new() }
    }
}

impl Source for Window<'_> {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let left = self.blob.len().saturating_sub(offset);
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let held = self.start + self.bytes.len() as u64;
        if offset < self.start || offset + wanted as u64 > held {
            let window = wanted.max(WINDOW).min(usize::try_from(left).unwrap_or(usize::MAX));
            self.bytes.resize(window, 0);
            self.start = offset;
            if let Err(error) = self.blob.read_into(offset, &mut self.bytes) {
                self.bytes.clear();
                return Err(error);
            }
        }
        let from = (offset - self.start) as usize;
        let Some(bytes) = self.bytes.get(from..from + wanted) else {
            let name = self.blob.name();
            return Err(Error::input(format!("shard {name}: shorter than it was when opened")));
        };
        buffer[..wanted].copy_from_slice(bytes);
        Ok(wanted)
    }

    fn known_len(&self) -> Option<u64> {
        Some(self.blob.len())
    }
}

/// Forward only; what lies between two reads is read and forgotten.
#[derive(Debug)]
struct Stream<R> {
    input: R,
    position: u64,
    ended: bool,
    /// The whole length, where it is known beforehand.
    len: Option<u64>,
}

impl<R: Read> Source for Stream<R> {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let mut scrap = [0; 8 << 10];
        while self.position < offset {
            let step = (offset - self.position).min(scrap.len() as u64) as usize;
            if self.fill(&mut scrap[..step])? < step {
                return Ok(0);
            }
        }
        self.fill(buffer)
    }

    fn known_len(&self) -> Option<u64> {
        self.len.or(self.ended.then_some(self.position))
    }
}

impl<R: Read> Stream<R> {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() && !self.ended {
            match self.input.read(&mut buffer[filled..]) {
                Ok(0) => self.ended = true,
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).input("cannot read tar"),
            }
        }
        self.position += filled as u64;
        Ok(filled)
    }
}
