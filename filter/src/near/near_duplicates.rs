//! Keeps one of each group of pictures that look alike.
//!
//! Greedy: pairs in order of preference, each turned away when a kept one is near. So every pair
//! that is dropped has a kept one within the distance, which it is written down with, and no chain
//! of small steps drops a picture for one that looks different.
//!
//! What remains is a list of uids. Rows of one uid therefore stay or go together: where one is near
//! another uid's, all go.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{Float32Array, StringArray, UInt32Array};
use arrow_schema::{DataType, Field, Schema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stage::{Context, Counts, Error, Result};
use store::Attempt;
use store::subset::{self, Uid};

use super::features::Features;
use super::hashes::{Index, MOST_DISTANCE, says_something};
use super::table::{Hashed, hashes_of};
use super::{Found, SUBSET, write_table};

/// Removes near-duplicates by the `phash` of a judge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NearDuplicatesPlan {
    /// Most bits in which two hashes of one picture differ, 0..=12; default 4.
    pub max_distance: u32,
    /// Column of numbers by which one of a group is kept, the largest value (a missing or infinite
    /// one is below all); of equal ones, and by default, the smallest uid.
    pub prefer: Option<String>,
    /// The id of an `embed` or `embeddings` stage, or a folder of embeddings (clip-retrieval's
    /// layout, or DataComp's npz beside parquet, the array `l14_img`): a neighbour by hash must be
    /// one by `min_cosine` too. Default none.
    pub embeddings: Option<String>,
    /// Least cosine of two picture embeddings, -1..=1; default 0.9. With `embeddings` alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_cosine: Option<f32>,
}

impl Default for NearDuplicatesPlan {
    fn default() -> Self {
        Self { max_distance: 4, prefer: None, embeddings: None, min_cosine: None }
    }
}

/// The default of `min_cosine`.
const MIN_COSINE: f32 = 0.9;
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
        match self.min_cosine {
            Some(cosine) if !(-1.0..=1.0).contains(&cosine) => {
                Err(Error::recipe(format!("min_cosine must lie in -1..=1, got {cosine}")))
            }
            Some(_) if self.embeddings.is_none() => {
                let message = "min_cosine goes with embeddings, and none are named";
                Err(Error::recipe(message).hint("name them in `embeddings`, or leave it out"))
            }
            _ => Ok(()),
        }
    }

    /// Reads score tables, writes the uids that remain (`subset.npy`) and `duplicates.parquet`
    /// (`uid`, `kept_uid`, `distance` in bits, `cosine`).
    ///
    /// Dropped: `near_duplicate`, `same_uid` (another row of the uid is a near-duplicate of another
    /// uid's), and what judges dropped. A pair whose hash says nothing (a picture of one colour), or
    /// that has no embedding where they are asked for, is kept; the info counts the latter as
    /// `without_embedding`.
    ///
    /// # Errors
    /// A table without `phash`, a `prefer` that is no number, embeddings that cannot be read or of
    /// which none belongs to a pair with a hash, or nothing left.
    pub fn run(
        &self,
        cx: &Context,
        tables: &[String],
        features: Option<&Features>,
        out: &mut Attempt,
    ) -> Result<Found> {
        self.validate()?;
        let mut counts = Counts::default();
        let mut rows = hashes_of(tables, self.prefer.as_deref(), &mut counts)?;
        rows.sort_by(|a, b| b.preference.total_cmp(&a.preference).then(a.uid.cmp(&b.uid)));
        let vectors = features.map(Vectors::of);
        let without = vectors.as_ref().map(|vectors| vectors.check(&rows)).transpose()?;
        let mut search = Search {
            index: Index::new(self.max_distance),
            indexed: Vec::new(),
            vectors,
            min_cosine: self.min_cosine.unwrap_or(MIN_COSINE),
        };
        let groups = repeated(&rows);
        let (mut kept, mut dropped) = (Vec::new(), Dropped::default());
        for (done, row) in rows.iter().enumerate() {
            if done % 65_536 == 0 {
                cx.cancel.check()?;
                cx.progress.update(done as u64, rows.len() as u64, "pairs");
            }
            let alone = [done as u32];
            let group = match groups.get(&row.uid) {
                // Looked at where its first row is.
                Some(group) if group.first() != Some(&alone[0]) => continue,
                Some(group) => group.as_slice(),
                None => &alone,
            };
            let group = || group.iter().filter_map(|&i| rows.get(i as usize));
            let near: Vec<Option<Near<'_>>> = group().map(|row| search.nearest(row)).collect();
            if near.iter().any(Option::is_some) {
                for (row, near) in group().zip(near) {
                    counts.drop(if near.is_some() { "near_duplicate" } else { "same_uid" });
                    near.into_iter().for_each(|near| dropped.add(row, &near));
                }
                continue;
            }
            for (i, row) in group().enumerate() {
                // Another row of this uid may be near.
                if i > 0
                    && let Some(near) = search.nearest(row)
                {
                    counts.drop("near_duplicate");
                    dropped.add(row, &near);
                    continue;
                }
                counts.keep();
                kept.push(row.uid);
                search.add(row);
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
        let info = without.map_or(Value::Null, |without| json!({"without_embedding": without}));
        Ok(Found { counts, info })
    }
}

/// The places of the rows whose uid stands in several, by uid.
fn repeated(rows: &[Hashed]) -> HashMap<Uid, Vec<u32>> {
    let mut uids: Vec<Uid> = rows.iter().map(|row| row.uid).collect();
    uids.sort_unstable();
    let twice = uids.windows(2).filter(|pair| pair[0] == pair[1]);
    let mut groups: HashMap<Uid, Vec<u32>> = twice.map(|pair| (pair[0], Vec::new())).collect();
    if !groups.is_empty() {
        for (i, row) in rows.iter().enumerate() {
            groups.entry(row.uid).and_modify(|group| group.push(i as u32));
        }
    }
    groups
}

/// Embeddings by uid.
struct Vectors<'a> {
    features: &'a Features,
    places: HashMap<Uid, usize>,
}

impl<'a> Vectors<'a> {
    fn of(features: &'a Features) -> Self {
        let names = features.names.iter().enumerate();
        let places = names.filter_map(|(i, name)| Some((Uid::parse(name)?, i))).collect();
        Self { features, places }
    }

    fn get(&self, uid: Uid) -> Option<&'a [f32]> {
        self.places.get(&uid).map(|&i| self.features.row(i))
    }

    /// How many of the rows with a hash have no embedding.
    ///
    /// # Errors
    /// All of them.
    fn check(&self, rows: &[Hashed]) -> Result<usize> {
        let hashed: Vec<&Hashed> = rows.iter().filter(|row| row.hash.is_some()).collect();
        let without = hashed.iter().filter(|row| !self.places.contains_key(&row.uid)).count();
        if without < hashed.len() || hashed.is_empty() {
            return Ok(without);
        }
        let name = self.features.names.first().map_or("nothing", String::as_str);
        let message = format!(
            "none of {without} pairs with a hash has an embedding: there they are called such as `{name}`, here `{}`",
            hashed.first().map(|row| row.uid.to_string()).unwrap_or_default()
        );
        Err(Error::input(message)
            .at("embeddings")
            .hint("embed this pool: its embeddings need a column `uid` in their metadata"))
    }
}

/// The pairs that are kept so far.
struct Search<'a> {
    index: Index,
    indexed: Vec<&'a Hashed>,
    vectors: Option<Vectors<'a>>,
    min_cosine: f32,
}

/// A kept pair that looks like another one.
struct Near<'a> {
    kept: &'a Hashed,
    distance: u32,
    cosine: Option<f32>,
}

impl<'a> Search<'a> {
    fn nearest(&self, row: &Hashed) -> Option<Near<'a>> {
        let hash = row.hash.filter(|hash| says_something(*hash))?;
        let mut cosine = None;
        let (distance, number) = self.index.nearest(hash, |number| {
            let Some(vectors) = &self.vectors else { return true };
            let other = self.indexed.get(number as usize);
            let pair = vectors.get(row.uid).zip(other.and_then(|other| vectors.get(other.uid)));
            cosine = pair.map(|(a, b)| crate::clip::cosine(a, b));
            cosine.is_some_and(|cosine| cosine >= self.min_cosine)
        })?;
        Some(Near { kept: self.indexed.get(number as usize)?, distance, cosine })
    }

    fn add(&mut self, row: &'a Hashed) {
        if let Some(hash) = row.hash.filter(|hash| says_something(*hash)) {
            self.index.add(hash);
            self.indexed.push(row);
        }
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
    fn add(&mut self, row: &Hashed, near: &Near<'_>) {
        self.uids.push(row.uid.to_string());
        self.kept.push(near.kept.uid.to_string());
        self.distances.push(near.distance);
        self.cosines.push(near.cosine);
    }

    fn write(self, out: &mut Attempt) -> Result<()> {
        let schema = Arc::new(Schema::new(vec![
            Field::new("uid", DataType::Utf8, false),
            Field::new("kept_uid", DataType::Utf8, false),
            Field::new("distance", DataType::UInt32, false),
            Field::new("cosine", DataType::Float32, true),
        ]));
        write_table(out, DUPLICATES, &schema, self.uids.len(), |rows| {
            vec![
                Arc::new(StringArray::from_iter_values(&self.uids[rows.clone()])),
                Arc::new(StringArray::from_iter_values(&self.kept[rows.clone()])),
                Arc::new(UInt32Array::from(self.distances[rows.clone()].to_vec())),
                Arc::new(Float32Array::from(self.cosines[rows].to_vec())),
            ]
        })
    }
}
