//! `StageDir`: the units of one stage, done or begun.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use stage::{Error, Result};

use crate::attempt::Attempt;
use crate::disk::make_folder;
use crate::name::{ATTEMPTS, COMMITS, HOUSE, TENSORBOARD, WORK, check_part, nonce};
use crate::space::{Space, folder_of};
use crate::trouble::disk_error;
use crate::{Blob, Commit, Output, fail};

/// The folder of one stage of an output. Clone is cheap.
#[derive(Clone)]
pub struct StageDir {
    pub(crate) output: Output,
    id: String,
}

impl fmt::Debug for StageDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StageDir").field(&self.locate("")).finish()
    }
}

impl StageDir {
    pub(crate) fn new(output: Output, id: &str) -> Self {
        Self { output, id: id.to_owned() }
    }

    /// The stage's id, which is its folder's name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The commit record of a unit, or `None` if it is not done. Files that a kill left between
    /// commit and publication get their final names first.
    ///
    /// # Errors
    /// [`stage::Kind::Store`] when a committed file is missing or has another length.
    pub fn commit(&self, unit: &str) -> Result<Option<Commit>> {
        self.check(unit)?;
        let Some(commit) = self.read_commit(unit)? else { return Ok(None) };
        if self.space().has_folder(&self.attempt_folder(&commit.attempt))? {
            self.publish(&commit)?;
        } else {
            self.verify([&commit])?;
        }
        Ok(Some(commit))
    }

    /// All commit records by unit, published and checked as by [`StageDir::commit`].
    pub fn commits(&self) -> Result<BTreeMap<String, Commit>> {
        let commits = self.read_commits()?;
        let begun: BTreeSet<String> =
            self.space().folders(&self.inner(ATTEMPTS))?.into_iter().collect();
        for commit in commits.values().filter(|commit| begun.contains(&commit.attempt)) {
            self.publish(commit)?;
        }
        self.verify(commits.values())?;
        Ok(commits)
    }

    /// Starts an attempt at a unit: files that nobody sees before [`Attempt::commit`].
    pub fn begin(&self, unit: &str) -> Result<Attempt> {
        self.check(unit)?;
        Attempt::begin(self, unit)
    }

    /// A committed file under its final name.
    pub fn blob(&self, name: &str) -> Result<Blob> {
        crate::name::check_file(name)?;
        self.space().blob(&self.inner(name))
    }

    /// Paths of all files that lie below this stage's folder, sorted: those of the commit protocol and
    /// of others too. Links on a disk are not followed.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub fn names(&self) -> Result<Vec<String>> {
        let (mut names, mut folders) = (Vec::new(), vec![String::new()]);
        while let Some(folder) = folders.pop() {
            let inner = self.inner(&folder);
            let place = inner.trim_end_matches('/');
            let files = self.space().files(place)?.into_iter();
            names.extend(files.map(|file| format!("{folder}{}", file.name)));
            let below = self.space().folders(place)?.into_iter();
            folders.extend(below.map(|name| format!("{folder}{name}/")));
        }
        names.sort();
        Ok(names)
    }

    /// A file that [`StageDir::names`] lists, whoever made it; [`StageDir::blob`] hands out none of
    /// the commit protocol's own.
    ///
    /// # Errors
    /// When there is none, or its name leaves the folder.
    pub fn any_blob(&self, name: &str) -> Result<Blob> {
        crate::name::check_path("file", name)?;
        self.space().blob(&self.inner(name))
    }

    /// The final name as a path or URL, for messages and other programs.
    #[must_use]
    pub fn locate(&self, name: &str) -> String {
        self.space().locate(self.inner(name).trim_end_matches('/'))
    }

    /// A local folder of this stage that survives kills and is never committed by itself
    /// (training's own checkpoints, spools). For a remote output it lies in the user's cache
    /// folder, named by the URL.
    pub fn work_dir(&self) -> Result<PathBuf> {
        check_part("stage", &self.id)?;
        let folder = self.work_path();
        fail::point("work.before_make")
            .map_err(|error| disk_error(folder.display(), "cannot make", error))?;
        make_folder(&folder)?;
        Ok(folder)
    }

    /// Whether nothing is committed here and nothing was kept in the work folder: another key may
    /// take its place without loss.
    ///
    /// # Errors
    /// When the stage cannot be listed.
    pub fn is_unused(&self) -> Result<bool> {
        check_part("stage", &self.id)?;
        let kept =
            std::fs::read_dir(self.work_path()).is_ok_and(|mut files| files.next().is_some());
        Ok(!kept && self.read_commits()?.is_empty())
    }

    /// Removes what the work folder holds, logs (`.log`, and the folder `tensorboard`) apart: all
    /// units are committed and nothing will go on from it.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn trim_work(&self) -> Result<()> {
        check_part("stage", &self.id)?;
        let folder = self.work_path();
        let trouble = |error| disk_error(folder.display(), "cannot tidy", error);
        let entries = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(trouble)?,
        };
        for entry in entries {
            let path = entry.map_err(trouble)?.path();
            fail::point("work.before_trim").map_err(trouble)?;
            if path.ends_with(TENSORBOARD) {
                continue;
            }
            if path.is_dir() {
                std::fs::remove_dir_all(&path).map_err(trouble)?;
            } else if path.extension().is_none_or(|ending| ending != "log") {
                std::fs::remove_file(&path).map_err(trouble)?;
            }
        }
        Ok(())
    }

    /// Forgets everything in this stage: another key took its place.
    pub fn clear(&self) -> Result<()> {
        check_part("stage", &self.id)?;
        self.output.check_lease()?;
        let place = || self.locate("");
        fail::point("clear.before_commits")
            .map_err(|error| disk_error(place(), "cannot clear", error))?;
        let folder = if self.space().local_root().is_some() {
            // One rename: a kill never leaves records without files or files without records.
            let trash = format!("{HOUSE}/trash/{}.{}", self.id, nonce());
            if self.space().publish(&self.id, &trash)? {
                self.space().settle("")?;
            }
            trash
        } else {
            self.space().remove_tree(&self.inner(COMMITS))?;
            self.id.clone()
        };
        fail::point("clear.before_remove")
            .map_err(|error| disk_error(place(), "cannot clear", error))?;
        self.space().remove_tree(&folder)?;
        let cleared = fail::point("clear.before_work")
            .and_then(|()| std::fs::remove_dir_all(self.work_path()));
        match cleared {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(disk_error(self.work_path().display(), "cannot clear", error))
            }
            _ => Ok(()),
        }
    }
}

impl StageDir {
    pub(crate) fn space(&self) -> &dyn Space {
        &*self.output.space
    }

    pub(crate) fn inner(&self, name: &str) -> String {
        format!("{}/{name}", self.id)
    }

    pub(crate) fn attempt_folder(&self, attempt: &str) -> String {
        format!("{}/{ATTEMPTS}/{attempt}", self.id)
    }

    pub(crate) fn commit_name(&self, unit: &str) -> String {
        format!("{}/{COMMITS}/{unit}.json", self.id)
    }

    fn check(&self, unit: &str) -> Result<()> {
        check_part("stage", &self.id)?;
        check_part("unit", unit)
    }

    fn work_path(&self) -> PathBuf {
        match self.space().local_root() {
            Some(root) => root.join(&self.id).join(WORK),
            None => self.output.near.path().join("work").join(&self.id),
        }
    }

    pub(crate) fn read_commit(&self, unit: &str) -> Result<Option<Commit>> {
        let name = self.commit_name(unit);
        let Some(bytes) = self.space().read(&name)? else { return Ok(None) };
        Commit::from_bytes(unit, &bytes, &self.space().locate(&name)).map(Some)
    }

    fn read_commits(&self) -> Result<BTreeMap<String, Commit>> {
        check_part("stage", &self.id)?;
        let files = self.space().files(&self.inner(COMMITS))?;
        let units: Vec<String> = files
            .iter()
            .filter(|file| !file.name.starts_with('.'))
            .filter_map(|file| file.name.strip_suffix(".json").map(str::to_owned))
            .collect();
        let names: Vec<String> = units.iter().map(|unit| self.commit_name(unit)).collect();
        let mut commits = BTreeMap::new();
        for ((unit, name), bytes) in
            units.into_iter().zip(&names).zip(self.space().read_many(names.clone())?)
        {
            let Some(bytes) = bytes else { continue };
            let commit = Commit::from_bytes(&unit, &bytes, &self.space().locate(name))?;
            commits.insert(unit, commit);
        }
        Ok(commits)
    }

    /// Gives the files of a commit their final names and removes the attempt's folder. May run in
    /// several processes at once, and again after a kill anywhere in it.
    pub(crate) fn publish(&self, commit: &Commit) -> Result<()> {
        let point = |name| {
            fail::point(name)
                .map_err(|error| disk_error(self.locate(&commit.unit), "cannot publish", error))
        };
        let attempt = self.attempt_folder(&commit.attempt);
        let mut folders = BTreeSet::new();
        for file in &commit.files {
            let (from, to) = (format!("{attempt}/{}", file.name), self.inner(&file.name));
            // Also of files that a killed process published: it may not have come to syncing them.
            folders.insert(folder_of(&to).to_owned());
            if self.space().size(&to)?.is_some() {
                if self.space().size(&from)?.is_none() {
                    continue;
                }
                // Either a file that `clear` was killed over, or two units with one name.
                self.check_owner(commit, &file.name)?;
            }
            point("publish.before_file")?;
            // `false`: another process that repairs the same commit was faster.
            self.space().publish(&from, &to)?;
        }
        point("publish.before_sync")?;
        for folder in &folders {
            self.space().settle(folder)?;
        }
        point("publish.before_check")?;
        self.verify([commit])?;
        point("publish.before_remove")?;
        self.space().remove_tree(&attempt)
    }

    /// Every file of these commits is there at its full length.
    fn verify<'a>(&self, commits: impl IntoIterator<Item = &'a Commit>) -> Result<()> {
        let commits: Vec<&Commit> = commits.into_iter().collect();
        let files =
            || commits.iter().flat_map(|commit| commit.files.iter().map(move |f| (commit, f)));
        let names: BTreeSet<String> = files().map(|(_, file)| file.name.clone()).collect();
        if names.is_empty() {
            return Ok(());
        }
        let sizes = self.space().sizes(&self.id, &names)?;
        for (commit, file) in files() {
            let found = match sizes.get(&file.name) {
                Some(&size) if size == file.bytes => continue,
                Some(size) => format!("has {size} bytes"),
                None => "is missing".to_owned(),
            };
            let record = self.space().locate(&self.commit_name(&commit.unit));
            return Err(Error::store(format!(
                "this file of unit {} was committed with {} bytes and {found}",
                commit.unit, file.bytes
            ))
            .at(self.locate(&file.name))
            .hint(format!("bring the file back, or remove {record} to make the unit again")));
        }
        Ok(())
    }

    fn check_owner(&self, commit: &Commit, name: &str) -> Result<()> {
        let commits = self.read_commits()?;
        let owner = commits
            .values()
            .find(|other| other.unit != commit.unit && other.files.iter().any(|f| f.name == name));
        match owner {
            None => Ok(()),
            Some(owner) => Err(Error::internal(format!(
                "units {} and {} both made this file",
                owner.unit, commit.unit
            ))
            .at(self.locate(name))),
        }
    }
}
