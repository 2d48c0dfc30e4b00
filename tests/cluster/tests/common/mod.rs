//! A cluster with Ferrovirt on it, and the part `api`, which a test plays.
#![allow(dead_code, unreachable_pub, clippy::indexing_slicing)] // helpers of tests

use anyhow::{Context, Result, ensure};
use ferrovirt_clients::Server;
use ferrovirt_cluster::{Options, Own, images, layout::Node, network, wait};
use ferrovirt_e2e::process::Process;
use ferrovirt_handler::net::talk::{Binding, FromApi, MOST, ToApi, Wanted, read};
use ferrovirt_qemu::protocol::{Event, State};
use ferrovirt_sys::{netns, seqpacket::Connection};
use serde_json::Value;
use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs, io,
    net::{Ipv4Addr, TcpStream},
    path::PathBuf,
    time::Duration,
};

pub const TIMEOUT: Duration = Duration::from_secs(180);

/// The part `api`: what is sent to it, of which nothing is read twice.
pub struct Api {
    connection: Connection,
    pub said: RefCell<Vec<String>>,
    links: RefCell<BTreeMap<String, u64>>,
}

impl Api {
    pub fn connect(net: &Process) -> Result<Self> {
        let socket = PathBuf::from(format!("/proc/{}/root/run/ferrovirt-net/api.sock", net.pid));
        let connection = wait("the socket of net", TIMEOUT, || Ok(Connection::connect(&socket).ok()))?;
        connection.set_nonblocking(true)?;
        Ok(Self { connection, said: RefCell::default(), links: RefCell::default() })
    }

    pub fn ask(&self, head: &FromApi, body: &[u8]) -> Result<()> {
        let line = serde_json::to_vec(head)?;
        Ok(self.connection.send(&[&line, &b"\n"[..], body].concat(), &[])?)
    }

    /// Reads on until something is what is looked for.
    pub fn until<T>(&self, what: &str, look: impl Fn(&ToApi, &[u8]) -> Option<T>) -> Result<T> {
        wait(what, TIMEOUT, || {
            loop {
                let bytes = match self.connection.recv(MOST) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                    other => other?.context("net has closed the connection")?.bytes,
                };
                let (head, body) = read::<ToApi>(&bytes)?;
                if let ToApi::Linked { slot, link, .. } = &head {
                    self.links.borrow_mut().insert(slot.clone(), *link);
                }
                self.said.borrow_mut().push(format!("{head:?} {}", String::from_utf8_lossy(body)));
                if let Some(found) = look(&head, body) {
                    return Ok(Some(found));
                }
            }
        })
        .with_context(|| self.said.borrow().join("\n"))
    }

    /// The slot's last link; a number that none has before the first.
    pub fn link(&self, slot: &str) -> u64 {
        self.links.borrow().get(slot).copied().unwrap_or_default()
    }

    pub fn slot(&self, pod: &str) -> Result<String> {
        self.until(&format!("the slot of {pod}"), |head, _| match head {
            ToApi::Slot { slot, holder, .. } if holder.pod == pod => Some(slot.clone()),
            _ => None,
        })
    }

    pub fn state(&self, of: &str, wanted: State) -> Result<()> {
        self.until(&format!("the state {wanted:?}"), |head, body| {
            match (head, serde_json::from_slice(body)) {
                (ToApi::Said { slot, .. }, Ok(Event::State { state, .. })) if slot == of => {
                    (state == wanted).then_some(())
                }
                _ => None,
            }
        })
    }

    /// Asks for a network; `net`'s answer.
    pub fn prepare(&self, slot: &str, addresses: Vec<Ipv4Addr>) -> Result<ToApi> {
        let wanted = Wanted {
            queues: 1,
            binding: Binding::Masquerade { ports: vec![] },
            mtu: None,
            addresses: addresses.into_iter().map(Into::into).collect(),
        };
        self.ask(&FromApi::Prepare { slot: slot.to_owned(), link: self.link(slot), wanted }, &[])?;
        self.until("an answer", |head, _| match head {
            ToApi::Ready { slot: of, .. } | ToApi::Refused { slot: of, .. } if of == slot => {
                Some(head.clone())
            }
            _ => None,
        })
    }
}

pub struct Test {
    pub cluster: Own,
    pub node: Node,
}

impl Test {
    /// [`Self::whole`] without the part `api`, which the test plays: `net` hears one alone.
    pub fn start(name: &str) -> Result<Self> {
        Self::with(Options { name: name.to_owned(), nodes: 1, ..Options::default() })
    }

    /// The same with other options.
    pub fn with(options: Options) -> Result<Self> {
        let test = Self::whole(options)?;
        let patch = r#"[{"op":"test","path":"/spec/template/spec/containers/2/name","value":"api"},
            {"op":"remove","path":"/spec/template/spec/containers/2"}]"#;
        test.cluster.output(&[
            "patch",
            "daemonset",
            "virt-handler",
            "-n",
            "kubevirt",
            "--type=json",
            "-p",
            patch,
        ])?;
        test.kubectl("rollout status daemonset/virt-handler -n kubevirt --timeout=180s")
            .with_context(|| test.log())?;
        Ok(test)
    }

    /// The manifests that were applied.
    pub fn file(&self) -> PathBuf {
        ferrovirt_e2e::root().join("deploy/ferrovirt.yaml")
    }

    /// A cluster of one node on which Ferrovirt is installed, with a namespace `vms` of level restricted.
    pub fn whole(options: Options) -> Result<Self> {
        let programs = ferrovirt_e2e::Cluster::binaries()?;
        let cluster = Own::with(options)?;
        let mut archives = Vec::new();
        for program in ["ferrovirt", "virt-handler", "virt-launcher"] {
            let archive = cluster.layout().path(format!("{program}.tar"));
            let name = format!("localhost/ferrovirt/{program}:{}", env!("CARGO_PKG_VERSION"));
            let mut image = images::program(&name, &programs.join(program))?;
            if program == "virt-launcher" {
                images::add_qemu(&mut image)?;
            }
            image.write(&archive)?;
            archives.push(archive);
        }
        cluster.load(&archives)?;
        let node = cluster.layout().nodes().pop().context("no node")?;
        let test = Test { cluster, node };
        test.kubectl(&format!("apply -f {}", test.file().display()))?;
        test.cluster.apply(
            "{apiVersion: v1, kind: Namespace, metadata: {name: vms, labels: {pod-security.kubernetes.io/enforce: restricted}}}",
        )?;
        test.kubectl("wait kubevirt/kubevirt -n kubevirt --for=create --timeout=180s")?;
        // Before that nobody completes and checks machines, and none is made.
        let available = "wait kubevirt/kubevirt -n kubevirt --for=condition=Available --timeout=180s";
        test.kubectl(available).with_context(|| test.log())?;
        let patch = r#"{"spec":{"configuration":{"developerConfiguration":{"useEmulation":true}}}}"#;
        test.cluster.output(&[
            "patch",
            "kubevirt",
            "kubevirt",
            "-n",
            "kubevirt",
            "--type=merge",
            "-p",
            patch,
        ])?;
        // Until the controller manager has made it, every pod is refused.
        wait("the service account of vms", TIMEOUT, || {
            Ok(test.kubectl("get serviceaccount default -n vms").ok())
        })?;
        Ok(test)
    }

    /// The process of `net`, and a connection to it as `api` has one.
    pub fn net(&self) -> Result<(Process, Api)> {
        let net = wait("net", TIMEOUT, || Ok(self.processes(&["--api-socket="]).into_iter().next()))
            .with_context(|| self.log())?;
        let api = Api::connect(&net).with_context(|| self.log())?;
        let problem = api.until("the node", |head, _| match head {
            ToApi::Node { problem } => Some(problem.clone()),
            _ => None,
        })?;
        ensure!(problem.is_none(), "{problem:?}");
        Ok((net, api))
    }

    /// The cluster's API server for its administrator; it is reached from its own network alone.
    pub fn server(&self) -> Result<Server> {
        let namespace = netns::open(&network::file(&self.cluster.layout().namespace()))?;
        Server::of(&self.json("config view --raw --minify")?, move |address| {
            netns::run_in(&namespace, || TcpStream::connect(address))
        })
    }

    pub fn kubectl(&self, words: &str) -> Result<String> {
        self.cluster.output(&words.split(' ').collect::<Vec<_>>())
    }

    pub fn json(&self, words: &str) -> Result<Value> {
        self.cluster.json(&words.split(' ').collect::<Vec<_>>())
    }

    pub fn log(&self) -> String {
        let words =
            "logs -n kubevirt -l kubevirt.io --all-containers --tail=-1 --prefix --max-log-requests=20";
        let said = [words, "get vm,vmi -n vms -o yaml", "describe pods -A", "get events -A"]
            .map(|words| self.kubectl(words).unwrap_or_default());
        said.join("\n")
    }

    /// The node's processes whose command lines have all of these words.
    pub fn processes(&self, words: &[&str]) -> Vec<Process> {
        let found =
            Process::find(|all| words.iter().all(|word| all.iter().any(|argument| argument.contains(word))));
        let group = format!("{}/", self.node.cgroup);
        let here = |process: &Process| {
            fs::read_to_string(format!("/proc/{}/cgroup", process.pid))
                .is_ok_and(|text| text.contains(&group))
        };
        found.into_iter().filter(here).collect()
    }

    pub fn address(&self, namespace: &str, pod: &str) -> Result<Ipv4Addr> {
        wait(&format!("the address of {pod}"), TIMEOUT, || {
            let pod = self.json(&format!("get pod {pod} -n {namespace}"))?;
            Ok(pod["status"]["podIP"].as_str().map(str::parse).transpose()?)
        })
        .with_context(|| self.log())
    }
}
