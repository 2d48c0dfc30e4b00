//! The laboratory: virtual machines with Debian's kernel in which SELinux enforces, whatever this machine has.
//!
//! `ferrovirt selinux prove` and `cargo xtask selinux-nested` make the initial file system of such a machine here
//! ([`Initrd`]) and run it to its end ([`Machine`]). They know what they put in and what the results mean.

mod initrd;
mod machine;

pub use initrd::Initrd;
pub use machine::{Error, Machine, QEMU, Seen};
