//! Zero-shot classification and retrieval, with CLIP_benchmark's arithmetic.
//!
//! A task is data: where its shards are, which field is the label, which words name the classes.
//! Every number stands beside what guessing would give.
//!
//! ```
//! use eval::retrieval::recall_at_k;
//! // Two pictures, two captions; each row of scores is one caption's view of all pictures.
//! let scores = vec![vec![0.9, 0.1], vec![0.8, 0.2]];
//! let positives = vec![vec![0], vec![1]];
//! assert_eq!(recall_at_k(&scores, &positives, 1), 0.5);
//! assert_eq!(recall_at_k(&scores, &positives, 2), 1.0);
//! ```
//!
//! Reading order: [`EvalPlan`], [`classification`], [`retrieval`], [`run`], [`results`].

pub mod classification;
pub mod results;
pub mod retrieval;

mod plan;
mod run;

pub use plan::{ClassificationPlan, EvalPlan, RetrievalPlan};
pub use run::{Open, run};
