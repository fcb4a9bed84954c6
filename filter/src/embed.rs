//! Features of any shards as files, in clip-retrieval's layout.
//!
//! Format: `rom1504/clip-retrieval`, `clip_retrieval/clip_inference/`: for each partition
//! `img_emb/img_emb_<p>.npy` and `text_emb/text_emb_<p>.npy` (float16, rows of length 1) and
//! `metadata/metadata_<p>.parquet`, row i of each file for the same pair. Pairs whose picture
//! cannot be decoded leave no row, as there; here they are counted.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::{RecordBatch, UInt32Array};
use arrow_schema::{Field, Schema, SchemaRef};
use arrow_select::take::take;
use half::f16;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage::{Counts, Error, PairSource, Pairs, Result, ResultExt};
use store::Attempt;
use store::npy;
use store::parquet::{Layout, Writer};

use crate::clip::{ClipEncoder, Precision, validate_batch_size};
use crate::judge::{JudgeContext, is_success};

/// Embeds pictures and captions with a CLIP model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmbedPlan {
    /// The model: the id of a stage that makes a checkpoint, or a path.
    pub checkpoint: String,
    /// Pairs in one forward pass on an accelerator, in 1..=4096; default 32. On the CPU a pass
    /// always has 32, so that no setting changes the last bits of the result.
    #[serde(default = "default_batch_size")]
    pub batch_size: u32,
    /// The numbers that the weights are used in: `f32` (default), or `bf16` for speed.
    #[serde(default, skip_serializing_if = "Precision::is_f32")]
    pub precision: Precision,
}

fn default_batch_size() -> u32 {
    32
}

/// Pairs read at once: what is held in memory as pictures.
const READ_ROWS: usize = 512;

/// Columns of the metadata, as clip-retrieval calls them, and where they come from.
const METADATA: [(&str, &str); 8] = [
    ("image_path", "key"),
    ("caption", "caption"),
    ("uid", "uid"),
    ("url", "url"),
    ("width", "width"),
    ("height", "height"),
    ("original_width", "original_width"),
    ("original_height", "original_height"),
];

impl EmbedPlan {
    /// Checks the ranges of the fields.
    pub fn validate(&self) -> Result<()> {
        validate_batch_size(self.batch_size)
    }

    /// Embeds `rows` of `source` as partition `name` (clip-retrieval writes `0`, `1`, ..., padded
    /// to one length). The features of the partition are held in memory: `4 * dim` bytes a pair.
    ///
    /// Dropped: `nonfinite` where a feature has no direction, `no_image`, the decoder's
    /// own words.
    ///
    /// # Errors
    /// When there is no pair, a shard cannot be read, the checkpoint not used, or the output
    /// refuses.
    pub fn run(
        &self,
        cx: &JudgeContext<'_>,
        source: &dyn PairSource,
        rows: Range<usize>,
        name: &str,
        out: &mut Attempt,
    ) -> Result<Counts> {
        self.validate()?;
        if rows.is_empty() || rows.end > source.len() {
            let message = format!("no pair {}..{} among {}", rows.start, rows.end, source.len());
            return Err(Error::input(message).at("embed"));
        }
        let encoder = ClipEncoder::open(cx, &self.checkpoint, self.precision, self.batch_size)?;
        let mut counts = Counts::default();
        let mut embeddings = Embeddings::default();
        let schema = metadata_schema()?;
        let file = out.file(&format!("metadata/metadata_{name}.parquet"))?;
        let mut metadata = Writer::new(file, &schema, &Layout::default())?;
        let total = rows.len() as u64;
        let mut start = rows.start;
        while start < rows.end {
            let end = rows.end.min(start + READ_ROWS);
            let indices: Vec<usize> = (start..end).collect();
            let pairs = source.read(&indices)?;
            let kept = embed_batch(&encoder, &pairs, &mut embeddings, &mut counts)?;
            metadata.write(&metadata_rows(&pairs, kept, &schema)?)?;
            start = end;
            cx.stage.progress.update(counts.entered, total, "pairs");
        }
        metadata.finish()?.finish()?;
        embeddings.write(encoder.dim(), name, out)?;
        counts.check()?;
        Ok(counts)
    }
}

/// Embeds a batch and gives back the rows that have features.
fn embed_batch(
    encoder: &ClipEncoder,
    pairs: &Pairs,
    embeddings: &mut Embeddings,
    counts: &mut Counts,
) -> Result<Vec<u32>> {
    let mut rows = Vec::with_capacity(pairs.len());
    for i in 0..pairs.len() {
        if is_success(pairs, i) {
            rows.push(i);
        } else {
            counts.fail(pairs.statuses().value(i));
        }
    }
    let mut kept = Vec::with_capacity(rows.len());
    encoder.encode(pairs, &rows, |i, features| {
        match features.map(|f| Some((unit_length(f.image)?, unit_length(f.text)?))) {
            Ok(Some((image, text))) => {
                embeddings.image.extend(image);
                embeddings.text.extend(text);
                kept.push(i as u32);
                counts.keep();
            }
            Ok(None) => counts.drop("nonfinite"),
            Err(reason) => counts.drop(reason),
        }
        Ok(())
    })?;
    Ok(kept)
}

/// The vector at length 1 in float16; `None` where it has no direction.
fn unit_length(vector: &[f32]) -> Option<Vec<f16>> {
    let square: f64 = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let norm = square.sqrt();
    if !norm.is_finite() || norm == 0.0 {
        return None;
    }
    Some(vector.iter().map(|&x| f16::from_f64(f64::from(x) / norm)).collect())
}

/// Both towers' rows, one after another.
#[derive(Default)]
struct Embeddings {
    image: Vec<f16>,
    text: Vec<f16>,
}

impl Embeddings {
    fn write(&self, dim: usize, name: &str, out: &mut Attempt) -> Result<()> {
        for (tower, numbers) in [("img", &self.image), ("text", &self.text)] {
            let mut file = out.file(&format!("{tower}_emb/{tower}_emb_{name}.npy"))?;
            let rows = numbers.len().checked_div(dim).unwrap_or(0);
            npy::write(&mut file, &[rows, dim], numbers)?;
            file.finish()?;
        }
        Ok(())
    }
}

fn metadata_schema() -> Result<SchemaRef> {
    let pairs = Pairs::schema();
    let field = |(name, from): (&str, &str)| {
        let kind = pairs.field_with_name(from).internal("a column of pairs")?.data_type().clone();
        Ok(Field::new(name, kind, true))
    };
    Ok(Arc::new(Schema::new(METADATA.into_iter().map(field).collect::<Result<Vec<_>>>()?)))
}

fn metadata_rows(pairs: &Pairs, rows: Vec<u32>, schema: &SchemaRef) -> Result<RecordBatch> {
    let rows = UInt32Array::from(rows);
    let columns = METADATA.into_iter().map(|(_, from)| {
        let column = pairs.batch().column_by_name(from);
        let column = column.ok_or_else(|| Error::internal(format!("pairs have no `{from}`")))?;
        take(column, &rows, None).internal("cannot take rows")
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    RecordBatch::try_new(Arc::clone(schema), columns).internal("the metadata has other columns")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_length_one_and_a_vector_without_direction_is_none() {
        assert_eq!(unit_length(&[3.0, -4.0]), Some(vec![f16::from_f32(0.6), f16::from_f32(-0.8)]));
        assert_eq!(unit_length(&[0.0, 0.0]), None);
        assert_eq!(unit_length(&[f32::NAN, 1.0]), None);
        assert_eq!(unit_length(&[f32::INFINITY, 1.0]), None);
    }
}
