//! Marks of claims that were in use: a file for each, named by the claim's UID, that says which claim it is. A UID does not
//! come back, so that the mark of a claim that is gone says nothing any more.

use ferrovirt_kubernetes::segment::segment;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{Api, Client};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// How often marks are looked at.
const LOOK: Duration = Duration::from_secs(3600);
/// Pause between two claims that are asked for.
const PAUSE: Duration = Duration::from_millis(100);

/// The mark of one claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The file, which need not exist.
    pub file: PathBuf,
    /// The claim.
    pub claim: Name,
}

/// A claim, as its mark names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Mark {
    /// The claim was in use before.
    pub fn exists(&self) -> bool {
        self.file.exists()
    }

    /// Says from now on that the claim was in use.
    ///
    /// # Errors
    /// What the file system says.
    pub fn set(&self) -> io::Result<()> {
        fs::write(&self.file, serde_json::to_vec(&self.claim)?)
    }
}

/// Removes marks of claims that are gone from `directory`, for ever.
pub async fn keep(client: Client, directory: PathBuf) {
    let claims =
        |namespace: &str| -> Api<PersistentVolumeClaim> { Api::namespaced(client.clone(), namespace) };
    let mut missing = BTreeSet::new();
    loop {
        tokio::time::sleep(LOOK).await;
        let look = async |claim: Name| {
            tokio::time::sleep(PAUSE).await;
            let found = claims(&segment(&claim.namespace)).get_opt(&segment(&claim.name)).await?;
            Ok::<_, kube::Error>(found.map(|claim| claim.metadata.uid.unwrap_or_default()))
        };
        missing = collect(&directory, missing, look).await;
    }
}

/// Looks at each mark. `missing` are those whose claim was gone at the last look: they are removed when it still is. Which
/// ones are gone now; an API server that is restored may have lost some for a moment. `look` says the UID that a claim of a
/// name has.
async fn collect<E: std::fmt::Display>(
    directory: &Path,
    missing: BTreeSet<String>,
    look: impl AsyncFn(Name) -> Result<Option<String>, E>,
) -> BTreeSet<String> {
    let mut gone = BTreeSet::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(uid) = entry.file_name().into_string() else { continue };
        // An earlier version wrote nothing into it: the next use of the claim does.
        let Some(claim) = fs::read(entry.path()).ok().and_then(|text| serde_json::from_slice(&text).ok())
        else {
            continue;
        };
        match look(claim).await {
            Ok(Some(found)) if found == uid => {}
            Ok(_) if missing.contains(&uid) => {
                if let Err(error) = fs::remove_file(entry.path()) {
                    tracing::warn!("removing the mark of a claim that is gone: {error}");
                }
            }
            Ok(_) => {
                gone.insert(uid);
            }
            Err(error) => {
                // The others would be asked for in vain.
                tracing::debug!("looking for claims that were in use: {error}");
                return gone;
            }
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_mark_of_a_claim_goes_when_it_is_gone_for_a_while_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let set = |uid: &str, name: &str| {
            let claim = Name { namespace: "n".to_owned(), name: name.to_owned() };
            Mark { file: directory.path().join(uid), claim }.set().unwrap();
        };
        set("u-kept", "kept");
        set("u-gone", "gone");
        set("u-old", "new");
        fs::write(directory.path().join("u-empty"), "").unwrap();
        let left = || -> BTreeSet<String> {
            fs::read_dir(directory.path())
                .unwrap()
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .collect()
        };
        let all = left();
        let names =
            |all: &[&str]| -> BTreeSet<String> { all.iter().map(|name| (*name).to_owned()).collect() };
        let look = async |claim: Name| {
            Ok::<_, String>(match claim.name.as_str() {
                "kept" => Some("u-kept".to_owned()),
                "new" => Some("u-new".to_owned()),
                _ => None,
            })
        };
        let silent = async |_: Name| Err::<Option<String>, _>("no answer");
        let missing = collect(directory.path(), BTreeSet::new(), look).await;
        assert_eq!((missing.clone(), left()), (names(&["u-gone", "u-old"]), all.clone()));
        assert_eq!(collect(directory.path(), missing.clone(), silent).await, names(&[]));
        assert_eq!(left(), all, "who does not answer has lost nothing");
        assert_eq!(collect(directory.path(), missing, look).await, names(&[]));
        assert_eq!(left(), names(&["u-empty", "u-kept"]));
    }
}
