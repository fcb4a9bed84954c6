//! WARC records out of multi-member gzip.
