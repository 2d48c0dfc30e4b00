//! A server in this process, and kubectl beside it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "each test file uses what it needs")]
pub(crate) mod world;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use ferrovirt_apiserver::server::{Config, Server};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(crate) struct Cluster {
    directory: tempfile::TempDir,
    kubeconfig: PathBuf,
    address: SocketAddr,
    runtime: Runtime,
    stop: watch::Sender<bool>,
    serving: Option<JoinHandle<()>>,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        Self::in_directory(tempfile::tempdir().unwrap())
    }

    /// With further manifests installed, as `ferrovirt up` installs them.
    #[allow(dead_code, reason = "each test file uses what it needs")]
    pub(crate) fn start_with(manifests: &[Value]) -> Self {
        Self::open(tempfile::tempdir().unwrap(), manifests)
    }

    fn in_directory(directory: tempfile::TempDir) -> Self {
        Self::open(directory, &[])
    }

    fn open(directory: tempfile::TempDir, manifests: &[Value]) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let server = runtime
            .block_on(Server::open(Self::config(&directory, (Ipv4Addr::LOCALHOST, 0).into())))
            .unwrap();
        let namespace =
            serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}});
        runtime.block_on(server.ensure(&[namespace])).unwrap();
        runtime.block_on(server.ensure(manifests)).unwrap();
        let kubeconfig = directory.path().join("kubeconfig");
        std::fs::write(&kubeconfig, server.admin_kubeconfig()).unwrap();
        let address = server.address();
        let (stop, stopped) = watch::channel(false);
        let serving = Some(runtime.spawn(server.serve(stopped)));
        Self { directory, kubeconfig, address, runtime, stop, serving }
    }

    fn config(directory: &tempfile::TempDir, listen: SocketAddr) -> Config {
        Config {
            data_dir: directory.path().join("data"),
            listen,
            agent_socket: directory.path().join("agent.sock"),
            scc_admission: Default::default(),
            longest_watch: None,
            audit: Some(ferrovirt_apiserver::audit::Options {
                path: directory.path().join("audit.log"),
                max_size: 1 << 20,
                max_backups: 3,
            }),
        }
    }

    /// Where the server listens.
    #[allow(dead_code, reason = "each test file uses what it needs")]
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The server's audit log.
    #[allow(dead_code, reason = "each test file uses what it needs")]
    pub(crate) fn audit_log(&self) -> PathBuf {
        self.directory.path().join("audit.log")
    }

    /// Where the server looks for the node's agent.
    #[allow(dead_code, reason = "each test file uses what it needs")]
    pub(crate) fn agent_socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    /// Stops the server as `ferrovirt up` does and opens the same data again.
    pub(crate) fn restart(mut self) -> Self {
        self.stop.send_replace(true);
        if let Some(serving) = self.serving.take() {
            self.runtime.block_on(serving).unwrap();
        }
        Self::in_directory(std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap()))
    }

    pub(crate) fn second_server_on_the_same_port(&self) -> String {
        let directory = tempfile::tempdir().unwrap();
        match self.runtime.block_on(Server::open(Self::config(&directory, self.address))) {
            Ok(_) => panic!("two servers on one port"),
            Err(error) => error.to_string(),
        }
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig)
            // Each test has its own server: no cache of another one's discovery.
            .env("KUBECACHEDIR", self.directory.path().join("cache"))
            .stdin(Stdio::null());
        command
    }

    /// Runs kubectl with words split at spaces; it must succeed.
    pub(crate) fn kubectl(&self, args: &str) -> String {
        self.ok(&args.split(' ').collect::<Vec<_>>())
    }

    pub(crate) fn ok(&self, args: &[&str]) -> String {
        check(args, &self.command(args).output().unwrap())
    }

    /// Runs kubectl; it must fail. Answers what it said.
    pub(crate) fn fails(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert!(
            !output.status.success(),
            "kubectl {args:?} succeeded: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        String::from_utf8(output.stderr).unwrap()
    }

    pub(crate) fn json(&self, args: &str) -> Value {
        serde_json::from_str(&self.kubectl(&format!("{args} -o json"))).unwrap()
    }

    pub(crate) fn run_with_input(&self, args: &[&str], input: &str) -> Output {
        use std::io::Write;
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    pub(crate) fn apply(&self, manifest: &str) -> String {
        let args = ["apply", "-f", "-"];
        check(&args, &self.run_with_input(&args, manifest))
    }

    pub(crate) fn create(&self, manifest: &str) -> String {
        let args = ["create", "-f", "-"];
        check(&args, &self.run_with_input(&args, manifest))
    }

    pub(crate) fn create_fails(&self, manifest: &str) -> String {
        let output = self.run_with_input(&["create", "-f", "-"], manifest);
        assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stderr).unwrap()
    }

    /// An executable file with this content.
    pub(crate) fn script(&self, content: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.directory.path().join("script");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(serving) = self.serving.take() {
            // Only in a test that failed already can this be an error worth seeing.
            let _ = self.runtime.block_on(serving);
        }
    }
}

fn check(args: &[&str], output: &Output) -> String {
    assert!(output.status.success(), "kubectl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}
