//! From the crawl to pictures: WARC and WAT reading, links, the polite and safe fetcher, replay.
//!
//! ```no_run
//! use ingest::links::{LinksPlan, run_unit};
//!
//! let cx = stage::Context::default();
//! let plan = LinksPlan::of(vec!["crawl-data/CC-MAIN-2026-30/wat.paths.gz".to_owned()]);
//! for unit in plan.units(&cx)? {
//!     let mut parquet = Vec::new();
//!     let report = run_unit(&unit.wats, &mut parquet, &cx)?;
//!     println!("{}: {} links", unit.name, report.distinct_uids);
//! }
//! # Ok::<(), stage::Error>(())
//! ```
//!
//! Reading order: [`warc`] reads archives, [`links`] takes image links out of them, [`link_list`]
//! reads links from elsewhere, [`fetch`] turns links into pictures; [`serve`] and [`replay`] play
//! the web on loopback, where a [`DialMap`] leads.

mod dial;
pub mod fetch;
pub mod link_list;
pub mod links;
pub mod replay;
pub mod serve;
pub mod warc;

pub use dial::DialMap;
