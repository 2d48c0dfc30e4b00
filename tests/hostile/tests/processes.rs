//! Ferrovirt's own processes: what they hold, what a taken-over one could reach, and what happens when they die.
#![allow(clippy::indexing_slicing)]

use anyhow::{Context, Result, ensure};
use ferrovirt_e2e::{Cluster, Options, cluster::TIMEOUT, machine, process::Process, raw::Server, wait_for};
use ferrovirt_hostile::Users;
use ferrovirt_privilege::{
    Right, Scenario,
    scenario::{registered, witnessed},
};
use rustix::process::Signal;
use serde_json::json;
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::{Command, Output},
    time::Duration,
};

const SETS: [&str; 5] = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];

fn set(process: &Process, name: &str) -> Result<u64> {
    Ok(u64::from_str_radix(&process.status(name)?, 16)?)
}

/// Bits of capabilities by the numbers of linux/capability.h.
fn bits(numbers: &[u32]) -> u64 {
    numbers.iter().map(|number| 1 << number).sum()
}

/// CHOWN, DAC_OVERRIDE, FOWNER, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, NET_ADMIN, SYS_ADMIN, SYS_RESOURCE, MKNOD.
const AGENT: [u32; 12] = [0, 1, 3, 5, 6, 7, 8, 10, 12, 21, SYS_RESOURCE, 27];
const SYS_RESOURCE: u32 = 24;
/// CHOWN, DAC_OVERRIDE, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, SYS_RESOURCE.
const SUPERVISOR: [u32; 8] = [0, 1, 5, 6, 7, 8, 10, SYS_RESOURCE];
/// NET_RAW and SYS_NICE: for containers of the documented profile.
const CONTAINERS: [u32; 2] = [13, 23];

fn hidden(process: &Process) -> Result<()> {
    let proc = format!("/proc/{}", process.pid);
    // Files of a process that cannot be dumped are root's.
    ensure!(fs::metadata(format!("{proc}/environ"))?.uid() == 0, "{proc} is its user's");
    let limits = fs::read_to_string(format!("{proc}/limits"))?;
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).context(limits.clone())?;
    ensure!(core.split_whitespace().skip(4).take(2).all(|limit| limit == "0"), "{core}");
    Ok(())
}

/// A shell line as a taken-over API server could run it.
fn as_api_server(line: &str) -> Result<Output> {
    let user = Cluster::API_USER.to_string();
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid",
        &user,
        "--regid",
        &user,
        "--clear-groups",
        "--bounding-set=-all",
        "--no-new-privs",
    ]);
    Ok(command.args(["sh", "-c", line]).output()?)
}

fn refused(line: &str) -> Result<()> {
    let output = as_api_server(line)?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(!output.status.success(), "`{line}` works as the API server's user: {said}");
    let words = ["Permission denied", "not permitted", "Operation not permitted"];
    ensure!(words.iter().any(|word| said.contains(word)), "`{line}`: {said}");
    Ok(())
}

#[test]
fn the_api_server_has_no_right_of_root_and_the_agent_has_those_of_the_table() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let api = cluster.api().context("no API server")?;
    let agent = cluster.agent().context("no agent")?;

    let user = Cluster::API_USER.to_string();
    for field in ["Uid", "Gid"] {
        ensure!(
            api.status(field)?.split_whitespace().all(|id| id == user),
            "{field}: {}",
            api.status(field)?
        );
    }
    ensure!(api.status("Groups")?.is_empty(), "groups: {}", api.status("Groups")?);
    for name in SETS {
        ensure!(set(&api, name)? == 0, "{name}: {}", api.status(name)?);
    }
    ensure!(api.status("NoNewPrivs")? == "1", "it can gain privileges");
    ensure!(api.status("Seccomp")? == "2", "it has no filter of system calls");
    hidden(&api)?;

    for (process, own) in [(&agent, &AGENT[..]), (&cluster.up()?, &SUPERVISOR[..])] {
        for name in ["CapPrm", "CapEff"] {
            ensure!(set(process, name)? & !bits(own) == 0, "{name}: {}", process.status(name)?);
        }
        let bounding = set(process, "CapBnd")?;
        ensure!(bounding & !(bits(&AGENT) | bits(&CONTAINERS)) == 0, "CapBnd: {bounding:x}");
        for name in ["CapInh", "CapAmb"] {
            ensure!(set(process, name)? == 0, "{name}: {}", process.status(name)?);
        }
        hidden(process)?;
    }

    // Root, with no more than in its container on a cluster.
    let plug = cluster.plug().context("no virt-handler plug")?;
    for (field, wanted) in [("Uid", "0"), ("Gid", "0")] {
        let ids = plug.status(field)?;
        ensure!(ids.split_whitespace().all(|id| id == wanted), "{field}: {ids}");
    }
    ensure!(plug.status("Groups")?.is_empty(), "groups: {}", plug.status("Groups")?);
    for name in SETS {
        ensure!(set(&plug, name)? == 0, "{name}: {}", plug.status(name)?);
    }
    for (field, wanted) in [("NoNewPrivs", "1"), ("Seccomp", "2"), ("Threads", "1")] {
        ensure!(plug.status(field)? == wanted, "{field}: {}", plug.status(field)?);
    }
    hidden(&plug)?;

    // A taken-over API server.
    let data = cluster.data().display();
    let open = fs::metadata(cluster.data())?.permissions();
    // Anyone who may reach the directory still reaches only what is the user's own.
    let way = cluster.data().parent().context("no parent")?.to_owned();
    fs::set_permissions(&way, fs::Permissions::from_mode(0o711))?;
    fs::set_permissions(cluster.data(), fs::Permissions::from_mode(0o711))?;
    refused(&format!("cat {data}/admin.kubeconfig"))?;
    refused(&format!("cat {data}/agent/handler.kubeconfig"))?;
    refused(&format!("mv {data}/agent {data}/api/agent"))?;
    refused(&format!("rm {data}/run/agent.sock"))?;
    refused(&format!("cat /proc/{}/environ", api.pid))?;
    refused(&format!("cat /proc/{}/mem", api.pid))?;
    refused(&format!("kill -9 {}", agent.pid))?;
    ensure!(
        as_api_server(&format!("test -w {data}/api/store.redb"))?.status.success(),
        "the store is not its own"
    );
    let files = [
        "admin.kubeconfig",
        "agent/handler.kubeconfig",
        "agent/node.kubeconfig",
        "agent/handler.token",
        "agent/node.token",
    ];
    for file in files {
        let file = fs::metadata(cluster.data().join(file))?;
        ensure!((file.uid(), file.mode() & 0o777) == (0, 0o600), "{file:?}");
    }
    fs::set_permissions(cluster.data(), open)?;
    agent_socket(&cluster)?;
    cluster.stop()
}

/// Nobody but the API server's user and root speaks with the agent.
fn agent_socket(cluster: &Cluster) -> Result<()> {
    let run = cluster.data().join("run");
    let (directory, socket) = (fs::metadata(&run)?, fs::metadata(run.join("agent.sock"))?);
    ensure!((directory.uid(), directory.mode() & 0o777) == (0, 0o710), "{directory:?}");
    ensure!((socket.uid(), socket.mode() & 0o177) == (Cluster::API_USER, 0), "{socket:?}");
    Ok(())
}

fn score(process: &Process) -> Result<i64> {
    Ok(fs::read_to_string(format!("/proc/{}/oom_score_adj", process.pid))?.trim().parse()?)
}

#[test]
fn guests_end_before_the_system_when_memory_runs_out() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let own = [
        cluster.up()?,
        cluster.api().context("no API server")?,
        cluster.agent().context("no agent")?,
        cluster.plug().context("no virt-handler plug")?,
    ];
    let here: i64 = fs::read_to_string("/proc/self/oom_score_adj")?.trim().parse()?;
    // A nested root may lack the capability to go lower than it was started.
    let lacks = fs::read_to_string("/proc/self/status")?
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:")?.trim().to_owned().into())
        .is_some_and(|set| u64::from_str_radix(&set, 16).is_ok_and(|set| set & bits(&[SYS_RESOURCE]) == 0));
    for process in &own {
        let score = score(process)?;
        ensure!(score == if lacks { here } else { -999 }, "{:?}: {score}", process.arguments);
    }
    cluster.apply(&machine("plain", "Always", 0))?;
    cluster.wait_phase("default", "plain", "Running")?;
    let qemu = Process::qemu("default", "plain").pop().context("no QEMU")?;
    for process in [qemu.parent()?, qemu] {
        // Burstable: it asks for a small part of the node's memory.
        ensure!((500..=999).contains(&score(&process)?), "{:?}: {}", process.arguments, score(&process)?);
        for field in ["Seccomp", "NoNewPrivs"] {
            ensure!(process.status(field)? != "0", "{field} of {:?}", process.arguments);
        }
        let ids: Vec<String> = process.status("Gid")?.split_whitespace().map(str::to_owned).collect();
        ensure!(ids.iter().all(|id| id != "107" && id != "0"), "groups {ids:?} are not its own");
        // What the node was started with and has is not the machine's to read.
        for file in ["cmdline", "interrupts", "partitions"] {
            let seen = fs::read(format!("/proc/{}/root/proc/{file}", process.pid))?;
            ensure!(seen.is_empty(), "it sees the node's {file}");
        }
    }
    cluster.stop()
}

/// Calls that are granted and not made in the test, and when they are.
const ELSEWHERE: &[(&str, &[&str])] = &[
    (
        "a C library or kernel without the faster way: no vDSO, older or newer calls for the same function",
        &[
            "access",
            "arch_prctl",
            "bind",
            "clock_getres",
            "clock_gettime",
            "clone",
            "dup",
            "epoll_pwait",
            "fstat",
            "getcwd",
            "getegid",
            "getgid",
            "getpid",
            "getppid",
            "getrlimit",
            "gettimeofday",
            "lstat",
            "nanosleep",
            "open",
            "pipe2",
            "ppoll",
            "readlink",
            "readv",
            "sched_getaffinity",
            "sendmsg",
            "recvmsg",
            "stat",
            "set_tid_address",
            "sysinfo",
            "umask",
            "uname",
            "brk",
            "clock_nanosleep",
            "getuid",
            "prlimit64",
            "statfs",
            "fstatfs",
            "accept4",
            "geteuid",
            "rt_sigaction",
            "getdents64",
            "newfstatat",
        ],
    ),
    ("names of webhooks that are resolved", &["recvmmsg", "sendmmsg", "poll", "getpeername", "ioctl"]),
    (
        "files of the store and of keys that are made, replaced, removed or grow",
        &[
            "chmod",
            "fallocate",
            "fchmod",
            "flock",
            "ftruncate",
            "mkdir",
            "rename",
            "unlink",
            "unlinkat",
            "lseek",
            "fsync",
            "statx",
        ],
    ),
    (
        "threads and memory that come and go, signals, an abort",
        &[
            "exit",
            "exit_group",
            "madvise",
            "mremap",
            "munmap",
            "restart_syscall",
            "rt_sigreturn",
            "sched_yield",
            "tgkill",
            "gettid",
            "sigaltstack",
            "socketpair",
            "shutdown",
            "eventfd2",
            "epoll_create1",
            "connect",
        ],
    ),
];

fn granted() -> BTreeSet<String> {
    let rights = witnessed("api-calls").map(|grant| grant.rights).unwrap_or_default().iter();
    let names = rights.filter_map(|right| match right {
        Right::OwnSyscall(name) => Some((*name).to_owned()),
        _ => None,
    });
    names.collect()
}

/// The witness `api-calls`: a start and requests under strace.
#[test]
fn every_call_of_the_api_server_is_granted_and_every_granted_one_has_its_use() -> Result<()> {
    ensure!(
        registered(Scenario::Processes).collect::<Vec<_>>() == ["api-calls"],
        "other witnesses are registered"
    );
    let mut cluster = Cluster::start(Options::default())?;
    let trace = cluster.data().join("trace");
    let up = cluster.up()?.pid.to_string();
    let mut strace = Command::new("strace").args(["-f", "-qq", "-p", &up, "-o"]).arg(&trace).spawn()?;
    wait_for("strace", Duration::from_secs(30), || {
        Ok((cluster.up()?.status("TracerPid")? != "0").then_some(()))
    })?;
    let before = cluster.api().context("no API server")?;
    before.signal(Signal::KILL)?;
    let api = wait_for("another API server", Duration::from_secs(60), || {
        Ok(cluster.api().filter(|other| other.pid != before.pid))
    })?;
    cluster.wait_ready()?;
    cluster.kubectl(&["create", "configmap", "one", "--from-literal=a=b"])?;
    cluster.kubectl(&["delete", "configmap", "one"])?;
    // What is large and a user's is worked on by threads that give way.
    let users = Users::new(&cluster)?;
    let large = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "large"},
        "data": {"a": "b".repeat(60_000)}});
    let made = Server::of(&cluster.kubeconfig())?.post(
        &users.alice.token,
        "/api/v1/namespaces/alpha/configmaps",
        &large,
    )?;
    ensure!(made.code == 201, "{made:?}");
    drop(users);
    cluster.apply(&machine("traced", "Always", 0))?;
    cluster.wait_phase("default", "traced", "Running")?;
    ensure!(api.alive(), "it ended");
    cluster.stop()?;
    strace.wait()?;

    let text = fs::read_to_string(&trace)?;
    let mut threads = BTreeSet::from([api.pid.to_string()]);
    let (mut made, mut filtered) = (BTreeSet::new(), false);
    // Threads are made after the filter; the answer of a clone may stand behind the first calls of the new one.
    let lines: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once(' ')).collect();
    for (pid, call) in &lines {
        if threads.contains(*pid) && call.trim_start().trim_start_matches("<... ").starts_with("clone") {
            threads.extend(call.rsplit_once("= ").map(|(_, made)| made.trim().to_owned()));
        }
    }
    for (_, call) in lines.iter().filter(|(pid, _)| threads.contains(*pid)) {
        let Some((name, _)) = call.trim_start().split_once('(') else { continue };
        let plain = !name.is_empty()
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if plain && filtered {
            made.insert(name.to_owned());
        }
        filtered |= call.contains("PR_SET_SECCOMP");
    }
    let granted = granted();
    ensure!(made.contains("fdatasync") && made.contains("accept4"), "{made:?}");
    let outside: Vec<_> = made.difference(&granted).collect();
    ensure!(outside.is_empty(), "made and not granted: {outside:?}");
    let elsewhere: BTreeSet<String> =
        ELSEWHERE.iter().flat_map(|(_, names)| *names).map(|name| (*name).to_owned()).collect();
    let unknown: Vec<_> =
        granted.iter().filter(|call| !made.contains(*call) && !elsewhere.contains(*call)).collect();
    ensure!(unknown.is_empty(), "granted, not made here and without a reason: {unknown:?}");
    let strangers: Vec<_> = elsewhere.difference(&granted).collect();
    ensure!(strangers.is_empty(), "a reason for what is not granted: {strangers:?}");
    Ok(())
}

#[test]
fn whichever_process_is_killed_machines_go_on_and_are_adopted() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    cluster.apply(&machine("kept", "Always", 0))?;
    cluster.wait_phase("default", "kept", "Running")?;
    let qemu = Process::qemu("default", "kept").pop().context("no QEMU")?;

    // The supervisor starts another one of each, and the machine is still obeyed.
    for part in [Cluster::api as fn(&Cluster) -> Option<Process>, Cluster::agent, Cluster::plug] {
        let killed = part(&cluster).context("not there")?;
        killed.signal(Signal::KILL)?;
        wait_for("another process in its place", Duration::from_secs(30), || {
            Ok(part(&cluster).filter(|other| other.pid != killed.pid && other.alive()).map(drop))
        })?;
        cluster.wait_ready()?;
        obeyed(&cluster, "kept")?;
    }

    let parts = [cluster.api(), cluster.agent(), cluster.plug()];
    let children: Vec<_> = parts.into_iter().map(|part| part.context("not there")).collect::<Result<_>>()?;
    cluster.kill()?;
    for child in &children {
        wait_for("the parts to end with their supervisor", Duration::from_secs(30), || {
            Ok((!child.alive()).then_some(()))
        })?;
    }
    ensure!(qemu.alive(), "the machine ended with the supervisor");
    cluster.launch()?;
    cluster.wait_ready()?;
    obeyed(&cluster, "kept")?;
    ensure!(Process::qemu("default", "kept") == [qemu], "it is another QEMU");
    cluster.stop()
}

/// Pausing needs every process: API server, agent, launcher.
fn obeyed(cluster: &Cluster, name: &str) -> Result<()> {
    for (verb, wanted) in [("pause", "Paused"), ("unpause", "Running")] {
        wait_for(verb, TIMEOUT, || {
            let output = cluster.ferrovirt(&[verb, name])?.output()?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Ok(Some(()))
        })?;
        wait_for(wanted, TIMEOUT, || {
            let found = cluster.json(&["get", "vm", name])?["status"]["printableStatus"].clone();
            Ok((found == wanted).then_some(()))
        })?;
    }
    Ok(())
}

#[test]
fn what_an_earlier_version_kept_as_root_is_taken_over() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    cluster.kubectl(&["create", "configmap", "kept", "--from-literal=a=b"])?;
    let authority = cluster.kubeconfig();
    let authority = fs::read_to_string(authority)?;
    cluster.interrupt()?;
    // The layout before: everything root's, beside each other.
    let data = cluster.data().to_owned();
    for name in ["store.redb", "pki"] {
        fs::rename(data.join("api").join(name), data.join(name))?;
        to_root(&data.join(name))?;
    }
    fs::remove_dir_all(data.join("api"))?;
    cluster.launch()?;
    cluster.wait_ready()?;
    ensure!(cluster.json(&["get", "configmap", "kept"])?["data"]["a"] == "b", "the object is lost");
    let same = |text: &str| text.lines().find(|line| line.contains("authority")).map(|l| l.trim().to_owned());
    ensure!(same(&authority) == same(&fs::read_to_string(cluster.kubeconfig())?), "another authority");
    ensure!(fs::metadata(data.join("api/pki/ca.key"))?.uid() == Cluster::API_USER, "the key is not its own");
    cluster.stop()
}

fn to_root(path: &Path) -> Result<()> {
    std::os::unix::fs::lchown(path, Some(0), Some(0))?;
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            to_root(&entry?.path())?;
        }
    }
    Ok(())
}
