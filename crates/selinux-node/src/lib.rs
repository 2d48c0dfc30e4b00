//! SELinux of a node, for the programs that run on it: its module store, where policies are, and the compiler.
//!
//! What a policy says is in `ferrovirt_selinux`; what of it concerns machines is in `ferrovirt_plan`.

mod compile;
mod find;
mod store;

pub use compile::{CompileError, Output, cil_files, secilc};
pub use find::{FindError, RUNNING, in_directory};
pub use store::{Change, Store, StoreError};
