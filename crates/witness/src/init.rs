//! The first process: sets the guest up, starts the workers, makes the kernel enforce, and lets them run in turn.
//!
//! The workers enter their domains while the kernel is still permissive: the domain of the first process, the kernel's own,
//! may not start them in any known policy. That production's runtime may is a right of its own, and no part of this.

use crate::worker::{DONE, GO, READY, shared};
use ferrovirt_lab_protocol::{
    Line,
    proof::{Answer, Question, SCENARIO, Scenario, Seen, Turn, Worker},
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
    let _ = say(
        &mut port,
        &match done {
            Ok(()) => Line::Done,
            Err(error) => Line::Failed(error.to_string()),
        },
    );
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

fn say(port: &mut File, line: &Line<Seen>) -> io::Result<()> {
    port.write_all(line.text()?.as_bytes())
}

fn report(port: &mut File, seen: Seen) -> io::Result<()> {
    say(port, &Line::Report(seen))
}

fn conduct(port: &mut File) -> io::Result<()> {
    // Records beyond a rate are dropped otherwise.
    fs::write("/proc/sys/kernel/printk_ratelimit", "0")?;
    let text = fs::read_to_string(SCENARIO).map_err(context(SCENARIO))?;
    let scenario: Scenario = serde_json::from_str(&text)?;
    modules(&scenario.setup.modules)?;
    fs::write("/proc/sys/vm/nr_hugepages", scenario.setup.huge_pages.to_string())?;
    report(port, Seen::Kernel(uname().release().to_string_lossy().into_owned()))?;
    load(port)?;
    for (number, question) in scenario.questions.iter().enumerate() {
        report(port, Seen::Answer(number, ask(question)?))?;
    }
    for (path, text) in &scenario.setup.labels {
        let label = label(text)?;
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
        let broke = running.perform()?;
        let text = running.shared.text();
        let gave = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let enforcing = enforcing(&mut enforce)?;
        report(port, Seen::Worker(Turn { number: running.number, gave, broke, enforcing }))?;
    }
    drain(&mut log, &mut enforce)
}

fn modules(paths: &[String]) -> io::Result<()> {
    for path in paths {
        let file = File::open(path).map_err(context(path))?;
        finit_module(file, c"", 0).map_err(|error| context(path)(error.into()))?;
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
    report(port, Seen::Loaded(loaded.len() as u64))?;
    // Disks take whole blocks.
    loaded.resize(loaded.len().next_multiple_of(4096), 0);
    let mut disk = File::options().write(true).open(DISK).map_err(context(DISK))?;
    disk.write_all(&loaded)?;
    disk.sync_all()
}

/// Asks the kernel for a decision, without any operation.
fn ask(Question { source, target, class }: &Question) -> io::Result<Answer> {
    let index = format!("/sys/fs/selinux/class/{class}/index");
    let index = fs::read_to_string(&index).map_err(context(&index))?;
    let mut file = File::options().read(true).write(true).open("/sys/fs/selinux/access")?;
    // One write is one question.
    if file.write_all(format!("{source} {target} {}", index.trim()).as_bytes()).is_err() {
        return Ok(None);
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(answer(&text))
}

/// Allowed, decided, recorded when allowed, recorded when denied, and two further numbers, all but one in hexadecimal.
fn answer(text: &str) -> Answer {
    let mut words = text.split_whitespace().map(|word| u32::from_str_radix(word, 16).ok());
    let allowed = words.next().flatten();
    allowed.zip(words.nth(2).flatten())
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
        let child = Command::new("/init")
            .args(["worker", &serde_json::to_string(worker)?])
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

    /// Lets it do its operations; how it ended before it had done them all.
    fn perform(&mut self) -> io::Result<Option<String>> {
        self.shared.set_state(GO);
        while !self.shared.wait(DONE, LOOK) {
            let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
            if let Some((_, status)) = waitpid(pid, WaitOptions::NOHANG)? {
                return Ok(Some(match status.terminating_signal() {
                    Some(signal) => format!("killed by signal {signal}"),
                    None => "ended early".to_owned(),
                }));
            }
        }
        Ok(None)
    }
}

/// Whether the kernel enforces.
fn enforcing(file: &mut File) -> io::Result<bool> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text.trim() == "1")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_the_first_and_the_fourth_number() {
        assert_eq!(answer("10 ffffffff 0 fffffffe 7 0\n"), Some((0x10, 0xffff_fffe)));
        for text in ["", "10", "10 ffffffff 0", "x ffffffff 0 1 7 0", "10 ffffffff 0 1ffffffff 7 0"] {
            assert_eq!(answer(text), None, "{text}");
        }
    }
}
