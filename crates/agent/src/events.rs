//! Events: what users learn from `kubectl describe`.

use crate::clock;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};
use std::sync::atomic::{AtomicU64, Ordering};

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
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("component", &self.component).finish_non_exhaustive()
    }
}

impl Recorder {
    /// `component` is the event's source.
    pub fn new(client: Client, component: &'static str, node: String) -> Self {
        Self { client, component, node }
    }

    /// Sends an event without waiting for it. One that cannot be sent is only logged: nothing depends on it.
    pub fn tell(&self, about: &ObjectReference, kind: Kind, reason: &str, message: &str) {
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
            message: Some(message.chars().take(1024).collect()),
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
