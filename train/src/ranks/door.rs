//! Rank 0's door: whoever comes may say who it is, all side by side, so that nobody who is silent
//! or slow holds up the ranks.

use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::frame::{self, Frame, HEAD, broken};

/// Time for a whole greeting, from the connection to its last byte.
const GREETING: Duration = Duration::from_secs(5);
/// Bytes of a greeting, at most: one of a rank has about two hundred.
const LONGEST: u64 = 4 << 10;
/// Connections that may be about to greet. A rank greets at once, so the oldest makes room.
const WAITING: usize = 128;
/// Connections taken at a time, so that a flood of them leaves time for what they say.
const AT_ONCE: usize = 32;

/// The listener, and who stands before it.
pub(super) struct Door {
    listener: TcpListener,
    guests: Vec<Guest>,
    refused: usize,
}

/// A greeting that is whole.
pub(super) struct Greeting {
    pub(super) stream: TcpStream,
    pub(super) from: SocketAddr,
    pub(super) content: Vec<u8>,
}

/// A connection that has not said who it is.
struct Guest {
    stream: TcpStream,
    from: SocketAddr,
    until: Instant,
    said: Vec<u8>,
}

impl Door {
    pub(super) fn open(listener: TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener, guests: Vec::new(), refused: 0 })
    }

    /// Who has said a whole greeting. Does not wait.
    pub(super) fn look(&mut self) -> Vec<Greeting> {
        for _ in 0..AT_ONCE {
            let Ok((stream, from)) = self.listener.accept() else { break };
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            if self.guests.len() == WAITING {
                self.guests.remove(0);
                self.refused += 1;
            }
            // An IPv4 address reads as one where the listener is of both kinds.
            let from = SocketAddr::new(from.ip().to_canonical(), from.port());
            let until = Instant::now() + GREETING;
            self.guests.push(Guest { stream, from, until, said: Vec::new() });
        }
        let (mut greetings, mut waiting) = (Vec::new(), Vec::new());
        for mut guest in std::mem::take(&mut self.guests) {
            match guest.hear() {
                Ok(true) => {
                    let content = guest.said.split_off(HEAD);
                    let Guest { stream, from, .. } = guest;
                    greetings.push(Greeting { stream, from, content });
                }
                Ok(false) if Instant::now() < guest.until => waiting.push(guest),
                Ok(false) => self.refuse(&guest, "it did not say in time who it is"),
                Err(why) => self.refuse(&guest, &why.to_string()),
            }
        }
        self.guests = waiting;
        greetings
    }

    fn refuse(&mut self, guest: &Guest, why: &str) {
        tracing::warn!(from = %guest.from, "a connection is no rank's: {why}");
        self.refused += 1;
    }

    /// A greeting that was no rank's.
    pub(super) fn note_stranger(&mut self) {
        self.refused += 1;
    }

    /// Connections that were no rank's, those that have said nothing yet among them.
    pub(super) fn strangers(&self) -> usize {
        self.refused + self.guests.len()
    }
}

impl Guest {
    /// Takes what has come; whether the greeting is whole. Not a byte behind it is read: that is
    /// for the exchange.
    fn hear(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 512];
        loop {
            let most = self.missing()?.min(buffer.len());
            if most == 0 {
                return Ok(true);
            }
            match self.stream.read(&mut buffer[..most]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.said.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Bytes of the greeting that have not come, as far as is known.
    fn missing(&self) -> io::Result<usize> {
        if self.said.first().is_some_and(|kind| *kind != Frame::Hello as u8) {
            return Err(broken("no greeting"));
        }
        if self.said.len() < HEAD {
            return Ok(HEAD - self.said.len());
        }
        let (_, length) = frame::read_head(&mut self.said.as_slice())?;
        if length > LONGEST {
            return Err(broken(&format!("a greeting of {length} bytes")));
        }
        Ok(HEAD + length as usize - self.said.len())
    }
}
