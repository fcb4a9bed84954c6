//! Judges of pairs, embeddings, duplicates, DataComp's baselines, selection.
