//! Bytes out of a file that is plain or gzip of many members (RFC 1952), with its damage named.

use std::io::{self, ErrorKind, Read};

use crc32fast::Hasher;
use flate2::{Decompress, FlushDecompress, Status};
use memchr::memmem;
use stage::{Error, Result};

use super::{Damage, Limits};

/// Bytes read from the file at a time. Members of a WAT file are about 5 KB.
const INPUT_BYTES: usize = 256 << 10;
/// Longest gzip header: an extra field is at most 64 KiB, names and comments are short.
const MAX_GZIP_HEADER: usize = 128 << 10;
/// Bytes of a file that may be inflated twice in the hunt for members behind a broken one.
const MAX_REWIND: u64 = 8 << 20;
/// The two magic bytes and the only compression method.
const MAGIC: [u8; 3] = [0x1f, 0x8b, 8];

/// What a call to [`Members::step`] gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// So many bytes were written.
    Bytes(usize),
    /// A gzip member starts at this byte of the file; its bytes follow.
    Start(u64),
    /// Bytes are missing here: what follows does not continue what came before.
    Gap,
    /// As `Gap`, and the member's bytes so far cannot be trusted.
    Spoiled,
    /// Nothing follows.
    End,
}

/// Unpacks a file step by step.
pub(super) struct Members<R> {
    name: String,
    source: R,
    input: Box<[u8]>,
    /// Unread bytes are `input[start..end]`.
    start: usize,
    end: usize,
    /// Offset in the file of `input[0]`.
    base: u64,
    eof: bool,
    state: State,
    inflate: Decompress,
    checksum: Hasher,
    member: Member,
    /// So many bytes may still be read a second time.
    rewind_left: u64,
    limits: Limits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unknown,
    Plain,
    /// A member, zeros or the end should come next.
    Between,
    /// Looks for the next member.
    Hunting,
    Inside,
    Trailer,
    /// Given up; what that means for the bytes given so far is still to be told.
    Broken(Step),
    Done,
}

#[derive(Debug, Clone, Copy, Default)]
struct Member {
    offset: u64,
    /// Offset of its first deflated byte.
    data: u64,
    unpacked: u64,
}

impl<R: Read> Members<R> {
    pub(super) fn new(name: &str, source: R, limits: Limits) -> Self {
        Self {
            name: name.to_owned(),
            source,
            input: vec![0; INPUT_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            base: 0,
            eof: false,
            state: State::Unknown,
            inflate: Decompress::new(false),
            checksum: Hasher::new(),
            member: Member::default(),
            rewind_left: MAX_REWIND,
            limits,
        }
    }

    /// Offset in the file of the next unread byte.
    pub(super) fn position(&self) -> u64 {
        self.base + self.start as u64
    }

    /// Does the next piece of work; `out` is not empty.
    pub(super) fn step(&mut self, out: &mut [u8], damage: &mut Damage) -> Result<Step> {
        loop {
            match self.state {
                State::Unknown => {
                    self.ensure(2)?;
                    let gzip = self.unread().starts_with(&MAGIC[..2]);
                    self.state = if gzip { State::Between } else { State::Plain };
                }
                State::Plain => return self.copy_plain(out),
                State::Between => {
                    if let Some(step) = self.next_member(damage)? {
                        return Ok(step);
                    }
                }
                State::Hunting => self.hunt()?,
                State::Inside => {
                    if let Some(step) = self.inflate_some(out, damage)? {
                        return Ok(step);
                    }
                }
                State::Trailer => self.check_trailer(damage)?,
                State::Broken(step) => {
                    self.state = State::Hunting;
                    return Ok(step);
                }
                State::Done => return Ok(Step::End),
            }
        }
    }

    fn copy_plain(&mut self, out: &mut [u8]) -> Result<Step> {
        self.ensure(1)?;
        let n = out.len().min(self.end - self.start);
        if n == 0 {
            self.state = State::Done;
            return Ok(Step::End);
        }
        out[..n].copy_from_slice(&self.input[self.start..self.start + n]);
        self.start += n;
        Ok(Step::Bytes(n))
    }

    /// Passes over zero padding and opens the next member.
    fn next_member(&mut self, damage: &mut Damage) -> Result<Option<Step>> {
        while self.ensure(1)? && self.input[self.start] == 0 {
            let zeros = self.unread().iter().take_while(|&&b| b == 0).count();
            self.start += zeros;
        }
        if self.start == self.end {
            self.state = State::Done;
            return Ok(None);
        }
        let offset = self.position();
        self.ensure(MAGIC.len())?;
        if !self.unread().starts_with(&MAGIC) {
            // A cut inside the magic bytes is a truncation; anything else is junk.
            let cut = self.end - self.start < MAGIC.len() && MAGIC.starts_with(self.unread());
            damage.add(if cut { "gzip_truncated" } else { "gzip_junk" }, offset);
            self.state = State::Hunting;
            return Ok(Some(Step::Gap));
        }
        let mut header = gzip_header(self.unread());
        if matches!(header, Header::Cut) {
            self.ensure(MAX_GZIP_HEADER)?;
            header = gzip_header(self.unread());
        }
        match header {
            Header::Ends(length) => {
                self.start += length;
                self.member = Member { offset, data: self.position(), unpacked: 0 };
                self.inflate.reset(false);
                self.checksum.reset();
                self.state = State::Inside;
                Ok(Some(Step::Start(offset)))
            }
            Header::Cut | Header::Wrong => {
                let cut = matches!(header, Header::Cut) && self.end - self.start < MAX_GZIP_HEADER;
                damage.add(if cut { "gzip_truncated" } else { "gzip_corrupt" }, offset);
                self.start += MAGIC.len();
                self.state = State::Hunting;
                Ok(Some(Step::Gap))
            }
        }
    }

    /// Moves to the next bytes that look like a member.
    fn hunt(&mut self) -> Result<()> {
        loop {
            if !self.ensure(4)? {
                self.start = self.end;
                self.state = State::Done;
                return Ok(());
            }
            if let Some(found) = memmem::find(self.unread(), &MAGIC) {
                self.start += found;
                if self.ensure(4)? && self.input[self.start + 3] & 0xe0 == 0 {
                    self.state = State::Between;
                    return Ok(());
                }
                self.start = (self.start + 1).min(self.end);
            } else {
                self.start = self.end - (MAGIC.len() - 1);
            }
        }
    }

    fn inflate_some(&mut self, out: &mut [u8], damage: &mut Damage) -> Result<Option<Step>> {
        let more = self.ensure(1)?;
        let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
        // `Finish` spares the copy into a window when a member fits into `out`; where it does
        // not, zlib goes on as with any other flush value.
        let input = &self.input[self.start..self.end];
        let status = self.inflate.decompress(input, out, FlushDecompress::Finish);
        let read = (self.inflate.total_in() - before_in) as usize;
        let wrote = (self.inflate.total_out() - before_out) as usize;
        self.start += read;
        self.checksum.update(&out[..wrote]);
        self.member.unpacked += wrote as u64;
        match status {
            Ok(Status::StreamEnd) => self.state = State::Trailer,
            Ok(_) if read == 0 && wrote == 0 => {
                self.give_up(if more { "gzip_corrupt" } else { "gzip_truncated" }, damage);
            }
            Ok(_) if self.is_bomb() => self.give_up("gzip_bomb", damage),
            Ok(_) => {}
            Err(_) => self.give_up("gzip_corrupt", damage),
        }
        Ok((wrote > 0).then_some(Step::Bytes(wrote)))
    }

    fn is_bomb(&self) -> bool {
        let unpacked = self.member.unpacked;
        let packed = self.position() - self.member.data;
        unpacked > self.limits.member_bytes
            || (unpacked > self.limits.ratio_from
                && unpacked > packed.saturating_mul(self.limits.max_ratio))
    }

    fn give_up(&mut self, reason: &'static str, damage: &mut Damage) {
        damage.add(reason, self.member.offset);
        if reason != "gzip_bomb" {
            self.rewind();
        }
        // A fault shows some way behind the wrong bit.
        let spoiled = matches!(reason, "gzip_corrupt" | "gzip_checksum");
        self.state = State::Broken(if spoiled { Step::Spoiled } else { Step::Gap });
    }

    /// Goes back into a broken member, which may have run on into the next ones, where its bytes
    /// are still at hand; so far back in total that hostile files cannot make us read them again
    /// and again.
    fn rewind(&mut self) {
        let target = self.member.offset + MAGIC.len() as u64;
        let back = self.position() - target;
        if target >= self.base && back <= self.rewind_left {
            self.rewind_left -= back;
            self.start = (target - self.base) as usize;
        }
    }

    fn check_trailer(&mut self, damage: &mut Damage) -> Result<()> {
        if !self.ensure(8)? {
            self.give_up("gzip_truncated", damage);
            return Ok(());
        }
        let word = |at: usize| {
            let at = self.start + at;
            u32::from_le_bytes([0, 1, 2, 3].map(|i| self.input[at + i]))
        };
        let sound =
            word(0) == self.checksum.clone().finalize() && word(4) == self.member.unpacked as u32;
        self.start += 8;
        if sound {
            self.state = State::Between;
        } else {
            self.give_up("gzip_checksum", damage);
        }
        Ok(())
    }

    fn unread(&self) -> &[u8] {
        &self.input[self.start..self.end]
    }

    /// Reads until there are `n` unread bytes; false when the file ends before.
    fn ensure(&mut self, n: usize) -> Result<bool> {
        if self.end - self.start >= n {
            return Ok(true);
        }
        self.input.copy_within(self.start..self.end, 0);
        self.base += self.start as u64;
        self.end -= self.start;
        self.start = 0;
        while self.end < n && !self.eof {
            match self.source.read(&mut self.input[self.end..]) {
                Ok(0) => self.eof = true,
                Ok(read) => self.end += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    let place = format!("byte {}", self.base + self.end as u64);
                    return Err(read_error(error).at(place).at(&self.name));
                }
            }
        }
        Ok(self.end >= n)
    }
}

/// Our own error, if the source wrapped one.
fn read_error(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(own) => own,
        Err(error) => Error::input("cannot read").because(error),
    }
}

enum Header {
    /// So many bytes long.
    Ends(usize),
    /// Goes on beyond the bytes at hand.
    Cut,
    Wrong,
}

/// The length of a gzip member's header (RFC 1952, 2.3).
fn gzip_header(bytes: &[u8]) -> Header {
    let Some(&flags) = bytes.get(3) else { return Header::Cut };
    if flags & 0xe0 != 0 {
        return Header::Wrong;
    }
    let mut at = 10;
    if flags & 4 != 0 {
        let Some(length) = bytes.get(at..at + 2) else { return Header::Cut };
        at += 2 + usize::from(u16::from_le_bytes([length[0], length[1]]));
    }
    // A file name, then a comment, both closed by a zero.
    for flag in [8, 16] {
        if flags & flag != 0 {
            let Some(zero) = bytes.get(at..).and_then(|rest| memchr::memchr(0, rest)) else {
                return Header::Cut;
            };
            at += zero + 1;
        }
    }
    if flags & 2 != 0 {
        at += 2;
    }
    if at <= bytes.len() { Header::Ends(at) } else { Header::Cut }
}
