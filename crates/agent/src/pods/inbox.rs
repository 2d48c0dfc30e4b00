//! The news for a pod's task, however often they come and however slowly it listens: of a pod and of a machine the newest is kept,
//! and requests are bounded in number. A task that is busy holds up nobody and no memory.

use crate::redacted::Redacted;
use ferrovirt_api::kubevirt::VirtualMachineInstance;
pub use ferrovirt_handler::machine::serve::Refusal;
use k8s_openapi::api::core::v1::Pod;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{Notify, oneshot};

/// Most requests to pause or run that wait.
const MOST_SWITCHES: usize = 64;

/// One piece of news for a pod's task.
#[derive(Debug)]
pub(super) enum Message {
    /// The pod changed.
    Pod(Arc<Pod>),
    /// The pod is gone from the API.
    Gone,
    /// The machine changed.
    Machine(Arc<VirtualMachineInstance>),
    /// The pod has to go, for this reason.
    Evict(Redacted),
    /// Stop or run the vCPUs.
    Switch { pause: bool, answer: oneshot::Sender<Result<(), Refusal>> },
}

type Switch = (bool, oneshot::Sender<Result<(), Refusal>>);

#[derive(Debug, Default)]
struct Waiting {
    pod: Option<Arc<Pod>>,
    machine: Option<Arc<VirtualMachineInstance>>,
    switches: VecDeque<Switch>,
    evict: Option<Redacted>,
    gone: bool,
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    news: Notify,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells a pod's task.
#[derive(Clone, Debug)]
pub(super) struct Sender(Arc<Shared>);

/// The task's side; when it goes, telling is an error.
#[derive(Debug)]
pub(super) struct Receiver(Arc<Shared>);

/// The task has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ended;

/// Both sides.
pub(super) fn inbox() -> (Sender, Receiver) {
    let shared = Arc::new(Shared::default());
    (Sender(shared.clone()), Receiver(shared))
}

impl Sender {
    /// Never waits.
    pub(super) fn send(&self, message: Message) -> Result<(), Ended> {
        let mut waiting = self.0.waiting();
        if waiting.closed {
            return Err(Ended);
        }
        match message {
            Message::Pod(pod) => waiting.pod = Some(pod),
            Message::Machine(machine) => waiting.machine = Some(machine),
            Message::Gone => waiting.gone = true,
            Message::Evict(why) => waiting.evict = Some(why),
            Message::Switch { pause, answer } if waiting.switches.len() < MOST_SWITCHES => {
                waiting.switches.push_back((pause, answer));
            }
            Message::Switch { answer, .. } => {
                // Nobody may be waiting any more.
                let _gone = answer.send(Err(Refusal::Busy));
            }
        }
        drop(waiting);
        self.0.news.notify_one();
        Ok(())
    }
}

impl Receiver {
    /// The next message. Safe to cancel.
    pub(super) async fn recv(&mut self) -> Message {
        loop {
            if let Some(message) = self.next() {
                return message;
            }
            self.0.news.notified().await;
        }
    }

    fn next(&mut self) -> Option<Message> {
        let mut waiting = self.0.waiting();
        if let Some(pod) = waiting.pod.take() {
            return Some(Message::Pod(pod));
        }
        if let Some(machine) = waiting.machine.take() {
            return Some(Message::Machine(machine));
        }
        if let Some(why) = waiting.evict.take() {
            return Some(Message::Evict(why));
        }
        if let Some((pause, answer)) = waiting.switches.pop_front() {
            return Some(Message::Switch { pause, answer });
        }
        std::mem::take(&mut waiting.gone).then_some(Message::Gone)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting();
        waiting.closed = true;
        // Anyone who waits for an answer learns that there will be none.
        waiting.switches.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> Message {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.to_owned());
        Message::Pod(Arc::new(pod))
    }

    #[tokio::test]
    async fn the_newest_of_a_pod_is_kept_and_requests_are_bounded() {
        let (sender, mut receiver) = inbox();
        let mut answers = Vec::new();
        for number in 0..1000 {
            sender.send(pod(&number.to_string())).unwrap();
            let (answer, answered) = oneshot::channel();
            sender.send(Message::Switch { pause: true, answer }).unwrap();
            answers.push(answered);
        }
        sender.send(Message::Gone).unwrap();
        let Message::Pod(last) = receiver.recv().await else { panic!("no pod") };
        assert_eq!(last.metadata.name.as_deref(), Some("999"));
        let mut switches = 0;
        while let Message::Switch { .. } = receiver.recv().await {
            switches += 1;
        }
        assert_eq!(switches, MOST_SWITCHES, "and what ended the loop was the end of the pod");
        assert_eq!(answers.pop().unwrap().await.unwrap(), Err(Refusal::Busy));
        drop(receiver);
        assert_eq!(sender.send(pod("x")), Err(Ended));
    }

    #[tokio::test]
    async fn news_wakes_all_who_wait() {
        let (sender, mut receiver) = inbox();
        let task = tokio::spawn(async move { matches!(receiver.recv().await, Message::Gone) });
        tokio::task::yield_now().await;
        sender.send(Message::Gone).unwrap();
        assert!(task.await.unwrap());
    }
}
