//! The first process of the machine, and in other domains the node agent and the container runtime.
//!
//! Results go to the second serial port, the kernel's log to the first.

mod agent;
mod node;
mod runtime;
mod world;

use anyhow::{Context, Result, bail};
use ferrovirt_lab_guest::{Port, instructions, label};
use ferrovirt_nested::{PLAN, Plan};
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["agent"] => agent::run(),
        ["runtime", domain] => runtime::run(domain, true),
        ["crun", domain] => runtime::run(domain, false),
        ["kill", process] => runtime::kill(process),
        ["engine"] => node::engine(),
        ["observer"] => node::observe(),
        ["node"] => return ferrovirt_lab_guest::run(|_| node::first()),
        _ => return ferrovirt_lab_guest::run(|_| first()),
    };
    let Err(error) = done else { return ExitCode::SUCCESS };
    // What ran in another domain may not have the right to it; the one who waits for it says that it failed.
    let _ = Port::open().and_then(|mut port| port.note(format!("{}: {error:#}", words.join(" "))));
    ExitCode::FAILURE
}

fn plan() -> Result<Plan> {
    Ok(instructions(PLAN)?)
}

fn first() -> Result<()> {
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
    Ok(())
}
