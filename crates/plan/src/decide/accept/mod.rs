//! Whether a pod is the one that the controller makes of a machine, field by field.
//!
//! Everybody who may create pods in a namespace can make one with the name and the owner of a launcher pod. A node does
//! privileged things for launcher pods, so it asks here first: the pod has to be what is rendered, and beyond that only
//! what [`table`] lists. The comparison is of JSON values: a field that nobody here knows is a difference, too.

mod holds;
mod record;
pub mod table;

#[cfg(test)]
mod record_tests;
#[cfg(test)]
mod tests;

pub use holds::Holds;
pub use record::{Standing, digest, least, record, record_of, refusal, standing};

use crate::{
    config::{ClusterConfig, LabelPods, World},
    decide, render,
};
use ferrovirt_api::kubevirt::VirtualMachineInstance;
use ferrovirt_kubernetes::json;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value, json};
use std::{collections::BTreeSet, fmt};

/// Most differences that are listed; one is enough to refuse.
const MOST: usize = 8;
/// Most characters of a value in a text.
const SHOWN: usize = 80;

/// What is about to be done for the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Its container is started, or gets its order. Not for a pod that is being deleted.
    Start,
    /// A container that has its order goes on being served, also while it is being deleted.
    Serve,
}

/// Where the pod is: what admission and scheduler took their values from.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Name of the node that asks.
    pub node: &'a str,
    /// The pod's Namespace object; null where nothing that is new may come from it.
    pub namespace: &'a Value,
}

/// A field that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its path, such as `spec.containers[0].image`.
    pub field: String,
    /// What it is, shortened; empty when it is absent.
    pub is: String,
    /// What it should be, shortened; empty when it should be absent.
    pub should: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, is, should } = self;
        match (is.as_str(), should.as_str()) {
            ("", should) => write!(f, "{field} is missing and should be {should}"),
            (is, "") => write!(f, "{field} is {is} and should not be there"),
            (is, should) => write!(f, "{field} is {is} and should be {should}"),
        }
    }
}

/// The sentence for people about a pod that differs.
pub fn sentence(differences: &[Difference]) -> String {
    let list: Vec<String> = differences.iter().map(Difference::to_string).collect();
    format!(
        "the pod is not as the controller makes it, so that no node does anything for it: {}; delete the pod, and leave \
         the pods of machines to the controller",
        list.join("; ")
    )
}

/// The pods that the controller can have made of an instance: one, or with and without an SELinux label or a user namespace of
/// their own, and with images as volumes and as containers, where it is not known which. `node_knows_types`: the policy of the node that asks has the types of
/// launcher pods.
///
/// The level in the instance's status is the controller's word, written before it makes a labelled pod and by nobody else.
/// A pod without one is accepted beside it only where the node could not enforce the label.
///
/// # Errors
/// Every reason why the instance is no valid machine.
pub fn candidates(
    vmi: &VirtualMachineInstance,
    config: &ClusterConfig,
    block_claims: &BTreeSet<String>,
    node_knows_types: bool,
) -> Result<Vec<Value>, Vec<String>> {
    let claims: Vec<decide::Claim> = block_claims
        .iter()
        .map(|name| decide::Claim { name: name.clone(), state: decide::ClaimState::Bound, block: true })
        .collect();
    let recorded = vmi.status.as_ref().is_some_and(|status| status.selinux_level.is_some());
    let labels: &[bool] = match (recorded, config.label_pods) {
        (false, _) | (_, LabelPods::Never) => &[false],
        (true, LabelPods::Auto) if !node_knows_types => &[true, false],
        (true, _) => &[true],
    };
    let mut out = Vec::new();
    // Whether a cluster mounts images the controller finds out when it makes pods; it may do so later, or not any more.
    let serves: &[bool] = match config.world {
        World::Machine => &[false],
        World::Cluster => &[config.serves_images, !config.serves_images],
    };
    for serves_images in serves {
        // Whether the cluster gives pods users of their own it finds out, too.
        for own_users in [config.cluster_has_user_namespaces, !config.cluster_has_user_namespaces] {
            let config = ClusterConfig {
                serves_images: *serves_images,
                cluster_has_user_namespaces: own_users,
                ..config.clone()
            };
            for labelled in labels {
                let pod = decide::launcher_pod(vmi, &config, &claims, *labelled)?;
                let pod = serde_json::to_value(pod).map_err(|error| vec![error.to_string()])?;
                if !out.contains(&pod) {
                    out.push(pod);
                }
            }
        }
    }
    Ok(out)
}

/// What is kept of a pod that was accepted: enough to compare the same pod with later.
pub fn essence(pod: &Value) -> Value {
    let metadata = pod.get("metadata").unwrap_or(&Value::Null);
    let kept = |field: &str, keep: &dyn Fn(&str) -> bool| -> Map<String, Value> {
        let all = json::entries(metadata, field);
        all.filter(|(key, _)| keep(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    json!({
        "metadata": {
            "name": metadata.get("name"), "namespace": metadata.get("namespace"),
            "ownerReferences": metadata.get("ownerReferences"),
            "labels": kept("labels", &|key| render::pod::LABELS.contains(&key)),
            "annotations": kept("annotations", &table::counts),
        },
        "spec": pod.get("spec"),
    })
}

/// The typed pod as the API would show it.
pub fn untyped(pod: &Pod) -> Value {
    serde_json::to_value(pod).unwrap_or_default()
}

/// Every difference between a pod and what it should be, at most eight. `should` is a rendered pod, or the [`essence`] of
/// the pod as it was accepted.
pub fn differences(actual: &Value, should: &Value, place: &Place<'_>, step: Step) -> Vec<Difference> {
    let mut walk = Walk { place, pod: actual, should, path: Vec::new(), found: Vec::new() };
    let none = Map::new();
    for (key, value) in actual.as_object().unwrap_or(&none) {
        if !["apiVersion", "kind", "metadata", "spec", "status"].contains(&key.as_str()) {
            walk.within(Part::Key(key), |walk| walk.differs(None, Some(value)));
        }
    }
    walk.within(Part::Key("metadata"), |walk| {
        walk.metadata(should.get("metadata"), actual.get("metadata").unwrap_or(&Value::Null), step);
    });
    walk.within(Part::Key("spec"), |walk| walk.value(should.get("spec"), actual.get("spec")));
    walk.within(Part::Key("status"), |walk| walk.status(actual.get("status").unwrap_or(&Value::Null)));
    walk.found
}

/// A step of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// A field.
    Key(&'a str),
    /// An element.
    Index(usize),
}

struct Walk<'a> {
    place: &'a Place<'a>,
    pod: &'a Value,
    should: &'a Value,
    path: Vec<Part<'a>>,
    found: Vec<Difference>,
}

impl<'a> Walk<'a> {
    fn within(&mut self, part: Part<'a>, look: impl FnOnce(&mut Self)) {
        if self.found.len() < MOST {
            self.path.push(part);
            look(self);
            self.path.pop();
        }
    }

    fn differs(&mut self, should: Option<&Value>, actual: Option<&Value>) {
        let mut field = String::new();
        for part in &self.path {
            match part {
                Part::Key(key) if field.is_empty() => field.push_str(&printable(key)),
                Part::Key(key) => field.push_str(&format!(".{}", printable(key))),
                Part::Index(index) => field.push_str(&format!("[{index}]")),
            }
        }
        let shown =
            |value: Option<&Value>| value.map(|value| printable(&value.to_string())).unwrap_or_default();
        self.found.push(Difference { field, is: shown(actual), should: shown(should) });
    }

    fn value(&mut self, should: Option<&'a Value>, actual: Option<&'a Value>) {
        let (should, actual) = (there(should), there(actual));
        if should == actual {
            return;
        }
        if let Some(actual) = actual {
            let given = table::Given {
                path: &self.path,
                should,
                actual,
                place: self.place,
                pod: self.pod,
                rendered: self.should,
            };
            if table::allows(&given) {
                return;
            }
        }
        match (should, actual) {
            (Some(Value::Object(should)), Some(Value::Object(actual))) => {
                for (key, value) in should {
                    self.within(Part::Key(key), |walk| walk.value(Some(value), actual.get(key)));
                }
                for (key, value) in actual.iter().filter(|(key, _)| !should.contains_key(*key)) {
                    self.within(Part::Key(key), |walk| walk.value(None, Some(value)));
                }
            }
            (should, Some(Value::Array(actual)))
                if self.path == [Part::Key("spec"), Part::Key("tolerations")] =>
            {
                let none = Vec::new();
                self.set(should.and_then(Value::as_array).unwrap_or(&none), actual);
            }
            (Some(Value::Array(should)), Some(Value::Array(actual))) => {
                for index in 0..should.len().max(actual.len()) {
                    let part = Part::Index(index);
                    self.within(part, |walk| walk.value(should.get(index), actual.get(index)));
                }
            }
            (should, actual) => self.differs(should, actual),
        }
    }

    /// Tolerations have no order.
    fn set(&mut self, should: &[Value], actual: &'a [Value]) {
        for wanted in should.iter().filter(|wanted| !actual.contains(wanted)) {
            self.differs(Some(wanted), None);
        }
        for (index, value) in actual.iter().enumerate().filter(|(_, value)| !should.contains(value)) {
            self.within(Part::Index(index), |walk| walk.value(None, Some(value)));
        }
    }

    fn metadata(&mut self, should: Option<&'a Value>, actual: &'a Value, step: Step) {
        let of = |field: &str| should.and_then(|should| should.get(field));
        for field in ["name", "namespace", "ownerReferences"] {
            self.within(Part::Key(field), |walk| walk.value(of(field), actual.get(field)));
        }
        // Other labels are the users'; no node acts on them.
        self.within(Part::Key("labels"), |walk| {
            for key in render::pod::LABELS {
                let label = |labels: Option<&'a Value>| labels.and_then(|labels| labels.get(key));
                let (should, actual) = (label(of("labels")), label(actual.get("labels")));
                walk.within(Part::Key(key), |walk| walk.value(should, actual));
            }
        });
        self.within(Part::Key("annotations"), |walk| {
            let should = of("annotations").and_then(Value::as_object);
            let actual = json::fields(actual, "annotations");
            let keys = should.into_iter().chain(actual).flat_map(Map::keys).filter(|key| table::counts(key));
            for key in keys.collect::<BTreeSet<_>>() {
                let of = |all: Option<&'a Map<String, Value>>| all.and_then(|all| all.get(key));
                walk.within(Part::Key(key), |walk| walk.value(of(should), of(actual)));
            }
        });
        for (key, value) in actual.as_object().into_iter().flatten() {
            let known = match key.as_str() {
                "name" | "namespace" | "ownerReferences" | "labels" | "annotations" => true,
                // The API server's own, and what holds the object back from its end.
                "uid" | "resourceVersion" | "generation" | "creationTimestamp" | "managedFields"
                | "selfLink" | "finalizers" => true,
                "deletionTimestamp" | "deletionGracePeriodSeconds" => step == Step::Serve,
                _ => false,
            };
            if !known && !value.is_null() {
                self.within(Part::Key(key), |walk| walk.differs(None, Some(value)));
            }
        }
    }

    /// What the runtime did to the containers shows that one is another than the one that was started.
    fn status(&mut self, status: &'a Value) {
        for field in ["ephemeralContainerStatuses", "resize"] {
            let value = status.get(field);
            if there(value).is_some_and(|value| value != "") {
                self.within(Part::Key(field), |walk| walk.differs(None, value));
            }
        }
        // These may have been started again. Who changes one meanwhile has nothing that programs in it would not give: nothing that comes from there is believed.
        let names =
            |list: &'a Value, at: &str| json::list(list, at).filter_map(|item| item.get("name")).collect();
        let expected: Vec<&Value> = names(self.should.get("spec").unwrap_or(&Value::Null), "initContainers");
        let known: Vec<&Value> = names(status, "initContainerStatuses");
        if known.iter().any(|name| !expected.contains(name)) {
            let statuses = status.get("initContainerStatuses");
            self.within(Part::Key("initContainerStatuses"), |walk| walk.differs(None, statuses));
        }
        for condition in json::list(status, "conditions") {
            let kind = json::text(condition, "type");
            if kind.starts_with("PodResize") && condition.get("status").is_some_and(|status| status == "True")
            {
                self.within(Part::Key("conditions"), |walk| walk.differs(None, Some(condition)));
            }
        }
        self.within(Part::Key("containerStatuses"), |walk| {
            for (index, container) in json::list(status, "containerStatuses").enumerate() {
                walk.within(Part::Index(index), |walk| walk.container_status(container));
            }
        });
    }

    fn container_status(&mut self, container: &'a Value) {
        let expected = [("name", json!(render::pod::CONTAINER)), ("restartCount", json!(0))];
        for (field, should) in expected {
            let actual = container.get(field);
            if actual.is_some_and(|actual| *actual != should) {
                self.within(Part::Key(field), |walk| walk.differs(Some(&should), actual));
            }
        }
        let requests = self.should.pointer("/spec/containers/0/resources/requests");
        for (name, actual) in json::entries(container, "allocatedResources") {
            let should = requests.and_then(|requests| requests.get(name));
            if !should.is_some_and(|should| table::same_amount(should, actual)) {
                self.within(Part::Key("allocatedResources"), |walk| {
                    walk.within(Part::Key(name), |walk| walk.differs(should, Some(actual)));
                });
            }
        }
    }
}

/// Null and an empty list are nothing: Kubernetes leaves both out.
fn there(value: Option<&Value>) -> Option<&Value> {
    value.filter(|value| !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty()))
}

/// Short, and without what a terminal or a log would act on: users write these bytes.
fn printable(text: &str) -> String {
    let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut out: String = text.chars().take(SHOWN).map(plain).collect();
    if text.chars().nth(SHOWN).is_some() {
        out.push_str("...");
    }
    out
}
