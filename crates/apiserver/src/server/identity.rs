//! One cluster, one identity: the UID of the namespace kube-system, as everywhere in Kubernetes. Store, keys and node agent
//! hold it, so that none of them is put together with those of another cluster.

use std::path::Path;

use ferrovirt_kubernetes::json;

use super::ServerError;
use crate::auth::pki;
use crate::store::{Key, Store};

/// The file in the directory of keys.
const FILE: &str = "cluster-id";

/// Refuses to make a store where a cluster has been: to the node agent, every machine of it would be one that nobody
/// wants any more.
///
/// # Errors
/// [`ServerError::StoreIsGone`].
pub(super) fn check_file(store: &Path, pki: &Path) -> Result<(), ServerError> {
    let there = std::fs::metadata(store).is_ok_and(|data| data.len() > 0);
    if there { Ok(()) } else { refuse_old_keys(store, pki) }
}

/// The same for what was opened, and for a store that belongs to other keys. To be called before anything is written.
///
/// # Errors
/// [`ServerError::StoreIsGone`], [`ServerError::OtherCluster`].
pub(super) fn check(store: &Store, path: &Path, pki: &Path) -> Result<(), ServerError> {
    let Some(found) = of(store) else { return refuse_old_keys(path, pki) };
    match read(pki)? {
        Some(expected) if expected != found => {
            Err(ServerError::OtherCluster { store: path.to_owned(), found, keys: pki.to_owned(), expected })
        }
        _ => Ok(()),
    }
}

/// Writes the identity beside the keys.
///
/// # Errors
/// When it cannot be written.
pub(super) fn bind(pki: &Path, id: &str) -> Result<(), ServerError> {
    if read(pki)?.as_deref() != Some(id) {
        pki::write(&pki.join(FILE), id.as_bytes())?;
    }
    Ok(())
}

/// The identity in the store; nothing while it is empty.
pub(super) fn of(store: &Store) -> Option<String> {
    let namespace = store.get(&Key::new("", "namespaces", "", "kube-system"))?;
    json::string(&namespace.object, "/metadata/uid").map(str::to_owned)
}

fn refuse_old_keys(store: &Path, pki: &Path) -> Result<(), ServerError> {
    let used = [FILE, "ca.crt"].iter().any(|file| pki.join(file).exists());
    if used {
        Err(ServerError::StoreIsGone { store: store.to_owned(), keys: pki.to_owned() })
    } else {
        Ok(())
    }
}

fn read(pki: &Path) -> Result<Option<String>, ServerError> {
    match std::fs::read_to_string(pki.join(FILE)) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(pki::PkiError::File { action: "read", path: pki.join(FILE), source }.into()),
    }
}
