//! Events: what users learn from `kubectl describe`.

use super::{clock, redacted::Redacted};
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Most events of one object in [`WINDOW`]. A launcher decides how often its guest pauses and resumes: that must fill
/// neither the store nor this process's memory.
const MOST: u32 = 25;
const WINDOW: Duration = Duration::from_secs(300);

/// Ordinary or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As planned.
    Normal,
    /// Somebody should look.
    Warning,
}

/// Tells events about objects as one component.
#[derive(Clone)]
pub struct Recorder {
    client: Client,
    component: &'static str,
    node: String,
    counted: Arc<Mutex<Counted>>,
}

/// Events of each object, and when the first of them was written.
#[derive(Default)]
struct Counted(HashMap<String, (u32, Instant)>);

impl Counted {
    fn may(&mut self, object: &str, now: Instant) -> bool {
        self.0.retain(|_, (_, first)| now.duration_since(*first) < WINDOW);
        let (count, _) = self.0.entry(object.to_owned()).or_insert((0, now));
        *count = count.saturating_add(1);
        *count <= MOST
    }
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("component", &self.component).finish_non_exhaustive()
    }
}

impl Recorder {
    /// `component` is the event's source.
    pub fn new(client: Client, component: &'static str, node: String) -> Self {
        Self { client, component, node, counted: Arc::default() }
    }

    /// Sends an event without waiting for it. One that cannot be sent is only logged: nothing depends on it. Of an
    /// object that has too many the rest is dropped.
    pub fn tell(&self, about: &ObjectReference, kind: Kind, reason: &str, message: &Redacted) {
        let object = about.uid.as_deref().unwrap_or_default();
        if !self.counted.lock().unwrap_or_else(PoisonError::into_inner).may(object, Instant::now()) {
            return tracing::debug!(object, reason, "too many events of one object");
        }
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let namespace = about.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let now = clock::micro_time();
        let unique = now.0.as_nanosecond();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = about.name.as_deref().unwrap_or_default();
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{unique:x}{number:x}")),
                namespace: Some(namespace.clone()),
                ..Default::default()
            },
            involved_object: about.clone(),
            type_: Some(format!("{kind:?}")),
            reason: Some(reason.to_owned()),
            message: Some(message.to_string()),
            source: Some(EventSource {
                component: Some(self.component.to_owned()),
                host: Some(self.node.clone()),
            }),
            reporting_component: Some(self.component.to_owned()),
            reporting_instance: Some(self.node.clone()),
            first_timestamp: Some(clock::time()),
            last_timestamp: Some(clock::time()),
            count: Some(1),
            ..Default::default()
        };
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        tokio::spawn(async move {
            if let Err(error) = api.create(&PostParams::default(), &event).await {
                tracing::warn!("event {:?} was not recorded: {error}", event.reason);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_object_does_not_flood_the_store_or_silence_others() {
        let mut written = Counted::default();
        let now = Instant::now();
        assert_eq!((0..1000).filter(|_| written.may("a", now)).count(), 25);
        assert!(written.may("b", now));
        assert!(written.may("a", now + WINDOW));
        assert_eq!(written.0.len(), 1);
    }
}
