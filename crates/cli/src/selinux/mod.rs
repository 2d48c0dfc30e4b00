//! `ferrovirt selinux`: questions about SELinux policies and denials, offline.
//!
//! Exit codes: 0 an answer was given (and the two sides of `diff` are the same, a proof holds, what `status` looks for is in
//! force), 1 the sides of `diff` differ, a proof does not hold, something is not in force, 2 the question or an input is
//! wrong, or a step was refused.

mod denials;
mod diff;
mod list;
mod machines;
mod node;
mod policy;
mod query;
mod source;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;
use std::{
    io::{ErrorKind, Write},
    path::PathBuf,
};

#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Text,
    Json,
}

#[derive(Args)]
struct Source {
    /// Binary policy, a directory such as /etc/selinux/targeted or /var/lib/selinux/targeted, or /sys/fs/selinux/policy
    policy: PathBuf,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    output: Form,
}

#[derive(Subcommand)]
enum Command {
    /// Find rules: what a source may do, on which targets, under which conditions
    Query(Box<query::QueryOptions>),
    /// Types, or a type with its attributes, aliases and roles
    Types(list::Listing),
    /// Attributes, or an attribute with its types
    Attributes(list::Listing),
    /// Classes, or a class with its permissions and constraints
    Classes(list::Listing),
    /// Booleans with their states
    Booleans(list::Listing),
    /// The difference of two policies, or of two types of one policy
    Diff(diff::DiffOptions),
    /// Tell what denials in a log mean and what to do
    Explain(denials::ExplainOptions),
    /// Try the privilege table's rules in a real kernel that enforces them
    Prove(Box<crate::prove::Options>),
    /// Print the launcher's module for a base policy, in CIL
    Policy(policy::PolicyOptions),
    /// Install the launchers' modules on this node, or bring them up to date
    Install(node::NodeOptions),
    /// Tell whether the launchers' modules are in force on this node
    Status(node::NodeOptions),
    /// Take the launchers' modules off this node
    Remove(node::RemoveOptions),
}

/// Runs a command; ends the process where the exit code is another than 0.
pub(crate) fn run(options: Options) -> Result<()> {
    let done = match options.command {
        Command::Query(options) => query::query(&options),
        Command::Types(options) => list::types(&options),
        Command::Attributes(options) => list::attributes(&options),
        Command::Classes(options) => list::classes(&options),
        Command::Booleans(options) => list::booleans(&options),
        Command::Diff(options) => diff::diff(&options),
        Command::Explain(options) => denials::explain(&options),
        Command::Prove(options) => crate::prove::prove(&options),
        Command::Policy(options) => policy::policy(&options),
        Command::Install(options) => node::install(&options),
        Command::Status(options) => node::status(&options),
        Command::Remove(options) => node::remove(&options),
    };
    match done.and_then(|(text, code)| print(&text).map(|()| code)) {
        Ok(0) => Ok(()),
        Ok(code) => std::process::exit(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::exit(2)
        }
    }
}

/// What to print, and the exit code.
type Answer = Result<(String, i32)>;

fn answer(form: Form, text: impl FnOnce() -> String, json: impl FnOnce() -> Value) -> Answer {
    let text = match form {
        Form::Text => text(),
        Form::Json => format!("{}\n", serde_json::to_string_pretty(&json())?),
    };
    Ok((text, 0))
}

fn lines<T: AsRef<str>>(all: impl IntoIterator<Item = T>) -> String {
    all.into_iter().fold(String::new(), |mut text, line| {
        text.push_str(line.as_ref());
        text.push('\n');
        text
    })
}

/// A reader that has seen enough (`| head`) is no error.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
