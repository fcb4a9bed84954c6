//! Recipes: a whole job on one page of YAML, checked before anything runs.
//!
//! Three types in a row, so that an unchecked recipe cannot be run: [`Recipe`] (parsed, every
//! field known and in range), [`Graph`] (stages in order, every name resolved, nouns fitting),
//! then the runner's work.

mod graph;
mod kinds;
mod parse;
mod schema;
mod shape;

pub use graph::{Graph, Node};
pub use kinds::{KINDS, Kind, KindInfo, Noun};
pub(crate) use parse::clean;
pub use parse::{Entry, Place, Recipe, Replay};
pub use schema::{json_schema, reference_page};
