//! What an earlier fetch left to be tried again.

use arrow_array::{Array, BooleanArray, StringArray};
use arrow_select::filter::filter_record_batch;
use stage::{Error, Links, Result, ResultExt};
use store::Blob;
use store::parquet::{File, Pick};

use super::Reason;

/// Which rows of a shard's parquet failed for a passing reason ([`Reason::is_worth_retrying`]).
///
/// # Errors
/// A file that cannot be read or that no fetch wrote.
pub fn failed_before(table: &Blob) -> Result<BooleanArray> {
    let pick = Pick { columns: Some(&["error_message"]), ..Pick::default() };
    let mut failed = Vec::new();
    for batch in File::open(table)?.batches(&pick)? {
        let batch = batch?;
        let words = batch.column(0).as_any().downcast_ref::<StringArray>();
        let words =
            words.ok_or_else(|| Error::input("`error_message` is no text").at(table.name()))?;
        failed.extend(words.iter().map(|word| word.is_some_and(Reason::is_worth_retrying)));
    }
    Ok(failed.into())
}

/// The links of these rows.
///
/// # Errors
/// When there are not as many answers as links.
pub fn of_rows(links: &Links, wanted: &BooleanArray) -> Result<Links> {
    if links.len() != wanted.len() {
        return Err(Error::internal(format!("{} links, {} answers", links.len(), wanted.len())));
    }
    Links::try_new(filter_record_batch(links.batch(), wanted).internal("links")?)
}
