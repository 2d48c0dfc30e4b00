//! The guest: one processor, a PCI device with virtual functions, and the policy on its disk when it has ended.

use anyhow::Result;
use ferrovirt_lab::{Initrd, Machine, Seen};
use ferrovirt_lab_protocol::{
    POLICY,
    proof::{self, SCENARIO, Scenario},
};
use std::{
    fs::{self, File},
    io::BufWriter,
    path::Path,
    time::Duration,
};

/// Words of QEMU that do not depend on files. The NVMe device is there for its virtual functions, and takes the policy that
/// the kernel hands back.
const MACHINE: &str = "-machine q35 -device pcie-root-port,id=root0,slot=0 -device nvme-subsys,id=group0 \
    -device nvme,id=nvme0,bus=root0,serial=proof,subsys=group0,sriov_max_vfs=4,sriov_vq_flexible=8,\
sriov_vi_flexible=4,max_ioqpairs=26,msix_qsize=12 -device nvme-ns,drive=disk0,bus=nvme0 \
    -drive file=disk,format=raw,if=none,id=disk0 -initrd initrd";

pub(super) struct Guest<'a> {
    pub(super) kernel: &'a Path,
    /// Where the guest's files go.
    pub(super) directory: &'a Path,
    /// How long it may take.
    pub(super) limit: Duration,
}

/// What is in the guest.
pub(super) struct Contents<'a> {
    /// Its first process.
    pub(super) witness: &'a Path,
    /// The kernel's module for TAP devices.
    pub(super) tun: &'a Path,
    pub(super) policy: &'a Path,
    pub(super) scenario: &'a Scenario,
}

impl Contents<'_> {
    fn write(&self, initrd: &Path) -> Result<()> {
        let mut archive = Initrd::new(BufWriter::new(File::create(initrd)?));
        for name in ["dev", "modules", "proc", "sys", "w"] {
            archive.directory(name)?;
        }
        archive.file("init", 0o755, &fs::read(self.witness)?)?;
        archive.file("modules/tun.ko", 0o644, &fs::read(self.tun)?)?;
        archive.file(POLICY.trim_start_matches('/'), 0o644, &fs::read(self.policy)?)?;
        archive.file(SCENARIO.trim_start_matches('/'), 0o644, &serde_json::to_vec(self.scenario)?)?;
        archive.finish()?;
        Ok(())
    }
}

impl Guest<'_> {
    /// Boots and waits for the end.
    pub(super) fn run(&self, contents: &Contents<'_>) -> Result<Seen> {
        contents.write(&self.directory.join("initrd"))?;
        // What the kernel hands back is as long as what it was given, or nearly.
        let room = fs::metadata(contents.policy)?.len().saturating_mul(2).next_multiple_of(1 << 20);
        File::create(self.directory.join("disk"))?.set_len(room)?;
        let machine = Machine {
            kernel: self.kernel,
            append: "mitigations=off",
            processors: 1,
            mib: 512,
            arguments: MACHINE.split_whitespace().map(Into::into).collect(),
            directory: self.directory,
            timeout: self.limit,
        };
        Ok(machine.run()?)
    }

    /// The policy as the kernel handed it back, by what the witness reports.
    pub(super) fn policy(&self, reports: &[proof::Seen]) -> Result<Vec<u8>> {
        let length = reports.iter().find_map(|report| match report {
            proof::Seen::Loaded(length) => Some(*length),
            _ => None,
        });
        let mut policy = fs::read(self.directory.join("disk"))?;
        policy.truncate(length.unwrap_or(0).try_into()?);
        Ok(policy)
    }
}
