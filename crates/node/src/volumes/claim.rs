//! Claims bound to volumes of this node.
//!
//! The path of a volume is its administrator's, and so are links in it: they are followed wherever the path is used, as a
//! kubelet follows them. No link in a volume is.

use super::{
    Error, group, io_error, lost,
    marks::{Mark, Name},
};
use crate::oci::identity::Identity;
use ferrovirt_kubernetes::quantity::Amount;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// What the directory of a new file system holds.
const LOST_AND_FOUND: &str = "lost+found";

/// A bound claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// What says that the claim was in use before: its directory and its disk are not made a second
    /// time.
    pub mark: Mark,
    /// Name of the volume.
    pub volume: String,
    /// Directory or block device on the node.
    pub path: PathBuf,
    /// Block mode.
    pub block: bool,
    /// The directory is made where it is missing (`DirectoryOrCreate`).
    pub create: bool,
    /// Its volume follows the group of pods (`fsGroup`): `local` ones do, as with a kubelet, and what a `hostPath` names stays
    /// whose it is.
    pub follows_group: bool,
    /// Bytes of the volume.
    pub capacity: u64,
}

impl Claim {
    /// `None` while the claim is not bound, or its volume is of a kind that is not on a node. The volume decides whose
    /// it is: a claim says what its author wrote, who must not reach the volumes of others with it. `marks` is the
    /// agent's directory of claims that were in use.
    pub fn of(claim: &PersistentVolumeClaim, volume: &PersistentVolume, marks: &Path) -> Option<Self> {
        if claim.status.as_ref()?.phase.as_deref() != Some("Bound") {
            return None;
        }
        let spec = volume.spec.as_ref()?;
        let owner = spec.claim_ref.as_ref()?.uid.as_ref()?;
        if claim.metadata.uid.as_ref() != Some(owner) {
            return None;
        }
        // It names a file.
        if owner.is_empty() || !owner.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
            return None;
        }
        let (path, create) = match (&spec.host_path, &spec.local) {
            (Some(source), _) => (&source.path, source.type_.as_deref() == Some("DirectoryOrCreate")),
            (None, Some(source)) => (&source.path, false),
            (None, None) => return None,
        };
        let capacity = spec.capacity.as_ref().and_then(|all| all.get("storage"));
        let capacity = capacity.and_then(|size| Amount::parse(&size.0).and_then(Amount::bytes).ok());
        Some(Self {
            mark: Mark {
                file: marks.join(owner),
                claim: Name {
                    namespace: claim.metadata.namespace.clone().unwrap_or_default(),
                    name: claim.metadata.name.clone().unwrap_or_default(),
                },
            },
            volume: volume.metadata.name.clone().unwrap_or_default(),
            path: PathBuf::from(path),
            create,
            follows_group: spec.host_path.is_none(),
            block: spec.volume_mode.as_deref() == Some("Block"),
            capacity: capacity.unwrap_or_default(),
        })
    }
}

/// A claim that a pod writes to, as long as the pod has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Its directory.
    pub directory: PathBuf,
    /// What says that it was in use.
    pub mark: Mark,
}

impl Written {
    /// Keeps that there is something in the claim: were its directory empty later, something else would be in its place.
    ///
    /// # Errors
    /// What the file system says.
    pub fn look(&self) -> io::Result<()> {
        if !self.mark.exists() && !is_empty(&self.directory)? {
            self.mark.set()?;
        }
        Ok(())
    }
}

impl Claim {
    /// Hands the claim's directory to a pod of this identity, which writes to it: to its `fsGroup`, where it has one and the
    /// volume follows it.
    ///
    /// # Errors
    /// What was in it is gone, or what the file system says.
    pub fn hand_over(&self, volume: &str, pod: &Pod, identity: &Identity) -> Result<Written, Error> {
        let written = Written { directory: self.path.clone(), mark: self.mark.clone() };
        let failed = |source| io_error(volume, &self.path, source);
        if self.mark.exists() && is_empty(&self.path).map_err(failed)? {
            return Err(lost(volume, self, "the content"));
        }
        written.look().map_err(failed)?;
        if let Some(group) = identity.fs_group.filter(|_| self.follows_group) {
            group::follow(&self.path, group, group::Change::of(pod)).map_err(failed)?;
        }
        Ok(written)
    }
}

fn is_empty(directory: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(directory)? {
        if entry?.file_name() != LOST_AND_FOUND {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_the_claim_that_a_volume_names_gets_it() {
        let claim = json!({"metadata": {"name": "c", "uid": "mine"}, "status": {"phase": "Bound"}});
        let claim: PersistentVolumeClaim = serde_json::from_value(claim).unwrap();
        let of = |reference: serde_json::Value| {
            let volume = json!({"spec": {"hostPath": {"path": "/data"}, "claimRef": reference}});
            Claim::of(&claim, &serde_json::from_value(volume).unwrap(), Path::new("/marks"))
        };
        let own = of(json!({"name": "c", "uid": "mine"})).unwrap();
        assert_eq!((own.path.as_path(), own.follows_group), (Path::new("/data"), false));
        let local = json!({"spec": {"local": {"path": "/data"}, "claimRef": {"name": "c", "uid": "mine"}}});
        let local = Claim::of(&claim, &serde_json::from_value(local).unwrap(), Path::new("/marks")).unwrap();
        assert!(local.follows_group);
        assert_eq!(of(json!({"name": "c", "uid": "theirs"})), None);
        assert_eq!(of(json!({"name": "c"})), None);
        assert_eq!(of(json!(null)), None);
    }
}
