//! Reading and writing that go on for as long as the other end gives a sign of life.
//!
//! A rank may work for longer than the silence that ends a training, and meanwhile takes nothing of
//! what others send it. So a write that finds the connection full listens: bytes taken or a sign of
//! life heard begin the silence anew. Only an end that neither takes nor says anything is given up.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use super::frame::{self, Frame, HEAD, broken};

/// Longest pause of a call into the system: how often silence is looked at.
const POLL: Duration = Duration::from_millis(100);

/// Makes calls on this connection return after a while.
pub(super) fn prepare(stream: &TcpStream, silence: Duration) -> io::Result<()> {
    let poll = Some(POLL.min(silence / 6).max(Duration::from_millis(1)));
    stream.set_read_timeout(poll)?;
    stream.set_write_timeout(poll)
}

fn nothing_yet(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// What comes from the other end.
pub(super) struct Ear {
    pub(super) stream: TcpStream,
    silence: Duration,
    /// When to give up in any case.
    until: Option<Instant>,
    /// Bytes of a message's head that came while this end wrote; read before others.
    early: Vec<u8>,
}

impl Ear {
    pub(super) fn new(stream: TcpStream, silence: Duration) -> Self {
        Self { stream, silence, until: None, early: Vec::new() }
    }

    /// From now on one silence is left for all that is still to be heard.
    pub(super) fn last_chance(&mut self) {
        self.until = Some(Instant::now() + self.silence);
    }

    /// Whether that time is over.
    pub(super) fn is_over(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// Takes the signs of life that have come, without waiting; whether anything had.
    ///
    /// # Errors
    /// The other end closed, or says something else, which is left to be read: nobody speaks of
    /// anything but life while the other end writes, unless it is about to stop.
    fn listen(&mut self) -> io::Result<bool> {
        self.stream.set_nonblocking(true)?;
        let heard = self.take_signs();
        self.stream.set_nonblocking(false)?;
        heard
    }

    fn take_signs(&mut self) -> io::Result<bool> {
        let mut heard = false;
        loop {
            if self.early.len() == HEAD {
                match frame::read_head(&mut self.early.as_slice())? {
                    (Frame::Beat, 0) => self.early.clear(),
                    (Frame::Abort | Frame::Bye, _) => {
                        return Err(ErrorKind::ConnectionAborted.into());
                    }
                    (other, _) => return Err(broken(&format!("{other:?} out of turn"))),
                }
            }
            let mut buffer = [0; HEAD];
            match self.stream.read(&mut buffer[self.early.len()..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    let from = self.early.len();
                    self.early.extend_from_slice(&buffer[from..from + count]);
                    heard = true;
                }
                Err(error) if nothing_yet(&error) => return Ok(heard),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Read for Ear {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.early.is_empty() {
            let count = buffer.len().min(self.early.len());
            buffer[..count].copy_from_slice(&self.early[..count]);
            self.early.drain(..count);
            return Ok(count);
        }
        // However much still comes.
        if self.is_over() {
            return Err(ErrorKind::TimedOut.into());
        }
        let began = Instant::now();
        loop {
            // Looked at before reading: what came while this process slept is still read.
            let late = began.elapsed() >= self.silence || self.is_over();
            match self.stream.read(buffer) {
                Err(error) if nothing_yet(&error) && late => {
                    return Err(ErrorKind::TimedOut.into());
                }
                Err(error) if nothing_yet(&error) => {}
                other => return other,
            }
        }
    }
}

/// What goes to the other end, one message at a time.
pub(super) struct Voice {
    stream: TcpStream,
    /// What is missing of a sign of life that did not fit; goes before anything else.
    rest: Vec<u8>,
    /// A message was cut off: nothing said after it would be understood.
    cut: bool,
}

impl Voice {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, rest: Vec::new(), cut: false }
    }

    /// Writes one message; `ear` hears whether it is worth going on.
    ///
    /// # Errors
    /// [`ErrorKind::TimedOut`] after a silence in which the other end took nothing and said
    /// nothing; or what ended the connection.
    pub(super) fn say(
        &mut self,
        ear: &mut Ear,
        message: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.cut {
            return Err(ErrorKind::BrokenPipe.into());
        }
        self.cut = true;
        let rest = std::mem::take(&mut self.rest);
        let mut patient = Patient { stream: &mut self.stream, ear, last: Instant::now() };
        patient.write_all(&rest)?;
        message(&mut patient)?;
        self.cut = false;
        Ok(())
    }

    /// A sign of life, or what is missing of the last one. A full connection needs none: who takes
    /// what is in it knows that this end lives.
    pub(super) fn beat(&mut self) -> io::Result<()> {
        if self.cut {
            return Err(ErrorKind::BrokenPipe.into());
        }
        if self.rest.is_empty() {
            frame::head(&mut self.rest, Frame::Beat, 0)?;
        }
        match self.stream.write(&self.rest) {
            Ok(count) => {
                self.rest.drain(..count);
                Ok(())
            }
            Err(error) if nothing_yet(&error) || error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The last message, for which one silence is time enough, and then no more.
    pub(super) fn last(&mut self, frame: Frame, content: &[u8], silence: Duration) {
        if !self.cut {
            let mut bytes = std::mem::take(&mut self.rest);
            // Into memory: cannot fail.
            let _written = frame::write(&mut bytes, frame, content);
            let (began, mut rest) = (Instant::now(), bytes.as_slice());
            while !rest.is_empty() && began.elapsed() < silence {
                match self.stream.write(rest) {
                    Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                    Err(error) if nothing_yet(&error) => {}
                    // Who does not listen any more knows it already.
                    Err(_) => break,
                }
            }
        }
        self.cut = true;
        let _gone = self.stream.shutdown(Shutdown::Write);
    }
}

/// Writes on as long as the other end lives.
struct Patient<'a> {
    stream: &'a mut TcpStream,
    ear: &'a mut Ear,
    /// When the other end last took or said something.
    last: Instant,
}

impl Write for Patient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let late = self.last.elapsed() >= self.ear.silence;
            match self.stream.write(bytes) {
                Ok(count) => {
                    self.last = Instant::now();
                    return Ok(count);
                }
                Err(error) if nothing_yet(&error) => {}
                Err(error) => return Err(error),
            }
            if self.ear.listen()? {
                self.last = Instant::now();
            } else if late {
                return Err(ErrorKind::TimedOut.into());
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
