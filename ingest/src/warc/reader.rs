//! The reader: records one after another, whatever the file holds.

use std::io::Read;

use memchr::{memchr, memmem};
use stage::Result;

use super::record::{header, header_block};
use super::window::Window;
use super::{Damage, Record};

/// Sizes beyond which a file is hostile rather than large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest record header in bytes.
    pub header_bytes: usize,
    /// Longest record body in bytes; longer ones are passed over.
    pub body_bytes: usize,
    /// Most bytes that one gzip member may unpack to.
    pub member_bytes: u64,
    /// Most unpacked bytes for a packed one, once `ratio_from` bytes are unpacked.
    pub max_ratio: u64,
    /// Unpacked bytes of a member from which `max_ratio` holds.
    pub ratio_from: u64,
}

impl Default for Limits {
    /// Header 64 KiB, body 64 MiB, member 64 GiB (a whole archive in one member is legal), ratio
    /// 200 from 16 MiB on (web pages and their metadata pack 4 to 10 times).
    fn default() -> Self {
        Self {
            header_bytes: 64 << 10,
            body_bytes: 64 << 20,
            member_bytes: 64 << 30,
            max_ratio: 200,
            ratio_from: 16 << 20,
        }
    }
}

/// Reads the records of one file in order.
///
/// Memory: twice the longest record at most, and 512 KiB.
pub struct Reader<R> {
    window: Window<R>,
    limits: Limits,
    /// Sound records since the last place where reading can start.
    nth: u64,
}

/// Where a sound record lies, from the window's start.
struct Span {
    version: usize,
    head: usize,
    whole: usize,
}

/// How every record starts.
const VERSION: &[u8] = b"WARC/";
/// Bytes looked at behind a body: two line ends and the start of the next record.
const TAIL: usize = 9;

impl<R: Read> Reader<R> {
    /// Reads from `source`; `name` is what errors call it.
    pub fn new(name: &str, source: R) -> Self {
        Self::with_limits(name, source, Limits::default())
    }

    /// As [`Self::new`] with other limits.
    pub fn with_limits(name: &str, source: R, limits: Limits) -> Self {
        Self { window: Window::new(name, source, limits), limits, nth: 0 }
    }

    /// The next sound record; `None` at the end of the file.
    ///
    /// # Errors
    /// Only when the source cannot be read. What is broken in the file is counted in
    /// [`Self::damage`].
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>> {
        let Some(span) = self.next_span()? else { return Ok(None) };
        let offset = self.window.offset();
        // A plain file can be read from any record on, a packed one from a member on.
        let nth = if self.window.is_packed() { self.nth } else { 0 };
        self.nth += 1;
        let bytes = self.window.take(span.whole);
        Ok(Some(Record {
            offset,
            nth,
            lines: &bytes[span.version..span.head],
            body: &bytes[span.head..],
        }))
    }

    /// What was left out so far.
    #[must_use]
    pub fn damage(&self) -> &Damage {
        self.window.damage()
    }

    /// Bytes of the file, packed if it is packed, that have been used so far.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.window.position()
    }

    fn next_span(&mut self) -> Result<Option<Span>> {
        loop {
            if !self.skip_blanks()? {
                return Ok(None);
            }
            self.window.want(VERSION.len())?;
            if !self.window.data().starts_with(VERSION) {
                let cut = VERSION.starts_with(self.window.data());
                self.window.note(if cut { "record_truncated" } else { "not_a_record" });
                self.resync(1)?;
                continue;
            }
            let head = match self.head()? {
                Ok(head) => head,
                Err(reason) => {
                    self.window.note(reason);
                    self.resync(VERSION.len())?;
                    continue;
                }
            };
            let Some(length) = self.content_length(head) else {
                self.window.note("no_content_length");
                self.resync(VERSION.len())?;
                continue;
            };
            if length > self.limits.body_bytes as u64 {
                self.window.note("record_too_long");
                self.pass_over((head as u64).saturating_add(length))?;
                continue;
            }
            let whole = head + length as usize;
            self.window.want(whole + TAIL)?;
            if self.ends_soundly(whole) {
                let version = memchr(b'\n', self.window.data()).map_or(head, |end| end + 1);
                return Ok(Some(Span { version, head, whole }));
            }
            let cut = self.window.data().len() < whole
                && !self.window.member_follows()
                && next_version(self.window.data()).is_none();
            self.window.note(if cut { "record_truncated" } else { "content_length" });
            self.resync(head)?;
        }
    }

    /// Length of the header block, or why there is none.
    fn head(&mut self) -> Result<Result<usize, &'static str>> {
        let mut wanted = 4 << 10;
        loop {
            let more = self.window.want(wanted)?;
            let data = self.window.data();
            let within = data.len().min(self.limits.header_bytes);
            if let Some(head) = header_block(&data[..within]) {
                return Ok(Ok(head));
            }
            if within == self.limits.header_bytes {
                return Ok(Err("header_too_long"));
            }
            if !more {
                return Ok(Err("record_truncated"));
            }
            wanted *= 2;
        }
    }

    fn content_length(&self, head: usize) -> Option<u64> {
        let value = header(&self.window.data()[..head], "Content-Length")?;
        // `parse` alone would take a plus sign.
        let digits = value.iter().all(u8::is_ascii_digit);
        std::str::from_utf8(value).ok().filter(|_| digits)?.parse().ok()
    }

    /// Whether the record is all there, and blanks and then a record or the end follow it.
    fn ends_soundly(&self, whole: usize) -> bool {
        let data = self.window.data();
        let Some(tail) = data.get(whole..data.len().min(whole + TAIL)) else { return false };
        let rest = tail.trim_ascii_start();
        // Behind more blanks than usual the next record does not fit into what is looked at.
        let seen = if tail.len() == TAIL { VERSION.len().min(rest.len()) } else { VERSION.len() };
        rest.is_empty() || rest.starts_with(&VERSION[..seen])
    }

    /// Moves over line ends and other blanks to the next record; false at the end.
    fn skip_blanks(&mut self) -> Result<bool> {
        loop {
            let blanks = self.window.data().iter().take_while(|b| b.is_ascii_whitespace()).count();
            self.window.take(blanks);
            if !self.window.data().is_empty() {
                return Ok(true);
            }
            if self.window.cross_wall() {
                self.nth = 0;
            } else if !self.window.want(1)? && !self.window.has_wall() {
                return Ok(false);
            }
        }
    }

    /// Moves at least `from` bytes on, to where a record seems to start or to the next wall.
    fn resync(&mut self, from: usize) -> Result<()> {
        self.window.take(from.min(self.window.data().len()));
        loop {
            let data = self.window.data();
            if let Some(found) = next_version(data) {
                self.window.take(found);
                return Ok(());
            }
            // The last bytes may be the beginning of what is looked for.
            let keep = data.len().min(VERSION.len());
            self.window.take(data.len() - keep);
            if !self.window.want(keep + 1)? {
                let rest = self.window.data().len();
                self.window.take(rest);
                return Ok(());
            }
        }
    }

    /// Moves this many bytes on, but over no wall.
    fn pass_over(&mut self, mut bytes: u64) -> Result<()> {
        while bytes > 0 && self.window.want(1)? {
            let step = bytes.min(self.window.data().len() as u64);
            self.window.take(step as usize);
            bytes -= step;
        }
        Ok(())
    }
}

/// Where the next record seems to start, this one's own start aside.
fn next_version(data: &[u8]) -> Option<usize> {
    memmem::find(data, b"\nWARC/").map(|found| found + 1)
}
