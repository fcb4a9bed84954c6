//! The rows of score tables that a whole-pool stage looks at.

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{Array, RecordBatch};
use arrow_cast::cast;
use arrow_schema::DataType;
use stage::{Counts, Error, Result, ResultExt, Status};
use store::Blob;
use store::parquet::{File, Pick};
use store::subset::Uid;

use crate::reasons::{count_drop, count_failure};

/// A pair with its hash.
#[derive(Debug, Clone, PartialEq)]
pub struct Hashed {
    /// Its uid.
    pub uid: Uid,
    /// Its hash; `None` where the picture has none.
    pub hash: Option<u64>,
    /// What the plan prefers by: 0 where nothing is named, below all numbers where the value is
    /// none or not finite.
    pub preference: f64,
}

/// Which rows of a score table count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    /// Those that no judge turned away.
    Kept,
    /// All with a picture: one of an evaluation set stands there whatever a judge says of it.
    WithPicture,
}

/// The pairs of score tables that no judge turned away, with their `phash`; the others are counted
/// under their reason.
///
/// # Errors
/// A file that is broken or has no `uid`, `phash` or `prefer` column, a `prefer` that holds no
/// numbers, a hash or uid that is none.
pub fn hashes_of(
    files: &[String],
    prefer: Option<&str>,
    counts: &mut Counts,
) -> Result<Vec<Hashed>> {
    rows_of(files, Rows::Kept, prefer, counts)
}

/// As [`hashes_of`], of these rows.
pub(super) fn rows_of(
    files: &[String],
    which: Rows,
    prefer: Option<&str>,
    counts: &mut Counts,
) -> Result<Vec<Hashed>> {
    let mut rows = Vec::new();
    for file in files {
        let table = File::open(&Blob::open(file)?)?;
        let has = |name: &str| table.schema().field_with_name(name).is_ok();
        if !has("phash") {
            return Err(Error::input("no column `phash`")
                .at(file.clone())
                .hint("add `phash: {}` to the judges"));
        }
        if let Some(name) = prefer
            && let Ok(field) = table.schema().field_with_name(name)
            && !(field.data_type().is_numeric() || *field.data_type() == DataType::Null)
        {
            let message = format!("prefer: `{name}` is {}, not a number", field.data_type());
            return Err(Error::input(message)
                .at(file.clone())
                .hint("name a column of numbers, such as clip_score or width"));
        }
        let wanted = ["uid", "phash", "status", "error_message", "reason"].into_iter();
        let wanted = wanted.filter(|name| *name != "reason" || which == Rows::Kept);
        let mut columns: Vec<&str> =
            wanted.filter(|name| has(name) || *name == "uid").chain(prefer).collect();
        columns.sort_unstable();
        columns.dedup();
        for batch in table.batches(&Pick { columns: Some(&columns), ..Pick::default() })? {
            add(&batch?, prefer, &mut rows, counts).map_err(|e| e.at(file.clone()))?;
        }
    }
    Ok(rows)
}

fn add(
    batch: &RecordBatch,
    prefer: Option<&str>,
    rows: &mut Vec<Hashed>,
    counts: &mut Counts,
) -> Result<()> {
    let text = |name: &str| -> Result<Option<arrow_array::StringArray>> {
        let Some(column) = batch.column_by_name(name) else { return Ok(None) };
        let column = cast(column, &DataType::Utf8).input("a column of texts is none")?;
        Ok(Some(column.as_string::<i32>().clone()))
    };
    let required =
        |name: &str| text(name)?.ok_or_else(|| Error::input(format!("no column `{name}`")));
    let (uids, hashes) = (required("uid")?, required("phash")?);
    let (statuses, errors, reasons) = (text("status")?, text("error_message")?, text("reason")?);
    let preference = prefer.map(|name| -> Result<_> {
        let column = batch.column_by_name(name);
        let column = column.ok_or_else(|| Error::input(format!("no column `{name}`")))?;
        let column = cast(column, &DataType::Float64);
        let column = column.input(format!("the column `{name}` holds no numbers"))?;
        Ok(column.as_primitive::<Float64Type>().clone())
    });
    let preference = preference.transpose()?;
    let value = |column: &Option<arrow_array::StringArray>, i: usize| {
        column.as_ref().filter(|c| c.is_valid(i)).map(|c| c.value(i).to_owned())
    };
    for i in 0..batch.num_rows() {
        if let Some(status) = value(&statuses, i).filter(|s| s != Status::Success.as_str()) {
            count_failure(counts, &value(&errors, i).unwrap_or(status));
            continue;
        }
        if let Some(reason) = value(&reasons, i) {
            count_drop(counts, &reason);
            continue;
        }
        let uid = Uid::parse(uids.value(i));
        let uid = uid.ok_or_else(|| Error::input(format!("`{}` is no uid", uids.value(i))))?;
        let hash = hashes.is_valid(i).then(|| u64::from_str_radix(hashes.value(i), 16));
        let hash = hash.transpose().map_err(|_| {
            Error::input(format!("`{}` is no hash of 16 hex digits", hashes.value(i)))
        })?;
        // Adding 0 takes the sign off -0.0, which would rank below 0.0.
        let preference = preference.as_ref().map_or(0.0, |column| {
            let number = column.is_valid(i).then(|| column.value(i) + 0.0);
            number.filter(|x| x.is_finite()).unwrap_or(f64::NEG_INFINITY)
        });
        rows.push(Hashed { uid, hash, preference });
    }
    Ok(())
}
