//! The machine itself: board, CPU, memory, firmware, direct boot, and the devices that are always of one kind.

use super::{Args, Descriptors, Devices, OrderError, check, escape};
use crate::order::{Accelerator, Backing, Order};
use serde_json::json;

/// System calls that QEMU takes from itself once it is set up; the container's seccomp profile holds as well.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
const MIB: u64 = 1024 * 1024;

impl Args {
    /// `qboot` says whether the small firmware can set up every device of this machine.
    pub(super) fn machine(&mut self, order: &Order, qboot: bool) -> Result<(), OrderError> {
        self.option("-name", format!("guest={},debug-threads=on", escape(&order.name)));
        self.flag("-nodefaults");
        self.flag("-no-user-config");
        self.option("-display", "none");
        // QEMU waits for `cont`: a client of QMP sees every event from the first instruction on.
        self.flag("-S");
        self.option("-sandbox", SANDBOX);

        // Without the HPET a Linux guest starts a little faster, and loses nothing on any clock that it would choose.
        let mut machine = format!("{},hpet=off,vmport=off,dump-guest-core=off", escape(&order.machine));
        if !order.acpi {
            machine.push_str(",acpi=off");
        }
        let size = order.memory.bytes;
        // Clearing a large guest's pages takes one thread a second for a few GiB.
        let vcpus = check::vcpus(order)?;
        let threads = vcpus.min(8);
        let object = match &order.memory.backing {
            Backing::Anonymous => None,
            // Preallocation turns a lack of pages into an error here; a later touch would be a deadly SIGBUS.
            Backing::HugeMemfd { page_bytes } => Some(json!({
                "qom-type": "memory-backend-memfd", "id": "ram", "size": size, "share": true, "prealloc": true,
                "prealloc-threads": threads,
                "hugetlb": true, "hugetlbsize": page_bytes,
            })),
            Backing::HugeDirectory { path } => Some(json!({
                "qom-type": "memory-backend-file", "id": "ram", "size": size, "share": true, "prealloc": true,
                "prealloc-threads": threads,
                "mem-path": path,
            })),
        };
        if object.is_some() {
            machine.push_str(",memory-backend=ram");
        }
        self.option("-machine", machine);
        self.option("-accel", accelerator(order));
        self.option("-cpu", escape(&order.cpu_model));
        let (sockets, cores, threads) = (order.sockets, order.cores, order.threads);
        self.option("-smp", format!("cpus={vcpus},sockets={sockets},cores={cores},threads={threads}"));
        self.option("-m", format!("size={size}B"));
        if let Some(object) = object {
            self.json("-object", &object);
        }

        let mut smbios =
            format!("type=1,manufacturer=KubeVirt,product=None,family=KubeVirt,uuid={}", order.uuid);
        if let Some(serial) = &order.serial_number {
            smbios.push_str(&format!(",serial={}", escape(serial)));
        }
        self.option("-uuid", &order.uuid);
        self.option("-smbios", smbios);
        self.option("-rtc", "base=utc");
        self.option("-boot", "strict=on");
        self.boot(order, qboot);
        Ok(())
    }

    fn boot(&mut self, order: &Order, qboot: bool) {
        let Some(boot) = &order.kernel else { return };
        // SeaBIOS is needed to start from a disk, to run the VGA adapter's ROM and to number buses; a kernel that
        // QEMU loads itself is up sooner with qboot.
        if qboot && !order.graphics {
            self.option("-bios", "qboot.rom");
        }
        if let Some(kernel) = &boot.kernel {
            self.option("-kernel", kernel);
        }
        if let Some(initrd) = &boot.initrd {
            self.option("-initrd", initrd);
        }
        if !boot.args.is_empty() {
            self.option("-append", &boot.args);
        }
    }

    pub(super) fn monitor(&mut self, descriptors: &Descriptors) {
        self.option("-chardev", format!("socket,id=qmp,fd={}", descriptors.qmp));
        self.option("-mon", "chardev=qmp,mode=control");
    }
}

fn accelerator(order: &Order) -> String {
    match order.accelerator {
        Accelerator::Kvm => "kvm".into(),
        // QEMU's own default, an eighth of the host's memory up to 1 GiB, would outweigh a small guest. A boot needs
        // well under 16 MiB of translated code; a larger guest runs more of it.
        Accelerator::Tcg => format!("tcg,tb-size={}", (order.memory.bytes / MIB / 8).clamp(16, 256)),
    }
}

impl Devices {
    pub(super) fn graphics(&mut self, descriptors: &Descriptors) -> Result<(), OrderError> {
        let socket = descriptors.vnc.as_deref().ok_or_else(|| OrderError::Descriptors {
            what: "VNC socket".into(),
            have: 0,
            need: 1,
        })?;
        self.args.option("-vnc", format!("unix:{}", escape(socket)));
        self.args.json("-device", &json!({"driver": "VGA", "id": "vga0", "bus": "pcie.0", "addr": "0x1"}));
        Ok(())
    }

    pub(super) fn balloon(&mut self, backing: &Backing) -> Result<(), OrderError> {
        // Pages that the guest does not use go back to the host, unless they were reserved for it: a huge page that
        // was given back may be gone when the guest wants it again, which would kill QEMU.
        let reporting = matches!(backing, Backing::Anonymous);
        self.pci(json!({
            "driver": "virtio-balloon-pci", "id": "balloon0", "disable-legacy": "on",
            "free-page-reporting": reporting,
        }))
    }

    pub(super) fn rng(&mut self) -> Result<(), OrderError> {
        self.args.json("-object", &json!({"qom-type": "rng-builtin", "id": "rng0"}));
        self.pci(json!({"driver": "virtio-rng-pci", "id": "rngdev0", "rng": "rng0", "disable-legacy": "on"}))
    }
}
