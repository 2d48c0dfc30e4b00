//! The conversation with the launcher of a pod that is still what was started.

use super::{
    accept::{self, Look},
    direct,
    worker::{Worker, at},
};
use crate::machine::link::Link;
use ferrovirt_plan::decide::life::{Check, Event};
use ferrovirt_qemu::{order::Tap, protocol::Request};
use ferrovirt_sys::netns;
use std::time::Duration;
use tokio::{task::spawn_blocking, time::timeout};

/// How long the API server may take to say what a pod is now. Processes that end and deadlines do not wait for it.
const READ: Duration = Duration::from_secs(5);

impl Worker {
    /// Asks the API server whether the pod is still what was accepted.
    pub(super) async fn check(&mut self, kill_at: Option<Duration>) -> Event {
        let (Some(container), Some(record)) = (&self.container, &self.record) else {
            return Event::Checked(Check::Interrupted);
        };
        let kill_at = kill_at.map(|time| self.instant(time));
        let look = tokio::select! {
            look = timeout(READ, accept::look(&self.shared, &self.pod, record)) => look,
            // Both are seen again by the caller.
            () = container.process.over() => return Event::Checked(Check::Interrupted),
            () = at(kill_at) => return Event::Checked(Check::Interrupted),
        };
        Event::Checked(match look {
            Ok(Look::Same { deleting }) => Check::Same { deleting },
            Ok(Look::Differs(message)) => Check::Differs(message),
            Ok(Look::Unknown(why)) => Check::Unknown(why),
            Err(_) => Check::Unknown("the API server does not answer".to_owned()),
        })
    }

    pub(super) fn connect(&mut self) -> Event {
        let sockets = self.shared.pod_directory(&self.uid).join("sockets");
        let link = Link::connect(&sockets).ok();
        let connected = link.is_some();
        if let Some(container) = &mut self.container {
            container.link = link;
        }
        Event::Connected(connected)
    }

    pub(super) fn disconnect(&mut self) {
        if let Some(container) = &mut self.container {
            container.link = None;
        }
    }

    /// Sends one request; whether it was sent.
    pub(super) async fn ask(&self, request: &Request) -> bool {
        match self.container.as_ref().and_then(|container| container.link.as_ref()) {
            Some(link) => link.send(request).await.is_ok(),
            None => false,
        }
    }

    /// Sends descriptors and order.
    pub(super) async fn order(&mut self) -> Event {
        let (Some(container), Some(record)) = (&mut self.container, &self.record) else {
            return Event::Ordered(false);
        };
        let descriptors = std::mem::take(&mut container.descriptors);
        let (Some(link), Some(order)) = (&container.link, &record.order) else {
            return Event::Ordered(false);
        };
        let sent = async {
            link.give(&record.seeds).await?;
            link.pass(&descriptors).await?;
            link.send(&Request::Start { order: Box::new(order.clone()) }).await
        };
        let sent = sent.await;
        if let Err(error) = &sent {
            tracing::warn!(pod = self.name(), "sending the order: {error}");
        }
        Event::Ordered(sent.is_ok())
    }

    /// Opens the descriptors of an order that an earlier agent did not send, or not whole.
    pub(super) async fn open_network(&mut self) -> Event {
        let Some(record) = &self.record else { return Event::Opened(false) };
        let path = self.shared.netns(&self.uid);
        let user = record.user;
        let nics = record.order.iter().flat_map(|order| &order.nics);
        let nics: Vec<_> =
            nics.map(|nic| (nic.name.clone(), nic.queues, matches!(nic.tap, Tap::Passed))).collect();
        let opened = spawn_blocking(move || {
            let namespace = netns::open(&path).map_err(|error| error.to_string())?;
            direct::descriptors(&namespace, &nics, user).map_err(|error| error.to_string())
        });
        match opened.await.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(descriptors) => {
                if let Some(container) = &mut self.container {
                    container.descriptors = descriptors;
                }
                Event::Opened(true)
            }
            Err(error) => {
                tracing::error!(pod = self.name(), "opening the guest's network again: {error}");
                Event::Opened(false)
            }
        }
    }
}
