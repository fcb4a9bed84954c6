//! A WARC archive served on loopback.
