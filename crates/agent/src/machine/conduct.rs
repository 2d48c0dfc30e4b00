//! How a launcher behaves on its link. A guest that broke out of QEMU has the launcher's descriptors: what comes over the
//! link is its word, and must cost the node no more than a well-behaved launcher does. Pure: the time is an argument.

use ferrovirt_qemu::protocol::State;
use std::time::Duration;
use tokio::time::Instant;

/// Most messages that make no sense in [`WINDOW`], and most bytes and messages of any kind in a second; a launcher sends
/// some ten short messages in its life.
const MOST_WRONG: u32 = 16;
const WINDOW: Duration = Duration::from_secs(60);
/// Bytes that a link takes at once, and further ones in each second.
const BYTES: f64 = 256.0 * 1024.0;
/// Messages that a link takes at once, and further ones in each second.
const MESSAGES: f64 = 100.0;
/// Shortest and longest time for which a link stays closed after nonsense: doubled each time.
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
    /// Too many: close the link, and do not connect again before this time.
    Close {
        /// The time.
        until: Instant,
        /// Messages since the last line.
        suppressed: u64,
    },
}

/// What is remembered of one launcher.
#[derive(Debug, Default)]
pub struct Conduct {
    /// Beginning of the window, and wrong messages since.
    window: Option<(Instant, u32)>,
    /// The last line in the log, and wrong messages since.
    logged: Option<Instant>,
    suppressed: u64,
    /// How often the link was closed.
    closed: u32,
}

impl Conduct {
    /// Takes note of a message that makes no sense.
    pub fn wrong(&mut self, now: Instant) -> Wrong {
        let (since, count) = match self.window {
            Some((since, count)) if now.duration_since(since) < WINDOW => (since, count.saturating_add(1)),
            _ => (now, 1),
        };
        self.window = Some((since, count));
        if count > MOST_WRONG {
            self.window = None;
            let pause = FIRST_CLOSED.saturating_mul(1 << self.closed.min(16)).min(LAST_CLOSED);
            self.closed = self.closed.saturating_add(1);
            self.logged = Some(now);
            return Wrong::Close { until: now + pause, suppressed: std::mem::take(&mut self.suppressed) };
        }
        if self.logged.is_some_and(|last| now.duration_since(last) < WINDOW) {
            self.suppressed = self.suppressed.saturating_add(1);
            return Wrong::Ignore;
        }
        self.logged = Some(now);
        Wrong::Log { suppressed: std::mem::take(&mut self.suppressed) }
    }
}

/// Why a state cannot follow on another; `None` when it can.
pub fn out_of_order(before: &State, after: &State) -> Option<&'static str> {
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

/// Bytes and messages of one link: what is over the limit waits in the socket, and its sender with it.
#[derive(Debug)]
pub struct Meter {
    at: Instant,
    bytes: f64,
    messages: f64,
}

impl Meter {
    /// With everything that may come at once still ahead.
    pub fn new(now: Instant) -> Self {
        Self { at: now, bytes: BYTES, messages: MESSAGES }
    }

    /// Takes note of a message of this many bytes; the time before which no other one is to be read.
    pub fn took(&mut self, bytes: usize, now: Instant) -> Instant {
        let passed = now.duration_since(self.at).as_secs_f64();
        self.at = now;
        // A message is far below what a float holds exactly.
        let bytes = u32::try_from(bytes).map_or(BYTES, f64::from);
        self.bytes = (self.bytes + passed * BYTES).min(BYTES) - bytes;
        self.messages = (self.messages + passed * MESSAGES).min(MESSAGES) - 1.0;
        let wait = (-self.bytes / BYTES).max(-self.messages / MESSAGES).max(0.0);
        now + Duration::from_secs_f64(wait.min(60.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrovirt_qemu::protocol::Ending;

    #[test]
    fn nonsense_is_logged_once_a_minute_and_ends_the_link() {
        let start = Instant::now();
        let mut conduct = Conduct::default();
        let mut lines = 0;
        let mut closed = Vec::new();
        let mut now = start;
        // As fast as a socket gives them, for ten minutes; while the link is closed nothing comes.
        while now < start + Duration::from_secs(600) {
            match conduct.wrong(now) {
                Wrong::Ignore => {}
                Wrong::Log { .. } => lines += 1,
                Wrong::Close { until, .. } => {
                    closed.push((until - now).as_secs());
                    now = until;
                }
            }
            now += Duration::from_millis(1);
        }
        assert!(closed.starts_with(&[1, 2, 4, 8, 16, 32, 64, 128, 256]), "{closed:?}");
        assert!(lines + closed.len() <= 20, "{lines} lines");
    }

    #[test]
    fn what_was_not_logged_is_counted() {
        let start = Instant::now();
        let mut conduct = Conduct::default();
        assert_eq!(conduct.wrong(start), Wrong::Log { suppressed: 0 });
        for _ in 0..10 {
            assert_eq!(conduct.wrong(start), Wrong::Ignore);
        }
        assert_eq!(conduct.wrong(start + WINDOW), Wrong::Log { suppressed: 10 });
    }

    #[test]
    fn a_few_wrong_messages_now_and_then_close_nothing() {
        let mut now = Instant::now();
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

    #[test]
    fn a_link_takes_a_bounded_number_of_bytes_and_messages_a_second() {
        let start = Instant::now();
        for size in [10, 128 * 1024] {
            let mut meter = Meter::new(start);
            let mut now = start;
            let mut count = 0_u32;
            while now < start + Duration::from_secs(10) {
                count += 1;
                now = meter.took(size, now).max(now + Duration::from_micros(10));
            }
            let bytes = f64::from(count) * size as f64;
            assert!(f64::from(count) <= 11.5 * MESSAGES && bytes <= 11.5 * BYTES, "{count} of {size}");
        }
        // What a launcher sends in its life never waits.
        let mut meter = Meter::new(start);
        assert!((0..50).all(|_| meter.took(500, start) == start));
    }
}
