//! The scores of the pairs that are released, by uid.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow_schema::{Field, Schema, SchemaRef};
use arrow_select::concat::concat_batches;
use arrow_select::take::take;
use stage::{Error, Pairs, Result, ResultExt};
use store::Blob;
use store::parquet::{File, Pick};
use store::subset::Uid;

use super::text_column::{needed, value};

/// Columns of judged pairs that say something else than a score.
const NO_SCORES: [&str; 8] =
    ["text", "reason", "shard", "image_sha256", "key", "uid", "url", "caption"];

/// Scores by uid: 16 bytes and one row of the score columns for each released pair, in memory.
#[derive(Debug)]
pub struct ScoreTable {
    fields: Vec<Arc<Field>>,
    /// Sorted; of several rows with one uid the first of the files counts.
    uids: Vec<Uid>,
    rows: Vec<u32>,
    batch: RecordBatch,
}

/// The columns of a table of judged pairs that are scores.
pub(crate) fn score_fields(schema: &SchemaRef) -> Vec<Arc<Field>> {
    let pairs = Pairs::schema();
    let fields = schema.fields().iter().filter(|field| {
        pairs.column_with_name(field.name()).is_none()
            && !NO_SCORES.contains(&field.name().as_str())
            && !field.name().starts_with("refused.")
    });
    // Metadata of fields would be written in the order of a hash map.
    fields.map(|f| Arc::new(Field::new(f.name(), f.data_type().clone(), true))).collect()
}

impl ScoreTable {
    /// No score at all.
    ///
    /// # Errors
    /// Never; the signature is that of [`Self::read`].
    pub fn empty() -> Self {
        let batch = RecordBatch::new_empty(Arc::new(Schema::empty()));
        Self { fields: Vec::new(), uids: Vec::new(), rows: Vec::new(), batch }
    }

    /// The rows of these files whose uid is among `wanted` (sorted).
    ///
    /// # Errors
    /// When a file cannot be read, has no uid, or other score columns than the first.
    pub fn read(files: &[Blob], wanted: &[Uid]) -> Result<Self> {
        let mut table = Self::empty();
        let mut found: Vec<(Uid, u32)> = Vec::new();
        let mut batches = Vec::new();
        let mut schema = Arc::new(Schema::empty());
        for (number, blob) in files.iter().enumerate() {
            let file = File::open(blob)?;
            let fields = score_fields(file.schema());
            if number == 0 {
                schema = Arc::new(Schema::new(fields.clone()));
                table.fields = fields;
            } else if fields != table.fields {
                return Err(Error::input("other score columns than the files before")
                    .at(blob.name())
                    .hint("release scores that one judge stage made"));
            }
            let names: Vec<&str> = std::iter::once("uid")
                .chain(table.fields.iter().map(|field| field.name().as_str()))
                .collect();
            for batch in file.batches(&Pick { columns: Some(&names), ..Pick::default() })? {
                let batch = batch?;
                let uids = needed(&batch, "uid").map_err(|error| error.at(blob.name()))?;
                let mut kept = Vec::new();
                for row in 0..uids.len() {
                    if let Some(uid) = value(&uids, row).and_then(Uid::parse)
                        && wanted.binary_search(&uid).is_ok()
                    {
                        let place = u32::try_from(found.len()).map_err(|_| {
                            Error::input("more than 4,294,967,295 scores of one release")
                        })?;
                        found.push((uid, place));
                        kept.push(row as u32);
                    }
                }
                if !kept.is_empty() {
                    let kept = UInt32Array::from(kept);
                    let columns = schema.fields().iter().map(|field| {
                        let column = batch.column_by_name(field.name());
                        let column = column.ok_or_else(|| Error::internal("a picked column"))?;
                        take(column, &kept, None).internal("cannot take rows")
                    });
                    let columns = columns.collect::<Result<Vec<_>>>()?;
                    if !columns.is_empty() {
                        batches.push(
                            RecordBatch::try_new(Arc::clone(&schema), columns)
                                .internal("scores")?,
                        );
                    }
                }
            }
        }
        table.batch = concat_batches(&schema, &batches).internal("cannot join scores")?;
        // By uid, then by place: the first of several rows comes first.
        found.sort_unstable();
        found.dedup_by_key(|(uid, _)| *uid);
        (table.uids, table.rows) = found.into_iter().unzip();
        Ok(table)
    }

    /// The columns that it adds.
    #[must_use]
    pub fn fields(&self) -> &[Arc<Field>] {
        &self.fields
    }

    /// The columns for these pairs, null where a pair has no scores.
    ///
    /// # Errors
    /// An internal error when rows cannot be taken.
    pub fn columns(&self, uids: &[Option<Uid>]) -> Result<Vec<ArrayRef>> {
        let row = |uid: &Option<Uid>| {
            let at = self.uids.binary_search(&(*uid)?).ok()?;
            self.rows.get(at).copied()
        };
        let rows: UInt32Array = uids.iter().map(row).collect();
        let columns = self.batch.columns().iter();
        columns.map(|column| take(column, &rows, None).internal("cannot take scores")).collect()
    }
}
