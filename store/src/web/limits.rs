//! How slow an answer may be, and how large what is kept of it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::Response;
use stage::{Error, Kind, Result};
use tokio::time::{Instant, timeout_at};

/// What is demanded of web servers. The variables of the environment stand beside the fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebLimits {
    /// Longest wait for the head of an answer, each redirect's anew. `CLIPMILL_WEB_FIRST_BYTE`, in
    /// seconds, 1..=3600; default 30.
    pub first_byte: Duration,
    /// Least bytes a second, on average over each [`WebLimits::window`]. An answer of n bytes has
    /// `window + n / min_rate` in all. `CLIPMILL_WEB_MIN_RATE`, at least 1; default 16 KiB.
    pub min_rate: u64,
    /// Time over which the rate is taken: 30 s.
    pub window: Duration,
    /// Most bytes of a file that is copied to the disk because its server gives no ranges.
    /// `CLIPMILL_WEB_MAX_COPY`, in bytes, at least 1; default 16 GiB.
    pub max_copy: u64,
    /// Tries of one request, where the server or the way to it failed: 5.
    pub tries: u32,
}

impl Default for WebLimits {
    fn default() -> Self {
        Self {
            first_byte: Duration::from_secs(30),
            min_rate: 16 << 10,
            window: Duration::from_secs(30),
            max_copy: 16 << 30,
            tries: 5,
        }
    }
}

pub(super) const FIRST_BYTE: &str = "CLIPMILL_WEB_FIRST_BYTE";
pub(super) const MIN_RATE: &str = "CLIPMILL_WEB_MIN_RATE";
pub(super) const MAX_COPY: &str = "CLIPMILL_WEB_MAX_COPY";

static SET: Mutex<Option<WebLimits>> = Mutex::new(None);

/// Sets the limits of all later requests of the process, whatever the environment says: for tests.
pub fn set_web_limits(limits: WebLimits) {
    *SET.lock().unwrap_or_else(PoisonError::into_inner) = Some(limits);
}

impl WebLimits {
    /// What was set, else what the environment says.
    pub(super) fn of_process() -> Result<Self> {
        let set = *SET.lock().unwrap_or_else(PoisonError::into_inner);
        set.map_or_else(|| Self::from_variables(&|name| std::env::var(name).ok()), Ok)
    }

    fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let number = |name: &str, most: u64, unit: &str| match variable(name) {
            None => Ok(None),
            Some(text) => match text.trim().parse::<u64>() {
                Ok(number) if (1..=most).contains(&number) => Ok(Some(number)),
                _ => Err(Error::recipe(format!("{name} is `{text}`"))
                    .hint(format!("give a whole number of {unit}, 1..={most}"))),
            },
        };
        let default = Self::default();
        let first_byte = number(FIRST_BYTE, 3600, "seconds")?;
        Ok(Self {
            first_byte: first_byte.map_or(default.first_byte, Duration::from_secs),
            min_rate: number(MIN_RATE, u64::MAX, "bytes a second")?.unwrap_or(default.min_rate),
            max_copy: number(MAX_COPY, u64::MAX, "bytes")?.unwrap_or(default.max_copy),
            ..default
        })
    }

    /// The whole time of a body of at most so many bytes.
    fn total(&self, bytes: u64) -> Duration {
        let at_least = Duration::from_secs(bytes / self.min_rate.max(1));
        self.window.saturating_add(at_least)
    }

    /// Bytes that have to come in a window.
    fn per_window(&self) -> u64 {
        let bytes = u128::from(self.min_rate) * self.window.as_millis() / 1000;
        u64::try_from(bytes).unwrap_or(u64::MAX).max(1)
    }
}

/// Why no further bytes of a body came.
pub(super) enum Stopped {
    /// The way to the server.
    Lost(reqwest::Error),
    /// Too slow: what to say of it.
    Slow(Error),
}

/// Reads a body that has to keep up.
pub(super) struct Pace {
    limits: WebLimits,
    /// Bytes in this window.
    received: u64,
    /// The window's end.
    until: Instant,
    /// The end of the whole.
    deadline: Instant,
}

impl Pace {
    /// For a body of at most so many bytes, which begins now.
    pub(super) fn new(limits: WebLimits, bytes: u64) -> Self {
        let now = Instant::now();
        // A time beyond all clocks is the floor's to cut.
        let end = now.checked_add(limits.total(bytes));
        let deadline = end.unwrap_or_else(|| now + Duration::from_hours(24 * 365));
        Self { limits, received: 0, until: now + limits.window, deadline }
    }

    /// The next bytes; none at the end.
    pub(super) async fn next(&mut self, answer: &mut Response) -> Result<Option<Bytes>, Stopped> {
        loop {
            match timeout_at(self.until.min(self.deadline), answer.chunk()).await {
                Ok(Ok(Some(piece))) => {
                    self.received += piece.len() as u64;
                    // Here too: a drip whose every byte comes in time never lets the wait run out.
                    self.check()?;
                    return Ok(Some(piece));
                }
                Ok(Ok(None)) => return Ok(None),
                Ok(Err(error)) => return Err(Stopped::Lost(error)),
                Err(_) => self.check()?,
            }
        }
    }

    /// The server is not to blame for the time that keeping its bytes took.
    pub(super) fn forgive(&mut self, time: Duration) {
        self.until += time;
        self.deadline += time;
    }

    fn check(&mut self) -> Result<(), Stopped> {
        let now = Instant::now();
        let limits = &self.limits;
        let slow = |what: String| {
            let error = Error::new(Kind::Network, what);
            Err(Stopped::Slow(error.hint(format!(
                "set {MIN_RATE} to fewer bytes a second if the way to the server is that slow"
            ))))
        };
        if now >= self.deadline {
            return slow(format!(
                "the answer did not end in the time that {} bytes a second allow",
                limits.min_rate
            ));
        }
        if now >= self.until {
            if self.received < limits.per_window() {
                return slow(format!(
                    "too slow: {} bytes came in {} s, at least {} a second have to",
                    self.received,
                    limits.window.as_secs_f64(),
                    limits.min_rate
                ));
            }
            self.received = 0;
            self.until = now + limits.window;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_time_follows_from_the_length_and_the_rate() {
        let limits = WebLimits::default();
        assert_eq!(limits.total(0), Duration::from_secs(30));
        assert_eq!(limits.total(1 << 20), Duration::from_secs(30 + 64));
        assert_eq!(limits.per_window(), 30 * (16 << 10));
        let odd = WebLimits { min_rate: u64::MAX, ..limits };
        assert_eq!(odd.per_window(), u64::MAX);
    }

    #[test]
    fn the_environment_sets_the_limits_and_what_is_no_number_is_told() {
        let of = |name: &'static str, text: &'static str| {
            WebLimits::from_variables(&move |asked| (asked == name).then(|| text.to_owned()))
        };
        assert_eq!(of("other", "1").unwrap(), WebLimits::default());
        assert_eq!(of(FIRST_BYTE, "90").unwrap().first_byte, Duration::from_secs(90));
        assert_eq!(of(MIN_RATE, "1024").unwrap().min_rate, 1024);
        assert_eq!(of(MAX_COPY, "99").unwrap().max_copy, 99);
        for (name, text) in [(FIRST_BYTE, "0"), (MIN_RATE, "1k"), (MAX_COPY, "-1")] {
            let error = of(name, text).unwrap_err();
            assert_eq!(error.kind(), Kind::Recipe);
            assert_eq!(error.to_string(), format!("{name} is `{text}`"));
        }
    }
}
