//! Processes that outlive the command that started them, known by number and start time.

use anyhow::{Context, Result};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Command, Stdio},
};

/// One process. A number alone may be given to another process; number and start time are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// What it is, such as `kube-apiserver`.
    pub what: String,
    /// Its number in this process's PID namespace.
    pub pid: i32,
    /// When it started, in the kernel's clock ticks since boot.
    pub start: u64,
}

impl Process {
    /// Starts a program in a session of its own, so that it outlives the command and its terminal; what it says goes
    /// to `log`.
    pub fn start(what: &str, mut command: Command, log: &Path) -> Result<Self> {
        let log = fs::OpenOptions::new().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {what}"))?;
        let pid = i32::try_from(child.id())?;
        let start = start_time(pid).with_context(|| format!("{what} ended at once"))?;
        Ok(Self { what: what.to_owned(), pid, start })
    }

    /// The process of this number, if there is one that has not ended.
    pub fn look(pid: i32) -> Option<Self> {
        Some(Self { what: String::new(), pid, start: start_time(pid)? })
    }

    /// Whether it is still there. A process that has ended and was not waited for is not.
    pub fn alive(&self) -> bool {
        start_time(self.pid) == Some(self.start)
    }

    /// Ends it at once.
    pub fn kill(&self) {
        let Some(pid) = Pid::from_raw(self.pid) else { return };
        // The descriptor is taken first and the start time read afterwards: the process that is signalled is the one that was looked at.
        if let Ok(descriptor) = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            && self.alive()
        {
            let _ = rustix::process::pidfd_send_signal(&descriptor, Signal::KILL);
        }
        // Where this process started it, it also has to take note of its end.
        let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
    }

    /// Its children that have not ended.
    pub fn children(&self) -> Vec<Self> {
        all()
            .into_iter()
            .filter(|pid| stat(*pid).is_some_and(|stat| stat.parent == self.pid))
            .filter_map(Self::look)
            .collect()
    }

    /// For the file of records.
    pub fn to_json(&self) -> Value {
        json!({"what": self.what, "pid": self.pid, "start": self.start})
    }

    /// From the file of records.
    pub fn from_json(value: &Value) -> Option<Self> {
        Some(Self {
            what: value.get("what")?.as_str()?.to_owned(),
            pid: value.get("pid")?.as_i64()?.try_into().ok()?,
            start: value.get("start")?.as_u64()?,
        })
    }
}

/// Every process whose network namespace is the one that `file` stands for. Nobody but a cluster's own processes is in
/// its namespaces.
pub fn in_network(file: &Path) -> Vec<Process> {
    let Ok(wanted) = fs::metadata(file) else { return Vec::new() };
    all()
        .into_iter()
        .filter(|pid| {
            fs::metadata(format!("/proc/{pid}/ns/net"))
                .is_ok_and(|found| found.ino() == wanted.ino() && found.dev() == wanted.dev())
        })
        .filter_map(Process::look)
        .collect()
}

fn all() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

struct Stat {
    state: char,
    parent: i32,
    start: u64,
}

fn stat(pid: i32) -> Option<Stat> {
    read_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// `/proc/PID/stat` of proc(5): the name in parentheses may hold blanks and parentheses itself; the state is the third
/// field, the parent the fourth and the start time the 22nd.
fn read_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let start = fields.nth(17)?.parse().ok()?;
    Some(Stat { state, parent, start })
}

/// When a process started, unless it has ended.
fn start_time(pid: i32) -> Option<u64> {
    stat(pid).filter(|stat| !matches!(stat.state, 'Z' | 'X')).map(|stat| stat.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let text = "77 (a) b (c) S 12 77 77 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2";
        let stat = read_stat(text).unwrap();
        assert_eq!((stat.state, stat.parent, stat.start), ('S', 12, 987_654));
        assert!(read_stat("77 (a) S").is_none());
        assert!(read_stat("").is_none());
    }

    #[test]
    fn another_process_of_the_same_number_is_left_alone() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut command = Command::new("sleep");
        command.arg("600");
        let process = Process::start("sleep", command, log.path()).unwrap();
        let earlier = Process { start: process.start - 1, ..process.clone() };
        earlier.kill();
        assert!(!earlier.alive() && process.alive());
        assert_eq!(Process::from_json(&process.to_json()).unwrap(), process);
        process.kill();
        ferrovirt_e2e::wait_for("the end", std::time::Duration::from_secs(10), || {
            process.kill();
            Ok((!process.alive()).then_some(()))
        })
        .unwrap();
    }
}
