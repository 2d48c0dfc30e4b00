//! What a start that was killed half-way leaves is removed too. Needs root, and nothing that is built.

use anyhow::{Context, Result, ensure};
use ferrovirt_cluster::{
    Cluster,
    layout::{BASE, Layout},
    network,
    process::Process,
    state::State,
};
use std::{fs, path::Path, process::Command};

/// A program that only ends when it is killed.
fn sleeper(namespace: &str, log: &Path) -> Result<Process> {
    let mut command = network::command(namespace, Path::new("sleep"));
    command.arg("86400");
    Process::start("sleep", command, log)
}

#[test]
fn half_a_start_is_removed_with_processes_that_nobody_noted() -> Result<()> {
    let layout = Layout::new("half", 2)?;
    Cluster::down("half")?;
    fs::create_dir_all(layout.directory())?;
    network::make(&layout)?;
    let mut state = State::new(&layout, "v0", 2)?;
    let noted = sleeper(&layout.namespace(), &layout.path("log"))?;
    state.add_process(noted.clone())?;
    let node = layout.nodes().pop().context("no node")?;
    let not_noted = sleeper(&node.namespace, &layout.path("log"))?;
    // Of the same program, and not of the cluster: nothing is ended by its name.
    let stranger = Process::start(
        "sleep",
        {
            let mut sleep = Command::new("sleep");
            sleep.arg("86400");
            sleep
        },
        &layout.path("log"),
    )?;

    Cluster::down("half")?;
    let spared = stranger.alive();
    stranger.kill();
    ensure!(!noted.alive() && !not_noted.alive(), "a process is left");
    ensure!(spared, "a process of somebody else was ended");
    for namespace in [layout.namespace(), node.namespace] {
        ensure!(!network::file(&namespace).exists(), "{namespace} is left");
    }
    ensure!(!Path::new(BASE).join("half").exists(), "files are left");
    // And once more, where nothing is.
    Cluster::down("half")
}
