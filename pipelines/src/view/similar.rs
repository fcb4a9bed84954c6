//! Neighbours by embedding, exactly: every row is compared.

use std::path::Path;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use stage::{Error, Result};
use store::Blob;
use store::npy;
use store::parquet::{File, Pick};
use store::subset::Uid;

/// Rows that are read at once.
const CHUNK: usize = 4096;

/// The image embeddings of an `embed` stage.
pub(super) struct Similar {
    parts: Vec<npy::File>,
    /// Uid of each row, over all parts.
    uids: Vec<Uid>,
}

impl Similar {
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let (mut parts, mut uids) = (Vec::new(), Vec::new());
        let place = |name: &str| folder.join(name).display().to_string();
        let files = store::expand(&place("img_emb/*.npy"))?;
        for file in &files {
            let name = file.rsplit('/').next().unwrap_or(file);
            let part = name.strip_prefix("img_emb_").and_then(|n| n.strip_suffix(".npy"));
            let part = part.ok_or_else(|| Error::input("not img_emb_<part>.npy").at(file))?;
            let array = npy::File::open(&Blob::open(file)?)?;
            let before = uids.len();
            let metadata = Blob::open(&place(&format!("metadata/metadata_{part}.parquet")))?;
            let table = File::open(&metadata)?;
            for batch in table.batches(&Pick { columns: Some(&["uid"]), ..Pick::default() })? {
                let batch = batch?;
                let column = batch.column_by_name("uid").and_then(|c| c.as_string_opt::<i32>());
                let column =
                    column.ok_or_else(|| Error::input("`uid` is no text").at(metadata.name()))?;
                uids.extend((0..column.len()).map(|row| {
                    let uid = column.is_valid(row).then(|| Uid::parse(column.value(row)));
                    uid.flatten().unwrap_or(Uid(0, 0))
                }));
            }
            if array.len() != uids.len() - before {
                return Err(Error::input(format!(
                    "{} embeddings, {} rows in {}",
                    array.len(),
                    uids.len() - before,
                    metadata.name()
                ))
                .at(file));
            }
            parts.push(array);
        }
        Ok(Self { parts, uids })
    }

    /// The uids nearest to this one, itself first, with the cosine; ties in the order of rows.
    pub(super) fn near(&self, uid: &str, count: usize) -> Result<Vec<(String, f32)>> {
        let no_row = || Error::input(format!("no embedding of the pair {uid:?}"));
        let wanted = Uid::parse(uid).ok_or_else(no_row)?;
        let mut at = self.uids.iter().position(|uid| *uid == wanted).ok_or_else(no_row)?;
        let mut asked = Vec::new();
        for part in &self.parts {
            if at < part.len() {
                asked = part.rows_as_f32(at..at + 1)?;
                break;
            }
            at -= part.len();
        }
        let mut best: Vec<(f32, usize)> = Vec::new();
        let mut first = 0;
        for part in &self.parts {
            let width = part.row_len();
            if width != asked.len() || width == 0 {
                return Err(Error::input("parts of the embeddings have different widths"));
            }
            for start in (0..part.len()).step_by(CHUNK) {
                let rows = start..part.len().min(start + CHUNK);
                let numbers = part.rows_as_f32(rows.clone())?;
                for (row, vector) in rows.zip(numbers.chunks_exact(width)) {
                    let dot = vector.iter().zip(&asked).map(|(a, b)| a * b).sum::<f32>();
                    if dot.is_finite() {
                        best.push((dot, first + row));
                    }
                }
                best.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
                best.truncate(count);
            }
            first += part.len();
        }
        let named = best
            .into_iter()
            .filter_map(|(dot, row)| self.uids.get(row).map(|uid| (uid.to_string(), dot)));
        Ok(named.collect())
    }
}
