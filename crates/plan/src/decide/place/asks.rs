//! What people ask of a guest that is served: to stop or to run its vCPUs, or for a console.

use super::{Action, Answer, Place, Stage};
use crate::decide::life::switches::{Refused, Switches};
use ferrovirt_qemu::protocol::{Console, Request, State};
use std::collections::VecDeque;

/// Most consoles whose refusal is recognized: a launcher does not say when it has connected one.
const MOST_CONSOLES: usize = 16;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The vCPUs.
    Switch {
        /// Stop, rather than run.
        pause: bool,
    },
    /// That the launcher connects a console.
    Console {
        /// On this connection: somebody waits for the launcher of that one.
        link: u64,
        /// The name of the socket where that is.
        socket: String,
        /// Which console.
        console: Console,
    },
}

/// Requests that may have an answer.
#[derive(Debug, Default)]
pub(super) struct Asks {
    switches: Switches,
    /// Ticket and socket.
    consoles: VecDeque<(u64, String)>,
}

impl Asks {
    /// Whose request a refusal is about; an earlier launcher does not name a console.
    pub(super) fn refused(&mut self, console: Option<&str>) -> Refused {
        let at = match console {
            Some(socket) => self.consoles.iter().position(|(_, asked)| asked == socket),
            None => match self.switches.refused() {
                Refused::Nobodys => Some(0),
                known => return known,
            },
        };
        let console = at.and_then(|at| self.consoles.remove(at));
        console.map_or(Refused::Nobodys, |(ticket, _)| Refused::Of(ticket))
    }

    /// The vCPUs have stopped, or run again: whose requests those were.
    pub(super) fn done(&mut self, paused: bool) -> impl Iterator<Item = u64> + use<> {
        self.switches.done(paused)
    }

    /// Who asked has gone. Of a console the launcher may still say that it refuses it: that one is known by its name.
    pub(super) fn leave(&mut self, ticket: u64) {
        self.switches.leave(ticket);
    }

    /// With the connection everything goes that was asked for on it.
    pub(super) fn take(&mut self) -> impl Iterator<Item = u64> + use<> {
        let consoles = std::mem::take(&mut self.consoles);
        self.switches.take().chain(consoles.into_iter().map(|(ticket, _)| ticket))
    }
}

impl Place {
    /// The connection of a launcher whose guest is served to people: its pod is what was accepted, and the guest has begun and
    /// not ended.
    pub fn serves(&self) -> Option<u64> {
        let begun = !matches!(self.guest, State::Waiting | State::Ended { .. });
        self.link.filter(|_| self.stage == Stage::Serving && begun)
    }

    pub(super) fn ask(&mut self, ticket: u64, ask: Ask, out: &mut Vec<Action>) {
        let serves = self.serves();
        let request = match ask {
            Ask::Switch { pause } => {
                let link = serves.filter(|_| matches!(self.guest, State::Running | State::Paused));
                let request = if pause { Request::Pause } else { Request::Unpause };
                match self.asks.switches.ask(ticket, pause, link.is_some()) {
                    Some(answer) => Err(answer),
                    None => link.map(|link| (link, request)).ok_or(Answer::NotRunning),
                }
            }
            Ask::Console { link, socket, console } if serves == Some(link) => {
                let consoles = &mut self.asks.consoles;
                if consoles.len() >= MOST_CONSOLES {
                    consoles.pop_front();
                }
                consoles.push_back((ticket, socket.clone()));
                Ok((link, Request::Console { socket, console }))
            }
            Ask::Console { .. } => Err(Answer::NotRunning),
        };
        out.push(match request {
            Ok((link, request)) => Action::Request { link, request },
            Err(answer) => Action::Answer { ticket, answer },
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        Event, step,
        tests::{misbehaves, ms, play, running, says},
    };
    use super::*;
    use ferrovirt_qemu::protocol;

    fn ask(ticket: u64, ask: Ask) -> Event {
        Event::Ask { ticket, ask }
    }

    fn switch(ticket: u64, pause: bool) -> Event {
        ask(ticket, Ask::Switch { pause })
    }

    fn console(ticket: u64, link: u64) -> Event {
        let socket = format!("console-{ticket}");
        ask(ticket, Ask::Console { link, socket, console: Console::Vnc })
    }

    fn answer(ticket: u64, answer: Answer) -> Action {
        Action::Answer { ticket, answer }
    }

    fn request(request: Request) -> Vec<Action> {
        vec![Action::Request { link: 1, request }]
    }

    fn connect(ticket: u64) -> Vec<Action> {
        request(Request::Console { socket: format!("console-{ticket}"), console: Console::Vnc })
    }

    fn refuses(console: Option<&str>) -> Event {
        let console = console.map(str::to_owned);
        Event::Said(1, protocol::Event::Refused { message: "no".to_owned(), console })
    }

    fn no() -> Answer {
        Answer::Refused("no".to_owned())
    }

    #[test]
    fn vcpus_stop_and_run_when_the_launcher_says_so() {
        let (runs, resumed) = (|paused| Action::Runs { paused }, Action::Tell(super::super::Notice::Resumed));
        let most = u64::try_from(crate::decide::life::switches::MOST_SWITCHES).unwrap();
        play(Place::default(), [(0, switch(1, true), vec![answer(1, Answer::NotRunning)])]);
        let place = play(
            running(),
            [
                (500, switch(1, true), request(Request::Pause)),
                (510, switch(2, false), request(Request::Unpause)),
                (520, says(1, State::Paused), vec![runs(true), answer(1, Answer::Done)]),
                (530, says(1, State::Running), vec![runs(false), resumed, answer(2, Answer::Done)]),
                (540, switch(3, true), request(Request::Pause)),
                (550, refuses(None), vec![answer(3, no())]),
                (560, refuses(None), vec![misbehaves("it refuses what nobody asked for: no")]),
            ],
        );
        let rows = (0..most).map(|ticket| (600, switch(10 + ticket, true), request(Request::Pause)));
        let place = play(play(place, rows), [(600, switch(9, true), vec![answer(9, Answer::Silent)])]);
        let (_, actions) = step(place, Event::Ended { link: 1, left: true }, ms(700));
        let all: Vec<_> = (0..most).map(|ticket| answer(10 + ticket, Answer::NotRunning)).collect();
        assert_eq!(actions, all, "nobody waits for a launcher that has gone");
    }

    #[test]
    fn one_stop_answers_all_who_wait_for_it() {
        let runs = |paused| Action::Runs { paused };
        let resumed = Action::Tell(super::super::Notice::Resumed);
        let nobodys = || vec![misbehaves("it refuses what nobody asked for: no")];
        play(
            running(),
            [
                (500, switch(1, true), request(Request::Pause)),
                (500, switch(2, true), request(Request::Pause)),
                (
                    510,
                    says(1, State::Paused),
                    vec![runs(true), answer(1, Answer::Done), answer(2, Answer::Done)],
                ),
                // The second one came later, and the launcher refuses it: that is nobody's fault.
                (520, refuses(None), vec![]),
                (520, refuses(None), nobodys()),
                (530, switch(3, false), request(Request::Unpause)),
                (540, says(1, State::Running), vec![runs(false), resumed, answer(3, Answer::Done)]),
            ],
        );
        // Who has gone gets nobody else's answer.
        play(
            running(),
            [
                (600, switch(4, true), request(Request::Pause)),
                (610, Event::Left { ticket: 4 }, vec![]),
                (620, switch(5, true), request(Request::Pause)),
                (630, refuses(None), vec![answer(5, no())]),
                (640, refuses(None), vec![]),
                (650, refuses(None), nobodys()),
            ],
        );
    }

    #[test]
    fn a_console_that_is_refused_is_no_misconduct() {
        let place = play(
            running(),
            [
                (500, console(1, 2), vec![answer(1, Answer::NotRunning)]),
                (500, console(2, 1), connect(2)),
                (500, console(3, 1), connect(3)),
                (500, switch(4, true), request(Request::Pause)),
                (510, refuses(Some("console-3")), vec![answer(3, no())]),
                (510, refuses(Some("console-3")), vec![misbehaves("it refuses what nobody asked for: no")]),
                // An earlier launcher names none.
                (510, refuses(None), vec![answer(4, no())]),
                (510, refuses(None), vec![answer(2, no())]),
                (520, console(5, 1), connect(5)),
                (530, Event::Lost, vec![answer(5, Answer::NotRunning)]),
                (540, console(6, 1), vec![answer(6, Answer::NotRunning)]),
            ],
        );
        assert_eq!(place.serves(), None);
        let ended = State::Ended { ending: protocol::Ending::Shutdown, message: String::new() };
        let (place, _) = step(running(), says(1, ended), ms(500));
        assert_eq!((running().serves(), place.serves()), (Some(1), None));
        // Those that were connected are not answered: of them few are kept.
        let place = (1..100).fold(running(), |place, ticket| step(place, console(ticket, 1), ms(500)).0);
        assert_eq!(place.asks.consoles.len(), MOST_CONSOLES);
        play(place, [(510, refuses(Some("console-99")), vec![answer(99, no())])]);
    }

    #[test]
    fn a_pod_that_has_changed_is_served_to_nobody() {
        let (place, _) = step(running(), Event::Pod(Some("field".to_owned())), ms(500));
        assert_eq!(place.serves(), None);
        play(place, [(510, switch(1, true), vec![answer(1, Answer::NotRunning)])]);
    }
}
