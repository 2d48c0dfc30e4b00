//! Connections: those on which nobody said yet who they are, and those of users.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::Notify;

use super::answer::Pending;
use super::{Flow, Place};
use crate::request::Requester;
use crate::status::ApiError;

/// How many connections there are on which nobody said who they are. Anyone who has a credential says so with the first
/// request, some milliseconds after the handshake; those who hold places only to hold them are the oldest.
const MAX_NOBODY: usize = 256;

/// The connections of nobody, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    all: Mutex<VecDeque<Arc<Connection>>>,
}

/// What is known of one connection.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    /// The user of the first request that said who it is from, and the place of the connection.
    user: OnceLock<Place>,
    /// Rung when the connection gives way to others.
    pub(crate) close: Notify,
    /// Answers that are on their way.
    pub(crate) pending: Arc<Pending>,
}

impl Waiting {
    /// A new connection. The oldest one of nobody gives way when there are too many.
    pub(crate) fn add(&self) -> Arc<Connection> {
        let connection = Arc::new(Connection::default());
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.push_back(Arc::clone(&connection));
        if all.len() > MAX_NOBODY
            && let Some(oldest) = all.pop_front()
        {
            oldest.close.notify_one();
        }
        connection
    }

    /// The connection is somebody's now, or has ended.
    pub(crate) fn remove(&self, connection: &Arc<Connection>) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = all.iter().position(|other| Arc::ptr_eq(other, connection)) {
            all.remove(at);
        }
    }
}

impl Connection {
    /// True when somebody has said who they are.
    pub(crate) fn is_known(&self) -> bool {
        self.user.get().is_some()
    }

    /// Somebody said who they are: the connection counts as theirs from now on.
    ///
    /// # Errors
    /// 429 when they have too many; the connection is closed then.
    pub(crate) async fn belongs_to(
        self: &Arc<Self>,
        user: &Requester,
        flow: &Flow,
        waiting: &Waiting,
    ) -> Result<(), ApiError> {
        if self.is_known() {
            return Ok(());
        }
        match flow.connections.take(user, 1).await {
            Ok(place) => {
                // Another stream may have been faster; one place is enough.
                let _ = self.user.set(place);
                waiting.remove(self);
                Ok(())
            }
            Err(error) => {
                self.close.notify_one();
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::UserInfo;

    #[tokio::test]
    async fn nobody_gives_way_to_who_says_who_they_are() {
        let (flow, waiting) = (Flow::default(), Waiting::default());
        let first = waiting.add();
        let user = Requester::of(&UserInfo::authenticated("u", []));
        let known = waiting.add();
        known.belongs_to(&user, &flow, &waiting).await.unwrap();
        let others: Vec<_> = (0..MAX_NOBODY).map(|_| waiting.add()).collect();
        first.close.notified().await;
        assert!(futures::FutureExt::now_or_never(known.close.notified()).is_none());
        others.iter().for_each(|other| waiting.remove(other));
        assert!(waiting.all.lock().unwrap().is_empty());
        let held: Vec<_> = (1..100).map(|_| waiting.add()).collect();
        for connection in &held {
            connection.belongs_to(&user, &flow, &waiting).await.unwrap();
        }
        let one_more = waiting.add();
        assert_eq!(one_more.belongs_to(&user, &flow, &waiting).await.unwrap_err().code, 429);
        one_more.close.notified().await;
        drop(known);
        waiting.add().belongs_to(&user, &flow, &waiting).await.unwrap();
    }
}
