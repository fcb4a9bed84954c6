//! Judging one unit: every pair in, one parquet row a pair out, in the same order.

use std::io::Write;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use stage::{Counts, Pairs, Result};
use store::parquet::{Layout, Writer};

use super::score::{schema, score_batch};
use super::verdict::Verdicts;
use super::{AnyJudge, Judge};

/// Judges all pairs of one unit and writes one parquet row a pair, in order.
///
/// | column | |
/// | --- | --- |
/// | `uid, key, url, caption, status, error_message, width, height, original_width, original_height, sha256` | as in [`Pairs`] |
/// | further columns of the pairs | where the source has them; `source_<name>` where a judge takes the name |
/// | each judge's scores | written whatever the verdict; null where there is no picture |
/// | `reason` | null where the pair is kept; else the first judge's reason, or for a pair without a picture its `error_message` |
///
/// All judges see all pairs, so that every score is there for `select` and the report. Pairs
/// without a picture count as failed, pairs with a judge's reason as dropped: `in = kept + dropped
/// + failed`. The bytes do not depend on how the pairs are cut into batches.
///
/// `scores_out` gets what [`rejudge_unit`] needs to judge the unit again under other thresholds.
///
/// # Errors
/// The source's, a judge's, the output's, or two score columns of one name.
pub fn run_unit<W: Write + Send, S: Write + Send>(
    plans: &[AnyJudge],
    judges: &mut [Box<dyn Judge>],
    batches: impl IntoIterator<Item = Result<Pairs>>,
    scores_out: S,
    out: W,
) -> Result<Counts> {
    let mut batches = batches.into_iter();
    // The first batch says which further columns there are; a unit without pairs is a file with
    // columns and no rows.
    let first = batches.next().transpose()?;
    let columns = first.as_ref().map_or_else(Pairs::schema, |pairs| pairs.batch().schema());
    let schema = schema(plans, columns.fields())?;
    let mut table = Writer::new(scores_out, &schema, &Layout::default())?;
    let scored = first.map(Ok).into_iter().chain(batches).map(|pairs| {
        let scored = score_batch(plans, judges, &pairs?, &schema)?;
        table.write(&scored)?;
        Ok(scored)
    });
    let counts = rejudge_unit(plans, &schema, scored, out)?;
    table.finish()?;
    Ok(counts)
}

/// Judges a unit again from its table of scores: other thresholds, the same scores, and the bytes
/// that [`run_unit`] would have written.
///
/// # Errors
/// The source's, the output's, or scores that other judges made.
pub fn rejudge_unit<W: Write + Send>(
    plans: &[AnyJudge],
    schema: &SchemaRef,
    scored: impl IntoIterator<Item = Result<RecordBatch>>,
    out: W,
) -> Result<Counts> {
    let mut verdicts = Verdicts::new(plans, schema)?;
    let mut table = Writer::new(out, verdicts.schema(), &Layout::default())?;
    for scored in scored {
        table.write(&verdicts.batch(&scored?)?)?;
    }
    table.finish()?;
    verdicts.counts.check()?;
    Ok(verdicts.counts)
}
