//! What people ask a place's task for, and who waits for the answer.

use crate::machine::{redacted::Redacted, serve::Refusal};
use ferrovirt_plan::decide::place::{Answer, Ask, Event};
use std::collections::HashMap;
use tokio::sync::oneshot;

/// A request, and where its answer goes.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) ask: Ask,
    pub(super) answer: oneshot::Sender<Result<(), Refusal>>,
}

/// Requests whose answer is awaited.
#[derive(Debug, Default)]
pub(super) struct Asks {
    last: u64,
    waiting: HashMap<u64, oneshot::Sender<Result<(), Refusal>>>,
}

impl Asks {
    /// A request, unless who asked was answered already because it has waited here too long: such a one is not carried out.
    pub(super) fn take(&mut self, asked: Asked) -> Option<Event> {
        if asked.answer.is_closed() {
            return None;
        }
        self.last += 1;
        self.waiting.insert(self.last, asked.answer);
        Some(Event::Ask { ticket: self.last, ask: asked.ask })
    }

    /// One of those who do not wait any more, once.
    pub(super) fn left(&mut self) -> Option<Event> {
        let ticket = *self.waiting.iter().find(|(_, answer)| answer.is_closed())?.0;
        self.waiting.remove(&ticket);
        Some(Event::Left { ticket })
    }

    pub(super) fn answer(&mut self, ticket: u64, answer: Answer) {
        let Some(waiting) = self.waiting.remove(&ticket) else { return };
        let answer = match answer {
            Answer::Done => Ok(()),
            Answer::NotRunning => Err(Refusal::NotRunning),
            Answer::Silent => Err(Refusal::Silent),
            Answer::Refused(message) => Err(Refusal::Launcher(Redacted::foreign(&message, &[]))),
        };
        // Who asked may have gone.
        drop(waiting.send(answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_done_for_who_has_gone() {
        let mut asks = Asks::default();
        let asked = || {
            let (answer, awaited) = oneshot::channel();
            (Asked { ask: Ask::Switch { pause: true }, answer }, awaited)
        };
        let (first, awaited) = asked();
        drop(awaited);
        assert_eq!(asks.take(first), None, "it was answered before its turn came");
        let (second, awaited) = asked();
        assert_eq!(asks.take(second), Some(Event::Ask { ticket: 1, ask: Ask::Switch { pause: true } }));
        assert_eq!(asks.left(), None);
        drop(awaited);
        assert_eq!(asks.left(), Some(Event::Left { ticket: 1 }));
        assert_eq!(asks.left(), None, "that is said once");
    }
}
