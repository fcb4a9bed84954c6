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
use stage::{Context, Counts, Error, Pairs, Result, ResultExt};
use store::parquet::{File, Layout, Writer};
use store::subset::Uid;
use store::{Attempt, Blob, FileRecord};

use super::manifest::{metadata_name, shard_name};
use super::score_table::{ScoreTable, score_fields};
use super::text_column::{as_text, needed, text, value};
use crate::sample_json::SampleJson;
use crate::shards::Shards;

/// Parts of the names of members that some reader may run, wherever they stand behind the first
/// dot: no release carries one.
const RUNS: [&str; 7] = ["pkl", "pickle", "pyd", "pth", "joblib", "dill", "marshal"];
/// The same as the last part alone, for before another they may be languages (`0.pt.txt`).
const RUNS_LAST: [&str; 2] = ["pt", "so"];
/// Endings that a reader takes off before it looks at the one before.
const PACKED: [&str; 8] = ["gz", "bz2", "xz", "lzma", "zst", "lz4", "br", "zip"];

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
/// A pair whose json is none, read as leniently as Python writes it, is not released: nobody could
/// say where its picture came from, and no purge by URL would find it. Of a release of metadata it is
/// dropped (`bad_json`).
///
/// # Errors
/// When the shard cannot be read whole, holds a member that a reader might run, or, where it is
/// released itself, a json that is none.
pub fn rows_of_shard(
    cx: &Context,
    unit: &str,
    tar: &Blob,
    scores: &ScoreTable,
    with_shard: bool,
    out: &mut Attempt,
) -> Result<Counts> {
    let members = check_members(tar)?;
    let shards = Shards::from_blobs(std::slice::from_ref(tar), crate::Truncated::Refuse)?
        .with_members(&["json"])?;
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
        let sound = with_sound_json(&pairs)?;
        if with_shard
            && let Some(bad) = (0..pairs.len()).find(|&row| !sound.contains(&(row as u32)))
        {
            return Err(Error::input(
                "its json cannot be read, so that no purge by URL would find it",
            )
            .at(format!("sample {}", pairs.keys().value(bad)))
            .at(format!("shard {}", tar.name()))
            .hint("write the json of this sample again, or take the sample out"));
        }
        if sound.len() < pairs.len() {
            let rows = UInt32Array::from(sound.clone());
            let kept = columns.iter().map(|c| take(c, &rows, None).internal("cannot take rows"));
            columns = kept.collect::<Result<_>>()?;
        }
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns).internal("metadata")?;
        writer.write(&batch)?;
        sound.iter().for_each(|_| counts.keep());
        (sound.len()..pairs.len()).for_each(|_| counts.drop("bad_json"));
    }
    writer.finish()?;
    file.finish()?;
    Ok(counts)
}

/// The rows whose json can be read, or that have none.
fn with_sound_json(pairs: &Pairs) -> Result<Vec<u32>> {
    let json = pairs.batch().column_by_name("json").and_then(|c| c.as_binary_opt::<i32>());
    let json = json.ok_or_else(|| Error::internal("a column that was asked for"))?;
    let sound = |row: &usize| json.is_null(*row) || SampleJson::read(json.value(*row)).is_some();
    Ok((0..pairs.len()).filter(sound).map(|row| row as u32).collect())
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
        if let Some(part) = runs(&member.name) {
            return Err(Error::input(format!("`.{part}` may be run by whoever reads it"))
                .at(format!("member {}", member.name))
                .at(format!("shard {}", tar.name()))
                .hint("release shards of pictures, txt and json"));
        }
    }
    Ok(members.len())
}

/// The part of a member's name that says that a reader may run it.
fn runs(name: &str) -> Option<String> {
    let base = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
    let mut parts: Vec<&str> = base.split('.').skip(1).collect();
    if let Some(part) = parts.iter().find(|part| RUNS.contains(part)) {
        return Some((*part).to_owned());
    }
    while parts.last().is_some_and(|last| PACKED.contains(last)) {
        parts.pop();
    }
    parts.last().filter(|last| RUNS_LAST.contains(last)).map(|last| (*last).to_owned())
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
    let caption = ["caption", "text"]
        .into_iter()
        .find(|name| schema_in.column_with_name(name).is_some())
        .ok_or_else(|| lacks("text"))?;
    // Columns that the file lacks are left out, but for these.
    for name in ["uid", "url"] {
        schema_in.column_with_name(name).ok_or_else(|| lacks(name))?;
    }
    let from = |name: &str| if name == "text" { caption.to_owned() } else { name.to_owned() };
    let mut fields: Vec<Arc<Field>> = own_fields(false, false)
        .into_iter()
        .filter_map(|field| {
            let (_, there) = schema_in.column_with_name(&from(field.name()))?;
            let field = &*field;
            // Texts are released as one type, whatever they came in.
            let kind = if *field.data_type() == DataType::Utf8 { field } else { there };
            Some(Arc::new(Field::new(field.name(), kind.data_type().clone(), true)))
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
        let kept =
            kept_rows(&batch, subset, &mut counts).map_err(|error| error.at(judged.name()))?;
        let kept = UInt32Array::from(kept);
        let columns = schema.fields().iter().map(|field| {
            let name = from(field.name());
            let column = batch.column_by_name(&name).ok_or_else(|| lacks(field.name()))?;
            let rows = take(column, &kept, None).internal("take rows")?;
            if rows.data_type() == field.data_type() {
                return Ok(rows);
            }
            as_text(&rows, &name)
                .map(|text| Arc::new(text) as ArrayRef)
                .map_err(|error| error.at(judged.name()))
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        writer.write(&RecordBatch::try_new(Arc::clone(&schema), columns).internal("metadata")?)?;
    }
    writer.finish()?;
    file.finish()?;
    Ok(counts)
}

/// Which rows are released; `None` when there are no uids.
fn kept_rows(batch: &RecordBatch, subset: Option<&[Uid]>, counts: &mut Counts) -> Result<Vec<u32>> {
    let uids = needed(batch, "uid")?;
    let (status, reason) = (text(batch, "status")?, text(batch, "reason")?);
    let mut kept = Vec::new();
    for row in 0..batch.num_rows() {
        let uid = value(&uids, row).and_then(Uid::parse);
        let failed =
            status.as_ref().and_then(|s| value(s, row)).is_some_and(|status| status != "success");
        let judged = reason.as_ref().is_some_and(|reason| reason.is_valid(row));
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
    Ok(kept)
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
        let uids = needed(&batch, "uid").map_err(|error| error.at(blob.name()))?;
        let kept: UInt32Array = (0..uids.len())
            .filter(|&row| {
                let uid = value(&uids, row).and_then(Uid::parse);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_says_that_it_runs_is_known_behind_other_endings_too() {
        for (name, part) in [
            ("0.pkl", Some("pkl")),
            ("a.b/0.PYD.gz", Some("pyd")),
            ("0.pkl.txt", Some("pkl")),
            ("0.pt.zst.gz", Some("pt")),
            ("0.so", Some("so")),
            // Captions in Portuguese and Somali.
            ("0.pt.txt", None),
            ("0.so.txt", None),
            ("pkl/0.jpg", None),
            ("pkl.jpg", None),
        ] {
            assert_eq!(runs(name).as_deref(), part, "{name}");
        }
    }
}
