//! `Pairs`: pictures with captions, and what became of each; the currency of the data rooms.

use std::sync::{Arc, LazyLock};

use arrow_array::builder::{BinaryBuilder, Int32Builder, StringBuilder};
use arrow_array::{Array, ArrayRef, BinaryArray, Int32Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};

use crate::links::string_column;
use crate::{Error, Result};

/// A batch of image-text pairs.
///
/// | column | type | null where |
/// | --- | --- | --- |
/// | `uid` | Utf8 | never; 32 hex characters |
/// | `key` | Utf8 | never; the sample's name in its shard, without a dot |
/// | `url` | Utf8 | never; empty when the source has none |
/// | `caption` | Utf8 | never; may be empty |
/// | `status` | Utf8 | never; a [`Status`] in img2dataset's words |
/// | `error_message` | Utf8 | success |
/// | `width`, `height` | Int32 | failure; pixels of `image` |
/// | `original_width`, `original_height` | Int32 | not decoded; pixels as downloaded |
/// | `sha256` | Utf8 | not downloaded; hex, of the downloaded bytes |
/// | `image` | Binary | failure; encoded bytes (jpg, png or webp) |
///
/// Further columns (metadata, scores) follow. A failed download is a row like any other, so that
/// nothing is lost between two stages.
#[derive(Debug, Clone)]
pub struct Pairs(RecordBatch);

/// What became of a download, in img2dataset's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// There is a picture.
    Success,
    /// No bytes, or refused before decoding.
    FailedToDownload,
    /// Bytes that are no acceptable picture.
    FailedToResize,
}

impl Status {
    /// The word in parquet and json.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::FailedToDownload => "failed_to_download",
            Self::FailedToResize => "failed_to_resize",
        }
    }
}

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let text = |name, null| Field::new(name, DataType::Utf8, null);
    let int = |name| Field::new(name, DataType::Int32, true);
    Arc::new(Schema::new(vec![
        text("uid", false),
        text("key", false),
        text("url", false),
        text("caption", false),
        text("status", false),
        text("error_message", true),
        int("width"),
        int("height"),
        int("original_width"),
        int("original_height"),
        text("sha256", true),
        Field::new("image", DataType::Binary, true),
    ]))
});

impl Pairs {
    /// The required columns, in order.
    #[must_use]
    pub fn schema() -> SchemaRef {
        Arc::clone(&SCHEMA)
    }

    /// Accepts a batch that has every required column with its type.
    ///
    /// # Errors
    /// Names the column that is missing or of another type.
    pub fn try_new(batch: RecordBatch) -> Result<Self> {
        for field in SCHEMA.fields() {
            let Some(column) = batch.column_by_name(field.name()) else {
                return Err(Error::input(format!("pairs have no column `{}`", field.name())));
            };
            if column.data_type() != field.data_type() {
                return Err(Error::input(format!(
                    "column `{}` is {}, expected {}",
                    field.name(),
                    column.data_type(),
                    field.data_type()
                )));
            }
        }
        Ok(Self(batch))
    }

    /// Number of pairs, failed ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.num_rows()
    }

    /// Whether there is no pair.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.num_rows() == 0
    }

    /// Unique ids.
    #[must_use]
    pub fn uids(&self) -> &StringArray {
        self.text("uid")
    }

    /// Sample names.
    #[must_use]
    pub fn keys(&self) -> &StringArray {
        self.text("key")
    }

    /// Where the pictures came from.
    #[must_use]
    pub fn urls(&self) -> &StringArray {
        self.text("url")
    }

    /// Captions.
    #[must_use]
    pub fn captions(&self) -> &StringArray {
        self.text("caption")
    }

    /// Statuses, in img2dataset's words.
    #[must_use]
    pub fn statuses(&self) -> &StringArray {
        self.text("status")
    }

    /// Encoded pictures; null where the download failed.
    #[must_use]
    pub fn images(&self) -> &BinaryArray {
        self.0.column_by_name("image").and_then(|c| c.as_any().downcast_ref()).expect("checked")
    }

    /// The encoded picture of row `i`, if there is one.
    #[must_use]
    pub fn image(&self, i: usize) -> Option<&[u8]> {
        let images = self.images();
        images.is_valid(i).then(|| images.value(i))
    }

    /// An integer column among `width`, `height`, `original_width`, `original_height`.
    ///
    /// # Panics
    /// On another name: the caller names a column of this schema.
    #[must_use]
    pub fn int(&self, name: &str) -> &Int32Array {
        self.0
            .column_by_name(name)
            .and_then(|c| c.as_any().downcast_ref())
            .expect("a schema column")
    }

    /// A required string column by name.
    ///
    /// # Panics
    /// On another name: the caller names a column of this schema.
    #[must_use]
    pub fn text(&self, name: &str) -> &StringArray {
        string_column(&self.0, name).expect("a schema column")
    }

    /// Adds a column (a score, a reason) beside the pairs.
    ///
    /// # Errors
    /// When the length differs or the name is taken.
    pub fn with_column(self, name: &str, column: ArrayRef) -> Result<Self> {
        if self.0.column_by_name(name).is_some() {
            return Err(Error::input(format!("there is already a column `{name}`")));
        }
        let mut fields = self.0.schema().fields().to_vec();
        fields.push(Arc::new(Field::new(name, column.data_type().clone(), true)));
        let mut columns = self.0.columns().to_vec();
        columns.push(column);
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
            .map(Self)
            .map_err(|e| Error::internal(format!("column `{name}`")).because(e))
    }

    /// The batch itself.
    #[must_use]
    pub fn batch(&self) -> &RecordBatch {
        &self.0
    }

    /// Gives the batch back.
    #[must_use]
    pub fn into_batch(self) -> RecordBatch {
        self.0
    }
}

/// Pairs that can be read again and in any order: what training, scoring and evaluation see of a
/// set of shards.
///
/// Random access makes the data order a function of the seed alone and resuming exact: the cursor
/// is a number.
pub trait PairSource: Send + Sync {
    /// Number of samples with a picture.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads these samples, in this order.
    ///
    /// # Errors
    /// When a shard cannot be read; names shard and member.
    fn read(&self, indices: &[usize]) -> Result<Pairs>;

    /// A digest of what the source holds (shard names and their sha256), for stage keys.
    fn fingerprint(&self) -> String;
}

/// Builds a [`Pairs`] batch row by row.
#[derive(Debug, Default)]
pub struct PairsBuilder {
    uid: StringBuilder,
    key: StringBuilder,
    url: StringBuilder,
    caption: StringBuilder,
    status: StringBuilder,
    error_message: StringBuilder,
    width: Int32Builder,
    height: Int32Builder,
    original_width: Int32Builder,
    original_height: Int32Builder,
    sha256: StringBuilder,
    image: BinaryBuilder,
}

/// One row for [`PairsBuilder::push`].
#[derive(Debug, Clone, Copy)]
pub struct PairRow<'a> {
    /// 32 hex characters.
    pub uid: &'a str,
    /// The sample's name in its shard.
    pub key: &'a str,
    /// Where the picture came from; may be empty.
    pub url: &'a str,
    /// The caption; may be empty.
    pub caption: &'a str,
    /// What became of it.
    pub status: Status,
    /// Why it failed.
    pub error_message: Option<&'a str>,
    /// Width and height of `image`.
    pub size: Option<(u32, u32)>,
    /// Width and height as downloaded.
    pub original_size: Option<(u32, u32)>,
    /// Hex digest of the downloaded bytes.
    pub sha256: Option<&'a str>,
    /// Encoded picture.
    pub image: Option<&'a [u8]>,
}

impl PairsBuilder {
    /// Appends one row.
    pub fn push(&mut self, row: PairRow<'_>) {
        let side = |v: Option<(u32, u32)>, first: bool| {
            v.map(|(w, h)| i32::try_from(if first { w } else { h }).unwrap_or(i32::MAX))
        };
        self.uid.append_value(row.uid);
        self.key.append_value(row.key);
        self.url.append_value(row.url);
        self.caption.append_value(row.caption);
        self.status.append_value(row.status.as_str());
        self.error_message.append_option(row.error_message);
        self.width.append_option(side(row.size, true));
        self.height.append_option(side(row.size, false));
        self.original_width.append_option(side(row.original_size, true));
        self.original_height.append_option(side(row.original_size, false));
        self.sha256.append_option(row.sha256);
        self.image.append_option(row.image);
    }

    /// The batch of all rows pushed since the last call.
    pub fn finish(&mut self) -> Pairs {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.uid.finish()),
            Arc::new(self.key.finish()),
            Arc::new(self.url.finish()),
            Arc::new(self.caption.finish()),
            Arc::new(self.status.finish()),
            Arc::new(self.error_message.finish()),
            Arc::new(self.width.finish()),
            Arc::new(self.height.finish()),
            Arc::new(self.original_width.finish()),
            Arc::new(self.original_height.finish()),
            Arc::new(self.sha256.finish()),
            Arc::new(self.image.finish()),
        ];
        Pairs(RecordBatch::try_new(Pairs::schema(), columns).expect("one builder a column"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_download_is_a_row_without_a_picture() {
        let mut builder = PairsBuilder::default();
        builder.push(PairRow {
            uid: "139e4a9b22a614771f06c700a8ebe150",
            key: "000000000",
            url: "http://a.example/1.jpg",
            caption: "a cat",
            status: Status::FailedToDownload,
            error_message: Some("http_404"),
            size: None,
            original_size: None,
            sha256: None,
            image: None,
        });
        let pairs = builder.finish();
        assert_eq!(pairs.len(), 1);
        assert_eq!(pairs.statuses().value(0), "failed_to_download");
        assert!(pairs.image(0).is_none());
    }

    #[test]
    fn a_score_stands_beside_the_pair_and_its_name_is_taken_once() {
        let scores: ArrayRef = Arc::new(arrow_array::Float32Array::from(Vec::<f32>::new()));
        let pairs = PairsBuilder::default().finish().with_column("s", Arc::clone(&scores)).unwrap();
        assert_eq!(pairs.batch().num_columns(), 13);
        assert!(pairs.with_column("s", scores).is_err());
    }
}
