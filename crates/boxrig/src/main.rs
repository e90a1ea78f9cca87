//! The `boxrig` program.

fn main() {}
