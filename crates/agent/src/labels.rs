//! What the SELinux label of a launcher pod means for its machine.

use ferrovirt_node::selinux::{CONTAINER, Kernel, Refused, options};
use k8s_openapi::api::core::v1::{Container, Pod};

/// Why a pod must not start: reason and message of the machine's condition `Synchronized`. Under another label its machine
/// would have other rights than it should.
pub fn refusal(refused: &Refused) -> (&'static str, String) {
    match refused {
        Refused::Unknown(_) => (
            "SELinuxTypeUnknown",
            format!(
                "{refused}: run `ferrovirt selinux install` on it as root, or set spec.configuration.selinux.labelPods of the \
                 KubeVirt object to Never"
            ),
        ),
        Refused::Unreachable { .. } => (
            "SELinuxTypeUnreachable",
            format!(
                "{refused}: the agent has to run as spc_t, as a privileged container does, and on Debian's policy the \
                 documented profile needs the module examples/selinux/container_from_spc.cil"
            ),
        ),
    }
}

/// How far the label of a pod is enforced: status, reason and message of the machine's condition `SELinuxEnforced`.
/// `context`: that of its process.
pub fn enforcement(
    kernel: &Kernel,
    pod: &Pod,
    context: Option<&str>,
) -> (&'static str, &'static str, String) {
    let wanted = options(pod, &Container::default());
    let Some(context) = context else {
        let message = match (&wanted.type_, &wanted.level) {
            (Some(kind), Some(level)) => {
                format!("SELinux is disabled on this node: nothing enforces the pod's label {kind}:{level}")
            }
            _ => "SELinux is disabled on this node".to_owned(),
        };
        return ("False", "Disabled", message);
    };
    let named = |kind: &str| context.split(':').nth(2) == Some(kind);
    if !named(wanted.type_.as_deref().unwrap_or(CONTAINER)) {
        let message =
            format!("the policy of this node has no type for containers: the launcher runs as {context}");
        return ("False", "NotLabelled", message);
    }
    if !kernel.is_enforcing() {
        let message = format!("SELinux is permissive on this node: denials of {context} are only logged");
        return ("False", "Permissive", message);
    }
    ("True", "Enforced", format!("the launcher is confined as {context}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::{fs, path::Path};

    /// A directory in place of the kernel's: it takes every context.
    fn kernel(directory: &Path) -> Kernel {
        fs::write(directory.join("enforce"), "1").unwrap();
        fs::write(directory.join("context"), "").unwrap();
        Kernel::at(directory.to_owned())
    }

    fn pod(options: serde_json::Value) -> Pod {
        let pod = json!({"spec": {"securityContext": {"seLinuxOptions": options}, "containers": []}});
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let (reason, message) = refusal(&Refused::Unknown("virt_machine.kvm".to_owned()));
        assert_eq!(reason, "SELinuxTypeUnknown");
        assert!(message.contains("virt_machine.kvm: run `ferrovirt selinux install`"), "{message}");
    }

    #[test]
    fn what_is_not_enforced_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let kernel = kernel(directory.path());
        let pod = pod(json!({"type": "virt_machine.kvm", "level": "s0:c1,c2"}));
        let context = "system_u:system_r:virt_machine.kvm:s0:c1,c2";
        let (status, reason, message) = enforcement(&kernel, &pod, None);
        assert_eq!((status, reason), ("False", "Disabled"));
        assert!(message.contains("virt_machine.kvm:s0:c1,c2"), "{message}");
        assert_eq!(enforcement(&kernel, &pod, Some(context)).1, "Enforced");
        assert_eq!(enforcement(&kernel, &pod, Some("system_u:system_r:initrc_t:s0")).1, "NotLabelled");
        fs::write(directory.path().join("enforce"), "0").unwrap();
        assert_eq!(enforcement(&kernel, &pod, Some(context)).1, "Permissive");
    }
}
