//! The fetcher.
