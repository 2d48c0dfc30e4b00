//! The first process of the machine, and in other domains the node agent and the container runtime.
//!
//! Results go to the second serial port, the kernel's log to the first.

mod agent;
mod label;
mod node;
mod runtime;
mod world;

use anyhow::{Context, Result, bail};
use ferrovirt_lab_protocol::Line;
use ferrovirt_nested::{PLAN, Plan};
use rustix::system::{RebootCommand, reboot};
use serde::Serialize;
use std::{fs, io::Write, process::Command};

/// Where results go.
const RESULTS: &str = "/dev/ttyS1";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        [_, "agent"] => agent::run(),
        [_, "runtime", domain] => runtime::run(domain, true),
        [_, "crun", domain] => runtime::run(domain, false),
        [_, "kill", process] => runtime::kill(process),
        [_, "engine"] => node::engine(),
        [_, "observer"] => node::observe(),
        [_, "node"] if std::process::id() == 1 => node::first(),
        _ if std::process::id() == 1 => first(),
        _ => Err(anyhow::anyhow!("this is the first process of a virtual machine, and nothing else")),
    };
    if let Err(error) = done {
        if std::process::id() == 1 {
            say::<()>(&Line::Failed(format!("{error:#}")));
            let _ = reboot(RebootCommand::PowerOff);
        } else {
            note(format!("{}: {error:#}", words.get(1..).unwrap_or_default().join(" ")));
        }
        std::process::exit(1);
    }
}

/// A line for the one who started the machine.
fn say<T: Serialize>(line: &Line<T>) {
    if let (Ok(mut port), Ok(text)) = (fs::OpenOptions::new().write(true).open(RESULTS), line.text()) {
        let _ = port.write_all(text.as_bytes());
    }
}

fn report(seen: impl Serialize) {
    say(&Line::Report(seen));
}

fn note(text: String) {
    say::<()>(&Line::Note(text));
}

fn plan() -> Result<Plan> {
    Ok(serde_json::from_str(&fs::read_to_string(PLAN)?)?)
}

fn first() -> Result<()> {
    world::mounts()?;
    let plan = plan()?;
    world::prepare(&plan)?;
    // The first process may not enter the agent's domain once denials are enforced; the agent waits for that.
    label::on_exec(&format!("system_u:system_r:{}:s0", plan.agent))?;
    let mut agent = Command::new("/init").arg("agent").spawn().context("starting the agent")?;
    label::on_exec("")?;
    let status = agent.wait()?;
    if !status.success() {
        bail!("the agent: {status}");
    }
    say::<()>(&Line::Done);
    reboot(RebootCommand::PowerOff)?;
    Ok(())
}
