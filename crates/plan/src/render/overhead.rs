//! Memory of a launcher pod beside the guest's own.

use ferrovirt_model::{Bytes, Machine};

/// QEMU itself: code, heap, block layer. The same allowance as upstream's; 33 MiB were seen for a guest of 128 MiB
/// with two disks and an interface.
const QEMU: Bytes = Bytes::mib(50);
/// The launcher: the bound on its private memory. Upstream's stack of monitor, launcher, virtlogd and virtqemud
/// takes 190 MiB here.
const LAUNCHER: Bytes = Bytes::mib(4);
/// Stack and translation state of one vCPU thread.
const VCPU: Bytes = Bytes::mib(8);
/// The thread of the block layer.
const IO_THREAD: Bytes = Bytes::mib(8);
/// Video memory (16 MiB) and the copy that VNC keeps of it.
const GRAPHICS: Bytes = Bytes::mib(32);
/// Guest code that QEMU has translated, in software emulation: the buffer that its command line gives it, an eighth of
/// the guest's memory within these bounds. A guest fills it with the code that it runs.
const TRANSLATION: (Bytes, Bytes) = (Bytes::mib(16), Bytes::mib(256));
/// A page table entry (8 bytes) for each page (4096 bytes).
const PAGE_TABLES: u64 = 512;

/// Bytes that the pod needs beside the guest's memory. `request` is the memory request before overhead.
pub fn overhead(machine: &Machine, request: Bytes, emulation: bool) -> Bytes {
    let vcpus = u64::from(machine.cpu.vcpus().max(1));
    let terms = [
        // Rounded as upstream does, so that a difference is a whole number of pages of the table.
        request.0.div_ceil(1000).saturating_mul(1000) / PAGE_TABLES,
        QEMU.0,
        LAUNCHER.0,
        VCPU.0.saturating_mul(vcpus),
        IO_THREAD.0,
        if machine.devices.graphics { GRAPHICS.0 } else { 0 },
        match emulation {
            true => (machine.memory.guest.0 / 8).clamp(TRANSLATION.0.0, TRANSLATION.1.0),
            false => 0,
        },
    ];
    Bytes(terms.into_iter().fold(0, u64::saturating_add))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    #[test]
    fn a_small_machine() {
        let machine = samples::plain();
        let guest = machine.memory.guest;
        let kvm = overhead(&machine, guest, false);
        assert_eq!(kvm.0, Bytes::mib(50 + 4 + 8 + 8).0 + guest.0.div_ceil(1000) * 1000 / 512);
        assert_eq!(overhead(&machine, guest, true).0, kvm.0 + Bytes::mib(16).0);
    }
}
