//! Downstream tasks with the field's own metric.
//!
//! Adding a task touches its new file, its `mod` line and its row in [`AnyTask`].
//!
//! Reading order: [`Task`], [`AnyTask`], [`mil`], [`auc`].

pub mod auc;
pub mod mil;

use models::Encoder;
use stage::{Context, PairSource, Report, Result};

/// Opens shards by pattern, with these json fields as further columns.
pub type Open<'a> = dyn Fn(&[String], &[&str]) -> Result<Box<dyn PairSource>> + 'a;

/// A downstream task on a trained model.
pub trait Task {
    /// Checks the ranges.
    fn validate(&self) -> Result<()>;

    /// Patterns of the shards that the task reads.
    fn data(&self) -> Vec<String>;

    /// Runs the task on a frozen model and reports named metrics with their units.
    ///
    /// # Errors
    /// Missing shards or labels, or too few pictures.
    fn run(&self, model: &Encoder, open: &Open<'_>, cx: &Context) -> Result<Report>;
}

stage::registry! {
    /// Every task that a recipe can name.
    pub enum AnyTask: Task {
        /// Multiple-instance learning: which bag of pictures holds one of a kind?
        Mil(mil::MilPlan),
    }
}
