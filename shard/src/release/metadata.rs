//! The rows of a unit: its shard's pairs with their scores, or judged pairs as they lie.

use std::collections::HashSet;
use std::io::Write;
use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray, UInt32Array};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use arrow_select::take::take;
use sha2::{Digest, Sha256};
use stage::{Context, Counts, Error, Result, ResultExt};
use store::parquet::{File, Layout, Writer};
use store::subset::Uid;
use store::{Attempt, Blob, FileRecord};

use super::manifest::{metadata_name, shard_name};
use super::score_table::{ScoreTable, score_fields};
use crate::shards::Shards;

/// Endings of members that some reader may run: no release carries one.
const RUNS: [&str; 9] = ["pkl", "pickle", "pyd", "pth", "pt", "joblib", "dill", "marshal", "so"];

/// Pairs read at once; any number gives the same bytes.
const BATCH: usize = 256;

/// Copies the shard of a unit: a second name of the same bytes where the disk allows it, when a
/// commit record says their sha256.
///
/// # Errors
/// When the shard cannot be read, or the output refuses.
pub fn copy_shard(
    unit: &str,
    tar: &Blob,
    record: Option<&FileRecord>,
    out: &mut Attempt,
) -> Result<()> {
    let name = shard_name(unit);
    match record {
        Some(record) => out.adopt(&name, tar, &record.sha256),
        None => {
            let mut file = out.file(&name)?;
            std::io::copy(&mut tar.reader(), &mut file)
                .map_err(|e| Error::input("cannot copy the shard").because(e).at(tar.name()))?;
            file.finish()
        }
    }
}

/// Columns of a release's metadata before the scores; `key` and `shard` where shards are released.
fn own_fields(shards: bool, images: bool) -> Vec<Arc<Field>> {
    let mut fields =
        vec![("uid", DataType::Utf8), ("url", DataType::Utf8), ("text", DataType::Utf8)];
    if shards {
        fields.extend([("shard", DataType::Utf8), ("key", DataType::Utf8)]);
    }
    for name in ["width", "height", "original_width", "original_height"] {
        fields.push((name, DataType::Int32));
    }
    fields.push(("sha256", DataType::Utf8));
    if images {
        fields.push(("image_sha256", DataType::Utf8));
    }
    fields.into_iter().map(|(name, kind)| Arc::new(Field::new(name, kind, true))).collect()
}

/// Writes `metadata/<unit>.parquet` from the pairs of a shard and their scores.
///
/// `sha256` is the json's, of the bytes as downloaded; `image_sha256` that of the picture in the
/// shard, which is read for it.
///
/// # Errors
/// When the shard cannot be read whole, or holds a member that a reader might run.
pub fn rows_of_shard(
    cx: &Context,
    unit: &str,
    tar: &Blob,
    scores: &ScoreTable,
    with_shard: bool,
    out: &mut Attempt,
) -> Result<Counts> {
    let members = check_members(tar)?;
    let shards = Shards::from_blobs(std::slice::from_ref(tar), crate::Truncated::Refuse)?;
    if with_shard {
        check_samples(&shards, members).map_err(|e| e.at(format!("shard {}", tar.name())))?;
    }
    let mut fields = own_fields(with_shard, true);
    fields.extend(scores.fields().iter().cloned());
    let schema = Arc::new(Schema::new(fields));
    let mut file = out.file(&metadata_name(unit))?;
    let mut writer = Writer::new(&mut file, &schema, &Layout::default())?;
    let mut counts = Counts::default();
    for _ in 0..shards.without_picture() {
        counts.drop("no_picture");
    }
    for pairs in shards.pairs(BATCH) {
        cx.cancel.check()?;
        let pairs = pairs?;
        let hashes: StringArray = (0..pairs.len())
            .map(|i| pairs.image(i).map(|bytes| format!("{:x}", Sha256::digest(bytes))))
            .collect();
        let uids: Vec<Option<Uid>> =
            (0..pairs.len()).map(|i| Uid::parse(pairs.uids().value(i))).collect();
        let column = |name: &str| -> ArrayRef { Arc::new(pairs.text(name).clone()) };
        let int = |name: &str| -> ArrayRef { Arc::new(pairs.int(name).clone()) };
        let mut columns = vec![column("uid"), column("url"), column("caption")];
        if with_shard {
            let mut name = StringBuilder::new();
            (0..pairs.len()).for_each(|_| name.append_value(unit));
            columns.extend([Arc::new(name.finish()) as ArrayRef, column("key")]);
        }
        columns.extend(["width", "height", "original_width", "original_height"].map(int));
        columns.extend([column("sha256"), Arc::new(hashes) as ArrayRef]);
        columns.extend(scores.columns(&uids)?);
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns).internal("metadata")?;
        writer.write(&batch)?;
        (0..pairs.len()).for_each(|_| counts.keep());
    }
    writer.finish()?;
    file.finish()?;
    Ok(counts)
}

/// What is released is what the metadata says: a member that belongs to no pair, or a name that two
/// pairs have, could not be taken out again.
fn check_samples(shards: &Shards, members: usize) -> Result<()> {
    let rows = || (0..shards.tar_count()).flat_map(|tar| shards.tar_range(tar));
    let of_pairs: usize = rows().map(|row| shards.row(row).parts.len()).sum();
    let mut keys = HashSet::new();
    let twice = rows().map(|row| &*shards.row(row).key).find(|key| !keys.insert(*key));
    let message = match twice {
        Some(key) => format!("two pairs are called {key}"),
        None if of_pairs < members => {
            format!("{} members belong to no picture", members - of_pairs)
        }
        None => return Ok(()),
    };
    Err(Error::input(message)
        .hint("put a `reshard` stage before the release: it writes whole pairs alone"))
}

/// The number of members.
fn check_members(tar: &Blob) -> Result<usize> {
    let members = crate::index(tar)?;
    for member in &members {
        let ending = member.name.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
        if RUNS.contains(&ending.as_str()) {
            return Err(Error::input(format!("`.{ending}` may be run by whoever reads it"))
                .at(format!("member {}", member.name))
                .at(format!("shard {}", tar.name()))
                .hint("release shards of pictures, txt and json"));
        }
    }
    Ok(members.len())
}

/// Writes `metadata/<unit>.parquet` from judged pairs: those of the subset (sorted), or, without
/// one, those with a picture and no reason against them.
///
/// # Errors
/// When the file cannot be read or lacks a column.
pub fn rows_of_scores(
    cx: &Context,
    unit: &str,
    judged: &Blob,
    subset: Option<&[Uid]>,
    out: &mut Attempt,
) -> Result<Counts> {
    let table = File::open(judged)?;
    let lacks = |name: &str| {
        Error::input(format!("no column `{name}`")).at(judged.name()).hint(
            "release metadata that has uid and url: that of a judge stage, or DataComp's pool",
        )
    };
    let schema_in = table.schema();
    let text = ["caption", "text"]
        .into_iter()
        .find(|name| schema_in.column_with_name(name).is_some())
        .ok_or_else(|| lacks("text"))?;
    // Columns that the file lacks are left out, but for these.
    for name in ["uid", "url"] {
        schema_in.column_with_name(name).ok_or_else(|| lacks(name))?;
    }
    let from = |name: &str| if name == "text" { text.to_owned() } else { name.to_owned() };
    let mut fields: Vec<Arc<Field>> = own_fields(false, false)
        .into_iter()
        .filter_map(|field| {
            let (_, there) = schema_in.column_with_name(&from(field.name()))?;
            Some(Arc::new(Field::new(field.name(), there.data_type().clone(), true)))
        })
        .collect();
    fields.extend(score_fields(schema_in));
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let mut file = out.file(&metadata_name(unit))?;
    let mut writer = Writer::new(&mut file, &schema, &Layout::default())?;
    let mut counts = Counts::default();
    for batch in table.batches(&store::parquet::Pick::default())? {
        cx.cancel.check()?;
        let batch = batch?;
        let kept = kept_rows(&batch, subset, &mut counts)
            .ok_or_else(|| Error::input("`uid` is no text").at(judged.name()))?;
        let kept = UInt32Array::from(kept);
        let columns = schema.fields().iter().map(|field| {
            let column = batch.column_by_name(&from(field.name()));
            take(column.ok_or_else(|| lacks(field.name()))?, &kept, None).internal("take rows")
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        writer.write(&RecordBatch::try_new(Arc::clone(&schema), columns).internal("metadata")?)?;
    }
    writer.finish()?;
    file.finish()?;
    Ok(counts)
}

/// Which rows are released; `None` when there are no uids.
fn kept_rows(batch: &RecordBatch, subset: Option<&[Uid]>, counts: &mut Counts) -> Option<Vec<u32>> {
    let text = |name: &str| batch.column_by_name(name).and_then(|c| c.as_string_opt::<i32>());
    let uids = text("uid")?;
    let (status, reason) = (text("status"), text("reason"));
    let mut kept = Vec::new();
    for row in 0..batch.num_rows() {
        let uid = uids.is_valid(row).then(|| Uid::parse(uids.value(row))).flatten();
        let failed = status.is_some_and(|s| s.is_valid(row) && s.value(row) != "success");
        let judged = reason.is_some_and(|r| r.is_valid(row));
        match (uid, subset) {
            (None, _) => counts.drop("no_uid"),
            (Some(uid), Some(subset)) if subset.binary_search(&uid).is_err() => {
                counts.drop("not_selected");
            }
            (Some(_), None) if failed => counts.drop("no_picture"),
            (Some(_), None) if judged => counts.drop("judged_out"),
            _ => {
                counts.keep();
                kept.push(row as u32);
            }
        }
    }
    Some(kept)
}

/// Rewrites a metadata file without these uids; gives the rows that are left.
pub(crate) fn without(
    blob: &Blob,
    gone: &HashSet<Uid>,
    out: &mut (impl Write + Send),
) -> Result<u64> {
    let table = File::open(blob)?;
    let mut writer = Writer::new(out, table.schema(), &Layout::default())?;
    for batch in table.batches(&store::parquet::Pick::default())? {
        let batch = batch?;
        let uids = batch
            .column_by_name("uid")
            .and_then(|c| c.as_string_opt::<i32>())
            .ok_or_else(|| Error::input("no column `uid` of text").at(blob.name()))?;
        let kept: UInt32Array = (0..uids.len())
            .filter(|&row| {
                let uid = uids.is_valid(row).then(|| Uid::parse(uids.value(row))).flatten();
                uid.is_none_or(|uid| !gone.contains(&uid))
            })
            .map(|row| row as u32)
            .collect::<Vec<_>>()
            .into();
        let columns = batch.columns().iter();
        let columns: Vec<ArrayRef> = columns
            .map(|c| take(c, &kept, None).internal("cannot take rows"))
            .collect::<Result<_>>()?;
        writer.write(&RecordBatch::try_new(batch.schema(), columns).internal("metadata")?)?;
    }
    let rows = writer.rows();
    writer.finish()?;
    Ok(rows)
}
