//! One `ferrovirt up`, and kubectl with its kubeconfig.

use crate::{process::Process, root, target, wait_for};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

/// How long anything that includes a guest's boot in software emulation may take on a loaded machine.
pub const TIMEOUT: Duration = Duration::from_secs(120);

/// What to start.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// More arguments for `ferrovirt up`.
    pub arguments: Vec<String>,
    /// Environment variables of `ferrovirt up`.
    pub environment: Vec<(&'static str, String)>,
    /// Show what `ferrovirt up` says; it goes to a file otherwise, which a failure quotes.
    pub verbose: bool,
    /// Where to keep the data; a temporary directory otherwise.
    pub data: Option<PathBuf>,
}

/// A running `ferrovirt up`. Everything it made is removed on drop, also after a failed test.
#[derive(Debug)]
pub struct Cluster {
    options: Options,
    directory: Option<tempfile::TempDir>,
    data: PathBuf,
    port: u16,
    up: Option<Child>,
}

impl Cluster {
    /// The directory of the built binaries; made by `cargo xtask build`.
    pub fn binaries() -> Result<PathBuf> {
        let dist = target().join("dist");
        ensure!(dist.join("ferrovirt").exists(), "{} is missing: run `cargo xtask build`", dist.display());
        Ok(dist)
    }

    /// Starts it and waits until it answers and its node is ready.
    pub fn start(options: Options) -> Result<Self> {
        let mut cluster = Self::start_without_waiting(options)?;
        cluster.wait_ready()?;
        Ok(cluster)
    }

    /// Starts it.
    pub fn start_without_waiting(options: Options) -> Result<Self> {
        let directory = match options.data {
            Some(_) => None,
            None => Some(tempfile::Builder::new().prefix("ferrovirt-").tempdir()?),
        };
        let data = options.data.clone().or_else(|| directory.as_ref().map(|dir| dir.path().join("data")));
        let data = data.context("no data directory")?;
        fs::create_dir_all(&data)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut cluster = Self { options, directory, data, port, up: None };
        cluster.launch()?;
        Ok(cluster)
    }

    /// Whether something listens on the API's port.
    pub fn answers(&self) -> bool {
        std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok()
    }

    /// Starts the process again after [`Self::stop`] or a kill, on the same data and port.
    pub fn launch(&mut self) -> Result<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let mut command = Command::new(Self::binaries()?.join("ferrovirt"));
        command
            .arg("up")
            .arg("--data-dir")
            .arg(&self.data)
            .arg("--listen")
            .arg(format!("127.0.0.1:{}", self.port))
            .arg("--image-dir")
            .arg(target().join("guest/images"))
            .args(&self.options.arguments)
            .args(self.room())
            .envs(self.options.environment.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::null());
        if !self.options.verbose {
            command.stdout(log.try_clone()?).stderr(log);
        }
        self.up = Some(command.spawn().context("cannot start ferrovirt up")?);
        Ok(())
    }

    /// A machine of a developer may be nearly full; tests that are about that say when it is short themselves.
    fn room(&self) -> &[&str] {
        let own = self.options.arguments.iter().any(|argument| argument.contains("eviction-hard"));
        if own { &[] } else { &["--handler-option", "eviction-hard=nodefs.available<1%"] }
    }

    /// Waits until the API answers and the node is ready.
    pub fn wait_ready(&mut self) -> Result<()> {
        let ready = wait_for("the node to be ready", Duration::from_secs(60), || {
            if let Some(status) = self.up.as_mut().map(Child::try_wait).transpose()?.flatten() {
                bail!("ferrovirt up ended: {status}");
            }
            let nodes = self.json(&["get", "nodes"])?;
            let ready =
                nodes.pointer("/items/0/status/conditions").and_then(Value::as_array).is_some_and(|all| {
                    all.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
                });
            Ok(ready.then_some(()))
        });
        ready.with_context(|| format!("ferrovirt up said:\n{}", self.log()))
    }

    fn log_path(&self) -> PathBuf {
        self.data.join("up.log")
    }

    /// What `ferrovirt up` and the node agent have said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data.join("admin.kubeconfig")
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// A kubectl command, not yet run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(arguments).stdin(Stdio::null());
        // kubectl keeps discovery below HOME: one of our own, so that no earlier cluster on the port is remembered.
        command.env("HOME", &self.data).current_dir(root());
        command
    }

    /// Runs kubectl, whatever comes of it.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Result<Output> {
        self.command(arguments).output().context("kubectl is missing")
    }

    /// Runs kubectl, which has to succeed; its standard output.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.try_kubectl(arguments)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("kubectl {}: {}{text}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(text)
    }

    /// Runs kubectl with `-o json`.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[arguments, &["-o", "json"]].concat())?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Applies a manifest given as text.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        let mut file = tempfile::NamedTempFile::with_suffix(".yaml")?;
        std::io::Write::write_all(&mut file, manifest.as_bytes())?;
        self.kubectl(&["apply", "-f", &file.path().to_string_lossy()])
    }

    /// The `ferrovirt` tool with the administrator's kubeconfig, not yet run.
    pub fn ferrovirt(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(Self::binaries()?.join("ferrovirt"));
        command.args(arguments).env("KUBECONFIG", self.kubeconfig()).current_dir(root());
        Ok(command)
    }

    /// Waits until a machine instance is in `phase`; the instance.
    pub fn wait_phase(&self, namespace: &str, name: &str, phase: &str) -> Result<Value> {
        let what = format!("{namespace}/{name} to be {phase}");
        let found = wait_for(&what, TIMEOUT, || {
            let instance = self.json(&["get", "vmi", name, "-n", namespace])?;
            Ok((instance["status"]["phase"] == phase).then_some(instance))
        });
        found.map_err(|error| self.explain_failure(error))
    }

    /// Waits until the guest's serial output holds `text`; all of the output.
    pub fn wait_serial(&self, namespace: &str, name: &str, text: &str) -> Result<String> {
        let found = wait_for(&format!("{namespace}/{name} to say `{text}`"), TIMEOUT, || {
            let serial = self.serial(namespace, name)?;
            Ok(serial.contains(text).then_some(serial))
        });
        found.map_err(|error| {
            let serial = self.serial(namespace, name).unwrap_or_default();
            self.explain_failure(error).context(format!("the guest's serial output:\n{serial}"))
        })
    }

    /// The guest's serial output so far, as the launcher keeps it.
    pub fn serial(&self, namespace: &str, name: &str) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(self.serial_path(namespace, name)?)?).into_owned())
    }

    /// The file in which the launcher keeps the guest's serial output.
    pub fn serial_path(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        let instance = self.json(&["get", "vmi", name, "-n", namespace])?;
        let uid = instance["metadata"]["uid"].as_str().context("the instance has no uid")?.to_owned();
        let pods =
            self.json(&["get", "pods", "-n", namespace, "-l", &format!("kubevirt.io/created-by={uid}")])?;
        let pod = pods["items"][0]["metadata"]["uid"].as_str().context("no launcher pod yet")?.to_owned();
        let pod_dir = self.data.join("agent/pods").join(pod);
        find_file(&pod_dir, "serial.log").context("no serial output yet")
    }

    fn explain_failure(&self, error: anyhow::Error) -> anyhow::Error {
        let state = self
            .try_kubectl(&["get", "vm,vmi,pods,events", "-A", "-o", "wide"])
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .unwrap_or_default();
        let log = self.log();
        let tail: Vec<&str> = log.lines().rev().take(40).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        error.context(format!(
            "state of the cluster:\n{state}\nlast words of ferrovirt up:\n{}",
            tail.join("\n")
        ))
    }

    /// The process of `ferrovirt up`.
    pub fn up(&self) -> Result<Process> {
        let pid = self.up.as_ref().context("not running")?.id();
        Ok(Process { pid: i32::try_from(pid)?, arguments: Vec::new() })
    }

    /// The process of the API server and the controllers.
    pub fn api(&self) -> Option<Process> {
        let up = self.up().ok()?.pid;
        let own = |process: &Process| process.parent().is_ok_and(|parent| parent.pid == up);
        Process::find(|arguments| arguments.get(1).is_some_and(|word| word == "api-server"))
            .into_iter()
            .find(own)
    }

    /// The user that it runs as when no other is named.
    pub const API_USER: u32 = 76_443;

    /// The node agent.
    pub fn agent(&self) -> Option<Process> {
        self.handler(|word| word != "plug")
    }

    /// What offers places for machines to the node agent: `virt-handler plug`.
    pub fn plug(&self) -> Option<Process> {
        self.handler(|word| word == "plug")
    }

    /// The process of the handler whose first argument is such a word.
    fn handler(&self, is: impl Fn(&str) -> bool) -> Option<Process> {
        let data = self.data.to_string_lossy().into_owned();
        Process::find(|arguments| {
            arguments.first().is_some_and(|program| program.ends_with("virt-handler"))
                && arguments.get(1).is_some_and(|word| is(word))
                && arguments.iter().any(|argument| argument.starts_with(&data))
        })
        .pop()
    }

    /// Kills `ferrovirt up` with SIGKILL and waits for its end.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut up) = self.up.take() {
            up.kill()?;
            up.wait()?;
        }
        Ok(())
    }

    /// Ends `ferrovirt up` as Ctrl-C does; machines keep running.
    pub fn interrupt(&mut self) -> Result<()> {
        if let Some(mut up) = self.up.take() {
            let pid = rustix::process::Pid::from_raw(i32::try_from(up.id())?).context("pid 0")?;
            rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
            let status = wait_for("ferrovirt up to end", Duration::from_secs(60), || Ok(up.try_wait()?))?;
            ensure!(status.success(), "ferrovirt up ended with {status}:\n{}", self.log());
        }
        Ok(())
    }

    /// Deletes every machine, waits for their end, and ends `ferrovirt up`.
    pub fn stop(&mut self) -> Result<()> {
        if self.up.is_some() {
            self.kubectl(&["delete", "vm,vmi", "--all", "-A", "--wait", "--timeout=90s"])?;
            wait_for("the launcher pods to be gone", TIMEOUT, || {
                let pods = self.json(&["get", "pods", "-A"])?;
                Ok(pods["items"].as_array().is_some_and(Vec::is_empty).then_some(()))
            })?;
            self.interrupt()?;
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.stop().is_err() {
            let _ = self.kill();
            // Whatever is left belongs to this data directory: end it by its own pid, then remove its mounts.
            let data = self.data.to_string_lossy().into_owned();
            for process in
                Process::find(|arguments| arguments.iter().any(|argument| argument.contains(&data)))
            {
                let _ = process.signal(rustix::process::Signal::KILL);
            }
            if let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") {
                for mount in mounts.lines().rev().filter_map(|line| line.split(' ').nth(4)) {
                    if mount.starts_with(&data) {
                        let _ = rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH);
                    }
                }
            }
        }
        drop(self.directory.take());
    }
}

fn find_file(dir: &Path, name: &str) -> Option<PathBuf> {
    for entry in fs::read_dir(dir).ok()?.flatten() {
        let path = entry.path();
        if entry.file_name() == name {
            return Some(path);
        }
        let kind = entry.file_type().ok()?;
        if kind.is_dir()
            && entry.file_name() != "rootfs"
            && let Some(found) = find_file(&path, name)
        {
            return Some(found);
        }
    }
    None
}
