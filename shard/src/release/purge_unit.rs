//! One unit of a purge: rewritten without some pairs, or taken over as it is.

use std::collections::HashSet;
use std::io::Write;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use stage::{Counts, Error, Result};
use store::parquet::{File, Pick};
use store::subset::Uid;
use store::{Attempt, Blob, StageDir, write_error};

use super::manifest::{metadata_name, shard_name};
use super::{Manifest, metadata};
use crate::tar_header::{BLOCK, padding};
use crate::tar_name::split_name;

/// Bytes that are copied at once.
const CHUNK: u64 = 4 << 20;

/// Makes a unit of the next version. `gone`: the uids to leave out; `None` where it has none of them.
pub(crate) fn unit(
    old: &StageDir,
    manifest: &Manifest,
    name: &str,
    gone: Option<&HashSet<Uid>>,
    out: &mut Attempt,
) -> Result<Counts> {
    let (rows, tar) = (metadata_name(name), shard_name(name));
    let recorded = |path: &str| {
        let missing = || Error::input("the manifest does not list it").at(path);
        manifest.file(path).ok_or_else(missing)
    };
    let before = recorded(&rows)?.samples.unwrap_or(0);
    let Some(gone) = gone else {
        for path in [Some(&rows), manifest.file(&tar).map(|_| &tar)].into_iter().flatten() {
            let (blob, record) = (old.blob(path)?, recorded(path)?);
            if blob.len() != record.bytes {
                return Err(Error::input(format!(
                    "{} bytes, the manifest says {}",
                    blob.len(),
                    record.bytes
                ))
                .at(blob.name())
                .hint("fetch the release again: a file was changed or cut off"));
            }
            out.adopt(path, &blob, &record.sha256)?;
        }
        return Ok(Counts { entered: before, kept: before, ..Counts::default() });
    };
    let blob = old.blob(&rows)?;
    let keys = keys_of(&blob, gone)?;
    let left = before.saturating_sub(keys.rows);
    if left > 0 {
        let mut file = out.file(&rows)?;
        metadata::without(&blob, gone, &mut file)?;
        file.finish()?;
        if manifest.file(&tar).is_some() {
            let mut file = out.file(&tar)?;
            copy_without(&old.blob(&tar)?, &keys.keys, &mut file)?;
            file.finish()?;
        }
    }
    let mut counts = Counts { entered: left, kept: left, ..Counts::default() };
    (0..keys.rows).for_each(|_| counts.drop("purged"));
    Ok(counts)
}

/// What is taken out of a unit.
struct Gone {
    rows: u64,
    /// Keys of the samples in the shard.
    keys: HashSet<String>,
}

fn keys_of(blob: &Blob, gone: &HashSet<Uid>) -> Result<Gone> {
    let table = File::open(blob)?;
    let has_key = table.schema().column_with_name("key").is_some();
    let columns: &[&str] = if has_key { &["uid", "key"] } else { &["uid"] };
    let mut found = Gone { rows: 0, keys: HashSet::new() };
    for batch in table.batches(&Pick { columns: Some(columns), ..Pick::default() })? {
        let batch = batch?;
        let text = |name: &str| batch.column_by_name(name).and_then(|c| c.as_string_opt::<i32>());
        let (uids, keys) = (text("uid"), text("key"));
        for row in 0..batch.num_rows() {
            let uid = uids.filter(|c| c.is_valid(row)).and_then(|c| Uid::parse(c.value(row)));
            if uid.is_some_and(|uid| gone.contains(&uid)) {
                found.rows += 1;
                if let Some(keys) = keys.filter(|c| c.is_valid(row)) {
                    found.keys.insert(keys.value(row).to_owned());
                }
            }
        }
    }
    Ok(found)
}

/// Copies a tar without the samples of these keys. What stays is copied as it lies, headers
/// included; what stands before a member's data belongs to the member.
fn copy_without(tar: &Blob, keys: &HashSet<String>, out: &mut impl Write) -> Result<()> {
    let mut from = 0;
    for member in crate::index(tar)? {
        let end = member.offset + member.len + padding(member.len);
        let gone = split_name(&member.name).is_some_and(|(key, _)| keys.contains(key));
        if !gone {
            copy(tar, from, end.min(tar.len()), out)?;
        }
        from = end;
    }
    out.write_all(&[0; 2 * BLOCK]).map_err(write_error)
}

fn copy(blob: &Blob, mut from: u64, to: u64, out: &mut impl Write) -> Result<()> {
    while from < to {
        let bytes = blob.read_at(from, (to - from).min(CHUNK) as usize)?;
        out.write_all(&bytes).map_err(write_error)?;
        from += bytes.len() as u64;
    }
    Ok(())
}
