//! The container runtime's part: into the pod's files, no new privileges, the pod's user, the machine's type. Its pipes
//! are the launcher's output, as a container engine's are, or its own standard output is, as crun's is.

use anyhow::{Context, Result, bail};
use ferrovirt_lab_guest::label;
use ferrovirt_nested::{LAUNCHER, LEVEL, POD};
use ferrovirt_qemu::protocol::LISTEN_FD;
use ferrovirt_sys::process::{Setup, inherited, spawn};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::Read,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Command, Stdio},
};

/// Ends a container that does not end by itself.
pub(crate) fn kill(process: &str) -> Result<()> {
    let process = Pid::from_raw(process.parse()?).context("process 0")?;
    Ok(kill_process(process, Signal::KILL)?)
}

/// User and group of launchers.
pub(crate) const USER: u32 = 107;

pub(crate) fn run(domain: &str, pipes: bool) -> Result<()> {
    let listen = inherited(LISTEN_FD).context("the listening socket did not arrive")?;
    rustix::thread::set_no_new_privs(true)?;
    label::on_exec(&format!("system_u:system_r:{domain}:{LEVEL}"))?;
    rustix::process::chroot(POD)?;
    rustix::process::chdir("/")?;
    let mut command = Command::new(if pipes { "/usr/bin/virt-launcher" } else { LAUNCHER });
    command.uid(USER).gid(USER).stdin(Stdio::null());
    let pipe = if pipes {
        let (reader, writer) = std::io::pipe()?;
        command.stdout(writer.try_clone()?).stderr(writer);
        Some(reader)
    } else {
        command.stdout(std::io::stdout()).stderr(std::io::stdout());
        None
    };
    let setup = Setup { fds: vec![(listen, LISTEN_FD)], ..Setup::default() };
    let mut child = spawn(command, setup).context("the launcher's program could not be executed")?;
    if let Some(mut reader) = pipe {
        let mut log = Vec::new();
        // Ends with the launcher and QEMU.
        reader.read_to_end(&mut log).context("reading the launcher's output")?;
        print!("{}", String::from_utf8_lossy(&log));
    }
    let status = child.wait().context("waiting for the launcher")?;
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (code, signal) => bail!("the launcher ended with code {code:?}, signal {signal:?}"),
    }
}
