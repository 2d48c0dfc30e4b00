//! Real guests under the SELinux types of the minimal profile, in a real kernel that enforces them.
//!
//! The outer machine is QEMU in emulation with Debian's cloud kernel and `tests/nested` as its first process. In it the
//! launcher of `target/dist` and Debian's QEMU run inner guests: on KVM, which the emulated processor has, and in
//! emulation. Nothing of it needs SELinux on this machine, and but for the disk of a whole node no privilege.

mod image;
mod node;
mod policy;
mod scenarios;
mod without;

use crate::{selinux, target};
use anyhow::{Context, Result, ensure};
use ferrovirt_lab::{Initrd, Machine, Seen};
use ferrovirt_lab_protocol::{POLICY, Setup, read};
use ferrovirt_nested::{Outcome, PLAN, Plan, Scenario};
use ferrovirt_plan::selinux::base::Base;
use ferrovirt_selinux::avc;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    io::BufWriter,
    path::PathBuf,
    time::Duration,
};

/// What the command does.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Log denials instead of enforcing, and print them by scenario: what a type that lacks rules would need
    #[arg(long)]
    explore: bool,
    /// Leave out each rule in turn, and write what fails without it to tests/golden/selinux/without.txt
    #[arg(long)]
    ablate: bool,
    /// A whole node instead: `ferrovirt up` with crun and the pod network, and machines of both profiles
    #[arg(long)]
    node: bool,
    /// The base policy: base, or an overlay of tests/selinux by name
    #[arg(long, default_value = "base")]
    base: String,
    /// Only scenarios whose name contains this
    #[arg(long)]
    only: Option<String>,
}

/// Where everything is.
struct Nest {
    /// `target/selinux/nested`, or `target/selinux/node`
    dir: PathBuf,
    /// `target/selinux`
    selinux: PathBuf,
}

pub(crate) fn nested(options: &Options) -> Result<()> {
    let guest = crate::guest::build(&target())?;
    let selinux = selinux::build(&target())?;
    let nest = Nest { dir: selinux.join(if options.node { "node" } else { "nested" }), selinux };
    fs::create_dir_all(&nest.dir)?;
    let base = Base::refpolicy();
    if options.node {
        return node::run_node(&nest, &guest, &base, &options.base, !options.explore);
    }
    image::stage(&nest, &guest)?;
    if options.ablate {
        return without::run(&nest, &base);
    }
    let mut scenarios = scenarios::all();
    scenarios
        .retain(|scenario| options.only.as_ref().is_none_or(|part| scenario.name.contains(part.as_str())));
    policy::compile(&nest, &base, &options.base, &policy::Form::Whole)?;
    let (outcomes, kernel) = boot(&nest, &plan(&base, scenarios.clone(), !options.explore))?;
    for outcome in &outcomes {
        println!("{:<28}{:<36}{:>6} ms  {}", outcome.name, outcome.domain, outcome.took, verdict(outcome));
    }
    print!("{}", denials(&kernel));
    ensure!(outcomes.len() == scenarios.len(), "only {} of {} ran", outcomes.len(), scenarios.len());
    let failed: Vec<&Outcome> = outcomes.iter().filter(|outcome| failure(outcome).is_some()).collect();
    for outcome in &failed {
        println!(
            "--- {}: serial port\n{}\n--- {}: log\n{}",
            outcome.name, outcome.serial, outcome.name, outcome.log
        );
    }
    ensure!(failed.is_empty(), "{} of {} guests failed", failed.len(), outcomes.len());
    Ok(())
}

fn verdict(outcome: &Outcome) -> String {
    failure(outcome).unwrap_or_else(|| "ran".to_owned())
}

/// What went wrong, on one line. A guest that runs while QEMU complains about a refusal does not go well.
fn failure(outcome: &Outcome) -> Option<String> {
    let complaint = || {
        let refused =
            |line: &&str| line.contains("Permission denied") || line.contains("Operation not permitted");
        outcome.log.lines().find(refused).map(|line| format!("logged: {line}"))
    };
    let text = outcome.failure.clone().or_else(complaint)?;
    Some(text.replace(['\n', '\r'], " ").trim().to_owned())
}

fn plan(base: &Base, scenarios: Vec<Scenario>, enforcing: bool) -> Plan {
    let label = |path: &str, kind: &str| (path.to_owned(), format!("system_u:object_r:{kind}:s0"));
    Plan {
        enforcing,
        runtime: base.runtime.clone(),
        agent: base.agent.clone(),
        setup: Setup {
            modules: image::MODULES.iter().map(|name| format!("/modules/{name}.ko")).collect(),
            huge_pages: 140,
            labels: vec![
                label("/init", "container_engine_exec_t"),
                label("/dev/net/tun", "tun_tap_device_t"),
                label("/dev/null", "null_device_t"),
                label("/dev/zero", "zero_device_t"),
                label("/dev/ttyS1", "tty_device_t"),
            ],
        },
        scenarios,
    }
}

/// Boots the outer machine; the outcomes in order, and the kernel's log.
fn boot(nest: &Nest, plan: &Plan) -> Result<(Vec<Outcome>, String)> {
    let mut archive = Initrd::new(BufWriter::new(File::create(nest.dir.join("initrd"))?));
    archive.tree(&nest.dir.join("root"))?;
    archive.file(PLAN.trim_start_matches('/'), 0o644, &serde_json::to_vec(plan)?)?;
    archive.file(POLICY.trim_start_matches('/'), 0o644, &fs::read(nest.dir.join("policy"))?)?;
    archive.finish()?;
    File::create(nest.dir.join("disk"))?.set_len(8 << 20)?;
    let seconds = 60 + plan.scenarios.iter().map(|scenario| scenario.timeout).sum::<u64>();
    let words =
        "-initrd initrd -drive if=none,id=disk,format=raw,file=disk -device nvme,serial=disk,drive=disk";
    let seen = start(nest, 1536, seconds, words, "")?;
    let said = read(&seen.results);
    said.end.with_context(|| format!("{}\n{}", said.notes.join("\n"), seen.last_lines()))?;
    Ok((said.reports, seen.console))
}

/// Runs the outer machine to its end.
fn start(nest: &Nest, mib: u32, seconds: u64, words: &str, append: &str) -> Result<Seen> {
    let machine = Machine {
        kernel: &nest.selinux.join("vmlinuz"),
        append,
        processors: 2,
        mib,
        arguments: words.split_whitespace().map(Into::into).collect(),
        directory: &nest.dir,
        timeout: Duration::from_secs(seconds),
    };
    Ok(machine.run()?)
}

/// The denials of the machines' types by scenario, as rules.
fn denials(kernel: &str) -> String {
    let mut out = String::new();
    for (name, lines) in sections(kernel) {
        out.push_str(&denied(name, lines.iter().copied()));
    }
    out
}

/// The denials in these lines, as rules.
fn denied<'a>(name: &str, lines: impl Iterator<Item = &'a str>) -> String {
    let mut out = String::new();
    let mut rules: BTreeMap<(String, String, String), BTreeMap<String, String>> = BTreeMap::new();
    let (events, _) = avc::events(lines);
    for event in &events {
        for (record, denial) in event.denials() {
            let kind = |context: &str| context.split(':').nth(2).unwrap_or_default().to_owned();
            let key = (kind(&denial.source), kind(&denial.target), denial.class.clone());
            let what = |field| record.field(field).unwrap_or_default().trim_matches('"').to_owned();
            let path = Some(what("path")).filter(|path| !path.is_empty()).unwrap_or_else(|| what("name"));
            let number = record.field("ioctlcmd").map_or(String::new(), |number| format!(" ioctl {number}"));
            for permission in &denial.permissions {
                rules
                    .entry(key.clone())
                    .or_default()
                    .entry(permission.clone())
                    .or_insert_with(|| format!("{} {path}{number}", what("comm")));
            }
        }
    }
    if !rules.is_empty() {
        let _ = writeln!(out, "denied in {name}:");
    }
    for ((source, target, class), permissions) in rules {
        for (permission, example) in permissions {
            let _ = writeln!(out, "  {source} {target} {class} {permission:<20} {example}");
        }
    }
    out
}

/// The kernel's log by scenario.
fn sections(kernel: &str) -> Vec<(&str, Vec<&str>)> {
    let mut out: Vec<(&str, Vec<&str>)> = vec![("start", Vec::new())];
    for line in kernel.lines() {
        if let Some((_, name)) = line.split_once("nested: begin ") {
            out.push((name.trim(), Vec::new()));
        } else if line.contains("nested: end ") {
            out.push(("between", Vec::new()));
        } else if let Some((_, lines)) = out.last_mut() {
            lines.push(line);
        }
    }
    out.retain(|(name, _)| !["start", "between"].contains(name));
    out
}
