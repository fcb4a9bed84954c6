//! A lease in an object store: `.clipmill/lease/<scope>/<epoch>.json`.
//!
//! A new epoch is taken by a create-only put, and a thread rewrites its object every 20 s. A lease
//! that was not rewritten for 60 s by the store's own clock (the clock of this machine is never
//! compared with it) has lapsed, and the next epoch may be taken. A holder that was paused for that
//! long must write its epoch again before it commits, clears or puts anything more; seeing a higher
//! epoch it has lost. A commit that is on its way at that moment is safe all the same, because
//! commits are create-only.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use stage::{Error, Result};

use super::Holder;
use crate::fail;
use crate::name::{HOUSE, nonce};
use crate::space::Space;
use crate::trouble::disk_error;

/// A remote lease that was not renewed for this long has lapsed.
const LAPSE: Duration = Duration::from_mins(1);
/// How often it is renewed.
pub(super) const RENEW: Duration = Duration::from_secs(20);

/// One epoch that this process took.
pub(super) struct Hold {
    space: Arc<dyn Space>,
    folder: String,
    number: u64,
    holder: Holder,
    lost: AtomicBool,
    /// When the last renewal that succeeded was begun.
    renewed: Mutex<Instant>,
}

impl Hold {
    pub(super) fn check(&self) -> Result<()> {
        let renewed = *self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.lost.load(Ordering::SeqCst) && (renewed.elapsed() < LAPSE || self.write(false)?) {
            return Ok(());
        }
        Err(Error::conflict("another run took this output over while this one was cut off")
            .at(self.space.url())
            .hint("let the other run end; what this one committed stays"))
    }

    /// Renews the epoch, or gives it back; false when another was taken since.
    fn write(&self, released: bool) -> Result<bool> {
        let point = if released { "lease.before_give_back" } else { "lease.before_renew" };
        fail::point(point)
            .map_err(|error| disk_error(self.space.url(), "cannot renew the lease", error))?;
        let began = Instant::now();
        let last = last_epoch(&*self.space, &self.folder)?;
        if last.is_none_or(|last| last.number != self.number) {
            self.lost.store(true, Ordering::SeqCst);
            return Ok(false);
        }
        let holder = Holder { released, ..self.holder.clone() };
        self.space.replace(&epoch_name(&self.folder, self.number), holder.to_bytes()?)?;
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = began;
        Ok(true)
    }
}

/// A remote lease and the thread that renews it.
pub(super) struct Renewal {
    hold: Arc<Hold>,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// One epoch of one scope's leases.
struct Epoch {
    number: u64,
    renewed: SystemTime,
}

impl Renewal {
    pub(super) fn take(
        space: &Arc<dyn Space>,
        run: &str,
        share: Option<(u32, u32)>,
        renew: Duration,
    ) -> Result<Self> {
        let scope = match share {
            None => "whole".to_owned(),
            Some((share, of)) => format!("{share}-of-{of}"),
        };
        let folder = format!("{HOUSE}/lease/{scope}");
        let now = store_clock(&**space)?;
        let last = last_epoch(&**space, &folder)?;
        if let Some(last) = &last {
            check_lapsed(&**space, &folder, last, now)?;
        }
        let number = last.as_ref().map_or(1, |last| last.number + 1);
        let name = epoch_name(&folder, number);
        let (holder, renewed) = (Holder::this(run), Mutex::new(Instant::now()));
        let point =
            |name| fail::point(name).map_err(|error| disk_error(space.url(), "cannot lock", error));
        point("lease.before_take")?;
        if !space.create(&name, holder.to_bytes()?)? {
            let winner = read_holder(&**space, &name)?;
            return Err(remote_conflict(&**space, winner.as_ref()));
        }
        let (there, lost) = (Arc::clone(space), AtomicBool::new(false));
        let hold = Hold { space: there, folder: folder.clone(), number, holder, lost, renewed };
        let mine = Self::start(Arc::new(hold), renew);
        point("lease.after_take")?;
        // Looks at the scopes that exclude this one only now that its own lease is seen: of two
        // that start at once, at least one sees the other.
        for other in space.folders(&format!("{HOUSE}/lease"))? {
            let excludes = other != scope && (share.is_none() || other == "whole");
            let folder = format!("{HOUSE}/lease/{other}");
            if let (true, Some(last)) = (excludes, last_epoch(&**space, &folder)?) {
                check_lapsed(&**space, &folder, &last, now)?;
            }
        }
        for old in epochs(&**space, &folder)?.into_iter().filter(|epoch| epoch.number < number) {
            point("lease.before_forget")?;
            space.remove(&epoch_name(&folder, old.number))?;
        }
        Ok(mine)
    }

    /// As [`super::Lease::check`].
    pub(super) fn check(&self) -> Result<()> {
        self.hold.check()
    }

    pub(super) fn is_lost(&self) -> bool {
        self.hold.lost.load(Ordering::SeqCst)
    }

    pub(super) fn hold(&self) -> Weak<Hold> {
        Arc::downgrade(&self.hold)
    }

    fn start(hold: Arc<Hold>, renew: Duration) -> Self {
        let (stop, stopped) = mpsc::channel::<()>();
        let held = Arc::clone(&hold);
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(renew) == Err(mpsc::RecvTimeoutError::Timeout) {
                match held.write(false) {
                    Ok(true) => {}
                    Ok(false) => return,
                    // The next round tries again; the lease lapses if none succeeds in a minute.
                    Err(error) => tracing::warn!(%error, "cannot renew the lease of the output"),
                }
            }
        });
        Self { hold, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        // Looks first: what another run took is not this one's to give back.
        if let Err(error) = self.hold.write(true) {
            tracing::warn!(%error, "cannot give the lease back; it lapses in a minute");
        }
    }
}

fn check_lapsed(space: &dyn Space, folder: &str, last: &Epoch, now: SystemTime) -> Result<()> {
    let holder = read_holder(space, &epoch_name(folder, last.number))?;
    let released = holder.as_ref().is_some_and(|holder| holder.released);
    if released || now.duration_since(last.renewed).unwrap_or_default() > LAPSE {
        return Ok(());
    }
    Err(remote_conflict(space, holder.as_ref()))
}

fn remote_conflict(space: &dyn Space, holder: Option<&Holder>) -> Error {
    let error = match holder {
        Some(holder) => holder.conflict(space.url()),
        None => Error::conflict("another run holds this output").at(space.url()),
    };
    error.hint(format!(
        "wait until it ends or stop it; the lease of a killed run lapses after {} s",
        LAPSE.as_secs()
    ))
}

/// The store's own clock: when it says that an object written now was written.
pub(crate) fn store_clock(space: &dyn Space) -> Result<SystemTime> {
    fail::point("lease.before_clock")
        .map_err(|error| disk_error(space.url(), "cannot read the clock", error))?;
    let folder = format!("{HOUSE}/clock/{}", nonce());
    let name = format!("{folder}/now");
    space.replace(&name, Bytes::from_static(b"now"))?;
    let now = space.newest(&folder)?;
    space.remove(&name)?;
    now.ok_or_else(|| {
        Error::store("an object vanished just after it was written").at(space.locate(&name))
    })
}

fn epoch_name(folder: &str, number: u64) -> String {
    format!("{folder}/{number:020}.json")
}

fn epochs(space: &dyn Space, folder: &str) -> Result<Vec<Epoch>> {
    let files = space.files(folder)?.into_iter();
    Ok(files
        .filter_map(|file| {
            let number = file.name.strip_suffix(".json")?.parse().ok()?;
            Some(Epoch { number, renewed: file.modified })
        })
        .collect())
}

fn last_epoch(space: &dyn Space, folder: &str) -> Result<Option<Epoch>> {
    Ok(epochs(space, folder)?.into_iter().max_by_key(|epoch| epoch.number))
}

fn read_holder(space: &dyn Space, name: &str) -> Result<Option<Holder>> {
    Ok(space.read(name)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

#[cfg(test)]
mod tests {
    use super::super::{Held, Lease};
    use super::*;

    const FOLDER: &str = ".clipmill/lease/whole";

    #[test]
    fn a_lease_lapses_a_minute_after_its_last_renewal() {
        let output = crate::Output::in_memory();
        let holder = Holder::this("first").to_bytes().unwrap();
        output.put(&epoch_name(FOLDER, 1), holder).unwrap();
        let last = last_epoch(&*output.space, FOLDER).unwrap().unwrap();
        let after = |seconds| check_lapsed(&*output.space, FOLDER, &last, last.renewed + seconds);
        assert_eq!(after(Duration::from_secs(59)).unwrap_err().kind(), stage::Kind::Conflict);
        after(Duration::from_secs(61)).unwrap();
    }

    #[test]
    fn a_holder_sees_that_another_took_over() {
        let output = crate::Output::in_memory();
        let renew = Duration::from_millis(5);
        let lease = remote(&output, renew);
        lease.check().unwrap();
        let other = Holder::this("second").to_bytes().unwrap();
        output.put(&epoch_name(FOLDER, 2), other.clone()).unwrap();
        let deadline = SystemTime::now() + Duration::from_secs(20);
        while lease.check().is_ok() {
            assert!(SystemTime::now() < deadline, "still held");
            std::thread::yield_now();
        }
        drop(lease);
        // The one that lost gives nothing back: the second still holds the output.
        assert_eq!(output.get(&epoch_name(FOLDER, 2)).unwrap().unwrap(), other);
    }

    fn remote(output: &crate::Output, renew: Duration) -> Lease {
        Lease { held: Held::Remote(Renewal::take(&output.space, "first", None, renew).unwrap()) }
    }

    /// A lease that is not renewed by itself, and looks as if its process had slept for so long.
    fn slept(lease: &Lease, time: Duration) {
        let Held::Remote(renewal) = &lease.held else { panic!("a local lease") };
        let before = Instant::now().checked_sub(time).expect("a machine that is up for longer");
        *renewal.hold.renewed.lock().unwrap() = before;
    }

    #[test]
    fn a_run_that_slept_through_its_lease_changes_nothing_of_who_took_over() {
        let output = crate::Output::in_memory();
        let stage = output.stage("links");
        let mut attempt = stage.begin("00000").unwrap();
        attempt.put("00000.txt", b"old").unwrap();
        let lease = output.fence.hold(remote(&output, Duration::from_hours(1)));
        slept(&lease, LAPSE);
        let other = Holder::this("second").to_bytes().unwrap();
        output.space.replace(&epoch_name(FOLDER, 2), other).unwrap();

        let conflict = |result: Result<()>| {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), stage::Kind::Conflict);
            assert!(error.to_string().contains("another run took this output over"), "{error}");
        };
        let counts = stage::Counts::default();
        conflict(attempt.commit("key", counts, serde_json::Value::Null).map(|_| ()));
        conflict(output.put("report.html", "old".into()));
        conflict(stage.clear());
        conflict(output.gc().map(|_| ()));
        conflict(lease.check());
        assert!(stage.commit("00000").unwrap().is_none());
        assert!(output.get("report.html").unwrap().is_none());
        // The attempt that lost its lease took its files with it.
        assert!(output.space.folders("links/_attempts").unwrap().is_empty());
    }

    #[test]
    fn a_run_that_slept_and_was_not_replaced_renews_its_lease_and_goes_on() {
        let output = crate::Output::in_memory();
        let lease = output.fence.hold(remote(&output, Duration::from_hours(1)));
        slept(&lease, LAPSE);
        let error = fail::with("lease.before_renew=error", || lease.check()).unwrap_err();
        assert_eq!(error.kind(), stage::Kind::Store);
        output.put("report.html", "mine".into()).unwrap();
        let Held::Remote(renewal) = &lease.held else { panic!("a local lease") };
        assert!(renewal.hold.renewed.lock().unwrap().elapsed() < LAPSE);
    }

    #[test]
    fn epochs_rise_and_old_ones_go() {
        let output = crate::Output::in_memory();
        for number in 1..4 {
            drop(output.lock("run").unwrap());
            let all = epochs(&*output.space, FOLDER).unwrap();
            let numbers: Vec<u64> = all.iter().map(|epoch| epoch.number).collect();
            assert_eq!(numbers, [number]);
        }
    }
}
