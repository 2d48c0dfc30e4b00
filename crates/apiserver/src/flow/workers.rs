//! Threads for what users ask for. They give way: what the system does for its machines gets the processor first, and what
//! is small before what is large.

use std::io;

use rustix::process::{getpid, getpriority_process, setpriority_process};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// The niceness of threads for large requests, beyond that of the process (nice(2)): a 28th of what another thread gets where both want a processor.
/// Not the last of all, 19: others wait for locks that these hold.
const LARGE: i32 = 15;
/// The same of the threads for everything else that users ask for, which start the ones for large requests: a third.
const USERS: i32 = 5;

/// A pool of threads that ends when nobody needs it any more.
#[derive(Debug)]
pub(super) struct Workers(Option<Runtime>);

impl Default for Workers {
    /// No thread is started before the first use.
    fn default() -> Self {
        let runtime =
            Builder::new_current_thread().thread_name("large").on_thread_start(|| give_way(LARGE)).build();
        if let Err(error) = &runtime {
            tracing::warn!("large requests are worked on like others: {error}");
        }
        Self(runtime.ok())
    }
}

impl Workers {
    /// Runs `work` on a thread of its own.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        match &self.0 {
            Some(runtime) => runtime.handle().spawn_blocking(work),
            None => tokio::task::spawn_blocking(work),
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // Nobody waits here for what is still worked on.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// A runtime for the connections of users.
///
/// # Errors
/// When there can be no more threads.
pub(crate) fn users() -> io::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).thread_name("users").on_thread_start(|| give_way(USERS)).enable_all().build()
}

/// Makes the calling thread alone give way: on Linux, niceness is a property of threads. Each begins with that of the one who
/// started it, and may not go back.
fn give_way(nice: i32) {
    let set = || {
        let wanted = (getpriority_process(Some(getpid()))? + nice).min(19);
        if getpriority_process(None)? < wanted { setpriority_process(None, wanted) } else { Ok(()) }
    };
    if let Err(error) = set() {
        tracing::warn!("what users ask for does not give way to others: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_large_gives_way_and_nothing_else_does() {
        let own = getpriority_process(None).unwrap();
        let workers = Workers::default();
        let there = workers.spawn(|| getpriority_process(None)).await.unwrap();
        let elsewhere = tokio::task::spawn_blocking(|| getpriority_process(None)).await.unwrap();
        assert_eq!(there, Ok((own + LARGE).min(19)), "19 is the last of all");
        assert_eq!([elsewhere, getpriority_process(None)], [Ok(own); 2]);
    }

    #[test]
    fn what_is_large_gives_way_by_as_much_no_matter_who_starts_its_thread() {
        let own = getpriority_process(None).unwrap();
        let users = users().unwrap();
        let large = async {
            let workers = Workers::default();
            let there = workers.spawn(|| getpriority_process(None)).await.unwrap();
            (getpriority_process(None), there)
        };
        let (user, there) = users.block_on(async { tokio::spawn(large).await.unwrap() });
        assert_eq!((user, there), (Ok((own + USERS).min(19)), Ok((own + LARGE).min(19))));
        users.shutdown_background();
    }
}
