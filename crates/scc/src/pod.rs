//! What admission needs to know of a pod, read once from its JSON form and borrowed from it.
//!
//! A field of the wrong type makes the whole pod unreadable: nothing that could matter is ever taken as absent.

use serde_json::{Map, Value};

use crate::names::SECCOMP_CONTAINER_PREFIX;
use crate::seccomp::Field;
use crate::volume;

/// The three kinds of containers, in the order in which they are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Init,
    Regular,
    Ephemeral,
}

impl Kind {
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Init => "initContainers",
            Self::Regular => "containers",
            Self::Ephemeral => "ephemeralContainers",
        }
    }
}

/// Parts of an SELinux label; absent is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Label<'a> {
    pub(crate) user: &'a str,
    pub(crate) role: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) level: &'a str,
}

/// One container.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Container<'a> {
    pub(crate) kind: Kind,
    pub(crate) index: usize,
    pub(crate) name: &'a str,
    pub(crate) run_as_user: Option<i64>,
    pub(crate) run_as_non_root: Option<bool>,
    pub(crate) label: Option<Label<'a>>,
    pub(crate) seccomp: Option<Field<'a>>,
    /// The container's legacy seccomp annotation, which may be empty.
    pub(crate) seccomp_annotation: Option<&'a str>,
    pub(crate) privileged: bool,
    pub(crate) add: &'a [Value],
    pub(crate) drop: &'a [Value],
    pub(crate) read_only_root: Option<bool>,
    pub(crate) escalation: Option<bool>,
}

/// A port of the host that a container asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostPort {
    pub(crate) kind: Kind,
    pub(crate) index: usize,
    pub(crate) port: i64,
}

/// One volume.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Volume<'a> {
    pub(crate) kind: Option<u8>,
    pub(crate) driver: Option<&'a str>,
    pub(crate) map: &'a Map<String, Value>,
}

/// One pod.
#[derive(Debug)]
pub(crate) struct Pod<'a> {
    pub(crate) name: &'a str,
    pub(crate) generate_name: &'a str,
    pub(crate) windows: bool,
    pub(crate) service_account: &'a str,
    pub(crate) annotations: Option<&'a Map<String, Value>>,
    pub(crate) host_network: bool,
    pub(crate) host_pid: bool,
    pub(crate) host_ipc: bool,
    pub(crate) host_users: Option<bool>,
    pub(crate) run_as_user: Option<i64>,
    pub(crate) run_as_non_root: Option<bool>,
    pub(crate) label: Option<Label<'a>>,
    pub(crate) fs_group: Option<i64>,
    /// Every element is known to be an integer.
    pub(crate) supplemental_groups: Option<&'a [Value]>,
    pub(crate) seccomp: Option<Field<'a>>,
    /// Every element is known to be an object with a text under `name`.
    pub(crate) sysctls: &'a [Value],
    pub(crate) volumes: Vec<Volume<'a>>,
    pub(crate) containers: Vec<Container<'a>>,
    pub(crate) host_ports: Vec<HostPort>,
}

/// A field that is not of its type: its path, and what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Malformed {
    path: String,
    wanted: &'static str,
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} must be {}", self.path, self.wanted)
    }
}

type Read<T> = Result<T, Malformed>;

fn wrong<T>(path: &str, wanted: &'static str) -> Read<T> {
    Err(Malformed { path: path.to_owned(), wanted })
}

/// An object's fields with the checks of their types.
#[derive(Clone, Copy)]
struct Fields<'a>(Option<&'a Map<String, Value>>);

impl<'a> Fields<'a> {
    fn of(value: &'a Value, path: &str) -> Read<Fields<'a>> {
        match value {
            Value::Object(map) => Ok(Fields(Some(map))),
            _ => wrong(path, "an object"),
        }
    }

    fn value(self, key: &str) -> Option<&'a Value> {
        self.0.and_then(|m| m.get(key)).filter(|v| !v.is_null())
    }

    fn fields(self, key: &str) -> Read<Option<Fields<'a>>> {
        self.value(key).map(|v| Fields::of(v, key)).transpose()
    }

    fn text(self, key: &str) -> Read<Option<&'a str>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => wrong(key, "a string"),
        }
    }

    fn flag(self, key: &str) -> Read<Option<bool>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => wrong(key, "a boolean"),
        }
    }

    fn number(self, key: &str) -> Read<Option<i64>> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => value.as_i64().map_or_else(|| wrong(key, "an integer"), |n| Ok(Some(n))),
        }
    }

    fn list(self, key: &str) -> Read<Option<&'a [Value]>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(_) => wrong(key, "a list"),
        }
    }

    fn texts(self, key: &str) -> Read<&'a [Value]> {
        let list = self.list(key)?.unwrap_or_default();
        if list.iter().all(Value::is_string) { Ok(list) } else { wrong(key, "a list of strings") }
    }

    fn label(self) -> Read<Option<Label<'a>>> {
        let Some(options) = self.fields("seLinuxOptions")? else { return Ok(None) };
        let part = |key| options.text(key).map(Option::unwrap_or_default);
        Ok(Some(Label {
            user: part("user")?,
            role: part("role")?,
            kind: part("type")?,
            level: part("level")?,
        }))
    }

    fn seccomp(self) -> Read<Option<Field<'a>>> {
        let Some(profile) = self.fields("seccompProfile")? else { return Ok(None) };
        let kind = profile.text("type")?.unwrap_or_default();
        Ok(Some(Field { kind, localhost: profile.text("localhostProfile")? }))
    }
}

impl<'a> Pod<'a> {
    /// Reads a whole pod.
    pub(crate) fn read(value: &'a Value) -> Read<Pod<'a>> {
        let root = Fields::of(value, "pod")?;
        let metadata = root.fields("metadata")?.unwrap_or(Fields(None));
        let annotations = metadata.fields("annotations")?.and_then(|a| a.0);
        if annotations.is_some_and(|a| a.values().any(|v| !v.is_string())) {
            return wrong("metadata.annotations", "a map of strings");
        }
        Pod::read_parts(metadata, annotations, root.fields("spec")?.unwrap_or(Fields(None)))
    }

    fn read_parts(
        metadata: Fields<'a>,
        annotations: Option<&'a Map<String, Value>>,
        spec: Fields<'a>,
    ) -> Read<Pod<'a>> {
        let context = spec.fields("securityContext")?.unwrap_or(Fields(None));
        let flag = |key| spec.flag(key).map(Option::unwrap_or_default);
        let os = spec.fields("os")?.unwrap_or(Fields(None)).text("name")?;
        let groups = context.list("supplementalGroups")?;
        if groups.is_some_and(|list| list.iter().any(|g| g.as_i64().is_none())) {
            return wrong("supplementalGroups", "a list of integers");
        }
        let sysctls = context.list("sysctls")?.unwrap_or_default();
        if sysctls.iter().any(|s| !s.get("name").is_some_and(Value::is_string)) {
            return wrong("sysctls", "a list of objects with a name");
        }
        let mut pod = Pod {
            name: metadata.text("name")?.unwrap_or_default(),
            generate_name: metadata.text("generateName")?.unwrap_or_default(),
            windows: os == Some("windows"),
            service_account: spec.text("serviceAccountName")?.unwrap_or_default(),
            annotations,
            host_network: flag("hostNetwork")?,
            host_pid: flag("hostPID")?,
            host_ipc: flag("hostIPC")?,
            host_users: spec.flag("hostUsers")?,
            run_as_user: context.number("runAsUser")?,
            run_as_non_root: context.flag("runAsNonRoot")?,
            label: context.label()?,
            fs_group: context.number("fsGroup")?,
            supplemental_groups: groups,
            seccomp: context.seccomp()?,
            sysctls,
            volumes: Vec::new(),
            containers: Vec::new(),
            host_ports: Vec::new(),
        };
        pod.read_volumes(spec)?;
        pod.read_containers(spec)?;
        Ok(pod)
    }

    fn read_volumes(&mut self, spec: Fields<'a>) -> Read<()> {
        let list = spec.list("volumes")?.unwrap_or_default();
        self.volumes.reserve_exact(list.len());
        for value in list {
            let Value::Object(map) = value else { return wrong("volumes", "a list of objects") };
            let flex = Fields(Some(map)).fields("flexVolume")?;
            let driver = flex.map(|f| f.text("driver")).transpose()?.map(Option::unwrap_or_default);
            self.volumes.push(Volume { kind: volume::kind(map), driver, map });
        }
        Ok(())
    }

    fn read_containers(&mut self, spec: Fields<'a>) -> Read<()> {
        let kinds = [Kind::Init, Kind::Regular, Kind::Ephemeral];
        let mut lists: [&'a [Value]; 3] = [&[], &[], &[]];
        for (list, kind) in lists.iter_mut().zip(kinds) {
            *list = spec.list(kind.key())?.unwrap_or_default();
        }
        self.containers.reserve_exact(lists.iter().map(|l| l.len()).sum());
        for (list, kind) in lists.into_iter().zip(kinds) {
            for (index, value) in list.iter().enumerate() {
                self.read_container(Fields::of(value, kind.key())?, kind, index)?;
            }
        }
        Ok(())
    }

    fn read_container(&mut self, fields: Fields<'a>, kind: Kind, index: usize) -> Read<()> {
        for port in fields.list("ports")?.unwrap_or_default() {
            let port = Fields::of(port, "ports")?.number("hostPort")?.unwrap_or(0);
            if port > 0 {
                self.host_ports.push(HostPort { kind, index, port });
            }
        }
        let name = fields.text("name")?.unwrap_or_default();
        let context = fields.fields("securityContext")?.unwrap_or(Fields(None));
        let capabilities = context.fields("capabilities")?.unwrap_or(Fields(None));
        self.containers.push(Container {
            kind,
            index,
            name,
            run_as_user: context.number("runAsUser")?,
            run_as_non_root: context.flag("runAsNonRoot")?,
            label: context.label()?,
            seccomp: context.seccomp()?,
            seccomp_annotation: self.container_annotation(name),
            privileged: context.flag("privileged")?.unwrap_or_default(),
            add: capabilities.texts("add")?,
            drop: capabilities.texts("drop")?,
            read_only_root: context.flag("readOnlyRootFilesystem")?,
            escalation: context.flag("allowPrivilegeEscalation")?,
        });
        Ok(())
    }

    /// The text of an annotation; `None` when the key is absent.
    pub(crate) fn annotation(&self, key: &str) -> Option<&'a str> {
        self.annotations?.get(key)?.as_str()
    }

    fn container_annotation(&self, name: &str) -> Option<&'a str> {
        let annotations = self.annotations?;
        // Few pods have such an annotation, so no key is built before one is seen.
        annotations
            .iter()
            .find(|(key, _)| key.strip_prefix(SECCOMP_CONTAINER_PREFIX) == Some(name))
            .and_then(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_wrong_type_is_never_taken_as_absent() {
        for bad in [
            json!({"spec": {"hostNetwork": "true"}}),
            json!({"spec": {"securityContext": {"runAsUser": 1.5}}}),
            json!({"spec": {"securityContext": {"supplementalGroups": ["1"]}}}),
            json!({"spec": {"containers": [{"securityContext": {"privileged": 1}}]}}),
            json!({"spec": {"containers": {"a": 1}}}),
            json!({"spec": {"containers": [7]}}),
            json!({"spec": {"volumes": [7]}}),
            json!({"spec": {"containers": [{"ports": [{"hostPort": "80"}]}]}}),
            json!({"spec": {"containers": [{"securityContext": {"capabilities": {"add": [1]}}}]}}),
            json!({"metadata": {"annotations": {"a": 1}}}),
            json!([]),
        ] {
            assert!(Pod::read(&bad).is_err(), "{bad}");
        }
        assert!(Pod::read(&json!({"spec": null})).is_ok());
    }
}
