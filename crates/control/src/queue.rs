//! Which keys are due: a queue without a clock and without locks, owned by one task.
//!
//! A key is at any time waiting, running, or neither. A request for a key that runs is remembered and served afterwards;
//! a request for a key that pauses ends the pause.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

/// First pause after a round that failed; doubled each time.
const FAILURE_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause after failures.
const FAILURE_CAP: Duration = Duration::from_secs(30);
/// First pause after a round that was overtaken. The watch normally wakes the key before.
const CONFLICT_PAUSE: Duration = Duration::from_millis(5);
/// Longest pause after being overtaken.
const CONFLICT_CAP: Duration = Duration::from_secs(1);

/// How a round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Everything was done; look again after the time, if one is given.
    Done(Option<Duration>),
    /// Somebody else wrote first, or the cache lags.
    Overtaken,
    /// The API server refused or could not be reached.
    Failed,
}

pub(crate) struct Queue<K> {
    /// Due keys in order; each once.
    due: VecDeque<K>,
    waiting: HashSet<K>,
    /// Keys that run, and whether they were wished for meanwhile.
    running: HashMap<K, bool>,
    alarms: HashMap<K, Instant>,
    /// Rounds in a row that were not done.
    attempts: HashMap<K, u32>,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self {
            due: VecDeque::new(),
            waiting: HashSet::new(),
            running: HashMap::new(),
            alarms: HashMap::new(),
            attempts: HashMap::new(),
        }
    }
}

impl<K: Clone + Eq + Hash> Queue<K> {
    /// The key is to be looked at as soon as possible.
    pub(crate) fn add(&mut self, key: K) {
        self.alarms.remove(&key);
        if let Some(again) = self.running.get_mut(&key) {
            *again = true;
        } else if self.waiting.insert(key.clone()) {
            self.due.push_back(key);
        }
    }

    /// The next key that is due; it runs until [`Queue::done`].
    pub(crate) fn take(&mut self) -> Option<K> {
        let key = self.due.pop_front()?;
        self.waiting.remove(&key);
        self.running.insert(key.clone(), false);
        Some(key)
    }

    /// A round has ended. `jitter` is a random number from 0 to 1.
    pub(crate) fn done(&mut self, key: &K, end: End, now: Instant, jitter: f64) {
        let again = self.running.remove(key).unwrap_or_default();
        let pause = match end {
            End::Done(pause) => {
                self.attempts.remove(key);
                pause
            }
            End::Overtaken => Some(self.pause(key, CONFLICT_PAUSE, CONFLICT_CAP, jitter)),
            End::Failed => Some(self.pause(key, FAILURE_PAUSE, FAILURE_CAP, jitter)),
        };
        if again {
            self.add(key.clone());
        } else if let Some(pause) = pause {
            self.alarms.insert(key.clone(), now + pause);
        }
    }

    /// From half of the pause to all of it, so that many keys that failed together do not come back together.
    fn pause(&mut self, key: &K, first: Duration, cap: Duration, jitter: f64) -> Duration {
        let attempts = self.attempts.entry(key.clone()).or_default();
        let pause = first.saturating_mul(1_u32.checked_shl(*attempts).unwrap_or(u32::MAX)).min(cap);
        *attempts = attempts.saturating_add(1).min(31);
        pause.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
    }

    /// When the next pause ends.
    pub(crate) fn next_alarm(&self) -> Option<Instant> {
        self.alarms.values().min().copied()
    }

    /// Makes every key due whose pause is over.
    pub(crate) fn wake(&mut self, now: Instant) {
        let over: Vec<K> =
            self.alarms.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
        for key in over {
            self.add(key);
        }
    }
}

/// A random number from 0 to 1, good enough to spread work; from the standard library's seeds.
pub(crate) fn jitter() -> f64 {
    let number = RandomState::new().build_hasher().finish();
    f64::from((number >> 32) as u32) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        // One origin for the test; the clock itself is not read again.
        static ORIGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        *ORIGIN.get_or_init(Instant::now) + Duration::from_millis(millis)
    }

    #[test]
    fn a_key_is_due_once_however_often_it_was_asked_for() {
        let mut queue = Queue::default();
        queue.add('a');
        queue.add('b');
        queue.add('a');
        assert_eq!((queue.take(), queue.take(), queue.take()), (Some('a'), Some('b'), None));
    }

    #[test]
    fn a_key_never_runs_twice_at_a_time() {
        let mut queue = Queue::default();
        queue.add('a');
        assert_eq!(queue.take(), Some('a'));
        queue.add('a');
        assert_eq!(queue.take(), None);
        queue.done(&'a', End::Done(None), at(0), 0.0);
        assert_eq!(queue.take(), Some('a'), "the request was kept");
        queue.done(&'a', End::Done(None), at(0), 0.0);
        assert_eq!(queue.take(), None);
    }

    #[test]
    fn pauses_double_up_to_a_cap_and_end_with_success() {
        let mut queue = Queue::default();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            queue.add('a');
            queue.take();
            queue.done(&'a', End::Failed, at(0), 1.0);
            pauses.push(queue.next_alarm().unwrap().duration_since(at(0)).as_millis());
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
        queue.wake(at(29_999));
        assert_eq!(queue.take(), None);
        queue.wake(at(30_000));
        assert_eq!(queue.take(), Some('a'));
        queue.done(&'a', End::Done(None), at(0), 0.0);
        assert_eq!(queue.next_alarm(), None);
        queue.add('a');
        queue.take();
        queue.done(&'a', End::Overtaken, at(0), 0.0);
        assert_eq!(queue.next_alarm(), Some(at(0) + CONFLICT_PAUSE / 2));
    }

    #[test]
    fn a_request_ends_a_pause() {
        let mut queue = Queue::default();
        queue.add('a');
        queue.take();
        queue.done(&'a', End::Done(Some(Duration::from_secs(60))), at(0), 0.0);
        queue.add('a');
        assert_eq!((queue.take(), queue.next_alarm()), (Some('a'), None));
    }

    #[test]
    fn jitter_is_between_zero_and_one_and_varies() {
        let numbers: Vec<f64> = (0..20).map(|_| jitter()).collect();
        assert!(numbers.iter().all(|n| (0.0..=1.0).contains(n)));
        assert!(numbers.iter().any(|n| *n != numbers[0]));
    }
}
