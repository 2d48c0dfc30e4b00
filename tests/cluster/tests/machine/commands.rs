//! `ferrovirt console` and `ferrovirt vnc` with the ways in which a kubeconfig says who somebody is: a client certificate, a token,
//! and a program that is asked for one.

use crate::common::{TIMEOUT, Test};
use anyhow::{Context, Result, ensure};
use ferrovirt_cluster::{network, wait};
use ferrovirt_sys::netns;
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// A started command, whose output is in files; it ends with the test.
struct Running(Child, PathBuf);

impl Running {
    fn start(test: &Test, kubeconfig: &Path, words: &[&str]) -> Result<Self> {
        let out = kubeconfig.with_extension(words[0]);
        let errors = fs::File::create(out.with_added_extension("errors"))?;
        let child = command(test, kubeconfig, words)?
            .stdin(Stdio::piped())
            .stdout(fs::File::create(&out)?)
            .stderr(errors)
            .spawn()?;
        Ok(Self(child, out))
    }

    fn said(&self) -> String {
        let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        read(&self.1) + &read(&self.1.with_added_extension("errors"))
    }

    /// What it says, once these words are in it.
    fn says(&self, words: &str) -> Result<String> {
        wait(words, TIMEOUT, || Ok(Some(self.said()).filter(|said| said.contains(words))))
            .with_context(|| self.said())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

/// Our command where the API server is reached from.
fn command(test: &Test, kubeconfig: &Path, words: &[&str]) -> Result<Command> {
    let program = ferrovirt_e2e::Cluster::binaries()?.join("ferrovirt");
    let mut command = network::command(&test.cluster.layout().namespace(), &program);
    command.args(words).args(["guest", "--namespace=vms"]).env("KUBECONFIG", kubeconfig);
    Ok(command)
}

/// A token of a service account of the namespace, with this role.
fn token(test: &Test, name: &str, role: &str) -> Result<String> {
    test.kubectl(&format!("create serviceaccount {name} -n vms"))?;
    let account = format!("--clusterrole={role} --serviceaccount=vms:{name}");
    test.kubectl(&format!("create rolebinding account-{name} -n vms {account}"))?;
    Ok(test.kubectl(&format!("create token {name} -n vms"))?.trim().to_owned())
}

/// A kubeconfig of somebody.
fn kubeconfig(test: &Test, name: &str, user: &Value) -> Result<PathBuf> {
    let mut config = test.json("config view --raw --minify")?;
    config["users"][0]["user"] = user.clone();
    let path = test.cluster.layout().path(format!("{name}.kubeconfig"));
    fs::write(&path, config.to_string())?;
    Ok(path)
}

/// A program that a kubeconfig names, which gives out a token.
fn plugin(test: &Test, token: &str) -> Result<Value> {
    let version = "client.authentication.k8s.io/v1";
    let answer = json!({"apiVersion": version, "kind": "ExecCredential", "status": {"token": token}});
    let program = test.cluster.layout().path("plugin");
    fs::write(&program, format!("#!/bin/sh\necho '{answer}'\n"))?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700))?;
    Ok(json!({"exec": {"apiVersion": version, "command": program, "interactiveMode": "Never"}}))
}

/// On a machine on whose console somebody has logged in.
pub(super) fn serve(test: &Test) -> Result<()> {
    let edit = token(test, "edward", "edit")?;
    let certificate = test.cluster.layout().path("admin.kubeconfig");
    let with_token = kubeconfig(test, "token", &json!({"token": edit}))?;
    let with_plugin = kubeconfig(test, "plugin", &plugin(test, &edit)?)?;
    for (number, config) in [&certificate, &with_token, &with_plugin].into_iter().enumerate() {
        let mut console = Running::start(test, config, &["console"])?;
        let keys = format!("echo said-$((40 + {number}))-here\r");
        console.0.stdin.as_mut().context("no input")?.write_all(keys.as_bytes())?;
        console.says(&format!("said-{}-here", 40 + number)).with_context(|| test.log())?;
    }

    let screen = Running::start(test, &with_token, &["vnc"])?;
    let said = screen.says("with a VNC viewer")?;
    let port =
        said.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()).context(said.clone())?;
    let port: u16 = port.parse()?;
    let namespace = netns::open(&network::file(&test.cluster.layout().namespace()))?;
    let mut viewer = netns::run_in(&namespace, || TcpStream::connect(("127.0.0.1", port)))?;
    viewer.set_read_timeout(Some(TIMEOUT))?;
    let mut greeting = [0; 12];
    viewer.read_exact(&mut greeting).with_context(|| format!("{}\n{}", screen.said(), test.log()))?;
    ensure!(&greeting == b"RFB 003.008\n", "{greeting:?}");

    let view = kubeconfig(test, "view", &json!({"token": token(test, "vera", "view")?}))?;
    let output = command(test, &view, &["console"])?.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && said.contains("virtualmachineinstances/console"), "{said}");
    Ok(())
}
