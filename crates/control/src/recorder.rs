//! Events: written by one task, so that no machine waits for them; repetitions are counted.

use std::collections::HashMap;

use ferrovirt_api::text::plain;
use ferrovirt_plan::decide;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use tokio::sync::mpsc::{Sender, channel};

/// Who says it; upstream's name.
const COMPONENT: &str = "virtualmachine-controller";
/// Most characters of a message, as the API allows.
const LONGEST: usize = 1000;
/// Repetitions that are remembered. When there are more, counting begins again: that only splits a count.
const REMEMBERED: usize = 4096;

/// Events that wait to be written. When there are more, the rest is dropped.
const WAITING: usize = 1024;
/// After this many events of one object and reason that say something else each time, further ones are one event, as
/// upstream's recorders do it.
const SIMILAR: usize = 10;

/// Takes events; clones share the task.
#[derive(Clone)]
pub(crate) struct Recorder(Sender<(ObjectReference, decide::Event)>);

impl Recorder {
    /// Tells the people who watch an object. Never waits.
    pub(crate) fn tell(&self, about: ObjectReference, event: decide::Event) {
        // The task ends only with the controllers. An event is a courtesy: nothing depends on it.
        if let Err(error) = self.0.try_send((about, event)) {
            tracing::debug!("an event was not written: {error}");
        }
    }
}

/// What makes two events the same.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Same {
    uid: Option<String>,
    warning: bool,
    reason: &'static str,
    message: String,
}

/// The recorder, and the task that has to run for it.
pub(crate) fn recorder(client: Client) -> (Recorder, impl Future<Output = ()> + Send) {
    let (sender, mut events) = channel::<(ObjectReference, decide::Event)>(WAITING);
    let task = async move {
        let mut seen = Seen::default();
        while let Some((about, mut event)) = events.recv().await {
            let same = seen.place(about.uid.clone(), &mut event);
            let known = seen.0.get(&same).cloned();
            match write(&client, &about, &event, known).await {
                Ok(entry) => {
                    seen.0.insert(same, entry);
                }
                // An event is a courtesy: nothing waits for it, and the next one says the same.
                Err(error) => tracing::debug!("event {} was not written: {error}", event.reason),
            }
        }
    };
    (Recorder(sender), task)
}

/// Events that were written, with their names and counts.
#[derive(Default)]
struct Seen(HashMap<Same, (String, i32)>);

impl Seen {
    /// The entry that an event belongs to; many that differ in their message alone share one.
    fn place(&mut self, uid: Option<String>, event: &mut decide::Event) -> Same {
        if self.0.len() >= REMEMBERED {
            self.0.clear();
        }
        event.message = plain(&event.message, LONGEST);
        let mut same =
            Same { uid, warning: event.warning, reason: event.reason, message: event.message.clone() };
        let similar = |other: &&Same| {
            other.uid == same.uid && other.warning == same.warning && other.reason == same.reason
        };
        if !self.0.contains_key(&same) && self.0.keys().filter(similar).count() >= SIMILAR {
            same.message = String::new();
            event.message = plain(&format!("(combined from similar events): {}", event.message), LONGEST);
        }
        same
    }
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
        let change =
            serde_json::json!({"count": count, "lastTimestamp": Time(now), "message": event.message});
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_that_differ_each_time_become_one() {
        let mut seen = Seen::default();
        let mut places = std::collections::HashSet::new();
        let tell = |seen: &mut Seen, uid: &str, number: usize| {
            let message = format!("deleting {number}\n");
            let mut event = decide::Event { warning: false, reason: "SuccessfulDelete", message };
            let place = seen.place(Some(uid.to_owned()), &mut event);
            seen.0.insert(place.clone(), (String::new(), 1));
            (place, event.message)
        };
        for number in 0..1000 {
            let (place, message) = tell(&mut seen, "a", number);
            assert!(!message.contains('\n'), "{message:?}");
            assert_eq!(
                message.starts_with("(combined from similar events): "),
                number >= SIMILAR,
                "{message}"
            );
            places.insert(place);
        }
        assert_eq!(places.len(), SIMILAR + 1);
        assert_eq!(tell(&mut seen, "a", 3).1, "deleting 3\\n", "one that is known is counted");
        assert_eq!(tell(&mut seen, "b", 1000).1, "deleting 1000\\n", "others are not concerned");
    }
}
