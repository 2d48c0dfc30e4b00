//! How a launcher behaves on its connection. A guest that broke out of QEMU has the launcher's descriptors: what comes over
//! the connection is its word, and must cost the node no more than a well-behaved launcher does.

use ferrovirt_qemu::protocol::State;
use std::time::Duration;

/// Most messages that make no sense in [`WINDOW`]; a launcher sends some ten short messages in its life.
const MOST_WRONG: u32 = 16;
const WINDOW: Duration = Duration::from_secs(60);
/// Shortest and longest time for which a connection stays closed after nonsense: doubled each time.
const FIRST_CLOSED: Duration = Duration::from_secs(1);
const LAST_CLOSED: Duration = Duration::from_secs(300);

/// What to do with a message that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Log it, and that so many before it were not logged.
    Log {
        /// Messages since the last line.
        suppressed: u64,
    },
    /// Nothing: there was a line within the last minute.
    Ignore,
    /// Too many: close the connection, and do not connect again for a while.
    Close {
        /// For so long.
        pause: Duration,
        /// Messages since the last line.
        suppressed: u64,
    },
}

/// What is remembered of one launcher.
#[derive(Debug, Default)]
pub(in crate::decide) struct Conduct {
    /// Beginning of the window, and wrong messages since.
    window: Option<(Duration, u32)>,
    /// The last line in the log, and wrong messages since.
    logged: Option<Duration>,
    suppressed: u64,
    /// How often the connection was closed.
    closed: u32,
}

impl Conduct {
    /// Takes note of a message that makes no sense.
    pub(in crate::decide) fn wrong(&mut self, now: Duration) -> Wrong {
        let (since, count) = match self.window {
            Some((since, count)) if now.saturating_sub(since) < WINDOW => (since, count.saturating_add(1)),
            _ => (now, 1),
        };
        self.window = Some((since, count));
        if count > MOST_WRONG {
            self.window = None;
            let pause = FIRST_CLOSED.saturating_mul(1 << self.closed.min(16)).min(LAST_CLOSED);
            self.closed = self.closed.saturating_add(1);
            self.logged = Some(now);
            return Wrong::Close { pause, suppressed: std::mem::take(&mut self.suppressed) };
        }
        if self.logged.is_some_and(|last| now.saturating_sub(last) < WINDOW) {
            self.suppressed = self.suppressed.saturating_add(1);
            return Wrong::Ignore;
        }
        self.logged = Some(now);
        Wrong::Log { suppressed: std::mem::take(&mut self.suppressed) }
    }
}

/// Why a state cannot follow on another; `None` when it can.
pub(in crate::decide) fn out_of_order(before: &State, after: &State) -> Option<&'static str> {
    match (before, after) {
        (State::Ended { .. }, after) if before != after => {
            Some("it says that its guest came back after its end")
        }
        (State::Starting | State::Running | State::Paused | State::ShuttingDown, State::Waiting) => {
            Some("it says that it has no order after it had one")
        }
        (State::Running | State::Paused | State::ShuttingDown, State::Starting) => {
            Some("it says that its guest starts again")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrovirt_qemu::protocol::Ending;

    const START: Duration = Duration::from_secs(1000);

    #[test]
    fn nonsense_is_logged_once_a_minute_and_ends_the_link() {
        let start = START;
        let mut conduct = Conduct::default();
        let mut lines = 0;
        let mut closed = Vec::new();
        let mut now = start;
        // As fast as a socket gives them, for ten minutes; while the link is closed nothing comes.
        while now < start + Duration::from_secs(600) {
            match conduct.wrong(now) {
                Wrong::Ignore => {}
                Wrong::Log { .. } => lines += 1,
                Wrong::Close { pause, .. } => {
                    closed.push(pause.as_secs());
                    now += pause;
                }
            }
            now += Duration::from_millis(1);
        }
        assert!(closed.starts_with(&[1, 2, 4, 8, 16, 32, 64, 128, 256]), "{closed:?}");
        assert!(lines + closed.len() <= 20, "{lines} lines");
    }

    #[test]
    fn what_was_not_logged_is_counted() {
        let start = START;
        let mut conduct = Conduct::default();
        assert_eq!(conduct.wrong(start), Wrong::Log { suppressed: 0 });
        for _ in 0..10 {
            assert_eq!(conduct.wrong(start), Wrong::Ignore);
        }
        assert_eq!(conduct.wrong(start + WINDOW), Wrong::Log { suppressed: 10 });
    }

    #[test]
    fn a_few_wrong_messages_now_and_then_close_nothing() {
        let mut now = START;
        let mut conduct = Conduct::default();
        for _ in 0..1000 {
            assert!(!matches!(conduct.wrong(now), Wrong::Close { .. }));
            now += Duration::from_secs(10);
        }
    }

    #[test]
    fn a_guest_does_not_come_back() {
        let ended = || State::Ended { ending: Ending::Shutdown, message: String::new() };
        for (before, after) in [
            (State::Running, State::Waiting),
            (State::Paused, State::Starting),
            (State::ShuttingDown, State::Waiting),
            (ended(), State::Running),
        ] {
            assert!(out_of_order(&before, &after).is_some(), "{before:?} {after:?}");
        }
        for (before, after) in [
            (State::Waiting, State::Waiting),
            (State::Waiting, State::Running),
            (State::Starting, State::Paused),
            (State::Running, State::Paused),
            (State::Paused, State::ShuttingDown),
            (State::ShuttingDown, ended()),
            (ended(), ended()),
        ] {
            assert_eq!(out_of_order(&before, &after), None, "{before:?} {after:?}");
        }
    }
}
