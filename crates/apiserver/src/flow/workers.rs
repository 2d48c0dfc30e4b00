//! Threads for large requests of users. They give way: what the system does for its machines, and what is small, gets the
//! processor first.

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// How much these threads give way to the others (nice(2)): a 28th of what another thread gets where both want a processor.
/// Not the last of all, 19: others wait for locks that these hold.
const NICE: i32 = 15;

/// A pool of threads that ends when nobody needs it any more.
#[derive(Debug)]
pub(super) struct Workers(Option<Runtime>);

impl Default for Workers {
    /// No thread is started before the first use.
    fn default() -> Self {
        let runtime = Builder::new_current_thread().thread_name("large").on_thread_start(give_way).build();
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

fn give_way() {
    // Of the calling thread alone: on Linux, this is a property of threads.
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::warn!("large requests do not give way to others: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::getpriority_process;

    #[tokio::test]
    async fn what_is_large_gives_way_and_nothing_else_does() {
        let own = getpriority_process(None).unwrap();
        let workers = Workers::default();
        let there = workers.spawn(|| getpriority_process(None)).await.unwrap();
        let elsewhere = tokio::task::spawn_blocking(|| getpriority_process(None)).await.unwrap();
        assert_eq!(there, Ok((own + NICE).min(19)), "19 is the last of all");
        assert_eq!([elsewhere, getpriority_process(None)], [Ok(own); 2]);
    }
}
