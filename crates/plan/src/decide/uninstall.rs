//! The end of the KubeVirt object: by its `uninstallStrategy` it is refused while there are machines, or ends them first.
//!
//! ```text
//!   machines are there ─┬─► the object has our annotation: by any strategy but RemoveWorkloads its deletion is refused
//!                       └─► RemoveWorkloads: it has our finalizer, too, and waits until the controller has ended them
//! ```
//!
//! The API server decides by the annotation without asking any part of ours ([`crate::render::uninstall`]). A finalizer there is
//! by `RemoveWorkloads` alone: a namespace that is deleted loses its pods first, and who ends with it takes the finalizer away.

use ferrovirt_api::kubevirt::KubeVirt;
use ferrovirt_kubernetes::{json, object};
use serde_json::Value;

use super::patch;

/// Annotation of the KubeVirt object while there are machines; and its finalizer, where it ends them.
pub const MACHINES: &str = "ferrovirt.io/machines";
/// Strategy that refuses the deletion while there are machines; upstream's name. Also where none is named, which upstream takes
/// for the other one: nobody loses every machine of a cluster by saying nothing.
pub const BLOCK: &str = "BlockUninstallIfWorkloadsExist";
/// Strategy that ends machines first; upstream's name.
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
    /// The object's annotation or finalizer comes or goes, by this patch.
    Patch(Vec<Value>),
    /// Every machine is to be deleted.
    EndMachines,
}

/// Decides; `machines` says whether there are any, `leaving` whether the object's namespace goes, too: with it go those who
/// could end machines.
pub fn uninstall(cluster: &KubeVirt, machines: bool, leaving: bool) -> Uninstall {
    let finalizers = cluster.metadata.finalizers.as_deref().unwrap_or_default();
    let waits = finalizers.iter().any(|finalizer| finalizer == MACHINES);
    let marked = is_marked(cluster);
    let deleting = is_ending(cluster);
    let removes = removes(cluster.spec.uninstall_strategy.as_deref().unwrap_or_default());
    if waits && machines && deleting && removes && !leaving {
        return Uninstall::EndMachines;
    }
    // An object that is being deleted gets no finalizer any more: the API server refuses that.
    let wanted = machines && removes && !deleting && !leaving;
    if (machines, wanted) == (marked, waits) {
        return Uninstall::Nothing;
    }
    let mut new = cluster.clone();
    let mut finalizers = finalizers.to_vec();
    finalizers.retain(|finalizer| finalizer != MACHINES);
    finalizers.extend(wanted.then(|| MACHINES.to_owned()));
    new.metadata.finalizers = Some(finalizers);
    let mut annotations = cluster.metadata.annotations.clone().unwrap_or_default();
    annotations.remove(MACHINES);
    annotations.extend(machines.then(|| (MACHINES.to_owned(), "true".to_owned())));
    new.metadata.annotations = Some(annotations).filter(|annotations| !annotations.is_empty());
    Uninstall::Patch(patch::between(&cluster.metadata, cluster, &new))
}

/// Whether the object says that there are machines.
pub fn is_marked(cluster: &KubeVirt) -> bool {
    cluster.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(MACHINES))
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
    let marked = json::fields(cluster, "/metadata/annotations").is_some_and(|all| all.contains_key(MACHINES));
    marked && !removes(json::text(cluster, "/spec/uninstallStrategy"))
}

/// Whether there is such a strategy.
pub fn is_known(strategy: &str) -> bool {
    strategy.is_empty() || strategy == BLOCK || removes(strategy)
}

/// Whatever is no word for it keeps machines.
fn removes(strategy: &str) -> bool {
    strategy == REMOVE
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const OTHER: &str = "example.com/other";

    /// `marked`: it has the annotation; `waits`: it has the finalizer.
    fn cluster(strategy: &str, marked: bool, waits: bool, deleting: bool) -> Value {
        let mut metadata = json!({"name": "kubevirt", "resourceVersion": "7", "finalizers": [OTHER], "annotations": {"a": "b"}});
        if marked {
            metadata["annotations"][MACHINES] = json!("true");
        }
        if waits {
            metadata["finalizers"] = json!([OTHER, MACHINES]);
        }
        if deleting {
            metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        json!({"metadata": metadata, "spec": {"uninstallStrategy": strategy}})
    }

    /// Whether it ends machines, or the object's annotation and finalizer afterwards.
    fn decided(object: &Value, machines: bool, leaving: bool) -> Option<(bool, bool)> {
        let cluster: KubeVirt = serde_json::from_value(object.clone()).unwrap();
        let mut after = object.clone();
        match uninstall(&cluster, machines, leaving) {
            Uninstall::Nothing => {}
            Uninstall::EndMachines => return None,
            Uninstall::Patch(ops) => {
                assert_eq!(ops[0], json!({"op": "test", "path": "/metadata/resourceVersion", "value": "7"}));
                let ops: json_patch::Patch = serde_json::from_value(ops.into()).unwrap();
                json_patch::patch(&mut after, &ops).unwrap();
            }
        }
        let (finalizers, annotations) = (&after["metadata"]["finalizers"], &after["metadata"]["annotations"]);
        assert_eq!((&finalizers[0], &annotations["a"]), (&json!(OTHER), &json!("b")), "of others");
        Some((annotations.get(MACHINES).is_some(), finalizers[1] == MACHINES))
    }

    #[test]
    fn the_annotation_is_there_while_machines_are_and_the_finalizer_where_they_go_with_it() {
        for strategy in ["", BLOCK, "Other", REMOVE] {
            for before in [(false, false), (true, false), (true, true), (false, true)] {
                for machines in [false, true] {
                    let after = decided(&cluster(strategy, before.0, before.1, false), machines, false);
                    assert_eq!(
                        after,
                        Some((machines, machines && strategy == REMOVE)),
                        "{strategy} {before:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_deleted_object_ends_machines_where_its_strategy_says_so_and_its_namespace_stays() {
        for (strategy, machines, leaving, after) in [
            (REMOVE, true, false, None),
            (REMOVE, false, false, Some((false, false))),
            (REMOVE, true, true, Some((true, false))),
            ("", true, false, Some((true, false))),
            (BLOCK, true, false, Some((true, false))),
            ("Other", true, false, Some((true, false))),
        ] {
            assert_eq!(decided(&cluster(strategy, true, true, true), machines, leaving), after, "{strategy}");
            // An object that has none must get none: the API server refuses that.
            let without = decided(&cluster(strategy, true, false, true), machines, leaving);
            assert_eq!(without, Some((machines, false)), "{strategy}");
        }
    }

    #[test]
    fn with_its_namespace_goes_who_could_take_the_finalizer_away_later() {
        for waits in [false, true] {
            let before = cluster(REMOVE, true, waits, false);
            assert_eq!(decided(&before, true, true), Some((true, false)), "{waits}");
        }
    }

    #[test]
    fn it_is_kept_by_the_strategy_alone_and_machines_are_made_until_they_are_ended() {
        for (strategy, ends) in [("", false), (REMOVE, true), (BLOCK, false), ("Other", false)] {
            assert_eq!(is_kept(&cluster(strategy, true, ends, false)), !ends, "{strategy}");
            assert!(!is_kept(&cluster(strategy, false, false, false)), "{strategy}");
            assert_eq!(ends_machines(&cluster(strategy, true, ends, true)), ends, "{strategy}");
            assert!(!ends_machines(&cluster(strategy, true, ends, false)), "{strategy}");
        }
    }
}
