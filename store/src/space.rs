//! What the commit protocol needs of a place: the same few verbs on a disk and on a bucket.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::time::SystemTime;

use bytes::Bytes;
use stage::Result;

use crate::Blob;

/// Most bytes of a file that is read whole into memory: records, recipes, reports.
pub(crate) const MAX_SMALL: u64 = 256 << 20;

/// One file of a listing.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Path relative to the listed folder.
    pub(crate) name: String,
    /// When the place last saw it written, by the place's own clock.
    pub(crate) modified: SystemTime,
}

/// A place that holds files under relative names. What a method has returned is durable.
pub(crate) trait Space: Send + Sync + fmt::Debug {
    fn url(&self) -> &str;
    /// The path or URL of a name.
    fn locate(&self, name: &str) -> String;
    /// The folder on this machine, if the place is one.
    fn local_root(&self) -> Option<&Path>;

    fn read(&self, name: &str) -> Result<Option<Bytes>>;
    fn read_many(&self, names: Vec<String>) -> Result<Vec<Option<Bytes>>>;
    fn size(&self, name: &str) -> Result<Option<u64>>;
    /// Bytes of those `names` below `folder` that exist.
    fn sizes(&self, folder: &str, names: &BTreeSet<String>) -> Result<BTreeMap<String, u64>>;
    /// Files directly in a folder, sorted; empty if there is no such folder.
    fn files(&self, folder: &str) -> Result<Vec<Entry>>;
    /// Folders directly in a folder, sorted.
    fn folders(&self, folder: &str) -> Result<Vec<String>>;
    fn has_folder(&self, folder: &str) -> Result<bool>;
    /// The latest change of anything below a folder.
    fn newest(&self, folder: &str) -> Result<Option<SystemTime>>;

    /// Create-only put: of several puts of one name one wins, the others get `false`.
    fn create(&self, name: &str, bytes: Bytes) -> Result<bool>;
    /// Whole-file put over whatever is there.
    fn replace(&self, name: &str, bytes: Bytes) -> Result<()>;
    /// Moves a local file here (remote places only).
    fn upload(&self, name: &str, path: &Path) -> Result<()>;
    /// Gives a file its final name; `false` if there is no such file.
    fn publish(&self, from: &str, to: &str) -> Result<bool>;
    /// Makes the names in a folder durable.
    fn settle(&self, folder: &str) -> Result<()>;
    /// Removes a file, if it exists.
    fn remove(&self, name: &str) -> Result<()>;
    /// Removes a folder with everything in it, if it exists.
    fn remove_tree(&self, folder: &str) -> Result<()>;

    fn blob(&self, name: &str) -> Result<Blob>;
}

/// The folder part of a name; empty for a name at the root.
pub(crate) fn folder_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}
