//! The index beside shards: where every member lies and what its bytes hash to, and the list of
//! shards that `wids` reads.
//!
//! Source of the list: `webdataset` 0.2.111, `wids/wids_index.py` (`wids-shard-index-v1`); later
//! versions of webdataset come without wids.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::builder::{StringBuilder, UInt64Builder};
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use stage::{Context, Error, Result, ResultExt, in_parallel};
use store::parquet::{Compression, File, Layout, Pick, RowGroups, Writer};
use store::{Attempt, Blob};

use crate::tar_header::{BLOCK, Kind, MAX_MEMBER, decode};
use crate::tar_name::{base_name, check_read, split_name};
use crate::tar_read::{TarReader, index_whole};
use crate::tar_walk::Member;

/// The stage of an output that an index is.
pub const INDEX_STAGE: &str = "index";
/// Its table of members: `shard`, `key` (null where a name belongs to no sample), `name`, `offset`
/// of the data, `size` in bytes, `sha256` in hex; one row group a shard.
pub const MEMBERS: &str = "members.parquet";
/// Its list of shards, as `wids` names it.
pub const SHARD_LIST: &str = "shardindex.json";

/// Most bytes of a list of shards.
const MAX_LIST: u64 = 256 << 20;

/// What an index holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IndexSummary {
    /// Tars.
    pub shards: u64,
    /// Samples as wids counts them: runs of members with one key.
    pub samples: u64,
    /// Members, those of no sample included.
    pub members: u64,
    /// Length of all tars.
    pub bytes: u64,
}

/// A shard as `wids` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedShard {
    /// Where it lies, relative to the list or absolute.
    pub url: String,
    /// Hex md5 of the tar.
    pub md5sum: String,
    /// Runs of members with one key.
    pub nsamples: u64,
    /// Length of the tar.
    pub filesize: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct List {
    #[serde(rename = "__kind__")]
    kind: String,
    wids_version: u32,
    shardlist: Vec<ListedShard>,
    name: String,
}

/// Reads every byte of these tars once, and writes [`MEMBERS`] and [`SHARD_LIST`] into an attempt.
/// Each tar is given as it is opened and as the index shall name it. The bytes are the same at any
/// number of threads.
///
/// # Errors
/// When a tar cannot be read whole, or the output fails.
pub fn write_index(
    cx: &Context,
    name: &str,
    shards: &[(String, String)],
    out: &mut Attempt,
) -> Result<IndexSummary> {
    let layout = Layout { row_groups: RowGroups::ByHand, compression: Compression::Zstd };
    let mut table = Writer::new(out.file(MEMBERS)?, &schema(), &layout)?;
    let mut shardlist = Vec::new();
    let mut summary = IndexSummary::default();
    for some in shards.chunks(cx.threads.max(1)) {
        let rows = in_parallel(cx.threads, some.len(), |i| {
            cx.cancel.check()?;
            read(&some[i].0, &some[i].1)
        })?;
        for (batch, listed) in rows {
            table.write(&batch)?;
            table.cut()?;
            summary.shards += 1;
            summary.samples += listed.nsamples;
            summary.members += batch.num_rows() as u64;
            summary.bytes += listed.filesize;
            shardlist.push(listed);
        }
        cx.progress.update(summary.shards, shards.len() as u64, "shards");
    }
    table.finish()?.finish()?;
    let list = List {
        kind: "wids-shard-index-v1".to_owned(),
        wids_version: 1,
        shardlist,
        name: name.to_owned(),
    };
    let mut json = serde_json::to_vec_pretty(&list).internal("cannot write json")?;
    json.push(b'\n');
    out.put(SHARD_LIST, &json)?;
    Ok(summary)
}

/// The indexes beside tars that are read over a network, each opened once: the headers of such a tar
/// cost a pass over all of it, its rows of an index three small requests.
#[derive(Debug, Default)]
pub struct Indexes(Mutex<HashMap<String, Option<Arc<FolderIndex>>>>);

impl Indexes {
    /// All regular files of a tar, in order: from `index/` in its folder where that lists a tar of
    /// this name and length whose last header says the same, else from its headers. The second
    /// value says where a truncated archive was cut.
    ///
    /// # Errors
    /// As [`crate::index_whole`], and for an index that contradicts itself.
    pub fn members(&self, tar: &Blob) -> Result<(Vec<Member>, Option<Error>)> {
        if tar.is_remote()
            && let Some(index) = self.beside(tar)
            && let Some(members) = index.members(tar)?
        {
            return Ok((members, None));
        }
        index_whole(tar)
    }

    fn beside(&self, tar: &Blob) -> Option<Arc<FolderIndex>> {
        let folder = tar.name().strip_suffix(base_name(tar.name()))?.to_owned();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = || FolderIndex::open(&folder).ok().map(Arc::new);
        known.entry(folder.clone()).or_insert_with(open).clone()
    }
}

#[derive(Debug)]
struct FolderIndex {
    listed: Vec<ListedShard>,
    table: File,
}

impl FolderIndex {
    fn open(folder: &str) -> Result<Self> {
        let open = |name: &str| Blob::open(&format!("{folder}{INDEX_STAGE}/{name}"));
        let listed = read_shard_list(&open(SHARD_LIST)?)?;
        Ok(Self { listed, table: File::open(&open(MEMBERS)?)? })
    }

    /// The members of a tar, if the index lists one of its name and length.
    fn members(&self, tar: &Blob) -> Result<Option<Vec<Member>>> {
        let url = format!("../{}", base_name(tar.name()));
        let same = |shard: &ListedShard| shard.url == url && shard.filesize == tar.len();
        let Some(group) = self.listed.iter().position(same) else { return Ok(None) };
        let broken = || {
            Error::input("the index contradicts itself")
                .at(tar.name())
                .hint("make it again with `clipmill index`, or remove it")
        };
        if group >= self.table.metadata().num_row_groups() {
            return Err(broken());
        }
        let columns = ["shard", "name", "offset", "size"];
        let pick = Pick { columns: Some(&columns), row_groups: Some(&[group]), ..Pick::default() };
        let mut members = Vec::new();
        for batch in self.table.batches(&pick)? {
            let batch = batch?;
            let text = |name| batch.column_by_name(name).and_then(|c| c.as_string_opt::<i32>());
            let number =
                |name| batch.column_by_name(name).and_then(|c| c.as_primitive_opt::<UInt64Type>());
            let (Some(shard), Some(name)) = (text("shard"), text("name")) else {
                return Err(broken());
            };
            let (Some(offset), Some(size)) = (number("offset"), number("size")) else {
                return Err(broken());
            };
            for row in 0..batch.num_rows() {
                let (offset, len) = (offset.value(row), size.value(row));
                let end = offset.checked_add(len).filter(|&end| end <= tar.len());
                let name = check_read(name.value(row).as_bytes()).map_err(|_| broken())?;
                if end.is_none() || len > MAX_MEMBER || shard.value(row) != url {
                    return Err(broken());
                }
                members.push(Member { name, offset, len });
            }
        }
        Ok(is_there(tar, members.last())?.then_some(members))
    }
}

/// Whether the last member's header is where the index has it. A tar that was written anew may have
/// its old length, but hardly its old layout.
fn is_there(tar: &Blob, last: Option<&Member>) -> Result<bool> {
    let Some(last) = last else { return Ok(true) };
    let Some(at) = last.offset.checked_sub(BLOCK as u64) else { return Ok(false) };
    let bytes = tar.read_at(at, BLOCK)?;
    let Some(Ok(Some(header))) = bytes.first_chunk().map(decode) else { return Ok(false) };
    // A long name stands in front of the header, which has only its beginning.
    let named = last.name.len() > 100 || check_read(&header.name).as_ref() == Ok(&last.name);
    Ok(named && header.kind == Kind::File && header.size == last.len)
}

/// The shards that an index lists.
///
/// # Errors
/// When the list cannot be read.
pub fn read_shard_list(list: &Blob) -> Result<Vec<ListedShard>> {
    if list.len() > MAX_LIST {
        return Err(Error::input(format!("{} bytes are no list of shards", list.len())));
    }
    let list: List = serde_json::from_slice(&list.read_all()?)
        .map_err(|e| Error::input("not a list of shards").because(e).at(list.name()))?;
    Ok(list.shardlist)
}

fn schema() -> Schema {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    let number = |name: &str| Field::new(name, DataType::UInt64, false);
    Schema::new(vec![
        text("shard", false),
        text("key", true),
        text("name", false),
        number("offset"),
        number("size"),
        text("sha256", false),
    ])
}

/// The rows of one tar, and its line in the list.
fn read(open: &str, url: &str) -> Result<(RecordBatch, ListedShard)> {
    let blob = Blob::open(open)?;
    let mut input = Hashing { input: blob.reader(), md5: Md5::new() };
    let [mut shard, mut key, mut name, mut sha256] = [(); 4].map(|()| StringBuilder::new());
    let [mut offset, mut size] = [(); 2].map(|()| UInt64Builder::new());
    let mut samples = Runs::default();
    for entry in TarReader::new(open, &mut input) {
        let (member, data) = entry?;
        samples.push(&member.name);
        shard.append_value(url);
        key.append_option(split_name(&member.name).map(|(key, _)| key));
        offset.append_value(member.offset);
        size.append_value(member.len);
        sha256.append_value(format!("{:x}", Sha256::digest(&data)));
        name.append_value(member.name);
    }
    // What stands behind the end of the archive is part of the file's hash, too.
    io::copy(&mut input, &mut io::sink()).input("cannot read tar").map_err(|e| e.at(open))?;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(shard.finish()),
        Arc::new(key.finish()),
        Arc::new(name.finish()),
        Arc::new(offset.finish()),
        Arc::new(size.finish()),
        Arc::new(sha256.finish()),
    ];
    let batch = RecordBatch::try_new(Arc::new(schema()), columns).internal("members")?;
    let listed = ListedShard {
        url: url.to_owned(),
        md5sum: format!("{:x}", input.md5.finalize()),
        nsamples: samples.count,
        filesize: blob.len(),
    };
    Ok((batch, listed))
}

struct Hashing {
    input: Box<dyn Read + Send>,
    md5: Md5,
}

impl Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buffer)?;
        self.md5.update(&buffer[..n]);
        Ok(n)
    }
}

/// Counts samples as wids does: names with a dot, by runs of what stands before the first dot of
/// the last part that has one.
#[derive(Default)]
struct Runs {
    count: u64,
    last: Option<String>,
}

impl Runs {
    fn push(&mut self, name: &str) {
        let Some(last_dot) = name.rfind('.') else { return };
        let part = name[..last_dot].rfind('/').map_or(0, |slash| slash + 1);
        let end = name[part..].find('.').map_or(last_dot, |dot| part + dot);
        let key = &name[..end];
        if self.last.as_deref() != Some(key) {
            self.count += 1;
            self.last = Some(key.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_counted_by_runs_of_the_name_before_its_first_dot() {
        let count = |names: &[&str]| {
            let mut runs = Runs::default();
            names.iter().for_each(|name| runs.push(name));
            runs.count
        };
        assert_eq!(count(&["0.jpg", "0.txt", "1.jpg", "0.json"]), 3);
        assert_eq!(count(&["a/0.x.jpg", "a/0.txt", "b/0.txt", "README"]), 2);
        assert_eq!(count(&["a.b/c", "a.d/e"]), 1);
    }
}
