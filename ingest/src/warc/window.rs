//! The unpacked bytes at hand, with the places that no record can reach across.

use std::io::Read;

use stage::Result;

use super::members::{Members, Step};
use super::{Damage, Limits};

/// Unpacked bytes from the next record on, as far as they can belong to one record: up to a *wall*.
///
/// A wall is a gap that damage left, or a gzip member that starts with `WARC/`: no record goes on
/// behind it, whatever its `Content-Length` says. Members that start otherwise continue the one
/// before (some programs cut the stream anywhere).
pub(super) struct Window<R> {
    members: Members<R>,
    damage: Damage,
    buffer: Vec<u8>,
    /// The bytes at hand are `buffer[start..]` up to the wall or else to `end`.
    start: usize,
    end: usize,
    wall: Option<Wall>,
    /// A member just opened, of which too little is unpacked to tell whether it is a wall.
    fresh: Option<Wall>,
    /// Where in `buffer` the member being unpacked starts.
    member_at: usize,
    /// Offset in the file of the wall crossed last, for packed files.
    member: Option<u64>,
    /// Unpacked bytes before `buffer[0]`.
    dropped: u64,
    ended: bool,
}

#[derive(Debug, Clone, Copy)]
struct Wall {
    at: usize,
    /// Offset in the file of the member that starts here; none for a gap.
    member: Option<u64>,
}

const FIRST_BUFFER: usize = 256 << 10;
/// Least free room to unpack into: a usual record fits, so that it is unpacked in one go.
const LEAST_ROOM: usize = 64 << 10;
const VERSION: &[u8] = b"WARC/";

impl<R: Read> Window<R> {
    pub(super) fn new(name: &str, source: R, limits: Limits) -> Self {
        Self {
            members: Members::new(name, source, limits),
            damage: Damage::default(),
            buffer: vec![0; FIRST_BUFFER],
            start: 0,
            end: 0,
            wall: None,
            fresh: None,
            member_at: 0,
            member: None,
            dropped: 0,
            ended: false,
        }
    }

    /// The bytes at hand.
    pub(super) fn data(&self) -> &[u8] {
        &self.buffer[self.start..self.wall.map_or(self.end, |wall| wall.at)]
    }

    /// Moves over the first `n` bytes at hand and gives them.
    pub(super) fn take(&mut self, n: usize) -> &[u8] {
        debug_assert!(n <= self.data().len());
        self.start += n;
        &self.buffer[self.start - n..self.start]
    }

    /// Unpacks until `n` bytes are at hand; false when a wall or the end comes before.
    pub(super) fn want(&mut self, n: usize) -> Result<bool> {
        while self.data().len() < n {
            if self.wall.is_some() || self.ended {
                return Ok(false);
            }
            self.unpack()?;
        }
        Ok(true)
    }

    pub(super) fn has_wall(&self) -> bool {
        self.wall.is_some()
    }

    /// Whether the bytes at hand end at a member that starts with a record.
    pub(super) fn member_follows(&self) -> bool {
        self.wall.is_some_and(|wall| wall.member.is_some())
    }

    /// Steps over the wall if all bytes before it have been taken.
    pub(super) fn cross_wall(&mut self) -> bool {
        let Some(wall) = self.wall.filter(|wall| wall.at == self.start) else { return false };
        self.wall = None;
        self.member = wall.member.or(self.member);
        true
    }

    /// Where the next record is found again: see [`super::Record::offset`].
    pub(super) fn offset(&self) -> u64 {
        self.member.unwrap_or(self.dropped + self.start as u64)
    }

    pub(super) fn is_packed(&self) -> bool {
        self.member.is_some()
    }

    pub(super) fn position(&self) -> u64 {
        self.members.position()
    }

    pub(super) fn damage(&self) -> &Damage {
        &self.damage
    }

    /// Counts damage at the next record.
    pub(super) fn note(&mut self, reason: &'static str) {
        self.damage.add(reason, self.offset());
    }

    fn unpack(&mut self) -> Result<()> {
        self.make_room();
        match self.members.step(&mut self.buffer[self.end..], &mut self.damage)? {
            Step::Bytes(n) => {
                self.end += n;
                if let Some(fresh) = self.fresh
                    && self.end - fresh.at >= VERSION.len()
                {
                    self.fresh = None;
                    let starts = self.buffer[fresh.at..self.end].starts_with(VERSION);
                    self.wall = starts.then_some(fresh);
                }
            }
            Step::Start(offset) => {
                self.member_at = self.end;
                if self.member.is_some() {
                    self.fresh = Some(Wall { at: self.end, member: Some(offset) });
                } else {
                    // Nothing is before the first member.
                    self.member = Some(offset);
                }
            }
            Step::Gap => self.end_at_gap(self.end),
            Step::Spoiled => self.end_at_gap(self.member_at.max(self.start)),
            Step::End => self.ended = true,
        }
        Ok(())
    }

    fn end_at_gap(&mut self, at: usize) {
        self.end = at;
        self.fresh = None;
        self.wall = Some(Wall { at, member: None });
    }

    /// Frees room behind `end`: by moving the bytes at hand to the front, else by doubling.
    fn make_room(&mut self) {
        if self.buffer.len() - self.end >= LEAST_ROOM {
            return;
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.dropped += self.start as u64;
        self.end -= self.start;
        self.member_at = self.member_at.saturating_sub(self.start);
        for wall in [&mut self.wall, &mut self.fresh].into_iter().flatten() {
            wall.at -= self.start;
        }
        self.start = 0;
        if self.buffer.len() - self.end < LEAST_ROOM {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
    }
}
