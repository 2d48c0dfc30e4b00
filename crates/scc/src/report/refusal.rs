//! Refusals as data, and the texts that are made from them.

use std::collections::HashSet;
use std::fmt::{self, Write};

use crate::constraint::compiled::Compiled;
use crate::names::{SECCOMP_CONTAINER_PREFIX, SECCOMP_POD};
use crate::pod::Pod;
use crate::pod::seccomp::Name;
use crate::pod::volume;
use crate::report::quote::{quoted, write_quoted};

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
    // One buffer for all, in the form for several; the places of the texts in it find repetitions.
    let mut all = String::from("[");
    let mut places: Vec<(usize, usize)> = Vec::new();
    let mut seen: HashSet<String> = HashSet::new();
    for item in items {
        let before = all.len();
        if !places.is_empty() {
            all.push_str(", ");
        }
        let from = all.len();
        // Writing into a String cannot fail.
        let _ = write!(all, "{item}");
        let text = all.get(from..).unwrap_or_default();
        let known = if places.len() < FEW {
            places.iter().any(|(from, to)| all.get(*from..*to) == Some(text))
        } else {
            if seen.is_empty() {
                seen.extend(places.iter().filter_map(|(from, to)| all.get(*from..*to)).map(str::to_owned));
            }
            !seen.insert(text.to_owned())
        };
        if known {
            all.truncate(before);
        } else {
            places.push((from, all.len()));
        }
    }
    match places.as_slice() {
        [] => "<nil>".to_owned(),
        [_] => {
            all.remove(0);
            all
        }
        _ => {
            all.push(']');
            all
        }
    }
}

/// Up to this many texts, comparing with each is cheaper than a set.
const FEW: usize = 32;

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

/// A finding with what is needed to word it.
#[derive(Clone, Copy)]
pub(crate) struct Worded<'x, 'a> {
    pub(crate) finding: &'x Finding<'a>,
    pub(crate) scc: &'x Compiled,
    pub(crate) pod: &'x Pod<'a>,
    /// The pod's supplemental groups as the check saw them.
    pub(crate) groups: &'x [i64],
}

/// The value that a text shows.
enum Shown<'x> {
    Fixed(&'static str),
    Number(i64),
    Text(&'x str),
    Groups(&'x [i64]),
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(text) => f.write_str(text),
            Self::Number(n) => write!(f, "{n}"),
            Self::Text(text) => write_quoted(f, text),
            Self::Groups(list) => {
                f.write_str("[")?;
                for (index, group) in list.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma}{group}")?;
                }
                f.write_str("]")
            }
        }
    }
}

/// The field alone, for display.
struct Field<'x, 'a>(Worded<'x, 'a>);

/// The detail alone, for display.
struct Detail<'x, 'a>(Worded<'x, 'a>);

impl fmt::Display for Worded<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.form() == Form::Check {
            write!(f, "provider {}: ", self.scc.name)?;
        }
        write!(f, "{}: ", Field(*self))?;
        let detail = Detail(*self);
        match (self.form(), self.value()) {
            (Form::Shared, _) => write!(f, "Forbidden: {detail}"),
            (_, None) => f.write_str("Required value"),
            (_, Some(value)) => write!(f, "Invalid value: {value}: {detail}"),
        }
    }
}

impl<'x, 'a> Worded<'x, 'a> {
    /// As data that stands on its own.
    pub(crate) fn refusal(self) -> Refusal {
        let detail = || Detail(self).to_string();
        let body = match (self.form(), self.value()) {
            (Form::Shared, _) => Body::Forbidden { detail: detail() },
            (_, None) => Body::Required { detail: String::new() },
            (_, Some(value)) => Body::Invalid { value: value.to_string(), detail: detail() },
        };
        Refusal { scc: self.scc.name.clone(), field: Field(self).to_string(), form: self.form(), body }
    }

    fn form(&self) -> Form {
        match self.finding {
            Finding::Seccomp { .. } | Finding::Sysctl { .. } => Form::Shared,
            _ => Form::Check,
        }
    }

    /// `None` where a value is missing that must be there.
    fn value(&self) -> Option<Shown<'x>>
    where
        'a: 'x,
    {
        let flag = |flag: bool| Shown::Fixed(if flag { "true" } else { "false" });
        Some(match self.finding {
            Finding::FsGroup(None) => Shown::Groups(&[]),
            Finding::FsGroup(Some(group)) => Shown::Groups(std::slice::from_ref(group)),
            Finding::SupplementalGroup(_) => Shown::Groups(self.groups),
            Finding::Label { have, .. } => Shown::Text(have),
            Finding::HostUsers(have) => have.map_or(Shown::Fixed("null"), flag),
            Finding::Volume { kind, .. } => Shown::Text(kind.map_or("", volume::name)),
            Finding::FlexDriver { driver, .. } => Shown::Text(driver),
            Finding::NotUid { have, .. } | Finding::NotInRange { have, .. } => Shown::Number((*have)?),
            Finding::Root { .. } => Shown::Number(0),
            Finding::Capability { name, .. } => Shown::Text(name),
            Finding::HostPort { port, .. } => {
                Shown::Number(self.pod.host_ports.get(*port).map_or(0, |p| p.port))
            }
            Finding::NonRootFalse { .. } | Finding::ReadOnlyRoot { .. } => flag(false),
            _ => flag(true),
        })
    }
}

impl fmt::Display for Field<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pod = self.0.pod;
        let container = |f: &mut fmt::Formatter<'_>, at: usize, field: &str| match pod.containers.get(at) {
            Some(c) => write!(f, ".{}[{}].{field}", c.kind.key(), c.index),
            None => f.write_str(field),
        };
        match *self.0.finding {
            Finding::FsGroup(_) => f.write_str(".spec.securityContext.fsGroup"),
            Finding::SupplementalGroup(_) => f.write_str(".spec.securityContext.supplementalGroups"),
            Finding::Seccomp { at: None, .. } => write!(f, "metadata.annotations[{SECCOMP_POD}]"),
            Finding::Seccomp { at: Some(at), .. } => {
                let name = pod.containers.get(at).map_or("", |c| c.name);
                write!(f, "metadata.annotations[{SECCOMP_CONTAINER_PREFIX}{name}]")
            }
            Finding::Label { at, part, .. } => {
                let part = match part {
                    Part::Level => "seLinuxOptions.level",
                    Part::Role => "seLinuxOptions.role",
                    Part::Type => "seLinuxOptions.type",
                    Part::User => "seLinuxOptions.user",
                };
                match at {
                    Some(at) => container(f, at, part),
                    None => write!(f, ".spec.securityContext.{part}"),
                }
            }
            Finding::Host { at, which } => {
                let flag = match which {
                    Host::Network => "hostNetwork",
                    Host::Pid => "hostPID",
                    Host::Ipc => "hostIPC",
                };
                match at {
                    Some(at) => container(f, at, flag),
                    None => write!(f, ".spec.{flag}"),
                }
            }
            Finding::HostUsers(_) => f.write_str(".spec.hostUsers"),
            Finding::Sysctl { index, .. } => write!(f, "spec.securityContext.sysctls[{index}]"),
            Finding::Volume { index, .. } => write!(f, ".spec.volumes[{index}]"),
            Finding::FlexDriver { index, .. } => write!(f, ".spec.volumes[{index}].flexVolume.driver"),
            Finding::NotUid { at, .. } | Finding::NotInRange { at, .. } | Finding::Root { at } => {
                container(f, at, "runAsUser")
            }
            Finding::NonRootFalse { at } => container(f, at, "runAsNonRoot"),
            Finding::Privileged { at } => container(f, at, "privileged"),
            Finding::Capability { at, .. } => container(f, at, "capabilities.add"),
            Finding::HostPort { at, port } => {
                container(f, at, "")?;
                match pod.host_ports.get(port) {
                    Some(p) => write!(f, "{}[{}].hostPort", p.kind.key(), p.index),
                    None => f.write_str("hostPort"),
                }
            }
            Finding::ReadOnlyRoot { at } => container(f, at, "readOnlyRootFilesystem"),
            Finding::Escalation { at } => container(f, at, "allowPrivilegeEscalation"),
        }
    }
}

impl fmt::Display for Detail<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Worded { scc, pod, .. } = self.0;
        match *self.0.finding {
            Finding::FsGroup(Some(group)) | Finding::SupplementalGroup(Some(group)) => {
                write!(f, "{group} is not an allowed group")
            }
            Finding::FsGroup(None) | Finding::SupplementalGroup(None) => {
                f.write_str("unable to validate empty groups against required ranges")
            }
            Finding::Seccomp { name, .. } => seccomp_detail(f, scc, name),
            Finding::Label { want, .. } => write!(f, "must be {want}"),
            Finding::Host { which: Host::Network, .. } => {
                f.write_str("Host network is not allowed to be used")
            }
            Finding::Host { which: Host::Pid, .. } => f.write_str("Host PID is not allowed to be used"),
            Finding::Host { which: Host::Ipc, .. } => f.write_str("Host IPC is not allowed to be used"),
            Finding::HostUsers(_) => f.write_str("Host Users must be set to false"),
            Finding::Sysctl { name, forbidden, .. } => {
                f.write_str(if forbidden { "sysctl " } else { "unsafe sysctl " })?;
                write_quoted(f, name)?;
                f.write_str(" is not allowed")
            }
            Finding::Volume { index, kind: None } => {
                let name = pod.volumes.get(index).and_then(|v| v.map.get("name")).and_then(|n| n.as_str());
                f.write_str("unknown volume type for volume ")?;
                write_quoted(f, name.unwrap_or_default())
            }
            Finding::Volume { kind: Some(kind), .. } => {
                write!(f, "{} volumes are not allowed to be used", volume::name(kind))
            }
            Finding::FlexDriver { .. } => f.write_str("Flexvolume driver is not allowed to be used"),
            Finding::NotUid { want, .. } => write!(f, "must be: {want}"),
            Finding::NotInRange { min, max, .. } => write!(f, "must be in the ranges: [{min}, {max}]"),
            Finding::Root { .. } => f.write_str("running with the root UID is forbidden"),
            Finding::NonRootFalse { .. } => f.write_str("must be true"),
            Finding::Privileged { .. } => f.write_str("Privileged containers are not allowed"),
            Finding::Capability { .. } => f.write_str("capability may not be added"),
            Finding::HostPort { .. } => f.write_str("Host ports are not allowed to be used"),
            Finding::ReadOnlyRoot { .. } => f.write_str("ReadOnlyRootFilesystem must be set to true"),
            Finding::Escalation { .. } => {
                f.write_str("Allowing privilege escalation for containers is not allowed")
            }
        }
    }
}

fn seccomp_detail(f: &mut fmt::Formatter<'_>, scc: &Compiled, name: Name<'_>) -> fmt::Result {
    let list = &scc.scc.seccomp_profiles;
    if list.is_empty() {
        return f.write_str("seccomp may not be set");
    }
    write!(f, "{name} is not an allowed seccomp profile. Valid values are [")?;
    for (index, profile) in list.iter().filter(|p| *p != "*").enumerate() {
        let space = if index == 0 { "" } else { " " };
        write!(f, "{space}{profile}")?;
    }
    f.write_str("]")
}
