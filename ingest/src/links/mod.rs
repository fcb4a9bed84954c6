//! Links out of WAT files.
