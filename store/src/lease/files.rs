//! A lease on this machine: a file lock on `.clipmill/lock`, which the kernel releases however the
//! process ends. A share of a run takes that lock shared, and its own
//! `.clipmill/lock-<share>-of-<of>` alone.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::Path;

use stage::{Error, Result};

use super::Holder;
use crate::disk::make_folder;
use crate::fail;
use crate::trouble::disk_error;

/// Takes the locks of a whole run, or of one share of it.
pub(super) fn take(
    folder: &Path,
    place: &str,
    run: &str,
    share: Option<(u32, u32)>,
) -> Result<Vec<File>> {
    make_folder(folder)?;
    let whole = take_file(&folder.join("lock"), place, run, share.is_some())?;
    let mut files = vec![whole];
    if let Some((share, of)) = share {
        let path = folder.join(format!("lock-{share}-of-{of}"));
        files.push(take_file(&path, place, run, false)?);
    }
    Ok(files)
}

fn take_file(path: &Path, place: &str, run: &str, shared: bool) -> Result<File> {
    let trouble = |error| disk_error(path.display(), "cannot lock", error);
    let mut options = OpenOptions::new();
    let mut file =
        options.create(true).truncate(false).read(true).write(true).open(path).map_err(trouble)?;
    match if shared { file.try_lock_shared() } else { file.try_lock() } {
        Ok(()) => {}
        Err(TryLockError::Error(error)) => return Err(trouble(error)),
        Err(TryLockError::WouldBlock) => {
            return Err(match named_in(file).or_else(|| living_share(path.parent()?)) {
                Some(holder) => holder.conflict(place).hint(format!(
                    "wait until it ends, or stop it (`kill {}` on {}); its lock ends with it",
                    holder.pid, holder.host
                )),
                // It is about to write its name.
                None => Error::conflict("another run holds this output")
                    .at(place)
                    .hint(format!("wait until it ends; `fuser {}` names it", path.display())),
            });
        }
    }
    // Whoever is named there is gone. Shares name themselves in their own files.
    fail::point("lock.before_name").and_then(|()| file.set_len(0)).map_err(trouble)?;
    if !shared {
        file.write_all(&Holder::this(run).to_bytes()?).map_err(trouble)?;
    }
    Ok(file)
}

fn named_in(file: File) -> Option<Holder> {
    let mut text = String::new();
    file.take(64 << 10).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// The holder of any share whose lock is held.
fn living_share(folder: &Path) -> Option<Holder> {
    fs::read_dir(folder).ok()?.filter_map(Result::ok).find_map(|entry| {
        let share = entry.file_name().to_str()?.starts_with("lock-");
        let file = File::open(entry.path()).ok().filter(|_| share)?;
        let held = matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
        named_in(file).filter(|_| held)
    })
}
