//! The way from one form of a model to a cheaper one: a checkpoint in, a checkpoint and a report
//! of what it saves out.
//!
//! ```no_run
//! use compress::{AnyCompressor, Source};
//! # fn main() -> stage::Result<()> {
//! let plan: AnyCompressor = serde_json::from_str(r#"{"repavit": {}}"#).unwrap();
//! let base = std::path::Path::new("trained");
//! let checkpoint = models::read_checkpoint(base)?;
//! let mut worker = plan.plan().build(&stage::Context::default())?;
//! let source = Source { checkpoint: &checkpoint, base };
//! let (folded, report) = worker.compress(source, std::path::Path::new("folded"))?;
//! assert!(report.get("fold_max_relative_error").unwrap() < 1e-4);
//! # Ok(())
//! # }
//! ```
//!
//! Reading order: [`compressor`] (what every compression is), [`repavit`], [`count`] (parameters
//! and multiply-adds), [`latency`].

pub mod compressor;
pub mod count;
pub mod latency;
pub mod repavit;

pub use compressor::{Compressor, CompressorPlan, Source};
pub use repavit::RepavitPlan;

stage::registry! {
    /// Every compression that a recipe can name.
    pub enum AnyCompressor: CompressorPlan {
        /// Folds a model that was trained with idle channels.
        Repavit(RepavitPlan),
    }
}
