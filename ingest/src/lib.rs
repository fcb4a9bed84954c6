//! From the crawl to pictures: WARC and WAT reading, links, the polite and safe fetcher, replay.

pub mod fetch;
pub mod links;
pub mod replay;
pub mod serve;
pub mod warc;
