//! The uids of a tar's samples, without reading its pictures.

use std::collections::HashMap;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_schema::DataType;
use stage::Result;
use store::Blob;
use store::parquet::{File, Pick};
use store::subset::Uid;

use crate::identity::uid_of;
use crate::sample_json::SampleJson;
use crate::sample_pairs::caption_of;
use crate::shard_index::{Row, Tar};
use crate::spans::gather;

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
    let missing: Vec<usize> = (0..uids.len()).filter(|&i| uids[i].is_none()).collect();
    let mut rest = &missing[..];
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|&&i| {
            bytes += wanted(&tar.rows[i]).map(|(_, span)| u64::from(span.len)).sum::<u64>();
            bytes <= CHUNK
        });
        let (chunk, after) = rest.split_at(fits.count().max(1));
        let spans: Vec<_> =
            chunk.iter().flat_map(|&i| wanted(&tar.rows[i])).map(|(_, span)| (0, span)).collect();
        let mut found = gather(|_| tar.blob(), &spans)?.into_iter();
        for &i in chunk {
            let row = &tar.rows[i];
            let [mut text, mut json] = [None, None];
            for (is_json, _) in wanted(row) {
                *(if is_json { &mut json } else { &mut text }) = found.next();
            }
            let json = json.as_deref().map(SampleJson::parse).unwrap_or_default();
            let caption = caption_of(text.as_deref(), &json);
            uids[i] = Some(uid_of(&json, &caption, &row.key, &tar.stem));
        }
        rest = after;
    }
    Ok(uids.into_iter().flatten().collect())
}

/// The txt and the json of a sample, the latter marked.
fn wanted(row: &Row) -> impl Iterator<Item = (bool, crate::spans::Span)> {
    let txt = row.part("txt").map(|span| (false, span));
    txt.into_iter().chain(row.part("json").map(|span| (true, span)))
}

/// Key and uid of the successes in `<shard>.parquet`.
fn beside(tar: &Tar) -> Option<HashMap<String, Uid>> {
    let url = format!("{}.parquet", tar.url.strip_suffix(".tar")?);
    let blob = Blob::open(&url).ok().filter(|blob| blob.len() <= MAX_PARQUET)?;
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
