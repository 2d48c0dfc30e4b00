//! Random orders of everything that can happen: never two launchers, and always an end.

use proptest::prelude::*;

use super::world::{Stored, World, machine};

#[derive(Clone, Debug)]
enum Happening {
    /// A controller looks at the present, or at what its cache showed some time ago.
    ReconcileVm(usize),
    ReconcileVmi(usize),
    PodRuns,
    PodEnds(i32),
    PodsReaped,
    AgentReports(&'static str),
    InstanceDeleted,
    Strategy(&'static str),
    Time(i64),
}

fn happening() -> impl Strategy<Value = Happening> {
    let age = prop_oneof![4 => Just(0usize), 1 => 1usize..6];
    prop_oneof![
        4 => age.clone().prop_map(Happening::ReconcileVm),
        6 => age.prop_map(Happening::ReconcileVmi),
        3 => Just(Happening::PodRuns),
        2 => prop_oneof![Just(0), Just(1)].prop_map(Happening::PodEnds),
        2 => Just(Happening::PodsReaped),
        2 => prop_oneof![Just("Running"), Just("Succeeded"), Just("Failed")].prop_map(Happening::AgentReports),
        1 => Just(Happening::InstanceDeleted),
        1 => prop_oneof![Just("Always"), Just("Halted"), Just("RerunOnFailure"), Just("Once"), Just("Manual")]
            .prop_map(Happening::Strategy),
        1 => (1i64..400).prop_map(Happening::Time),
    ]
}

fn seen(past: &[Stored], age: usize) -> Stored {
    past[past.len().saturating_sub(1 + age)].clone()
}

/// The instance of the present may have been reported as final while its launcher still runs; an agent never does
/// that for an instance that was not handed over.
fn may_report(world: &World, phase: &str) -> bool {
    match phase {
        "Running" => world.phase() == "Scheduled" && world.active_pods() > 0,
        _ => matches!(world.phase(), "Scheduled" | "Running"),
    }
}

fn check(world: &World) -> Result<(), TestCaseError> {
    prop_assert!(world.active_pods() <= 1, "two launchers of one machine");
    let mut uids = world.created_for.clone();
    uids.sort();
    uids.dedup();
    prop_assert_eq!(uids.len(), world.created_for.len(), "two pods for one instance");
    Ok(())
}

/// Kubelet and agent do their part until everything is at rest.
fn cooperate(world: &mut World) {
    for _ in 0..12 {
        world.settle();
        world.reap_pods();
        for index in 0..world.stored.pods.len() {
            world.run_pod(index);
        }
        world.settle();
        if world.phase() == "Scheduled" && world.active_pods() > 0 {
            world.report("Running");
        }
        world.pass(400);
    }
    world.settle();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn never_two_launchers_and_always_an_end(
        happenings in prop::collection::vec(happening(), 1..80),
        delete in any::<bool>(),
    ) {
        let mut world = World::new(machine("Always"));
        let mut past = vec![world.stored.clone()];
        for happening in happenings {
            match happening {
                Happening::ReconcileVm(age) => { world.reconcile_vm(&seen(&past, age)); }
                Happening::ReconcileVmi(age) => { world.reconcile_vmi(&seen(&past, age)); }
                Happening::PodRuns => {
                    for index in 0..world.stored.pods.len() {
                        world.run_pod(index);
                    }
                }
                Happening::PodEnds(code) => {
                    for index in 0..world.stored.pods.len() {
                        world.end_pod(index, code);
                    }
                }
                Happening::PodsReaped => world.reap_pods(),
                Happening::AgentReports(phase) => {
                    if may_report(&world, phase) {
                        world.report(phase);
                    }
                }
                Happening::InstanceDeleted => world.delete_vmi(),
                Happening::Strategy(strategy) => world.edit_vm(|vm| vm.spec.run_strategy = Some(strategy.into())),
                Happening::Time(seconds) => world.pass(seconds),
            }
            check(&world)?;
            past.push(world.stored.clone());
        }
        if delete {
            world.delete_vm();
            cooperate(&mut world);
            prop_assert!(world.stored.vm.is_none() && world.stored.vmi.is_none() && world.active_pods() == 0);
        } else {
            cooperate(&mut world);
            let strategy = world.vm().spec.run_strategy.clone().unwrap_or_default();
            match strategy.as_str() {
                "Always" => prop_assert_eq!(world.phase(), "Running"),
                "Halted" => prop_assert!(world.stored.vmi.is_none()),
                _ => {}
            }
            prop_assert!(world.vm().status.as_ref().unwrap().state_change_requests.is_empty());
        }
        check(&world)?;
    }
}
