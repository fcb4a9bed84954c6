//! WebDataset shards in and out.
