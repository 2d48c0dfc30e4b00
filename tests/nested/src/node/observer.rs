//! The administrator: makes machines with kubectl, and compares what the API says with what the kernel shows.

use super::{ENFORCE, ENFORCED, GO, LOG, PATH, plan, seen, wait_for};
use anyhow::{Context, Result, anyhow, ensure};
use ferrovirt_lab_guest::Port;
use ferrovirt_nested::{Check, Node, UNREACHABLE, Wanted};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Everything is slow in emulation.
const TIMEOUT: Duration = Duration::from_secs(180);
const DATA: &str = "/var/lib/ferrovirt";
const ADMIN: &str = "/var/lib/ferrovirt/admin.kubeconfig";

/// Runs a command; its output.
fn run(program: &str, arguments: &[&str], input: &str) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).env("PATH", PATH).env("HOME", "/root").env("KUBECONFIG", ADMIN);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| program.to_owned())?;
    if let Some(mut stdin) = child.stdin.take() {
        let _closed = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(
        output.status.success(),
        "{program} {}: {}{}",
        arguments.join(" "),
        text(&output.stdout),
        text(&output.stderr)
    );
    Ok(text(&output.stdout))
}

fn kubectl(arguments: &[&str]) -> Result<String> {
    run("kubectl", arguments, "")
}

fn get(path: &str) -> Result<Value> {
    Ok(serde_json::from_str(&kubectl(&["get", "--raw", path])?)?)
}

/// Asks until there is an answer; the last error when there is none in time.
fn until<T>(mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() >= deadline => return Err(error.context("not in time")),
            Err(_) => std::thread::sleep(Duration::from_millis(300)),
        }
    }
}

/// Looks at one thing and tells; nothing further is looked at when it is wrong.
fn check(name: &str, look: impl FnOnce() -> Result<String>) -> Result<()> {
    let start = Instant::now();
    let found = look();
    let failure = found.as_ref().err().map(|error| format!("{error:#}"));
    let took = start.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
    let check = Check { name: name.to_owned(), failure, seen: found.unwrap_or_default(), took };
    let failed = check.failure.is_some();
    Port::open()?.report(check)?;
    ensure!(!failed, "{name}");
    Ok(())
}

pub(crate) fn observe() -> Result<()> {
    wait_for(ENFORCED, "observer")?;
    fs::write(GO, "")?;
    let plan = plan()?;
    let done = everything(&plan);
    if done.is_err() {
        let mut port = Port::open()?;
        let log = fs::read_to_string(LOG).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        for line in lines.get(lines.len().saturating_sub(40)..).unwrap_or_default() {
            port.note(format!("up: {line}"))?;
        }
        for arguments in [&["get", "vmi,pods", "-o", "wide"][..], &["get", "events", "-A"][..]] {
            port.note(kubectl(arguments).unwrap_or_else(|error| format!("{error:#}")))?;
        }
    }
    done
}

fn everything(plan: &Node) -> Result<()> {
    check("`ferrovirt up` runs as a privileged container does", || up(plan))?;
    check("guests run on KVM", || {
        let text = fs::read_to_string(LOG)?;
        ensure!(text.contains("guests run on KVM"), "{text}");
        Ok(String::new())
    })?;
    let mut levels = Vec::new();
    let mut profile = "";
    for wanted in &plan.machines {
        if profile != wanted.profile {
            profile = &wanted.profile;
            check(&format!("the node says that the policy of the {profile} profile is in force"), || {
                configure(profile)?;
                until(|| in_force(plan))
            })?;
        }
        machine(plan, wanted, &mut levels)?;
    }
    check("each machine has a level of its own", || {
        let mut different = levels.clone();
        different.sort_unstable();
        different.dedup();
        ensure!(different.len() == plan.machines.len(), "{levels:?}");
        Ok(levels.join(", "))
    })?;
    check("`ferrovirt selinux status` says that both profiles are current", || {
        run("ferrovirt", &["selinux", "status"], "")
    })?;
    check("denials were enforced all the time", || {
        let enforce = fs::read_to_string(ENFORCE)?;
        ensure!(!plan.enforcing || enforce.trim() == "1", "enforce is {enforce}");
        Ok(enforce)
    })?;
    check("removed machines leave nothing", || removed(plan))?;
    if plan.enforcing {
        check("a machine that the agent may not start says what to change", || refused(plan))?;
        check("and leaves nothing", || removed(plan))?;
    }
    check("`ferrovirt up` ends and leaves nothing", || ended(plan))
}

fn up(plan: &Node) -> Result<String> {
    until(|| {
        let found = seen::processes();
        let context = format!(":{}:", plan.agent);
        let one = |program: &str| {
            let mut all = found.iter().filter(|one| one.program == program);
            let process = all.next().with_context(|| format!("{program} does not run"))?;
            ensure!(process.context.contains(&context), "{program} runs as {}", process.context);
            Ok(process.context.clone())
        };
        let agent = one("virt-handler")?;
        one("ferrovirt")?;
        ensure!(Path::new(ADMIN).exists(), "there is no kubeconfig yet");
        get("/api/v1/nodes/node")?;
        Ok(agent)
    })
}

fn configure(profile: &str) -> Result<()> {
    let patch = format!(
        r#"{{"spec":{{"configuration":{{"privilegeProfile":"{profile}","selinux":{{"labelPods":"Always"}}}}}}}}"#
    );
    kubectl(&["patch", "kubevirt", "kubevirt", "-n", "kubevirt", "--type=merge", "-p", &patch])?;
    let message = format!("policy of the {profile} profile");
    until(|| {
        let node = get("/api/v1/nodes/node")?;
        let found = condition(&node, "SELinuxPolicy")?.to_string();
        ensure!(found.contains(&message), "{found}");
        Ok(())
    })
}

fn condition<'a>(object: &'a Value, kind: &str) -> Result<&'a Value> {
    let all = object.pointer("/status/conditions").and_then(Value::as_array);
    let found = all.into_iter().flatten().find(|one| one.get("type").and_then(Value::as_str) == Some(kind));
    found.with_context(|| format!("no condition {kind}"))
}

fn text<'a>(object: &'a Value, pointer: &str) -> Result<&'a str> {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .with_context(|| format!("{pointer} is not there: {object}"))
}

fn in_force(plan: &Node) -> Result<String> {
    let node = get("/api/v1/nodes/node")?;
    let found = condition(&node, "SELinuxPolicy")?;
    let label = text(&node, "/metadata/labels/ferrovirt.io~1selinux")?;
    let wanted = if plan.enforcing { ("True", "in-force") } else { ("False", "permissive") };
    ensure!((text(found, "/status")?, label) == wanted, "label {label}, {found}");
    Ok(text(found, "/message")?.to_owned())
}

/// Makes a machine and looks at everything that has its label.
fn machine(plan: &Node, wanted: &Wanted, levels: &mut Vec<String>) -> Result<()> {
    let name = &wanted.name;
    let path = format!("/apis/kubevirt.io/v1/namespaces/default/virtualmachineinstances/{name}");
    check(&format!("{name} runs"), || {
        run("kubectl", &["apply", "-f", "-"], &wanted.manifest)?;
        until(|| {
            let vmi = get(&path)?;
            ensure!(text(&vmi, "/status/phase")? == "Running", "{vmi}");
            Ok(String::new())
        })
    })?;
    let mut found = None;
    check(&format!("{name}: its pod has the type and a level"), || {
        let pods =
            get(&format!("/api/v1/namespaces/default/pods?labelSelector=vm.kubevirt.io%2Fname%3D{name}"))?;
        let pod = pods.pointer("/items/0").context("no pod")?;
        let options = "/spec/securityContext/seLinuxOptions";
        let (kind, level) = (text(pod, &format!("{options}/type"))?, text(pod, &format!("{options}/level"))?);
        ensure!(kind == wanted.domain, "the type is {kind}, not {}", wanted.domain);
        levels.push(level.to_owned());
        let context = format!("system_u:system_r:{kind}:{level}");
        let uid = text(pod, "/metadata/uid")?.to_owned();
        let pod = text(pod, "/metadata/name")?.to_owned();
        found = Some((context.clone(), level.to_owned(), uid, pod));
        Ok(context)
    })?;
    let (context, level, uid, pod) = found.context("no context")?;
    let mut launcher = None;
    check(&format!("{name}: launcher and QEMU run with this label"), || {
        let own = until(|| seen::one("virt-launcher", &context))?;
        let qemu = until(|| seen::one("qemu-system-x86_64", &context))?;
        launcher = Some(own.pid);
        Ok(format!("launcher {}, QEMU {}", own.pid, qemu.pid))
    })?;
    check(&format!("{name}: its status says so"), || {
        until(|| {
            let vmi = get(&path)?;
            let said = text(&vmi, "/status/selinuxContext")?;
            ensure!(said == context, "selinuxContext is {said}");
            ensure!(text(&vmi, "/status/selinuxLevel")? == level, "{vmi}");
            let enforced = condition(&vmi, "SELinuxEnforced")?;
            ensure!(!plan.enforcing || text(enforced, "/status")? == "True", "{enforced}");
            Ok(text(enforced, "/message")?.to_owned())
        })
    })?;
    let root = PathBuf::from(format!("/proc/{}/root", launcher.context("no launcher")?));
    check(&format!("{name}: its files have its level"), || files(&root, &uid, &level))?;
    check(&format!("{name}: the guest comes to its login prompt"), || {
        let log = root.join("var/run/kubevirt/serial.log");
        let said = until(|| {
            let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
            ensure!(said.contains("login:"), "{said}");
            Ok(said)
        })?;
        let lines = said.lines().filter(|line| line.starts_with("guest: "));
        Ok(lines.map(str::trim_end).collect::<Vec<_>>().join("; "))
    })?;
    check(&format!("{name}: its log can be read"), || {
        let log = kubectl(&["logs", &pod])?;
        ensure!(log.contains("the guest is running"), "{log:?}");
        Ok(String::new())
    })?;
    check(&format!("{name}: its huge pages are in use"), || {
        let free = free_pages()?;
        ensure!(
            wanted.huge_pages == 0 || free + wanted.huge_pages <= plan.setup.huge_pages,
            "{free} are free"
        );
        Ok(format!("{free} of {} are free", plan.setup.huge_pages))
    })?;
    check(&format!("{name}: `ferrovirt explain` tells of its rules"), || {
        let said = run("ferrovirt", &["explain", "-f", "-", "--profile", &wanted.profile], &wanted.manifest)?;
        // The documented type is no matter of the machine: only what features add to it is shown.
        let expected = if wanted.profile == "minimal" { &wanted.domain } else { "profile documented" };
        let line = said.lines().find(|line| line.contains(expected)).map(str::trim);
        Ok(line.with_context(|| format!("no {expected} in {said}"))?.to_owned())
    })
}

fn free_pages() -> Result<u32> {
    let path = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
    Ok(fs::read_to_string(path)?.trim().parse()?)
}

/// What is the machine's alone has its level, what is of an image can be read by all.
fn files(root: &Path, uid: &str, level: &str) -> Result<String> {
    let own = format!("system_u:object_r:container_file_t:{level}");
    let mut count = 0;
    for directory in ["var/run", "dev"] {
        for path in seen::tree(&root.join(directory)) {
            // File systems of the kernel's that are mounted there.
            // So are images, which are no machine's alone.
            if ["dev/pts", "dev/mqueue", "var/run/kubevirt-image-volume"]
                .iter()
                .any(|other| path.starts_with(root.join(other)))
            {
                continue;
            }
            let label = seen::label(&path)?;
            ensure!(label == own, "{} is {label}", path.display());
            count += 1;
        }
    }
    // As the node sees them. A directory may be the place of a mount, which the runtime makes and which stays empty.
    let pod = PathBuf::from(DATA).join("agent/pods").join(uid);
    for directory in ["volumes", "sockets"] {
        for path in seen::tree(&pod.join(directory)) {
            let label = seen::label(&path)?;
            let empty = fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_none());
            ensure!(label == own || empty, "{} is {label}", path.display());
            count += 1;
        }
    }
    let shared = "system_u:object_r:container_file_t:s0";
    for path in ["usr/bin/qemu-system-x86_64", "virt-launcher", "etc/passwd"] {
        let label = seen::label(&root.join(path))?;
        ensure!(label == shared, "{path} is {label}");
    }
    Ok(format!("{count} files"))
}

fn removed(plan: &Node) -> Result<String> {
    kubectl(&["delete", "vm", "--all", "--wait=false"])?;
    until(|| {
        for path in [
            "/apis/kubevirt.io/v1/namespaces/default/virtualmachineinstances",
            "/api/v1/namespaces/default/pods",
        ] {
            let list = get(path)?;
            ensure!(list.get("items").and_then(Value::as_array).is_some_and(Vec::is_empty), "{list}");
        }
        Ok(())
    })?;
    until(|| {
        for process in seen::processes() {
            let machine =
                plan.machines.iter().any(|one| process.context.contains(&format!(":{}:", one.domain)));
            ensure!(!machine, "{} still runs as {}", process.command, process.context);
        }
        for directory in ["pods", "netns", "crun"] {
            let left = seen::names(&format!("{DATA}/agent/{directory}"));
            ensure!(left.is_empty(), "in {directory}: {left:?}");
        }
        let free = free_pages()?;
        ensure!(free == plan.setup.huge_pages, "{free} huge pages are free");
        Ok(String::new())
    })
}

/// The last machine again, under a policy without rules for it.
fn refused(plan: &Node) -> Result<String> {
    let wanted = plan.machines.last().context("no machine")?;
    fs::write("/sys/fs/selinux/load", fs::read(UNREACHABLE)?).context("loading the other policy")?;
    run("kubectl", &["apply", "-f", "-"], &wanted.manifest)?;
    let path = format!("/apis/kubevirt.io/v1/namespaces/default/virtualmachineinstances/{}", wanted.name);
    until(|| {
        let vmi = get(&path)?;
        let found = condition(&vmi, "Synchronized")?;
        ensure!(text(found, "/reason")? == "SELinuxTypeUnreachable", "{found}");
        let message = text(found, "/message")?;
        ensure!(
            message.contains(&format!(":{}:", plan.agent)) && message.contains(&wanted.domain),
            "{message}"
        );
        Ok(message.to_owned())
    })
}

fn ended(plan: &Node) -> Result<String> {
    let up = seen::processes().into_iter().find(|one| one.command.contains("ferrovirt up"));
    let up =
        up.and_then(|one| Pid::from_raw(i32::try_from(one.pid).ok()?)).ok_or_else(|| anyhow!("not there"))?;
    kill_process(up, Signal::TERM)?;
    until(|| {
        let context = format!(":{}:", plan.agent);
        let left = seen::processes().into_iter().find(|process| process.context.contains(&context));
        ensure!(left.is_none(), "{} still runs", left.map(|one| one.command).unwrap_or_default());
        let links = seen::names("/sys/class/net");
        ensure!(links == ["lo"], "{links:?}");
        ensure!(!Path::new("/sys/fs/cgroup/ferrovirt").exists(), "the cgroup of the pods is there");
        let tables = run("nft", &["list", "tables"], "")?;
        ensure!(tables.trim().is_empty(), "{tables}");
        Ok(String::new())
    })
}
