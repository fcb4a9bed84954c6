//! A WARC archive served on loopback, so that any recipe can run against it without a network.
//!
//! The archive's answers go out under the hosts that gave them: a [`crate::DialMap`] sends every
//! host to the server, and the `Host` header says which one is meant. What is not in the archive
//! is a 404.
//!
//! ```no_run
//! let archive = ingest::replay::Archive::open(&["aut-example.warc.gz"])?;
//! let server = archive.serve()?;
//! println!("dial: {:?}", server.dial_map());
//! # Ok::<(), stage::Error>(())
//! ```
//!
//! Reading order: [`Archive`]; `http` has the archived messages, `address` what makes two
//! addresses one.

mod address;
mod archive;
mod http;

pub use archive::Archive;
