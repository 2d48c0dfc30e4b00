//! The launcher of one machine.
fn main() {}
