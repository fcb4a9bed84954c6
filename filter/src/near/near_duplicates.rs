//! Keeps one of each group of pictures that look alike.
//!
//! Greedy: pairs in order of preference, each turned away when a kept one is near. So every pair
//! that is dropped has a kept one within the distance, which it is written down with, and no chain
//! of small steps drops a picture for one that looks different.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{Float32Array, RecordBatch, StringArray, UInt32Array};
use arrow_schema::{DataType, Field, Schema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage::{Context, Counts, Error, Result, ResultExt};
use store::Attempt;
use store::parquet::{Layout, Writer};
use store::subset;

use super::SUBSET;
use super::features::Features;
use super::hashes::{Index, MOST_DISTANCE, says_something};
use super::table::{Hashed, hashes_of};

/// Removes near-duplicates by the `phash` of a judge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NearDuplicatesPlan {
    /// Most bits in which two hashes of one picture differ, 0..=12; default 4.
    pub max_distance: u32,
    /// Column by which one of a group is kept, the largest value; of equal ones, and by default,
    /// the smallest uid.
    pub prefer: Option<String>,
    /// The id of an `embed` or `embeddings` stage, or a folder of embeddings (clip-retrieval's
    /// layout, or DataComp's npz beside parquet, the array `l14_img`): a neighbour by hash must be
    /// one by `min_cosine` too. Default none.
    pub embeddings: Option<String>,
    /// Least cosine of two picture embeddings, -1..=1; default 0.9. For `embeddings` alone.
    pub min_cosine: f32,
}

impl Default for NearDuplicatesPlan {
    fn default() -> Self {
        Self { max_distance: 4, prefer: None, embeddings: None, min_cosine: 0.9 }
    }
}

/// What was dropped, and for which pair.
pub const DUPLICATES: &str = "duplicates.parquet";

impl NearDuplicatesPlan {
    /// Checks the ranges of the fields.
    pub fn validate(&self) -> Result<()> {
        if self.max_distance > MOST_DISTANCE {
            let message =
                format!("max_distance must lie in 0..={MOST_DISTANCE}, got {}", self.max_distance);
            return Err(Error::recipe(message));
        }
        if !(-1.0..=1.0).contains(&self.min_cosine) {
            let message = format!("min_cosine must lie in -1..=1, got {}", self.min_cosine);
            return Err(Error::recipe(message));
        }
        Ok(())
    }

    /// Reads score tables, writes the uids that remain (`subset.npy`) and `duplicates.parquet`
    /// (`uid`, `kept_uid`, `distance` in bits, `cosine`).
    ///
    /// Dropped: `near_duplicate`, and what judges dropped. A pair whose hash says nothing (a
    /// picture of one colour), or that has no embedding where they are asked for, is kept.
    ///
    /// # Errors
    /// A table without `phash`, embeddings that cannot be read, or nothing left.
    pub fn run(
        &self,
        cx: &Context,
        tables: &[String],
        features: Option<&Features>,
        out: &mut Attempt,
    ) -> Result<Counts> {
        self.validate()?;
        let mut counts = Counts::default();
        let mut rows = hashes_of(tables, self.prefer.as_deref(), &mut counts)?;
        rows.sort_by(|a, b| b.preference.total_cmp(&a.preference).then(a.uid.cmp(&b.uid)));
        let numbers: HashMap<&str, usize> = match features {
            Some(features) => {
                features.names.iter().enumerate().map(|(i, n)| (n.as_str(), i)).collect()
            }
            None => HashMap::new(),
        };
        let vector = |row: &Hashed| -> Option<&[f32]> {
            features?.row(*numbers.get(row.uid.to_string().as_str())?).into()
        };
        let mut index = Index::new(self.max_distance);
        let mut indexed: Vec<&Hashed> = Vec::new();
        let (mut kept, mut dropped) = (Vec::new(), Dropped::default());
        for (done, row) in rows.iter().enumerate() {
            if done % 65_536 == 0 {
                cx.cancel.check()?;
                cx.progress.update(done as u64, rows.len() as u64, "pairs");
            }
            let mut cosine = None;
            let hash = row.hash.filter(|hash| says_something(*hash));
            let near = hash.and_then(|hash| {
                index.nearest(hash, |number| {
                    if features.is_none() {
                        return true;
                    }
                    let other = indexed.get(number as usize).and_then(|other| vector(other));
                    cosine = vector(row).zip(other).map(|(a, b)| crate::clip::cosine(a, b));
                    cosine.is_some_and(|cosine| cosine >= self.min_cosine)
                })
            });
            match near
                .and_then(|(distance, number)| Some((distance, indexed.get(number as usize)?)))
            {
                Some((distance, other)) => {
                    counts.drop("near_duplicate");
                    dropped.add(row, other, distance, cosine);
                }
                None => {
                    counts.keep();
                    kept.push(row.uid);
                    if let Some(hash) = hash {
                        index.add(hash);
                        indexed.push(row);
                    }
                }
            }
        }
        if kept.is_empty() {
            return Err(Error::input(format!("no pair is left of {}", counts.entered)));
        }
        kept.sort_unstable();
        let mut file = out.file(SUBSET)?;
        subset::write(&mut file, &kept)?;
        file.finish()?;
        dropped.write(out)?;
        counts.check()?;
        Ok(counts)
    }
}

/// Rows of `duplicates.parquet`.
#[derive(Default)]
struct Dropped {
    uids: Vec<String>,
    kept: Vec<String>,
    distances: Vec<u32>,
    cosines: Vec<Option<f32>>,
}

impl Dropped {
    fn add(&mut self, row: &Hashed, kept: &Hashed, distance: u32, cosine: Option<f32>) {
        self.uids.push(row.uid.to_string());
        self.kept.push(kept.uid.to_string());
        self.distances.push(distance);
        self.cosines.push(cosine);
    }

    fn write(self, out: &mut Attempt) -> Result<()> {
        let schema = Arc::new(Schema::new(vec![
            Field::new("uid", DataType::Utf8, false),
            Field::new("kept_uid", DataType::Utf8, false),
            Field::new("distance", DataType::UInt32, false),
            Field::new("cosine", DataType::Float32, true),
        ]));
        let batch = RecordBatch::try_new(
            Arc::clone(&schema),
            vec![
                Arc::new(StringArray::from(self.uids)),
                Arc::new(StringArray::from(self.kept)),
                Arc::new(UInt32Array::from(self.distances)),
                Arc::new(Float32Array::from(self.cosines)),
            ],
        );
        let mut writer = Writer::new(out.file(DUPLICATES)?, &schema, &Layout::default())?;
        writer.write(&batch.internal("duplicates")?)?;
        writer.finish()?.finish()
    }
}
