//! Processors: topology, dedicated placement, NUMA, realtime, features.

use ferrovirt_kubernetes::quantity::Amount;

use super::{Rules, text};
use crate::{cause::Reason, kubevirt::Cpu};

/// The product of a topology in which nothing stands for 1, and 0 when nothing at all is given.
fn vcpus(cpu: &Cpu) -> u64 {
    let counts = [cpu.sockets, cpu.cores, cpu.threads].map(|count| u64::from(count.unwrap_or_default()));
    if counts == [0; 3] {
        0
    } else {
        counts.into_iter().fold(1, |product, count| product.saturating_mul(count.max(1)))
    }
}

/// Whether a positive amount is not a whole number.
fn fractional(amount: Amount) -> bool {
    amount > Amount::ZERO && amount.whole().saturating_mul(1000) != amount.thousandths()
}

impl Rules<'_> {
    pub(super) fn machine_type(&mut self) {
        let Some(machine) = self.spec.domain.machine.as_ref().and_then(|machine| machine.r#type.as_deref())
        else {
            return;
        };
        // The lists of the other architectures are not configurable here; those machines are refused anyway.
        let allowed = match self.spec.architecture.as_deref() {
            Some("arm64") => vec!["virt*".to_owned()],
            Some("s390x") => vec!["s390-ccw-virtio*".to_owned()],
            _ => self.config.emulated_machines.clone(),
        };
        if !machine.is_empty() && !allowed.iter().any(|pattern| text::matches(pattern, machine)) {
            let path = self.domain("machine.type");
            let message =
                format!("{path} is not supported: {machine} (allowed values: [{}])", allowed.join(" "));
            self.report.invalid(path, message);
        }
    }

    pub(super) fn dedicated_cpus(&mut self) {
        let Some(cpu) = &self.spec.domain.cpu else { return };
        if cpu.dedicated_cpu_placement != Some(true) {
            return;
        }
        let field = self.domain("cpu.dedicatedCpuPlacement");
        let [request_path, limit_path] =
            ["requests.cpu", "limits.cpu"].map(|name| self.domain("resources").child(name));
        let memory_paths =
            ["requests.memory", "limits.memory"].map(|name| self.domain("resources").child(name));
        let cores = self.domain("cpu.cores");
        let (request, limit) = (self.request("cpu"), self.limit("cpu"));
        let (memory_request, memory_limit) = (self.request("memory"), self.limit("memory"));
        let hugepages = self.spec.domain.memory.as_ref().is_some_and(|memory| memory.hugepages.is_some());
        let [requested, limited] = &memory_paths;

        if memory_limit.is_zero() && memory_request.is_zero() && !hugepages && self.guest_memory().is_zero() {
            let (pages, guest) = (self.domain("memory.hugepages"), self.domain("memory.guest"));
            let message = format!("{requested}, {limited}, {pages} or {guest} should be provided");
            self.report.invalid(limited, message);
        }
        if fractional(request) {
            self.report.invalid(&request_path, "provided resources CPU requests must be an interger");
        }
        if fractional(limit) {
            self.report.invalid(&limit_path, "provided resources CPU limits must be an interger");
        }
        if memory_request > Amount::ZERO && memory_limit > Amount::ZERO && memory_request != memory_limit {
            self.report.invalid(requested, format!("{requested} must be equal to {limited}"));
        }
        let (request, limit, count) = (request.whole(), limit.whole(), i128::from(vcpus(cpu)));
        if request == 0 && limit == 0 && count == 0 {
            let message = format!(
                "either {request_path} or {limit_path} or {cores} must be provided when DedicatedCPUPlacement is true "
            );
            self.report.invalid(&field, message);
        }
        if request > 0 && limit > 0 && request != limit {
            let message =
                format!("{request_path} or {limit_path} must be equal when DedicatedCPUPlacement is true ");
            self.report.invalid(&field, message);
        }
        if (request > 0 || limit > 0) && count > 0 && request != count && limit != count {
            let message = format!(
                "{request_path} or {limit_path} must not be provided at the same time with {cores} when \
                 DedicatedCPUPlacement is true "
            );
            self.report.invalid(&field, message);
        }
        let threads = cpu.threads.unwrap_or_default();
        if threads > 1 && self.spec.architecture.as_deref() == Some("arm64") {
            let path = self.path.child("architecture");
            let message = format!(
                "threads must not be greater than 1 at {} (got {threads}) when {path} is arm64",
                self.domain("cpu.threads")
            );
            self.report.invalid(path, message);
        }
        if threads > 2 {
            let message = format!(
                "Not more than two threads must be provided at {} (got {threads}) when DedicatedCPUPlacement is true",
                self.domain("cpu.threads")
            );
            self.report.invalid(&field, message);
        }
    }

    pub(super) fn cpu_options(&mut self) {
        let Some(cpu) = &self.spec.domain.cpu else { return };
        let dedicated = cpu.dedicated_cpu_placement == Some(true);
        let numa = cpu.numa.as_ref().is_some_and(|numa| numa.guest_mapping_passthrough.is_some());
        if numa {
            let field = self.domain("cpu.numa.guestMappingPassthrough");
            if !dedicated {
                let path = self.domain("cpu.dedicatedCpuPlacement");
                let message =
                    format!("{path} must be set to true when NUMA topology strategy is set in {field}");
                self.report.invalid(&field, message);
            }
            if self.spec.domain.memory.as_ref().is_none_or(|memory| memory.hugepages.is_none()) {
                let path = self.domain("memory.hugepages");
                let message =
                    format!("{path} must be requested when NUMA topology strategy is set in {field}");
                self.report.invalid(&field, message);
            }
        }
        if cpu.isolate_emulator_thread == Some(true) && !dedicated {
            self.report.invalid(
                self.domain("cpu.isolateEmulatorThread"),
                "IsolateEmulatorThread should be only set in combination with DedicatedCPUPlacement",
            );
        }
        for (index, feature) in cpu.features.iter().enumerate() {
            let policy = feature.policy.as_deref().unwrap_or_default();
            if !["", "force", "require", "optional", "disable", "forbid"].contains(&policy) {
                let path = self.domain("cpu.features").index(index).child("policy");
                let message =
                    format!("CPU feature {} uses policy {policy} that is not supported.", feature.name);
                self.report.unsupported(path, message);
            }
        }
        let sockets = cpu.sockets.unwrap_or_default();
        if cpu.max_sockets.is_some_and(|max| max != 0 && sockets > max) {
            self.report.invalid(
                self.domain("cpu.sockets"),
                "Number of sockets in CPU topology is greater than the maximum sockets allowed",
            );
        }
    }

    pub(super) fn realtime(&mut self) {
        let Some(cpu) = &self.spec.domain.cpu else { return };
        if cpu.realtime.is_none() {
            return;
        }
        let realtime = self.domain("cpu.realtime");
        if cpu.dedicated_cpu_placement != Some(true) {
            let path = self.domain("cpu.dedicatedCpuPlacement");
            let message = format!("{path} must be set to true when {realtime} is used");
            self.report.add(Reason::FieldValueRequired, path, message);
        }
        if cpu.numa.as_ref().is_none_or(|numa| numa.guest_mapping_passthrough.is_none()) {
            let path = self.domain("cpu.numa.guestMappingPassthrough");
            let message = format!("{path} must be defined when {realtime} is used");
            self.report.add(Reason::FieldValueRequired, path, message);
        }
    }
}
