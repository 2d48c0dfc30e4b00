//! What the host holds that a machine could leave behind.

use anyhow::{Context, Result};
use std::{collections::BTreeSet, fs, process::Command};

/// Everything on the host that starting a machine adds to, and that has to be as before when it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host(BTreeSet<String>);

impl Host {
    /// Looks around.
    pub fn look() -> Result<Self> {
        let mut things = BTreeSet::new();
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        things.extend(mounts.lines().filter_map(|line| Some(format!("mount {}", line.split(' ').nth(4)?))));
        for entry in fs::read_dir("/sys/class/net")? {
            things.insert(format!("link {}", entry?.file_name().to_string_lossy()));
        }
        let tables = Command::new("nft").args(["list", "tables"]).output()?;
        things.extend(String::from_utf8_lossy(&tables.stdout).lines().map(|line| format!("nftables {line}")));
        for process in crate::process::Process::find(|arguments| {
            arguments.first().is_some_and(|program| {
                let name = program.rsplit('/').next().unwrap_or(program);
                name.starts_with("qemu-system")
                    || name == "virt-launcher"
                    || name == "virt-handler"
                    || name == "crun"
            })
        }) {
            things.insert(format!("process {} {}", process.pid, process.arguments.join(" ")));
        }
        for root in
            ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/devices"]
        {
            let Ok(entries) = fs::read_dir(root) else { continue };
            for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
                things.insert(format!("cgroup {}", entry.path().display()));
            }
        }
        things.insert(format!("huge pages free {}", huge_pages("HugePages_Free")?));
        Ok(Self(things))
    }

    /// What is here and was not in `before`.
    pub fn added_since(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

/// A line of /proc/meminfo, such as `HugePages_Free`: a number of pages of the default size.
pub fn huge_pages(field: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    Ok(line.with_context(|| format!("/proc/meminfo has no {field}"))?.trim().parse()?)
}

/// Huge pages of 2 MiB reserved on top of what was there; given back on drop.
#[derive(Debug)]
pub struct Reserved(u64);

const NR_HUGEPAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

impl Reserved {
    /// Reserves `pages`, as root.
    pub fn new(pages: u64) -> Result<Self> {
        let before: u64 = fs::read_to_string(NR_HUGEPAGES)?.trim().parse()?;
        fs::write(NR_HUGEPAGES, (before + pages).to_string()).context(NR_HUGEPAGES)?;
        let reserved = Self(before);
        let now: u64 = fs::read_to_string(NR_HUGEPAGES)?.trim().parse()?;
        anyhow::ensure!(now >= before + pages, "the kernel reserved {} of {pages} huge pages", now - before);
        Ok(reserved)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let _ = fs::write(NR_HUGEPAGES, self.0.to_string());
    }
}
