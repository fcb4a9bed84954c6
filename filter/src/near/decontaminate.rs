//! Removes pictures that stand in evaluation sets.
//!
//! DataComp removes training pictures near those of its evaluation sets by the cosine of copy
//! detection features; which cosine separates copies depends on the model, so `min_cosine` is a
//! field and every hit is written down with its cosine.

use std::collections::HashSet;
use std::sync::Arc;

use arrow_array::{Float32Array, StringArray, UInt32Array};
use arrow_schema::{DataType, Field, Schema};
use models::inner_products;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stage::{Context, Counts, Error, Result};
use store::Attempt;
use store::subset::{self, Uid};

use super::features::Features;
use super::hashes::{Index, MOST_DISTANCE, says_something};
use super::table::{Hashed, Rows, hashes_of, rows_of};
use super::{Found, SUBSET, leave_out, write_table};

/// Removes pairs whose picture is near one of an evaluation set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DecontaminatePlan {
    /// Evaluation sets by their embeddings: ids of `embed` or `embeddings` stages, or folders in
    /// clip-retrieval's layout or DataComp's (npz beside parquet, the array `l14_img`). This stage
    /// then takes embeddings, of the same model.
    #[serde(default)]
    pub against: Vec<String>,
    /// Evaluation sets by their hashes: ids of `judge` stages, or score parquets, with `phash`.
    /// This stage then takes scores. Either this or `against`.
    #[serde(default)]
    pub against_hashes: Vec<String>,
    /// Least cosine of a hit, above -1 and at most 1; default 0.95. With `against` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_cosine: Option<f32>,
    /// Most bits of a hit, 0..=12; default 4. With `against_hashes` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_distance: Option<u32>,
}

const MIN_COSINE: f32 = 0.95;
const DISTANCE: u32 = 4;
/// What was dropped, and for which picture of which set.
const HITS: &str = "contaminated.parquet";
/// Rows of the pool and of an evaluation set that meet at once: 4 MB of products.
const BLOCK: usize = 1024;

impl DecontaminatePlan {
    /// Checks the ranges of the fields.
    pub fn validate(&self) -> Result<()> {
        if self.against.is_empty() == self.against_hashes.is_empty() {
            return Err(Error::recipe("either against or against_hashes names evaluation sets"));
        }
        match (self.min_cosine, self.max_distance) {
            (Some(_), _) if self.against.is_empty() => {
                let message = "min_cosine goes with against; hashes have max_distance";
                Err(Error::recipe(message))
            }
            (_, Some(_)) if self.against_hashes.is_empty() => {
                let message = "max_distance goes with against_hashes; embeddings have min_cosine";
                Err(Error::recipe(message))
            }
            (Some(cosine), _) if !(cosine > -1.0 && cosine <= 1.0) => {
                let message =
                    format!("min_cosine must lie above -1 and at most at 1, got {cosine}");
                Err(Error::recipe(message))
            }
            (_, Some(bits)) if bits > MOST_DISTANCE => {
                let message = format!("max_distance must lie in 0..={MOST_DISTANCE}, got {bits}");
                Err(Error::recipe(message))
            }
            _ => Ok(()),
        }
    }

    fn least_cosine(&self) -> f32 {
        self.min_cosine.unwrap_or(MIN_COSINE)
    }

    /// By embeddings: writes `subset.npy` and `contaminated.parquet` (`uid`, `set`, `match`: the
    /// uid or path there, `cosine`, `distance`).
    ///
    /// Dropped: `contaminated`, `same_uid` (another row of the uid is), `nonfinite` for a feature
    /// without direction.
    ///
    /// # Errors
    /// Features of different lengths, a row whose name is no uid, or nothing left.
    pub fn by_features(
        &self,
        cx: &Context,
        pool: &Features,
        sets: &[(String, Features)],
        out: &mut Attempt,
    ) -> Result<Found> {
        self.validate()?;
        for (name, set) in sets {
            if set.is_empty() {
                return Err(Error::input("no feature in it").at(name.clone()));
            }
            if set.dim != pool.dim {
                let message = format!("features of {}, the pool's have {}", set.dim, pool.dim);
                return Err(Error::input(message)
                    .at(name.clone())
                    .hint("embed both with one model"));
            }
        }
        let (mut counts, mut kept, mut hits) = (Counts::default(), Vec::new(), Hits::default());
        let mut gone = HashSet::new();
        (0..pool.nonfinite).for_each(|_| counts.drop("nonfinite"));
        for start in (0..pool.len()).step_by(BLOCK) {
            cx.cancel.check()?;
            cx.progress.update(start as u64, pool.len() as u64, "pairs");
            let rows = start..pool.len().min(start + BLOCK);
            let best = self.best(pool, rows.clone(), sets)?;
            for (i, best) in rows.zip(best) {
                let name = &pool.names[i];
                let uid = Uid::parse(name);
                let uid = uid.ok_or_else(|| Error::input(format!("`{name}` is no uid")))?;
                match best.filter(|best| best.cosine >= self.least_cosine()) {
                    Some(best) => {
                        counts.drop("contaminated");
                        gone.insert(uid);
                        hits.add(name, &best.set, &best.name, Some(best.cosine), None);
                    }
                    None => {
                        counts.keep();
                        kept.push(uid);
                    }
                }
            }
        }
        leave_out(&mut kept, &gone, &mut counts);
        write(kept, &hits, &counts, out)?;
        Ok(Found { counts, info: Value::Null })
    }

    /// The nearest picture of all sets for each of these rows.
    fn best(
        &self,
        pool: &Features,
        rows: std::ops::Range<usize>,
        sets: &[(String, Features)],
    ) -> Result<Vec<Option<Best>>> {
        let mut best: Vec<Option<Best>> = (0..rows.len()).map(|_| None).collect();
        let numbers = &pool.numbers[rows.start * pool.dim..rows.end * pool.dim];
        for (set, features) in sets {
            for start in (0..features.len()).step_by(BLOCK) {
                let end = features.len().min(start + BLOCK);
                let other = &features.numbers[start * pool.dim..end * pool.dim];
                let products = inner_products(numbers, other, pool.dim)?;
                for (best, products) in best.iter_mut().zip(products.chunks_exact(end - start)) {
                    for (number, cosine) in products.iter().enumerate() {
                        if best.as_ref().is_none_or(|best| *cosine > best.cosine)
                            && *cosine >= self.least_cosine()
                        {
                            let name = features.names[start + number].clone();
                            *best = Some(Best { cosine: *cosine, set: set.clone(), name });
                        }
                    }
                }
            }
        }
        Ok(best)
    }

    /// By hashes: the same files; `match` is the uid there. Of an evaluation set all pictures
    /// count, also those that a judge turned away; the info tells for each set how many have no
    /// hash, or one that says nothing (`pictures_without_hash`).
    ///
    /// Dropped: `contaminated`, `same_uid` (another row of the uid is), and what judges dropped.
    ///
    /// # Errors
    /// A table without `phash`, a set without a hash that says something, or nothing left.
    pub fn by_hashes(
        &self,
        cx: &Context,
        pool: &[String],
        sets: &[(String, Vec<String>)],
        out: &mut Attempt,
    ) -> Result<Found> {
        self.validate()?;
        let mut index = Index::new(self.max_distance.unwrap_or(DISTANCE));
        let (mut names, mut without) = (Vec::new(), serde_json::Map::new());
        for (set, tables) in sets {
            let (before, mut failed) = (names.len(), Counts::default());
            let rows = rows_of(tables, Rows::WithPicture, None, &mut failed)?;
            let pictures = rows.len();
            for row in rows {
                if let Some(hash) = row.hash.filter(|hash| says_something(*hash)) {
                    index.add(hash);
                    names.push((set.as_str(), row.uid));
                }
            }
            let hashes = names.len() - before;
            if hashes == 0 {
                let message = format!(
                    "no usable hash among its {pictures} pictures ({} rows have no picture)",
                    failed.entered
                );
                return Err(Error::input(message).at(set.clone()).hint(
                    "pictures of one colour have none; look at the counts of the judge that made it",
                ));
            }
            without.insert(set.clone(), json!(pictures - hashes));
        }
        let (mut counts, mut kept, mut hits) = (Counts::default(), Vec::new(), Hits::default());
        let mut gone = HashSet::new();
        let rows = hashes_of(pool, None, &mut counts)?;
        for (i, Hashed { uid, hash, .. }) in rows.iter().enumerate() {
            if i % 65_536 == 0 {
                cx.cancel.check()?;
                cx.progress.update(i as u64, rows.len() as u64, "pairs");
            }
            let near = hash.filter(|h| says_something(*h)).and_then(|h| index.nearest(h, |_| true));
            match near.and_then(|(distance, number)| Some((distance, names.get(number as usize)?)))
            {
                Some((distance, (set, other))) => {
                    counts.drop("contaminated");
                    gone.insert(*uid);
                    hits.add(&uid.to_string(), set, &other.to_string(), None, Some(distance));
                }
                None => {
                    counts.keep();
                    kept.push(*uid);
                }
            }
        }
        leave_out(&mut kept, &gone, &mut counts);
        write(kept, &hits, &counts, out)?;
        Ok(Found { counts, info: json!({"pictures_without_hash": without}) })
    }
}

struct Best {
    cosine: f32,
    set: String,
    name: String,
}

fn write(mut kept: Vec<Uid>, hits: &Hits, counts: &Counts, out: &mut Attempt) -> Result<()> {
    if kept.is_empty() {
        return Err(Error::input(format!("no pair is left of {}", counts.entered)));
    }
    kept.sort_unstable();
    let mut file = out.file(SUBSET)?;
    subset::write(&mut file, &kept)?;
    file.finish()?;
    hits.write(out)?;
    counts.check()
}

/// Rows of `contaminated.parquet`.
#[derive(Default)]
struct Hits {
    uids: Vec<String>,
    sets: Vec<String>,
    matches: Vec<String>,
    cosines: Vec<Option<f32>>,
    distances: Vec<Option<u32>>,
}

impl Hits {
    fn add(
        &mut self,
        uid: &str,
        set: &str,
        name: &str,
        cosine: Option<f32>,
        distance: Option<u32>,
    ) {
        self.uids.push(uid.to_owned());
        self.sets.push(set.to_owned());
        self.matches.push(name.to_owned());
        self.cosines.push(cosine);
        self.distances.push(distance);
    }

    fn write(&self, out: &mut Attempt) -> Result<()> {
        let schema = Arc::new(Schema::new(vec![
            Field::new("uid", DataType::Utf8, false),
            Field::new("set", DataType::Utf8, false),
            Field::new("match", DataType::Utf8, false),
            Field::new("cosine", DataType::Float32, true),
            Field::new("distance", DataType::UInt32, true),
        ]));
        write_table(out, HITS, &schema, self.uids.len(), |rows| {
            vec![
                Arc::new(StringArray::from_iter_values(&self.uids[rows.clone()])),
                Arc::new(StringArray::from_iter_values(&self.sets[rows.clone()])),
                Arc::new(StringArray::from_iter_values(&self.matches[rows.clone()])),
                Arc::new(Float32Array::from(self.cosines[rows.clone()].to_vec())),
                Arc::new(UInt32Array::from(self.distances[rows].to_vec())),
            ]
        })
    }
}
