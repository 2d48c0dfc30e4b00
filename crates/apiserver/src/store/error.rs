//! What can go wrong with the store, and how it is.

use std::path::PathBuf;

/// What can go wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Create of something that exists.
    #[error("the object exists already")]
    AlreadyExists,
    /// Update or delete of something that does not exist.
    #[error("there is no such object")]
    NotFound,
    /// The object changed since the caller read it.
    #[error("the object has been modified: its revision is {found}, expected {expected}")]
    Conflict {
        /// Revision that the caller read.
        expected: u64,
        /// Revision that is stored.
        found: u64,
    },
    /// The object was deleted and made again since the caller read it.
    #[error("the UID in the precondition: {expected}, the UID in object meta: {found}")]
    UidMismatch {
        /// UID that the caller asked for.
        expected: String,
        /// UID that is stored.
        found: String,
    },
    /// Of what a watch is about, the history has forgotten a change after the revision that it asked for.
    #[error("too old resource version: {asked} ({oldest})")]
    Expired {
        /// Revision that the caller asked for.
        asked: u64,
        /// Oldest revision that a watch of the same objects can start from.
        oldest: u64,
    },
    /// A watch asked for a revision that this store has not reached.
    #[error("too large resource version: {asked}, current: {current}")]
    FromTheFuture {
        /// Revision that the caller asked for.
        asked: u64,
        /// Current revision.
        current: u64,
    },
    /// The store was closed; nothing was written.
    #[error("the store is shutting down")]
    Closed,
    /// There is no space for this write; nothing was written.
    #[error(
        "the disk of the API server's store is full: deletions and changes that need no space are stored, everything else \
         again once somebody has freed space on the node"
    )]
    Full,
    /// The disk refused; nothing was written, unless the process ends before the store has opened its file again.
    #[error(
        "the API server's store cannot be written at the moment and is being opened again: try again; its log says why"
    )]
    Unavailable,
    /// Records on disk are not what was written. Nothing is served.
    #[error(
        "{path} is damaged: {}. Restore the file from a backup; or, to go on without exactly these objects, stop everything \
         that uses it and run `ferrovirt store drop-damaged` with the same --data-dir", .what.join("; ")
    )]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// Each damaged object and what is wrong with it.
        what: Vec<String>,
    },
    /// Records were encrypted with a key that is not there. Nothing is served.
    #[error(
        "{path} holds objects that are encrypted with a key that is not in {keys}: {}. Put the key file back that belongs \
         to this store", .what.join("; ")
    )]
    NoKey {
        /// The database file.
        path: PathBuf,
        /// The key file.
        keys: PathBuf,
        /// Each object and the ID of its key.
        what: Vec<String>,
    },
    /// The file of keys cannot be used.
    #[error("the file of encryption keys {path} {why}")]
    Keys {
        /// The key file.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// The database file cannot be opened: it is in use, or the disk failed.
    #[error("the store on disk failed: {0}")]
    Disk(String),
}

/// Whether the store takes writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Yes.
    Good,
    /// Only those that need no space.
    Full,
    /// None until the file could be opened again: the reason, for the log of the server alone.
    Failed(String),
    /// None any more: the store was closed, or its thread has died.
    Closed,
}
