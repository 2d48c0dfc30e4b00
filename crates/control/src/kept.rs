//! What the API server keeps of launcher pods, by what it has answered.
//!
//! An answer that a pod lost its user namespace or its image volumes holds for the instance that it was given about, and for a
//! while: another pod is asked about again. So one odd answer, of a webhook or of an API server that is just being replaced,
//! takes user namespaces from no other machine.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use std::time::Duration;

use ferrovirt_plan::decide::Dropped;
use k8s_openapi::jiff::Timestamp;

/// How long an answer about an instance's pod holds. Its next pod, or the same one that was refused for another reason, is
/// asked about again then.
const HOLDS: Duration = Duration::from_secs(60);

/// What the last answers were, and to whom they were given.
#[derive(Debug, Default)]
pub(crate) struct Kept(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    images: Option<bool>,
    users: Option<bool>,
    /// By UID of the instance.
    without: HashMap<String, Without>,
}

/// What an instance's pod has to do without, and when that was found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Without {
    pub(crate) images: bool,
    pub(crate) users: bool,
    since: Timestamp,
}

impl Kept {
    /// With our own API server, which keeps image volumes, nobody has to ask.
    pub(crate) fn new(images: bool) -> Self {
        Self(Mutex::new(State { images: images.then_some(true), ..State::default() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here is left half done by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the last pod with image volumes was made with them; nothing where there was none yet.
    pub(crate) fn images(&self) -> Option<bool> {
        self.state().images
    }

    /// Whether the last pod with a user namespace was made with it; nothing where there was none yet.
    pub(crate) fn users(&self) -> Option<bool> {
        self.state().users
    }

    /// What the pod of an instance has to do without.
    pub(crate) fn without(&self, uid: &str, now: Timestamp) -> Without {
        let state = self.state();
        state.without.get(uid).copied().filter(|found| holds(found, now)).unwrap_or_default()
    }

    /// A pod with image volumes, or a user namespace, has them; whether that is another answer than before.
    pub(crate) fn has(&self, images: bool, users: bool) -> bool {
        let state = &mut *self.state();
        let before = (state.images, state.users);
        if images {
            state.images = Some(true);
        }
        if users {
            state.users = Some(true);
        }
        before != (state.images, state.users)
    }

    /// The pod of an instance was made, or would have been, without something; whether that is another answer than before.
    pub(crate) fn lacks(&self, uid: &str, dropped: &Dropped, now: Timestamp) -> bool {
        let state = &mut *self.state();
        state.without.retain(|_, found| holds(found, now));
        let last = match dropped {
            Dropped::Images => &mut state.images,
            Dropped::UserNamespace => &mut state.users,
            Dropped::Others(_) => return false,
        };
        let news = *last != Some(false);
        *last = Some(false);
        let found = state.without.entry(uid.to_owned()).or_default();
        found.since = now;
        match dropped {
            Dropped::Images => found.images = true,
            _ => found.users = true,
        }
        news
    }
}

/// Also after the clock was set back.
fn holds(found: &Without, now: Timestamp) -> bool {
    now.duration_since(found.since).unsigned_abs() < HOLDS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    #[test]
    fn an_answer_takes_a_user_namespace_from_the_pod_that_it_was_given_about_alone() {
        let kept = Kept::new(false);
        assert!(kept.lacks("a", &Dropped::UserNamespace, at(0)));
        assert_eq!(kept.users(), Some(false));
        assert!(kept.without("a", at(1)).users && !kept.without("a", at(1)).images);
        assert!(!kept.without("b", at(1)).users, "of another machine nobody has said it");
        // The answer about the next one is another one, and is said; that about the first stays.
        assert!(kept.has(false, true) && !kept.has(false, true));
        assert_eq!((kept.users(), kept.images()), (Some(true), None));
        assert!(kept.without("a", at(59)).users);
        // It is asked about again.
        assert!(!kept.without("a", at(60)).users);
        assert!(!kept.without("a", at(-60)).users, "a clock that was set back");
        assert!(kept.lacks("a", &Dropped::UserNamespace, at(61)));
        assert!(!kept.lacks("c", &Dropped::UserNamespace, at(62)), "it was said before");
        assert!(kept.lacks("c", &Dropped::Images, at(63)));
        let both = kept.without("c", at(64));
        assert!(both.users && both.images);
        // Nothing is kept of those that are gone.
        kept.lacks("d", &Dropped::Images, at(500));
        assert_eq!(kept.state().without.len(), 1);
    }
}
