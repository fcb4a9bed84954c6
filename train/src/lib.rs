//! CLIP training: objective, optimiser, schedule, data order, checkpoints.
//!
//! ```
//! use train::TrainPlan;
//! let text = r#"{"model": "tiny-32", "batch_size": 128, "epochs": 3}"#;
//! let plan: TrainPlan = serde_json::from_str(text).unwrap();
//! let settings = plan.resolve(1000, 1, 0).unwrap(); // 1000 samples, one rank, seed 0
//! assert_eq!((settings.steps, settings.warmup), (21, 2));
//! assert_eq!(settings.schedule().at(2), 5e-4);
//! ```
//!
//! Invariants: what a step sees is a function of seed, epoch and step alone; a step whose loss or
//! gradient is not finite changes nothing; a training that was stopped at any moment ends with the
//! bytes of an undisturbed one, on the CPU with the same number of ranks; two ranks take the steps of
//! one with the double batch.
//!
//! Reading order: [`plan`] (what a recipe says), [`run()`] (the loop), [`trainer`] (one step),
//! [`loss`], [`joint`] (the loss over micro-batches and ranks), [`gradients`], [`adamw`], [`decay`],
//! [`lock`], [`schedule`], [`order`] (which sample when), [`data`] and [`crop`] (samples to tensors),
//! [`ranks`] (several processes), [`macs`], [`memory`] and [`tensorboard`]; inside `run`: `state`
//! (saved states), `metrics`, `meter` and `validate`.

pub mod adamw;
pub mod crop;
pub mod data;
pub mod decay;
pub mod gradients;
pub mod joint;
pub mod lock;
pub mod loss;
pub mod macs;
pub mod memory;
mod meter;
mod metrics;
pub mod order;
pub mod plan;
pub mod ranks;
mod run;
pub mod schedule;
mod slices;
mod state;
pub mod tensorboard;
pub mod trainer;
mod validate;

pub use plan::{Scale, Settings, TrainPlan};
pub use run::{Job, OnEpoch, TrainOutcome, follow, run};
