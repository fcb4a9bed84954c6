//! The commit record of a unit: `<stage>/_commits/<unit>.json`.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use stage::{Counts, Error, Result};

use crate::name::{check_file, check_part};

/// What a unit of a stage made. It exists exactly when the unit is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// The unit, such as `00042`.
    pub unit: String,
    /// Stage key: hash of everything that changes the bytes of the files.
    pub key: String,
    /// Version of clipmill that wrote it.
    pub code: String,
    /// Random; tells this record from any other with the same content.
    pub nonce: String,
    /// The attempt whose files these are, `<unit>.<nonce>`.
    pub attempt: String,
    /// What became of the samples that entered.
    pub counts: Counts,
    /// The files, sorted by name.
    pub files: Vec<FileRecord>,
    /// Clock values and whatever the stage wants to tell the report; never part of a key.
    pub info: serde_json::Value,
}

/// One file of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Path relative to the stage's folder.
    pub name: String,
    /// Length.
    pub bytes: u64,
    /// Hex sha256 of the content.
    pub sha256: String,
}

impl Commit {
    pub(crate) fn to_bytes(&self) -> Result<Bytes> {
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::internal("cannot write the commit record").because(error))?;
        text.push(b'\n');
        Ok(text.into())
    }

    /// Reads a record and checks its names: an output may come from strangers.
    pub(crate) fn from_bytes(unit: &str, bytes: &[u8], place: &str) -> Result<Self> {
        let broken = |why: String| {
            Error::store(format!("broken commit record: {why}"))
                .at(place)
                .hint("remove this file to make the unit again")
        };
        let commit: Self = serde_json::from_slice(bytes).map_err(|e| broken(e.to_string()))?;
        if commit.unit != unit {
            return Err(broken(format!("it is of unit `{}`", commit.unit)));
        }
        check_part("attempt", &commit.attempt).map_err(|e| broken(e.to_string()))?;
        for file in &commit.files {
            check_file(&file.name).map_err(|e| broken(e.to_string()))?;
        }
        Ok(commit)
    }
}
