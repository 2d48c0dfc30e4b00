use ferrovirt_api::kubevirt::{VirtualMachineCondition, VirtualMachineStateChangeRequest as Request};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::world::{World, machine, time};
use crate::decide::{Action, Claim, ClaimState, VmSnapshot, back_off_seconds, vm};

fn condition<'a>(world: &'a World, kind: &str) -> Option<&'a VirtualMachineCondition> {
    world.vm().status.as_ref()?.conditions.iter().find(|c| c.r#type == kind)
}

fn request(action: &str, uid: Option<&str>) -> Request {
    Request { action: action.into(), uid: uid.map(Into::into), ..Request::default() }
}

/// Each strategy with each state of the instance: what the machine comes to when everybody does their part.
#[test]
fn strategies() {
    // strategy, how the guest ends, request written then ("" none), what is left, printable status
    let rows = [
        ("Always", "Succeeded", "", "new", "Starting"),
        ("Always", "Failed", "", "new", "Starting"),
        ("Always", "Running", "Stop", "new", "Starting"),
        ("Always", "Running", "", "same", "Running"),
        ("RerunOnFailure", "Failed", "", "new", "Starting"),
        ("RerunOnFailure", "Succeeded", "", "none", "Stopped"),
        ("RerunOnFailure", "Succeeded", "Start", "new", "Starting"),
        ("RerunOnFailure", "Running", "Stop", "none", "Stopped"),
        ("Manual", "Succeeded", "", "same", "Stopped"),
        ("Manual", "Failed", "", "same", "Stopped"),
        ("Manual", "Failed", "Stop", "none", "Stopped"),
        ("Manual", "Running", "Stop", "none", "Stopped"),
        ("Manual", "Running", "Restart", "new", "Starting"),
        ("Once", "Succeeded", "", "same", "Stopped"),
        ("Once", "Failed", "", "same", "Stopped"),
    ];
    for (strategy, phase, asked, left, printable) in rows {
        let row = format!("{strategy}, {phase}, {asked}");
        let mut world = World::new(machine(strategy));
        if strategy == "Manual" {
            world.settle();
            assert!(world.stored.vmi.is_none(), "{row}");
            world.edit_vm(|vm| {
                vm.status.get_or_insert_default().state_change_requests = vec![request("Start", None)];
            });
        }
        world.boot();
        assert_eq!(world.printable(), "Running", "{row}");
        let before = world.vmi().metadata.uid.clone();
        // Long enough that its end is no failed start.
        world.pass(60);
        if phase != "Running" {
            world.report(phase);
            world.end_pod(0, 0);
        }
        let requests = match asked {
            "" => Vec::new(),
            "Restart" => vec![request("Stop", before.as_deref()), request("Start", None)],
            "Stop" => vec![request("Stop", before.as_deref())],
            other => vec![request(other, None)],
        };
        if !requests.is_empty() {
            world.edit_vm(|vm| vm.status.get_or_insert_default().state_change_requests = requests);
        }
        // Twice, because a stopped guest's pod ends between the rounds.
        for _ in 0..2 {
            world.settle();
            world.reap_pods();
        }
        world.settle();
        let now = match &world.stored.vmi {
            None => "none",
            Some(vmi) if vmi.metadata.uid == before => "same",
            Some(_) => "new",
        };
        assert_eq!((now, world.printable()), (left, printable), "{row}");
        let open = &world.vm().status.as_ref().unwrap().state_change_requests;
        assert!(open.is_empty(), "{row}: {open:?}");
    }
}

#[test]
fn a_machine_that_never_runs_backs_off_by_the_square() {
    let mut world = World::new(machine("Always"));
    let mut waits = Vec::new();
    for failures in 1..=4 {
        world.settle();
        let index = world.stored.pods.len() - 1;
        world.end_pod(index, 1);
        world.settle();
        let failure = world.vm().status.as_ref().unwrap().start_failure.clone().unwrap();
        assert_eq!(failure.consecutive_fail_count, Some(failures));
        assert_eq!(world.printable(), "CrashLoopBackOff");
        assert!(world.stored.vmi.is_none());
        let seen = world.stored.clone();
        let decision = world.reconcile_vm(&seen);
        let wait = decision.requeue_after.expect("a time to look again").as_secs();
        waits.push(wait);
        assert!(decision.actions.is_empty());
        world.pass(wait.try_into().unwrap());
    }
    assert_eq!(waits, [10, 40, 90, 160]);
    world.boot();
    assert_eq!(world.printable(), "Running");
    let seen = world.stored.clone();
    let wait = world.reconcile_vm(&seen).requeue_after.expect("a time to look again").as_secs();
    world.pass(wait.try_into().unwrap());
    world.settle();
    assert_eq!(world.vm().status.as_ref().unwrap().start_failure, None, "cleared by a run");
}

/// How a guest ends right after its start, under each strategy that could start it again.
#[test]
fn a_guest_that_does_not_stay_up_backs_off_by_the_square() {
    for (strategy, phase) in [("Always", "Succeeded"), ("Always", "Failed"), ("RerunOnFailure", "Failed")] {
        let mut world = World::new(machine(strategy));
        let mut waits = Vec::new();
        for failures in 1..=7 {
            world.boot();
            assert_eq!(world.printable(), "Running", "{strategy} {phase}");
            world.pass(2);
            world.report(phase);
            let index = world.stored.pods.len() - 1;
            world.end_pod(index, i32::from(phase == "Failed"));
            world.settle();
            world.reap_pods();
            world.settle();
            let failure = world.vm().status.as_ref().unwrap().start_failure.clone().unwrap();
            assert_eq!(failure.consecutive_fail_count, Some(failures));
            assert!(failure.last_failed_vmi_uid.is_some());
            assert_eq!(world.printable(), "CrashLoopBackOff", "{strategy} {phase}");
            assert!(world.stored.vmi.is_none());
            let seen = world.stored.clone();
            let decision = world.reconcile_vm(&seen);
            let wait = decision.requeue_after.expect("a time to look again").as_secs();
            waits.push(wait);
            world.pass(wait.try_into().unwrap());
        }
        assert_eq!(waits, [10, 40, 90, 160, 250, 300, 300], "{strategy} {phase}");
        // One that stays up is forgiven, and its end is no failure.
        world.boot();
        world.pass(60);
        world.settle();
        assert_eq!(world.vm().status.as_ref().unwrap().start_failure, None);
        world.report(phase);
        world.settle();
        assert_eq!(world.vm().status.as_ref().unwrap().start_failure, None);
    }
}

/// Ends that nobody starts a machine again for, and those that somebody asked for.
#[test]
fn a_wanted_end_is_no_failed_start() {
    for (strategy, phase) in
        [("RerunOnFailure", "Succeeded"), ("Once", "Succeeded"), ("Once", "Failed"), ("Manual", "Failed")]
    {
        let mut world = World::new(machine(strategy));
        if strategy == "Manual" {
            world.settle();
            world.edit_vm(|vm| {
                vm.status.get_or_insert_default().state_change_requests = vec![request("Start", None)];
            });
        }
        world.boot();
        world.report(phase);
        world.end_pod(0, 0);
        world.settle();
        assert_eq!(world.vm().status.as_ref().unwrap().start_failure, None, "{strategy} {phase}");
        assert_eq!(world.printable(), "Stopped", "{strategy} {phase}");
    }
    let mut world = World::new(machine("Always"));
    world.boot();
    world.delete_vmi();
    world.report("Succeeded");
    world.settle();
    assert_eq!(world.vm().status.as_ref().unwrap().start_failure, None, "a restart that was asked for");
}

#[test]
fn a_clock_that_is_set_back_keeps_no_machine_from_starting() {
    let mut world = World::new(machine("Always"));
    world.settle();
    world.end_pod(0, 1);
    world.settle();
    assert_eq!(world.printable(), "CrashLoopBackOff");
    world.pass(-3 * 3600);
    let seen = world.stored.clone();
    let decision = world.reconcile_vm(&seen);
    assert_eq!(decision.requeue_after, None, "{}", decision.explanation);
    world.boot();
    assert_eq!(world.printable(), "Running");
    // The end of its pod lies ahead of the clock, and nobody reports it.
    let index = world.stored.pods.len() - 1;
    world.end_pod(index, 1);
    world.pass(-3 * 3600);
    let seen = world.stored.clone();
    let decision = world.reconcile_vmi(&seen);
    assert_eq!(decision.requeue_after, None, "{}", decision.explanation);
    assert_eq!(world.phase(), "Failed");
}

#[test]
fn back_off_is_capped_and_jitter_is_at_most_half() {
    let rows = [
        (1, 0.0, 10),
        (1, 1.0, 15),
        (2, 0.5, 50),
        (5, 0.0, 250),
        (5, 1.0, 300),
        (9, 0.0, 300),
        (u32::MAX, 1.0, 300),
    ];
    for (failures, jitter, seconds) in rows {
        assert_eq!(back_off_seconds(failures, jitter), seconds, "{failures}");
    }
    assert_eq!(back_off_seconds(1, f64::NAN), 10);
}

#[test]
fn a_once_machine_runs_once_even_when_its_instance_is_deleted() {
    let mut world = World::new(machine("Once"));
    world.boot();
    world.delete_vmi();
    world.settle();
    world.reap_pods();
    world.settle();
    assert!(world.stored.vmi.is_none());
    assert_eq!(world.created_for.len(), 1);
}

#[test]
fn the_instance_is_made_from_the_template_and_belongs_to_the_machine() {
    let mut template = machine("Always");
    template.spec.template.metadata.labels = Some([("app".to_owned(), "x".to_owned())].into());
    template.spec.template.spec.hostname = Some("h".into());
    let mut world = World::new(template);
    let seen = world.stored.clone();
    let decision = world.reconcile_vm(&seen);
    assert!(matches!(decision.actions[0], Action::CreateVmi(_)), "the instance comes before everything else");
    let vmi = world.vmi();
    assert_eq!(vmi.metadata.name.as_deref(), Some("m"));
    assert_eq!(vmi.metadata.labels.as_ref().unwrap()["app"], "x");
    assert_eq!(vmi.metadata.annotations.as_ref().unwrap()["kubevirt.io/vm-generation"], "1");
    assert_eq!(vmi.metadata.finalizers.as_ref().unwrap().len(), 2);
    let owner = &vmi.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!((owner.controller, Some(&owner.uid)), (Some(true), world.vm().metadata.uid.as_ref()));
    assert_eq!(vmi.spec.hostname.as_deref(), Some("h"));
}

#[test]
fn deleting_the_machine_takes_everything_along_in_order() {
    let mut world = World::new(machine("Always"));
    world.boot();
    world.delete_vm();
    world.settle();
    assert_eq!(world.printable(), "Terminating");
    assert!(world.vmi().metadata.deletion_timestamp.is_some());
    assert!(world.stored.pods[0].metadata.deletion_timestamp.is_some());
    world.report("Succeeded");
    world.settle();
    assert!(world.stored.vm.is_some(), "held while the pod runs");
    world.reap_pods();
    world.settle();
    assert!(world.stored.vm.is_none() && world.stored.vmi.is_none());
}

#[test]
fn an_orphaned_instance_goes_on_without_its_machine() {
    let mut world = World::new(machine("Always"));
    world.boot();
    world.edit_vm(|vm| vm.metadata.finalizers.get_or_insert_default().push("orphan".into()));
    world.delete_vm();
    world.settle();
    assert_eq!(world.vm().metadata.finalizers, Some(vec!["orphan".to_owned()]));
    assert_eq!(world.phase(), "Running");
    assert_eq!(world.vmi().metadata.finalizers.as_ref().unwrap(), &[crate::decide::FOREGROUND_FINALIZER]);
}

#[test]
fn a_foreign_instance_is_left_alone_and_named() {
    let mut world = World::new(machine("Always"));
    let mut other = ferrovirt_api::kubevirt::VirtualMachineInstance::default();
    other.metadata.name = Some("m".into());
    other.metadata.uid = Some("foreign".into());
    world.stored.vmi = Some(other);
    let mut seen = world.stored.clone();
    world.reconcile_vm(&seen);
    seen = world.stored.clone();
    world.reconcile_vm(&seen);
    assert_eq!(world.vmi().metadata.uid.as_deref(), Some("foreign"));
    let failure = condition(&world, "Failure").expect("a failure");
    assert!(failure.message.as_ref().unwrap().contains("does not belong"));
    assert!(!world.events.contains(&"SuccessfulCreate"));
}

#[test]
fn a_changed_template_asks_for_a_restart_until_it_is_restarted() {
    let mut world = World::new(machine("Always"));
    world.boot();
    assert!(condition(&world, "RestartRequired").is_none());
    world.edit_vm(|vm| vm.spec.template.spec.hostname = Some("other".into()));
    world.settle();
    assert_eq!(condition(&world, "RestartRequired").unwrap().status, "True");
    let status = world.vm().status.clone().unwrap();
    assert_eq!((status.observed_generation, status.desired_generation), (Some(1), Some(2)));
    world.delete_vmi();
    world.settle();
    world.reap_pods();
    world.boot();
    assert!(condition(&world, "RestartRequired").is_none());
}

#[test]
fn a_paused_start_of_a_halted_machine_starts_it_paused() {
    let mut world = World::new(machine("Halted"));
    world.settle();
    assert_eq!(world.printable(), "Stopped");
    let mut paused = request("Start", None);
    paused.data.insert("paused".into(), "true".into());
    world.edit_vm(|vm| vm.status.get_or_insert_default().state_change_requests = vec![paused]);
    world.settle();
    assert_eq!(world.vm().spec.run_strategy.as_deref(), Some("Always"));
    assert_eq!(world.vmi().spec.start_strategy.as_deref(), Some("Paused"));
}

#[test]
fn the_instances_conditions_are_mirrored() {
    let mut world = World::new(machine("Always"));
    world.boot();
    assert_eq!(condition(&world, "Ready").unwrap().status, "True");
    assert_eq!(world.vm().status.as_ref().unwrap().ready, Some(true));
    let paused = ferrovirt_api::kubevirt::VirtualMachineInstanceCondition {
        r#type: "Paused".into(),
        status: "True".into(),
        reason: Some("PausedByUser".into()),
        ..Default::default()
    };
    world.stored.vmi.as_mut().unwrap().status.as_mut().unwrap().conditions.push(paused);
    world.settle();
    assert_eq!(world.printable(), "Paused");
    assert_eq!(condition(&world, "Paused").unwrap().reason.as_deref(), Some("PausedByUser"));
    world.stored.vmi.as_mut().unwrap().status.as_mut().unwrap().conditions.retain(|c| c.r#type != "Paused");
    world.settle();
    assert!(condition(&world, "Paused").is_none());
    assert_eq!(world.printable(), "Running");
}

/// The first word that fits wins.
#[test]
fn printable_status_while_starting() {
    let claim = |state| vec![Claim { name: "c".into(), state, block: false }];
    let rows = [
        (claim(ClaimState::Missing), "ErrorPvcNotFound"),
        (claim(ClaimState::Pending), "Provisioning"),
        (claim(ClaimState::Bound), "Starting"),
    ];
    for (claims, expected) in rows {
        let mut world = World::new(machine("Always"));
        world.claims = claims;
        world.settle();
        assert_eq!(world.printable(), expected);
    }
}

#[test]
fn nothing_is_written_when_nothing_changed() {
    let mut world = World::new(machine("Always"));
    world.boot();
    let machine = world.vm();
    let snapshot = VmSnapshot { vm: machine, vmi: Some(world.vmi()), claims: &[] };
    assert!(vm(&snapshot, time(1000), 0.3).actions.is_empty());
    assert!(machine.metadata.creation_timestamp.as_ref().is_some_and(|t: &Time| t.0 <= time(0)));
}
