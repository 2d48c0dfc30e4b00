//! The SELinux labels of a pod's processes and files.

use super::Kernel;
use k8s_openapi::api::core::v1::{Container, Pod, SELinuxOptions};

/// The type of processes in containers whose pods name none.
pub const CONTAINER: &str = "container_t";

/// The label of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Context of its processes.
    pub process: String,
    /// Context of files that are its alone.
    pub files: String,
}

/// Why a container must not start: under another label it would have other rights than it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The kernel's policy does not have the context.
    #[error("the SELinux policy of this node does not know {0}")]
    Unknown(String),
    /// The kernel's policy does not let this process start one with it.
    #[error(
        "the SELinux policy of this node does not let the node agent, which runs as {own}, start a process as {wanted}"
    )]
    Unreachable {
        /// The context of this process.
        own: String,
        /// The container's.
        wanted: String,
    },
}

impl Label {
    /// The label for a pod: what it names, and what container runtimes choose where it names nothing. `None` where
    /// SELinux is off, and where the policy has no type for containers.
    ///
    /// # Errors
    /// The pod names what the kernel does not know, or what its policy does not let this process start.
    pub fn of(kernel: &Kernel, pod: &Pod, container: &Container) -> Result<Option<Self>, Refused> {
        if !kernel.is_enabled() {
            return Ok(None);
        }
        let options = options(pod, container);
        let label = Self::wanted(&options);
        for context in [&label.process, &label.files] {
            if !kernel.knows(context) {
                return match options.type_ {
                    Some(_) => Err(Refused::Unknown(context.clone())),
                    None => Ok(None),
                };
            }
        }
        match kernel.may_start(&label.process) {
            Some((false, own)) if kernel.is_enforcing() => {
                Err(Refused::Unreachable { own, wanted: label.process })
            }
            _ => Ok(Some(label)),
        }
    }

    fn wanted(options: &SELinuxOptions) -> Self {
        let or = |text: &Option<String>, default: &str| {
            text.clone().filter(|text| !text.is_empty()).unwrap_or_else(|| default.to_owned())
        };
        let level = or(&options.level, "s0");
        let user = or(&options.user, "system_u");
        let (role, kind) = (or(&options.role, "system_r"), or(&options.type_, CONTAINER));
        Self {
            process: format!("{user}:{role}:{kind}:{level}"),
            files: format!("system_u:object_r:container_file_t:{level}"),
        }
    }
}

/// The container's options, or the pod's: never a mixture.
pub fn options(pod: &Pod, container: &Container) -> SELinuxOptions {
    let own = container.security_context.as_ref().and_then(|context| context.se_linux_options.clone());
    let pods = || pod.spec.as_ref()?.security_context.as_ref()?.se_linux_options.clone();
    own.or_else(pods).unwrap_or_default()
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

    fn pod(pod: serde_json::Value, container: serde_json::Value) -> (Pod, Container) {
        let pod = json!({"spec": {"securityContext": {"seLinuxOptions": pod}, "containers": []}});
        let container = json!({"name": "compute", "securityContext": {"seLinuxOptions": container}});
        (serde_json::from_value(pod).unwrap(), serde_json::from_value(container).unwrap())
    }

    #[test]
    fn labels_are_the_pods() {
        let directory = tempfile::tempdir().unwrap();
        let kernel = kernel(directory.path());
        for (own, containers, process, level) in [
            (json!({"type": "app_t", "level": "s0:c1,c2"}), json!(null), "app_t", "s0:c1,c2"),
            (json!({"level": "s0:c3,c4"}), json!(null), "container_t", "s0:c3,c4"),
            (json!(null), json!(null), "container_t", "s0"),
            (
                json!({"type": "a_t", "level": "s0:c1,c2"}),
                json!({"level": "s0:c5,c6"}),
                "container_t",
                "s0:c5,c6",
            ),
        ] {
            let (pod, container) = pod(own, containers);
            let label = Label::of(&kernel, &pod, &container).unwrap().unwrap();
            assert_eq!(label.process, format!("system_u:system_r:{process}:{level}"));
            assert_eq!(label.files, format!("system_u:object_r:container_file_t:{level}"));
        }
    }

    #[test]
    fn an_unknown_type_is_refused_and_without_selinux_there_is_no_label() {
        let directory = tempfile::tempdir().unwrap();
        let off = Kernel::at(directory.path().join("nothing"));
        let (named, container) = pod(json!({"type": "app_t"}), json!(null));
        assert_eq!(Label::of(&off, &named, &container), Ok(None));
        // A file that cannot be written to: the kernel says no.
        let kernel = kernel(directory.path());
        fs::remove_file(directory.path().join("context")).unwrap();
        let error = Label::of(&kernel, &named, &container).unwrap_err().to_string();
        assert!(error.contains("app_t"), "{error}");
        let (unnamed, container) = pod(json!({"level": "s0:c1,c2"}), json!(null));
        assert_eq!(Label::of(&kernel, &unnamed, &container), Ok(None));
    }
}
