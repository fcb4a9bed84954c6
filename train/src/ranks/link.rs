//! One connection between two ranks, with a thread that says that this end lives.

use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use stage::Cancel;

use super::frame::{self, Frame, TEXT, broken};
use super::meet::Patience;
use super::patience::{self, Ear, Voice};

/// A connection with its thread of signs of life.
pub(super) struct Link {
    /// Who is at the other end.
    name: String,
    ear: Ear,
    /// Held while a message is written.
    voice: Arc<Mutex<Voice>>,
    silence: Duration,
    over: Arc<AtomicBool>,
    /// What the other end said before it stopped.
    told: Option<String>,
}

/// Most bytes of one exchange of one rank: features of a million samples.
const MOST: u64 = 16 << 30;

impl Link {
    pub(super) fn new(name: String, stream: TcpStream, patience: Patience) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        patience::prepare(&stream, patience.silence)?;
        let voice = Arc::new(Mutex::new(Voice::new(stream.try_clone()?)));
        let over = Arc::new(AtomicBool::new(false));
        let (beating, stop) = (Arc::clone(&voice), Arc::clone(&over));
        let pause = (patience.silence / 6).max(Duration::from_millis(20));
        thread::Builder::new().name("rank-alive".to_owned()).spawn(move || {
            let mut last = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(20).min(pause));
                if last.elapsed() < pause {
                    continue;
                }
                last = Instant::now();
                let mut voice = beating.lock().unwrap_or_else(PoisonError::into_inner);
                if stop.load(Ordering::Relaxed) || voice.beat().is_err() {
                    break; // the exchange itself meets the same error and says so
                }
            }
        })?;
        let ear = Ear::new(stream, patience.silence);
        Ok(Self { name, ear, voice, silence: patience.silence, over, told: None })
    }

    pub(super) fn send(&mut self, content: &[u8]) -> io::Result<()> {
        self.say(|out| frame::write(out, Frame::Data, content))
    }

    pub(super) fn send_floats(&mut self, values: &[f32]) -> io::Result<()> {
        self.say(|out| {
            frame::head(out, Frame::Data, 4 * values.len() as u64)?;
            frame::write_floats(out, values)
        })
    }

    fn say(&mut self, message: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        let mut voice = self.voice.lock().unwrap_or_else(PoisonError::into_inner);
        let said = voice.say(&mut self.ear, message);
        drop(voice);
        said.map_err(|cause| self.last_words(cause))
    }

    /// Who is at the other end.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What the other end said before it stopped, once.
    pub(super) fn told(&mut self) -> Option<String> {
        self.told.take()
    }

    /// Tells a rank that all have come.
    pub(super) fn welcome(&mut self) {
        // One that is gone again is met at the first exchange.
        let _later = self.say(|out| frame::write(out, Frame::Welcome, &[]));
    }

    /// Closes without a word.
    pub(super) fn cut(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _gone = self.ear.stream.shutdown(Shutdown::Both);
    }

    /// Waits until rank 0 has seen all others.
    pub(super) fn welcomed(&mut self, until: Instant, cancel: &Cancel) -> io::Result<()> {
        loop {
            match frame::read_head(&mut self.ear)? {
                (Frame::Welcome, 0) => return Ok(()),
                (Frame::Beat, 0) if !cancel.is_cancelled() && Instant::now() < until => {}
                (Frame::Beat, _) => return Err(io::ErrorKind::TimedOut.into()),
                (Frame::Abort, length) => {
                    let text = frame::read_content(&mut self.ear, length, TEXT)?;
                    self.told = Some(String::from_utf8_lossy(&text).into_owned());
                    return Err(broken("refused"));
                }
                _ => return Err(broken("no welcome")),
            }
        }
    }

    /// The length of the next part of an exchange.
    pub(super) fn next(&mut self) -> io::Result<u64> {
        loop {
            match frame::read_head(&mut self.ear)? {
                (Frame::Data, length) => return Ok(length),
                (Frame::Beat, 0) => {}
                (Frame::Abort, length) => {
                    let text = frame::read_content(&mut self.ear, length, TEXT)?;
                    self.told = Some(String::from_utf8_lossy(&text).into_owned());
                    return Err(broken("stopped"));
                }
                (Frame::Bye, _) => return Err(io::ErrorKind::UnexpectedEof.into()),
                (other, _) => return Err(broken(&format!("{other:?} in the middle"))),
            }
        }
    }

    /// A write failed: perhaps the other end said why before it closed. One silence is time enough
    /// for that, whatever else it says.
    fn last_words(&mut self, cause: io::Error) -> io::Error {
        self.ear.last_chance();
        while self.told.is_none() && !self.ear.is_over() {
            match self.next() {
                Ok(length) => {
                    if frame::read_content(&mut self.ear, length, MOST).is_err() {
                        break;
                    }
                }
                Err(_) => break,
            }
        }
        cause
    }

    pub(super) fn bytes(&mut self, length: u64) -> io::Result<Vec<u8>> {
        frame::read_content(&mut self.ear, length, MOST)
    }

    pub(super) fn floats(
        &mut self,
        values: &mut [f32],
        put: impl Fn(&mut f32, f32),
    ) -> io::Result<()> {
        let length = self.next()?;
        if length != 4 * values.len() as u64 {
            return Err(broken(&format!("{} values, {} were expected", length / 4, values.len())));
        }
        frame::read_floats(&mut self.ear, values, put)
    }

    /// Says the last thing and sends no more.
    pub(super) fn end(&mut self, error: Option<&str>) {
        if self.over.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut voice = self.voice.lock().unwrap_or_else(PoisonError::into_inner);
        let (kind, text) = error.map_or((Frame::Bye, ""), |text| (Frame::Abort, text));
        let bytes = &text.as_bytes()[..text.len().min(TEXT as usize)];
        voice.last(kind, bytes, self.silence);
    }

    /// Reads on until the other end closes.
    pub(super) fn until_closed(&mut self) {
        loop {
            match self.next() {
                Ok(length) if frame::read_content(&mut self.ear, length, MOST).is_ok() => {}
                _ => break,
            }
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.end(Some("it ended early"));
    }
}
