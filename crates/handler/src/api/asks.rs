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
    pub(super) fn take(&mut self, asked: Asked) -> Event {
        self.waiting.retain(|_, answer| !answer.is_closed());
        self.last += 1;
        self.waiting.insert(self.last, asked.answer);
        Event::Ask { ticket: self.last, ask: asked.ask }
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
