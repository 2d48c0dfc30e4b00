//! Events: written by one task, so that no machine waits for them; repetitions are counted.

use std::collections::HashMap;

use ferrovirt_plan::decide;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// Who says it; upstream's name.
const COMPONENT: &str = "virtualmachine-controller";
/// Repetitions that are remembered. When there are more, counting begins anew: that only splits a count.
const REMEMBERED: usize = 4096;

/// Takes events; clones share the task.
#[derive(Clone)]
pub(crate) struct Recorder(UnboundedSender<(ObjectReference, decide::Event)>);

impl Recorder {
    /// Tells the people who watch an object. Never waits.
    pub(crate) fn tell(&self, about: ObjectReference, event: decide::Event) {
        // The task ends only with the controllers.
        let _ = self.0.send((about, event));
    }
}

/// What makes two events the same.
#[derive(PartialEq, Eq, Hash)]
struct Same {
    uid: Option<String>,
    warning: bool,
    reason: &'static str,
    message: String,
}

/// The recorder, and the task that has to run for it.
pub(crate) fn recorder(client: Client) -> (Recorder, impl Future<Output = ()> + Send) {
    let (sender, mut events) = unbounded_channel::<(ObjectReference, decide::Event)>();
    let task = async move {
        let mut seen: HashMap<Same, (String, i32)> = HashMap::new();
        while let Some((about, event)) = events.recv().await {
            if seen.len() >= REMEMBERED {
                seen.clear();
            }
            let same = Same {
                uid: about.uid.clone(),
                warning: event.warning,
                reason: event.reason,
                message: event.message.clone(),
            };
            let known = seen.get(&same).cloned();
            match write(&client, &about, &event, known).await {
                Ok(entry) => {
                    seen.insert(same, entry);
                }
                // An event is a courtesy: nothing waits for it, and the next one says the same.
                Err(error) => tracing::debug!("event {} was not written: {error}", event.reason),
            }
        }
    };
    (Recorder(sender), task)
}

/// Counts a known event up, or writes a new one; the event's name and count.
async fn write(
    client: &Client,
    about: &ObjectReference,
    event: &decide::Event,
    known: Option<(String, i32)>,
) -> kube::Result<(String, i32)> {
    let now = Timestamp::now();
    let api: Api<Event> = Api::namespaced(client.clone(), about.namespace.as_deref().unwrap_or("default"));
    if let Some((name, count)) = known {
        let count = count.saturating_add(1);
        let change = serde_json::json!({"count": count, "lastTimestamp": Time(now)});
        match api.patch(&name, &PatchParams::default(), &Patch::Merge(change)).await {
            Ok(_) => return Ok((name, count)),
            // It has expired.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    let name = format!("{}.{:x}", about.name.as_deref().unwrap_or(COMPONENT), now.as_nanosecond());
    let object = Event {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: about.namespace.clone(),
            ..ObjectMeta::default()
        },
        involved_object: about.clone(),
        type_: Some(if event.warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(event.reason.to_owned()),
        message: Some(event.message.clone()),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: None }),
        reporting_component: Some(COMPONENT.to_owned()),
        reporting_instance: Some(String::new()),
        ..Event::default()
    };
    api.create(&PostParams::default(), &object).await?;
    Ok((name, 1))
}
