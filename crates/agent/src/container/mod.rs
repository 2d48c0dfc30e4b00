//! What is of launchers alone in their containers: root file system, programs, devices, and where they have volumes.

pub mod devices;
pub mod places;
pub mod programs;
pub mod rootfs;
