//! What each fuzz target does with its input; `pipelines/tests/fuzz_corpora.rs` runs the corpora
//! through the same files.
//!
//! A target panics where an invariant is broken; whatever else it is given, it returns.

pub mod image;
pub mod npy;
#[cfg(feature = "recipe")]
pub mod recipe;
pub mod tar;
pub mod url;
pub mod wat;
