//! A real Kubernetes on this machine, for development and tests.
//!
//! etcd, API server, controller manager, scheduler, and for each node kubelet, kube-proxy, containerd and runc: all of
//! them are built from published Go modules ([`build`]), and nothing in the cluster is home-made. The control plane and
//! each node have a network namespace ([`network`]); a node also has processes, mounts and a host name of its own
//! ([`nodes`]). What a cluster makes on this machine is recorded before it is made ([`state`], [`shared`]) and removed
//! again, also after half a start ([`remains`]).

pub mod build;
pub mod cgroups;
pub mod control_plane;
pub mod images;
pub mod layout;
pub mod network;
pub mod nodes;
pub mod oci;
pub mod pki;
pub mod process;
pub mod remains;
pub mod shared;
pub mod state;

pub use build::{KUBERNETES, Unavailable};

use anyhow::{Context, Result, bail, ensure};
use build::Programs;
use layout::{Layout, Node};
use process::Process;
use serde_json::Value;
use shared::Base;
use state::State;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

/// How long a start may take on a loaded machine.
const TIMEOUT: Duration = Duration::from_secs(240);
/// Between two looks. Most of them start a kubectl, which costs a tenth of a second of a processor.
const PAUSE: Duration = Duration::from_millis(250);

/// What to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// A name, so that there can be more than one.
    pub name: String,
    /// How many nodes.
    pub nodes: u8,
    /// The version of Kubernetes, such as `v1.36.3`.
    pub kubernetes: String,
    /// The version that the API server behaves as, such as `1.34`: what was not on by then is off.
    pub behaves_as: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { name: "dev".to_owned(), nodes: 2, kubernetes: KUBERNETES.to_owned(), behaves_as: None }
    }
}

/// A cluster that was started.
#[derive(Debug)]
pub struct Cluster {
    layout: Layout,
}

/// Looks again and again until `look` finds something, at the most for `limit`; `what` names it in the error.
pub fn wait<T>(what: &str, limit: Duration, look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    ferrovirt_e2e::look_every(PAUSE, what, limit, look)
}

impl Cluster {
    /// Builds what is not built yet, starts a cluster and waits until its nodes are ready.
    ///
    /// After a failure nothing of it is left. The error is [`Unavailable`] where this machine cannot build it.
    pub fn up(options: &Options) -> Result<Self> {
        let layout = Layout::new(&options.name, options.nodes)?;
        check_host()?;
        let there = layout.directory().exists();
        ensure!(
            !there,
            "there is a cluster `{}` already: `cargo xtask cluster down` removes it",
            layout.name()
        );
        let programs = Programs::prepare(&options.kubernetes)?;
        let cluster = Self { layout };
        if let Err(error) = cluster.start(&programs, options) {
            let said = remains::last_words(&cluster.layout);
            let error = error.context(format!("the cluster did not start; it had said:\n{said}"));
            return match remains::remove(&cluster.layout) {
                Ok(()) => Err(error),
                Err(left) => Err(error.context(format!("and it could not be removed: {left:#}"))),
            };
        }
        Ok(cluster)
    }

    /// The cluster of this name, if there is one, whether it runs or not.
    pub fn find(name: &str) -> Result<Option<Self>> {
        let layout = Layout::new(name, 1)?;
        let Some(state) = State::load(&layout.directory())? else { return Ok(None) };
        Ok(Some(Self { layout: Layout::new(name, state.nodes)? }))
    }

    /// Removes a cluster and everything that it made on this machine.
    pub fn down(name: &str) -> Result<()> {
        check_host()?;
        // A name finds everything; the number of nodes is not needed for it.
        remains::remove(&Layout::new(name, 1)?)
    }

    fn start(&self, programs: &Programs, options: &Options) -> Result<()> {
        let layout = &self.layout;
        {
            let base = Base::lock()?;
            fs::create_dir(layout.directory()).with_context(|| layout.directory().display().to_string())?;
            base.prepare()?;
        }
        let mut state = State::new(layout, &options.kubernetes, options.nodes)?;
        programs.link(&layout.path("bin"))?;
        pki::make(layout, &layout.path("pki"))?;
        control_plane::kubeconfigs(layout)?;
        network::make(layout)?;
        for node in layout.nodes() {
            cgroups::make(&node)?;
            nodes::write(layout, &node)?;
        }
        let api_server = control_plane::api_server(layout, options.behaves_as.as_deref());
        for line in [control_plane::etcd(layout), api_server] {
            self.start_program(&mut state, &line)?;
        }
        self.wait(&state, "the API server to be ready", || {
            Ok(self.kubectl(&["get", "--raw", "/readyz"]).output()?.status.success().then_some(()))
        })?;
        for line in control_plane::controllers(layout) {
            self.start_program(&mut state, &line)?;
        }
        for node in layout.nodes() {
            let log = node.directory.join("init.log");
            state.add_process(Process::start(&node.name, nodes::command(&node), &log)?)?;
        }
        self.load(&images::write(&layout.path("images"))?)?;
        self.wait(&state, "the nodes to be ready", || Ok(self.nodes_ready()?.then_some(())))?;
        // Until the controller manager has made it, every pod is refused.
        self.wait(&state, "the service account of the namespace default", || {
            self.output(&["get", "serviceaccount", "default", "-n", "default"]).map(Some)
        })?;
        Ok(())
    }

    fn start_program(&self, state: &mut State, line: &control_plane::Line) -> Result<()> {
        let program = self.program(line.program);
        let mut command = network::command(&self.layout.namespace(), &program);
        command.args(&line.arguments);
        let log = self.layout.path(format!("{}.log", line.program));
        state.add_process(Process::start(line.program, command, &log)?)
    }

    /// Waits for something while every process of the cluster lives.
    fn wait<T>(&self, state: &State, what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let mut ended = None;
        let found = wait(what, TIMEOUT, || {
            if let Some(process) = state.processes.iter().find(|process| !process.alive()) {
                ended = Some(process.what.clone());
                return Ok(Some(None));
            }
            look().map(|found| found.map(Some))
        })?;
        found.with_context(|| format!("{} ended while {what} was waited for", ended.unwrap_or_default()))
    }

    fn nodes_ready(&self) -> Result<bool> {
        let nodes = self.json(&["get", "nodes"])?;
        let items = nodes.get("items").and_then(Value::as_array).context("no nodes")?;
        let ready = |node: &Value| {
            let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
            conditions.into_iter().flatten().any(|one| {
                one.get("type").is_some_and(|kind| kind == "Ready")
                    && one.get("status").is_some_and(|status| status == "True")
            })
        };
        Ok(items.len() == self.layout.nodes().len() && items.iter().all(ready))
    }

    fn program(&self, name: &str) -> PathBuf {
        self.layout.path("bin").join(name)
    }

    /// Where everything is.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// A kubectl of the cluster's own version with the administrator's rights, not yet run. It runs in the control
    /// plane's network namespace, because nothing else of this machine reaches the API server.
    pub fn kubectl(&self, arguments: &[&str]) -> Command {
        self.kubectl_as(&self.layout.path("admin.kubeconfig"), arguments)
    }

    /// The same with somebody's kubeconfig.
    pub fn kubectl_as(&self, kubeconfig: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", network::file(&self.layout.namespace()).display()))
            .arg("--")
            .arg(self.program("kubectl"))
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .arg(format!("--cache-dir={}", self.layout.path("kubectl-cache").display()))
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    /// Runs kubectl, which has to succeed; its standard output.
    pub fn output(&self, arguments: &[&str]) -> Result<String> {
        let output = self.kubectl(arguments).output()?;
        if !output.status.success() {
            bail!("kubectl {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs kubectl with `-o json`.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.output(&[arguments, &["-o", "json"]].concat())?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Applies a manifest given as text.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        self.with_file(&["apply"], manifest)
    }

    /// Makes what a manifest says, acting as somebody else.
    pub fn create_as(&self, user: &str, manifest: &str) -> Result<String> {
        self.with_file(&["create", &format!("--as={user}")], manifest)
    }

    fn with_file(&self, words: &[&str], manifest: &str) -> Result<String> {
        let mut file = tempfile::NamedTempFile::with_suffix(".yaml")?;
        std::io::Write::write_all(&mut file, manifest.as_bytes())?;
        self.output(&[words, &["-f", &file.path().to_string_lossy()]].concat())
    }

    /// Brings image archives into every node.
    pub fn load(&self, archives: &[PathBuf]) -> Result<()> {
        for node in self.layout.nodes() {
            for archive in archives {
                // containerd of a node that has just started does not listen yet.
                wait(
                    &format!("{} to take {}", node.name, archive.display()),
                    Duration::from_secs(60),
                    || images::load(archive, self.init(&node)?.pid, &self.program("ctr")).map(Some),
                )?;
            }
        }
        Ok(())
    }

    /// The first process of a node.
    pub fn init(&self, node: &Node) -> Result<Process> {
        let state = State::load(&self.layout.directory())?.context("the cluster is gone")?;
        let outer = state.processes.iter().find(|process| process.what == node.name && process.alive());
        let outer = outer.with_context(|| format!("{} does not run", node.name))?;
        outer.children().into_iter().next().with_context(|| format!("{} has no process", node.name))
    }

    /// Every process that was started, and whether it lives.
    pub fn processes(&self) -> Result<Vec<(Process, bool)>> {
        let state = State::load(&self.layout.directory())?.context("the cluster is gone")?;
        Ok(state.processes.into_iter().map(|process| (process.clone(), process.alive())).collect())
    }
}

/// Root, and the programs of the system that are started by name.
fn check_host() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "a cluster needs root: namespaces, mounts and control groups"
    );
    for (program, package) in [
        ("ip", "iproute2"),
        ("nft", "nftables"),
        ("nsenter", "util-linux"),
        ("unshare", "util-linux"),
        ("setsid", "util-linux"),
    ] {
        let found = Command::new(program).arg("--version").output().is_ok();
        ensure!(found, "{program} is missing: install {package}, or run `cargo xtask setup`");
    }
    Ok(())
}

/// A cluster for one test; it is removed on drop, also after a failure.
#[derive(Debug)]
pub struct Own(Cluster);

impl Own {
    /// Removes what an earlier, killed run left, and starts a cluster of two nodes.
    pub fn start(name: &str) -> Result<Self> {
        Self::with(Options { name: name.to_owned(), ..Options::default() })
    }

    /// The same with other options.
    pub fn with(options: Options) -> Result<Self> {
        Cluster::down(&options.name)?;
        Cluster::up(&options).map(Self)
    }
}

impl std::ops::Deref for Own {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.0
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Err(error) = Cluster::down(self.0.layout.name()) {
            eprintln!("the cluster could not be removed: {error:#}");
        }
    }
}
