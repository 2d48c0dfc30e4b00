//! SELinux of a node, for the programs that run on it: what its kernel shows, its module store, where policies are, labels of
//! files, and the compiler.
//!
//! What a policy says is in `ferrovirt_selinux`; what of it concerns machines is in `ferrovirt_plan`.

mod compile;
mod find;
mod kernel;
mod label;
mod store;

pub use compile::{CompileError, Output, secilc};
pub use find::{FindError, RUNNING, in_directory};
pub use kernel::Kernel;
pub use label::{SHARED_FILES, label, label_path, label_tree};
pub use store::{Change, Store, StoreError};
