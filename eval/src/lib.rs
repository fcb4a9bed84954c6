//! Zero-shot classification and retrieval, with CLIP_benchmark's arithmetic and DataComp's tasks.
//!
//! A task is data: where its files are, which metric is its score, what guessing gives. Every number
//! stands beside its chance and, drawn from the same test set again and again, its interval.
//!
//! ```
//! use eval::matrix::Matrix;
//! use eval::retrieval::retrieve;
//! // Two pictures, two captions; each is nearest to its own.
//! let images = Matrix::of_normalized([&[1.0, 0.1][..], &[0.1, 1.0]]);
//! let texts = Matrix::of_normalized([&[1.0, 0.0][..], &[0.0, 1.0]]);
//! let found = retrieve(&images, &texts, vec![0, 1], 5, &stage::Cancel::default())?;
//! let measures = found.measures(&[1]);
//! assert_eq!(measures[0].name, "image_retrieval_recall@1");
//! assert_eq!(measures[0].value(&[1, 1]), Some(1.0));
//! # Ok::<(), stage::Error>(())
//! ```
//!
//! Reading order: [`EvalPlan`], [`suite`] and [`Job`] (what is run), [`Bench`] (how), then the kinds
//! of task: [`classification`], [`average_precision`], [`retrieval`], [`associations`],
//! [`attributes`], [`probe`]; then [`measure`], [`bootstrap`], [`paired`], [`confusion`],
//! [`results`] and [`compare`].

pub mod associations;
pub mod attributes;
pub mod average_precision;
pub mod bootstrap;
pub mod classification;
pub mod compare;
pub mod confusion;
pub mod matrix;
pub mod measure;
pub mod paired;
pub mod probe;
pub mod results;
pub mod retrieval;
pub mod suite;

mod folder;
mod groups;
mod job;
mod lbfgs;
mod member;
mod outcome;
mod outcome_file;
mod plan;
mod run;
mod samples;

pub use job::{Inputs, Job};
pub use outcome::{Answers, Outcome, Shape};
pub use plan::{ClassificationPlan, EvalPlan, ProbePlan, PromptFiles, RetrievalPlan};
pub use run::Bench;
pub use samples::{Columns, Open, Opened};
