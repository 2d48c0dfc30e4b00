//! What the controller writes down of a launcher pod that it has made, so that a node need not ask what it would make now:
//! the configuration, the controller and the node's own program may be other ones since.
//!
//! The controller compares what the API server made of its pod with its rendering, as a node does, and writes UID and digest
//! into the status of the machine's instance, once. A node takes a pod of that UID with that digest for the controller's; any
//! other pod it compares with what is rendered now. The second way stays open also where something is written down: an API
//! server of a later version adds fields to pods that it has stored, and whatever is exactly what the controller makes now is
//! the controller's.

use super::{Difference, Place, Step, differences, essence, sentence};
use ferrovirt_api::kubevirt::{LauncherPodRecord, VirtualMachineInstance};
use ferrovirt_kubernetes::json;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// How a digest was made. Another way of making one gets another prefix, and an unknown one is as if there were none.
const PREFIX: &str = "sha256-v1:";

/// How a pod stands to what is written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is the one that the controller has written down; what is wrong with it beside that: where it is and what became
    /// of its containers.
    Recorded(Vec<Difference>),
    /// Nothing is written down, or in a form that nobody here knows.
    Unrecorded,
    /// Another pod is written down.
    Another,
    /// It was another one when it was written down.
    Changed,
}

/// The record of an instance.
pub fn record_of(vmi: &VirtualMachineInstance) -> Option<&LauncherPodRecord> {
    vmi.status.as_ref()?.launcher_pod.as_ref()
}

/// How a pod, as the API server has it, stands to the record of its instance.
pub fn standing(pod: &Value, record: Option<&LauncherPodRecord>, place: &Place<'_>, step: Step) -> Standing {
    let Some(record) = record.filter(|record| record.digest.starts_with(PREFIX)) else {
        return Standing::Unrecorded;
    };
    if uid(pod) != Some(&record.uid) {
        return Standing::Another;
    }
    let own = unbound(pod);
    if digest_of(&own) != record.digest {
        return Standing::Changed;
    }
    // Nothing more may come from admission.
    let place = Place { namespace: &Value::Null, ..*place };
    Standing::Recorded(differences(pod, &own, &place, step))
}

/// What is to be written down of a pod, as the API server has it, if it is one of `renderings`. `namespace`: its Namespace
/// object.
///
/// # Errors
/// The differences from the rendering that is the least far away.
pub fn record(
    pod: &Value,
    renderings: &[Value],
    namespace: &Value,
) -> Result<LauncherPodRecord, Vec<Difference>> {
    // It is nothing of the controller's on which node it is.
    let place = Place { node: json::string(pod, "/spec/nodeName").unwrap_or_default(), namespace };
    let wrong = least(pod, renderings, &place, Step::Serve);
    if !wrong.is_empty() {
        return Err(wrong);
    }
    Ok(LauncherPodRecord { uid: uid(pod).unwrap_or_default().to_owned(), digest: digest(pod) })
}

/// The differences of a pod from the one of `renderings` that is the least far away; none if it is one of them.
pub fn least(pod: &Value, renderings: &[Value], place: &Place<'_>, step: Step) -> Vec<Difference> {
    let all = renderings.iter().map(|should| differences(pod, should, place, step));
    all.min_by_key(Vec::len).unwrap_or_default()
}

/// The sentence for people about a pod that is neither recorded nor what is rendered now.
pub fn refusal(differences: &[Difference], standing: &Standing) -> String {
    let compared = match standing {
        Standing::Recorded(_) => return sentence(differences),
        Standing::Unrecorded => {
            "nothing is recorded of how it was made, so that it is compared with what the controller makes now"
        }
        Standing::Another => {
            "another pod is recorded, so that this one is compared with what the controller makes now"
        }
        Standing::Changed => {
            "it was changed after the controller had recorded it; a record does not say what was there before, so that these \
             are the differences from what the controller makes now"
        }
    };
    format!("{} ({compared})", sentence(differences))
}

/// The digest of a pod, wherever it is.
pub fn digest(pod: &Value) -> String {
    digest_of(&unbound(pod))
}

fn uid(pod: &Value) -> Option<&str> {
    json::string(pod, "/metadata/uid")
}

/// The essence of a pod before it was given a node.
fn unbound(pod: &Value) -> Value {
    let mut own = essence(pod);
    if let Some(spec) = own.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove("nodeName");
    }
    own
}

fn digest_of(essence: &Value) -> String {
    let mut text = String::new();
    canonical(essence, &mut text);
    let hash = Sha256::digest(text.as_bytes());
    hash.iter().fold(PREFIX.to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// One text for what is the same to Kubernetes: fields in order, and without those that say nothing.
fn canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            let says = |value: &&Value| super::there(Some(value)).is_some();
            let fields: BTreeMap<_, _> = fields.iter().filter(|(_, value)| says(value)).collect();
            text.push('{');
            for (key, value) in fields {
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                canonical(value, text);
                text.push(',');
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for item in items {
                canonical(item, text);
                text.push(',');
            }
            text.push(']');
        }
        plain => text.push_str(&plain.to_string()),
    }
}
