//! What needs the whole pool at once: near-duplicates, pictures of evaluation sets, clusters.
//!
//! Each is a stage of its own. Reading order: [`features`] (embeddings out of files), [`hashes`]
//! (neighbours of perceptual hashes), [`NearDuplicatesPlan`], [`DecontaminatePlan`],
//! [`ClustersPlan`].

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::SchemaRef;
use serde_json::Value;
use stage::{Counts, Result, ResultExt};
use store::Attempt;
use store::parquet::{Layout, Writer};
use store::subset::Uid;

mod clusters;
mod decontaminate;
pub mod features;
pub mod hashes;
mod kmeans;
mod near_duplicates;
mod table;

pub use clusters::ClustersPlan;
pub use decontaminate::DecontaminatePlan;
pub use near_duplicates::{DUPLICATES, NearDuplicatesPlan};
pub use table::hashes_of;

/// The file of uids that remain.
pub const SUBSET: &str = "subset.npy";

/// Rows of a table that are written at once: an Arrow array of texts ends at 2^31 bytes.
const ROWS_AT_ONCE: usize = 1 << 20;

/// What a stage over the whole pool did.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// What became of the pairs.
    pub counts: Counts,
    /// What else is to be told, for the stage's record.
    pub info: Value,
}

/// Of what was kept, the pairs of which another row went: a subset names uids, so that a uid cannot
/// stay and go.
fn leave_out(kept: &mut Vec<Uid>, gone: &HashSet<Uid>, counts: &mut Counts) {
    let before = kept.len();
    kept.retain(|uid| !gone.contains(uid));
    for _ in kept.len()..before {
        counts.kept -= 1;
        counts.entered -= 1;
        counts.drop("same_uid");
    }
}

/// Writes a table of `rows` rows, made part by part.
fn write_table(
    out: &mut Attempt,
    name: &str,
    schema: &SchemaRef,
    rows: usize,
    columns: impl Fn(Range<usize>) -> Vec<ArrayRef>,
) -> Result<()> {
    let mut writer = Writer::new(out.file(name)?, schema, &Layout::default())?;
    for start in (0..rows.max(1)).step_by(ROWS_AT_ONCE) {
        let columns = columns(start..rows.min(start + ROWS_AT_ONCE));
        let batch = RecordBatch::try_new(Arc::clone(schema), columns);
        writer.write(&batch.internal("a table of the whole pool")?)?;
    }
    writer.finish()?.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::UInt32Array;
    use arrow_schema::{DataType, Field, Schema};

    #[test]
    fn a_table_of_more_rows_than_are_written_at_once_is_whole() {
        let schema: SchemaRef =
            Arc::new(Schema::new(vec![Field::new("n", DataType::UInt32, false)]));
        for rows in [0, ROWS_AT_ONCE + 1] {
            let output = store::Output::in_memory();
            let dir = output.stage("a");
            let mut out = dir.begin("all").unwrap();
            let column = |range: Range<usize>| -> Vec<ArrayRef> {
                assert!(range.len() <= ROWS_AT_ONCE);
                vec![Arc::new(UInt32Array::from_iter_values(range.map(|n| n as u32)))]
            };
            write_table(&mut out, "t.parquet", &schema, rows, column).unwrap();
            out.commit("key", Counts::default(), Value::Null).unwrap();
            let table = store::parquet::File::open(&dir.blob("t.parquet").unwrap()).unwrap();
            assert_eq!(table.rows(), rows as u64);
        }
    }
}
