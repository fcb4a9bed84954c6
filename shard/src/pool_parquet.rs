//! The parquet beside a shard's tar: one row for each input row, failures included.

use std::io::Write;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use stage::{Pairs, Result, ResultExt};
use store::parquet::{Layout, write_parquet};
use store::write_error;

/// img2dataset's columns for DataComp's call, in its order.
const COLUMNS: [(&str, DataType); 11] = [
    ("uid", DataType::Utf8),
    ("caption", DataType::Utf8),
    ("url", DataType::Utf8),
    ("key", DataType::Utf8),
    ("status", DataType::Utf8),
    ("error_message", DataType::Utf8),
    ("width", DataType::Int32),
    ("height", DataType::Int32),
    ("original_width", DataType::Int32),
    ("original_height", DataType::Int32),
    ("sha256", DataType::Utf8),
];

/// The rows without their pictures: img2dataset's columns, then all further ones in their order.
pub(crate) fn table_of(pairs: &Pairs) -> Result<RecordBatch> {
    let batch = pairs.batch();
    let mut fields = Vec::new();
    let mut columns: Vec<ArrayRef> = Vec::new();
    let known = COLUMNS.iter().map(|(name, _)| *name);
    let schema = batch.schema();
    let further = schema.fields().iter().map(|field| field.name().as_str());
    let further = further.filter(|name| *name != "image" && known.clone().all(|n| n != *name));
    for name in known.clone().chain(further) {
        if let Some(column) = batch.column_by_name(name) {
            // As pyarrow's: every column may be null. Metadata of fields would be written in the
            // order of a hash map.
            fields.push(Field::new(name, column.data_type().clone(), true));
            columns.push(Arc::clone(column));
        }
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).internal("pool table")
}

/// Writes the rows as one parquet: snappy, a row group for each 65,536 rows.
pub(crate) fn write_table(batches: Vec<RecordBatch>, out: &mut impl Write) -> Result<()> {
    let schema = batches.first().map_or_else(empty_schema, RecordBatch::schema);
    let mut bytes = Vec::new();
    write_parquet(&mut bytes, &schema, batches.into_iter().map(Ok), &Layout::default())?;
    out.write_all(&bytes).map_err(write_error)
}

fn empty_schema() -> SchemaRef {
    let fields = COLUMNS.map(|(name, kind)| Field::new(name, kind, true));
    Arc::new(Schema::new(fields.to_vec()))
}
