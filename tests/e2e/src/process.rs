//! Processes as /proc shows them.

use anyhow::{Context, Result};
use std::{fs, path::PathBuf};

/// A running process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Process number in this process's PID namespace.
    pub pid: i32,
    /// Arguments.
    pub arguments: Vec<String>,
}

impl Process {
    /// Every process whose arguments satisfy `wanted`.
    pub fn find(wanted: impl Fn(&[String]) -> bool) -> Vec<Self> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let mut found = Vec::new();
        for entry in entries.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let Ok(bytes) = fs::read(entry.path().join("cmdline")) else { continue };
            let text = String::from_utf8_lossy(&bytes);
            let arguments: Vec<String> = text.split_terminator('\0').map(str::to_owned).collect();
            if wanted(&arguments) {
                found.push(Self { pid, arguments });
            }
        }
        found
    }

    /// The QEMU of a machine, by the guest name that its order gives it.
    pub fn qemu(namespace: &str, machine: &str) -> Vec<Self> {
        let name = format!("{namespace}_{machine}");
        Self::find(|arguments| {
            arguments.first().is_some_and(|program| program.contains("qemu-system"))
                && arguments.iter().any(|argument| argument.split([',', '=']).any(|part| part == name))
        })
    }

    /// A field of `/proc/PID/status`, such as `CapEff` or `NoNewPrivs`.
    pub fn status(&self, field: &str) -> Result<String> {
        let path = PathBuf::from(format!("/proc/{}/status", self.pid));
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        text.lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
            .map(|value| value.trim().to_owned())
            .with_context(|| format!("no {field} in {}", path.display()))
    }

    /// The process that started this one.
    pub fn parent(&self) -> Result<Self> {
        let pid: i32 = self.status("PPid")?.parse()?;
        let text = fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
        Ok(Self { pid, arguments: text.split_terminator('\0').map(str::to_owned).collect() })
    }

    /// The SELinux label, or `None` where SELinux is off.
    pub fn selinux_label(&self) -> Option<String> {
        if !fs::exists("/sys/fs/selinux/enforce").unwrap_or(false) {
            return None;
        }
        let text = fs::read_to_string(format!("/proc/{}/attr/current", self.pid)).ok()?;
        Some(text.trim_end_matches(['\0', '\n']).to_owned())
    }

    /// Private memory in KiB: what would be free if only this process ended.
    pub fn private_kib(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid))?;
        let sum = text
            .lines()
            .filter(|line| line.starts_with("Private_Clean:") || line.starts_with("Private_Dirty:"))
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum();
        Ok(sum)
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> Result<u64> {
        self.kib("VmRSS")
    }

    /// The most resident memory that the process ever had, in KiB.
    pub fn peak_kib(&self) -> Result<u64> {
        self.kib("VmHWM")
    }

    fn kib(&self, field: &str) -> Result<u64> {
        let text = self.status(field)?;
        Ok(text.split_whitespace().next().with_context(|| format!("no {field}"))?.parse()?)
    }

    /// Processor time of this process and of its children that have ended.
    pub fn cpu(&self) -> Result<std::time::Duration> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        // The name in parentheses may hold blanks; utime, stime, cutime and cstime are the fields 14 to 17.
        let (_, rest) = text.rsplit_once(')').context("no name in /proc/PID/stat")?;
        let ticks: u64 = rest.split_whitespace().skip(11).take(4).filter_map(|t| t.parse::<u64>().ok()).sum();
        // The kernel shows hundredths of a second here, whatever its own clock does (USER_HZ).
        Ok(std::time::Duration::from_millis(ticks * 10))
    }

    /// Sends a signal to exactly this process.
    pub fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        let pid = rustix::process::Pid::from_raw(self.pid).context("pid 0")?;
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    /// Whether it is still there (a zombie is not).
    pub fn alive(&self) -> bool {
        self.status("State").is_ok_and(|state| !state.starts_with('Z'))
    }
}
