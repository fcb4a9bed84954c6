//! Clusters of picture embeddings, for caps a cluster and for semantic deduplication.
//!
//! SemDeDup (Abbas et al., arXiv 2303.09540): within a cluster, of pairs nearer to each other than a
//! threshold the one farthest from the centroid stays. Here each pair gets the largest cosine to a
//! pair of its cluster that SemDeDup would rather keep, so that the threshold is `select`'s:
//! `where: "duplicate_cosine < 0.95"`; a cap is `where: "cluster_rank < 1000"`.

use std::sync::Arc;

use arrow_array::{Float32Array, StringArray, UInt32Array};
use arrow_schema::{DataType, Field, Schema};
use models::inner_products;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use stage::{Context, Counts, Error, Result};
use store::subset::Uid;
use store::{Attempt, npy};

use super::features::Features;
use super::kmeans::kmeans;
use super::{Found, write_table};

/// Clusters pairs by their picture's embedding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClustersPlan {
    /// Number of clusters, 1..=1000000; fewer pairs give as many clusters as pairs. DataComp's
    /// pools have 100000.
    pub k: u32,
    /// Iterations of k-means, 1..=1000; default 20.
    #[serde(default = "default_iterations")]
    pub iterations: u32,
}

fn default_iterations() -> u32 {
    20
}

/// The centroids, [k, dim] f32.
const CENTROIDS: &str = "centroids.npy";
/// The score table.
const TABLE: &str = "clusters.parquet";
/// Rows of a cluster that meet at once.
const BLOCK: usize = 1024;

impl ClustersPlan {
    /// Checks the ranges of the fields.
    pub fn validate(&self) -> Result<()> {
        if !(1..=1_000_000).contains(&self.k) {
            return Err(Error::recipe(format!("k must lie in 1..=1000000, got {}", self.k)));
        }
        if !(1..=1000).contains(&self.iterations) {
            let message = format!("iterations must lie in 1..=1000, got {}", self.iterations);
            return Err(Error::recipe(message));
        }
        Ok(())
    }

    /// Writes `centroids.npy` and `clusters.parquet`: `uid`, `cluster`, `cluster_cosine` (to the
    /// centroid), `cluster_rank` (0 is nearest to the centroid), `duplicate_cosine` (the largest
    /// cosine to a pair of the cluster that is farther from the centroid; -1 where there is none).
    ///
    /// Dropped: `nonfinite`.
    ///
    /// # Errors
    /// No features, a row whose name is no uid, or an interruption.
    pub fn run(&self, cx: &Context, features: &Features, out: &mut Attempt) -> Result<Found> {
        self.validate()?;
        if features.is_empty() {
            return Err(Error::input("no feature to cluster"));
        }
        if let Some(name) = features.names.iter().find(|name| Uid::parse(name).is_none()) {
            let hint = "the embeddings' metadata needs a column `uid`: `embed` writes it, clip-retrieval does with --enable_metadata on shards that have it";
            return Err(Error::input(format!("`{name}` is no uid")).hint(hint));
        }
        let mut order: Vec<usize> = (0..features.len()).collect();
        order.sort_by(|a, b| features.names[*a].cmp(&features.names[*b]));
        let found =
            kmeans(cx, &features.numbers, features.dim, &order, self.k as usize, self.iterations)?;
        let mut members: Vec<Vec<usize>> = vec![Vec::new(); found.centroids.len() / features.dim];
        for row in order {
            members[found.nearest[row] as usize].push(row);
        }
        let mut table = Table::of(features.len());
        for (cluster, rows) in members.iter_mut().enumerate() {
            cx.cancel.check()?;
            let centroid = &found.centroids[cluster * features.dim..(cluster + 1) * features.dim];
            for &row in rows.iter() {
                table.cluster[row] = cluster as u32;
                table.cosine[row] = crate::clip::cosine(features.row(row), centroid);
            }
            // Farthest first; the order by name decides between equal ones.
            rows.sort_by(|a, b| table.cosine[*a].total_cmp(&table.cosine[*b]));
            for (rank, row) in rows.iter().rev().enumerate() {
                table.rank[*row] = rank as u32;
            }
            duplicates(cx, features, rows, &mut table.duplicate)?;
        }
        let mut counts = Counts::default();
        (0..features.len()).for_each(|_| counts.keep());
        (0..features.nonfinite).for_each(|_| counts.drop("nonfinite"));
        let mut file = out.file(CENTROIDS)?;
        npy::write(&mut file, &[members.len(), features.dim], &found.centroids)?;
        file.finish()?;
        table.write(&features.names, out)?;
        counts.check()?;
        Ok(Found { counts, info: Value::Null })
    }
}

/// For each of these rows the largest cosine to one before it.
fn duplicates(cx: &Context, features: &Features, rows: &[usize], found: &mut [f32]) -> Result<()> {
    let numbers: Vec<f32> = rows.iter().flat_map(|row| features.row(*row)).copied().collect();
    let dim = features.dim;
    for start in (0..rows.len()).step_by(BLOCK) {
        let end = rows.len().min(start + BLOCK);
        for before in (0..end).step_by(BLOCK) {
            cx.cancel.check()?;
            let until = end.min(before + BLOCK);
            let products = inner_products(
                &numbers[start * dim..end * dim],
                &numbers[before * dim..until * dim],
                dim,
            )?;
            for (i, products) in (start..end).zip(products.chunks_exact(until - before)) {
                let earlier = products.get(..i.saturating_sub(before).min(products.len()));
                let most = earlier.into_iter().flatten().copied().fold(-1.0, f32::max);
                found[rows[i]] = found[rows[i]].max(most);
            }
        }
    }
    Ok(())
}

struct Table {
    cluster: Vec<u32>,
    cosine: Vec<f32>,
    rank: Vec<u32>,
    duplicate: Vec<f32>,
}

impl Table {
    fn of(rows: usize) -> Self {
        Self {
            cluster: vec![0; rows],
            cosine: vec![0.0; rows],
            rank: vec![0; rows],
            duplicate: vec![-1.0; rows],
        }
    }

    fn write(self, names: &[String], out: &mut Attempt) -> Result<()> {
        let schema = Arc::new(Schema::new(vec![
            Field::new("uid", DataType::Utf8, false),
            Field::new("cluster", DataType::UInt32, false),
            Field::new("cluster_cosine", DataType::Float32, false),
            Field::new("cluster_rank", DataType::UInt32, false),
            Field::new("duplicate_cosine", DataType::Float32, false),
        ]));
        write_table(out, TABLE, &schema, names.len(), |rows| {
            vec![
                Arc::new(StringArray::from_iter_values(&names[rows.clone()])),
                Arc::new(UInt32Array::from(self.cluster[rows.clone()].to_vec())),
                Arc::new(Float32Array::from(self.cosine[rows.clone()].to_vec())),
                Arc::new(UInt32Array::from(self.rank[rows.clone()].to_vec())),
                Arc::new(Float32Array::from(self.duplicate[rows].to_vec())),
            ]
        })
    }
}
