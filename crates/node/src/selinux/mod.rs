//! SELinux of a node for its pods: what the kernel shows, labels of files, labels of containers.

mod container;
mod files;
mod kernel;

pub use container::{CONTAINER, Label, Refused, options};
pub use files::{SHARED_FILES, label, label_path, label_tree};
pub use kernel::Kernel;
