//! Keys on their way from the tasks that watch to the one that owns the queue: each once, so that no more of them wait
//! than there are objects, however often these change and however long a round takes.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Both ends; clones share everything.
pub(crate) struct Wishes<K>(Arc<Inner<K>>);

struct Inner<K> {
    waiting: Mutex<(VecDeque<K>, HashSet<K>)>,
    news: Notify,
}

impl<K> Clone for Wishes<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K> Default for Wishes<K> {
    fn default() -> Self {
        Self(Arc::new(Inner { waiting: Mutex::default(), news: Notify::new() }))
    }
}

impl<K: Clone + Eq + Hash> Wishes<K> {
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

    /// The next key, in the order in which they were wished for first. For one task; safe to cancel.
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
        let wishes = Wishes::default();
        for round in 0..10_000 {
            wishes.send(round % 3);
        }
        assert_eq!(wishes.waiting().0.len(), 3);
        assert_eq!([wishes.recv().await, wishes.recv().await, wishes.recv().await], [0, 1, 2]);
        assert_eq!(wishes.recv().now_or_never(), None);
        wishes.send(1);
        assert_eq!(wishes.recv().await, 1, "what was taken can be wished for again");
    }

    #[tokio::test]
    async fn a_wish_wakes_who_waits() {
        let wishes = Wishes::default();
        let taken = tokio::spawn({
            let wishes = wishes.clone();
            async move { wishes.recv().await }
        });
        tokio::task::yield_now().await;
        wishes.send('a');
        assert_eq!(taken.await.unwrap(), 'a');
    }
}
