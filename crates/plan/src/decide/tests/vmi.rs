use ferrovirt_api::kubevirt::{LauncherPodRecord, VirtualMachineInstance, VirtualMachineInstanceCondition};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateWaiting, Pod, PodCondition, PodStatus};

use super::world::{IMAGE, World, container, launcher, machine, time};
use crate::decide::accept::{digest, untyped};
use crate::decide::place::NOT_AS_RENDERED;
use crate::decide::{Action, Claim, ClaimState, Refused, VmiSnapshot, vmi};

fn condition<'a>(world: &'a World, kind: &str) -> Option<&'a VirtualMachineInstanceCondition> {
    world.vmi().status.as_ref()?.conditions.iter().find(|c| c.r#type == kind)
}

fn reason<'a>(world: &'a World, kind: &str) -> &'a str {
    condition(world, kind).and_then(|c| c.reason.as_deref()).unwrap_or_default()
}

#[test]
fn phases_up_to_the_agent() {
    let mut world = World::new(machine("Always"));
    world.settle();
    assert_eq!((world.phase(), world.stored.pods.len()), ("Scheduling", 1));
    assert_eq!(reason(&world, "Ready"), "GuestNotRunning");
    world.run_pod(0);
    world.settle();
    assert_eq!(world.phase(), "Scheduled");
    let vmi = world.vmi();
    assert_eq!(vmi.metadata.labels.as_ref().unwrap()["kubevirt.io/nodeName"], "node");
    let status = vmi.status.as_ref().unwrap();
    assert_eq!(status.node_name.as_deref(), Some("node"));
    assert_eq!(status.qos_class.as_deref(), Some("Burstable"));
    assert_eq!(status.active_pods.values().collect::<Vec<_>>(), ["node"]);
    let phases: Vec<_> =
        status.phase_transition_timestamps.iter().filter_map(|t| t.phase.as_deref()).collect();
    assert_eq!(phases, ["Pending", "Scheduling", "Scheduled"]);
    world.report("Running");
    world.settle();
    assert_eq!(condition(&world, "Ready").unwrap().status, "True");
}

/// What becomes of an instance when its pod changes, by phase. The seconds pass between the two.
#[test]
fn phases_after_the_pod_changed() {
    let rows: [(&str, &str, i64, &str); 10] = [
        ("Scheduling", "ends 1", 0, "Failed"),
        ("Scheduling", "is deleted", 0, "Failed"),
        ("Scheduling", "is gone", 0, "Failed"),
        ("Running", "ends 0", 0, "Running"),
        ("Running", "ends 0", 6, "Succeeded"),
        ("Running", "ends 1", 6, "Failed"),
        ("Running", "is gone", 0, "Failed"),
        ("Running", "is deleted", 0, "Running"),
        ("Scheduled", "ends 1", 6, "Failed"),
        ("Scheduled", "is gone", 0, "Failed"),
    ];
    for (phase, event, seconds, expected) in rows {
        let mut world = World::new(machine("Manual"));
        world.edit_vm(|vm| {
            vm.status.get_or_insert_default().state_change_requests =
                vec![ferrovirt_api::kubevirt::VirtualMachineStateChangeRequest {
                    action: "Start".into(),
                    ..Default::default()
                }];
        });
        world.settle();
        if phase != "Scheduling" {
            world.run_pod(0);
            world.settle();
        }
        if phase == "Running" {
            world.report("Running");
            world.settle();
        }
        assert_eq!(world.phase(), phase);
        match event {
            "ends 0" => world.end_pod(0, 0),
            "ends 1" => world.end_pod(0, 1),
            "is gone" => world.stored.pods.clear(),
            _ => {
                let now = world.now;
                world.stored.pods[0].metadata.deletion_timestamp =
                    Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
            }
        }
        world.pass(seconds);
        world.settle();
        assert_eq!(world.phase(), expected, "{phase}: the pod {event}, after {seconds} s");
        assert_eq!(world.created_for.len(), 1, "no second pod");
    }
}

#[test]
fn the_end_is_looked_for_again_when_the_agent_is_silent() {
    let mut world = World::new(machine("Always"));
    world.boot();
    world.end_pod(0, 1);
    let seen = world.stored.clone();
    let decision = world.reconcile_vmi(&seen);
    assert_eq!(decision.requeue_after.unwrap().as_secs(), 5);
}

#[test]
fn what_is_missing_is_said_once_and_the_pod_follows_when_it_is_there() {
    let mut world = World::new(machine("Always"));
    world.claims = vec![Claim { name: "disk".into(), state: ClaimState::Missing, block: false }];
    world.settle();
    assert!(world.stored.pods.is_empty());
    assert_eq!(reason(&world, "Synchronized"), "FailedPvcNotFound");
    assert!(condition(&world, "Synchronized").unwrap().message.as_ref().unwrap().contains("disk"));
    assert_eq!(world.events.iter().filter(|e| **e == "FailedPvcNotFound").count(), 1);
    // Who writes to it meanwhile would destroy what is being made.
    world.claims[0].state = ClaimState::Filling;
    world.settle();
    assert!(world.stored.pods.is_empty() && condition(&world, "Synchronized").is_none());
    assert_eq!(reason(&world, "Provisioning"), "ClaimsNotFilled");
    world.claims[0].state = ClaimState::Bound;
    world.settle();
    assert_eq!(world.stored.pods.len(), 1);
    assert!(condition(&world, "Synchronized").is_none() && condition(&world, "Provisioning").is_none());
}

#[test]
fn an_invalid_machine_is_a_condition_and_one_event() {
    let mut template = machine("Always");
    template.spec.template.spec.hostname = Some("invalid".into());
    let mut world = World::new(template);
    world.settle();
    assert!(world.stored.pods.is_empty());
    assert_eq!(reason(&world, "Synchronized"), "InvalidMachine");
    assert_eq!(world.events.iter().filter(|e| **e == "InvalidMachine").count(), 1);
}

#[test]
fn a_refused_pod_is_a_condition_that_says_what_to_change() {
    let rows = [
        ("pods \"x\" is forbidden: exceeded quota: q", "ResourceQuota"),
        ("pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\"", "ferrovirt explain"),
        (
            "pods \"x\" is forbidden: unable to validate against any security context constraint",
            "kubevirt-controller",
        ),
        ("pods is forbidden: User \"u\" cannot create resource \"pods\" in API group \"\"", "ClusterRole"),
    ];
    for (message, advice) in rows {
        let mut world = World::new(machine("Always"));
        world.refuse_pods = Some(Refused { code: 403, message: message.into() });
        // The attempt is repeated for ever, so the controllers do not rest by themselves.
        for _ in 0..4 {
            let seen = world.stored.clone();
            world.reconcile_vm(&seen);
            let seen = world.stored.clone();
            world.reconcile_vmi(&seen);
        }
        assert_eq!(reason(&world, "Synchronized"), "FailedCreate");
        let text = condition(&world, "Synchronized").unwrap().message.clone().unwrap();
        assert!(text.contains(message) && text.contains(advice), "{text}");
        assert!(world.events.contains(&"FailedCreate"));
        world.refuse_pods = None;
        world.settle();
        assert_eq!(world.phase(), "Scheduling");
        assert!(condition(&world, "Synchronized").is_none());
    }
}

#[test]
fn a_missing_image_is_shown_on_machine_and_instance() {
    let mut world = World::new(machine("Always"));
    world.settle();
    let waiting =
        ContainerStateWaiting { reason: Some("ErrImagePull".into()), message: Some("no a/b:1".into()) };
    let state = ContainerState { waiting: Some(waiting), ..ContainerState::default() };
    world.stored.pods[0].status = Some(PodStatus { phase: Some("Pending".into()), ..container(state) });
    world.settle();
    assert_eq!((reason(&world, "Synchronized"), world.printable()), ("ErrImagePull", "ErrImagePull"));
    assert_eq!(world.events.iter().filter(|e| **e == "ErrImagePull").count(), 1);

    // The node agent says it in its own words: they stay, and nothing is reported twice.
    let list = &mut world.stored.vmi.as_mut().unwrap().status.as_mut().unwrap().conditions;
    list.iter_mut().find(|c| c.r#type == "Synchronized").unwrap().message = Some("put it there".into());
    world.settle();
    assert_eq!(condition(&world, "Synchronized").unwrap().message.as_deref(), Some("put it there"));
    // Between two attempts the pod may say nothing; only a running container ends it.
    world.stored.pods[0].status = None;
    world.settle();
    assert_eq!(reason(&world, "Synchronized"), "ErrImagePull");
    world.run_pod(0);
    world.settle();
    assert!(condition(&world, "Synchronized").is_none());
    assert_eq!(world.events.iter().filter(|e| **e == "ErrImagePull").count(), 1);
}

#[test]
fn an_unschedulable_pod_is_shown_on_machine_and_instance() {
    let mut world = World::new(machine("Always"));
    world.settle();
    world.stored.pods[0].status = Some(PodStatus {
        phase: Some("Pending".into()),
        conditions: Some(vec![PodCondition {
            type_: "PodScheduled".into(),
            status: "False".into(),
            reason: Some("Unschedulable".into()),
            message: Some("0/1 nodes are available".into()),
            ..PodCondition::default()
        }]),
        ..PodStatus::default()
    });
    world.settle();
    assert_eq!((reason(&world, "PodScheduled"), world.printable()), ("Unschedulable", "ErrorUnschedulable"));
    world.stored.pods[0].status = None;
    world.run_pod(0);
    world.settle();
    assert!(condition(&world, "PodScheduled").is_none());
}

#[test]
fn the_pod_of_an_earlier_instance_ends_before_a_new_one_starts() {
    let mut world = World::new(machine("Always"));
    world.boot();
    // Somebody forces the instance away while its launcher still runs, and nobody collects the pod.
    world.stored.vmi = None;
    world.settle();
    assert_eq!(world.stored.pods.len(), 1, "no second launcher beside the first");
    assert!(world.stored.pods[0].metadata.deletion_timestamp.is_some());
    world.reap_pods();
    world.settle();
    assert_eq!((world.stored.pods.len(), world.created_for.len()), (1, 2));
}

fn deletions(vmi_grace: Option<i64>, pod: &mut Pod) -> Vec<Option<i64>> {
    let mut instance = VirtualMachineInstance::default();
    instance.metadata.name = Some("m".into());
    instance.metadata.uid = Some("u".into());
    instance.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time(0)));
    instance.spec.termination_grace_period_seconds = vmi_grace;
    instance.status.get_or_insert_default().phase = Some("Running".into());
    let pods = [&*pod];
    let snapshot = VmiSnapshot {
        vmi: &instance,
        pods: &pods,
        claims: &[],
        taken: None,
        launcher: &launcher,
        lack: None,
        look: None,
    };
    vmi(&snapshot, time(0))
        .actions
        .into_iter()
        .filter_map(|a| match a {
            Action::DeletePod { grace_seconds, .. } => Some(grace_seconds),
            _ => None,
        })
        .collect()
}

#[test]
fn grace_periods_hold_and_can_be_shortened() {
    let mut instance = VirtualMachineInstance::default();
    instance.metadata.uid = Some("u".into());
    // As rendered: 30 seconds of the machine and 30 of margin.
    let mut pod = launcher(&instance).unwrap();
    assert_eq!(deletions(Some(30), &mut pod), [None]);
    assert_eq!(deletions(Some(5), &mut pod), [Some(5)]);
    assert_eq!(deletions(Some(0), &mut pod), [Some(1)], "zero would take the object away under the process");
    pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time(0)));
    pod.metadata.deletion_grace_period_seconds = Some(60);
    assert_eq!(deletions(Some(30), &mut pod), []);
    assert_eq!(deletions(Some(5), &mut pod), [Some(5)], "a stop with a shorter period");
}

#[test]
fn a_deleted_instance_without_a_pod_asks_the_server_before_it_lets_go() {
    let mut world = World::new(machine("Always"));
    let seen = world.stored.clone();
    world.reconcile_vm(&seen);
    let lagging = world.stored.clone();
    let seen = world.stored.clone();
    world.reconcile_vmi(&seen);
    world.settle();
    assert_eq!(world.stored.pods.len(), 1);
    world.delete_vmi();
    // The cache knows the deletion, but not the pod.
    let mut stale = world.stored.clone();
    stale.pods = lagging.pods;
    world.reconcile_vmi(&stale);
    assert!(world.vmi().metadata.finalizers.as_ref().is_some_and(|f| f.len() == 2), "still held");
}

fn recorded(world: &World) -> Option<LauncherPodRecord> {
    world.vmi().status.as_ref()?.launcher_pod.clone()
}

/// What is said to keep the machine from running.
fn unfit(world: &World) -> Option<String> {
    let conditions = &world.vmi().status.as_ref()?.conditions;
    let said = conditions.iter().find(|c| c.reason.as_deref() == Some(NOT_AS_RENDERED))?;
    said.message.clone()
}

#[test]
fn a_pod_is_recorded_once_and_stays_so_whatever_is_rendered_later() {
    let mut world = World::new(machine("Always"));
    world.settle();
    let record = recorded(&world).expect("a record");
    assert_eq!(Some(&record.uid), world.stored.pods[0].metadata.uid.as_ref());
    assert_eq!(record.digest, digest(&untyped(&world.stored.pods[0])));
    world.renders = "l:2";
    world.boot();
    assert_eq!(recorded(&world), Some(record.clone()));
    assert_eq!((unfit(&world), world.phase()), (None, "Running"));
    // Somebody puts another pod into its place: that is not the one.
    world.stored.pods[0].metadata.uid = Some("another".into());
    world.settle();
    assert_eq!(recorded(&world), Some(record));
}

#[test]
fn a_pod_whose_maker_was_killed_before_the_record_is_looked_at_by_the_next_one() {
    let mut world = World::new(machine("Always"));
    let mut seen = world.stored.clone();
    while world.stored.pods.is_empty() {
        world.reconcile_vm(&seen);
        world.reconcile_vmi(&seen);
        seen = world.stored.clone();
    }
    assert_eq!(recorded(&world), None, "the pod comes first");
    // The next one makes other pods.
    world.renders = "l:2";
    world.settle();
    assert_eq!(recorded(&world), None);
    let said = unfit(&world).expect("a condition");
    assert!(said.contains("spec.containers[0].image") && said.contains("l:2"), "{said}");
    // The pod has a node, which says it itself.
    world.run_pod(0);
    world.stored.vmi.as_mut().unwrap().status.as_mut().unwrap().conditions.clear();
    world.settle();
    assert_eq!((recorded(&world), unfit(&world)), (None, None));
    // And one that makes the same as the first.
    world.renders = IMAGE;
    world.settle();
    assert!(recorded(&world).is_some());
}

#[test]
fn what_kept_a_pod_from_a_node_is_over_when_it_is_recorded() {
    let mut world = World::new(machine("Always"));
    let mut seen = world.stored.clone();
    while world.stored.pods.is_empty() {
        world.reconcile_vm(&seen);
        world.reconcile_vmi(&seen);
        seen = world.stored.clone();
    }
    world.renders = "l:2";
    world.settle();
    assert!(unfit(&world).is_some());
    world.renders = IMAGE;
    world.settle();
    assert_eq!(unfit(&world), None);
    assert!(recorded(&world).is_some());
}

/// A pod that is bound, as a kubelet says that it has made nothing for its containers to run in.
fn bind(world: &mut World, sandbox: &str) {
    let condition = |kind: &str, status: &str| PodCondition {
        type_: kind.into(),
        status: status.into(),
        last_transition_time: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(world.now)),
        ..PodCondition::default()
    };
    let conditions = vec![condition("PodScheduled", "True"), condition("PodReadyToStartContainers", sandbox)];
    let pod = &mut world.stored.pods[0];
    pod.spec.as_mut().unwrap().node_name = Some("node".into());
    pod.status = Some(PodStatus { conditions: Some(conditions), ..PodStatus::default() });
}

/// The pod is deleted, and another one without a user namespace takes its place when it is gone.
fn is_made_again(world: &mut World, why: &str) {
    world.settle();
    let said = condition(world, "UserNamespace").unwrap_or_else(|| panic!("nothing is said: {why}"));
    assert!(said.status == "False" && said.message.as_deref().unwrap().contains(why), "{said:?}");
    assert!(world.events.contains(&"NotStarted"));
    assert_eq!(world.phase(), "Pending");
    let pod = &world.stored.pods[0];
    assert!(pod.metadata.deletion_timestamp.is_some() && world.stored.pods.len() == 1);
    assert_eq!(world.vmi().status.as_ref().unwrap().launcher_pod, None);
    world.stored.pods.clear();
    world.settle();
    assert_eq!(world.stored.pods[0].spec.as_ref().unwrap().host_users, None);
    world.run_pod(0);
    world.settle();
    assert_eq!(world.phase(), "Scheduled");
    assert_eq!(world.created_for.len(), 2);
    assert!(world.vmi().status.as_ref().unwrap().launcher_pod.is_some(), "the second one is recorded");
}

#[test]
fn a_pod_that_does_not_start_in_a_user_namespace_is_made_again_without_one() {
    let own = || {
        let mut world = World::new(machine("Always"));
        world.own_users = Some(None);
        world.settle();
        assert_eq!(world.stored.pods[0].spec.as_ref().unwrap().host_users, Some(false));
        world
    };
    // The node says itself that it has none.
    let mut world = own();
    bind(&mut world, "False");
    world.own_users = Some(Some("its runtime has none"));
    is_made_again(&mut world, "on node node, and is made again without one: its runtime has none");
    // The runtime cannot start its container.
    let mut world = own();
    bind(&mut world, "True");
    let ended = k8s_openapi::api::core::v1::ContainerStateTerminated {
        reason: Some("StartError".into()),
        message: Some("failed to set MOUNT_ATTR_IDMAP".into()),
        exit_code: 128,
        ..Default::default()
    };
    let state = ContainerState { terminated: Some(ended), ..ContainerState::default() };
    world.stored.pods[0].status = Some(PodStatus { phase: Some("Failed".into()), ..container(state) });
    is_made_again(&mut world, "StartError: failed to set MOUNT_ATTR_IDMAP");
}

#[test]
fn a_pod_that_only_takes_long_keeps_its_user_namespace_and_says_what_to_look_at() {
    let own = || {
        let mut world = World::new(machine("Always"));
        world.own_users = Some(None);
        world.settle();
        world
    };
    let mut world = own();
    bind(&mut world, "False");
    world.settle();
    world.pass(59);
    world.settle();
    assert_eq!((world.phase(), condition(&world, "UserNamespace")), ("Scheduling", None));
    world.pass(2);
    world.settle();
    let said = condition(&world, "UserNamespace").unwrap();
    assert_eq!((said.status.as_str(), said.reason.as_deref()), ("Unknown", Some("Waiting")));
    let (name, text) = (world.stored.pods[0].metadata.name.clone().unwrap(), said.message.clone().unwrap());
    assert!(text.contains("on node node") && text.contains(&format!("describe pod {name} -n ")), "{text}");
    // However long, and an event comes once.
    world.pass(3600);
    world.settle();
    let pod = &world.stored.pods[0];
    assert_eq!(pod.metadata.deletion_timestamp, None);
    assert_eq!(pod.spec.as_ref().unwrap().host_users, Some(false));
    assert_eq!(world.events.iter().filter(|reason| **reason == "Waiting").count(), 1);
    // It is over when the launcher runs.
    world.stored.pods[0].status = None;
    world.run_pod(0);
    world.settle();
    assert_eq!((world.phase(), condition(&world, "UserNamespace")), ("Scheduled", None));
    assert_eq!(world.created_for.len(), 1);
    // A runtime that fails for another reason.
    let mut world = own();
    bind(&mut world, "True");
    let waiting = k8s_openapi::api::core::v1::ContainerStateWaiting {
        reason: Some("CreateContainerError".into()),
        message: Some("context deadline exceeded".into()),
    };
    let state = ContainerState { waiting: Some(waiting), ..ContainerState::default() };
    world.stored.pods[0].status = Some(PodStatus { phase: Some("Pending".into()), ..container(state) });
    world.settle();
    let said = condition(&world, "UserNamespace").unwrap();
    assert!(said.status == "Unknown" && said.message.clone().unwrap().contains("context deadline exceeded"));
    assert_eq!(world.stored.pods[0].metadata.deletion_timestamp, None);
    // One that has ended waits for nothing, also before its pod says so.
    let mut world = own();
    bind(&mut world, "True");
    let ended = k8s_openapi::api::core::v1::ContainerStateTerminated {
        reason: Some("StartError".into()),
        message: Some("no such file or directory".into()),
        exit_code: 128,
        ..Default::default()
    };
    let state = ContainerState { terminated: Some(ended), ..ContainerState::default() };
    world.stored.pods[0].status = Some(PodStatus { phase: Some("Pending".into()), ..container(state) });
    world.settle();
    assert_eq!(condition(&world, "UserNamespace"), None);
}

#[test]
fn a_pod_that_has_begun_or_has_users_of_the_node_is_left_alone() {
    let own = || {
        let mut world = World::new(machine("Always"));
        world.own_users = Some(None);
        world.settle();
        world
    };
    // One that has begun is left alone, and one that runs in what its kubelet has made.
    let mut world = own();
    bind(&mut world, "True");
    world.pass(300);
    world.settle();
    assert_eq!(world.phase(), "Scheduling");
    world.stored.pods[0].status = None;
    world.run_pod(0);
    world.own_users = Some(Some("its runtime has none any more"));
    world.settle();
    assert_eq!((world.phase(), condition(&world, "UserNamespace")), ("Scheduled", None));
    // Without users of its own a pod that waits goes on waiting.
    let mut world = World::new(machine("Always"));
    world.settle();
    bind(&mut world, "False");
    world.pass(300);
    world.settle();
    assert_eq!((world.phase(), world.stored.pods.len()), ("Scheduling", 1));
}
