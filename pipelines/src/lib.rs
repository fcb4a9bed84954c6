//! Recipes, the runner and the clipmill binary.
//!
//! This room imports all others and nobody imports it. Reading order: [`recipe`] (what a job
//! says), [`stages`] (how the rooms' plans become units of work), [`run`](mod@run) (the runner),
//! [`watch`] (what a run says of itself while it runs), [`cli`].

pub mod cli;
pub mod cost;
mod demo;
mod estimate;
mod follow;
mod key;
mod metrics;
mod plan;
pub mod recipe;
mod results;
pub mod run;
pub mod stages;
mod view;
mod wall;
pub mod watch;
