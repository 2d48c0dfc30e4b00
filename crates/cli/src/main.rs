//! The `ferrovirt` command: `up` on one machine, and the tools of users and reviewers.

mod client;
mod console;
mod explain;
mod machine;
mod manifests;
mod memory;
mod prove;
mod requirements;
mod scc;
mod selinux;
mod serve;
mod store;
mod uninstall;
mod up;
mod vnc;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(
    name = "ferrovirt",
    version,
    about = "Virtual machines on Kubernetes with provable least privilege"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run everything on this machine: API server, controllers and node agent, until Ctrl-C
    Up(up::Options),
    /// The API server's process of `up`, which starts it
    #[command(hide = true)]
    ApiServer {
        /// What `up` found out
        settings: String,
    },
    /// Show which privileges a machine gets, why, and what the documented profile would add
    Explain(explain::Options),
    /// Print the privilege table: features by grants and subjects by grants
    Matrix,
    /// Print what is applied to a cluster: `ferrovirt manifests | kubectl apply -f -`
    Manifests(manifests::Options),
    /// Remove what was applied to a cluster, also when its controllers do not work any more
    Uninstall(uninstall::Options),
    /// Ask SELinux policies, compare them, explain denials, print the launcher's module
    Selinux(selinux::Options),
    /// Ask which SCC admits a manifest, compare SCCs, find the least one
    Scc(scc::Options),
    /// Make a new encryption key for the store of `ferrovirt up`, or remove damaged objects from it
    Store(store::Options),
    /// Run a part of the system beside another Kubernetes
    Serve(serve::Options),
    /// Attach to the serial console of a machine; leave with Ctrl-]
    Console(machine::Target),
    /// Offer the screen of a machine to a VNC viewer on this computer
    Vnc(vnc::Options),
    /// Start a stopped machine
    Start(machine::Target),
    /// Stop a machine: ACPI shutdown, then the end of its grace period
    Stop(machine::Target),
    /// Stop a machine and start it again
    Restart(machine::Target),
    /// Stop a machine's vCPUs
    Pause(machine::Target),
    /// Run a paused machine's vCPUs again
    Unpause(machine::Target),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match perform(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Up(options) => up::up(options),
        Command::ApiServer { settings } => up::api_server(&settings),
        Command::Explain(options) => explain::explain(&options),
        Command::Matrix => explain::matrix(),
        Command::Manifests(options) => manifests::manifests(&options),
        Command::Uninstall(options) => client::run(uninstall::uninstall(options)),
        Command::Selinux(options) => selinux::run(options),
        Command::Scc(options) => scc::run(options),
        Command::Store(options) => store::run(options),
        Command::Serve(options) => serve::serve(options),
        Command::Console(target) => client::run(console::attach(target)),
        Command::Vnc(options) => client::run(vnc::serve(options)),
        Command::Start(target) => client::run(machine::start(target)),
        Command::Stop(target) => client::run(machine::stop(target)),
        Command::Restart(target) => client::run(machine::restart(target)),
        Command::Pause(target) => client::run(machine::pause(target)),
        Command::Unpause(target) => client::run(machine::unpause(target)),
    }
}
