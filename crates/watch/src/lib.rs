//! A watch that always recovers.
//!
//! `kube::runtime::watcher` goes on from the last revision that it saw. When the server refuses to *start* a watch there,
//! it asks for the same revision again for ever, although only a new list helps: when the server has forgotten the
//! revision and says so with an HTTP status instead of an event, or when a restored store has never reached it. Here the
//! rule of client-go holds: a client that gets no answer, or is sent away for a while, asks again from where it was; after
//! every other answer everything is listed again.

use std::fmt::Debug;
use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use kube::Api;
use kube::runtime::utils::Backoff as _;
use kube::runtime::watcher::{Config, DefaultBackoff, Error, Event, watcher};
use serde::de::DeserializeOwned;

/// Longest pause before a list that is due because the revision is gone: nothing is broken then, and anyone who waits for
/// the list sees nothing meanwhile.
const LONGEST_BEFORE_LIST: Duration = Duration::from_secs(2);

type Watching<K> = Pin<Box<dyn Stream<Item = Result<Event<K>, Error>> + Send>>;

struct Follow<K: 'static> {
    api: Api<K>,
    config: Config,
    what: String,
    /// The watch, until it has to be made again.
    watching: Option<Watching<K>>,
    pauses: DefaultBackoff,
    /// What was logged last: the same trouble is logged once.
    logged: String,
}

/// What happens to the objects that `config` selects, for ever. `what` names them in the log.
///
/// Failures are logged and tried again after a growing pause. Whenever changes may have been missed, [`Event::Init`] and a
/// whole list come again, also in the middle of another list.
pub fn follow<K>(api: Api<K>, config: Config, what: String) -> impl Stream<Item = Event<K>> + Send
where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let follow = Follow {
        api,
        config,
        what,
        watching: None,
        pauses: DefaultBackoff::default(),
        logged: String::new(),
    };
    stream::unfold(follow, |mut follow| async move {
        let event = follow.next().await;
        Some((event, follow))
    })
}

impl<K> Follow<K>
where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    async fn next(&mut self) -> Event<K> {
        loop {
            let (api, config) = (&self.api, &self.config);
            let watching =
                self.watching.get_or_insert_with(|| Box::pin(watcher(api.clone(), config.clone())));
            match watching.next().await {
                Some(Ok(event)) => {
                    match event {
                        Event::InitDone => self.logged.clear(),
                        // The watch works. That a list does says little: the watch after it may fail each time.
                        Event::Apply(_) | Event::Delete(_) => self.pauses.reset(),
                        Event::Init | Event::InitApply(_) => {}
                    }
                    return event;
                }
                Some(Err(error)) => self.failed(&error).await,
                // It never ends by itself.
                None => self.watching = None,
            }
        }
    }

    /// Says what is wrong, decides from where to go on, and waits for a moment.
    async fn failed(&mut self, error: &Error) {
        let next = next(error);
        if next != Next::SameRevision {
            self.watching = None;
        }
        let text = match next {
            Next::ListSoon => format!("missed changes of {}, listing them again: {error}", self.what),
            Next::List | Next::SameRevision => format!("cannot follow {}: {error}", self.what),
        };
        if text != self.logged {
            tracing::warn!("{text}");
            self.logged = text;
        }
        // The iterator has no end.
        let pause = self.pauses.next().unwrap_or(LONGEST_BEFORE_LIST);
        let pause = if next == Next::ListSoon { pause.min(LONGEST_BEFORE_LIST) } else { pause };
        tokio::time::sleep(pause).await;
    }
}

/// How to go on after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// From the revision that was reached.
    SameRevision,
    /// With a list.
    List,
    /// With a list, which is all that is wrong.
    ListSoon,
}

fn next(error: &Error) -> Next {
    let answered = match error {
        Error::WatchError(status) => Some(status.code),
        Error::WatchStartFailed(kube::Error::Api(status)) => Some(status.code),
        // The watcher lists again by itself.
        Error::InitialListFailed(_) | Error::NoResourceVersion => return Next::List,
        // Nobody answered, or the connection broke: nothing is known of the revision.
        Error::WatchStartFailed(_) | Error::WatchFailed(_) => None,
    };
    match answered {
        None | Some(429) => Next::SameRevision,
        Some(410) => Next::ListSoon,
        Some(_) => Next::List,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    fn status(code: u16) -> Box<Status> {
        Status::failure("", "").with_code(code).boxed()
    }

    #[test]
    fn every_answer_but_wait_leads_to_a_list_and_silence_does_not() {
        let start = |code| next(&Error::WatchStartFailed(kube::Error::Api(status(code))));
        let within = |code| next(&Error::WatchError(status(code)));
        for form in [start, within] {
            assert_eq!(form(410), Next::ListSoon);
            for code in [400, 403, 404, 500, 503, 504] {
                assert_eq!(form(code), Next::List, "{code}");
            }
            assert_eq!(form(429), Next::SameRevision);
        }
        let broken = || kube::Error::Service("the connection broke".into());
        assert_eq!(next(&Error::WatchStartFailed(broken())), Next::SameRevision);
        assert_eq!(next(&Error::WatchFailed(broken())), Next::SameRevision);
    }
}
