//! The machines.

use ferrovirt_nested::Scenario;
use ferrovirt_privilege::{Domain, Feature};
use ferrovirt_qemu::order::{
    Accelerator, Backing, Bus, Cache, Disk, Format, Kernel, Lease, Memory, Nic, Order, Tap, VERSION,
};
use std::net::Ipv4Addr;

const MIB: u64 = 1 << 20;

pub(super) fn all() -> Vec<Scenario> {
    let one = |name: &str, features: &[Feature]| scenario(name, features, 1);
    let two = |name: &str, features: &[Feature]| scenario(name, features, 2);
    use Feature::{ClaimBlockRead, ClaimBlockWrite, Emulation, HugePages, Kvm, MultiQueue, Tap};
    vec![
        one("plain", &[Kvm]),
        one("one queue", &[Kvm, Tap]),
        two("multi-queue", &[Kvm, Tap, MultiQueue]),
        one("huge pages", &[Kvm, HugePages]),
        two("multi-queue, huge pages", &[Kvm, Tap, MultiQueue, HugePages]),
        one("block claim", &[Kvm, ClaimBlockWrite]),
        one("read-only block claim", &[Kvm, ClaimBlockRead]),
        disks(one("disks and screen", &[Kvm])),
        last_words(one("last words", &[Kvm])),
        emulated("emulation", &[Emulation]),
        deaf(emulated("deaf", &[Emulation])),
        by_agent(emulated("started by the agent", &[Emulation])),
        emulated("emulation, huge pages", &[Emulation, HugePages]),
    ]
}

/// A Linux guest that tells what it sees.
fn scenario(name: &str, features: &[Feature], cpus: u32) -> Scenario {
    let has = |feature| features.contains(&feature);
    let mut expect =
        vec!["guest: userspace".to_owned(), format!("guest: cpus={cpus}"), "guest: ready".to_owned()];
    let mut order = order(name, Accelerator::Kvm);
    order.cores = cpus;
    order.kernel = Some(Kernel {
        kernel: Some("/images/vmlinuz".to_owned()),
        initrd: Some("/images/initrd".to_owned()),
        args: "console=ttyS0 quiet no_timer_check".to_owned(),
        image: None,
    });
    let mut devices = vec![("/dev/kvm".to_owned(), "/dev/kvm".to_owned())];
    if has(Feature::HugePages) {
        order.memory.backing = Backing::HugeMemfd { page_bytes: 2 * MIB };
    }
    if has(Feature::Tap) {
        order.nics.push(nic(cpus));
        expect.push(format!("guest: eth0 queues={cpus}"));
        expect.push("guest: eth0 address=10.0.2.2".to_owned());
    }
    let write = has(Feature::ClaimBlockWrite);
    if write || has(Feature::ClaimBlockRead) {
        devices.push(("/dev/claim".to_owned(), "/dev/nvme0n1".to_owned()));
        order.disks.push(disk("claim", "/dev/claim", !write));
        expect.push(format!("guest: disk vda bytes={} ro={}", 8 * MIB, u32::from(!write)));
    }
    Scenario {
        name: name.to_owned(),
        domain: domain(features),
        by_agent: false,
        order,
        devices,
        copies: Vec::new(),
        expect,
        fails: None,
        deaf: false,
        timeout: 180,
    }
}

/// A file of the pod's scratch space that is written, an image of which only an overlay is written, and a screen.
fn disks(mut made: Scenario) -> Scenario {
    let before = made.order.disks.len();
    made.copies
        .push(("/var/run/kubevirt-ephemeral-disks/scratch.img".to_owned(), "/images/scratch.img".to_owned()));
    made.order.disks.push(disk("scratch", "/var/run/kubevirt-ephemeral-disks/scratch.img", false));
    let mut overlay = disk("image", "/images/sector.img", false);
    overlay.overlay = true;
    made.order.disks.push(overlay);
    made.order.graphics = true;
    for letter in ["vda", "vdb", "vdc"].iter().skip(before).take(2) {
        made.expect.push(format!("guest: disk {letter} bytes={MIB} ro=0"));
    }
    made
}

/// QEMU says why it ends, and the launcher passes that on.
fn last_words(mut made: Scenario) -> Scenario {
    if let Some(kernel) = &mut made.order.kernel {
        kernel.kernel = Some("/images/none".to_owned());
    }
    made.fails = Some("/images/none".to_owned());
    made
}

/// QEMU does not do what it is asked, and the launcher kills it.
fn deaf(mut made: Scenario) -> Scenario {
    made.name = "deaf".to_owned();
    made.deaf = true;
    made
}

/// The node agent starts the launcher, as in `ferrovirt up`.
fn by_agent(mut made: Scenario) -> Scenario {
    made.by_agent = true;
    made
}

/// How many machines [`everything`] has at most.
pub(super) const ROUNDS: usize = 4;

/// Machines that use every rule of the type with every feature, the quickest first. Without a rule the first one that
/// does not go well tells.
pub(super) fn everything(emulation: bool, domain: &str) -> Vec<Scenario> {
    use Feature::{ClaimBlockWrite, HugePages, Kvm, MultiQueue, Tap};
    if emulation {
        let mut made = emulated("emulation", &[Feature::Emulation]);
        made.domain = domain.to_owned();
        return vec![made];
    }
    let whole = || disks(scenario("linux", &[Kvm, Tap, MultiQueue, HugePages, ClaimBlockWrite], 2));
    let mut sector = whole();
    sector.name = "sector".to_owned();
    sector.order.kernel = None;
    for disk in &mut sector.order.disks {
        disk.boot_order = (disk.name == "image").then_some(1);
    }
    sector.expect = vec!["R".to_owned()];
    sector.timeout = 40;
    let mut all = vec![sector.clone(), by_agent(last_words(whole())), deaf(sector), whole()];
    for made in &mut all {
        made.domain = domain.to_owned();
    }
    all
}

/// A guest in one boot sector: a whole kernel takes minutes in emulation inside emulation.
fn emulated(name: &str, features: &[Feature]) -> Scenario {
    let mut made = scenario(name, features, 1);
    made.order.accelerator = Accelerator::Tcg;
    made.order.cpu_model = "max".to_owned();
    made.order.kernel = None;
    made.order.memory.bytes = 32 * MIB;
    let mut boot = disk("boot", "/images/sector.img", false);
    (boot.overlay, boot.boot_order) = (true, Some(1));
    made.order.disks = vec![boot];
    made.devices.clear();
    made.expect = vec!["R".to_owned()];
    made
}

fn domain(features: &[Feature]) -> String {
    Domain::of(&features.iter().copied().collect()).name().to_owned()
}

fn order(name: &str, accelerator: Accelerator) -> Order {
    Order {
        version: VERSION,
        name: format!("default_{}", name.replace([' ', ','], "-")),
        uuid: "5d307ca9-b3ef-428c-8861-06e72d69f223".to_owned(),
        serial_number: None,
        machine: "q35".to_owned(),
        accelerator,
        cpu_model: if accelerator == Accelerator::Kvm { "host" } else { "max" }.to_owned(),
        sockets: 1,
        cores: 1,
        threads: 1,
        memory: Memory { bytes: 128 * MIB, backing: Backing::Anonymous },
        kernel: None,
        disks: Vec::new(),
        nics: Vec::new(),
        serial: true,
        graphics: false,
        balloon: true,
        rng: true,
        acpi: true,
        start_paused: false,
        grace_seconds: 0,
    }
}

fn nic(queues: u32) -> Nic {
    Nic {
        name: "default".to_owned(),
        mac: "02:00:00:00:00:01".to_owned(),
        model: "virtio".to_owned(),
        queues,
        tap: Tap::Passed,
        boot_order: None,
        dhcp: Some(Lease {
            address: Ipv4Addr::new(10, 0, 2, 2),
            prefix: 24,
            server: Ipv4Addr::new(10, 0, 2, 1),
            gateway: None,
            dns: Vec::new(),
            search: Vec::new(),
            hostname: "nested".to_owned(),
            mtu: 1500,
        }),
    }
}

fn disk(name: &str, path: &str, read_only: bool) -> Disk {
    Disk {
        name: name.to_owned(),
        path: path.to_owned(),
        format: Format::Raw,
        read_only,
        overlay: false,
        cdrom: false,
        bus: Bus::Virtio,
        serial: None,
        boot_order: None,
        cache: Cache::Auto,
        queues: 1,
        prepare: None,
    }
}

/// A disk whose boot sector writes `R` to the serial port and then waits.
///
/// ```text
///     cli; mov dx, 0x3f8; mov al, 'R'; out dx, al
/// wait: hlt; jmp wait
/// ```
pub(super) fn sector() -> Vec<u8> {
    let mut bytes = vec![0xfa, 0xba, 0xf8, 0x03, 0xb0, b'R', 0xee, 0xf4, 0xeb, 0xfd];
    bytes.resize(510, 0);
    bytes.extend([0x55, 0xaa]);
    bytes.resize(1 << 20, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn scenarios_have_names_of_their_own_and_types_that_are_declared() {
        let all = all();
        let names: BTreeSet<_> = all.iter().map(|made| made.name.as_str()).collect();
        assert_eq!(names.len(), all.len());
        let declared: BTreeSet<String> =
            Domain::all().iter().map(|domain| domain.name().to_owned()).collect();
        for made in &all {
            assert!(declared.contains(&made.domain), "{}: {}", made.name, made.domain);
            assert!(!made.expect.is_empty() && made.timeout > 0, "{}", made.name);
            let kvm = made.devices.iter().any(|(path, _)| path == "/dev/kvm");
            assert_eq!(kvm, made.order.accelerator == Accelerator::Kvm, "{}", made.name);
            assert_eq!(made.domain.contains("emulated"), !kvm, "{}", made.name);
            // Each device of the order is given to the guest.
            for disk in made.order.disks.iter().filter(|disk| disk.path.starts_with("/dev/")) {
                assert!(
                    made.devices.iter().any(|(path, _)| *path == disk.path),
                    "{}: {}",
                    made.name,
                    disk.path
                );
            }
        }
        // Every word of a type is in some scenario, so that the rules of each are used.
        let words: BTreeSet<&str> =
            declared.iter().flat_map(|name| name.trim_start_matches("virt_machine.").split('_')).collect();
        let used: BTreeSet<&str> =
            all.iter().flat_map(|made| made.domain.trim_start_matches("virt_machine.").split('_')).collect();
        assert_eq!(used, words);
    }

    #[test]
    fn the_machines_that_use_every_rule_fit_their_rounds() {
        for (emulation, domain) in [(false, "virt_machine.kvm"), (true, "virt_machine.emulated")] {
            let machines = everything(emulation, domain);
            assert!((1..=ROUNDS).contains(&machines.len()));
            assert!(machines.iter().all(|made| made.domain == domain));
        }
        let whole = everything(false, "virt_machine.kvm");
        assert!(whole.iter().any(|made| made.by_agent && made.fails.is_some()));
        assert!(whole.iter().any(|made| made.deaf) && whole.iter().any(|made| made.order.kernel.is_some()));
        assert!(whole.iter().all(|made| made.order.graphics && made.order.nics.len() == 1));
    }

    /// A BIOS starts what ends with its mark in the first 512 bytes.
    #[test]
    fn the_boot_sector_is_one() {
        let bytes = sector();
        assert_eq!((bytes.len(), bytes.get(510..512)), (1 << 20, Some(&[0x55, 0xaa][..])));
        // The last instruction jumps three bytes back, to the halt.
        assert_eq!(bytes.get(7..10), Some(&[0xf4, 0xeb, 0xfd][..]));
    }
}
