//! The OCI runtime.

use ferrovirt_sys::process::{Setup, spawn};
use std::{
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A failed call of the runtime.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program could not be started.
    #[error("cannot start crun: {0}; install the package `crun`")]
    Start(#[source] io::Error),
    /// The runtime said no.
    #[error("crun {verb}: {message}")]
    Failed {
        /// What was asked.
        verb: &'static str,
        /// The runtime's last words.
        message: String,
    },
    /// A file that the runtime should have written.
    #[error("crun wrote no usable {what}: {source}")]
    Output {
        /// Which.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// The runtime's own log, in the bundle.
const LOG: &str = "crun.log";

/// The runtime with its state directory.
#[derive(Clone, Debug)]
pub struct Crun {
    root: PathBuf,
    hide_v2: bool,
}

/// What the runtime knows about a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// `created`, `running`, `paused`, `stopped`.
    pub status: String,
    /// The first process, as the host numbers it; 0 when it is gone.
    pub pid: u32,
}

impl Crun {
    /// `root` keeps the runtime's own state; `hide_v2` starts it in a mount namespace without cgroup version 2.
    pub fn new(root: PathBuf, hide_v2: bool) -> Self {
        Self { root, hide_v2 }
    }

    /// Creates and starts a container and returns its first process. The container's output goes to `log`; it gets
    /// `listen` as descriptor 3, where there is such a thing. Blocks for some 20 ms.
    ///
    /// # Errors
    /// When the runtime refuses; nothing is running then.
    pub fn run(&self, id: &str, bundle: &Path, log: File, listen: Option<OwnedFd>) -> Result<u32, Error> {
        let pid_file = bundle.join("pid");
        let mut command = self.command(&bundle.join(LOG));
        command.args(["run", "--detach", "--bundle"]).arg(bundle);
        if listen.is_some() {
            command.arg("--preserve-fds=1");
        }
        command.arg("--pid-file").arg(&pid_file).arg(id);
        let also = log.try_clone().map_err(Error::Start)?;
        command.stdin(Stdio::null()).stdout(log).stderr(also);
        let fds = listen.into_iter().map(|socket| (socket, 3)).collect();
        let setup = Setup { fds, hide_unified_cgroups: self.hide_v2, ..Setup::default() };
        let status = spawn(command, setup).and_then(|mut child| child.wait()).map_err(Error::Start)?;
        if !status.success() {
            return Err(Error::Failed { verb: "run", message: self.words(bundle) });
        }
        let text =
            fs::read_to_string(&pid_file).map_err(|source| Error::Output { what: "pid file", source })?;
        text.trim().parse().map_err(|_| Error::Output {
            what: "pid file",
            source: io::Error::new(io::ErrorKind::InvalidData, text.clone()),
        })
    }

    /// Removes a container, killing what is left of it. A container that is not there is fine.
    ///
    /// # Errors
    /// When the runtime cannot.
    pub fn delete(&self, id: &str, bundle: &Path) -> Result<(), Error> {
        if !self.root.join(id).exists() {
            return Ok(());
        }
        let mut command = self.command(&bundle.join(LOG));
        command.args(["delete", "--force", id]).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::null());
        let setup = Setup { hide_unified_cgroups: self.hide_v2, ..Setup::default() };
        let status = spawn(command, setup).and_then(|mut child| child.wait()).map_err(Error::Start)?;
        if status.success() || !self.root.join(id).exists() {
            return Ok(());
        }
        Err(Error::Failed { verb: "delete", message: self.words(bundle) })
    }

    /// What the runtime knows about a container; `None` when it knows nothing.
    ///
    /// # Errors
    /// When the runtime cannot be started or fails: nobody knows then whether the container runs.
    pub fn state(&self, id: &str) -> Result<Option<State>, Error> {
        // The runtime's own file of a container: the first thing that goes when it is deleted.
        let known = || {
            let source = |source| Error::Output { what: "state", source };
            self.root.join(id).join("status").try_exists().map_err(source)
        };
        if !known()? {
            return Ok(None);
        }
        let mut command = self.command(Path::new("/dev/null"));
        command.args(["state", id]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let setup = Setup { hide_unified_cgroups: self.hide_v2, ..Setup::default() };
        let output =
            spawn(command, setup).and_then(|child| child.wait_with_output()).map_err(Error::Start)?;
        if !output.status.success() {
            // It may have been deleted meanwhile; anything else is a lack of memory, descriptors or processes.
            if !known()? {
                return Ok(None);
            }
            let text = String::from_utf8_lossy(&output.stderr);
            let message = text.lines().last().unwrap_or("ended without a word").to_owned();
            return Err(Error::Failed { verb: "state", message });
        }
        #[derive(serde::Deserialize)]
        struct Raw {
            status: String,
            #[serde(default)]
            pid: u32,
        }
        let raw: Raw = serde_json::from_slice(&output.stdout)
            .map_err(|error| Error::Output { what: "state", source: error.into() })?;
        Ok(Some(State { status: raw.status, pid: raw.pid }))
    }

    /// Whether there is certainly no container.
    pub fn is_idle(&self) -> bool {
        fs::read_dir(&self.root).is_ok_and(|mut entries| entries.next().is_none())
    }

    /// Every container below this state directory.
    pub fn list(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.root) else { return Vec::new() };
        let directories = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        directories.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    fn command(&self, log: &Path) -> Command {
        let mut command = Command::new("crun");
        command.arg("--root").arg(&self.root).arg("--cgroup-manager=cgroupfs");
        command.arg("--log").arg(log);
        // The working directory exists in every mount namespace.
        command.current_dir("/").env_remove("NOTIFY_SOCKET").env_remove("LISTEN_FDS");
        command
    }

    fn words(&self, bundle: &Path) -> String {
        let text = fs::read_to_string(bundle.join(LOG)).unwrap_or_default();
        match text.lines().last() {
            // crun writes a time stamp and a colon first.
            Some(line) => line.split_once("Z: ").map_or(line, |(_, words)| words).to_owned(),
            None => "ended without a word".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_whose_state_cannot_be_read_is_not_one_that_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let crun = Crun::new(root.path().to_owned(), false);
        assert_eq!(crun.state("a").unwrap(), None);
        fs::create_dir(root.path().join("a")).unwrap();
        assert_eq!(crun.state("a").unwrap(), None, "a container that was deleted half");
        // With the runtime or without it: this file says that there is a container, and nothing of it.
        fs::write(root.path().join("a/status"), "{").unwrap();
        crun.state("a").unwrap_err();
    }
}
