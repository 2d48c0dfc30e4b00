//! Tables of snapshots and what follows from them, and a simulation of everything at once.

mod levels;
mod simulation;
mod vm;
mod vmi;
mod world;
