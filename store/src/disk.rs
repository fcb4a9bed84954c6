//! A local folder: every write is synced, every name appears whole, every folder is synced after.
//!
//! object_store 0.13 cannot fsync (its `LocalFileSystem` leaves data in the page cache), so the
//! steps are written out here: temporary name under `.clipmill/tmp`, write, `fsync`, then `link`
//! (which fails if the name exists: the create-only put) or `rename`, then `fsync` of the folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use stage::{Error, Result};

use crate::name::{TEMPORARY, nonce};
use crate::space::{Entry, MAX_SMALL, Space};
use crate::trouble::disk_error;
use crate::{Blob, alive, fail};

#[derive(Debug)]
pub(crate) struct Disk {
    root: PathBuf,
    url: String,
}

impl Disk {
    /// A folder, which need not exist yet.
    pub(crate) fn new(root: PathBuf, url: &str) -> Self {
        Self { root, url: url.to_owned() }
    }

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.root.clone() } else { self.root.join(name) }
    }
}

/// Creates a folder and its parents; each new name is synced in its parent.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = parent(path);
    if parent != path {
        make_folder(parent)?;
    }
    fail::point("disk.before_make_folder")
        .and_then(|()| match fs::create_dir(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            other => other,
        })
        .map_err(|error| disk_error(path.display(), "cannot create the folder", error))?;
    sync_folder(parent)
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    fail::point("disk.before_sync_folder")
        .and_then(|()| File::open(path)?.sync_all())
        .map_err(|error| disk_error(path.display(), "cannot sync the folder", error))
}

/// vfat and some network mounts have no hard links, and say "not permitted".
fn no_links(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EOPNOTSUPP | libc::ENOSYS) => {
            let message = format!("this file system has no hard links ({error})");
            io::Error::new(ErrorKind::Unsupported, message)
        }
        _ => error,
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

fn missing_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Space for Disk {
    fn url(&self) -> &str {
        &self.url
    }

    fn locate(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn local_root(&self) -> Option<&Path> {
        Some(&self.root)
    }

    fn read(&self, name: &str) -> Result<Option<Bytes>> {
        let path = self.path(name);
        let read = || {
            let file = File::open(&path)?;
            let len = file.metadata()?.len();
            if len > MAX_SMALL {
                return Err(io::Error::other(format!("{len} bytes are no small file")));
            }
            let mut bytes = Vec::with_capacity(len as usize);
            file.take(MAX_SMALL).read_to_end(&mut bytes)?;
            Ok(Bytes::from(bytes))
        };
        missing_is_none(read()).map_err(|error| disk_error(path.display(), "cannot read", error))
    }

    fn read_many(&self, names: Vec<String>) -> Result<Vec<Option<Bytes>>> {
        names.iter().map(|name| self.read(name)).collect()
    }

    fn size(&self, name: &str) -> Result<Option<u64>> {
        let path = self.path(name);
        missing_is_none(fs::metadata(&path))
            .map(|meta| meta.filter(fs::Metadata::is_file).map(|meta| meta.len()))
            .map_err(|error| disk_error(path.display(), "cannot look at", error))
    }

    fn sizes(&self, folder: &str, names: &BTreeSet<String>) -> Result<BTreeMap<String, u64>> {
        let mut sizes = BTreeMap::new();
        for name in names {
            if let Some(size) = self.size(&format!("{folder}/{name}"))? {
                sizes.insert(name.clone(), size);
            }
        }
        Ok(sizes)
    }

    fn files(&self, folder: &str) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        self.walk(folder, |path, meta| {
            if meta.is_file() {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                entries.push(Entry { name, modified: meta.modified()? });
            }
            Ok(())
        })?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn folders(&self, folder: &str) -> Result<Vec<String>> {
        let mut names = Vec::new();
        self.walk(folder, |path, meta| {
            if meta.is_dir() {
                names.push(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
            }
            Ok(())
        })?;
        names.sort();
        Ok(names)
    }

    fn has_folder(&self, folder: &str) -> Result<bool> {
        Ok(self.path(folder).is_dir())
    }

    fn newest(&self, folder: &str) -> Result<Option<SystemTime>> {
        let path = self.path(folder);
        let own = missing_is_none(fs::metadata(&path).and_then(|meta| meta.modified()))
            .map_err(|error| disk_error(path.display(), "cannot look at", error))?;
        let mut newest = own;
        for file in self.files(folder)? {
            newest = newest.max(Some(file.modified));
        }
        for inner in self.folders(folder)? {
            newest = newest.max(self.newest(&format!("{folder}/{inner}"))?);
        }
        Ok(newest)
    }

    fn create(&self, name: &str, bytes: Bytes) -> Result<bool> {
        let path = self.path(name);
        self.write_whole(&path, &bytes, |temporary| {
            fail::point("disk.before_link")?;
            let won = match fs::hard_link(temporary, &path) {
                Ok(()) => true,
                // A network file system may repeat a request whose answer was lost: look whose it is.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => fs::read(&path)? == bytes,
                Err(error) => return Err(no_links(error)),
            };
            fail::point("disk.after_link")?;
            Ok(won)
        })
    }

    fn replace(&self, name: &str, bytes: Bytes) -> Result<()> {
        let path = self.path(name);
        self.write_whole(&path, &bytes, |temporary| {
            fail::point("disk.before_rename")?;
            fs::rename(temporary, &path)?;
            fail::point("disk.after_rename").map(|()| true)
        })
        .map(|_| ())
    }

    fn upload(&self, name: &str, _path: &Path) -> Result<()> {
        Err(Error::internal("a local output needs no upload").at(name))
    }

    fn publish(&self, from: &str, to: &str) -> Result<bool> {
        let (from, to) = (self.path(from), self.path(to));
        make_folder(parent(&to))?;
        fail::point("disk.before_move")
            .and_then(|()| missing_is_none(fs::rename(&from, &to)))
            .map(|renamed| renamed.is_some())
            .map_err(|error| disk_error(to.display(), "cannot publish", error))
    }

    fn settle(&self, folder: &str) -> Result<()> {
        sync_folder(&self.path(folder))
    }

    fn remove(&self, name: &str) -> Result<()> {
        let path = self.path(name);
        fail::point("disk.before_remove")
            .and_then(|()| missing_is_none(fs::remove_file(&path)))
            .map(|_| ())
            .map_err(|error| disk_error(path.display(), "cannot remove", error))
    }

    fn remove_tree(&self, folder: &str) -> Result<()> {
        let path = self.path(folder);
        fail::point("disk.before_remove_folder")
            .and_then(|()| missing_is_none(fs::remove_dir_all(&path)))
            .map(|_| ())
            .map_err(|error| disk_error(path.display(), "cannot remove", error))
    }

    fn blob(&self, name: &str) -> Result<Blob> {
        Blob::open_file(&self.path(name), &self.locate(name))
    }
}

impl Disk {
    /// Writes a file under a temporary name, for `place` to give it its own.
    fn write_whole(
        &self,
        path: &Path,
        bytes: &[u8],
        place: impl FnOnce(&Path) -> io::Result<bool>,
    ) -> Result<bool> {
        let folder = parent(path);
        make_folder(folder)?;
        let temporaries = self.root.join(TEMPORARY);
        make_folder(&temporaries)?;
        let temporary = temporaries.join(nonce());
        let written = (|| {
            fail::point("disk.before_write")?;
            let mut file = alive::create(&temporary)?;
            file.write_all(bytes)?;
            fail::point("disk.before_sync")?;
            file.sync_all()?;
            place(&temporary)
        })();
        // After a rename there is nothing left to remove.
        let _ = fs::remove_file(&temporary);
        let placed = written.map_err(|error| disk_error(path.display(), "cannot write", error))?;
        sync_folder(folder)?;
        Ok(placed)
    }

    /// Shows each entry of a folder; one that vanishes meanwhile is passed over.
    fn walk(
        &self,
        folder: &str,
        mut show: impl FnMut(&Path, &fs::Metadata) -> io::Result<()>,
    ) -> Result<()> {
        let path = self.path(folder);
        let mut walked = || -> io::Result<()> {
            for entry in missing_is_none(fs::read_dir(&path))?.into_iter().flatten() {
                let entry = entry?;
                if let Some(meta) = missing_is_none(entry.metadata())? {
                    show(&entry.path(), &meta)?;
                }
            }
            Ok(())
        };
        walked().map_err(|error| disk_error(path.display(), "cannot list", error))
    }
}
