//! What the pod around the guest takes over: names, probes, DNS, strategies, account.

use std::net::IpAddr;

use ferrovirt_kubernetes::names;

use super::Rules;
use crate::{cause::Path, kubevirt::Probe};

impl Rules<'_> {
    pub(super) fn host_names(&mut self) {
        if let Some(name) = self.spec.hostname.as_deref().filter(|name| !name.is_empty()) {
            let errors = names::label_errors(name);
            if !errors.is_empty() {
                let path = self.path.child("hostname");
                let message = format!(
                    "{path} does not conform to the kubernetes DNS_LABEL rules : {}",
                    errors.join(", ")
                );
                self.report.invalid(path, message);
            }
        }
        if let Some(name) = self.spec.subdomain.as_deref().filter(|name| !name.is_empty()) {
            let errors = names::subdomain_errors(name);
            if !errors.is_empty() {
                let path = self.path.child("subdomain");
                let message = format!(
                    "{path} does not conform to the kubernetes DNS_SUBDOMAIN rules : {}",
                    errors.join(", ")
                );
                self.report.invalid(path, message);
            }
        }
    }

    pub(super) fn start_strategy(&mut self) {
        let Some(strategy) = &self.spec.start_strategy else { return };
        let path = self.path.child("startStrategy");
        if strategy != "Paused" {
            self.report.invalid(&path, format!("{path} is set with an unrecognized option: {strategy}"));
        } else if self.spec.liveness_probe.is_some() {
            let probe = self.path.child("livenessProbe");
            let message = format!(
                "either {path} or {probe} should be provided.Pausing VMI with LivenessProbe is not supported"
            );
            self.report.invalid(path, message);
        }
    }

    pub(super) fn eviction_strategy(&mut self) {
        let Some(strategy) = &self.spec.eviction_strategy else { return };
        if !["None", "LiveMigrate", "LiveMigrateIfPossible", "External"].contains(&strategy.as_str()) {
            let path = self.path.child("evictionStrategy");
            self.report.invalid(&path, format!("{path} is set with an unrecognized option: {strategy}"));
        }
    }

    pub(super) fn probes(&mut self) {
        let probes =
            [("readinessProbe", &self.spec.readiness_probe), ("livenessProbe", &self.spec.liveness_probe)];
        for (name, probe) in probes {
            if let Some(probe) = probe {
                self.probe_handlers(&self.path.child(name), probe);
            }
        }
        if self.spec.networks.iter().any(|network| network.pod.is_some()) {
            return;
        }
        for (name, probe) in probes {
            let Some(probe) = probe else { continue };
            for (handler, given) in
                [("httpGet", probe.http_get.is_some()), ("tcpSocket", probe.tcp_socket.is_some())]
            {
                if given {
                    let path = self.path.child(name).child(handler);
                    self.report
                        .invalid(&path, format!("{path} is only allowed if the Pod Network is attached"));
                }
            }
        }
    }

    fn probe_handlers(&mut self, path: &Path, probe: &Probe) {
        let handlers = [
            probe.http_get.is_some(),
            probe.tcp_socket.is_some(),
            probe.exec.is_some(),
            probe.guest_agent_ping.is_some(),
        ];
        match handlers.into_iter().filter(|given| *given).count() {
            0 => {
                let message = format!(
                    "either {path}.tcpSocket, {path}.exec or {path}.httpGet must be set if a {path} is specified"
                );
                self.report.required(path, message);
            }
            1 => {}
            _ => self.report.invalid(path, format!("{path} must have exactly one probe type set")),
        }
    }

    pub(super) fn dns(&mut self) {
        let policy = self.spec.dns_policy.as_deref().unwrap_or_default();
        let known = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None", ""];
        if !known.contains(&policy) {
            let message =
                format!("DNSPolicy: {policy} is not supported, valid values: [{}]", known.join(" "));
            self.report.unsupported(self.path.child("dnsPolicy"), message);
        }
        let path = self.path.child("dnsConfig");
        let Some(config) = &self.spec.dns_config else {
            if policy == "None" {
                self.report.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
            }
            return;
        };
        let servers = config.nameservers.as_deref().unwrap_or_default();
        let searches = config.searches.as_deref().unwrap_or_default();
        if policy == "None" && servers.is_empty() {
            self.report
                .required("nameservers", "must provide at least one DNS nameserver when `dnsPolicy` is None");
            return;
        }
        if servers.len() > 3 {
            let message = format!("must not have more than 3 nameservers: [{}]", servers.join(" "));
            self.report.invalid("nameservers", message);
        }
        for server in servers {
            if server.parse::<IpAddr>().is_err() {
                self.report.invalid("nameservers", format!("must be valid IP address: {server}"));
            }
        }
        if searches.len() > 6 {
            self.report.invalid("searchDomains", "must not have more than 6 search paths");
        }
        if searches.join(" ").len() > 256 {
            self.report.invalid(
                "searchDomains",
                "must not have more than 256 characters (including spaces) in the search list",
            );
        }
        for error in searches.iter().flat_map(|search| names::subdomain_errors(search)) {
            self.report.invalid("searchDomains", error);
        }
        for option in config.options.as_deref().unwrap_or_default() {
            if option.name.as_deref().unwrap_or_default().is_empty() {
                self.report.invalid("options", "Option.Name must not be empty");
            }
        }
    }

    pub(super) fn service_account(&mut self) {
        let Some(name) = self.spec.service_account_name.as_deref().filter(|name| !name.is_empty()) else {
            return;
        };
        let path = self.path.child("serviceAccountName");
        let errors = names::subdomain_errors(name);
        if !errors.is_empty() {
            let message = format!("{path} is not a valid service account name: {}", errors.join("; "));
            self.report.invalid(&path, message);
        }
        let other = self
            .spec
            .volumes
            .iter()
            .filter_map(|volume| volume.service_account.as_ref())
            .map(|source| source.service_account_name.as_deref().unwrap_or_default())
            .find(|other| *other != name);
        if let Some(other) = other {
            let message = format!(
                "spec.serviceAccountName {name:?} and serviceAccount volume {other:?} must reference the same service account"
            );
            self.report.invalid(path, message);
        }
    }

    pub(super) fn architecture(&mut self) {
        let architecture = self.spec.architecture.as_deref().unwrap_or_default();
        if !["amd64", "arm64", "s390x"].contains(&architecture) {
            let message = format!("unsupported architecture: {architecture}");
            self.report.invalid(self.path.child("architecture"), message);
        }
    }
}
