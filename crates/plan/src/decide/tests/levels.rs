//! SELinux levels: recorded before the pod, kept, and never shared, whatever the caches show.

use std::collections::BTreeSet;

use ferrovirt_api::kubevirt::VirtualMachineInstance;
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::world::{World, launcher, machine, time};
use crate::decide::{
    Action, CREATED_BY_LABEL, DOMAIN_ANNOTATION, FOREGROUND_FINALIZER, VmiSnapshot, held_pair, pod_pair, vmi,
};
use crate::selinux::label::Mcs;

fn labelled() -> World {
    let mut world = World::new(machine("Always"));
    world.taken = Some(BTreeSet::new());
    world
}

fn level(world: &World) -> Mcs {
    held_pair(world.vmi()).unwrap()
}

#[test]
fn the_level_is_recorded_before_the_pod_is_made() {
    let mut world = labelled();
    let seen = world.stored.clone();
    world.reconcile_vm(&seen);
    while world.stored.vmi.as_ref().is_none_or(|vmi| held_pair(vmi).is_none()) {
        let seen = world.stored.clone();
        world.reconcile_vm(&seen);
        let seen = world.stored.clone();
        world.reconcile_vmi(&seen);
        assert!(world.stored.pods.is_empty());
    }
    world.settle();
    assert_eq!(pod_pair(&world.stored.pods[0]), Some(level(&world)));
}

#[test]
fn a_second_pod_of_an_instance_has_the_same_level() {
    let mut world = labelled();
    world.settle();
    let first = level(&world);
    // The pod goes away before the controller has taken note of it.
    world.stored.pods.clear();
    world.edit_vmi(|vmi| vmi.status.as_mut().unwrap().phase = Some("Pending".into()));
    world.settle();
    assert_eq!(world.stored.pods.len(), 1);
    assert_eq!((level(&world), pod_pair(&world.stored.pods[0])), (first, Some(first)));
}

#[test]
fn a_machine_that_starts_again_gets_its_level_back_unless_it_is_taken() {
    for taken in [false, true] {
        let mut world = labelled();
        world.boot();
        let (uid, first) = (world.vmi().metadata.uid.clone(), level(&world));
        if taken {
            world.taken = Some(BTreeSet::from([first]));
        }
        world.report("Failed");
        world.end_pod(0, 1);
        world.settle();
        world.pass(400);
        world.settle();
        assert_ne!(world.vmi().metadata.uid, uid);
        assert_eq!(level(&world) == first, !taken);
    }
}

#[test]
fn a_level_of_somebody_elses_is_given_up() {
    let mut world = labelled();
    let seen = world.stored.clone();
    world.reconcile_vm(&seen);
    let other = Mcs::parse("s0:c1,c2").unwrap();
    world.edit_vmi(|vmi| vmi.status.get_or_insert_default().selinux_level = Some(other.to_string()));
    world.taken = Some(BTreeSet::from([other]));
    world.settle();
    assert_ne!(level(&world), other);
    assert_eq!(pod_pair(&world.stored.pods[0]), Some(level(&world)));
}

#[test]
fn nothing_is_recorded_where_pods_are_not_labelled() {
    let mut world = World::new(machine("Always"));
    world.boot();
    assert_eq!(world.vmi().status.as_ref().unwrap().selinux_level, None);
}

/// Machines that all want the same pair first, one controller, and caches that lag behind by any time.
#[derive(Clone, Debug)]
enum Happening {
    Round(usize),
    InstancesSeen(usize),
    PodsSeen(usize),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => (0..MACHINES).prop_map(Happening::Round),
        2 => (1..4_usize).prop_map(Happening::InstancesSeen),
        1 => (1..3_usize).prop_map(Happening::PodsSeen),
    ]
}

const MACHINES: usize = 4;

/// What the server has stored at one time.
type Instances = Vec<VirtualMachineInstance>;

fn instances() -> Instances {
    let instance = |number: usize| {
        serde_json::from_value(json!({
            "metadata": {
                "name": format!("m{number}"), "namespace": "n", "uid": format!("u{number}"), "resourceVersion": "0",
                "finalizers": [FOREGROUND_FINALIZER],
                "ownerReferences": [{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": "m",
                    "uid": "the same", "controller": true}],
            },
            "spec": {"domain": {"devices": {}}}, "status": {"phase": "Pending"},
        }))
        .unwrap()
    };
    (0..MACHINES).map(instance).collect()
}

fn is_of(pod: &Pod, uid: &str) -> bool {
    pod.metadata.labels.as_ref().unwrap()[CREATED_BY_LABEL] == uid
}

/// One round for one machine over what the caches show, performed on the newest state.
fn round(
    number: usize,
    seen: &Instances,
    seen_pods: &[Pod],
    stored: &mut Vec<Instances>,
    pods: &mut Vec<Vec<Pod>>,
) {
    let own = &seen[number];
    let uid = own.metadata.uid.as_deref().unwrap();
    let others = seen.iter().filter(|vmi| vmi.metadata.uid != own.metadata.uid).filter_map(held_pair);
    let other_pods = seen_pods.iter().filter(|pod| !is_of(pod, uid)).filter_map(pod_pair);
    let taken: BTreeSet<Mcs> = others.chain(other_pods).collect();
    let own_pods: Vec<&Pod> = seen_pods.iter().filter(|pod| is_of(pod, uid)).collect();
    let snapshot = VmiSnapshot {
        vmi: own,
        pods: &own_pods,
        claims: &[],
        taken: Some(&taken),
        launcher: &launcher,
        lack: None,
        look: None,
    };
    for action in vmi(&snapshot, time(0)).actions {
        let name = |pod: &Pod| pod.metadata.name.clone();
        match action {
            Action::ConfirmPodGone { name }
                if pods.last().unwrap().iter().any(|pod| pod.metadata.name.as_ref() == Some(&name)) =>
            {
                return;
            }
            Action::CreatePod(mut pod) => {
                pod.metadata
                    .annotations
                    .as_mut()
                    .unwrap()
                    .insert(DOMAIN_ANNOTATION.to_owned(), uid.to_owned());
                let mut now = pods.last().unwrap().clone();
                if now.iter().any(|other| name(other) == name(&pod)) {
                    return;
                }
                now.push(*pod);
                pods.push(now);
            }
            Action::PatchVmi(ops) => {
                let mut now = stored.last().unwrap().clone();
                let mut value = serde_json::to_value(&now[number]).unwrap();
                let ops: json_patch::Patch = serde_json::from_value(Value::Array(ops)).unwrap();
                let before = value.clone();
                if json_patch::patch(&mut value, &ops).is_err() {
                    return;
                }
                if value == before {
                    continue;
                }
                value["metadata"]["resourceVersion"] = json!(stored.len().to_string());
                now[number] = serde_json::from_value(value).unwrap();
                stored.push(now);
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn two_machines_never_share_a_level(happenings in prop::collection::vec(happening(), 1..80)) {
        let (mut stored, mut pods) = (vec![instances()], vec![Vec::new()]);
        // How far the caches have come; they only go forward.
        let (mut vmi_at, mut pod_at) = (0, 0);
        let mut finish: Vec<Happening> = Vec::new();
        for _ in 0..8 {
            finish.extend((0..MACHINES).flat_map(|number| {
                [Happening::InstancesSeen(100), Happening::PodsSeen(100), Happening::Round(number)]
            }));
        }
        for happening in happenings.into_iter().chain(finish) {
            match happening {
                Happening::Round(number) => {
                    let (seen, seen_pods) = (stored[vmi_at].clone(), pods[pod_at].clone());
                    round(number, &seen, &seen_pods, &mut stored, &mut pods);
                }
                Happening::InstancesSeen(more) => vmi_at = (vmi_at + more).min(stored.len() - 1),
                Happening::PodsSeen(more) => pod_at = (pod_at + more).min(pods.len() - 1),
            }
            let pairs: Vec<Mcs> = pods.last().unwrap().iter().filter_map(pod_pair).collect();
            prop_assert_eq!(pairs.iter().collect::<BTreeSet<_>>().len(), pairs.len(), "{:?}", pairs);
        }
        // Everybody got a pod in the end.
        prop_assert_eq!(pods.last().unwrap().len(), MACHINES);
    }
}
