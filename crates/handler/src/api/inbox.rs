//! What a place's task hears. It may be busy with the API server: what a launcher says meanwhile is bounded.

use super::asks::Asked;
use crate::{machine::serve::Refusal, net::talk::Facts};
use ferrovirt_api::kubevirt::VirtualMachineInstance;
use ferrovirt_plan::decide::place::Ask;
use k8s_openapi::api::core::v1::Pod;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{Notify, oneshot};

/// Most messages of a launcher that wait; a well-behaved one sends some ten in its life.
const MOST_SAID: usize = 64;
/// Most requests of people that wait.
const MOST_ASKED: usize = 64;

/// By the part `net`.
#[derive(Debug)]
pub(super) enum FromNet {
    /// A launcher has connected; its user.
    Linked { link: u64, user: u32 },
    /// The connection has ended. `left`: by the launcher.
    Ended { link: u64, left: bool },
    /// The launcher says something.
    Said { link: u64, bytes: Vec<u8> },
    /// The network is made.
    Made(Facts),
    /// It is not.
    NotMade(String),
    /// `net` is gone.
    Lost,
    /// The place is gone.
    Gone,
}

/// News for a place's task.
#[derive(Debug)]
pub(super) enum News {
    Net(FromNet),
    /// The pod as a watch shows it, or that there is none.
    Pod(Option<Arc<Pod>>),
    Machine(Arc<VirtualMachineInstance>),
    /// Somebody asks for something of the guest.
    Ask(Asked),
}

#[derive(Debug, Default)]
struct Waiting {
    net: VecDeque<FromNet>,
    /// How many of these are words of the launcher.
    said: usize,
    pod: Option<Option<Arc<Pod>>>,
    machine: Option<Arc<VirtualMachineInstance>>,
    asked: VecDeque<Asked>,
    /// Nobody hears any more.
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

/// One end, to tell.
#[derive(Clone, Debug)]
pub(super) struct Sender(Arc<Shared>);

/// The other end.
#[derive(Debug)]
pub(super) struct Receiver(Arc<Shared>);

pub(super) fn inbox() -> (Sender, Receiver) {
    let shared = Arc::new(Shared::default());
    (Sender(shared.clone()), Receiver(shared))
}

impl Sender {
    /// Asks for something; the answer. Where there is no place any more, none comes.
    pub(super) fn ask(&self, ask: Ask) -> oneshot::Receiver<Result<(), Refusal>> {
        let (answer, answered) = oneshot::channel();
        self.send(News::Ask(Asked { ask, answer }));
        answered
    }

    /// Never waits. Of what a launcher says too fast the oldest is lost.
    pub(super) fn send(&self, news: News) {
        let mut waiting = self.0.waiting();
        match news {
            News::Pod(pod) => waiting.pod = Some(pod),
            News::Machine(machine) => waiting.machine = Some(machine),
            News::Ask(asked) => waiting.ask(asked),
            News::Net(said) => {
                if matches!(said, FromNet::Said { .. }) {
                    waiting.said = waiting.said.saturating_add(1);
                }
                waiting.net.push_back(said);
                if waiting.said > MOST_SAID
                    && let Some(oldest) =
                        waiting.net.iter().position(|said| matches!(said, FromNet::Said { .. }))
                {
                    waiting.net.remove(oldest);
                    waiting.said = waiting.said.saturating_sub(1);
                }
            }
        }
        drop(waiting);
        self.0.news.notify_one();
    }
}

impl Waiting {
    fn ask(&mut self, asked: Asked) {
        // Who has gone does not wait.
        self.asked.retain(|asked| !asked.answer.is_closed());
        let refusal = match self.closed {
            true => Refusal::NotRunning,
            false if self.asked.len() >= MOST_ASKED => Refusal::Busy,
            false => return self.asked.push_back(asked),
        };
        drop(asked.answer.send(Err(refusal)));
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting();
        waiting.closed = true;
        // Who asked learns it by the end.
        waiting.asked.clear();
    }
}

impl Receiver {
    /// The next news. Safe to cancel.
    pub(super) async fn recv(&mut self) -> News {
        loop {
            if let Some(news) = self.next() {
                return news;
            }
            self.0.news.notified().await;
        }
    }

    fn next(&mut self) -> Option<News> {
        let mut waiting = self.0.waiting();
        // What the pod is comes before what its launcher says.
        if let Some(pod) = waiting.pod.take() {
            return Some(News::Pod(pod));
        }
        if let Some(machine) = waiting.machine.take() {
            return Some(News::Machine(machine));
        }
        let Some(said) = waiting.net.pop_front() else {
            // Requests come last: they are about what is known.
            return waiting.asked.pop_front().map(News::Ask);
        };
        if matches!(said, FromNet::Said { .. }) {
            waiting.said = waiting.said.saturating_sub(1);
        }
        Some(News::Net(said))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_are_bounded_and_nobody_waits_for_a_place_that_has_gone() {
        let (sender, mut receiver) = inbox();
        let switch = || sender.ask(Ask::Switch { pause: true });
        drop(switch());
        let waiting: Vec<_> = (0..MOST_ASKED).map(|_| switch()).collect();
        assert_eq!(switch().await.unwrap(), Err(Refusal::Busy));
        sender.send(News::Net(FromNet::Lost));
        assert!(matches!(receiver.recv().await, News::Net(FromNet::Lost)), "what is known comes first");
        assert!(matches!(receiver.recv().await, News::Ask(_)));
        drop(receiver);
        for answer in waiting {
            assert!(answer.await.is_err());
        }
        assert_eq!(switch().await.unwrap(), Err(Refusal::NotRunning));
    }

    #[tokio::test]
    async fn what_a_launcher_says_is_bounded_and_everything_else_is_kept() {
        let (sender, mut receiver) = inbox();
        for number in 0..1000_u64 {
            sender.send(News::Pod(None));
            sender.send(News::Net(FromNet::Said { link: number, bytes: Vec::new() }));
        }
        sender.send(News::Net(FromNet::Gone));
        assert!(matches!(receiver.recv().await, News::Pod(None)));
        let mut said = Vec::new();
        while let News::Net(FromNet::Said { link, .. }) = receiver.recv().await {
            said.push(link);
        }
        // What ended the loop was the end of the place.
        assert_eq!((said.len(), said.last()), (MOST_SAID, Some(&999)));
        let task = tokio::spawn(async move { matches!(receiver.recv().await, News::Net(FromNet::Lost)) });
        tokio::task::yield_now().await;
        sender.send(News::Net(FromNet::Lost));
        assert!(task.await.unwrap());
    }
}
