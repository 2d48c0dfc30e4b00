//! Removes a cluster, whole or half made: its processes, network namespaces, control groups, mounts and files.

use crate::{
    cgroups,
    layout::Layout,
    network,
    process::{self, Process},
    shared::{Base, mounts_below},
    state::State,
    wait,
};
use anyhow::{Context, Result, ensure};
use std::{fs, path::Path, time::Duration};

/// Removes everything of this cluster; it is not an error that there is none.
pub fn remove(layout: &Layout) -> Result<()> {
    let directory = layout.directory();
    // A record that cannot be read is no reason to leave something: what is in the cluster's namespaces and control
    // groups belongs to it anyway.
    let recorded = State::load(&directory).ok().flatten().map(|state| state.processes).unwrap_or_default();
    wait("the cluster's processes to end", Duration::from_secs(60), || {
        let left: Vec<Process> =
            recorded.iter().cloned().chain(members(layout)).filter(Process::alive).collect();
        left.iter().for_each(Process::kill);
        Ok(left.is_empty().then_some(()))
    })?;
    // Takes note of the end of those that this very process had started.
    recorded.iter().for_each(Process::kill);
    network::remove(layout)?;
    cgroups::remove(layout)?;
    for mount in mounts_below(&directory)? {
        rustix::mount::unmount(&mount, rustix::mount::UnmountFlags::empty())
            .with_context(|| mount.display().to_string())?;
    }
    let base = Base::lock()?;
    // What is mounted below a directory would be removed with it.
    ensure!(mounts_below(&directory)?.is_empty(), "something is mounted below {}", directory.display());
    if directory.exists() {
        fs::remove_dir_all(&directory).with_context(|| directory.display().to_string())?;
    }
    base.release()
}

/// Everybody in the cluster's network namespaces and control groups.
fn members(layout: &Layout) -> Vec<Process> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir("/run/netns") else { return found };
    for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        if layout.owns_namespace(&name) {
            found.extend(process::in_network(&network::file(&name)));
        }
    }
    found.extend(cgroups::members(layout));
    found
}

/// The last lines of every log of the cluster, for anyone who reads why it did not start.
pub fn last_words(layout: &Layout) -> String {
    let mut text = String::new();
    let nodes = layout.nodes();
    let places = std::iter::once(layout.directory()).chain(nodes.into_iter().map(|node| node.directory));
    for place in places {
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|end| end == "log") {
                text.push_str(&tail(&entry.path()));
            }
        }
    }
    text
}

fn tail(log: &Path) -> String {
    let said = fs::read(log).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let mut lines: Vec<String> =
        said.lines().rev().take(5).map(|line| line.chars().take(400).collect()).collect();
    lines.reverse();
    format!("{}:\n  {}\n", log.display(), lines.join("\n  "))
}
