//! `Links`: candidate image links with their alt texts, as cc2dataset writes them.

use std::sync::{Arc, LazyLock};

use arrow_array::{Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};

use crate::{Error, Result};

/// A batch of links with at least the columns `uid, url, alt` (all string); cc2dataset's
/// `cc_filename, page_url` follow where the source knows them, and further columns may.
///
/// `uid` is the lower-case hex md5 of `alt` then `url`, 32 characters
/// (cc2dataset `main.py`).
#[derive(Debug, Clone)]
pub struct Links(RecordBatch);

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(
        ["uid", "url", "alt", "cc_filename", "page_url"]
            .map(|name| Field::new(name, DataType::Utf8, true))
            .to_vec(),
    ))
});

impl Links {
    /// The five columns of cc2dataset's parquet, in its order.
    #[must_use]
    pub fn schema() -> SchemaRef {
        Arc::clone(&SCHEMA)
    }

    /// Accepts a batch that has the string columns `uid`, `url` and `alt`.
    ///
    /// # Errors
    /// Names the column that is missing or of another type.
    pub fn try_new(batch: RecordBatch) -> Result<Self> {
        for name in ["uid", "url", "alt"] {
            string_column(&batch, name)?;
        }
        Ok(Self(batch))
    }

    /// The `uid` of each link.
    #[must_use]
    pub fn uids(&self) -> &StringArray {
        self.column("uid")
    }

    /// The `url` of each link.
    #[must_use]
    pub fn urls(&self) -> &StringArray {
        self.column("url")
    }

    /// The `alt` text of each link.
    #[must_use]
    pub fn alts(&self) -> &StringArray {
        self.column("alt")
    }

    /// Number of links.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.num_rows()
    }

    /// Whether there is no link.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.num_rows() == 0
    }

    /// The batch itself, for parquet and SQL.
    #[must_use]
    pub fn batch(&self) -> &RecordBatch {
        &self.0
    }

    /// Gives the batch back.
    #[must_use]
    pub fn into_batch(self) -> RecordBatch {
        self.0
    }

    fn column(&self, name: &str) -> &StringArray {
        string_column(&self.0, name).expect("checked by try_new")
    }
}

/// The string column of this name.
///
/// # Errors
/// Says that it is missing (and which there are), or which type it has.
pub(crate) fn string_column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a StringArray> {
    let Some(column) = batch.column_by_name(name) else {
        let schema = batch.schema();
        let have: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        return Err(Error::input(format!("no column `{name}`; there are {}", have.join(", "))));
    };
    column.as_any().downcast_ref().ok_or_else(|| {
        Error::input(format!("column `{name}` is {}, expected Utf8", column.data_type()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_without_alt_is_refused_by_name() {
        let schema = Schema::new(vec![
            Field::new("uid", DataType::Utf8, false),
            Field::new("url", DataType::Utf8, false),
        ]);
        let column = Arc::new(StringArray::from(vec!["x"]));
        let batch = RecordBatch::try_new(Arc::new(schema), vec![column.clone(), column]).unwrap();
        let message = Links::try_new(batch).unwrap_err().to_string();
        assert_eq!(message, "no column `alt`; there are uid, url");
    }
}
