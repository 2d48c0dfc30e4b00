//! The first process: sets the guest up, starts the workers, makes the kernel enforce, and lets them run in turn.
//!
//! The workers enter their domains while the kernel is still permissive: the domain of the first process, the kernel's own,
//! may not start them in any known policy. That production's runtime may is a right of its own, and no part of this.

use crate::worker::{DONE, GO, READY, shared};
use ferrovirt_lab_guest::{Port, context, instructions, label, mount, prepare};
use ferrovirt_lab_protocol::proof::{Answer, Question, SCENARIO, Scenario, Seen, Turn, Worker};
use ferrovirt_sys::{shared::Shared, tap};
use rustix::{
    fs::{CWD, FileType, Mode, makedev, mknodat},
    mount::MountFlags,
    process::{Pid, WaitOptions, waitpid},
    system::uname,
};
use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, Write as _},
    os::fd::OwnedFd,
    path::Path,
    process::{Child, Command},
    time::Duration,
};

/// The disk on which the host finds the policy that the kernel has loaded.
const DISK: &str = "/dev/nvme0n1";

/// The node's own device, which the agent opens.
const NODE: &str = "/dev/net/tun";

/// How often it is looked whether a worker still lives.
const LOOK: Duration = Duration::from_millis(50);

/// Does everything, and reports it.
pub(crate) fn conduct(port: &mut Port) -> io::Result<()> {
    let scenario: Scenario = instructions(SCENARIO)?;
    prepare(&scenario.setup)?;
    port.report(Seen::Kernel(uname().release().to_string_lossy().into_owned()))?;
    hand_back(port)?;
    for (number, question) in scenario.questions.iter().enumerate() {
        port.report(Seen::Answer(number, ask(question)?))?;
    }
    mount("hugetlbfs", "/huge", MountFlags::empty(), "mode=1777")?;
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
        port.report(Seen::Worker(Turn { number: running.number, gave, broke, enforcing }))?;
    }
    drain(&mut log, &mut enforce)
}

/// Hands back the policy that the kernel has loaded.
fn hand_back(port: &mut Port) -> io::Result<()> {
    if !Path::new(DISK).exists() {
        return Ok(());
    }
    let mut loaded = fs::read("/sys/fs/selinux/policy").map_err(context("/sys/fs/selinux/policy"))?;
    port.report(Seen::Loaded(loaded.len() as u64))?;
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
        // A level has a comma, which the option's quotes protect.
        let options = format!("mode=0755,context=\"{}\"", worker.files);
        mount("tmpfs", &directory, MountFlags::empty(), &options)?;
        let node = format!("{directory}/tun");
        mknodat(CWD, &node, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(10, 200))?;
        let foreign: OwnedFd = tap::open_node(&node)?.into();
        tap::join(&foreign, &format!("far{}", worker.number), false)?;
        tap::keep(&foreign)?;
        drop(foreign);
        let [first, second] = queues(NODE, &format!("age{}", worker.number), agent)?;
        let shared = shared(worker.number)?;
        // The context goes to the child with the credentials, and counts at its exec.
        label::on_exec(&worker.context)?;
        let child = Command::new("/init")
            .args(["worker", &serde_json::to_string(worker)?])
            .stdin(first)
            .stdout(second)
            .spawn();
        label::on_exec("")?;
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

    /// A file that shows what the kernel would, as it is now and not as it was when it was opened.
    #[test]
    fn whether_the_kernel_enforces_is_read_each_time() {
        let mut file = tempfile::tempfile().unwrap();
        let mut state = |text: &str| {
            file.set_len(0).unwrap();
            file.rewind().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            enforcing(&mut file).unwrap()
        };
        assert_eq!(["1", "0", "1\n", "", "11"].map(&mut state), [true, false, true, false, false]);
    }

    /// A log that gives one record for each read, as /dev/kmsg does, and the side on which the kernel writes it.
    fn log() -> (File, OwnedFd) {
        let (read, write) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::empty(),
            None,
        )
        .unwrap();
        (read.into(), write)
    }

    /// Drains a log of these records in a thread of its own, whose name the kernel would write; what is left of it, and what was
    /// asked of the kernel.
    fn drained(records: &[&str]) -> (usize, String) {
        let (mut read, write) = log();
        for record in records {
            rustix::io::write(&write, record.as_bytes()).unwrap();
        }
        std::thread::spawn(move || {
            let mut enforce = tempfile::tempfile().unwrap();
            enforce.write_all(b"1").unwrap();
            drain(&mut read, &mut enforce).unwrap();
            drop(write);
            let mut left = 0;
            while read.read(&mut [0; 8192]).unwrap() > 0 {
                left += 1;
            }
            let mut text = String::new();
            enforce.rewind().unwrap();
            enforce.read_to_string(&mut text).unwrap();
            (left, text)
        })
        .join()
        .unwrap()
    }

    /// The records of all operations are before the one that switching off makes: it is the second change of status, since switching
    /// on made the first, or the denial of this very thread. Others' denials are none of it.
    #[test]
    fn the_log_is_read_up_to_the_record_of_the_end() {
        let on = "6,1,1,-;audit: type=1404 audit(1.0:1): enforcing=1 old_enforcing=0";
        let denied =
            "5,2,2,-;audit: type=1400 audit(1.0:2): avc:  denied  { ioctl } for  pid=7 comm=\"w1.0\"";
        let off = "6,3,3,-;audit: type=1404 audit(1.0:3): enforcing=0 old_enforcing=1";
        let refused =
            "5,3,3,-;audit: type=1400 audit(1.0:3): avc:  denied  { setenforce } for  pid=1 comm=\"drain\"";
        let later = "6,4,4,-;something else";
        assert_eq!(drained(&[on, denied, denied, off]), (0, "0".to_owned()));
        assert_eq!(drained(&[on, denied, refused]), (0, "0".to_owned()));
        // What comes later is not waited for.
        assert_eq!(drained(&[on, off, later, later]).0, 2);
        assert_eq!(drained(&[refused, later]).0, 1);
        // A worker that is called alike is not this thread.
        assert_eq!(drained(&[on, "5,2,2,-;avc: denied comm=\"drained\"", later, off]).0, 0);
    }

    fn running(script: &str) -> (Running, Shared) {
        let file = tempfile::tempfile().unwrap();
        let map = || Shared::map(&file, crate::worker::SHARED).unwrap();
        let _alone = crate::programs();
        let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        (Running { number: 1, shared: map(), child }, map())
    }

    /// A worker that ends in the middle says how, and one that has done everything is done although it lives on.
    #[test]
    fn how_a_workers_turn_ended_is_seen() {
        let (mut done, worker) = running("exec sleep 1000");
        let working = std::thread::spawn(move || {
            while !worker.wait(GO, Duration::from_secs(60)) {}
            worker.append("\"done\"\n").unwrap();
            worker.set_state(DONE);
        });
        assert_eq!(done.perform().unwrap(), None);
        assert!(done.child.try_wait().unwrap().is_none(), "others may still reach for what is there");
        assert_eq!(done.shared.text(), "\"done\"\n");
        working.join().unwrap();
        done.child.kill().unwrap();
        done.child.wait().unwrap();
        for (script, how) in [
            ("kill -31 $$", "killed by signal 31"),
            ("kill -9 $$", "killed by signal 9"),
            ("exit 0", "ended early"),
            ("exit 1", "ended early"),
        ] {
            let (mut broken, _worker) = running(script);
            assert_eq!(broken.perform().unwrap().as_deref(), Some(how), "{script}");
        }
    }
}
