//! SELinux of this node, as the kernel shows it, and the labels of a pod's processes and files.

use k8s_openapi::api::core::v1::{Container, Pod, SELinuxOptions};
use rustix::fs::XattrFlags;
use std::{
    fs,
    io::{self, Read, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
};

/// Where the kernel shows SELinux.
const RUNNING: &str = "/sys/fs/selinux";
/// The attribute that holds a file's label.
const ATTRIBUTE: &str = "security.selinux";
/// The type of processes in containers whose pods name none.
const CONTAINER: &str = "container_t";
/// The label of files that every container of this node may read, up to its level.
pub const SHARED_FILES: &str = "system_u:object_r:container_file_t:s0";

/// The kernel's SELinux.
#[derive(Clone, Debug)]
pub struct Kernel {
    root: PathBuf,
}

#[cfg(test)]
impl Kernel {
    /// A directory in place of the kernel's.
    pub(crate) fn at(root: PathBuf) -> Self {
        Self { root }
    }
}

impl Default for Kernel {
    fn default() -> Self {
        Self { root: PathBuf::from(RUNNING) }
    }
}

impl Kernel {
    /// SELinux is on, enforcing or not.
    pub fn is_enabled(&self) -> bool {
        self.root.join("enforce").exists()
    }

    /// Denials are enforced, not only logged.
    pub fn is_enforcing(&self) -> bool {
        fs::read_to_string(self.root.join("enforce")).is_ok_and(|text| text.trim() == "1")
    }

    /// How many times a policy was loaded since the kernel started. Read without loading anything into memory.
    pub fn loads(&self) -> Option<u32> {
        // Five numbers of 32 bits: version, sequence, enforcing, loads, what happens to unknown permissions.
        let bytes = fs::read(self.root.join("status")).ok()?;
        Some(u32::from_ne_bytes(bytes.get(12..16)?.try_into().ok()?))
    }

    /// The policy that is loaded, in the kernel's binary form: some megabytes.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn policy(&self) -> io::Result<Vec<u8>> {
        fs::read(self.root.join("policy"))
    }

    /// The policy that is loaded has this context.
    pub fn knows(&self, context: &str) -> bool {
        let ask = || -> io::Result<()> {
            fs::OpenOptions::new().write(true).open(self.root.join("context"))?.write_all(context.as_bytes())
        };
        ask().is_ok()
    }

    /// Whether the policy lets this process start one with the context `wanted`, as far as the transition goes that crun
    /// makes in this process's own domain, and that domain's context. `None` where that is not to be learned.
    fn may_start(&self, wanted: &str) -> Option<(bool, String)> {
        let own = context_of(self, std::process::id())?;
        let number = |path: &str| fs::read_to_string(self.root.join("class/process").join(path)).ok();
        let class = number("index")?;
        let permission = number("perms/transition")?.trim().parse().ok()?;
        let mut file = fs::OpenOptions::new().read(true).write(true).open(self.root.join("access")).ok()?;
        file.write_all(format!("{own} {wanted} {}", class.trim()).as_bytes()).ok()?;
        let mut answer = String::new();
        file.read_to_string(&mut answer).ok()?;
        Some((is_allowed(&answer, permission)?, own))
    }
}

/// What the kernel's answer to a question about access says of a permission, which is counted from 1. Of the answer's six
/// hexadecimal words the first has the allowed ones as bits, and the last is 1 where the asking domain is permissive.
fn is_allowed(answer: &str, permission: u32) -> Option<bool> {
    let words: Vec<u32> =
        answer.split_whitespace().map_while(|word| u32::from_str_radix(word, 16).ok()).collect();
    let [allowed, _, _, _, _, flags] = *words.as_slice() else { return None };
    Some((allowed.checked_shr(permission.checked_sub(1)?)? | flags) & 1 == 1)
}

/// The label of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Context of its processes.
    pub process: String,
    /// Context of files that are its alone.
    pub files: String,
}

/// Why a pod must not start: under another label its machine would have other rights than it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The kernel's policy does not have the context.
    #[error(
        "the SELinux policy of this node does not know {0}: run `ferrovirt selinux install` on it as root, or set \
         spec.configuration.selinux.labelPods of the KubeVirt object to Never"
    )]
    Unknown(String),
    /// The kernel's policy does not let the agent start a process with it.
    #[error(
        "the SELinux policy of this node does not let the node agent, which runs as {own}, start a process as {wanted}: \
         the agent has to run as spc_t, as a privileged container does, and on Debian's policy the documented profile needs the \
         module examples/selinux/container_from_spc.cil"
    )]
    Unreachable {
        /// The agent's context.
        own: String,
        /// The launcher's.
        wanted: String,
    },
}

impl Refused {
    /// The reason of the machine's condition `Synchronized`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "SELinuxTypeUnknown",
            Self::Unreachable { .. } => "SELinuxTypeUnreachable",
        }
    }
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
fn options(pod: &Pod, container: &Container) -> SELinuxOptions {
    let own = container.security_context.as_ref().and_then(|context| context.se_linux_options.clone());
    let pods = || pod.spec.as_ref()?.security_context.as_ref()?.se_linux_options.clone();
    own.or_else(pods).unwrap_or_default()
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

/// The context of a process, `None` where SELinux is off or the process is gone.
pub fn context_of(kernel: &Kernel, pid: u32) -> Option<String> {
    let text =
        fs::read_to_string(format!("/proc/{pid}/attr/current")).ok().filter(|_| kernel.is_enabled())?;
    Some(text.trim_end_matches(['\0', '\n']).to_owned())
}

/// Labels an open file.
///
/// # Errors
/// What the kernel says.
pub fn label(file: impl AsFd, context: &str) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(file, ATTRIBUTE, context.as_bytes(), XattrFlags::empty())?)
}

/// Labels a path; a link itself, not what it leads to.
///
/// # Errors
/// What the kernel says.
pub fn label_path(path: &Path, context: &str) -> io::Result<()> {
    Ok(rustix::fs::lsetxattr(path, ATTRIBUTE, context.as_bytes(), XattrFlags::empty())?)
}

/// Labels a tree of the agent's own, once: its root comes last and says that it is done.
///
/// # Errors
/// What the kernel says.
pub fn label_tree(root: &Path, context: &str) -> io::Result<()> {
    let mut found = [0_u8; 256];
    if let Ok(length) = rustix::fs::lgetxattr(root, ATTRIBUTE, &mut found)
        && found
            .get(..length)
            .is_some_and(|found| found.strip_suffix(b"\0").unwrap_or(found) == context.as_bytes())
    {
        return Ok(());
    }
    if fs::symlink_metadata(root)?.is_dir() {
        for entry in fs::read_dir(root)? {
            label_tree(&entry?.path(), context)?;
        }
    }
    label_path(root, context)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A directory in place of the kernel's: it takes every context.
    fn kernel(directory: &Path) -> Kernel {
        fs::write(directory.join("enforce"), "1").unwrap();
        fs::write(directory.join("context"), "").unwrap();
        Kernel { root: directory.to_owned() }
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
            (
                json!({"type": "virt_machine.kvm", "level": "s0:c1,c2"}),
                json!(null),
                "virt_machine.kvm",
                "s0:c1,c2",
            ),
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
        let off = Kernel { root: directory.path().join("nothing") };
        let (named, container) = pod(json!({"type": "virt_machine.kvm"}), json!(null));
        assert_eq!(Label::of(&off, &named, &container), Ok(None));
        assert_eq!(context_of(&off, std::process::id()), None);
        // A file that cannot be written to: the kernel says no.
        let kernel = kernel(directory.path());
        fs::remove_file(directory.path().join("context")).unwrap();
        let error = Label::of(&kernel, &named, &container).unwrap_err().to_string();
        assert!(error.contains("virt_machine.kvm") && error.contains("ferrovirt selinux install"), "{error}");
        let (unnamed, container) = pod(json!({"level": "s0:c1,c2"}), json!(null));
        assert_eq!(Label::of(&kernel, &unnamed, &container), Ok(None));
    }

    #[test]
    fn answers_of_the_kernel_are_read() {
        // As the kernel writes them: allowed, decided, audited, audited denials, sequence, flags.
        let answer = "2 ffffffff 0 ffffffff 3 0";
        assert_eq!(
            [1, 2, 3].map(|permission| is_allowed(answer, permission)),
            [false, true, false].map(Some)
        );
        assert_eq!(is_allowed("2 ffffffff 0 ffffffff 3 1", 1), Some(true));
        for (answer, permission) in
            [("", 1), ("x 0 0 0 0 0", 1), ("1 0 0 0 0 0", 0), ("1 0 0 0 0 0", 33), ("1", 1)]
        {
            assert_eq!(is_allowed(answer, permission), None, "{answer} {permission}");
        }
    }

    #[test]
    fn what_is_not_enforced_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let kernel = kernel(directory.path());
        let (pod, _) = pod(json!({"type": "virt_machine.kvm", "level": "s0:c1,c2"}), json!(null));
        let context = "system_u:system_r:virt_machine.kvm:s0:c1,c2";
        let (status, reason, message) = enforcement(&kernel, &pod, None);
        assert_eq!((status, reason), ("False", "Disabled"));
        assert!(message.contains("virt_machine.kvm:s0:c1,c2"), "{message}");
        assert_eq!(enforcement(&kernel, &pod, Some(context)).1, "Enforced");
        assert_eq!(enforcement(&kernel, &pod, Some("system_u:system_r:initrc_t:s0")).1, "NotLabelled");
        fs::write(directory.path().join("enforce"), "0").unwrap();
        assert_eq!(enforcement(&kernel, &pod, Some(context)).1, "Permissive");
    }

    #[test]
    fn a_tree_is_labelled_without_following_links() {
        let directory = tempfile::tempdir().unwrap();
        let (tree, outside) = (directory.path().join("tree"), directory.path().join("outside"));
        fs::create_dir_all(tree.join("a")).unwrap();
        fs::write(tree.join("a/file"), "").unwrap();
        fs::write(&outside, "").unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("link")).unwrap();
        label_tree(&tree, SHARED_FILES).unwrap();
        let read = |path: &Path| {
            let mut found = [0_u8; 256];
            let length = rustix::fs::lgetxattr(path, ATTRIBUTE, &mut found).unwrap_or(0);
            String::from_utf8_lossy(&found[..length]).trim_end_matches('\0').to_owned()
        };
        for path in ["", "a", "a/file", "link"] {
            assert_eq!(read(&tree.join(path)), SHARED_FILES, "{path}");
        }
        assert_ne!(read(&outside), SHARED_FILES);
    }
}
