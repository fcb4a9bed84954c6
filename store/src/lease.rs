//! `Lease`: one run holds an output; a second is told who does.
//!
//! `files` holds a local output by locks, `epoch` one in an object store by records that lapse.

mod epoch;
mod files;

use std::fmt;
use std::fs::{self, File};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use stage::{Error, Result};

use crate::fail;
use crate::name::{HOUSE, nonce};
use crate::space::Space;
use crate::trouble::disk_error;

pub(crate) use epoch::store_clock;
use epoch::{Hold, RENEW, Renewal};

/// The right to write an output, until dropped.
pub struct Lease {
    held: Held,
}

enum Held {
    /// Closing the files releases the locks.
    Local(Vec<File>),
    Remote(Renewal),
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lost = match &self.held {
            Held::Local(_) => false,
            Held::Remote(renewal) => renewal.is_lost(),
        };
        f.debug_struct("Lease").field("lost", &lost).finish()
    }
}

impl Lease {
    /// Whether the lease still holds. A local one always does; a remote one is lost when this
    /// process was paused or cut off for longer than a minute and another run took the output.
    ///
    /// # Errors
    /// [`stage::Kind::Conflict`] when it is lost; that of the store when it may be and cannot be
    /// renewed.
    pub fn check(&self) -> Result<()> {
        match &self.held {
            Held::Local(_) => Ok(()),
            Held::Remote(renewal) => renewal.check(),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Held::Local(files) = &mut self.held {
            for file in files {
                // An empty file says that nobody holds it; the lock goes with the file.
                let _ = file.set_len(0);
            }
        }
    }
}

/// Who holds an output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    run: String,
    host: String,
    pid: u32,
    /// Seconds since 1970, by the holder's clock; for people.
    since: u64,
    nonce: String,
    /// A remote lease that was given back.
    #[serde(default)]
    released: bool,
}

impl Holder {
    fn this(run: &str) -> Self {
        let host = fs::read_to_string("/proc/sys/kernel/hostname")
            .ok()
            .or_else(|| std::env::var("HOSTNAME").ok())
            .map_or_else(|| "unknown host".to_owned(), |name| name.trim().to_owned());
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let (run, pid, nonce) = (run.to_owned(), std::process::id(), nonce());
        Self { run, host, pid, since, nonce, released: false }
    }

    fn to_bytes(&self) -> Result<Bytes> {
        let text = serde_json::to_vec(self)
            .map_err(|error| Error::internal("cannot write the lease").because(error))?;
        Ok(text.into())
    }

    fn conflict(&self, place: &str) -> Error {
        Error::conflict(format!(
            "another run holds this output: run {} on {}, process {}, since {}",
            self.run,
            self.host,
            self.pid,
            utc(self.since)
        ))
        .at(place)
    }
}

/// Seconds since 1970 as `2026-11-22T14:21:15Z`; days to civil date after Howard Hinnant,
/// "chrono-Compatible Low-Level Date Algorithms".
fn utc(seconds: u64) -> String {
    let (days, rest) = ((seconds / 86_400).min(2_932_896) as i64, seconds % 86_400);
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + carry;
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Takes the output for a whole run, or for one share of it.
pub(crate) fn take(space: &Arc<dyn Space>, run: &str, share: Option<(u32, u32)>) -> Result<Lease> {
    fail::point("lock.before_take")
        .map_err(|error| disk_error(space.url(), "cannot lock", error))?;
    let held = match space.local_root() {
        Some(root) => Held::Local(files::take(&root.join(HOUSE), space.url(), run, share)?),
        None => Held::Remote(Renewal::take(space, run, share, RENEW)?),
    };
    Ok(Lease { held })
}

/// The remote lease under which an output is written, while somebody holds it. A local lease needs
/// none: the kernel lets nobody take a lock from a process that lives.
#[derive(Clone, Default)]
pub(crate) struct Fence(Arc<Mutex<Weak<Hold>>>);

impl Fence {
    /// Notes a lease that was taken.
    pub(crate) fn hold(&self, lease: Lease) -> Lease {
        if let Held::Remote(renewal) = &lease.held {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = renewal.hold();
        }
        lease
    }

    /// As [`Lease::check`], when a lease was taken and not given back.
    pub(crate) fn check(&self) -> Result<()> {
        let hold = self.0.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        hold.map_or(Ok(()), |hold| hold.check())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_a_date() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_795_357_275), "2026-11-22T14:21:15Z");
    }
}
