//! `Attempt`: the files of one try at a unit, real only after one create-only put.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};
use stage::{Counts, Error, Result};

use crate::alive::Alive;
use crate::digest::Digest as Running;
use crate::disk::{make_folder, sync_folder};
use crate::name::{check_file, nonce};
use crate::trouble::{at_path, disk_error, write_error};
use crate::{Blob, Commit, FileRecord, StageDir, fail};

/// Bytes that gather before they are written.
const BUFFER: usize = 256 << 10;

/// Files of one attempt at a unit. Dropped without commit: removed (best effort).
pub struct Attempt {
    stage: StageDir,
    unit: String,
    nonce: String,
    folder: PathBuf,
    files: Files,
    /// Whether dropping removes the files.
    mine: bool,
    /// Dropped after the files are removed.
    _alive: Alive,
}

/// Files by name; `None` while being written.
type Files = Arc<Mutex<BTreeMap<String, Option<FileRecord>>>>;

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Attempt").field(&self.folder).finish()
    }
}

impl Attempt {
    pub(crate) fn begin(stage: &StageDir, unit: &str) -> Result<Self> {
        let nonce = nonce();
        let name = format!("{unit}.{nonce}");
        let folder = match stage.space().local_root() {
            Some(root) => root.join(stage.attempt_folder(&name)),
            None => stage.output.near.path().join("spool").join(stage.id()).join(&name),
        };
        fail::point("attempt.before_begin")
            .map_err(|error| disk_error(folder.display(), "cannot begin", error))?;
        let parent = folder.parent().unwrap_or(&folder);
        make_folder(parent)?;
        let alive = Alive::new(&folder)?;
        fail::point("attempt.before_folder")
            .and_then(|()| fs::create_dir(&folder))
            .map_err(|error| disk_error(folder.display(), "cannot create the folder", error))?;
        let (stage, unit, files) = (stage.clone(), unit.to_owned(), Files::default());
        Ok(Self { stage, unit, nonce, folder, files, mine: true, _alive: alive })
    }

    /// `<unit>.<nonce>`, as [`Commit::attempt`] says when this attempt wins.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}.{}", self.unit, self.nonce)
    }

    /// A new file of the unit; hashed while it is written. `name` is its path in the stage's
    /// folder after the commit. For a remote output it is written here and uploaded at commit.
    pub fn file(&mut self, name: &str) -> Result<AttemptFile> {
        check_file(name)?;
        let path = self.folder.join(name);
        if let Some(parent) = path.parent() {
            make_folder(parent)?;
        }
        fail::point("file.before_create")
            .and_then(|()| File::create_new(&path))
            .map_err(|error| disk_error(path.display(), "cannot create", error))
            .map(|file| {
                self.files().insert(name.to_owned(), None);
                let (name, files) = (name.to_owned(), Arc::clone(&self.files));
                let buffer = Vec::with_capacity(BUFFER);
                let digest = Running::here();
                AttemptFile { file, path, name, files, buffer, digest, bytes: 0, torn: false }
            })
    }

    /// A small file at once.
    pub fn put(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut file = self.file(name)?;
        file.write_all(bytes).map_err(write_error)?;
        file.finish()
    }

    /// Takes a file over that was committed before, with the sha256 that its record says: a second
    /// name of the same bytes where one disk holds both, which reads nothing; elsewhere a copy, whose
    /// hash is held against the record.
    ///
    /// # Errors
    /// When it cannot be read, or a copy has another hash.
    pub fn adopt(&mut self, name: &str, from: &Blob, sha256: &str) -> Result<()> {
        check_file(name)?;
        if self.stage.space().local_root().is_some() && !from.is_remote() {
            let path = self.folder.join(name);
            if let Some(parent) = path.parent() {
                make_folder(parent)?;
            }
            fail::point("file.before_create")
                .map_err(|error| disk_error(path.display(), "cannot create", error))?;
            // A link of a link would be no file (caches of model hubs are made of links): its target
            // gets the second name.
            let target = from.local_path()?;
            let linked = fs::canonicalize(target).and_then(|target| fs::hard_link(target, &path));
            // Another disk, or one without hard links: copied below.
            if linked.is_ok() {
                let (name, bytes, sha256) = (name.to_owned(), from.len(), sha256.to_owned());
                self.files().insert(name.clone(), Some(FileRecord { name, bytes, sha256 }));
                return Ok(());
            }
        }
        let mut file = self.file(name)?;
        let copied = io::copy(&mut from.reader(), &mut file);
        copied.map_err(|error| Error::store("cannot copy").because(error).at(from.name()))?;
        file.finish()?;
        match self.files().get(name) {
            Some(Some(record)) if record.sha256 != sha256 => {
                Err(Error::input(format!("sha256 {}, the record says {sha256}", record.sha256))
                    .at(from.name())
                    .hint("the file was changed since: bring it back, or make it again"))
            }
            _ => Ok(()),
        }
    }

    /// A local folder for programs that need paths; what lies in it at commit becomes files of
    /// the unit under their relative names.
    #[must_use]
    pub fn local_dir(&self) -> &Path {
        &self.folder
    }

    /// Makes all files real by one create-only put of the commit record, then gives them their
    /// final names.
    ///
    /// When another attempt won, returns the winner's record and removes this attempt's files.
    /// After an error a resumed run finds the unit either done or not begun.
    ///
    /// # Errors
    /// [`stage::Kind::Internal`] when `counts` do not add up or a file was not finished,
    /// [`stage::Kind::Store`] when the store refused, [`stage::Kind::Conflict`] when another run
    /// took the output over since this one's last sign of life.
    pub fn commit(mut self, key: &str, counts: Counts, info: serde_json::Value) -> Result<Commit> {
        counts.check().map_err(|error| error.at(self.place()))?;
        let files = self.collect()?;
        let commit = Commit {
            unit: self.unit.clone(),
            key: key.to_owned(),
            code: env!("CARGO_PKG_VERSION").to_owned(),
            nonce: self.nonce.clone(),
            attempt: self.name(),
            counts,
            files,
            info,
        };
        let bytes = commit.to_bytes()?;
        let record = self.stage.commit_name(&self.unit);
        let stage = self.stage.clone();
        if stage.space().local_root().is_none() {
            let folder = stage.attempt_folder(&commit.attempt);
            for file in &commit.files {
                let name = format!("{folder}/{}", file.name);
                stage.space().upload(&name, &self.folder.join(&file.name))?;
            }
            self.check_uploads(&folder, &commit.files)?;
        }
        self.point("commit.before_put")?;
        stage.output.check_lease()?;
        // From here a put whose answer is lost may still take effect, and then these files are it.
        self.mine = false;
        match stage.space().create(&record, bytes) {
            Ok(true) => {}
            Ok(false) => {
                self.mine = true;
                drop(self);
                return stage.commit(&commit.unit)?.ok_or_else(|| {
                    Error::store("the commit record vanished").at(stage.space().locate(&record))
                });
            }
            Err(error) => {
                // On a disk what is not there now will not appear later: free the space.
                let local = stage.space().local_root().is_some();
                self.mine = local && matches!(stage.space().read(&record), Ok(None));
                return Err(error);
            }
        }
        self.point("commit.after_put")?;
        stage.publish(&commit)?;
        Ok(commit)
    }

    /// A record that names files that are not there would be worse than none: what a store took may
    /// be missing because it lied, or because a gc took this attempt for an orphan.
    fn check_uploads(&self, folder: &str, files: &[FileRecord]) -> Result<()> {
        let names = files.iter().map(|file| file.name.clone()).collect();
        let sizes = self.stage.space().sizes(folder, &names)?;
        match files.iter().find(|file| sizes.get(&file.name) != Some(&file.bytes)) {
            None => Ok(()),
            Some(file) => Err(Error::store("the store took this file and does not have it whole")
                .at(self.stage.space().locate(&format!("{folder}/{}", file.name)))
                .hint("run the same command again to go on; if it recurs, use another store")),
        }
    }

    fn place(&self) -> String {
        format!("{} unit {}", self.stage.id(), self.unit)
    }

    fn point(&self, name: &'static str) -> Result<()> {
        fail::point(name).map_err(|error| disk_error(self.place(), "cannot commit", error))
    }

    fn files(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Option<FileRecord>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every file of the folder with its length and hash; all of them synced.
    fn collect(&self) -> Result<Vec<FileRecord>> {
        self.point("commit.before_collect")?;
        let mut known = self.files().clone();
        let mut records = Vec::new();
        collect_folder(&self.folder, "", &mut known, &mut records)?;
        if let Some((name, record)) = known.into_iter().next() {
            let what = if record.is_some() { "was removed before" } else { "was not finished at" };
            return Err(Error::internal(format!("file {name} {what} the commit")).at(self.place()));
        }
        if let Some(parent) = self.folder.parent() {
            sync_folder(parent)?;
        }
        records.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(records)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let remote = self.stage.space().local_root().is_none();
        let remove = if self.mine { fail::point("attempt.before_remove").is_ok() } else { remote };
        if remove && let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(folder = %self.folder.display(), %error, "an attempt stays behind");
        }
        if self.mine && remote {
            let folder = self.stage.attempt_folder(&self.name());
            if let Err(error) = self.stage.space().remove_tree(&folder) {
                tracing::warn!(folder, %error, "an attempt stays behind");
            }
        }
    }
}

/// Takes the files of `folder` out of `known` into `records`; hashes those that are not known.
fn collect_folder(
    folder: &Path,
    prefix: &str,
    known: &mut BTreeMap<String, Option<FileRecord>>,
    records: &mut Vec<FileRecord>,
) -> Result<()> {
    let unreadable = |error| disk_error(folder.display(), "cannot list", error);
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let (path, meta) = (entry.path(), entry.metadata().map_err(unreadable)?);
        let name = entry.file_name().into_string().map_err(|name| {
            Error::internal(format!("file name {} is not UTF-8", name.display()))
                .at(folder.display())
        })?;
        let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        check_file(&name)?;
        if meta.is_dir() {
            collect_folder(&path, &name, known, records)?;
        } else if !meta.is_file() {
            return Err(Error::internal("neither a file nor a folder").at(path.display()));
        } else if known.get(&name).is_some_and(Option::is_none) {
            // Stays in `known`, where the caller complains about it.
        } else if let Some(record) =
            known.remove(&name).flatten().filter(|record| record.bytes == meta.len())
        {
            records.push(record);
        } else {
            let hashed = hash_and_sync(&path);
            let (bytes, sha256) =
                hashed.map_err(|error| disk_error(path.display(), "cannot read", error))?;
            records.push(FileRecord { name, bytes, sha256 });
        }
    }
    sync_folder(folder)
}

fn hash_and_sync(path: &Path) -> io::Result<(u64, String)> {
    fail::point("commit.before_hash")?;
    let mut file = File::open(path)?;
    let (mut hasher, mut buffer, mut bytes) = (Sha256::new(), vec![0; BUFFER], 0);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                hasher.update(&buffer[..n]);
                bytes += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    file.sync_all()?;
    Ok((bytes, format!("{:x}", hasher.finalize())))
}

/// One file of an attempt. Nothing counts before [`AttemptFile::finish`]: an attempt with an
/// unfinished file cannot be committed.
///
/// Its write errors name the path; [`crate::write_error`] turns them into [`stage::Error`].
pub struct AttemptFile {
    file: File,
    path: PathBuf,
    name: String,
    files: Files,
    buffer: Vec<u8>,
    digest: Running,
    bytes: u64,
    /// A write failed half way: what is on disk is unknown.
    torn: bool,
}

impl fmt::Debug for AttemptFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AttemptFile").field(&self.path).finish()
    }
}

impl AttemptFile {
    /// Hashes on a thread of its own from here on: for files of many megabytes where a core is
    /// free, since sha256 takes longer than the write.
    #[must_use]
    pub fn hash_beside(mut self) -> Self {
        self.digest = self.digest.beside();
        self
    }

    /// Writes what is buffered, syncs, and counts the file as part of the unit.
    pub fn finish(mut self) -> Result<()> {
        self.write_buffer().map_err(write_error)?;
        fail::point("file.before_sync")
            .and_then(|()| self.file.sync_all())
            .and_then(|()| fail::point("file.after_sync"))
            .map_err(|error| disk_error(self.path.display(), "cannot sync", error))?;
        let path = &self.path;
        let sha256 = self.digest.finish();
        let sha256 = sha256.map_err(|error| disk_error(path.display(), "cannot hash", error))?;
        let record = FileRecord { name: self.name.clone(), bytes: self.bytes, sha256 };
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.insert(self.name, Some(record));
        Ok(())
    }

    /// Bytes written so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.bytes + self.buffer.len() as u64
    }

    fn write_buffer(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let buffer = std::mem::take(&mut self.buffer);
        let written = self.put_on_disk(&buffer);
        self.buffer = buffer;
        written?;
        self.digest.take(&mut self.buffer)
    }

    fn put_on_disk(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = if self.torn {
            Err(io::Error::other("an earlier write failed"))
        } else {
            fail::point("file.before_write").and_then(|()| self.file.write_all(bytes))
        };
        self.torn = written.is_err();
        written.map_err(|error| at_path(self.path.display().to_string(), error))?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

impl Write for AttemptFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // What fills the buffer by itself need not be copied into it.
        if let Some((piece, _)) = bytes.split_at_checked(BUFFER)
            && self.digest.is_here()
        {
            self.write_buffer()?;
            self.put_on_disk(piece)?;
            self.digest.update(piece)?;
            return Ok(piece.len());
        }
        if self.buffer.len() >= BUFFER {
            self.write_buffer()?;
        }
        let n = bytes.len().min(BUFFER - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_buffer()
    }
}
