//! CLIP training: objective, optimiser, schedule, data order, checkpoints.
pub mod adamw;
pub mod crop;
pub mod data;
pub mod gradients;
pub mod loss;
mod metrics;
pub mod order;
pub mod plan;
mod run;
pub mod schedule;
mod slices;
mod state;
pub mod trainer;

pub use plan::{Scale, Settings, TrainPlan};
pub use run::{OnEpoch, TrainOutcome, run};
