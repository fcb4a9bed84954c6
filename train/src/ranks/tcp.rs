//! Ranks over TCP: all talk to rank 0, which adds up in the order of ranks and answers.
//!
//! Meant for a few machines without GPUs and for tests: rank 0's link carries everything. A thread
//! beside every connection sends a sign of life, so a rank that hangs is told from one that works for
//! long, whether the others wait to hear from it or to send to it; a rank whose process died is known
//! at the next exchange.

use std::io;
use std::time::Instant;

use stage::{Cancel, Error, Result};

use super::Ranks;
use super::environment::Seat;
use super::frame::broken;
use super::link::Link;
use super::meet::{join, listen};

pub use super::meet::Patience;

/// A rank's place in the star.
pub struct Tcp {
    rank: usize,
    size: usize,
    /// Of rank 0: to ranks 1, 2, ...; of the others: to rank 0.
    links: Vec<Link>,
}

impl Tcp {
    /// Meets the other ranks: rank 0 listens, the others come.
    ///
    /// # Errors
    /// [`stage::Kind::Network`] when a rank does not come in time, or is of another version, job or
    /// number of ranks; [`stage::Kind::Interrupted`] when asked to stop.
    pub fn meet(seat: &Seat, patience: Patience, cancel: &Cancel) -> Result<Self> {
        let until = Instant::now() + patience.join;
        let links = if seat.rank == 0 {
            listen(seat, patience, until, cancel)?
        } else {
            vec![join(seat, patience, until, cancel)?]
        };
        Ok(Self { rank: seat.rank, size: seat.size, links })
    }

    /// Closes all connections without a word, as the death of the process does: for tests.
    pub fn cut(mut self) {
        for link in &mut self.links {
            link.cut();
        }
    }

    /// Ends the exchange for all with this rank's view of what failed.
    fn fail(&mut self, link: usize, cause: &io::Error) -> Error {
        let told = match self.links[link].told() {
            // The others' own words.
            Some(text) if self.rank == 0 => format!("{} stopped: {text}", self.links[link].name()),
            Some(text) => text,
            None => format!("{} {}", self.links[link].name(), what_happened(cause)),
        };
        for (i, other) in self.links.iter_mut().enumerate() {
            if i != link || self.rank != 0 {
                other.end(Some(&told));
            }
        }
        Error::network(told)
            .hint("start the ranks again: the training goes on from the last saved state")
    }
}

fn what_happened(cause: &io::Error) -> String {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof, WouldBlock,
    };
    match cause.kind() {
        UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe => {
            "is gone: its connection closed".to_owned()
        }
        TimedOut | WouldBlock => "gives no sign of life".to_owned(),
        _ => format!("cannot be understood: {cause}"),
    }
}

impl Ranks for Tcp {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn gather(&mut self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        if self.rank != 0 {
            let link = &mut self.links[0];
            let all = link.send(own).and_then(|()| {
                let length = link.next()?;
                link.bytes(length)
            });
            let all = all.and_then(|all| apart(&all, self.size));
            return all.map_err(|cause| self.fail(0, &cause));
        }
        let mut all = vec![own.to_vec()];
        for i in 0..self.links.len() {
            let link = &mut self.links[i];
            let bytes = link.next().and_then(|length| link.bytes(length));
            all.push(bytes.map_err(|cause| self.fail(i, &cause))?);
        }
        let together = together(&all);
        for i in 0..self.links.len() {
            let sent = self.links[i].send(&together);
            sent.map_err(|cause| self.fail(i, &cause))?;
        }
        Ok(all)
    }

    fn sum(&mut self, values: &mut [f32]) -> Result<()> {
        if self.rank != 0 {
            let link = &mut self.links[0];
            let both = link.send_floats(values).and_then(|()| link.floats(values, |v, x| *v = x));
            return both.map_err(|cause| self.fail(0, &cause));
        }
        for i in 0..self.links.len() {
            let added = self.links[i].floats(values, |sum, term| *sum += term);
            added.map_err(|cause| self.fail(i, &cause))?;
        }
        self.tell(values)
    }

    fn broadcast(&mut self, values: &mut [f32]) -> Result<()> {
        if self.rank != 0 {
            let got = self.links[0].floats(values, |slot, value| *slot = value);
            return got.map_err(|cause| self.fail(0, &cause));
        }
        self.tell(values)
    }

    fn leave(&mut self, error: Option<&Error>) {
        let text = error.map(ToString::to_string);
        if self.rank != 0 {
            for link in &mut self.links {
                link.end(text.as_deref());
                if text.is_none() {
                    link.until_closed();
                }
            }
            return;
        }
        // Whoever closes first with unread signs of life would cut off what it still sends.
        for link in &mut self.links {
            if text.is_none() {
                link.until_closed();
            }
            let named = text.as_ref().map(|text| format!("rank 0 stopped: {text}"));
            link.end(named.as_deref());
        }
    }
}

impl Tcp {
    fn tell(&mut self, values: &[f32]) -> Result<()> {
        for i in 0..self.links.len() {
            let sent = self.links[i].send_floats(values);
            sent.map_err(|cause| self.fail(i, &cause))?;
        }
        Ok(())
    }
}

fn together(parts: &[Vec<u8>]) -> Vec<u8> {
    let with_length = |part: &Vec<u8>| {
        let mut bytes = (part.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(part);
        bytes
    };
    parts.iter().flat_map(with_length).collect()
}

fn apart(all: &[u8], size: usize) -> io::Result<Vec<Vec<u8>>> {
    let mut rest = all;
    let mut parts = Vec::with_capacity(size.min(1024));
    for _ in 0..size {
        let (length, after) = rest.split_first_chunk().ok_or_else(|| broken("a cut exchange"))?;
        let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let (part, after) =
            after.split_at_checked(length).ok_or_else(|| broken("a cut exchange"))?;
        parts.push(part.to_vec());
        rest = after;
    }
    if rest.is_empty() { Ok(parts) } else { Err(broken("an exchange of more ranks")) }
}
