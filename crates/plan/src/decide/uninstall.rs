//! The end of the KubeVirt object: by its `uninstallStrategy` it is refused while there are machines, or ends them first.
//!
//! ```text
//!   machines are there ──► the object has our finalizer ──► BlockUninstallIfWorkloadsExist: its deletion is refused
//!                                                       └─► RemoveWorkloads: it waits until the controller has ended them
//! ```
//!
//! The finalizer says both to the API server, which so decides about deletions without asking any part of ours
//! ([`crate::render::uninstall`]). Without machines there is none: what removes everything is then kept by nobody.

use ferrovirt_api::kubevirt::KubeVirt;
use ferrovirt_kubernetes::{json, object};
use serde_json::Value;

use super::patch;

/// Finalizer of the KubeVirt object while there are machines.
pub const MACHINES_FINALIZER: &str = "ferrovirt.io/machines";
/// Strategy that refuses the deletion while there are machines; upstream's name.
pub const BLOCK: &str = "BlockUninstallIfWorkloadsExist";
/// Strategy that ends machines first, also where none is named, as upstream does.
pub const REMOVE: &str = "RemoveWorkloads";
/// What is said to anyone who deletes the object of a strategy that refuses it.
pub const REFUSAL: &str = "there are virtual machines, and uninstallStrategy of the KubeVirt object keeps it while there are: \
     delete them (kubectl delete vm,vmi --all -A), or set spec.uninstallStrategy to RemoveWorkloads, which ends and deletes \
     them with it";
/// What is said to anyone who makes a machine while they are ended.
pub const ENDING: &str = "the KubeVirt object is being deleted, and all machines with it: make this one again when there is \
     a new one";

/// What follows from the machines that there are.
#[derive(Clone, Debug, PartialEq)]
pub enum Uninstall {
    /// Nothing.
    Nothing,
    /// The object's finalizer comes or goes, by this patch.
    Patch(Vec<Value>),
    /// Every machine is to be deleted.
    EndMachines,
}

/// Decides; `machines` says whether there are any, `leaving` whether the object's namespace goes, too: with it go those who
/// could end machines.
pub fn uninstall(cluster: &KubeVirt, machines: bool, leaving: bool) -> Uninstall {
    let finalizers = cluster.metadata.finalizers.as_deref().unwrap_or_default();
    let marked = finalizers.iter().any(|one| one == MACHINES_FINALIZER);
    let deleting = is_ending(cluster);
    let removes = removes(cluster.spec.uninstall_strategy.as_deref().unwrap_or_default());
    if marked && machines && deleting && removes && !leaving {
        return Uninstall::EndMachines;
    }
    let wanted = if deleting { false } else { machines };
    if wanted == marked {
        return Uninstall::Nothing;
    }
    let mut new = cluster.clone();
    let mut finalizers = finalizers.to_vec();
    finalizers.retain(|one| one != MACHINES_FINALIZER);
    finalizers.extend(wanted.then(|| MACHINES_FINALIZER.to_owned()));
    new.metadata.finalizers = Some(finalizers);
    Uninstall::Patch(patch::between(&cluster.metadata, cluster, &new))
}

/// Whether the object was deleted and is still there.
pub fn is_ending(cluster: &KubeVirt) -> bool {
    cluster.metadata.deletion_timestamp.is_some()
}

/// Whether no machine is made any more: all of them are being ended.
pub fn ends_machines(cluster: &Value) -> bool {
    object::is_deleting(cluster) && removes(json::text(cluster, "/spec/uninstallStrategy"))
}

/// Whether the object must not be deleted now.
pub fn is_kept(cluster: &Value) -> bool {
    let marked = json::list(cluster, "/metadata/finalizers").any(|one| one == MACHINES_FINALIZER);
    marked && !removes(json::text(cluster, "/spec/uninstallStrategy"))
}

/// Whether there is such a strategy.
pub fn is_known(strategy: &str) -> bool {
    strategy == BLOCK || removes(strategy)
}

/// Whatever is no word for it keeps machines.
fn removes(strategy: &str) -> bool {
    strategy.is_empty() || strategy == REMOVE
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cluster(strategy: &str, marked: bool, deleting: bool) -> Value {
        let mut metadata =
            json!({"name": "kubevirt", "resourceVersion": "7", "finalizers": ["example.com/other"]});
        if marked {
            metadata["finalizers"] = json!(["example.com/other", MACHINES_FINALIZER]);
        }
        if deleting {
            metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        json!({"metadata": metadata, "spec": {"uninstallStrategy": strategy}})
    }

    fn decided(object: &Value, machines: bool, leaving: bool) -> String {
        let cluster: KubeVirt = serde_json::from_value(object.clone()).unwrap();
        match uninstall(&cluster, machines, leaving) {
            Uninstall::Nothing => "nothing".to_owned(),
            Uninstall::EndMachines => "end".to_owned(),
            Uninstall::Patch(ops) => {
                assert_eq!(ops[0], json!({"op": "test", "path": "/metadata/resourceVersion", "value": "7"}));
                assert_eq!(ops.len(), 2, "{ops:?}");
                assert_eq!(ops[1]["path"], "/metadata/finalizers");
                assert_eq!(ops[1]["value"][0], "example.com/other");
                if ops[1]["value"][1] == MACHINES_FINALIZER { "mark" } else { "release" }.to_owned()
            }
        }
    }

    #[test]
    fn the_finalizer_is_there_while_machines_are() {
        for strategy in ["", REMOVE, BLOCK] {
            for (machines, marked, says) in [
                (true, false, "mark"),
                (true, true, "nothing"),
                (false, true, "release"),
                (false, false, "nothing"),
            ] {
                assert_eq!(decided(&cluster(strategy, marked, false), machines, false), says, "{strategy}");
            }
        }
    }

    #[test]
    fn a_deleted_object_ends_machines_where_its_strategy_says_so_and_its_namespace_stays() {
        for (strategy, machines, leaving, says) in [
            (REMOVE, true, false, "end"),
            ("", true, false, "end"),
            (REMOVE, false, false, "release"),
            (REMOVE, true, true, "release"),
            (BLOCK, true, false, "release"),
            ("Other", true, false, "release"),
        ] {
            assert_eq!(decided(&cluster(strategy, true, true), machines, leaving), says, "{strategy}");
            // An object that has none must get none: the API server refuses that.
            assert_eq!(decided(&cluster(strategy, false, true), machines, leaving), "nothing", "{strategy}");
        }
    }

    #[test]
    fn it_is_kept_by_the_strategy_alone_and_machines_are_made_until_they_are_ended() {
        for (strategy, kept, ends) in
            [("", false, true), (REMOVE, false, true), (BLOCK, true, false), ("Other", true, false)]
        {
            assert_eq!(is_kept(&cluster(strategy, true, false)), kept, "{strategy}");
            assert!(!is_kept(&cluster(strategy, false, false)), "{strategy}");
            assert_eq!(ends_machines(&cluster(strategy, true, true)), ends, "{strategy}");
            assert!(!ends_machines(&cluster(strategy, true, false)), "{strategy}");
        }
    }
}
