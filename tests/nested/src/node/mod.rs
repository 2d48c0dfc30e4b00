//! A whole node: the first process of a machine whose disk has `ferrovirt`, and two programs that it starts.
//!
//! | program | domain | what it stands for |
//! |---|---|---|
//! | this one | kernel_t | the system's start: mounts, modules, the policy, labels of what is in memory |
//! | `engine` | the container engine's | a container engine that starts `ferrovirt up` as a privileged container |
//! | `observer` | unconfined_t | an administrator at the console, who also looks at the node from outside |

mod observer;
mod seen;

use anyhow::{Context, Result, bail, ensure};
use ferrovirt_lab_guest::{instructions, label, mount, prepare};
use ferrovirt_nested::{NODE, Node};
use rustix::{
    mount::MountFlags,
    process::{WaitOptions, waitpid},
    system::sethostname,
};
use std::{
    fs,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    time::Duration,
};

pub(crate) use observer::observe;

/// Where `ferrovirt up` writes what it says.
const LOG: &str = "/srv/log/ferrovirt.log";
/// Programs look here.
const PATH: &str = "/usr/sbin:/usr/bin";
/// Made once denials are enforced.
const ENFORCED: &str = "/run/enforced";
const ENFORCE: &str = "/sys/fs/selinux/enforce";

fn plan() -> Result<Node> {
    Ok(instructions(NODE)?)
}

/// The first process.
pub(crate) fn first() -> Result<()> {
    let none = MountFlags::empty();
    for directory in ["/run", "/tmp"] {
        mount("tmpfs", directory, none, "mode=755")?;
    }
    mount("cgroup2", "/sys/fs/cgroup", none, "")?;
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+cpu +memory +pids +hugetlb")?;
    let plan = plan()?;
    prepare(&plan.setup)?;
    sethostname(b"node")?;
    ferrovirt_sys::link::up("lo")?;
    start("engine", "/usr/libexec/nested/engine", &format!("system_u:system_r:{}:s0", plan.engine))?;
    let administrator = "unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023";
    let observer = start("observer", "/usr/libexec/nested/observer", administrator)?;
    // Programs that come into another domain do so before denials are enforced; both wait for that.
    for name in ["engine", "observer"] {
        while fs::metadata(format!("/run/{name}.ready")).is_err() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    fs::write(ENFORCE, if plan.enforcing { "1" } else { "0" }).context("switching enforcement")?;
    fs::write(ENFORCED, "")?;
    loop {
        match waitpid(None, WaitOptions::empty()) {
            Ok(Some((process, status))) if process.as_raw_pid() == observer => {
                ensure!(status.exit_status() == Some(0), "the observer failed");
                return Ok(());
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => bail!("waiting: {error}"),
        }
    }
}

fn start(name: &str, program: &str, context: &str) -> Result<i32> {
    label::on_exec(context)?;
    let child = Command::new(program)
        .arg(name)
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", "/root")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    label::on_exec("")?;
    Ok(i32::try_from(child.with_context(|| format!("starting {program}"))?.id())?)
}

/// The observer tells the engine to begin, in a directory that both may look into.
const GO: &str = "/srv/log/go";

/// Says that this program is in its domain, and waits for a file.
fn wait_for(file: &str, name: &str) -> Result<()> {
    fs::write(format!("/run/{name}.ready"), "")?;
    while fs::metadata(file).is_err() {
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Becomes `ferrovirt up`. Its program has the label of an image's files: the base policy has a privileged container's
/// domain for that.
pub(crate) fn engine() -> Result<()> {
    wait_for(GO, "engine")?;
    let log = fs::File::options().append(true).create(true).open(LOG)?;
    let mut command = Command::new("/usr/bin/ferrovirt");
    command.args([
        "up",
        "--data-dir",
        "/var/lib/ferrovirt",
        "--image-dir",
        "/srv/images",
        "--node-name",
        "node",
        "--kvm-timeout",
        "20000",
    ]);
    command.env("RUST_LOG", "info,kube=warn").stdout(log.try_clone()?).stderr(log);
    Err(command.exec()).context("starting ferrovirt")
}
