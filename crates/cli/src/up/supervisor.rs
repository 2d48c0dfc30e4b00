//! The process that starts the others. One thread, one loop: signals, and what the API server says.

use super::{
    Options,
    api::{AGENT_SOCKET, CONTROL, LISTENER, LOCK, RUN, SYSTEM},
    control::{self, Heard, Kvm, Lines, Said, Settings},
    credentials::Credentials,
    layout::{self, Layout},
    output::write_only,
    part::{Part, poll_for},
};
use anyhow::{Context, Result, bail, ensure};
use ferrovirt_apiserver::server::bind;
use ferrovirt_node::{devices, status::PODS};
use ferrovirt_plan::render::{capabilities, handler};
use ferrovirt_sys::{
    kvm,
    process::{Setup, spawn},
    rights,
    signal::SignalFd,
};
use rustix::{
    event::{PollFd, PollFlags},
    fs::{Mode, OFlags, open},
    process::Signal,
};
use std::{
    io::{self, Write},
    net::{Ipv4Addr, TcpListener},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Exit code of an agent whose directory belongs to another cluster: starting it again does not help.
const AGENT_REFUSES: i32 = 78;
/// Messages of the API server that are heard before signals are looked at again.
const AT_ONCE: usize = 16;

/// Runs until SIGINT or SIGTERM, or until the API server cannot be started at all.
pub(super) fn run(options: &Options) -> Result<()> {
    rights::hide_memory()?;
    let signals = SignalFd::new(&[Signal::INT, Signal::TERM, Signal::CHILD])?;
    if !rights::end_late()? {
        tracing::info!(
            "root lacks CAP_SYS_RESOURCE here: when memory runs out this may end before guests do"
        );
    }
    drop_rights()?;
    let layout = Layout::make(options)?;
    let listener = bind(options.listen)?;
    // Kept as long as this process runs: the agent goes on to connect to it after the API server was started again.
    let system = bind((Ipv4Addr::LOCALHOST, 0).into())?;
    let mut parts = Parts {
        api: Part::new("API server"),
        agent: Part::new("node agent"),
        plug: Part::new("part of the handler that offers places"),
    };
    let mut supervisor = Supervisor {
        options,
        layout,
        listener,
        system,
        kvm: None,
        cluster: None,
        credentials: Credentials::default(),
        spoken: false,
    };
    let outcome = supervisor.supervise(&signals, &mut parts);
    if supervisor.spoken {
        print(&format!(
            "stopping; machines keep running and are adopted by the next `ferrovirt up` on {}",
            options.data_dir.display()
        ));
    }
    // All, whatever the first one does.
    let ended = [parts.agent.end(&signals), parts.plug.end(&signals), parts.api.end(&signals)];
    ended.into_iter().fold(outcome, Result::and)
}

/// Says something to who started this. A place that takes nothing, such as a file on a full disk, is no reason to end.
fn print(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Keeps the capabilities that the privilege table lists for this process; the node agent may have its own.
fn drop_rights() -> Result<()> {
    let set = |names: Vec<String>| {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        rights::set(names).context("the privilege table names an unknown capability")
    };
    let agent = set(capabilities::agent())? | set(capabilities::containers())?;
    rights::keep(set(capabilities::supervisor())?, agent).context("giving up capabilities")
}

/// Waits for anything to do, at the latest until `next`; true when this process is to end.
fn wait(signals: &SignalFd, lines: Option<&Lines>, next: Option<Instant>) -> Result<bool> {
    let mut timeout = next.map(|next| next.saturating_duration_since(Instant::now()));
    if lines.is_some_and(Lines::is_waiting) {
        timeout = Some(Duration::ZERO);
    }
    let mut all = vec![PollFd::new(signals, PollFlags::IN)];
    all.extend(lines.map(|lines| PollFd::new(lines.stream(), PollFlags::IN)));
    poll_for(&mut all, timeout)?;
    while let Some(signal) = signals.read()? {
        if signal != Signal::CHILD.as_raw() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The processes that are started.
struct Parts {
    api: Part,
    agent: Part,
    /// `virt-handler plug`.
    plug: Part,
}

/// What the parts are started with.
struct Supervisor<'a> {
    options: &'a Options,
    layout: Layout,
    listener: TcpListener,
    /// For controllers and agent alone.
    system: TcpListener,
    kvm: Option<kvm::Kvm>,
    /// Identity of the cluster, which the agent compares with that of its directory.
    cluster: Option<String>,
    credentials: Credentials,
    /// The API server was ready once, and people were informed.
    spoken: bool,
}

impl Supervisor<'_> {
    /// Keeps them running until a signal says that this is to end.
    fn supervise(&mut self, signals: &SignalFd, parts: &mut Parts) -> Result<()> {
        let Parts { api, agent, plug } = parts;
        let mut lines = Some(self.start_api(api)?);
        // It opens its store meanwhile.
        let limit = Duration::from_millis(self.options.kvm_timeout.into());
        self.kvm = Some(kvm::probe(limit).context("cannot probe KVM")?);
        lines.iter().for_each(|lines| self.tell_kvm(lines));
        loop {
            if let Some(heard) = lines.as_mut() {
                match self.listen(heard, [&mut *agent, &mut *plug]) {
                    Ok(true) => {}
                    Ok(false) => lines = None,
                    Err(error) => {
                        tracing::error!("the API server is stopped: {error:#}");
                        api.signal(Signal::KILL);
                        lines = None;
                    }
                }
            }
            match api.ended()? {
                Some(status) if !self.spoken => {
                    bail!("the API server did not start ({status}); it says why above");
                }
                Some(status) => api.tell(status),
                None => {}
            }
            match agent.ended()? {
                Some(status) if status.code() == Some(AGENT_REFUSES) => {
                    bail!("the node agent does not work here; it says above why and what to do");
                }
                Some(status) => agent.tell(status),
                None => {}
            }
            if let Some(status) = plug.ended()? {
                plug.tell(status);
            }
            if api.due() {
                let started = self.start_api(api);
                lines = api.again_unless(started)?;
                lines.iter().for_each(|lines| self.tell_kvm(lines));
            }
            if agent.due() {
                let started = self.start_agent(agent);
                agent.again_unless(started)?;
            }
            if plug.due() {
                // Nothing else needs it: without it the node has no places.
                if let Err(error) = self.start_plug(plug) {
                    plug.later(&error);
                }
            }
            self.credentials.retry(Instant::now());
            let next =
                [api.again, agent.again, plug.again, self.credentials.again()].into_iter().flatten().min();
            if wait(signals, lines.as_ref(), next)? {
                return Ok(());
            }
        }
    }

    /// Starts the API server as its user, in its directory, with nothing but descriptors.
    fn start_api(&self, api: &mut Part) -> Result<Lines> {
        let layout = &self.layout;
        let settings = Settings {
            directory: layout.api.clone(),
            node_name: layout.node_name.clone(),
            options: self.options.api.clone(),
        };
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        // This very program, also where its user could not find the way to it.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("ferrovirt").arg("api-server").arg(serde_json::to_string(&settings)?);
        command.stdin(Stdio::null());
        // Root's terminal would tell it what is typed there.
        command.stdout(write_only(io::stdout())).stderr(write_only(io::stderr()));
        let setup = Setup {
            fds: vec![
                (OwnedFd::from(self.listener.try_clone()?), LISTENER),
                (OwnedFd::from(self.system.try_clone()?), SYSTEM),
                (OwnedFd::from(theirs), CONTROL),
                (layout::open(&layout.run)?, RUN),
                (layout.api_lock()?, LOCK),
            ],
            directory: Some(layout::open(&layout.api)?),
            // Its standard error may be root's terminal.
            new_session: true,
            user: Some(self.options.api_user),
            // What it answered is on disk.
            parent_death: Some(Signal::KILL),
            ..Setup::default()
        };
        let child = spawn(command, setup).with_context(|| {
            let program = std::env::current_exe().unwrap_or_default();
            let user = self.options.api_user;
            format!(
                "cannot start the API server as user {user}: can everybody execute {}?",
                program.display()
            )
        })?;
        api.started(child);
        Ok(Lines::new(ours))
    }

    fn tell_kvm(&self, lines: &Lines) {
        let emulate = self.kvm != Some(kvm::Kvm::Usable);
        if let Err(error) = control::say(lines.stream(), &Kvm { emulate }) {
            // Its end is noticed as such.
            tracing::debug!("{error:#}");
        }
    }

    fn start_agent(&self, agent: &mut Part) -> Result<()> {
        let layout = &self.layout;
        let program = layout.programs.join("virt-handler");
        let mut command = Command::new(&program);
        command
            .arg("--kubeconfig")
            .arg(layout.kubeconfig(control::File::Handler))
            .arg("--node-kubeconfig")
            .arg(layout.kubeconfig(control::File::Node))
            .arg("--node-name")
            .arg(&layout.node_name)
            .arg("--cluster-id")
            .arg(self.cluster.as_deref().unwrap_or_default())
            .arg("--data-dir")
            .arg(&layout.agent)
            .arg("--socket")
            .arg(layout.run.join(AGENT_SOCKET))
            .arg("--api-user")
            .arg(self.options.api_user.to_string())
            .arg("--image-dir")
            .arg(&layout.images)
            .arg("--launcher")
            .arg(layout.programs.join("virt-launcher"))
            .arg("--kvm-timeout")
            .arg(self.options.kvm_timeout.to_string())
            .args(self.options.handler_option.iter().map(|option| format!("--{option}")))
            .arg("--follow-parent")
            .stdin(Stdio::null());
        if self.options.install_selinux_policy {
            command.arg("--install-selinux-policy");
        }
        // Runs on the main thread, whose end is what the agent follows.
        let child = spawn(command, Setup { new_session: true, ..Setup::default() });
        agent.started(child.with_context(|| format!("cannot start {}", program.display()))?);
        Ok(())
    }

    /// Starts what offers places for machines to the node agent: root, whose sockets and directories it uses, without a
    /// capability.
    fn start_plug(&self, plug: &mut Part) -> Result<()> {
        let layout = &self.layout;
        let program = layout.programs.join("virt-handler");
        // Opened here: the way to it may be closed to root without a capability, as that to somebody's home is.
        let opened = open(&program, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        let opened = opened.with_context(|| format!("opening {}", program.display()))?;
        let mut command = Command::new(format!("/proc/self/fd/{}", opened.as_raw_fd()));
        command
            .arg0(&program)
            .args(handler::plug_arguments(PODS))
            .arg("--directory")
            .arg(&layout.plug)
            .arg("--device-plugins")
            .arg(devices::plugins(&layout.agent))
            .arg("--pod-resources")
            .arg(devices::resources(&layout.agent).join(devices::SOCKET))
            .stdin(Stdio::null())
            .stdout(write_only(io::stdout()))
            .stderr(write_only(io::stderr()));
        let setup = Setup {
            new_session: true,
            user: Some(0),
            // What it has given away is on disk.
            parent_death: Some(Signal::KILL),
            ..Setup::default()
        };
        let child = spawn(command, setup);
        plug.started(child.with_context(|| format!("cannot start {}", program.display()))?);
        Ok(())
    }

    /// Does what the API server asks for, a few things at once; false when it is gone. The others are started when it is
    /// ready.
    fn listen(&mut self, lines: &mut Lines, others: [&mut Part; 2]) -> Result<bool> {
        for _ in 0..AT_ONCE {
            match lines.next()? {
                Heard::Closed => return Ok(false),
                Heard::Nothing => return Ok(true),
                Heard::Message(Said::Credential { file, kubeconfig }) => {
                    self.credentials.take(file, self.layout.kubeconfig(file), *kubeconfig)?;
                }
                Heard::Message(Said::Ready { cluster }) => {
                    ensure!(
                        control::is_identity(&cluster)
                            && self.cluster.as_ref().is_none_or(|known| *known == cluster),
                        "it says that it is of another cluster than before"
                    );
                    self.cluster = Some(cluster);
                    if !self.spoken {
                        self.spoken = true;
                        self.speak()?;
                        for part in others {
                            part.again = Some(Instant::now());
                        }
                        return Ok(true);
                    }
                }
            }
        }
        Ok(true)
    }

    /// Says where everything is.
    fn speak(&self) -> Result<()> {
        print(&format!("API server: https://{}", self.listener.local_addr()?));
        print(&format!("kubeconfig: {}", self.layout.kubeconfig(control::File::Admin).display()));
        let text = match self.kvm {
            Some(kvm::Kvm::Usable) => "guests run on KVM",
            Some(kvm::Kvm::Absent) => "guests run in software emulation: there is no usable /dev/kvm",
            Some(kvm::Kvm::Broken) => {
                "guests run in software emulation: /dev/kvm refuses to run a virtual processor"
            }
            Some(kvm::Kvm::Hangs) => {
                "guests run in software emulation: /dev/kvm is there, but its virtual processors hang"
            }
            None => bail!("the API server was ready before it could be"),
        };
        print(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_were_read_already_are_not_waited_for() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.write_all(b"{\"emulate\":true}\n{\"emulate\":false}\n").unwrap();
        let mut lines = Lines::new(ours);
        let signals = SignalFd::new(&[Signal::USR2]).unwrap();
        assert!(matches!(lines.next(), Ok(Heard::Message(Kvm { emulate: true }))));
        // Without an end it would wait for the other side.
        assert!(!wait(&signals, Some(&lines), None).unwrap());
        assert!(matches!(lines.next(), Ok(Heard::Message(Kvm { emulate: false }))));
    }
}
