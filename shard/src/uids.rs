//! The uids of a tar's samples, without reading its pictures.

use std::collections::HashMap;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_schema::DataType;
use stage::Result;
use store::Blob;
use store::parquet::{File, Pick};
use store::subset::Uid;

use crate::identity::{from_key, uid_of};
use crate::sample_json::{SampleJson, text_field};
use crate::sample_pairs::caption_of;
use crate::shard_index::{Row, Tar};
use crate::spans::{Span, gather};
use crate::tar_name::parquet_beside;

/// Largest parquet beside a tar that is read for its uids, bytes; 10,000 rows take about 3 MB.
const MAX_PARQUET: u64 = 256 << 20;
/// Bytes of json and txt that are held at once.
const CHUNK: u64 = 8 << 20;

/// The uid of each row of this tar.
pub(crate) fn of_tar(tar: &Tar) -> Result<Vec<Uid>> {
    // The parquet is a shortcut to what the json says: without it, or with one that cannot be read,
    // the json is asked.
    let beside = beside(tar).unwrap_or_default();
    let mut uids: Vec<Option<Uid>> =
        tar.rows.iter().map(|row| beside.get(&*row.key).copied()).collect();
    // The json alone names most samples; the text is asked for those that it does not.
    fill(
        tar,
        &mut uids,
        |row| [row.part("json"), None],
        |row, [json, _]| {
            let named = json.and_then(|json| Uid::parse(&text_field(json, "uid")?));
            named.or_else(|| from_key(&row.key))
        },
    )?;
    fill(
        tar,
        &mut uids,
        |row| [row.part("json"), row.part("txt")],
        |row, [json, text]| {
            let json = json.map(SampleJson::parse).unwrap_or_default();
            Some(uid_of(&json, &caption_of(text, &json), &row.key, &tar.stem))
        },
    )?;
    Ok(uids.into_iter().flatten().collect())
}

/// Gives each row that has no uid yet what `name` says of those of its members that `wanted` picks.
fn fill(
    tar: &Tar,
    uids: &mut [Option<Uid>],
    wanted: impl Fn(&Row) -> [Option<Span>; 2],
    name: impl Fn(&Row, [Option<&[u8]>; 2]) -> Option<Uid>,
) -> Result<()> {
    let missing: Vec<usize> = (0..uids.len()).filter(|&i| uids[i].is_none()).collect();
    let spans = |i: usize| wanted(&tar.rows[i]).into_iter().flatten();
    let mut rest = &missing[..];
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|&&i| {
            bytes += spans(i).map(|span| u64::from(span.len)).sum::<u64>();
            bytes <= CHUNK
        });
        let (chunk, after) = rest.split_at(fits.count().max(1));
        let all: Vec<_> = chunk.iter().flat_map(|&i| spans(i)).map(|span| (0, span)).collect();
        let mut found = gather(|_| tar.blob(), &all)?.into_iter();
        for &i in chunk {
            let row = &tar.rows[i];
            let members = wanted(row).map(|span| span.and_then(|_| found.next()));
            uids[i] = name(row, members.each_ref().map(Option::as_deref));
        }
        rest = after;
    }
    Ok(())
}

/// Key and uid of the successes in `<shard>.parquet`.
fn beside(tar: &Tar) -> Option<HashMap<String, Uid>> {
    let blob =
        Blob::open(&parquet_beside(&tar.url)?).ok().filter(|blob| blob.len() <= MAX_PARQUET)?;
    read_parquet(&blob).ok()
}

fn read_parquet(blob: &Blob) -> Result<HashMap<String, Uid>> {
    let columns = ["uid", "key", "status"];
    let pick = Pick { columns: Some(&columns), ..Pick::default() };
    let mut uids = HashMap::new();
    for batch in File::open(blob)?.batches(&pick)? {
        let batch = batch?;
        let column = |name| batch.column_by_name(name).map(AsRef::as_ref);
        let (Some(uid), Some(key), Some(status)) = (column("uid"), column("key"), column("status"))
        else {
            return Ok(HashMap::new());
        };
        for row in 0..batch.num_rows() {
            if text(status, row) == Some("success")
                && let Some(key) = text(key, row)
                && let Some(uid) = text(uid, row).and_then(Uid::parse)
            {
                uids.insert(key.to_owned(), uid);
            }
        }
    }
    Ok(uids)
}

fn text(column: &dyn Array, row: usize) -> Option<&str> {
    let value = match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().value(row),
        DataType::LargeUtf8 => column.as_string::<i64>().value(row),
        DataType::Utf8View => column.as_string_view().value(row),
        _ => return None,
    };
    column.is_valid(row).then_some(value)
}
