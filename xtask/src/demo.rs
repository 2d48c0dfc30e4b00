//! The main job, shown: a machine with four network queues on huge pages, from `kubectl apply` to a login prompt, in
//! a launcher pod without a single privilege that the machine does not need.

use crate::root;
use anyhow::{Context, Result, ensure};
use ferrovirt_e2e::{
    Cluster, Options,
    host::{Host, Reserved, huge_pages},
    process::Process,
    wait_for,
};
use std::{
    process::Command,
    time::{Duration, Instant},
};

const MANIFEST: &str = "examples/multiqueue-hugepages.yaml";
const MACHINE: &str = "multiqueue-hugepages";
/// Pages of 2 MiB that the machine's 256 MiB take.
const PAGES: u64 = 128;

struct Steps(Instant);

impl Steps {
    fn say(&self, text: &str) {
        println!("\n[{:6.2} s] {text}", self.0.elapsed().as_secs_f64());
    }
}

fn indent(text: &str) {
    for line in text.trim_end().lines() {
        println!("    {line}");
    }
}

fn show(command: &mut Command) -> Result<()> {
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
    let words: Vec<_> =
        words.iter().map(AsRef::as_ref).filter(|word: &&str| !word.contains("kubeconfig")).collect();
    println!(
        "  $ {} {}",
        command.get_program().to_string_lossy().rsplit('/').next().unwrap_or(""),
        words.join(" ")
    );
    let output = command.output()?;
    indent(&String::from_utf8_lossy(&output.stdout));
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Runs the demonstration. With `keep`, leaves everything running and says what to type next.
pub(crate) fn demo(keep: bool) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "the demo starts containers and needs root: run it with sudo"
    );
    let steps = Steps(Instant::now());
    let before = Host::look()?;
    let reserved = Reserved::new(PAGES).context("the demo reserves 256 MiB of huge pages for its machine")?;
    let free = huge_pages("HugePages_Free")?;
    steps.say("starting `ferrovirt up`: API server, controllers and node agent");
    let mut cluster = Cluster::start(Options::default())?;
    indent(&cluster.log());

    steps.say("applying the machine");
    show(&mut cluster.command(&["apply", "-f", MANIFEST]))?;
    let mut last = String::new();
    wait_for("the machine to be ready", Duration::from_secs(120), || {
        let machine = cluster.json(&["get", "vm", MACHINE])?;
        let status =
            machine.pointer("/status/printableStatus").and_then(|value| value.as_str()).unwrap_or("-");
        if status != last {
            last = status.to_owned();
            steps.say(&format!("machine is {last}"));
        }
        Ok((last == "Running").then_some(()))
    })?;
    show(&mut cluster.command(&["get", "vm,vmi,pods", "-o", "wide"]))?;

    steps.say("the guest says, on its serial line");
    indent(&cluster.wait_serial("default", MACHINE, "login:")?);

    steps.say("huge pages in use on the host");
    let used = free.saturating_sub(huge_pages("HugePages_Free")?);
    println!("    {used} pages of 2 MiB: the guest's memory is {PAGES}");

    steps.say("privileges of the real processes");
    let qemu = Process::qemu("default", MACHINE).pop().context("QEMU is not running")?;
    for (name, process) in [("virt-launcher", qemu.parent()?), ("QEMU", qemu)] {
        println!(
            "    {name}: pid {}, uid {}, effective capabilities {}, no new privileges {}, seccomp filters {}, {}",
            process.pid,
            process.status("Uid")?.split_whitespace().next().unwrap_or("?"),
            process.status("CapEff")?,
            process.status("NoNewPrivs")?,
            process.status("Seccomp_filters")?,
            process.selinux_label().unwrap_or_else(|| "SELinux is disabled on this node".to_owned()),
        );
    }

    steps.say("why the machine has what it has");
    show(&mut cluster.ferrovirt(&["explain", "-f", MANIFEST])?)?;

    steps.say("what the controller may do, as an administrator sees it");
    show(&mut cluster.command(&["get", "scc", "kubevirt-controller", "-o", "yaml"]))?;
    show(&mut cluster.command(&["get", "clusterrole", "kubevirt-controller", "-o", "yaml"]))?;

    if keep {
        return stay(cluster, reserved);
    }
    steps.say("shutting down");
    cluster.stop()?;
    drop(cluster);
    drop(reserved);
    let left = wait_for("everything to be as before", Duration::from_secs(20), || {
        let left = Host::look()?.added_since(&before);
        Ok(left.is_empty().then_some(()))
    });
    if left.is_err() {
        anyhow::bail!("left behind:\n  {}", Host::look()?.added_since(&before).join("\n  "));
    }
    steps.say("nothing is left behind: no process, namespace, TAP, mount or huge page");
    Ok(())
}

/// Leaves the cluster running in the foreground until Enter or end of input.
fn stay(mut cluster: Cluster, reserved: Reserved) -> Result<()> {
    let config = cluster.kubeconfig();
    let tool = Cluster::binaries()?.join("ferrovirt");
    println!("\nEverything keeps running. In another terminal:\n");
    println!("    export KUBECONFIG={}", config.display());
    println!("    kubectl get vm,vmi,pods");
    println!("    {} console {MACHINE}        # leave with Ctrl-]", tool.display());
    println!("    {} explain -f {}", tool.display(), root().join(MANIFEST).display());
    println!("    kubectl delete -f {}", root().join(MANIFEST).display());
    println!("\nPress Enter here to shut everything down.");
    std::io::stdin().read_line(&mut String::new())?;
    cluster.stop()?;
    drop(reserved);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// The demonstration shows the example as it is committed: its machine by name, and pages for all of its memory.
    #[test]
    fn the_example_is_the_machine_that_is_shown() {
        let text = std::fs::read_to_string(root().join(MANIFEST)).unwrap();
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        let machine = documents.iter().find(|document| document["kind"] == "VirtualMachine").unwrap();
        assert_eq!(machine["metadata"]["name"], MACHINE);
        let memory = &machine["spec"]["template"]["spec"]["domain"]["memory"];
        assert_eq!(memory["hugepages"]["pageSize"], "2Mi");
        let guest = memory["guest"].as_str().unwrap().strip_suffix("Mi").unwrap();
        assert_eq!(guest.parse::<u64>().unwrap(), 2 * PAGES);
    }
}
