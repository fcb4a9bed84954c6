//! Releases: a set of pairs as others get it, and what takes pairs out of one again.
//!
//! A release is a folder: `shards/*.tar` (unless it is of metadata only), `metadata/*.parquet`,
//! `subset.npy`, `README.md` (a Hugging Face card), `croissant.json`, `LICENSE`, `manifest.json` and
//! `SHA256SUMS`. The manifest names every other file with size and sha256, and has a Merkle root
//! over them; counts and lineage say how the pairs came to be.
//!
//! Reading order: [`ReleasePlan`], [`rows_of_shard`] (rows of a unit), [`Manifest`], [`finish`] (the
//! files that stand once beside all others), then [`Purge`], [`verify_purge`] and [`diff`].

mod card;
mod croissant;
mod diff;
mod domain;
mod finish;
mod hub;
mod manifest;
mod matching;
mod merkle;
mod metadata;
mod plan;
mod purge;
mod purge_unit;
mod scan;
mod scan_tokens;
mod score_table;
mod selectors;
mod summary;
mod text_column;
mod tombstones;

pub use diff::{Changes, ScoreChange, diff};
pub use domain::host_of;
pub use finish::{Facts, SUBSET, finish};
pub use hub::lint;
pub use manifest::{Manifest, Parent, ReleaseFile, StageRecord};
pub use merkle::merkle_root;
pub use metadata::{copy_shard, rows_of_scores, rows_of_shard};
pub use plan::ReleasePlan;
pub use purge::{Purge, REVOKED, Revoked};
pub use scan::{Absence, Found, verify_purge};
pub use score_table::ScoreTable;
pub use selectors::Selectors;
pub use summary::Summary;
pub use tombstones::{TOMBSTONES, Tombstones};
