//! `ferrovirt scc`: what SCCs would say, and what they grant, without making anything.
//!
//! Exit codes: 0 everything is admitted (the sides of `diff` are the same), 1 something is refused (they differ), 2
//! the question or an input is wrong.

mod diff;
mod input;
mod review;
mod roles;
mod state;
mod who_can;

use crate::explain::print;
use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Which SCC admits a pod, workload or machine and what it changes; or every reason why none does
    Review(review::Options),
    /// What one SCC allows that another does not, with the features that ask for it
    Diff(diff::Options),
    /// The least SCC that admits a pod, workload or machine, a generated smaller one, and who may use them
    WhoCan(who_can::Options),
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Text,
    Json,
}

/// What is reviewed, and the SCCs and roles that count.
#[derive(Args)]
struct Source {
    /// Manifest with pods, workloads or machines, YAML or JSON; `-` for standard input
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    known: Known,
    /// Namespace of objects that name none
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Profile in which machines are rendered, minimal or documented
    #[arg(long, default_value = "minimal")]
    profile: ferrovirt_model::Profile,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    output: Form,
}

/// Where SCCs and roles come from.
#[derive(Args)]
struct Known {
    /// SCCs, as `kubectl get scc -o yaml` prints them; standard ones that are not in it have their defaults
    #[arg(long, value_name = "FILE", conflicts_with = "cluster")]
    sccs: Vec<PathBuf>,
    /// Roles and bindings, as `kubectl get clusterroles,clusterrolebindings,roles,rolebindings -A -o yaml` prints them
    #[arg(long, value_name = "FILE", conflicts_with = "cluster")]
    rbac: Vec<PathBuf>,
    /// Ask the cluster that KUBECONFIG names for SCCs, roles and namespaces
    #[arg(long)]
    cluster: bool,
}

/// Runs a command; ends the process where the exit code is another than 0.
pub(crate) fn run(options: Options) -> Result<()> {
    let done = match options.command {
        Command::Review(options) => review::review(&options),
        Command::Diff(options) => diff::diff(&options),
        Command::WhoCan(options) => who_can::who_can(&options),
    };
    match done.and_then(|(text, code)| print(&text).map(|()| code)) {
        Ok(0) => Ok(()),
        Ok(code) => std::process::exit(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::exit(2);
        }
    }
}

/// The text for standard output, and the exit code.
type Answer = Result<(String, i32)>;

/// The whole-object difference of two values as lines `field: value`, with what was there before where something was.
fn changes(before: &serde_json::Value, after: &serde_json::Value) -> Vec<Change> {
    let mut list = Vec::new();
    walk("", before, after, &mut list);
    list
}

/// One field that admission sets.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
struct Change {
    field: String,
    #[serde(skip_serializing_if = "serde_json::Value::is_null")]
    before: serde_json::Value,
    after: serde_json::Value,
}

fn walk(path: &str, before: &serde_json::Value, after: &serde_json::Value, list: &mut Vec<Change>) {
    use serde_json::Value::{Array, Null, Object};
    match (before, after) {
        (Object(a), Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                let field =
                    if key.contains(['.', '/']) { format!("{path}[{key}]") } else { format!("{path}.{key}") };
                walk(&field, a.get(key).unwrap_or(&Null), b.get(key).unwrap_or(&Null), list);
            }
        }
        // A new object is listed field by field.
        (Null, Object(new)) if !new.is_empty() => {
            walk(path, &Object(serde_json::Map::new()), after, list);
        }
        (Array(a), Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                walk(&format!("{path}[{index}]"), a, b, list);
            }
        }
        _ if before != after => {
            list.push(Change { field: path.to_owned(), before: before.clone(), after: after.clone() });
        }
        _ => {}
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.after)?;
        if self.before.is_null() { Ok(()) } else { write!(f, " (was {})", self.before) }
    }
}
