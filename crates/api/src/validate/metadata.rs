//! Labels and annotations.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Rules;
use crate::cause::{Path, Reason};

/// Labels that only KubeVirt's own accounts may set on an instance.
const RESERVED_LABELS: [&str; 6] = [
    "kubevirt.io/created-by",
    "kubevirt.io/migrationJobUID",
    "kubevirt.io/nodeName",
    "kubevirt.io/migrationTargetNodeName",
    "kubevirt.io/schedulable",
    "kubevirt.io/install-strategy",
];
/// Annotations that change what runs in the pod, each with the gate that it needs and that gate in the message.
const GATED: [(&str, &str, &str); 2] = [
    ("kubevirt.io/ignitiondata", "ExperimentalIgnitionSupport", "ExperimentalIgnitionSupport"),
    ("hooks.kubevirt.io/hookSidecars", "Sidecar", "sidecar"),
];

/// The reserved labels among those of an object.
pub(super) fn reserved_labels(metadata: &ObjectMeta) -> BTreeMap<&str, &str> {
    let labels = metadata.labels.iter().flatten();
    labels
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .filter(|(name, _)| RESERVED_LABELS.contains(name))
        .collect()
}

impl Rules<'_> {
    pub(super) fn metadata(&mut self, path: &Path, metadata: &ObjectMeta, is_kubevirt_account: bool) {
        if !is_kubevirt_account && !reserved_labels(metadata).is_empty() {
            self.report.add(
                Reason::FieldValueNotSupported,
                path.child("labels"),
                "creation of the following reserved kubevirt.io/ labels on a VMI object is prohibited",
            );
        }
        let annotations = path.child("annotations");
        for (annotation, gate, word) in GATED {
            let value = metadata.annotations.as_ref().and_then(|all| all.get(annotation));
            if value.is_none_or(String::is_empty) {
                continue;
            }
            let entry = annotations.child(annotation);
            if self.config.gate(gate) {
                self.report.unsupported(&annotations, format!("not supported yet: {entry}"));
            } else {
                let message =
                    format!("{word} feature gate is not enabled in kubevirt-config, invalid entry {entry}");
                self.report.invalid(&annotations, message);
            }
        }
    }
}
