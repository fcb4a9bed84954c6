//! Removes what killed processes left behind, and nothing that a living one still needs.

use std::path::Path;
use std::time::{Duration, SystemTime};

use stage::Result;

use crate::alive::{self, Alive, Owner};
use crate::lease::store_clock;
use crate::name::{ATTEMPTS, HOUSE, TEMPORARY};
use crate::trouble::disk_error;
use crate::{Output, StageDir, fail};

const DAY: Duration = Duration::from_hours(24);

impl Output {
    /// Repairs what a kill left between commit and publication, then removes attempts that no
    /// commit record names and whose process is gone. Returns how many.
    ///
    /// A local attempt whose process lives, here or on another host of a shared file system, is
    /// held by a file lock and stays. Remote attempts carry no such lock: those younger than a day
    /// stay. See [`Output::gc_older_than`].
    pub fn gc(&self) -> Result<u64> {
        let local = self.space.local_root().is_some();
        self.gc_older_than(if local { Duration::ZERO } else { DAY })
    }

    /// As [`Output::gc`], with another least age; zero removes every orphan, which in a bucket is
    /// right only when the caller knows that no other process writes to this output.
    pub fn gc_older_than(&self, grace: Duration) -> Result<u64> {
        self.check_lease()?;
        // The age of a file is told by the clock that stamped it.
        let now = store_clock(&*self.space)?;
        let mut removed = 0;
        for folder in self.space.folders("")? {
            if folder != HOUSE && self.space.has_folder(&format!("{folder}/{ATTEMPTS}"))? {
                removed += self.stage(&folder).gc(now, grace)?;
            }
        }
        for folder in ["trash", "probe", "clock"] {
            let folder = format!("{HOUSE}/{folder}");
            fail::point("gc.before_tidy")
                .map_err(|error| disk_error(self.locate(&folder), "cannot tidy", error))?;
            self.space.remove_tree(&folder)?;
        }
        fail::point("gc.before_sweep")
            .map_err(|error| disk_error(self.url(), "cannot sweep", error))?;
        match self.space.local_root() {
            Some(root) => alive::sweep(&root.join(TEMPORARY), |_| true)?,
            None => sweep_spools(&self.near.path().join("spool"))?,
        }
        Ok(removed)
    }
}

impl Output {
    /// As [`Output::gc`], of one stage alone: what lies beside it is nobody's concern.
    ///
    /// # Errors
    /// When the stage cannot be read or something cannot be removed.
    pub fn gc_stage(&self, id: &str) -> Result<u64> {
        self.check_lease()?;
        let grace = if self.space.local_root().is_some() { Duration::ZERO } else { DAY };
        self.stage(id).gc(store_clock(&*self.space)?, grace)
    }
}

impl StageDir {
    fn gc(&self, now: SystemTime, grace: Duration) -> Result<u64> {
        // Publishes first: what a record names is no orphan.
        fail::point("gc.before_publish")
            .map_err(|error| disk_error(self.locate(""), "cannot publish", error))?;
        self.commits()?;
        let mut removed = 0;
        for attempt in self.space().folders(&self.inner(ATTEMPTS))? {
            removed += u64::from(self.gc_attempt(&attempt, now, grace)?);
        }
        let Some(root) = self.space().local_root() else { return Ok(removed) };
        Alive::sweep(&root.join(self.inner(ATTEMPTS)))?;
        Ok(removed)
    }

    /// Whether this attempt was an orphan; it is gone then.
    fn gc_attempt(&self, attempt: &str, now: SystemTime, grace: Duration) -> Result<bool> {
        let folder = self.attempt_folder(attempt);
        let newest = self.space().newest(&folder)?.unwrap_or(now);
        if now.duration_since(newest).unwrap_or_default() < grace {
            return Ok(false);
        }
        let owner = match self.space().local_root() {
            Some(root) => Alive::owner(&root.join(&folder))?,
            None => Owner::Gone(None),
        };
        let Owner::Gone(_held) = owner else { return Ok(false) };
        // Its process may have committed it just before it went.
        let unit = attempt.rsplit_once('.').map_or(attempt, |(unit, _)| unit);
        if self.read_commit(unit)?.is_some_and(|commit| commit.attempt == attempt) {
            return Ok(false);
        }
        fail::point("gc.before_remove")
            .map_err(|error| disk_error(self.space().locate(&folder), "cannot remove", error))?;
        self.space().remove_tree(&folder)?;
        Ok(true)
    }
}

/// Removes the spools of processes that are gone: `<stage>/<attempt>` below `spools`.
fn sweep_spools(spools: &Path) -> Result<()> {
    for stage in folders(spools)? {
        for attempt in folders(&stage)? {
            if let Owner::Gone(_held) = Alive::owner(&attempt)? {
                fail::point("gc.before_spool")
                    .and_then(|()| std::fs::remove_dir_all(&attempt))
                    .map_err(|error| disk_error(attempt.display(), "cannot remove", error))?;
            }
        }
        Alive::sweep(&stage)?;
    }
    Ok(())
}

fn folders(path: &Path) -> Result<Vec<std::path::PathBuf>> {
    let trouble = |error| disk_error(path.display(), "cannot list", error);
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(trouble)?,
    };
    let paths: std::io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.path())).collect();
    Ok(paths.map_err(trouble)?.into_iter().filter(|path| path.is_dir()).collect())
}
