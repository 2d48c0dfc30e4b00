//! Something of which there is so much for each user, and so much for all.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::too_many;
use crate::request::Requester;
use crate::status::ApiError;

/// How long a request waits for its turn.
const WAIT: Duration = Duration::from_secs(15);
/// How many requests of one user wait, and of all.
const QUEUE: usize = 50;
const ALL_QUEUES: usize = 1000;

/// What users share. Anyone who holds a [`Place`] has a part of it.
#[derive(Debug)]
pub struct Share {
    each: usize,
    all: usize,
    /// How long a request waits that comes when all is taken; not at all when it is zero.
    wait: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    waiting: usize,
    users: HashMap<Arc<str>, User>,
}

#[derive(Debug, Default)]
struct User {
    taken: usize,
    queue: VecDeque<(usize, oneshot::Sender<Place>)>,
}

/// A part that is taken. It is given back when this is dropped.
#[derive(Debug, Default)]
pub struct Place {
    /// Nothing for the system's accounts.
    of: Option<(Arc<Share>, Arc<str>, usize)>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((share, user, weight)) = self.of.take() {
            share.give_back(&user, weight);
        }
    }
}

impl Share {
    /// `each` for a user and `all` together; anybody who comes when it is taken waits for a moment.
    pub(super) fn queued(each: usize, all: usize) -> Arc<Self> {
        Arc::new(Self { each, all, wait: WAIT, state: Mutex::default() })
    }

    /// The same, but nobody waits: for what is held for long.
    pub(super) fn strict(each: usize, all: usize) -> Arc<Self> {
        Arc::new(Self { each, all, wait: Duration::ZERO, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `weight`, at most all that one user may have.
    ///
    /// # Errors
    /// 429 when there is nothing left, also after waiting.
    pub(crate) async fn take(
        self: &Arc<Self>,
        requester: &Requester,
        weight: usize,
    ) -> Result<Place, ApiError> {
        let Some(user) = requester.key() else { return Ok(Place::default()) };
        let weight = weight.min(self.each);
        let turn = {
            let mut state = self.lock();
            let State { taken, waiting, users } = &mut *state;
            let known = users.get(user);
            let (own, queued) = known.map_or((0, 0), |known| (known.taken, known.queue.len()));
            let own_fits = own + weight <= self.each;
            // Nobody comes in front of who waits: the queues are empty, or wait for their own users alone.
            if own_fits && *taken + weight <= self.all && queued == 0 {
                *taken += weight;
                users.entry(Arc::clone(user)).or_default().taken += weight;
                return Ok(self.place(user, weight));
            }
            let whose = if own_fits { "all users together" } else { "one user" };
            let busy = format!("the limit for {whose} is reached");
            if self.wait.is_zero() || queued >= QUEUE || *waiting >= ALL_QUEUES {
                return Err(too_many(&busy));
            }
            let (sender, turn) = oneshot::channel();
            *waiting += 1;
            users.entry(Arc::clone(user)).or_default().queue.push_back((weight, sender));
            turn
        };
        match tokio::time::timeout(self.wait, turn).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(too_many("it was busy for too long")),
        }
    }

    fn place(self: &Arc<Self>, user: &Arc<str>, weight: usize) -> Place {
        Place { of: Some((Arc::clone(self), Arc::clone(user), weight)) }
    }

    fn give_back(self: &Arc<Self>, user: &str, weight: usize) {
        // Anyone who stopped waiting sends the place back here: outside of the lock.
        let mut refused = Vec::new();
        {
            let mut state = self.lock();
            state.taken = state.taken.saturating_sub(weight);
            if let Some(known) = state.users.get_mut(user) {
                known.taken = known.taken.saturating_sub(weight);
            }
            while let Some((name, weight, sender)) = state.next(self.each, self.all) {
                if sender.is_closed() {
                    continue;
                }
                state.taken += weight;
                if let Some(known) = state.users.get_mut(&name) {
                    known.taken += weight;
                }
                refused.extend(sender.send(self.place(&name, weight)).err());
            }
            state.users.retain(|_, known| known.taken > 0 || !known.queue.is_empty());
        }
        drop(refused);
    }
}

impl State {
    /// Who is next: of those for whom there is enough, the one that has least.
    fn next(&mut self, each: usize, all: usize) -> Option<(Arc<str>, usize, oneshot::Sender<Place>)> {
        let free = all.saturating_sub(self.taken);
        let fits = |user: &User| {
            let wanted = user.queue.front().map(|(weight, _)| *weight);
            wanted.is_some_and(|weight| weight <= free && user.taken + weight <= each)
        };
        let (name, user) =
            self.users.iter_mut().filter(|(_, user)| fits(user)).min_by_key(|(_, user)| user.taken)?;
        let (weight, sender) = user.queue.pop_front()?;
        self.waiting = self.waiting.saturating_sub(1);
        Some((name.clone(), weight, sender))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::UserInfo;

    fn user(name: &str) -> Requester {
        Requester::of(&UserInfo::authenticated(name, []))
    }

    fn patient(each: usize, all: usize, wait: Duration) -> Arc<Share> {
        Arc::new(Share { each, all, wait, state: Mutex::default() })
    }

    #[tokio::test]
    async fn each_user_has_a_part_and_the_system_is_not_counted() {
        let share = Share::strict(2, 3);
        let first = share.take(&user("a"), 1).await.unwrap();
        let _second = share.take(&user("a"), 1).await.unwrap();
        let refused = share.take(&user("a"), 1).await.unwrap_err();
        assert_eq!((refused.code, &*refused.reason), (429, "TooManyRequests"));
        assert_eq!(refused.details["retryAfterSeconds"], 1);
        let _third = share.take(&user("b"), 1).await.unwrap();
        assert!(share.take(&user("c"), 1).await.is_err(), "all are taken");
        for _ in 0..100 {
            share.take(&Requester::of(&UserInfo::server()), 1).await.unwrap();
        }
        drop(first);
        share.take(&user("c"), 5).await.unwrap_err();
        share.take(&user("c"), 1).await.unwrap();
    }

    #[tokio::test]
    async fn who_waits_longest_for_least_is_next() {
        let share = Share::queued(3, 3);
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(share.take(&user("greedy"), 1).await.unwrap());
        }
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for name in ["greedy", "greedy", "modest"] {
            let (share, order) = (Arc::clone(&share), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let _place = share.take(&user(name), 1).await.unwrap();
                order.lock().unwrap().push(name);
            }));
            tokio::task::yield_now().await;
        }
        drop(held.pop());
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), ["modest", "greedy", "greedy"]);
        drop(held);
        let state = share.lock();
        assert_eq!((state.taken, state.waiting, state.users.len()), (0, 0, 0));
    }

    #[tokio::test]
    async fn who_gives_up_takes_nothing_with_them() {
        let share = patient(1, 1, Duration::from_millis(1));
        let held = share.take(&user("a"), 1).await.unwrap();
        assert_eq!(share.take(&user("b"), 1).await.unwrap_err().code, 429);
        let share = patient(1, 2, Duration::from_secs(600));
        drop(held);
        let held = share.take(&user("b"), 1).await.unwrap();
        let waiting = tokio::spawn({
            let share = Arc::clone(&share);
            async move { share.take(&user("b"), 1).await.map(drop) }
        });
        tokio::task::yield_now().await;
        waiting.abort();
        assert!(waiting.await.is_err());
        drop(held);
        share.take(&user("c"), 1).await.unwrap();
        assert_eq!(share.lock().taken, 0);
        assert_eq!(share.lock().waiting, 0);
    }
}
