//! One unit of a purge: rewritten without some pairs, or taken over as it is.

use std::collections::HashSet;
use std::io::Write;

use sha2::{Digest, Sha256};
use stage::{Counts, Error, Result};
use store::parquet::{File, Pick};
use store::subset::Uid;
use store::{Attempt, Blob, StageDir, write_error};

use super::manifest::{metadata_name, shard_name};
use super::text_column::{needed, text, value};
use super::{Manifest, ReleaseFile, metadata};
use crate::tar_header::{BLOCK, padding};
use crate::tar_name::split_name;

/// Bytes that are copied at once.
const CHUNK: u64 = 4 << 20;

/// Makes a unit of the next version. `gone`: the uids to leave out; `None` where it has none of them.
///
/// # Errors
/// When a file is not as the manifest says: what is rewritten would else get a new hash, damage
/// included.
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
    let (blob, record) = (old.blob(&rows)?, recorded(&rows)?);
    let before = rows_of(&blob, record)?;
    let Some(gone) = gone else {
        for path in [Some(&rows), manifest.file(&tar).map(|_| &tar)].into_iter().flatten() {
            let (blob, record) = (old.blob(path)?, recorded(path)?);
            if blob.len() != record.bytes {
                let message = format!("{} bytes, the manifest says {}", blob.len(), record.bytes);
                return Err(changed(message, &blob));
            }
            out.adopt(path, &blob, &record.sha256)?;
        }
        return Ok(Counts { entered: before, kept: before, ..Counts::default() });
    };
    check_hash(&blob.sha256()?, record, &blob)?;
    let shard = manifest.file(&tar);
    let keys = keys_of(&blob, gone, shard.is_some()).map_err(|error| error.at(blob.name()))?;
    let left = before.saturating_sub(keys.rows);
    if left > 0 {
        let mut file = out.file(&rows)?;
        metadata::without(&blob, gone, &mut file)?;
        file.finish()?;
        if let Some(record) = shard {
            let mut file = out.file(&tar)?;
            copy_without(&old.blob(&tar)?, record, &keys.keys, &mut file)?;
            file.finish()?;
        }
    }
    let mut counts = Counts { entered: left, kept: left, ..Counts::default() };
    (0..keys.rows).for_each(|_| counts.drop("purged"));
    Ok(counts)
}

/// Rows of a metadata file; no hash covers the number in the manifest.
fn rows_of(blob: &Blob, record: &ReleaseFile) -> Result<u64> {
    let rows = File::open(blob)?.rows();
    match record.samples {
        Some(said) if said != rows => {
            Err(changed(format!("{rows} rows, the manifest says {said}"), blob))
        }
        _ => Ok(rows),
    }
}

fn check_hash(found: &str, record: &ReleaseFile, blob: &Blob) -> Result<()> {
    if found == record.sha256 {
        return Ok(());
    }
    Err(changed(format!("sha256 {found}, the manifest says {}", record.sha256), blob))
}

fn changed(message: String, blob: &Blob) -> Error {
    Error::input(message)
        .at(blob.name())
        .hint("fetch the release again: a file was changed or cut off")
}

/// What is taken out of a unit.
struct Gone {
    rows: u64,
    /// Keys of the samples in the shard.
    keys: HashSet<String>,
}

fn keys_of(blob: &Blob, gone: &HashSet<Uid>, shard: bool) -> Result<Gone> {
    let table = File::open(blob)?;
    let columns: &[&str] = if shard { &["uid", "key"] } else { &["uid"] };
    let mut found = Gone { rows: 0, keys: HashSet::new() };
    let mut stay = HashSet::new();
    let mut first = 0;
    for batch in table.batches(&Pick { columns: Some(columns), ..Pick::default() })? {
        let batch = batch?;
        let (uids, keys) = (needed(&batch, "uid")?, text(&batch, "key")?);
        for row in 0..batch.num_rows() {
            let goes =
                value(&uids, row).and_then(Uid::parse).is_some_and(|uid| gone.contains(&uid));
            found.rows += u64::from(goes);
            if !shard {
                continue;
            }
            let key = keys.as_ref().and_then(|keys| value(keys, row)).ok_or_else(|| {
                Error::input(format!("row {} has no key: its members cannot be told", first + row))
            })?;
            let set = if goes { &mut found.keys } else { &mut stay };
            set.insert(key.to_owned());
        }
        first += batch.num_rows();
    }
    match found.keys.intersection(&stay).next() {
        Some(key) => Err(Error::input(format!("two pairs are called {key}: both would go"))),
        None => Ok(found),
    }
}

/// Copies a tar without the samples of these keys. What stays is copied as it lies, headers
/// included; what stands before a member's data belongs to the member. All of it is read and held
/// against the record, and each key has to be there.
fn copy_without(
    tar: &Blob,
    record: &ReleaseFile,
    keys: &HashSet<String>,
    out: &mut impl Write,
) -> Result<()> {
    let (mut from, mut hash) = (0, Sha256::new());
    let mut met: HashSet<&String> = HashSet::new();
    for member in crate::index(tar)? {
        let end = (member.offset + member.len + padding(member.len)).min(tar.len());
        let gone = split_name(&member.name).and_then(|(key, _)| keys.get(key));
        each_chunk(tar, from, end, |bytes| {
            hash.update(bytes);
            if gone.is_some() { Ok(()) } else { out.write_all(bytes).map_err(write_error) }
        })?;
        met.extend(gone);
        from = end;
    }
    each_chunk(tar, from, tar.len(), |bytes| {
        hash.update(bytes);
        Ok(())
    })?;
    check_hash(&format!("{:x}", hash.finalize()), record, tar)?;
    if let Some(key) = keys.iter().find(|key| !met.contains(key)) {
        return Err(Error::input(format!(
            "no member of the sample {key}, which the metadata names"
        ))
        .at(tar.name())
        .hint("shard and metadata are not of one release: fetch it again"));
    }
    out.write_all(&[0; 2 * BLOCK]).map_err(write_error)
}

fn each_chunk(
    blob: &Blob,
    mut from: u64,
    to: u64,
    mut take: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    while from < to {
        let bytes = blob.read_at(from, (to - from).min(CHUNK) as usize)?;
        take(&bytes)?;
        from += bytes.len() as u64;
    }
    Ok(())
}
