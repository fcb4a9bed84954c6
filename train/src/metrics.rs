//! `metrics.jsonl`: one line a step, no clock in it, so that equal trainings write equal bytes.
//!
//! The file lies in the work folder and only grows. A saved state remembers how much of it belongs
//! to its steps; going on from that state cuts the rest off.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::Serialize;
use sha2::{Digest, Sha256};
use stage::{Error, Result, ResultExt};

use crate::state::{Cursor, hex};
use crate::trainer::Step;

pub(crate) const FILE: &str = "metrics.jsonl";

/// The open file with the hash of what it holds.
pub(crate) struct Metrics {
    file: File,
    bytes: u64,
    sha256: Sha256,
}

#[derive(Serialize)]
struct Row<'a> {
    step: u64,
    /// Null when not finite.
    loss: f32,
    lr: f64,
    logit_scale: f32,
    /// Before clipping. Null when not finite.
    grad_norm: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<&'static str>,
    /// The samples of a skipped step.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    uids: Vec<&'a str>,
}

impl Metrics {
    /// Starts at the cursor: what the file holds beyond it is cut off.
    pub(crate) fn open(dir: &Path, cursor: &Cursor) -> Result<Self> {
        let path = dir.join(FILE);
        let open = || {
            let mut options = OpenOptions::new();
            let mut file =
                options.read(true).write(true).create(true).truncate(false).open(&path)?;
            file.set_len(cursor.metrics_bytes)?;
            let mut sha256 = Sha256::new();
            std::io::copy(&mut file, &mut sha256)?;
            file.seek(SeekFrom::End(0))?;
            Ok::<_, std::io::Error>(Self { file, bytes: cursor.metrics_bytes, sha256 })
        };
        open().store(format!("cannot open {}", path.display()))
    }

    /// Whether the file still starts with what the cursor remembers.
    pub(crate) fn check(dir: &Path, cursor: &Cursor) -> Result<()> {
        let mut sha256 = Sha256::new();
        let file = File::open(dir.join(FILE)).input(format!("cannot open {FILE}"))?;
        let read = std::io::copy(&mut file.take(cursor.metrics_bytes), &mut sha256)
            .input(format!("cannot read {FILE}"))?;
        if read == cursor.metrics_bytes && hex(sha256) == cursor.metrics_sha256 {
            return Ok(());
        }
        Err(Error::input(format!("{FILE} is not the one that belongs to it")))
    }

    /// Appends one step; a skipped one with the names of its samples.
    pub(crate) fn push<'a>(
        &mut self,
        number: u64,
        step: &Step,
        uids: impl Iterator<Item = &'a str>,
    ) -> Result<()> {
        let row = Row {
            step: number,
            loss: step.loss,
            lr: step.lr,
            logit_scale: step.logit_scale,
            grad_norm: step.grad_norm,
            skipped: step.skipped,
            uids: if step.skipped.is_some() { uids.collect() } else { Vec::new() },
        };
        let mut line = serde_json::to_vec(&row).internal("metrics row")?;
        line.push(b'\n');
        self.file.write_all(&line).store(format!("cannot append to {FILE}"))?;
        self.bytes += line.len() as u64;
        self.sha256.update(&line);
        Ok(())
    }

    /// Writes how far the file goes into the cursor, once the bytes are on the disk.
    pub(crate) fn mark(&mut self, cursor: &mut Cursor) -> Result<()> {
        self.file.sync_all().store(format!("cannot sync {FILE}"))?;
        cursor.metrics_bytes = self.bytes;
        cursor.metrics_sha256 = hex(self.sha256.clone());
        Ok(())
    }
}
