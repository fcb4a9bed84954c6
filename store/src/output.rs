//! `Output`: the folder or bucket prefix that a run writes.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use stage::{Error, Result};
use tempfile::TempDir;

use crate::address::{Address, parse};
use crate::bucket::{self, Bucket};
use crate::disk::{Disk, make_folder};
use crate::lease::{self, Fence, Lease};
use crate::name::{COMMITS, HOUSE, check_path, nonce};
use crate::space::Space;
use crate::trouble::disk_error;
use crate::{StageDir, cache, fail};

/// Where a run writes: a local folder or a prefix of an object store. Clone is cheap.
///
/// Calls block; from async code use `spawn_blocking`.
#[derive(Clone)]
pub struct Output {
    pub(crate) space: Arc<dyn Space>,
    /// Spools and work folders of a remote output.
    pub(crate) near: Near,
    /// The lease under which it is written, if one is held.
    pub(crate) fence: Fence,
    /// Keeps an in-memory store alive.
    _store: Option<Arc<dyn ObjectStore>>,
}

/// A folder on this machine for what a remote output needs here.
#[derive(Clone)]
pub(crate) enum Near {
    Cache(PathBuf),
    Temporary(Arc<TempDir>),
}

impl Near {
    pub(crate) fn path(&self) -> PathBuf {
        match self {
            Self::Cache(path) => path.clone(),
            Self::Temporary(folder) => folder.path().to_owned(),
        }
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Output").field(&self.url()).finish()
    }
}

impl Output {
    /// Opens a path, `file://` or `s3://`; creates a local folder; checks that the store honours
    /// create-only puts, on which "nothing lost, nothing twice" rests.
    ///
    /// # Errors
    /// [`stage::Kind::Store`] when the folder cannot be made or the store ignores create-only
    /// puts, [`stage::Kind::Recipe`] for an address of another kind.
    pub fn open(url: &str) -> Result<Self> {
        let output = Self::open_existing(url)?;
        if let Some(root) = output.space.local_root() {
            make_folder(root)?;
        }
        output.probe()?;
        Ok(output)
    }

    /// Opens an output to read: creates nothing, writes nothing, checks nothing.
    pub fn open_existing(url: &str) -> Result<Self> {
        match parse(url)? {
            Address::Local(root) => {
                let near = Near::Cache(root.clone());
                Ok(Self {
                    space: Arc::new(Disk::new(root, url)),
                    near,
                    fence: Fence::default(),
                    _store: None,
                })
            }
            Address::Remote(parsed) => {
                let (store, prefix) = bucket::open(&parsed)?;
                let place = format!("{:016x}", short_hash(url.trim_end_matches('/')));
                let near = Near::Cache(cache::folder().join("outputs").join(place));
                let space = Arc::new(Bucket::new(store, prefix, url));
                Ok(Self { space, near, fence: Fence::default(), _store: None })
            }
        }
    }

    /// An output in memory, which ends with its last clone. For tests.
    ///
    /// # Panics
    /// When no temporary folder can be made for spools.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::with_store(Arc::new(InMemory::new())).expect("a temporary folder for spools")
    }

    /// An output on any object store, for tests that wrap one. Its URL starts with `memory://`.
    ///
    /// # Errors
    /// As [`Output::open`].
    pub fn with_store(store: Arc<dyn ObjectStore>) -> Result<Self> {
        let url = bucket::name_store(&store);
        let folder = tempfile::tempdir()
            .map_err(|error| Error::store("cannot make a temporary folder").because(error))?;
        let space = Bucket::new(Arc::clone(&store), Key::default(), &url);
        let near = Near::Temporary(Arc::new(folder));
        let fence = Fence::default();
        let output = Self { space: Arc::new(space), near, fence, _store: Some(store) };
        output.probe()?;
        Ok(output)
    }

    /// Takes the whole output for one run; released on drop, and by the kernel when the process
    /// dies (local) or 60 s after its last sign of life (remote).
    ///
    /// # Errors
    /// [`stage::Kind::Conflict`] that says who holds it, when another run does.
    pub fn lock(&self, run: &str) -> Result<Lease> {
        lease::take(&self.space, run, None).map(|lease| self.fence.hold(lease))
    }

    /// Takes share `share` of `of` (counted from 0): other shares may run beside it, the same
    /// share and a whole run may not.
    ///
    /// # Errors
    /// As [`Output::lock`].
    pub fn lock_share(&self, run: &str, share: u32, of: u32) -> Result<Lease> {
        let lease = lease::take(&self.space, run, Some((share, of)))?;
        Ok(self.fence.hold(lease))
    }

    /// The folder of one stage.
    #[must_use]
    pub fn stage(&self, id: &str) -> StageDir {
        StageDir::new(self.clone(), id)
    }

    /// Stages that have committed a unit, by name; the scores of a judge count as a stage.
    ///
    /// # Errors
    /// When the output cannot be listed.
    pub fn stages(&self) -> Result<Vec<String>> {
        let mut stages = Vec::new();
        for folder in self.space.folders("")? {
            if folder != HOUSE && self.space.has_folder(&format!("{folder}/{COMMITS}"))? {
                stages.push(folder);
            }
        }
        stages.sort();
        Ok(stages)
    }

    /// The name of something in a local folder that no run of ours has put there, if nothing in it
    /// says that it is an output; `marker` is a file that every run writes. A bucket is not looked
    /// through.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn foreign(&self, marker: &str) -> Result<Option<String>> {
        let Some(root) = self.space.local_root() else { return Ok(None) };
        if self.get(marker)?.is_some() {
            return Ok(None);
        }
        let trouble = |error| disk_error(root.display(), "cannot list", error);
        for entry in std::fs::read_dir(root).map_err(trouble)? {
            let name = entry.map_err(trouble)?.file_name().to_string_lossy().into_owned();
            if name != HOUSE {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// The address it was opened with.
    #[must_use]
    pub fn url(&self) -> &str {
        self.space.url()
    }

    /// The path or URL of a file, for messages and other programs.
    #[must_use]
    pub fn locate(&self, name: &str) -> String {
        self.space.locate(name)
    }

    /// Writes a small file outside of units (resolved recipe, report): whole or not at all, over
    /// whatever is there.
    ///
    /// # Errors
    /// When the store refused, or [`stage::Kind::Conflict`] when another run took the output over.
    pub fn put(&self, name: &str, bytes: Bytes) -> Result<()> {
        check_path("file", name)?;
        fail::point("output.before_put")
            .map_err(|error| disk_error(self.locate(name), "cannot write", error))?;
        self.check_lease()?;
        self.space.replace(name, bytes)
    }

    /// Reads a small file; `None` if there is none.
    pub fn get(&self, name: &str) -> Result<Option<Bytes>> {
        check_path("file", name)?;
        self.space.read(name)
    }

    /// Fails when a lease that was taken through this output is lost: what comes next would change
    /// what belongs to another run. Commits ask for it by themselves.
    ///
    /// # Errors
    /// [`stage::Kind::Conflict`] when it is lost; that of the store when it may be and cannot be
    /// renewed.
    pub fn check_lease(&self) -> Result<()> {
        self.fence.check()
    }

    /// Two create-only puts of one name must give one winner.
    fn probe(&self) -> Result<()> {
        fail::point("output.before_probe")
            .map_err(|error| disk_error(self.url(), "cannot probe", error))?;
        let name = format!("{HOUSE}/probe/{}", nonce());
        let first = self.space.create(&name, Bytes::from_static(b"first"));
        let first = first.map_err(|error| match self.space.local_root() {
            Some(_) if error.hint_text().is_none() => {
                error.hint("choose an output on a file system with hard links (ext4, xfs, NFS)")
            }
            _ => error,
        })?;
        let second = self.space.create(&name, Bytes::from_static(b"second"))?;
        let kept = self.space.read(&name)?;
        self.space.remove(&name)?;
        if first && !second && kept.as_deref() == Some(b"first") {
            return Ok(());
        }
        Err(Error::store(
            "this store ignores create-only puts, so two runs could overwrite each other",
        )
        .at(self.url())
        .hint("use a store that honours `If-None-Match: *`, or a local folder"))
    }
}

/// FNV-1a, to give each remote output its own folder in the cache.
fn short_hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
