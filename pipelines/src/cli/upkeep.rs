//! Commands that look after an output: `verify` reads every byte again, `gc` removes what killed
//! processes left.

use std::time::Duration;

use clap::ArgMatches;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use stage::{Error, Result};
use store::{Blob, Commit, StageDir};

use super::{Output, text_of};
use crate::run::FINISHED;

/// Faults that are named one by one; the rest is counted.
const NAMED: usize = 20;

pub(crate) fn verify(args: &ArgMatches) -> Result<Output> {
    let url = text_of(args, "output")?;
    let output = store::Output::open_existing(&url)?;
    let ids = output.stages()?;
    if ids.is_empty() {
        return Err(Error::input("no stage has committed anything here").at(&url));
    }
    let (mut found, mut text, mut stages) = (Found::default(), String::new(), Vec::new());
    for id in &ids {
        let before = found;
        let mut faults = Vec::new();
        stage(&output.stage(id), &mut found, &mut faults)?;
        let (units, files) = (found.units - before.units, found.files - before.files);
        let state = if faults.is_empty() { "whole" } else { "BROKEN" };
        text.push_str(&format!("  {id:<24} {units} units, {files} files: {state}\n"));
        for fault in faults.iter().take(NAMED) {
            text.push_str(&format!("      {fault}\n"));
        }
        stages.push(json!({"id": id, "units": units, "files": files, "faults": faults}));
        found.faults += faults.len() as u64;
    }
    let Found { units, files, bytes, faults } = found;
    if faults > 0 {
        eprint!("{text}");
        return Err(Error::store(format!("{faults} of {files} files or records are broken"))
            .at(url)
            .hint("make the stages named above again with `clipmill run RECIPE --redo ID`"));
    }
    text.push_str(&format!(
        "{units} units, {files} files, {bytes} bytes: every byte is as it was committed\n"
    ));
    Ok(Output::new(
        text,
        json!({"output": url, "units": units, "files": files, "bytes": bytes, "stages": stages}),
    ))
}

#[derive(Debug, Clone, Copy, Default)]
struct Found {
    units: u64,
    files: u64,
    bytes: u64,
    faults: u64,
}

/// Checks every committed unit of a stage.
fn stage(dir: &StageDir, found: &mut Found, faults: &mut Vec<String>) -> Result<()> {
    // Reading the records checks that their files are there in full length.
    let commits = match dir.commits() {
        Ok(commits) => commits,
        Err(error) if error.kind() == stage::Kind::Store => {
            faults.push(error.to_string());
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    for commit in commits.values() {
        found.units += u64::from(commit.unit != FINISHED);
        if let Err(error) = commit.counts.check() {
            faults.push(format!("unit {}: {error}", commit.unit));
        }
        for file in &commit.files {
            found.files += 1;
            found.bytes += file.bytes;
            let blob = match dir.blob(&file.name) {
                Ok(blob) => blob,
                Err(error) => {
                    faults.push(error.to_string());
                    continue;
                }
            };
            let hash = sha256(&blob)?;
            if hash != file.sha256 {
                faults.push(format!(
                    "{}: sha256 {hash}, committed as {}",
                    blob.name(),
                    file.sha256
                ));
            } else if let Err(error) = inside(&blob, commit, &file.name) {
                faults.push(error.to_string());
            }
        }
    }
    Ok(())
}

/// Checks that a file of a known kind can be read as such.
fn inside(blob: &Blob, commit: &Commit, name: &str) -> Result<()> {
    if name.ends_with(".tar") {
        shard::index(blob)?;
    } else if name.ends_with(".parquet") {
        let rows = store::parquet::File::open(blob)?.rows();
        // A fetched shard's parquet has a row for every link that entered.
        let fetched = commit.files.iter().any(|file| file.name.ends_with("_stats.json"));
        if fetched && rows != commit.counts.entered {
            let message = format!("{rows} rows for {} links", commit.counts.entered);
            return Err(Error::store(message).at(blob.name()));
        }
    } else if name.ends_with("subset.npy") {
        store::subset::read(blob)?;
    }
    Ok(())
}

/// As a stream: a shard may be larger than the memory.
fn sha256(blob: &Blob) -> Result<String> {
    let mut digest = Sha256::new();
    let copied = std::io::copy(&mut blob.reader(), &mut digest);
    copied.map_err(|e| Error::store("cannot be read").at(blob.name()).because(e))?;
    Ok(format!("{:x}", digest.finalize()))
}

pub(crate) fn gc(args: &ArgMatches) -> Result<Output> {
    let url = text_of(args, "output")?;
    let output = store::Output::open_existing(&url)?;
    if output.stages()?.is_empty() {
        return Err(Error::input("no run has written here").at(&url));
    }
    // Nobody may begin an attempt while orphans are told from the living.
    let _lease = output.lock("gc")?;
    let removed = match args.get_one::<u64>("older_than") {
        Some(hours) => output.gc_older_than(Duration::from_secs(hours.saturating_mul(3600)))?,
        None => output.gc()?,
    };
    let result: Value = json!({"output": url, "removed": removed});
    Ok(Output::new(format!("{removed} abandoned attempts removed from {url}"), result))
}
