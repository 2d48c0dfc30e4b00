//! Space on the node's disk: logs are cut, pods that hold more than they may are evicted, and where the node itself is
//! short, first unpacked images go that nobody uses, then the pod that holds the most beyond what it asked for.

use super::{Manager, Shared, inbox::Message, record, record::Record};
use ferrovirt_node::{
    disk::{self, Candidate, Free, Held, Pressure, Short, Usage},
    oci::cgroup,
};
use k8s_openapi::api::core::v1::Pod;
use std::{
    fs, io,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::{task::spawn_blocking, time::sleep};

/// How often logs and the free space are looked at; both cost little.
const LOOK: Duration = Duration::from_millis(250);
/// How often pods are measured, as a kubelet does.
const MEASURE: Duration = Duration::from_secs(10);
/// How often unpacked images are looked at.
const LOOK_AT_IMAGES: Duration = Duration::from_secs(300);
/// How long an evicted pod may take to give back its space before the next one goes.
const GIVE_BACK: Duration = Duration::from_secs(30);
/// Most bytes of one container's log.
const MOST_LOG: u64 = 16 << 20;

/// A pod with what it holds.
struct Measured {
    uid: String,
    pod: Arc<Pod>,
    held: Held,
    /// Bytes of the emptyDisk volumes that its machine names: nobody is surprised by those.
    declared: Option<u64>,
}

impl Manager {
    /// Keeps space free for ever.
    pub(super) async fn keep_disk(&self) {
        let start = Instant::now();
        let mut pressure = Pressure::default();
        let mut measured: Option<Instant> = None;
        let mut collected = start;
        let transition = self.shared.disk.transition;
        loop {
            sleep(LOOK).await;
            if collected.elapsed() >= LOOK_AT_IMAGES {
                collected = Instant::now();
                self.collect(false).await;
            }
            let mut short = self.look().await;
            if short.is_some() {
                if self.collect(true).await > 0 {
                    short = self.look().await;
                }
                if !self.shared.disk_pressure.load(Ordering::Relaxed) {
                    tracing::warn!(?short, "the node is short of disk space");
                }
            }
            let holds = pressure.look(short.is_some(), start.elapsed(), transition);
            self.shared.disk_pressure.store(holds, Ordering::Relaxed);
            if short.is_none() && measured.is_some_and(|last| last.elapsed() < MEASURE) {
                continue;
            }
            measured = Some(Instant::now());
            self.evict(short).await;
        }
    }

    /// Cuts logs that are too long, and says whether the node is short of space.
    async fn look(&self) -> Option<Short> {
        let shared = self.shared.clone();
        let looked = spawn_blocking(move || {
            for (uid, directory) in record::directories(&shared.config.pods()) {
                cut(&uid, &record::log(&directory));
            }
            disk::free(&shared.config.data)
        });
        let free: io::Result<Free> = looked.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        match free {
            Ok(free) => self.shared.disk.thresholds.short(free),
            Err(error) => {
                tracing::warn!("looking at the free space: {error}");
                None
            }
        }
    }

    async fn collect(&self, all: bool) -> u64 {
        let shared = self.shared.clone();
        let collected = spawn_blocking(move || {
            let marks = || {
                let pods = record::directories(&shared.config.pods());
                pods.into_iter().map(|(_, directory)| record::marks(&directory)).collect()
            };
            shared.images.collect(marks, all)
        });
        collected.await.unwrap_or_default()
    }

    /// Evicts every pod that holds more than it may, and one more where the node is short.
    async fn evict(&self, short: Option<Short>) {
        let mut pods = self.measure().await;
        let Ok(free) = disk::free(&self.shared.config.data) else { return };
        let limit = self.shared.disk.scratch.of(free.capacity);
        let before = pods.len();
        pods.retain(|measured| {
            match disk::over_limit(
                &measured.pod,
                &measured.held,
                // Half of the disk was the limit of those that do not say.
                limit.saturating_add(measured.declared.unwrap_or(free.capacity / 2)),
            ) {
                Some(message) => {
                    self.send(&measured.uid, message);
                    false
                }
                None => true,
            }
        });
        let Some(short) = short.filter(|_| before == pods.len()) else { return };
        let candidates: Vec<Candidate> = pods
            .iter()
            .map(|measured| Candidate {
                priority: measured.pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or_default(),
                requested: disk::requested(&measured.pod),
                used: measured.held.total(),
            })
            .collect();
        let first = disk::first(&candidates, short.of_inodes);
        let Some((measured, candidate)) = first.and_then(|at| Some((pods.get(at)?, candidates.get(at)?)))
        else {
            return;
        };
        self.send(&measured.uid, short.message(&measured.pod, candidate));
        let volumes = self.shared.pod_directory(&measured.uid).join(record::VOLUMES);
        let begin = Instant::now();
        while volumes.exists() && begin.elapsed() < GIVE_BACK {
            sleep(LOOK).await;
        }
    }

    fn send(&self, uid: &str, message: String) {
        if let Some(handle) = self.pods().get(uid) {
            // A task that has just ended holds nothing any more.
            let _over = handle.sender.send(Message::Evict(self.shared.config.redacted(&message)));
        }
    }

    /// What every pod holds whose container was started and has not ended.
    async fn measure(&self) -> Vec<Measured> {
        let pods: Vec<(String, Arc<Pod>)> =
            self.pods().iter().map(|(uid, handle)| (uid.clone(), handle.pod.clone())).collect();
        let shared = self.shared.clone();
        let measured = spawn_blocking(move || {
            let measure = |(uid, pod): (String, Arc<Pod>)| {
                let directory = shared.pod_directory(&uid);
                let record = Record::alive(&directory)?;
                match held(&shared, &pod, &directory, &record) {
                    Ok(held) => Some(Measured { uid, pod, held, declared: record.declared }),
                    Err(error) => {
                        tracing::warn!(uid, "measuring a pod: {error}");
                        None
                    }
                }
            };
            pods.into_iter().filter_map(measure).collect()
        });
        measured.await.unwrap_or_default()
    }
}

fn held(shared: &Shared, pod: &Pod, directory: &Path, record: &Record) -> io::Result<Held> {
    let mut held = Held::default();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let on_disk =
            volume.empty_dir.as_ref().is_some_and(|dir| dir.medium.as_deref().unwrap_or_default().is_empty());
        if on_disk {
            let usage = disk::usage(&directory.join(record::VOLUMES).join(&volume.name))?;
            held.volumes.push((volume.name.clone(), usage));
        }
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let data = entry.metadata()?;
        if data.is_file() {
            use std::os::unix::fs::MetadataExt;
            held.rest += Usage { bytes: data.blocks().saturating_mul(512), inodes: 1 };
        }
    }
    let processes = cgroup::processes(&shared.cgroups, &record.uid);
    let processes =
        disk::Processes { all: &processes, first: record.pid, user: record.user, group: record.group };
    held.rest += disk::unlinked(processes, directory)?;
    Ok(held)
}

/// Keeps a launcher that talks too much from filling the disk: its log starts again. It writes in append mode.
fn cut(uid: &str, log: &Path) {
    if fs::metadata(log).is_ok_and(|data| data.len() > MOST_LOG) {
        tracing::warn!(uid, "the log of the pod is over {MOST_LOG} bytes and starts again");
        if let Err(error) = fs::OpenOptions::new().write(true).open(log).and_then(|file| file.set_len(0)) {
            tracing::warn!(uid, "cutting the log: {error}");
        }
    }
}
