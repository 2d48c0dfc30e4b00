//! What admission needs to know of a pod, read once from its JSON form and borrowed from it.
//!
//! A field of the wrong type makes the whole pod unreadable: nothing that could matter is ever taken as absent.

pub(crate) mod equal;
pub(crate) mod exec;
pub(crate) mod seccomp;
pub(crate) mod volume;

use serde_json::{Map, Value};

use crate::names::SECCOMP_CONTAINER_PREFIX;
use crate::pod::seccomp::Field;

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

impl<'a> Container<'a> {
    fn new(kind: Kind, index: usize) -> Self {
        Self {
            kind,
            index,
            name: "",
            run_as_user: None,
            run_as_non_root: None,
            label: None,
            seccomp: None,
            seccomp_annotation: None,
            privileged: false,
            add: &[],
            drop: &[],
            read_only_root: None,
            escalation: None,
        }
    }

    fn read_context(&mut self, context: &'a Map<String, Value>) -> Read<()> {
        for (key, value) in fields(context) {
            match key {
                "runAsUser" => self.run_as_user = Some(number(value, key)?),
                "runAsNonRoot" => self.run_as_non_root = Some(flag(value, key)?),
                "seLinuxOptions" => self.label = Some(label(value)?),
                "seccompProfile" => self.seccomp = Some(seccomp(value)?),
                "privileged" => self.privileged = flag(value, key)?,
                "readOnlyRootFilesystem" => self.read_only_root = Some(flag(value, key)?),
                "allowPrivilegeEscalation" => self.escalation = Some(flag(value, key)?),
                "capabilities" => {
                    for (key, value) in fields(object(value, key)?) {
                        match key {
                            "add" => self.add = texts(value, key)?,
                            "drop" => self.drop = texts(value, key)?,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
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
#[derive(Debug, Default)]
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
    /// Some container has a legacy seccomp annotation.
    container_seccomp: bool,
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

fn object<'a>(value: &'a Value, key: &str) -> Read<&'a Map<String, Value>> {
    value.as_object().map_or_else(|| wrong(key, "an object"), Ok)
}

fn text<'a>(value: &'a Value, key: &str) -> Read<&'a str> {
    value.as_str().map_or_else(|| wrong(key, "a string"), Ok)
}

fn flag(value: &Value, key: &str) -> Read<bool> {
    value.as_bool().map_or_else(|| wrong(key, "a boolean"), Ok)
}

fn number(value: &Value, key: &str) -> Read<i64> {
    value.as_i64().map_or_else(|| wrong(key, "an integer"), Ok)
}

fn list<'a>(value: &'a Value, key: &str) -> Read<&'a [Value]> {
    value.as_array().map_or_else(|| wrong(key, "a list"), |list| Ok(list.as_slice()))
}

/// The fields that are set. Objects are walked once instead of being asked for each known field: most of them are
/// small.
fn fields(map: &Map<String, Value>) -> impl Iterator<Item = (&str, &Value)> {
    map.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.as_str(), value))
}

fn label<'a>(value: &'a Value) -> Read<Label<'a>> {
    let mut label = Label::default();
    for (key, value) in fields(object(value, "seLinuxOptions")?) {
        match key {
            "user" => label.user = text(value, key)?,
            "role" => label.role = text(value, key)?,
            "type" => label.kind = text(value, key)?,
            "level" => label.level = text(value, key)?,
            _ => {}
        }
    }
    Ok(label)
}

fn seccomp<'a>(value: &'a Value) -> Read<Field<'a>> {
    let mut field = Field { kind: "", localhost: None };
    for (key, value) in fields(object(value, "seccompProfile")?) {
        match key {
            "type" => field.kind = text(value, key)?,
            "localhostProfile" => field.localhost = Some(text(value, key)?),
            _ => {}
        }
    }
    Ok(field)
}

fn texts<'a>(value: &'a Value, key: &str) -> Read<&'a [Value]> {
    let list = list(value, key)?;
    if list.iter().all(Value::is_string) { Ok(list) } else { wrong(key, "a list of strings") }
}

impl<'a> Pod<'a> {
    /// Reads a whole pod.
    pub(crate) fn read(value: &'a Value) -> Read<Pod<'a>> {
        let mut pod = Pod::default();
        let root = object(value, "pod")?;
        // The annotations are needed to read containers.
        for (key, value) in fields(root) {
            if key == "metadata" {
                pod.read_metadata(object(value, key)?)?;
            }
        }
        for (key, value) in fields(root) {
            if key == "spec" {
                pod.read_spec(object(value, key)?)?;
            }
        }
        Ok(pod)
    }

    fn read_metadata(&mut self, map: &'a Map<String, Value>) -> Read<()> {
        for (key, value) in fields(map) {
            match key {
                "name" => self.name = text(value, key)?,
                "generateName" => self.generate_name = text(value, key)?,
                "annotations" => {
                    let annotations = object(value, key)?;
                    if annotations.values().any(|v| !v.is_string()) {
                        return wrong("metadata.annotations", "a map of strings");
                    }
                    self.container_seccomp =
                        annotations.keys().any(|k| k.starts_with(SECCOMP_CONTAINER_PREFIX));
                    self.annotations = Some(annotations);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn read_spec(&mut self, spec: &'a Map<String, Value>) -> Read<()> {
        let kinds = [Kind::Init, Kind::Regular, Kind::Ephemeral];
        let mut lists: [&'a [Value]; 3] = [&[], &[], &[]];
        for (key, value) in fields(spec) {
            match key {
                "hostNetwork" => self.host_network = flag(value, key)?,
                "hostPID" => self.host_pid = flag(value, key)?,
                "hostIPC" => self.host_ipc = flag(value, key)?,
                "hostUsers" => self.host_users = Some(flag(value, key)?),
                "serviceAccountName" if value != "" => self.service_account = text(value, key)?,
                // The old spelling counts where the new one says nothing.
                "serviceAccount" if self.service_account.is_empty() => {
                    self.service_account = text(value, key)?
                }
                "securityContext" => self.read_context(object(value, key)?)?,
                "volumes" => self.read_volumes(list(value, key)?)?,
                "os" => {
                    let name = object(value, key)?.get("name").filter(|n| !n.is_null());
                    self.windows = name.map(|n| text(n, "os.name")).transpose()? == Some("windows");
                }
                _ => {
                    for (place, kind) in lists.iter_mut().zip(kinds) {
                        if key == kind.key() {
                            *place = list(value, key)?;
                        }
                    }
                }
            }
        }
        self.containers.reserve_exact(lists.iter().map(|l| l.len()).sum());
        for (list, kind) in lists.into_iter().zip(kinds) {
            for (index, value) in list.iter().enumerate() {
                let container = self.read_container(object(value, kind.key())?, kind, index)?;
                self.containers.push(container);
            }
        }
        Ok(())
    }

    fn read_context(&mut self, context: &'a Map<String, Value>) -> Read<()> {
        for (key, value) in fields(context) {
            match key {
                "runAsUser" => self.run_as_user = Some(number(value, key)?),
                "runAsNonRoot" => self.run_as_non_root = Some(flag(value, key)?),
                "seLinuxOptions" => self.label = Some(label(value)?),
                "fsGroup" => self.fs_group = Some(number(value, key)?),
                "seccompProfile" => self.seccomp = Some(seccomp(value)?),
                "supplementalGroups" => {
                    let groups = list(value, key)?;
                    if groups.iter().any(|g| g.as_i64().is_none()) {
                        return wrong(key, "a list of integers");
                    }
                    self.supplemental_groups = Some(groups);
                }
                "sysctls" => {
                    self.sysctls = list(value, key)?;
                    if self.sysctls.iter().any(|s| !s.get("name").is_some_and(Value::is_string)) {
                        return wrong(key, "a list of objects with a name");
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn read_volumes(&mut self, list: &'a [Value]) -> Read<()> {
        self.volumes.reserve_exact(list.len());
        for value in list {
            let map = object(value, "volumes")?;
            let kind = volume::kind(map);
            let driver = match map.get("flexVolume").filter(|v| !v.is_null()) {
                None => None,
                Some(flex) => match object(flex, "flexVolume")?.get("driver").filter(|v| !v.is_null()) {
                    None => Some(""),
                    Some(driver) => Some(text(driver, "driver")?),
                },
            };
            self.volumes.push(Volume { kind, driver, map });
        }
        Ok(())
    }

    fn read_container(
        &mut self,
        map: &'a Map<String, Value>,
        kind: Kind,
        index: usize,
    ) -> Read<Container<'a>> {
        let mut container = Container::new(kind, index);
        for (key, value) in fields(map) {
            match key {
                "name" => container.name = text(value, key)?,
                "securityContext" => container.read_context(object(value, key)?)?,
                "ports" => {
                    for port in list(value, key)? {
                        let port = object(port, key)?.get("hostPort").filter(|p| !p.is_null());
                        let port = port.map(|p| number(p, "hostPort")).transpose()?.unwrap_or(0);
                        if port > 0 {
                            self.host_ports.push(HostPort { kind, index, port });
                        }
                    }
                }
                _ => {}
            }
        }
        if self.container_seccomp {
            container.seccomp_annotation = self.container_annotation(container.name);
        }
        Ok(container)
    }

    /// The text of an annotation; `None` when the key is absent.
    pub(crate) fn annotation(&self, key: &str) -> Option<&'a str> {
        self.annotations?.get(key)?.as_str()
    }

    fn container_annotation(&self, name: &str) -> Option<&'a str> {
        self.annotation(&format!("{SECCOMP_CONTAINER_PREFIX}{name}"))
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
