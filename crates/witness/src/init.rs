//! The first process: sets the guest up, starts the workers, makes the kernel enforce, and lets them run in turn.
//!
//! The workers enter their domains while the kernel is still permissive: the domain of the first process, the kernel's own,
//! may not start them in any known policy. That production's runtime may is a right of its own, and no part of this.

use crate::{
    scenario::{self, Scenario, Worker},
    worker::{DONE, GO, READY, shared},
};
use ferrovirt_sys::{shared::Shared, tap};
use rustix::{
    fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr},
    mount::{MountFlags, mount},
    process::{Pid, WaitOptions, waitpid},
    system::{RebootCommand, finit_module, reboot, uname},
};
use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Read as _, Seek as _, Write},
    os::fd::OwnedFd,
    path::Path,
    process::{Child, Command, ExitCode},
    time::Duration,
};

/// Where the policy is in the initial file system.
const POLICY: &str = "/policy";
/// The disk on which the host finds the policy that the kernel has loaded.
const DISK: &str = "/dev/nvme0n1";

/// The node's own device, which the agent opens.
const NODE: &str = "/dev/net/tun";

/// How often it is looked whether a worker still lives.
const LOOK: Duration = Duration::from_millis(50);

/// Does everything and ends the guest.
pub(crate) fn run() -> ExitCode {
    if let Err(error) = mounts() {
        eprintln!("cannot mount: {error}");
        return ExitCode::FAILURE;
    }
    let Ok(mut port) = File::options().write(true).open("/dev/ttyS1") else {
        eprintln!("the guest has no second serial port");
        return ExitCode::FAILURE;
    };
    let done = conduct(&mut port);
    let _ = match done {
        Ok(()) => port.write_all(b"end\n"),
        Err(error) => port.write_all(format!("error\t{}\n", error.to_string().replace('\n', " ")).as_bytes()),
    };
    let _ = rustix::termios::tcdrain(&port);
    // Without the right to it, the end of the first process stops the guest as well.
    let _ = reboot(RebootCommand::Restart);
    ExitCode::SUCCESS
}

/// Says what was tried.
fn context(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::other(format!("{what}: {error}"))
}

fn mounts() -> io::Result<()> {
    for (kind, place) in
        [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("selinuxfs", "/sys/fs/selinux")]
    {
        fs::create_dir_all(place)?;
        mount(kind, place, kind, MountFlags::empty(), None).map_err(|error| context(place)(error.into()))?;
    }
    Ok(())
}

fn conduct(port: &mut File) -> io::Result<()> {
    // Records beyond a rate are dropped otherwise.
    fs::write("/proc/sys/kernel/printk_ratelimit", "0")?;
    let text = fs::read_to_string("/scenario").map_err(context("/scenario"))?;
    let scenario = scenario::parse(&text)?;
    modules()?;
    fs::write("/proc/sys/vm/nr_hugepages", scenario.huge_pages.to_string())?;
    writeln!(port, "kernel\t{}", uname().release().to_string_lossy())?;
    load(port)?;
    ask(&scenario, port)?;
    for (path, kind) in [("/init", "container_file_t"), (NODE, "tun_tap_device_t")] {
        let label = label(&format!("system_u:object_r:{kind}:s0"))?;
        setxattr(path, "security.selinux", label.to_bytes_with_nul(), XattrFlags::empty())
            .map_err(|error| context(format_args!("labelling {path}"))(error.into()))?;
    }
    fs::create_dir_all("/huge")?;
    mount("hugetlbfs", "/huge", "hugetlbfs", MountFlags::empty(), Some(c"mode=1777"))?;
    let mut workers = Vec::new();
    for worker in &scenario.workers {
        workers.push(
            Running::start(worker, &scenario.agent)
                .map_err(context(format_args!("worker {} in {}", worker.number, worker.context)))?,
        );
    }
    let mut log = File::open("/dev/kmsg")?;
    let mut enforce = File::options().read(true).write(true).open("/sys/fs/selinux/enforce")?;
    enforce.write_all(b"1").map_err(context("switching to enforcing"))?;
    for running in &mut workers {
        let how = running.perform()?;
        for line in running.shared.text().lines() {
            writeln!(port, "seen\t{}\t{line}", running.number)?;
        }
        writeln!(port, "worker\t{}\t{how}\t{}", running.number, enforcing(&mut enforce)?)?;
    }
    drain(&mut log, &mut enforce)
}

fn modules() -> io::Result<()> {
    for entry in fs::read_dir("/modules").map_err(context("/modules"))? {
        let path = entry?.path();
        finit_module(File::open(&path)?, c"", 0).map_err(|error| context(path.display())(error.into()))?;
    }
    Ok(())
}

/// Loads the policy in one write, as the kernel wants it, and hands back what the kernel then has.
fn load(port: &mut File) -> io::Result<()> {
    let policy = fs::read(POLICY).map_err(context(POLICY))?;
    let mut file =
        File::options().write(true).open("/sys/fs/selinux/load").map_err(context("/sys/fs/selinux/load"))?;
    let written = file.write(&policy).map_err(context("the kernel refuses the policy"))?;
    if written != policy.len() {
        return Err(io::Error::other("the kernel took only a part of the policy"));
    }
    if !Path::new(DISK).exists() {
        return Ok(());
    }
    let mut loaded = fs::read("/sys/fs/selinux/policy").map_err(context("/sys/fs/selinux/policy"))?;
    writeln!(port, "loaded\t{}", loaded.len())?;
    // Disks take whole blocks.
    loaded.resize(loaded.len().next_multiple_of(4096), 0);
    let mut disk = File::options().write(true).open(DISK).map_err(context(DISK))?;
    disk.write_all(&loaded)?;
    disk.sync_all()
}

/// Asks the kernel for its decisions, without any operation.
fn ask(scenario: &Scenario, port: &mut File) -> io::Result<()> {
    for (number, [source, target, class]) in scenario.questions.iter().enumerate() {
        let index = format!("/sys/fs/selinux/class/{class}/index");
        let index = fs::read_to_string(&index).map_err(context(&index))?;
        let mut file = File::options().read(true).write(true).open("/sys/fs/selinux/access")?;
        // One write is one question.
        let question = format!("{source} {target} {}", index.trim());
        let answer = match file.write_all(question.as_bytes()) {
            Ok(()) => {
                let mut answer = String::new();
                file.read_to_string(&mut answer)?;
                answer
            }
            Err(error) => format!("refused {error}"),
        };
        writeln!(port, "answer\t{number}\t{}", answer.trim())?;
    }
    Ok(())
}

fn label(text: &str) -> io::Result<CString> {
    Ok(CString::new(text)?)
}

/// A TAP device with two queues as the node agent makes it: the second one is switched off, as QEMU does at first.
///
/// Descriptors and devices carry the context of the process that makes them, so this one takes the agent's for a while.
fn queues(node: &str, name: &str, agent: &str) -> io::Result<[OwnedFd; 2]> {
    const CURRENT: &str = "/proc/thread-self/attr/current";
    let own = fs::read_to_string(CURRENT)?;
    fs::write(CURRENT, agent).map_err(context(format_args!("cannot become {agent}")))?;
    let queue = || -> io::Result<OwnedFd> {
        let queue: OwnedFd = tap::open_node(node)?.into();
        tap::join(&queue, name, true)?;
        Ok(queue)
    };
    let queues = [queue()?, queue()?];
    tap::enable(&queues[1], false)?;
    fs::write(CURRENT, own.trim_end_matches('\0'))?;
    Ok(queues)
}

/// A worker that is there.
struct Running {
    number: u32,
    shared: Shared,
    child: Child,
}

impl Running {
    /// Makes the worker's directory, starts it in its domain and waits until it is ready.
    fn start(worker: &Worker, agent: &str) -> io::Result<Self> {
        let directory = format!("/w/{}", worker.number);
        fs::create_dir_all(&directory)?;
        // A level has a comma, which the option's quotes protect.
        let options = label(&format!("mode=0755,context=\"{}\"", worker.files))?;
        mount("tmpfs", &directory, "tmpfs", MountFlags::empty(), Some(options.as_c_str()))?;
        let node = format!("{directory}/tun");
        mknodat(CWD, &node, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(10, 200))?;
        let foreign: OwnedFd = tap::open_node(&node)?.into();
        tap::join(&foreign, &format!("far{}", worker.number), false)?;
        tap::keep(&foreign)?;
        drop(foreign);
        let [first, second] = queues(NODE, &format!("age{}", worker.number), agent)?;
        let shared = shared(worker.number)?;
        // The context goes to the child with the credentials, and counts at its exec.
        fs::write("/proc/thread-self/attr/exec", &worker.context)
            .map_err(context("the kernel does not take the context"))?;
        let neighbour = worker.neighbour.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let child = Command::new("/init")
            .args(["worker", &worker.number.to_string(), &neighbour])
            .args(&worker.operations)
            .stdin(first)
            .stdout(second)
            .spawn();
        fs::write("/proc/thread-self/attr/exec", "\0")?;
        let mut running = Self { number: worker.number, shared, child: child? };
        while !running.shared.wait(READY, LOOK) {
            if let Some(status) = running.child.try_wait()? {
                return Err(io::Error::other(format!("it ended before it was ready: {status}")));
            }
        }
        Ok(running)
    }

    /// Lets it do its operations; how that went.
    fn perform(&mut self) -> io::Result<String> {
        self.shared.set_state(GO);
        while !self.shared.wait(DONE, LOOK) {
            let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
            if let Some((_, status)) = waitpid(pid, WaitOptions::NOHANG)? {
                return Ok(match status.terminating_signal() {
                    Some(signal) => format!("killed by signal {signal}"),
                    None => "ended early".to_owned(),
                });
            }
        }
        Ok("complete".to_owned())
    }
}

/// Whether the kernel enforces: `1`.
fn enforcing(file: &mut File) -> io::Result<String> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}

/// Waits until every record so far is in the kernel's log: they are written by a thread of the kernel, in order. Switching
/// enforcing off makes one more, whether it is allowed (a change of status) or refused (a denial).
fn drain(log: &mut File, enforce: &mut File) -> io::Result<()> {
    rustix::thread::set_name(c"drain")?;
    enforce.rewind()?;
    let _ = enforce.write_all(b"0");
    let mut record = vec![0_u8; 8192];
    let mut switches = 0;
    loop {
        let length = match log.read(&mut record) {
            Ok(length) => length,
            // Older records were overwritten: go on with those that are there.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => continue,
            Err(error) => return Err(error),
        };
        let line = String::from_utf8_lossy(record.get(..length).unwrap_or_default()).into_owned();
        switches += i32::from(line.contains("type=1404"));
        if switches > 1 || line.contains("comm=\"drain\"") {
            return Ok(());
        }
    }
}
