//! `manifest.json`: what a release holds and where it comes from.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use stage::{Counts, Error, Result, ResultExt};
use store::{Blob, StageDir};

use super::merkle::merkle_root;
use super::{ReleasePlan, Summary};

/// The first field of every manifest.
pub(crate) const FORMAT: &str = "clipmill-release-1";
/// Its name.
pub(crate) const MANIFEST: &str = "manifest.json";
/// The list for `sha256sum -c`.
pub(crate) const SUMS: &str = "SHA256SUMS";
/// Largest manifest that is read, bytes: some 500,000 files.
const MAX_BYTES: u64 = 128 << 20;

/// What a release holds and where it comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// `clipmill-release-1`.
    pub format: String,
    /// Id of the stage that made the first version.
    pub name: String,
    /// Version, from 1; each purge makes the next.
    pub version: u32,
    /// The version before, of which this one lacks pairs.
    pub parent: Option<Parent>,
    /// The Merkle root over `files` ([`merkle_root`]).
    pub merkle_root: String,
    /// Pairs.
    pub samples: u64,
    /// Uids that several pairs have: copies that a subset asks for.
    pub repeated_uids: u64,
    /// Bytes of `files`.
    pub bytes: u64,
    /// What became of the samples that entered this version: kept, and dropped by reason.
    pub counts: Counts,
    /// The stages behind it, sources first.
    pub lineage: Vec<StageRecord>,
    /// Columns of the metadata and their Arrow types.
    pub columns: BTreeMap<String, String>,
    /// Each numeric score: how it is distributed.
    pub scores: BTreeMap<String, Summary>,
    /// What the hub's limits say; empty where nothing breaks them.
    pub hub: Vec<String>,
    /// The plan.
    pub plan: ReleasePlan,
    /// Every file but `manifest.json` and `SHA256SUMS`, by path.
    pub files: Vec<ReleaseFile>,
}

/// The version before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// Its number.
    pub version: u32,
    /// Its Merkle root.
    pub merkle_root: String,
}

/// One file of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseFile {
    /// Path in the release's folder.
    pub path: String,
    /// Length.
    pub bytes: u64,
    /// Hex sha256.
    pub sha256: String,
    /// Pairs in it, of shards and metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<u64>,
}

/// One stage of the lineage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageRecord {
    /// Its id.
    pub id: String,
    /// Its kind.
    pub kind: String,
    /// Hash of everything that changed its bytes.
    pub key: String,
    /// What became of its samples.
    pub counts: Counts,
    /// Ids of the stages that it took.
    #[serde(default)]
    pub inputs: Vec<String>,
    /// Ids of the stages that its plan names, such as a scorer.
    #[serde(default)]
    pub references: Vec<String>,
    /// What the key is the hash of: seed, plan without paths and thread counts, keys of the inputs,
    /// name, size and sha256 of files that no stage made.
    pub identity: Value,
}

impl Manifest {
    /// Reads the manifest of a release and holds it against itself: format, paths, hashes, root, sums,
    /// plan.
    ///
    /// # Errors
    /// When there is none, or it contradicts itself.
    pub fn read(dir: &StageDir) -> Result<Self> {
        let place = dir.locate(MANIFEST);
        let blob = dir.blob(MANIFEST).map_err(|_| {
            Error::input("no manifest.json here")
                .at(dir.locate(""))
                .hint("name the folder of a release: that of a `release` stage, or a version of it")
        })?;
        Self::parse(&blob).map_err(|error| error.at(place))
    }

    /// As [`Manifest::read`], of one file.
    ///
    /// # Errors
    /// When it is none, or contradicts itself.
    pub fn parse(blob: &Blob) -> Result<Self> {
        if blob.len() > MAX_BYTES {
            let message = format!("{} bytes are no manifest, at most {MAX_BYTES} are", blob.len());
            return Err(Error::input(message));
        }
        let manifest: Self =
            serde_json::from_slice(&blob.read_all()?).input("not a release's manifest")?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<()> {
        let broken = |what: String| {
            Err(Error::input(what).hint("fetch the release again; the manifest was changed"))
        };
        if self.format != FORMAT {
            return broken(format!("format `{}`, expected `{FORMAT}`", self.format));
        }
        let mut paths = BTreeSet::new();
        for file in &self.files {
            if !is_plain(&file.path) {
                return broken(format!("the path {:?} leaves the release", file.path));
            }
            if !paths.insert(&file.path) {
                return broken(format!("{} stands there twice", file.path));
            }
            // Of another length a leaf of the tree could be read as that of another file.
            let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            if file.sha256.len() != 64 || !file.sha256.bytes().all(digit) {
                return broken(format!("{}: {:?} is no sha256", file.path, file.sha256));
            }
        }
        let lacks = |shard: &&ReleaseFile| {
            let unit = shard.path.strip_prefix("shards/").map(|name| name.strip_suffix(".tar"));
            unit.is_some_and(|unit| unit.is_none_or(|unit| !paths.contains(&metadata_name(unit))))
        };
        if let Some(shard) = self.files.iter().find(lacks) {
            return broken(format!(
                "{} has no metadata: nobody could say what is in it",
                shard.path
            ));
        }
        self.plan.validate().or_else(|error| broken(format!("its plan: {error}")))?;
        let root = merkle_root(&self.files);
        if root != self.merkle_root {
            return broken(format!("the Merkle root of its files is {root}, not the one it says"));
        }
        // In numbers that cannot overflow: these come from outside.
        let wide = |n: &u64| u128::from(*n);
        let reasons = self.counts.dropped.values().chain(self.counts.failed.values());
        let out = wide(&self.counts.kept) + reasons.map(wide).sum::<u128>();
        if out != wide(&self.counts.entered) {
            return broken(format!("{} samples entered, {out} came out", self.counts.entered));
        }
        Ok(())
    }

    /// The manifest's bytes.
    ///
    /// # Errors
    /// An internal error when it cannot be written as JSON.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self).internal("cannot write the manifest")?;
        text.push(b'\n');
        Ok(text)
    }

    /// The file at this path.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&ReleaseFile> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Names of units: what the metadata files are called, without folder and ending.
    #[must_use]
    pub fn units(&self) -> Vec<String> {
        self.files.iter().filter_map(|file| unit_of(&file.path)).map(str::to_owned).collect()
    }
}

/// `00000` of `metadata/00000.parquet`.
pub(crate) fn unit_of(path: &str) -> Option<&str> {
    path.strip_prefix("metadata/")?.strip_suffix(".parquet")
}

/// `metadata/00000.parquet`.
pub(crate) fn metadata_name(unit: &str) -> String {
    format!("metadata/{unit}.parquet")
}

/// `shards/00000.tar`.
pub(crate) fn shard_name(unit: &str) -> String {
    format!("shards/{unit}.tar")
}

/// A relative path that stays in its folder, of names that every store takes as they are; units are
/// single names.
fn is_plain(path: &str) -> bool {
    let odd = |c: char| c.is_control() || r#"\{}^%`[]"<>~#|*?"#.contains(c);
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.len() <= 200;
    path.split('/').all(part)
        && !path.contains(odd)
        && unit_of(path).is_none_or(|unit| !unit.contains('/'))
}

/// `SHA256SUMS` of these files and the manifest, by path.
pub(crate) fn sums(files: &[ReleaseFile], manifest_sha256: &str) -> String {
    let mut lines: Vec<(&str, &str)> =
        files.iter().map(|file| (file.path.as_str(), file.sha256.as_str())).collect();
    lines.push((MANIFEST, manifest_sha256));
    lines.sort_unstable();
    let mut text = String::new();
    for (path, sha256) in lines {
        text.push_str(&format!("{sha256}  {path}\n"));
    }
    text
}
