//! The guest: QEMU in emulation, one processor, a PCI device with virtual functions, two serial ports.

use anyhow::{Context, Result, bail};
use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const QEMU: &str = "qemu-system-x86_64";

/// Words of QEMU that do not depend on files. The NVMe device is there for its virtual functions, and takes the policy that
/// the kernel hands back.
const MACHINE: &str = "-no-user-config -nodefaults -no-reboot -machine q35 -accel tcg -cpu max -smp 1 -m 512 -display none \
    -device pcie-root-port,id=root0,slot=0 -device nvme-subsys,id=group0 \
    -device nvme,id=nvme0,bus=root0,serial=proof,subsys=group0,sriov_max_vfs=4,sriov_vq_flexible=8,\
sriov_vi_flexible=4,max_ioqpairs=26,msix_qsize=12 -device nvme-ns,drive=disk0,bus=nvme0";

/// Debian's kernel starts another security module unless it is told this one. Without the backlog, records are lost.
const KERNEL: &str =
    "console=ttyS0 security=selinux audit=1 audit_backlog_limit=8192 panic=-1 loglevel=7 mitigations=off";

pub(super) struct Guest<'a> {
    pub(super) kernel: &'a Path,
    /// Where the guest's files go.
    pub(super) directory: &'a Path,
    /// How long it may take.
    pub(super) limit: Duration,
}

/// What a guest left.
pub(super) struct Seen {
    pub(super) results: String,
    pub(super) log: String,
    /// The policy as the kernel hands it back.
    pub(super) policy: Vec<u8>,
}

impl Seen {
    /// The end of the console.
    pub(super) fn last_lines(&self) -> String {
        last_lines(&self.log)
    }
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    if lines.is_empty() {
        return "it wrote nothing to its console".to_owned();
    }
    let last = lines.get(lines.len().saturating_sub(12)..).unwrap_or_default();
    format!("the last lines of the guest's console:\n  {}", last.join("\n  "))
}

impl Guest<'_> {
    /// Boots and waits for the end. `policy` is the size of the policy in bytes.
    pub(super) fn run(&self, initrd: &[u8], policy: u64) -> Result<Seen> {
        let file = |name: &str| self.directory.join(name);
        fs::write(file("initrd"), initrd)?;
        // What the kernel hands back is as long as what it was given, or nearly.
        let room = policy.saturating_mul(2).next_multiple_of(1 << 20);
        File::create(file("disk"))?.set_len(room)?;
        let mut child = Command::new(QEMU)
            .args(MACHINE.split_whitespace())
            .args(["-drive", "file=disk,format=raw,if=none,id=disk0"])
            .args(["-serial", "file:kernel.log", "-serial", "file:results"])
            .arg("-kernel")
            .arg(fs::canonicalize(self.kernel)?)
            .args(["-initrd", "initrd", "-append", KERNEL])
            .current_dir(self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(file("qemu.log"))?)
            .spawn()
            .with_context(|| format!("cannot run {QEMU}: install the package qemu-system-x86"))?;
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if start.elapsed() > self.limit {
                child.kill()?;
                child.wait()?;
                break None;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let text =
            |name: &str| fs::read(file(name)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let log = text("kernel.log").unwrap_or_default();
        match status {
            None => bail!("the guest did not end within {:?}; {}", self.limit, last_lines(&log)),
            Some(status) if !status.success() => {
                bail!("{QEMU} failed ({status}): {}", text("qemu.log").unwrap_or_default().trim_end())
            }
            Some(_) => {}
        }
        let results = text("results").with_context(|| last_lines(&log))?;
        let length =
            results.lines().find_map(|line| line.trim().strip_prefix("loaded\t")?.parse::<usize>().ok());
        let mut policy = fs::read(file("disk"))?;
        policy.truncate(length.unwrap_or(0));
        Ok(Seen { results, log, policy })
    }
}
