//! The control groups below which the kubelets make those of their pods.

use crate::{
    layout::{Layout, Node},
    process::Process,
};
use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// The hierarchies of this machine: one for each controller of version 1, or the only one of version 2. A machine that
/// has both keeps its controllers in version 1, and there the tree of version 2 is left out: the nodes do not see it.
fn hierarchies(mountinfo: &str) -> Vec<PathBuf> {
    let of = |kind: &str| -> Vec<PathBuf> {
        mountinfo
            .lines()
            .filter_map(|line| {
                let (left, right) = line.split_once(" - ")?;
                let point = left.split(' ').nth(4)?;
                (right.split(' ').next() == Some(kind)).then(|| PathBuf::from(point))
            })
            .filter(|point| point.starts_with("/sys/fs/cgroup"))
            .collect()
    };
    let one = of("cgroup");
    if one.is_empty() { of("cgroup2") } else { one }
}

fn here() -> Result<Vec<PathBuf>> {
    Ok(hierarchies(&fs::read_to_string("/proc/self/mountinfo")?))
}

/// Makes a node's group, and those above it, in every hierarchy.
pub fn make(node: &Node) -> Result<()> {
    for hierarchy in here()? {
        let mut group = hierarchy.clone();
        for part in node.cgroup.split('/').filter(|part| !part.is_empty()) {
            let above = group.clone();
            group.push(part);
            give_controllers(&above);
            if !group.exists() {
                fs::create_dir(&group).with_context(|| group.display().to_string())?;
            }
            inherit_processors(&above, &group)?;
        }
        give_controllers(&group);
    }
    Ok(())
}

/// Version 2 gives a group the controllers that the one above it names. One at a time: what the kernel does not have
/// must not keep the others away, and the kubelet says what it misses.
fn give_controllers(group: &Path) {
    let file = group.join("cgroup.subtree_control");
    if file.exists() {
        for controller in ["+cpu", "+cpuset", "+memory", "+pids", "+io", "+hugetlb"] {
            let _ = fs::write(&file, controller);
        }
    }
}

/// A new group of version 1's cpuset has no processor and takes no process.
fn inherit_processors(above: &Path, group: &Path) -> Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        // In version 2 an empty file means what is above it, and its root has no such file.
        let Ok(value) = fs::read_to_string(above.join(name)) else { continue };
        if !value.trim().is_empty() && fs::read_to_string(group.join(name))?.trim().is_empty() {
            fs::write(group.join(name), value.trim()).with_context(|| group.display().to_string())?;
        }
    }
    Ok(())
}

/// Removes the cluster's groups, which hold no process any more, and the one above them with the last cluster.
pub fn remove(layout: &Layout) -> Result<()> {
    for hierarchy in here()? {
        let group = hierarchy.join(layout.cgroup().trim_start_matches('/'));
        // The kernel lets a group go a moment after its last process.
        crate::wait("the control groups to be empty", Duration::from_secs(20), || {
            remove_tree(&group).with_context(|| group.display().to_string())?;
            Ok(Some(()))
        })?;
        if let Some(above) = group.parent() {
            let _ = fs::remove_dir(above);
        }
    }
    Ok(())
}

/// Every process in the cluster's groups.
pub fn members(layout: &Layout) -> Vec<Process> {
    let mut found = Vec::new();
    for hierarchy in here().unwrap_or_default() {
        collect(&hierarchy.join(layout.cgroup().trim_start_matches('/')), &mut found);
    }
    found
}

fn collect(group: &Path, found: &mut Vec<Process>) {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    found.extend(text.lines().filter_map(|line| Process::look(line.parse().ok()?)));
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), found);
        }
    }
}

/// Children first; the files of a control group go with it.
fn remove_tree(group: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(group) else { return Ok(()) };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_tree(&entry.path())?;
    }
    Ok(fs::remove_dir(group)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 25 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw
31 30 0:27 / /sys/fs/cgroup/memory rw shared:3 - cgroup cgroup rw,memory
32 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
33 30 0:29 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset
34 30 0:27 / /mnt/elsewhere rw - cgroup cgroup rw,memory
";

    #[test]
    fn controllers_of_version_one_are_taken_where_there_are_any() {
        let found = hierarchies(HYBRID);
        assert_eq!(found, [Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup/cpuset")]);
        let two = hierarchies("30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        assert_eq!(two, [Path::new("/sys/fs/cgroup")]);
        assert!(hierarchies("").is_empty());
    }
}
