//! The ferrovirt command.
fn main() {}
