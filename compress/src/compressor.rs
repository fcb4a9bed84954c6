//! What every compression is: a plan, and a worker that maps a checkpoint to a cheaper one.

use std::path::Path;

use stage::{Checkpoint, Context, Report, Result};

/// Plain data from a recipe.
pub trait CompressorPlan {
    /// Checks every range.
    ///
    /// # Errors
    /// [`stage::Kind::Recipe`], naming the field.
    fn validate(&self) -> Result<()>;

    /// The worker that obeys this plan.
    fn build(&self, cx: &Context) -> Result<Box<dyn Compressor>>;
}

/// Maps a trained model to a cheaper one.
pub trait Compressor: Send {
    /// Writes the cheaper model into the folder `out` and reports what it costs and what it saves.
    ///
    /// # Errors
    /// [`stage::Kind::Model`] when the model cannot be compressed this way, or the result is not
    /// what it should be.
    fn compress(&mut self, model: Source<'_>, out: &Path) -> Result<(Checkpoint, Report)>;
}

/// A checkpoint and where its relative paths begin.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The handle.
    pub checkpoint: &'a Checkpoint,
    /// The folder of its `checkpoint.json`.
    pub base: &'a Path,
}
