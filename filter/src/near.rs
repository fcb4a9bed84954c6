//! What needs the whole pool at once: near-duplicates, pictures of evaluation sets, clusters.
//!
//! Each is a stage of its own. Reading order: [`features`] (embeddings out of files), [`hashes`]
//! (neighbours of perceptual hashes), [`NearDuplicatesPlan`], [`DecontaminatePlan`],
//! [`ClustersPlan`].

mod clusters;
mod decontaminate;
pub mod features;
pub mod hashes;
mod kmeans;
mod near_duplicates;
mod table;

pub use clusters::ClustersPlan;
pub use decontaminate::DecontaminatePlan;
pub use near_duplicates::{DUPLICATES, NearDuplicatesPlan};
pub use table::hashes_of;

/// The file of uids that remain.
pub const SUBSET: &str = "subset.npy";
