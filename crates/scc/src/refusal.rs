//! Refusals as data, and the texts that are made from them.

use std::fmt;

use crate::compiled::Compiled;
use crate::names::{SECCOMP_CONTAINER_PREFIX, SECCOMP_POD};
use crate::pod::Pod;
use crate::quote::quoted;
use crate::seccomp::Name;
use crate::volume;

/// What a refusal says about its field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// The value is not permitted.
    Invalid {
        /// The value, as messages show it.
        value: String,
        /// Why.
        detail: String,
    },
    /// The field must not be set like this.
    Forbidden {
        /// Why.
        detail: String,
    },
    /// The field must be set.
    Required {
        /// To what; may be empty.
        detail: String,
    },
}

impl fmt::Display for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid { value, detail } if detail.is_empty() => write!(f, "Invalid value: {value}"),
            Self::Invalid { value, detail } => write!(f, "Invalid value: {value}: {detail}"),
            Self::Forbidden { detail } => write!(f, "Forbidden: {detail}"),
            Self::Required { detail } if detail.is_empty() => f.write_str("Required value"),
            Self::Required { detail } => write!(f, "Required value: {detail}"),
        }
    }
}

/// How a refusal's path is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `provider NAME: FIELD`: one of the SCC's own checks.
    Check,
    /// Only the field: the seccomp and sysctl checks, whose texts are the same for several SCCs.
    Shared,
    /// The SCC may not be used by this subject.
    NotUsable,
    /// The remark that `restricted` would have admitted the pod.
    Hint,
}

/// One reason why one SCC does not admit a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The SCC.
    pub scc: String,
    /// Path of the field; empty when the refusal is about the SCC as a whole.
    pub field: String,
    /// How the path is written.
    pub form: Form,
    /// The reason.
    pub body: Body,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.form {
            Form::Check => write!(f, "provider {}: {}: {}", self.scc, self.field, self.body),
            Form::Shared => write!(f, "{}: {}", self.field, self.body),
            Form::NotUsable => write!(f, "provider {}: {}", quoted(&self.scc), self.body),
            Form::Hint => write!(f, "no access to scc/{}: {}", self.scc, self.body),
        }
    }
}

impl Refusal {
    pub(crate) fn not_usable(scc: &str) -> Refusal {
        Refusal {
            scc: scc.to_owned(),
            field: String::new(),
            form: Form::NotUsable,
            body: Body::Forbidden { detail: "not usable by user or serviceaccount".to_owned() },
        }
    }

    pub(crate) fn hint() -> Refusal {
        let detail = "the pod fails to validate against the `restricted-v2` security context constraint, \
                      but would validate successfully against the `restricted` security context constraint";
        Refusal {
            scc: "restricted".to_owned(),
            field: String::new(),
            form: Form::Hint,
            body: Body::Forbidden { detail: detail.to_owned() },
        }
    }
}

/// Several texts as one: each once, in brackets when there is more than one, `<nil>` when there is none.
pub(crate) fn joined<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    let mut seen = std::collections::HashSet::new();
    let texts: Vec<String> =
        items.into_iter().map(|i| i.to_string()).filter(|t| seen.insert(t.clone())).collect();
    match texts.as_slice() {
        [] => "<nil>".to_owned(),
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// Several texts in brackets, separated by spaces, repetitions kept.
pub(crate) fn spaced<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    let texts: Vec<String> = items.into_iter().map(|i| i.to_string()).collect();
    format!("[{}]", texts.join(" "))
}

/// The four parts of a label that are compared, in this order.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    Level,
    Role,
    Type,
    User,
}

/// Namespaces of the host.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Host {
    Network,
    Pid,
    Ipc,
}

/// One violation while a pod is checked: small, borrowed, turned into a [`Refusal`] only when somebody wants to read it.
/// `at` is a container's position in the pod's list of all containers; `None` is the pod itself.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Finding<'a> {
    FsGroup(Option<i64>),
    SupplementalGroup(Option<i64>),
    Seccomp { at: Option<usize>, name: Name<'a> },
    Label { at: Option<usize>, part: Part, have: &'a str, want: &'a str },
    Host { at: Option<usize>, which: Host },
    HostUsers(Option<bool>),
    Sysctl { index: usize, name: &'a str, forbidden: bool },
    Volume { index: usize, kind: Option<u8> },
    FlexDriver { index: usize, driver: &'a str },
    NotUid { at: usize, have: Option<i64>, want: i64 },
    NotInRange { at: usize, have: Option<i64>, min: i64, max: i64 },
    Root { at: usize },
    NonRootFalse { at: usize },
    Privileged { at: usize },
    Capability { at: usize, name: &'a str },
    HostPort { at: usize, port: usize },
    ReadOnlyRoot { at: usize },
    Escalation { at: usize },
}

impl Finding<'_> {
    /// The finding as a refusal of `scc`. `groups` are the pod's supplemental groups as the check saw them.
    pub(crate) fn refusal(&self, scc: &Compiled, pod: &Pod<'_>, groups: &[i64]) -> Refusal {
        let form = match self {
            Self::Seccomp { .. } | Self::Sysctl { .. } => Form::Shared,
            _ => Form::Check,
        };
        Refusal { scc: scc.name.clone(), field: self.field(pod), form, body: self.body(scc, pod, groups) }
    }

    fn field(&self, pod: &Pod<'_>) -> String {
        let container = |at: usize, field: &str| match pod.containers.get(at) {
            Some(c) => format!(".{}[{}].{field}", c.kind.key(), c.index),
            None => field.to_owned(),
        };
        match *self {
            Self::FsGroup(_) => ".spec.securityContext.fsGroup".to_owned(),
            Self::SupplementalGroup(_) => ".spec.securityContext.supplementalGroups".to_owned(),
            Self::Seccomp { at: None, .. } => format!("metadata.annotations[{SECCOMP_POD}]"),
            Self::Seccomp { at: Some(at), .. } => {
                let name = pod.containers.get(at).map_or("", |c| c.name);
                format!("metadata.annotations[{SECCOMP_CONTAINER_PREFIX}{name}]")
            }
            Self::Label { at, part, .. } => {
                let part = match part {
                    Part::Level => "seLinuxOptions.level",
                    Part::Role => "seLinuxOptions.role",
                    Part::Type => "seLinuxOptions.type",
                    Part::User => "seLinuxOptions.user",
                };
                at.map_or_else(|| format!(".spec.securityContext.{part}"), |at| container(at, part))
            }
            Self::Host { at, which } => {
                let flag = match which {
                    Host::Network => "hostNetwork",
                    Host::Pid => "hostPID",
                    Host::Ipc => "hostIPC",
                };
                at.map_or_else(|| format!(".spec.{flag}"), |at| container(at, flag))
            }
            Self::HostUsers(_) => ".spec.hostUsers".to_owned(),
            Self::Sysctl { index, .. } => format!("spec.securityContext.sysctls[{index}]"),
            Self::Volume { index, .. } => format!(".spec.volumes[{index}]"),
            Self::FlexDriver { index, .. } => format!(".spec.volumes[{index}].flexVolume.driver"),
            Self::NotUid { at, .. } | Self::NotInRange { at, .. } | Self::Root { at } => {
                container(at, "runAsUser")
            }
            Self::NonRootFalse { at } => container(at, "runAsNonRoot"),
            Self::Privileged { at } => container(at, "privileged"),
            Self::Capability { at, .. } => container(at, "capabilities.add"),
            Self::HostPort { at, port } => match pod.host_ports.get(port) {
                Some(p) => container(at, &format!("{}[{}].hostPort", p.kind.key(), p.index)),
                None => container(at, "hostPort"),
            },
            Self::ReadOnlyRoot { at } => container(at, "readOnlyRootFilesystem"),
            Self::Escalation { at } => container(at, "allowPrivilegeEscalation"),
        }
    }

    fn body(&self, scc: &Compiled, pod: &Pod<'_>, groups: &[i64]) -> Body {
        let invalid = |value: String, detail: &str| Body::Invalid { value, detail: detail.to_owned() };
        let number = |n: Option<i64>| n.map_or_else(|| "null".to_owned(), |n| n.to_string());
        let bad_group = |list: String, group: Option<i64>| match group {
            Some(n) => Body::Invalid { value: list, detail: format!("{n} is not an allowed group") },
            None => invalid(list, "unable to validate empty groups against required ranges"),
        };
        match *self {
            Self::FsGroup(group) => bad_group(group.map_or("[]".to_owned(), |g| format!("[{g}]")), group),
            Self::SupplementalGroup(group) => {
                let list: Vec<String> = groups.iter().map(i64::to_string).collect();
                bad_group(format!("[{}]", list.join(",")), group)
            }
            Self::Seccomp { name, .. } => Body::Forbidden { detail: seccomp_detail(scc, name) },
            Self::Label { have, want, .. } => {
                Body::Invalid { value: quoted(have), detail: format!("must be {want}") }
            }
            Self::Host { which, .. } => invalid(
                "true".to_owned(),
                match which {
                    Host::Network => "Host network is not allowed to be used",
                    Host::Pid => "Host PID is not allowed to be used",
                    Host::Ipc => "Host IPC is not allowed to be used",
                },
            ),
            Self::HostUsers(have) => {
                invalid(have.map_or("null".to_owned(), |h| h.to_string()), "Host Users must be set to false")
            }
            Self::Sysctl { name, forbidden, .. } => {
                let kind = if forbidden { "" } else { "unsafe " };
                Body::Forbidden { detail: format!("{kind}sysctl {} is not allowed", quoted(name)) }
            }
            Self::Volume { index, kind: None } => {
                let name = pod.volumes.get(index).and_then(|v| v.map.get("name")).and_then(|n| n.as_str());
                let detail = format!("unknown volume type for volume {}", quoted(name.unwrap_or_default()));
                Body::Invalid { value: quoted(""), detail }
            }
            Self::Volume { kind: Some(kind), .. } => {
                let name = volume::name(kind);
                Body::Invalid {
                    value: quoted(name),
                    detail: format!("{name} volumes are not allowed to be used"),
                }
            }
            Self::FlexDriver { driver, .. } => {
                invalid(quoted(driver), "Flexvolume driver is not allowed to be used")
            }
            Self::NotUid { have: None, .. } | Self::NotInRange { have: None, .. } => {
                Body::Required { detail: String::new() }
            }
            Self::NotUid { have, want, .. } => {
                Body::Invalid { value: number(have), detail: format!("must be: {want}") }
            }
            Self::NotInRange { have, min, max, .. } => Body::Invalid {
                value: number(have),
                detail: format!("must be in the ranges: [{min}, {max}]"),
            },
            Self::Root { .. } => invalid("0".to_owned(), "running with the root UID is forbidden"),
            Self::NonRootFalse { .. } => invalid("false".to_owned(), "must be true"),
            Self::Privileged { .. } => invalid("true".to_owned(), "Privileged containers are not allowed"),
            Self::Capability { name, .. } => invalid(quoted(name), "capability may not be added"),
            Self::HostPort { port, .. } => {
                let port = pod.host_ports.get(port).map_or(0, |p| p.port);
                invalid(port.to_string(), "Host ports are not allowed to be used")
            }
            Self::ReadOnlyRoot { .. } => {
                invalid("false".to_owned(), "ReadOnlyRootFilesystem must be set to true")
            }
            Self::Escalation { .. } => {
                invalid("true".to_owned(), "Allowing privilege escalation for containers is not allowed")
            }
        }
    }
}

fn seccomp_detail(scc: &Compiled, name: Name<'_>) -> String {
    let list = &scc.scc.seccomp_profiles;
    if list.is_empty() {
        return "seccomp may not be set".to_owned();
    }
    let valid: Vec<&str> = list.iter().map(String::as_str).filter(|p| *p != "*").collect();
    format!("{name} is not an allowed seccomp profile. Valid values are [{}]", valid.join(" "))
}
