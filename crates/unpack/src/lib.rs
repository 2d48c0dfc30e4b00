//! Images as the node agent reads them: in a process of its own that has no rights, sees no path of the node and may
//! write into one directory.
//!
//! The agent starts its own program with [`COMMAND`] as the only argument, as a user of its own, with a socket as
//! descriptor [`SOCKET`]. The process takes one [`Start`], asks for the files of the layout by name, says which
//! manifest it found, and unpacks when it is asked to. Every byte that it reads is foreign; what it may do besides is
//! taken away before the first one is read ([`child`]).

mod budget;
pub mod child;
pub mod entries;
mod layer;
mod layout;
mod tree;

pub use budget::Limits;
pub use layer::apply;
pub use layout::is_hex;
pub use tree::Tree;

use serde::{Deserialize, Serialize};
use std::io;

/// The argument that makes the agent's program an unpacking process.
pub const COMMAND: &str = "unpack-image";
/// Number of the socket in the child.
pub const SOCKET: i32 = 3;
/// User and group of the child and of what it unpacks. No launcher has it: cluster ranges begin far above, and the
/// images' own user is 107.
pub const USER: u32 = 64_107;
/// Longest message of either side, in bytes.
pub const MAX_MESSAGE: usize = 64 << 10;

/// What to read: the first message to the child. With it comes a descriptor of the directory to unpack into, and of
/// the archive where the layout is one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The layout is an archive.
    pub archive: bool,
    /// Name of the manifest in the layout's index.
    pub tag: String,
    /// Hexadecimal SHA-256 that the manifest must have.
    pub digest: Option<String>,
    /// What the image may take.
    pub limits: Limits,
}

/// What the child says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Said {
    /// It needs a file of the layout directory: `index.json` or `blobs/sha256/DIGEST`. The answer is a message with its
    /// descriptor, or without one where there is none.
    Open(String),
    /// Hexadecimal SHA-256 of the manifest. It unpacks after the next message.
    Found(String),
    /// Everything is unpacked.
    Done,
    /// It cannot be.
    Failed(Failure),
}

/// Why an image cannot be unpacked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// No manifest has the tag; those that there are.
    Tag(String),
    /// The image is damaged or of a kind that is not understood.
    Broken(String),
    /// The image takes more than it may.
    Limit(String),
    /// The node has too little space left.
    Space(String),
    /// The node could not do what was asked.
    Node(String),
}

impl From<io::Error> for Failure {
    /// Bad data, a limit and a lack of space come through readers and writers as errors of these kinds.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput => {
                Self::Broken(error.to_string())
            }
            io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Self::Limit(error.to_string()),
            io::ErrorKind::StorageFull => Self::Space(error.to_string()),
            _ => Self::Node(error.to_string()),
        }
    }
}

/// `text` in at most `length` bytes, without control characters: it goes into messages.
fn plain(text: &[u8], length: usize) -> String {
    let text = String::from_utf8_lossy(text);
    text.escape_debug().take(length).collect()
}
