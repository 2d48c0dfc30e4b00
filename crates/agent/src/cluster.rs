//! Which cluster this node's directory belongs to. What is in it and unknown to the API is removed, so the API has to be
//! the one that it came from.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

const FILE: &str = "cluster-id";

/// Exit code when the directory belongs to another cluster: starting again does not help (`EX_CONFIG` of sysexits.h).
pub const OTHER_CLUSTER: u8 = 78;

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Machines of another cluster are in it.
    #[error(
        "{data} holds machines of the cluster {found}, and this is the cluster {wanted}; they are left alone, and nothing is \
         started beside them. Restore the store and the keys of their cluster; or, to give them up, end them (`crun --root \
         {data}/crun list` shows them) and remove {data}"
    )]
    Other {
        /// The directory.
        data: PathBuf,
        /// Whose it is.
        found: String,
        /// Who asks.
        wanted: String,
    },
    /// The file that says so cannot be read or written.
    #[error("{0}: {1}")]
    File(PathBuf, io::Error),
}

/// Makes the directory this cluster's, where it is nobody's or nothing is in it.
///
/// # Errors
/// See [`Refusal`].
pub fn bind(data: &Path, wanted: &str, is_used: impl FnOnce() -> bool) -> Result<(), Refusal> {
    let path = data.join(FILE);
    let failed = |error| Refusal::File(path.clone(), error);
    match fs::read_to_string(&path) {
        Ok(found) if found.trim() == wanted => return Ok(()),
        Ok(found) if is_used() => {
            let found = found.trim().chars().take(64).flat_map(char::escape_default).collect();
            return Err(Refusal::Other { data: data.to_owned(), found, wanted: wanted.to_owned() });
        }
        Ok(_) => {}
        // Directories of earlier versions say nothing.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    // Whole or not at all: half an identity would be another cluster's.
    let part = data.join("cluster-id.part");
    let write = || {
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        file.write_all(wanted.as_bytes())?;
        file.sync_all()?;
        fs::rename(&part, &path)
    };
    write().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_another_cluster_is_refused_as_long_as_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        bind(dir.path(), "a", || true).unwrap();
        bind(dir.path(), "a", || true).unwrap();
        let refused = bind(dir.path(), "b", || true).unwrap_err();
        assert!(matches!(&refused, Refusal::Other { found, .. } if found == "a"), "{refused}");
        bind(dir.path(), "b", || false).unwrap();
        assert!(bind(dir.path(), "a", || true).is_err());
    }
}
