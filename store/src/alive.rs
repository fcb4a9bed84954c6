//! Files that say that their process lives: locked, and unlocked by the kernel however the process
//! ends, here or on another host of a shared file system.
//!
//! An attempt has such a file beside its folder; a small file being written is one itself.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use stage::Result;

use crate::fail;
use crate::trouble::disk_error;

/// Where the file system has no locks, a file younger than this is taken for alive.
const BREATH: Duration = Duration::from_mins(1);

/// A held sign. Dropped: removed.
pub(crate) struct Alive {
    _file: File,
    path: PathBuf,
}

/// What became of the process behind a file.
pub(crate) enum Owner {
    /// It lives.
    Lives,
    /// It is gone; while the file is held nobody else thinks so.
    Gone(Option<Alive>),
}

/// Creates a file, or opens one that a sweep is about to remove, and locks it (where the file
/// system has locks).
pub(crate) fn create(path: &Path) -> io::Result<File> {
    loop {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            // A sweep holds it for a moment, to remove it.
            Err(TryLockError::WouldBlock) => {
                std::thread::yield_now();
                continue;
            }
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                return Ok(file);
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        if is_at(&file, path)? {
            return Ok(file);
        }
    }
}

/// Looks whether the process that created a file lives.
fn owner(path: &Path) -> io::Result<Owner> {
    let file = match OpenOptions::new().write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Owner::Gone(None)),
        Err(error) => return Err(error),
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(Owner::Lives),
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
            let age = SystemTime::now().duration_since(file.metadata()?.modified()?);
            if age.unwrap_or_default() < BREATH {
                return Ok(Owner::Lives);
            }
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    Ok(Owner::Gone(Some(Alive { _file: file, path: path.to_owned() })))
}

/// Removes those files of a folder, of which `choose` says yes, whose processes are gone.
pub(crate) fn sweep(folder: &Path, choose: impl Fn(&Path) -> bool) -> Result<()> {
    let swept = (|| {
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        for entry in entries {
            let path = entry?.path();
            if choose(&path) {
                // Dropping the file of a process that is gone removes it.
                drop(owner(&path)?);
            }
        }
        Ok(())
    })();
    swept.map_err(|error| disk_error(folder.display(), "cannot sweep", error))
}

impl Alive {
    /// The sign of an attempt that is about to begin.
    pub(crate) fn new(attempt: &Path) -> Result<Self> {
        let path = sign(attempt);
        let file = fail::point("attempt.before_sign")
            .and_then(|()| create(&path))
            .map_err(|error| disk_error(path.display(), "cannot create the lock", error))?;
        Ok(Self { _file: file, path })
    }

    /// Looks whether the process behind an attempt lives.
    pub(crate) fn owner(attempt: &Path) -> Result<Owner> {
        let path = sign(attempt);
        owner(&path).map_err(|error| disk_error(path.display(), "cannot lock", error))
    }

    /// Removes, from a folder of attempts, the signs of processes that are gone.
    pub(crate) fn sweep(attempts: &Path) -> Result<()> {
        sweep(attempts, |path| path.extension().is_some_and(|ending| ending == "lock"))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        // Removed while locked, so that whoever waits for it sees that its file is gone.
        let _ = fs::remove_file(&self.path);
    }
}

fn sign(attempt: &Path) -> PathBuf {
    let mut path = attempt.as_os_str().to_owned();
    path.push(".lock");
    path.into()
}

/// Whether `path` still names this open file.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let here = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((here.dev(), here.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
