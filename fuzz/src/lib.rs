//! What each fuzz target does with its input; `pipelines/tests/fuzz_corpora.rs` runs the corpora
//! through the same files.
//!
//! A target panics where an invariant is broken; whatever else it is given, it returns.

#[cfg(feature = "filter")]
pub mod fasttext;
pub mod image;
pub mod manifest;
pub mod npy;
pub mod npz;
#[cfg(feature = "models")]
pub mod onnx;
#[cfg(feature = "recipe")]
pub mod recipe;
pub mod tar;
pub mod url;
pub mod wat;
