//! A small world that obeys the rules of an API server, with hands that play the kubelet and the node agent.

use ferrovirt_api::kubevirt::{
    VirtualMachine, VirtualMachineInstance, VirtualMachineInstancePhaseTransitionTimestamp,
};
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStatus, Pod,
    PodCondition, PodSecurityContext, PodSpec, PodStatus, SELinuxOptions,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::collections::BTreeSet;

use crate::decide::accept::{self, untyped};
use crate::decide::{
    Action, CREATED_BY_LABEL, Claim, DOMAIN_ANNOTATION, Decision, Look, Refused, VmSnapshot, VmiSnapshot,
    unrecorded, vm, vm_gone, vmi, vmi_refused,
};
use crate::render::pod::pod_name;
use crate::selinux::label::Mcs;
use crate::user_namespace;

/// The launcher's image.
pub(super) const IMAGE: &str = "l:1";

/// Everything that is stored.
#[derive(Clone, Default)]
pub(super) struct Stored {
    pub(super) vm: Option<VirtualMachine>,
    pub(super) vmi: Option<VirtualMachineInstance>,
    pub(super) pods: Vec<Pod>,
}

#[derive(Clone)]
pub(super) struct World {
    pub(super) now: Timestamp,
    pub(super) stored: Stored,
    pub(super) claims: Vec<Claim>,
    pub(super) events: Vec<&'static str>,
    /// UIDs of the instances for which a pod was created, one entry for each pod.
    pub(super) created_for: Vec<String>,
    /// Pairs of other machines; `None` where pods are not labelled.
    pub(super) taken: Option<BTreeSet<Mcs>>,
    /// What the server says to the creation of a pod.
    pub(super) refuse_pods: Option<Refused>,
    /// The launcher's image, as the controller renders it now.
    pub(super) renders: &'static str,
    /// Pods have user namespaces where `userNamespaces` is Auto, and what keeps the node from giving them one.
    pub(super) own_users: Option<Option<&'static str>>,
    counter: u64,
}

pub(super) fn time(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

pub(super) fn machine(strategy: &str) -> VirtualMachine {
    let mut vm = VirtualMachine::default();
    vm.metadata.name = Some("m".into());
    vm.metadata.namespace = Some("n".into());
    vm.metadata.generation = Some(1);
    vm.spec.run_strategy = Some(strategy.into());
    vm
}

pub(super) fn launcher(vmi: &VirtualMachineInstance) -> Result<Pod, Vec<String>> {
    let uid = vmi.metadata.uid.clone().unwrap();
    if vmi.spec.hostname.as_deref() == Some("invalid") {
        return Err(vec!["spec.hostname: no".into()]);
    }
    Ok(Pod {
        metadata: ObjectMeta {
            name: Some(pod_name("m", &uid)),
            namespace: Some("n".into()),
            labels: Some([(CREATED_BY_LABEL.to_owned(), uid)].into()),
            annotations: Some([(DOMAIN_ANNOTATION.to_owned(), "m".to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            containers: vec![Container {
                name: "compute".into(),
                image: Some(IMAGE.into()),
                ..Container::default()
            }],
            termination_grace_period_seconds: Some(60),
            security_context: vmi.status.as_ref().and_then(|s| s.selinux_level.clone()).map(|level| {
                let label = SELinuxOptions { level: Some(level), ..SELinuxOptions::default() };
                PodSecurityContext { se_linux_options: Some(label), ..PodSecurityContext::default() }
            }),
            ..PodSpec::default()
        }),
        status: None,
    })
}

pub(super) fn container(state: ContainerState) -> PodStatus {
    PodStatus {
        container_statuses: Some(vec![ContainerStatus {
            name: "compute".into(),
            state: Some(state),
            ..ContainerStatus::default()
        }]),
        qos_class: Some("Burstable".into()),
        ..PodStatus::default()
    }
}

impl World {
    pub(super) fn new(vm: VirtualMachine) -> Self {
        let mut world = Self {
            now: time(0),
            stored: Stored::default(),
            claims: Vec::new(),
            events: Vec::new(),
            created_for: Vec::new(),
            taken: None,
            refuse_pods: None,
            renders: IMAGE,
            own_users: None,
            counter: 0,
        };
        let mut vm = vm;
        world.stamp(&mut vm.metadata, "vm");
        world.stored.vm = Some(vm);
        world
    }

    fn next(&mut self) -> String {
        self.counter += 1;
        self.counter.to_string()
    }

    fn stamp(&mut self, meta: &mut ObjectMeta, kind: &str) {
        let number = self.next();
        meta.uid.get_or_insert_with(|| format!("{kind}-{number}"));
        meta.resource_version = Some(number);
        meta.creation_timestamp.get_or_insert(Time(self.now));
    }

    pub(super) fn pass(&mut self, seconds: i64) {
        self.now = self.now.checked_add(SignedDuration::from_secs(seconds)).unwrap();
    }

    pub(super) fn vm(&self) -> &VirtualMachine {
        self.stored.vm.as_ref().expect("a machine")
    }

    pub(super) fn vmi(&self) -> &VirtualMachineInstance {
        self.stored.vmi.as_ref().expect("an instance")
    }

    pub(super) fn phase(&self) -> &str {
        self.stored.vmi.as_ref().and_then(|v| v.status.as_ref()?.phase.as_deref()).unwrap_or("none")
    }

    pub(super) fn printable(&self) -> &str {
        self.vm().status.as_ref().and_then(|s| s.printable_status.as_deref()).unwrap_or_default()
    }

    /// One round of the VM controller over what a cache showed.
    pub(super) fn reconcile_vm(&mut self, seen: &Stored) -> Decision {
        let decision = match (&seen.vm, &seen.vmi) {
            (Some(machine), vmi) => {
                vm(&VmSnapshot { vm: machine, vmi: vmi.as_ref(), claims: &self.claims }, self.now, 0.0)
            }
            (None, Some(vmi)) => vm_gone(vmi),
            (None, None) => return Decision::default(),
        };
        self.perform(&decision.actions, seen);
        decision
    }

    /// One round of the VMI controller over what a cache showed.
    pub(super) fn reconcile_vmi(&mut self, seen: &Stored) -> Decision {
        let Some(instance) = &seen.vmi else { return Decision::default() };
        let pods: Vec<&Pod> = seen.pods.iter().collect();
        // Of the API server, and not of what a cache showed.
        let look = unrecorded(instance, &pods).and_then(|pod| self.look(pod));
        let own_users = self.own_users;
        let lack = |_: &str| own_users.flatten().map(str::to_owned);
        let render = |vmi: &VirtualMachineInstance| {
            let mut pod = launcher(vmi)?;
            let own = own_users.is_some() && !user_namespace::gave_up(vmi);
            pod.spec.get_or_insert_default().host_users = own.then_some(false);
            Ok(pod)
        };
        let snapshot = VmiSnapshot {
            vmi: instance,
            pods: &pods,
            claims: &self.claims,
            taken: self.taken.as_ref(),
            launcher: &render,
            lack: own_users.is_some().then_some(&lack),
            look: look.as_ref(),
        };
        let decision = vmi(&snapshot, self.now);
        self.perform(&decision.actions, seen);
        decision
    }

    /// What the server has of a pod, compared with its rendering.
    fn look(&self, pod: &Pod) -> Option<Look> {
        let now = self.stored.pods.iter().find(|now| now.metadata.uid == pod.metadata.uid)?;
        let mut should = now.clone();
        (should.metadata.uid, should.metadata.resource_version) = (None, None);
        should.spec.get_or_insert_default().containers[0].image = Some(self.renders.to_owned());
        Some(accept::record(&untyped(now), &[untyped(&should)], &Value::Null))
    }

    /// Both controllers over the present until nothing is left to do; the number of rounds is bounded.
    pub(super) fn settle(&mut self) {
        for _ in 0..40 {
            let seen = self.stored.clone();
            let first = self.reconcile_vm(&seen);
            let seen = self.stored.clone();
            let second = self.reconcile_vmi(&seen);
            if first.actions.is_empty() && second.actions.is_empty() {
                return;
            }
        }
        panic!("the controllers do not come to rest");
    }

    fn perform(&mut self, actions: &[Action], seen: &Stored) {
        for action in actions {
            if self.act(action, seen).is_err() {
                return;
            }
        }
    }

    fn act(&mut self, action: &Action, seen: &Stored) -> Result<(), ()> {
        match action {
            Action::CreateVmi(vmi) if self.stored.vmi.is_none() => {
                let mut vmi = (**vmi).clone();
                self.stamp(&mut vmi.metadata, "vmi");
                self.stored.vmi = Some(vmi);
            }
            Action::CreateVmi(_) => {}
            Action::DeleteVmi { uid } => {
                if self.stored.vmi.as_ref().is_some_and(|v| v.metadata.uid.as_ref() == Some(uid)) {
                    self.delete_vmi();
                }
            }
            Action::CreatePod(pod) => {
                if let Some(refused) = self.refuse_pods.clone() {
                    let actions = vmi_refused(seen.vmi.as_ref().unwrap(), &refused, self.now);
                    self.perform(&actions, seen);
                    return Err(());
                }
                let mut pod = (**pod).clone();
                if self.stored.pods.iter().all(|p| p.metadata.name != pod.metadata.name) {
                    self.created_for.push(pod.metadata.labels.as_ref().unwrap()[CREATED_BY_LABEL].clone());
                    self.stamp(&mut pod.metadata, "pod");
                    self.stored.pods.push(pod);
                }
            }
            Action::DeletePod { uid, grace_seconds, .. } => {
                let now = self.now;
                let number = self.next();
                if let Some(pod) = self.stored.pods.iter_mut().find(|p| p.metadata.uid.as_ref() == Some(uid))
                {
                    pod.metadata.deletion_timestamp.get_or_insert(Time(now));
                    pod.metadata.deletion_grace_period_seconds = Some(grace_seconds.unwrap_or(60));
                    pod.metadata.resource_version = Some(number);
                }
            }
            Action::ConfirmPodGone { name } => {
                if self.stored.pods.iter().any(|p| p.metadata.name.as_ref() == Some(name)) {
                    return Err(());
                }
            }
            Action::PatchVm(ops) | Action::PatchVmStatus(ops) => {
                let Some(mut vm) = self.stored.vm.clone() else { return Err(()) };
                let (kept_spec, kept_status) = (vm.spec.clone(), vm.status.clone());
                patch(&mut vm, ops)?;
                if matches!(action, Action::PatchVm(_)) {
                    vm.status = kept_status;
                } else {
                    vm.spec = kept_spec;
                }
                vm.metadata.resource_version = Some(self.next());
                self.stored.vm = Some(vm);
                self.collect();
            }
            Action::PatchVmi(ops) => {
                let Some(mut vmi) = self.stored.vmi.clone() else { return Err(()) };
                patch(&mut vmi, ops)?;
                // What changes nothing is not written: the version stays, as on an API server.
                if Some(&vmi) == self.stored.vmi.as_ref() {
                    return Ok(());
                }
                vmi.metadata.resource_version = Some(self.next());
                self.stored.vmi = Some(vmi);
                self.collect();
            }
            Action::Event(event) => self.events.push(event.reason),
        }
        Ok(())
    }

    /// Finalizers and the garbage collector.
    fn collect(&mut self) {
        let done = |meta: &ObjectMeta| {
            meta.deletion_timestamp.is_some() && meta.finalizers.iter().flatten().count() == 0
        };
        if self.stored.vm.as_ref().is_some_and(|vm| done(&vm.metadata)) {
            self.stored.vm = None;
            self.delete_vmi();
        }
        if self.stored.vmi.as_ref().is_some_and(|vmi| done(&vmi.metadata)) {
            self.stored.vmi = None;
            let now = self.now;
            for pod in &mut self.stored.pods {
                pod.metadata.deletion_timestamp.get_or_insert(Time(now));
            }
        }
    }

    pub(super) fn delete_vm(&mut self) {
        let now = self.now;
        let number = self.next();
        if let Some(vm) = &mut self.stored.vm {
            vm.metadata.deletion_timestamp.get_or_insert(Time(now));
            vm.metadata.resource_version = Some(number);
        }
        self.collect();
    }

    pub(super) fn delete_vmi(&mut self) {
        let now = self.now;
        let number = self.next();
        if let Some(vmi) = &mut self.stored.vmi {
            vmi.metadata.deletion_timestamp.get_or_insert(Time(now));
            vmi.metadata.resource_version = Some(number);
        }
        self.collect();
    }

    pub(super) fn edit_vm(&mut self, edit: impl FnOnce(&mut VirtualMachine)) {
        let number = self.next();
        if let Some(vm) = &mut self.stored.vm {
            edit(vm);
            vm.metadata.generation = vm.metadata.generation.map(|g| g + 1);
            vm.metadata.resource_version = Some(number);
        }
    }

    pub(super) fn edit_vmi(&mut self, edit: impl FnOnce(&mut VirtualMachineInstance)) {
        let number = self.next();
        if let Some(vmi) = &mut self.stored.vmi {
            edit(vmi);
            vmi.metadata.resource_version = Some(number);
        }
    }

    /// The node agent reports a phase.
    pub(super) fn report(&mut self, phase: &str) {
        let (now, number) = (self.now, self.next());
        let Some(vmi) = &mut self.stored.vmi else { return };
        let status = vmi.status.get_or_insert_default();
        status.phase = Some(phase.into());
        status.phase_transition_timestamps.push(VirtualMachineInstancePhaseTransitionTimestamp {
            phase: Some(phase.into()),
            phase_transition_timestamp: Some(Time(now)),
        });
        vmi.metadata.resource_version = Some(number);
    }

    fn update_pod(&mut self, index: usize, change: impl FnOnce(&mut Pod)) {
        let number = self.next();
        if let Some(pod) = self.stored.pods.get_mut(index) {
            change(pod);
            pod.metadata.resource_version = Some(number);
        }
    }

    /// The kubelet starts the launcher.
    pub(super) fn run_pod(&mut self, index: usize) {
        self.update_pod(index, |pod| {
            if pod.metadata.deletion_timestamp.is_some() || pod.status.is_some() {
                return;
            }
            pod.spec.get_or_insert_default().node_name = Some("node".into());
            let running = ContainerState {
                running: Some(ContainerStateRunning::default()),
                ..ContainerState::default()
            };
            pod.status = Some(PodStatus {
                phase: Some("Running".into()),
                conditions: Some(vec![PodCondition {
                    type_: "Ready".into(),
                    status: "True".into(),
                    ..PodCondition::default()
                }]),
                ..container(running)
            });
        });
    }

    /// The launcher ends.
    pub(super) fn end_pod(&mut self, index: usize, exit_code: i32) {
        let now = self.now;
        self.update_pod(index, |pod| {
            if matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed")) {
                return;
            }
            let terminated = ContainerStateTerminated {
                exit_code,
                finished_at: Some(Time(now)),
                reason: Some(if exit_code == 0 { "Completed" } else { "Error" }.into()),
                ..ContainerStateTerminated::default()
            };
            let state = ContainerState { terminated: Some(terminated), ..ContainerState::default() };
            let phase = if exit_code == 0 { "Succeeded" } else { "Failed" };
            pod.status = Some(PodStatus { phase: Some(phase.into()), ..container(state) });
        });
    }

    /// The kubelet lets a deleted pod go once nothing of it runs.
    pub(super) fn reap_pods(&mut self) {
        for index in 0..self.stored.pods.len() {
            if self.stored.pods[index].metadata.deletion_timestamp.is_some() {
                self.end_pod(index, 0);
            }
        }
        self.stored.pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
    }

    /// Pods whose processes may run.
    pub(super) fn active_pods(&self) -> usize {
        self.stored
            .pods
            .iter()
            .filter(|pod| {
                !matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
            })
            .count()
    }

    /// From the machine to a running guest.
    pub(super) fn boot(&mut self) {
        self.settle();
        let index = self.stored.pods.len() - 1;
        self.run_pod(index);
        self.settle();
        assert_eq!(self.phase(), "Scheduled");
        self.report("Running");
        self.settle();
    }
}

fn patch<T: Serialize + DeserializeOwned>(object: &mut T, ops: &[Value]) -> Result<(), ()> {
    let mut value = serde_json::to_value(&*object).unwrap();
    let ops: json_patch::Patch = serde_json::from_value(Value::Array(ops.to_vec())).unwrap();
    json_patch::patch(&mut value, &ops).map_err(|_| ())?;
    *object = serde_json::from_value(value).unwrap();
    Ok(())
}
