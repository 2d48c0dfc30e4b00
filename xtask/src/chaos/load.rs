//! What goes on meanwhile: a writer, and somebody who counts the QEMU processes of each machine.

use anyhow::{Result, anyhow};
use ferrovirt_e2e::{Cluster, process::Process};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{JoinHandle, sleep, spawn},
    time::Duration,
};

/// The running threads.
pub(super) struct Load {
    done: Arc<AtomicBool>,
    writer: JoinHandle<Vec<String>>,
    watcher: JoinHandle<usize>,
}

/// What they have seen.
pub(super) struct Written {
    /// Names of config maps whose creation was answered.
    pub(super) acknowledged: Vec<String>,
    /// Most QEMU processes of one machine at once.
    pub(super) most: usize,
}

impl Load {
    pub(super) fn start(cluster: &Cluster, machines: &'static [&'static str]) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let (kubeconfig, home) = (cluster.kubeconfig(), cluster.data().to_owned());
        let ended = Arc::clone(&done);
        let writer = spawn(move || {
            let mut acknowledged = Vec::new();
            for number in 0u32.. {
                if ended.load(Ordering::Relaxed) {
                    break;
                }
                let name = format!("kept-{number}");
                let made = std::process::Command::new("kubectl")
                    .arg("--kubeconfig")
                    .arg(&kubeconfig)
                    .env("HOME", &home)
                    .args(["create", "configmap", &name, "--from-literal=a=b", "--request-timeout=5s"])
                    .output();
                if made.is_ok_and(|made| made.status.success()) {
                    acknowledged.push(name);
                }
            }
            acknowledged
        });
        let ended = Arc::clone(&done);
        let watcher = spawn(move || {
            let mut most = 0;
            while !ended.load(Ordering::Relaxed) {
                for name in machines {
                    most = most.max(Process::qemu("default", name).len());
                }
                sleep(Duration::from_millis(5));
            }
            most
        });
        Self { done, writer, watcher }
    }

    pub(super) fn stop(self) -> Result<Written> {
        self.done.store(true, Ordering::Relaxed);
        let failed = |_| anyhow!("a thread of the load failed");
        Ok(Written {
            acknowledged: self.writer.join().map_err(failed)?,
            most: self.watcher.join().map_err(failed)?,
        })
    }
}
