//! The node agent's part: sockets, TAP queues, the order.

use crate::{plan, world};
use anyhow::{Context, Result, anyhow, bail};
use ferrovirt_lab_guest::{Port, label};
use ferrovirt_nested::{LOG, Outcome, POD, Plan, Scenario};
use ferrovirt_qemu::{
    order::Tap,
    protocol::{Event, LISTEN_FD, MAX_MESSAGE, Purpose, Request, State},
};
use ferrovirt_sys::{
    link,
    process::{Setup, spawn},
    seqpacket::{Connection, Listener},
    tap, udp,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, Signal, kill_process},
};
use std::{
    fs,
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
    os::unix::{fs::chown, net::UnixStream},
    process::{Child, Command},
    time::{Duration, Instant},
};

const SOCKET: &str = "/var/run/kubevirt/sockets/launcher-sock";
const SCRATCH: &str = "/var/run/kubevirt-ephemeral-disks";
const SCREEN: &str = "/var/run/kubevirt/sockets/vnc.sock";
const SERIAL: &str = "/var/run/kubevirt/serial.log";

pub(crate) fn run() -> Result<()> {
    let plan = plan()?;
    fs::write("/sys/fs/selinux/enforce", if plan.enforcing { "1" } else { "0" })
        .context("switching enforcement")?;
    for scenario in &plan.scenarios {
        mark(&format!("nested: begin {}", scenario.name))?;
        let outcome = attempt(&plan, scenario);
        mark(&format!("nested: end {}", scenario.name))?;
        Port::open()?.report(outcome)?;
        let enforced = fs::read_to_string("/sys/fs/selinux/enforce")?;
        anyhow::ensure!(enforced.trim() == if plan.enforcing { "1" } else { "0" }, "enforcement was changed");
    }
    Ok(())
}

/// A line in the kernel's log.
fn mark(line: &str) -> Result<()> {
    Ok(fs::OpenOptions::new().write(true).open("/dev/kmsg")?.write_all(line.as_bytes())?)
}

fn attempt(plan: &Plan, scenario: &Scenario) -> Outcome {
    let start = Instant::now();
    let deadline = start + Duration::from_secs(scenario.timeout);
    let mut log = String::new();
    let mut serial = String::new();
    let failure = world::furnish(scenario).and_then(|()| {
        let mut machine = Machine::start(plan, scenario)?;
        let done = machine.live(scenario, deadline);
        serial = fs::read(format!("{POD}{SERIAL}"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default();
        let ended = machine.end(plan);
        label::on_exec("")?;
        log = match (ended, &done) {
            (Ok(log), _) => log,
            (Err(error), Ok(())) => return Err(error),
            (Err(error), Err(_)) => format!("{error:#}"),
        };
        done
    });
    let failure = match (&scenario.fails, failure) {
        (None, done) => done,
        (Some(wanted), Ok(())) => Err(anyhow!("it did not fail with {wanted:?}")),
        (Some(wanted), Err(error)) if format!("{error:#}").contains(wanted) => Ok(()),
        (Some(wanted), Err(error)) => Err(error.context(format!("it did not fail with {wanted:?}"))),
    };
    let cleared = world::clear(scenario).and_then(|()| world::pages_are_back(plan.setup.huge_pages));
    Outcome {
        name: scenario.name.clone(),
        domain: scenario.domain.clone(),
        failure: failure.and(cleared).err().map(|error| format!("{error:#}")),
        took: start.elapsed().as_millis().try_into().unwrap_or(u64::MAX),
        serial,
        log,
    }
}

struct Machine {
    runtime: Child,
    output: std::io::PipeReader,
    agent: Option<Connection>,
    domain: String,
    by_agent: bool,
    /// The launcher has said that it ends.
    ended: bool,
}

impl Machine {
    fn start(plan: &Plan, scenario: &Scenario) -> Result<Self> {
        let path = format!("{POD}{SOCKET}");
        let listener = Listener::bind(path.as_ref()).context("the launcher's socket")?;
        chown(&path, Some(crate::runtime::USER), Some(crate::runtime::USER))?;
        let (output, writer) = std::io::pipe()?;
        let mut command;
        if scenario.by_agent {
            command = own_program(&["crun", &scenario.domain]);
            command.stdout(fs::File::options().append(true).create(true).open(format!("{POD}{LOG}"))?);
        } else {
            command = in_runtime(plan, &["runtime", &scenario.domain])?;
            command.stdout(writer.try_clone()?);
        }
        command.stderr(writer);
        let fds = vec![(listener.as_fd().try_clone_to_owned()?, LISTEN_FD)];
        let runtime = spawn(command, Setup { fds, ..Setup::default() });
        label::on_exec("")?;
        let runtime = runtime.context("starting the runtime")?;
        drop(listener);
        let (domain, by_agent) = (scenario.domain.clone(), scenario.by_agent);
        let mut machine = Self { runtime, output, agent: None, domain, by_agent, ended: false };
        match Connection::connect(path.as_ref()) {
            Ok(agent) => machine.agent = Some(agent),
            Err(error) => {
                let log = machine.end(plan)?;
                bail!("the launcher does not listen: {error}; {}", log.trim());
            }
        }
        Ok(machine)
    }

    fn live(&mut self, scenario: &Scenario, deadline: Instant) -> Result<()> {
        match self.event(deadline).context("the launcher says nothing")? {
            (State::Waiting, _) => {}
            (other, _) => bail!("the launcher begins with {other:?}"),
        }
        let (purposes, fds) = devices(scenario).context("the agent's own devices")?;
        if !purposes.is_empty() {
            self.send(&Request::Descriptors { purposes }, &fds)?;
        }
        drop(fds);
        self.send(&Request::Start { order: Box::new(scenario.order.clone()) }, &[])?;
        let path = format!("{POD}{SERIAL}");
        let mut qemu = None;
        loop {
            let said = fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            let said = said.unwrap_or_default();
            let all = scenario.expect.iter().all(|line| said.contains(line.as_str()));
            if all && scenario.fails.is_none() {
                looks(scenario)?;
                return if scenario.deaf { self.deafen(qemu) } else { Ok(()) };
            }
            let soon = deadline.min(Instant::now() + Duration::from_millis(200));
            match self.event(soon) {
                Ok((State::Ended { ending, message }, _)) => {
                    bail!("the guest ended ({ending:?}): {}", message.trim());
                }
                Ok((_, pid)) => qemu = pid.or(qemu),
                Err(error) if Instant::now() >= deadline => {
                    let line = scenario.expect.iter().find(|line| !said.contains(line.as_str()));
                    bail!("{error:#}; the guest did not say {line:?} in time");
                }
                Err(error) if error.downcast_ref::<Late>().is_none() => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Stops QEMU's process and has the launcher end it: it waits some seconds for an answer, then kills.
    fn deafen(&mut self, qemu: Option<i32>) -> Result<()> {
        let qemu = qemu.and_then(Pid::from_raw).context("the launcher tells no process of QEMU")?;
        kill_process(qemu, Signal::STOP).context("stopping QEMU")?;
        self.send(&Request::Shutdown { grace_seconds: Some(0) }, &[])?;
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let said =
                self.event(deadline).context("the launcher does not kill a QEMU that does not answer")?;
            if let (State::Ended { .. }, _) = said {
                self.ended = true;
                return Ok(());
            }
        }
    }

    fn send(&self, request: &Request, fds: &[OwnedFd]) -> Result<()> {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let agent = self.agent.as_ref().context("not connected")?;
        agent.send(&serde_json::to_vec(request)?, &fds).context("sending to the launcher")
    }

    fn event(&self, deadline: Instant) -> Result<(State, Option<i32>)> {
        let agent = self.agent.as_ref().context("not connected")?;
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = Timespec { tv_sec: left.as_secs().try_into()?, tv_nsec: left.subsec_nanos().into() };
        if poll(&mut [PollFd::new(agent, PollFlags::IN)], Some(&wait))? == 0 {
            return Err(Late.into());
        }
        let message = agent.recv(MAX_MESSAGE)?.context("the launcher closed the connection")?;
        match serde_json::from_slice(&message.bytes)? {
            Event::State { state, qemu_pid } => Ok((state, qemu_pid)),
            Event::Refused { message, .. } => bail!("refused: {message}"),
            Event::NotReady { message } => bail!("not ready: {message}"),
            Event::Network => bail!("descriptors that nobody asked for"),
        }
    }

    /// Has the runtime kill the launcher, with which QEMU dies; what both logged.
    fn end(&mut self, plan: &Plan) -> Result<String> {
        let runtime = self.runtime.id();
        let children = fs::read_to_string(format!("/proc/{runtime}/task/{runtime}/children"));
        let mut killed = Ok(());
        for launcher in children.unwrap_or_default().split_whitespace().filter(|_| !self.ended) {
            let command = if self.by_agent {
                Ok(own_program(&["kill", launcher]))
            } else {
                in_runtime(plan, &["kill", launcher])
            };
            killed = command.and_then(|mut command| Ok(command.status()?)).and_then(|status| {
                match status.success() {
                    true => Ok(()),
                    false => Err(anyhow!("the runtime could not kill the launcher")),
                }
            });
        }
        let (mut log, closed) = self.output(Duration::from_secs(15))?;
        if self.by_agent {
            let file = fs::read_to_string(format!("{POD}{LOG}"))?;
            anyhow::ensure!(!file.is_empty(), "the launcher could not write its log: {log}");
            log.push_str(&file);
        }
        let ended = closed && gone(&self.domain, Duration::from_secs(15));
        let mut rest = String::new();
        if !ended {
            // Whatever is left would be in the way of the next one.
            for left in processes(&self.domain) {
                let _ = kill_process(left, Signal::KILL);
            }
            rest = self.output(Duration::from_secs(15))?.0;
        }
        let _ = self.runtime.kill();
        let _ = self.runtime.wait();
        killed?;
        if !ended {
            bail!("QEMU outlives its launcher; {log}{rest}");
        }
        Ok(log)
    }

    /// What comes out of the pipe until its other end is closed, and whether that came in time.
    fn output(&mut self, timeout: Duration) -> Result<(String, bool)> {
        let deadline = Instant::now() + timeout;
        let mut log = Vec::new();
        let mut piece = [0; 4096];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let wait = Timespec { tv_sec: left.as_secs().try_into()?, tv_nsec: left.subsec_nanos().into() };
            let ready = poll(&mut [PollFd::new(&self.output, PollFlags::IN)], Some(&wait))? > 0;
            let length = if ready { self.output.read(&mut piece)? } else { 0 };
            log.extend_from_slice(piece.get(..length).unwrap_or_default());
            if length == 0 {
                return Ok((String::from_utf8_lossy(&log).into_owned(), ready));
            }
        }
    }
}

/// A command of this program in the runtime's domain; it has to be started before another one is made.
fn in_runtime(plan: &Plan, words: &[&str]) -> Result<Command> {
    label::on_exec(&format!("system_u:system_r:{}:s0", plan.runtime))?;
    Ok(own_program(words))
}

/// A command of this program in this one's domain.
fn own_program(words: &[&str]) -> Command {
    let mut command = Command::new("/init");
    command.args(words);
    command
}

/// Every process of a type that has not ended; one that only waits to be reaped has no command line.
fn processes(domain: &str) -> Vec<Pid> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let number = process.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        let label = fs::read_to_string(process.path().join("attr/current")).unwrap_or_default();
        let alive = fs::read(process.path().join("cmdline")).is_ok_and(|line| !line.is_empty());
        found.extend(number.filter(|_| alive && label.contains(&format!(":{domain}:"))));
    }
    found
}

/// Waits until no process of a type is left.
fn gone(domain: &str, timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    while !processes(domain).is_empty() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    true
}

/// What a running machine looks like from outside.
fn looks(scenario: &Scenario) -> Result<()> {
    if !scenario.order.disks.is_empty() {
        let locks = fs::read_to_string("/proc/locks")?;
        // Locks of a process would be lost as soon as it closes the file once.
        anyhow::ensure!(locks.contains("OFDLCK"), "QEMU's locks of disks are not those of open files");
        for entry in fs::read_dir(format!("{POD}{SCRATCH}"))? {
            let name = entry?.file_name();
            let left = name.to_string_lossy().starts_with("vl.");
            anyhow::ensure!(!left, "the file of an overlay stays behind");
        }
    }
    if scenario.order.graphics {
        let mut screen = UnixStream::connect(format!("{POD}{SCREEN}")).context("the screen's socket")?;
        screen.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut greeting = [0; 3];
        screen.read_exact(&mut greeting).context("the screen does not answer")?;
        anyhow::ensure!(greeting == *b"RFB", "the screen does not speak VNC");
    }
    Ok(())
}

#[derive(Debug)]
struct Late;

impl std::fmt::Display for Late {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("time is over")
    }
}

impl std::error::Error for Late {}

/// TAP queues and sockets of the machine's interfaces.
fn devices(scenario: &Scenario) -> Result<(Vec<Purpose>, Vec<OwnedFd>)> {
    let (mut purposes, mut fds) = (Vec::new(), Vec::new());
    for (number, nic) in scenario.order.nics.iter().enumerate() {
        if nic.tap != Tap::Passed {
            continue;
        }
        let interface = format!("tap{number}");
        for queue in tap::create(&interface, nic.queues, 0).context("creating the TAP")? {
            purposes.push(Purpose::TapQueue { nic: nic.name.clone() });
            fds.push(queue);
        }
        link::up(&interface)?;
        if nic.dhcp.is_some() {
            purposes.push(Purpose::Dhcp { nic: nic.name.clone() });
            fds.push(udp::dhcp_server(&interface).context("the socket of DHCP")?);
        }
    }
    Ok((purposes, fds))
}
