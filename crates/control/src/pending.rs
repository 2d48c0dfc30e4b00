//! Keys on their way from the tasks that watch to the one that owns the queue: each once, so that no more of them wait
//! than there are objects, however often these change and however long a round takes.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Both ends; clones share everything.
pub(crate) struct Pending<K>(Arc<Inner<K>>);

struct Inner<K> {
    waiting: Mutex<(VecDeque<K>, HashSet<K>)>,
    news: Notify,
}

impl<K> Clone for Pending<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K> Default for Pending<K> {
    fn default() -> Self {
        Self(Arc::new(Inner { waiting: Mutex::default(), news: Notify::new() }))
    }
}

impl<K: Clone + Eq + Hash> Pending<K> {
    fn waiting(&self) -> MutexGuard<'_, (VecDeque<K>, HashSet<K>)> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key is to be looked at. Never waits.
    pub(crate) fn send(&self, key: K) {
        let mut waiting = self.waiting();
        if waiting.1.insert(key.clone()) {
            waiting.0.push_back(key);
        }
        drop(waiting);
        self.0.news.notify_one();
    }

    /// The next key, in the order in which they were sent first. For one task; safe to cancel.
    pub(crate) async fn recv(&self) -> K {
        loop {
            {
                let mut waiting = self.waiting();
                if let Some(key) = waiting.0.pop_front() {
                    waiting.1.remove(&key);
                    return key;
                }
            }
            self.0.news.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn what_nobody_takes_is_kept_once_and_in_order() {
        let pending = Pending::default();
        for round in 0..10_000 {
            pending.send(round % 3);
        }
        assert_eq!(pending.waiting().0.len(), 3);
        assert_eq!([pending.recv().await, pending.recv().await, pending.recv().await], [0, 1, 2]);
        assert_eq!(pending.recv().now_or_never(), None);
        pending.send(1);
        assert_eq!(pending.recv().await, 1, "what was taken can be sent again");
    }

    #[tokio::test]
    async fn a_key_wakes_who_waits() {
        let pending = Pending::default();
        let taken = tokio::spawn({
            let pending = pending.clone();
            async move { pending.recv().await }
        });
        tokio::task::yield_now().await;
        pending.send('a');
        assert_eq!(taken.await.unwrap(), 'a');
    }
}
