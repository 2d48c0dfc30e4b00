//! The changes that a chosen SCC makes to a pod, applied to its JSON form.

use serde_json::{Map, Value};

use crate::admit::evaluate::{ContainerChange, Evaluation, Record, default_adds};
use crate::names::SECCOMP_POD;
use crate::pod::seccomp::Field;
use crate::pod::{Container, Kind};

/// Changes that no longer borrow from the pod, each value ready to be put in its place.
#[derive(Debug, Default)]
pub(crate) struct Patch {
    annotation: Option<String>,
    context: Vec<(&'static str, Value)>,
    containers: Vec<ContainerPatch>,
}

#[derive(Debug)]
struct ContainerPatch {
    kind: Kind,
    index: usize,
    /// `null` removes.
    context: Vec<(&'static str, Value)>,
    capabilities: Option<(Vec<Value>, Vec<Value>)>,
}

fn profile(field: Option<Field<'_>>) -> Value {
    let Some(field) = field else { return Value::Null };
    let mut map = Map::new();
    map.insert("type".to_owned(), field.kind.into());
    if let Some(profile) = field.localhost {
        map.insert("localhostProfile".to_owned(), profile.into());
    }
    Value::Object(map)
}

impl Patch {
    /// The changes of the last evaluation in the record.
    pub(crate) fn of(evaluation: &Evaluation<'_, '_>, record: &Record<'_>) -> Patch {
        let change = &record.pod;
        let context = Vec::with_capacity(change.settings());
        let mut patch =
            Patch { annotation: change.annotation.map(|n| n.to_string()), context, containers: Vec::new() };
        if let Some(group) = change.supplemental_group {
            patch.context.push(("supplementalGroups", Value::Array(vec![group.into()])));
        }
        if let Some(group) = change.fs_group {
            patch.context.push(("fsGroup", group.into()));
        }
        if let Some(label) = evaluation.label().filter(|_| change.label) {
            let mut map = Map::new();
            let parts =
                [("user", label.user), ("role", label.role), ("type", label.kind), ("level", label.level)];
            for (key, text) in parts.into_iter().filter(|p| !p.1.is_empty()) {
                map.insert(key.to_owned(), text.into());
            }
            patch.context.push(("seLinuxOptions", Value::Object(map)));
        }
        if let Some(field) = change.seccomp {
            patch.context.push(("seccompProfile", profile(field)));
        }
        let none = ContainerChange::default();
        let changed = evaluation.pod.containers.iter().zip(&record.containers).filter(|(_, c)| **c != none);
        patch.containers.reserve_exact(changed.clone().count());
        for (container, change) in changed {
            let mut context = Vec::with_capacity(change.settings());
            if let Some(uid) = change.run_as_user {
                context.push(("runAsUser", uid.into()));
            }
            if change.run_as_non_root {
                context.push(("runAsNonRoot", true.into()));
            }
            if change.read_only_root {
                context.push(("readOnlyRootFilesystem", true.into()));
            }
            if let Some(field) = change.seccomp {
                context.push(("seccompProfile", profile(field)));
            }
            if let Some(value) = change.escalation {
                context.push(("allowPrivilegeEscalation", value.into()));
            }
            let capabilities = change.capabilities.then(|| merged(evaluation, container));
            let Container { kind, index, .. } = *container;
            patch.containers.push(ContainerPatch { kind, index, context, capabilities });
        }
        patch
    }

    /// Whether nothing would be changed.
    pub(crate) fn is_empty(&self) -> bool {
        self.annotation.is_none() && self.context.is_empty() && self.containers.is_empty()
    }

    /// Makes the changes.
    pub(crate) fn apply(self, pod: &mut Value) {
        if let Some(name) = self.annotation {
            annotate(pod, SECCOMP_POD, name);
        }
        if self.context.is_empty() && self.containers.is_empty() {
            return;
        }
        let Some(spec) = child(pod, "spec") else { return };
        if let Some(context) = (!self.context.is_empty()).then(|| child(spec, "securityContext")).flatten() {
            put(context, self.context);
        }
        for patch in self.containers {
            let list = spec.get_mut(patch.kind.key()).and_then(Value::as_array_mut);
            let Some(container) = list.and_then(|l| l.get_mut(patch.index)) else { continue };
            let Some(context) = child(container, "securityContext") else { continue };
            put(context, patch.context);
            if let Some((add, drop)) = patch.capabilities
                && let Some(capabilities) = child(context, "capabilities")
            {
                put(capabilities, vec![("add", list_or_null(add)), ("drop", list_or_null(drop))]);
            }
        }
    }
}

/// Sets an annotation.
pub(crate) fn annotate(pod: &mut Value, key: &str, text: String) {
    let annotations = child(pod, "metadata").and_then(|m| child(m, "annotations"));
    let Some(Value::Object(map)) = annotations else { return };
    match map.get_mut(key) {
        Some(value) => *value = Value::String(text),
        None => {
            map.insert(key.to_owned(), Value::String(text));
        }
    }
}

/// The object under a key, made when absent or null.
fn child<'v>(value: &'v mut Value, key: &str) -> Option<&'v mut Value> {
    let map = value.as_object_mut()?;
    if map.get(key).is_none_or(Value::is_null) {
        map.insert(key.to_owned(), Value::Object(Map::new()));
    }
    map.get_mut(key)
}

fn put(object: &mut Value, values: Vec<(&'static str, Value)>) {
    let Value::Object(map) = object else { return };
    for (key, value) in values {
        if value.is_null() {
            map.remove(key);
        } else if let Some(place) = map.get_mut(key) {
            *place = value;
        } else {
            map.insert(key.to_owned(), value);
        }
    }
}

fn list_or_null(list: Vec<Value>) -> Value {
    if list.is_empty() { Value::Null } else { Value::Array(list) }
}

fn merged(evaluation: &Evaluation<'_, '_>, container: &Container<'_>) -> (Vec<Value>, Vec<Value>) {
    let sorted = |own: &[Value], more: &mut dyn Iterator<Item = &String>| {
        let mut names: Vec<&str> = own.iter().filter_map(Value::as_str).collect();
        let more: Vec<&String> = more.collect();
        names.extend(more.iter().map(|m| m.as_str()));
        names.sort_unstable();
        names.dedup();
        names.into_iter().map(Value::from).collect::<Vec<_>>()
    };
    let add = sorted(container.add, &mut default_adds(evaluation.scc, container));
    let drop = sorted(container.drop, &mut evaluation.scc.scc.required_drop_capabilities.iter());
    (add, drop)
}
