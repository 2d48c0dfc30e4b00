//! Random SCCs and pods, and a checker that knows nothing of the crate.
#![allow(unreachable_pub)] // A module of a test is never reached from outside.

pub mod generate;
pub mod naive;
