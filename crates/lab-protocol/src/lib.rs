//! What passes between the laboratory and the programs in its guests: a file with what is to be done goes in, and lines of
//! JSON come out of the second serial port ([`Line`], [`read`]).
//!
//! [`Setup`] is what every guest has; [`proof`] is what `ferrovirt selinux prove` and its witness say to each other, and
//! [`Operation`] what the witness can do.

mod line;
mod operation;
pub mod proof;

pub use line::{Error, Line, MAX_LINE, Said, read};
pub use operation::Operation;

use serde::{Deserialize, Serialize};

/// The file with the policy in a guest.
pub const POLICY: &str = "/policy";

/// What the first process of a guest makes ready before anything is tried.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// Modules of the kernel, in the order in which they are loaded.
    pub modules: Vec<String>,
    /// Huge pages of 2 MiB that the kernel sets apart.
    pub huge_pages: u32,
    /// Files with their contexts.
    pub labels: Vec<(String, String)>,
}
