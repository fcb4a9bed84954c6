//! The clipmill binary.

fn main() {}
