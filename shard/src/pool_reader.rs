//! Reads a shard of a pool back as the pairs that it was written from, failures included.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::builder::BinaryBuilder;
use arrow_array::cast::AsArray;
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use stage::{Error, Pairs, Result, ResultExt, Status};
use store::Blob;
use store::parquet::{Batches, read_parquet};

use crate::picture_suffix::PICTURES;
use crate::tar_name::split_name;
use crate::tar_read::index;

/// Rows at once; their pictures are in memory.
const ROWS: usize = 128;
/// Bytes of pictures at which a batch ends early; Arrow's 32-bit offsets end at 2 GiB.
const BATCH_BYTES: u64 = 256 << 20;

/// The rows of `<shard>.parquet` with the pictures of `<shard>.tar`, in the parquet's order.
///
/// What [`crate::PoolWriter`] was given comes back, whatever the batches were; img2dataset's own
/// shards read the same way, where they have a `uid` column.
pub struct PoolReader {
    tar: Blob,
    /// Where the picture of each key lies.
    pictures: HashMap<String, (u64, u64)>,
    rows: Batches,
    /// Rows of the current batch that are still to come.
    rest: Option<RecordBatch>,
}

impl PoolReader {
    /// Opens a shard by its tar and its parquet.
    ///
    /// # Errors
    /// When either cannot be read or the tar is damaged.
    pub fn open(tar: &str, parquet: &Blob) -> Result<Self> {
        let tar = Blob::open(tar)?;
        let mut pictures = HashMap::new();
        for member in index(&tar)? {
            if let Some((key, suffix)) = split_name(&member.name)
                && PICTURES.contains(&suffix.as_str())
            {
                pictures.insert(key.to_owned(), (member.offset, member.len));
            }
        }
        Ok(Self { tar, pictures, rows: read_parquet(parquet)?, rest: None })
    }

    fn next_rows(&mut self) -> Option<Result<RecordBatch>> {
        let batch = match self.rest.take() {
            Some(batch) => batch,
            None => match self.rows.next()? {
                Ok(batch) => batch,
                Err(error) => return Some(Err(error)),
            },
        };
        let count = self.fitting_rows(&batch);
        if count < batch.num_rows() {
            self.rest = Some(batch.slice(count, batch.num_rows() - count));
        }
        Some(Ok(batch.slice(0, count)))
    }

    /// How many rows go into the next batch: at least one if there is one.
    fn fitting_rows(&self, batch: &RecordBatch) -> usize {
        let most = batch.num_rows().min(ROWS);
        let Some(keys) = batch.column_by_name("key").and_then(|c| c.as_string_opt::<i32>()) else {
            return most;
        };
        let mut bytes = 0;
        let fits = keys.iter().take(most).take_while(|key| {
            bytes += key.and_then(|key| self.pictures.get(key)).map_or(0, |(_, len)| *len);
            bytes <= BATCH_BYTES
        });
        fits.count().max(1).min(most)
    }

    /// The required columns first, the picture among them, then the further ones.
    fn pairs(&self, batch: &RecordBatch) -> Result<Pairs> {
        let required = Pairs::schema();
        let mut fields = Vec::new();
        let mut columns: Vec<ArrayRef> = Vec::new();
        for field in required.fields() {
            let column = if field.name() == "image" {
                self.images(batch)?
            } else {
                let column = batch.column_by_name(field.name());
                Arc::clone(
                    column.ok_or_else(|| Error::input(format!("no column `{}`", field.name())))?,
                )
            };
            fields.push(Field::clone(field));
            columns.push(column);
        }
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            if required.column_with_name(field.name()).is_none() {
                fields.push(Field::clone(field));
                columns.push(Arc::clone(column));
            }
        }
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
            .input("the columns of the parquet are not those of pairs")?;
        Pairs::try_new(batch)
    }

    fn images(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        let text = |name: &str| {
            let column = batch.column_by_name(name).filter(|c| *c.data_type() == DataType::Utf8);
            column
                .map(AsArray::as_string::<i32>)
                .ok_or_else(|| Error::input(format!("no text column `{name}`")))
        };
        let (keys, statuses) = (text("key")?, text("status")?);
        let mut images = BinaryBuilder::new();
        for row in 0..batch.num_rows() {
            if statuses.value(row) != Status::Success.as_str() {
                images.append_null();
                continue;
            }
            let key = keys.value(row);
            let &(offset, len) = self.pictures.get(key).ok_or_else(|| {
                Error::input(format!(
                    "the parquet has sample {key} as a success, the tar has no picture of it"
                ))
            })?;
            let len = usize::try_from(len)
                .map_err(|_| Error::input(format!("sample {key} is too large")))?;
            images.append_value(self.tar.read_at(offset, len)?);
        }
        Ok(Arc::new(images.finish()))
    }
}

impl Iterator for PoolReader {
    type Item = Result<Pairs>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = match self.next_rows()? {
            Ok(batch) => batch,
            Err(error) => return Some(Err(error)),
        };
        Some(self.pairs(&batch).map_err(|e| e.at(self.tar.name())))
    }
}

#[cfg(test)]
mod tests {
    use stage::{PairRow, PairsBuilder};

    use super::*;
    use crate::PoolWriter;

    fn picture(grey: u8) -> Vec<u8> {
        pixels::encode_png(&pixels::Picture { width: 2, height: 2, rgb: vec![grey; 12] }, 6)
    }

    #[test]
    fn what_was_written_comes_back_failures_included() {
        let mut builder = PairsBuilder::default();
        let images = [picture(1), picture(2)];
        for (i, image) in [Some(&images[0]), None, Some(&images[1])].into_iter().enumerate() {
            builder.push(PairRow {
                uid: "139e4a9b22a614771f06c700a8ebe150",
                key: &format!("00000000{i}"),
                url: "http://a.example/1.png",
                caption: "grey",
                status: if image.is_some() { Status::Success } else { Status::FailedToDownload },
                error_message: image.is_none().then_some("http_404"),
                size: image.map(|_| (2, 2)),
                original_size: image.map(|_| (2, 2)),
                sha256: None,
                image: image.map(Vec::as_slice),
            });
        }
        let pairs = builder.finish();
        let folder = tempfile::tempdir().unwrap();
        let (tar, parquet) = (folder.path().join("00000.tar"), folder.path().join("00000.parquet"));
        let mut writer = PoolWriter::new(Vec::new());
        writer.push(&pairs).unwrap();
        let mut rows = Vec::new();
        let (bytes, _) = writer.finish(&mut rows, Vec::new()).unwrap();
        std::fs::write(&tar, bytes).unwrap();
        std::fs::write(&parquet, rows).unwrap();
        let parquet = Blob::open(parquet.to_str().unwrap()).unwrap();
        let read: Vec<Pairs> = PoolReader::open(tar.to_str().unwrap(), &parquet)
            .unwrap()
            .collect::<Result<_>>()
            .unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].batch().columns(), pairs.batch().columns());
    }
}
