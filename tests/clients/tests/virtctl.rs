//! What virtctl sends, sent to one machine's Ferrovirt: it does what it does for who types it, and what is not there is refused
//! by its name.
#![allow(clippy::indexing_slicing)]

use anyhow::{Context, Result, ensure};
use ferrovirt_clients::{Recorded, Server, Socket, until};
use ferrovirt_e2e::{Cluster, Options, cluster::TIMEOUT, machine, wait_for};
use serde_json::Value;
use std::net::TcpStream;

struct Test {
    cluster: Cluster,
    server: Server,
    virtctl: Recorded,
}

impl Test {
    fn start() -> Result<Self> {
        let cluster = Cluster::start(Options::default())?;
        cluster.kubectl(&["create", "namespace", "vms"])?;
        let config = cluster.json(&["config", "view", "--raw"])?;
        let server = Server::of(&config, TcpStream::connect)?;
        Ok(Self { cluster, server, virtctl: Recorded::virtctl()? })
    }

    /// Sends what a command sends, which has to be answered like this; the message.
    fn run(&self, command: &str, code: u16) -> Result<String> {
        let answer = self.virtctl.run(&self.server, command)?.expect(code).context(command.to_owned())?;
        Ok(answer.message().to_owned())
    }

    /// As [`Self::run`], with words that the message has to have.
    fn refused(&self, command: &str, code: u16, words: &str) -> Result<()> {
        let message = self.run(command, code)?;
        ensure!(message.contains(words), "{command}: {message}");
        Ok(())
    }

    fn stream(&self, command: &str) -> Result<Socket> {
        let request = self.virtctl.of(command)?.requests.first().context("no request")?;
        self.server.stream(request)
    }

    fn strategy(&self) -> Result<Value> {
        Ok(self.cluster.json(&["get", "vm", "guest", "-n", "vms"])?["spec"]["runStrategy"].clone())
    }

    fn instance(&self) -> Result<Value> {
        self.cluster.wait_phase("vms", "guest", "Running")
    }

    /// Waits until another instance than this one runs.
    fn another(&self, before: &Value) -> Result<()> {
        wait_for("another instance", TIMEOUT, || {
            let Ok(now) = self.cluster.json(&["get", "vmi", "guest", "-n", "vms"]) else { return Ok(None) };
            let other = now["metadata"]["uid"] != before["metadata"]["uid"];
            Ok((other && now["status"]["phase"] == "Running").then_some(()))
        })
    }

    fn ended(&self) -> Result<()> {
        wait_for("the end of the instance", TIMEOUT, || {
            let found = self.cluster.try_kubectl(&["get", "vmi", "guest", "-n", "vms"])?;
            Ok((!found.status.success()).then_some(()))
        })
    }

    /// Waits until the instance says that it is paused, or not.
    fn paused(&self, wanted: bool) -> Result<()> {
        wait_for(&format!("paused: {wanted}"), TIMEOUT, || {
            let instance = self.cluster.json(&["get", "vmi", "guest", "-n", "vms"])?;
            let all = instance["status"]["conditions"].as_array();
            let paused =
                all.into_iter().flatten().any(|one| one["type"] == "Paused" && one["status"] == "True");
            Ok((paused == wanted).then_some(()))
        })
    }
}

/// virtctl warns at each error of a server whose first two numbers are others than its own.
fn version(test: &Test) -> Result<()> {
    let numbers = |version: &str| version.split('.').take(2).map(str::to_owned).collect::<Vec<_>>();
    let answer = test.virtctl.run(&test.server, "version")?.expect(200)?;
    let version = answer.body["gitVersion"].as_str().unwrap_or_default();
    ensure!(numbers(version) == numbers(&test.virtctl.version), "{version} beside {}", test.virtctl.version);
    ensure!(version.contains("+ferrovirt-"), "{version} does not say whose it is");
    Ok(())
}

fn starts(test: &Test) -> Result<()> {
    test.run("start guest --dry-run", 202)?;
    ensure!(test.strategy()? == "Halted", "a dry run has started it");
    test.run("start guest", 202)?;
    ensure!(test.strategy()? == "Always", "it was not started");
    test.instance()?;
    test.refused("start guest", 409, "VM is already running")?;
    // A line of its own has the guest show its prompt once more, whatever it has said before.
    until(test.stream("console guest")?, "\r\n", b"login:")?;
    until(test.stream("vnc guest --proxy-only")?, "", b"RFB 003.008\n")
}

fn pauses(test: &Test) -> Result<()> {
    test.run("pause vmi guest --dry-run", 200)?;
    test.run("pause vm guest", 200)?;
    test.paused(true)?;
    test.refused("pause vm guest", 409, "VMI is already paused")?;
    test.run("unpause vmi guest", 200)?;
    test.paused(false)?;
    test.refused("unpause vmi guest", 409, "VMI is not paused")
}

fn exposes(test: &Test) -> Result<()> {
    for (command, service, kind, port) in [
        ("expose vmi guest --name=guest-http --port=80", "guest-http", "ClusterIP", 80),
        ("expose vm guest --name=guest-ssh --port=22 --type=NodePort", "guest-ssh", "NodePort", 22),
    ] {
        test.run(command, 201)?;
        let service = test.cluster.json(&["get", "service", service, "-n", "vms"])?;
        ensure!(service["spec"]["type"] == kind && service["spec"]["ports"][0]["port"] == port, "{service}");
    }
    Ok(())
}

fn restarts(test: &Test) -> Result<()> {
    let first = test.instance()?;
    test.run("restart guest --dry-run", 202)?;
    test.run("restart guest", 202)?;
    test.another(&first)?;
    let second = test.instance()?;
    test.run("restart guest --force --grace-period=0", 202)?;
    test.another(&second)
}

fn stops(test: &Test) -> Result<()> {
    test.run("stop guest --dry-run", 202)?;
    ensure!(test.strategy()? == "Always", "a dry run has stopped it");
    test.run("stop guest --grace-period=0 --force", 202)?;
    ensure!(test.strategy()? == "Halted", "it was not stopped");
    test.ended()?;
    test.refused("stop guest", 409, "VM is not running")?;
    test.refused("restart guest", 409, "does not support manual restart")?;
    // It makes the list that is not there, if it is not there.
    let credentials =
        "credentials add-ssh-key guest --value=ssh-ed25519 AAAA x --user=root --create-secret --force";
    test.refused(credentials, 422, "not supported yet: spec.template.spec.accessCredentials")?;
    test.refused("console guest", 404, "\"guest\" not found")?;
    for command in ["start nobody", "stop nobody", "console nobody", "pause vmi nobody", "expand --vm nobody"]
    {
        test.refused(command, 404, "\"nobody\" not found")?;
    }
    test.run("start guest --paused", 202)?;
    test.instance()?;
    test.paused(true)?;
    test.run("unpause vm guest", 200)?;
    test.paused(false)?;
    test.run("stop guest", 202)?;
    test.ended()
}

#[test]
fn what_virtctl_sends_does_what_it_does_for_who_types_it() -> Result<()> {
    let test = Test::start()?;
    let manifest = machine("guest", "Halted", 30)
        .replace("{name: guest}", "{name: guest, namespace: vms}")
        .replace("autoattachGraphicsDevice: false", "autoattachGraphicsDevice: true");
    test.cluster.apply(&manifest)?;
    version(&test)?;
    starts(&test)?;
    pauses(&test)?;
    test.virtctl.missing(&test.server, true)?;
    exposes(&test)?;
    let whole = test.virtctl.run(&test.server, "expand --vm guest")?.expect(200)?;
    ensure!(whole.body["kind"] == "VirtualMachine" && whole.body["metadata"]["name"] == "guest", "{whole:?}");
    let whole = test.virtctl.run(&test.server, "expand --file vm.yaml")?.expect(200)?;
    ensure!(whole.body["spec"]["template"]["spec"]["domain"]["memory"]["guest"] == "192Mi", "{whole:?}");
    restarts(&test)?;
    stops(&test)
}
