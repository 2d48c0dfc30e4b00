//! The command line of one guest.
//!
//! Every string of the order is checked, and what comes from a person is passed as JSON wherever QEMU 7.2 takes
//! JSON. Where it does not, commas are doubled, which is how QEMU's option parser escapes them.

mod check;
mod disk;
mod machine;
mod nic;
mod slots;

use crate::order::{Bus, Order, Tap};
use serde_json::Value;
use slots::Slots;
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
};

/// What the launcher found or opened for an order: the numbers are those that QEMU's process sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Descriptors {
    /// Stream socket for QMP.
    pub qmp: i32,
    /// Stream socket of the serial port; needed when the order asks for one.
    pub serial: Option<i32>,
    /// TAP queues of each interface, by name: as many as the order says.
    pub taps: BTreeMap<String, Vec<i32>>,
    /// Path of the VNC socket that QEMU makes; needed when the order asks for graphics.
    pub vnc: Option<String>,
    /// Names of the disks whose file can be opened with O_DIRECT.
    pub direct: BTreeSet<String>,
    /// Names of the disks whose path is a block device.
    pub block_devices: BTreeSet<String>,
}

/// Why an order cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// Another version of the order.
    #[error("order version {0} is not known to this launcher, which knows {known}: use a launcher image of the same release as the node agent", known = crate::order::VERSION)]
    Version(u32),
    /// A field with characters that it must not have, or empty.
    #[error("{field} is {value:?}: {rule}")]
    Field {
        /// Field of the order.
        field: String,
        /// What it holds.
        value: String,
        /// What it must be.
        rule: &'static str,
    },
    /// Two disks or two interfaces with one name.
    #[error("two devices are named {0:?}: names must differ")]
    Twice(String),
    /// CPU topology out of range.
    #[error("{sockets} sockets, {cores} cores, {threads} threads: {rule}")]
    Vcpus {
        /// Sockets.
        sockets: u32,
        /// Cores of a socket.
        cores: u32,
        /// Threads of a core.
        threads: u32,
        /// What they must be.
        rule: &'static str,
    },
    /// Memory that QEMU or the pages cannot give.
    #[error("{bytes} bytes of memory: {rule}")]
    Memory {
        /// What was asked for.
        bytes: u64,
        /// What it must be.
        rule: String,
    },
    /// Queues out of range, or on a device that has one queue only.
    #[error("{queues} queues for {device:?}: {rule}")]
    Queues {
        /// Disk or interface.
        device: String,
        /// What was asked for.
        queues: u32,
        /// What it must be.
        rule: &'static str,
    },
    /// The host CPU without the host's virtualization.
    #[error("CPU model \"host\" needs KVM: choose another model or make /dev/kvm usable")]
    HostCpu,
    /// Direct kernel boot without a kernel.
    #[error("an initial RAM file system or kernel arguments need a kernel")]
    NoKernel,
    /// A disk on a bus that cannot carry it.
    #[error("disk {disk:?}: {rule}")]
    Disk {
        /// Name.
        disk: String,
        /// What to change.
        rule: &'static str,
    },
    /// More devices than the machine has places for.
    #[error("more devices than the {0} PCI functions that this machine type has for them")]
    TooManyDevices(usize),
    /// The launcher has not got all descriptors.
    #[error("{what}: {have} descriptors passed, {need} needed")]
    Descriptors {
        /// For what.
        what: String,
        /// Number passed.
        have: usize,
        /// Number needed.
        need: usize,
    },
}

/// Whether an order can be carried out, as far as it says so itself.
///
/// # Errors
/// [`OrderError`] when it is of another version, or not possible.
pub fn check(order: &Order) -> Result<(), OrderError> {
    check::order(order)
}

/// The arguments of `qemu-system-x86_64` (without the program's own name) for an order.
///
/// The same order and descriptors always give the same arguments.
///
/// # Errors
/// [`OrderError`] when the order is of another version, is not possible, or names something that is not there.
pub fn command_line(order: &Order, descriptors: &Descriptors) -> Result<Vec<OsString>, OrderError> {
    check::order(order)?;
    let buses = order.disks.iter().map(|disk| disk.bus);
    let count = device_count(buses, order.nics.len(), order.balloon, order.rng);
    let mut devices = Devices { args: Args::default(), slots: Slots::new(count) };
    if order.graphics {
        devices.graphics(descriptors)?;
    }
    for (index, nic) in order.nics.iter().enumerate() {
        let queues = descriptors.taps.get(&nic.name).map(Vec::as_slice).unwrap_or_default();
        devices.nic(index, nic, queues)?;
    }
    devices.disks(order, descriptors)?;
    if order.balloon {
        devices.balloon(&order.memory.backing)?;
    }
    if order.rng {
        devices.rng()?;
    }
    let Devices { args: device_args, slots } = devices;

    let mut args = Args::default();
    args.machine(order, slots.ports() == 0)?;
    args.monitor(descriptors);
    if order.serial {
        let fd = descriptors.serial.ok_or_else(|| OrderError::Descriptors {
            what: "serial port".into(),
            have: 0,
            need: 1,
        })?;
        args.option("-chardev", format!("socket,id=serial0,fd={fd}"));
        args.option("-serial", "chardev:serial0");
    }
    slots.root_ports(&mut args);
    args.0.extend(device_args.0);
    Ok(args.0)
}

/// Interface names whose queues the launcher opens itself.
pub fn created_taps(order: &Order) -> impl Iterator<Item = &crate::order::Nic> {
    order.nics.iter().filter(|nic| matches!(nic.tap, Tap::Created { .. }))
}

/// Devices that need a PCI function of their own.
fn device_count(disks: impl Iterator<Item = Bus> + Clone, nics: usize, balloon: bool, rng: bool) -> usize {
    let on = |bus| disks.clone().filter(move |other| *other == bus).count();
    nics + on(Bus::Virtio)
        + usize::from(on(Bus::Scsi) > 0)
        + usize::from(on(Bus::Usb) > 0)
        + on(Bus::Sata).saturating_sub(1) / disk::SATA_PORTS
        + usize::from(balloon)
        + usize::from(rng)
}

/// Whether a machine has places for all its devices.
///
/// # Errors
/// What must be fewer.
pub fn has_places(
    disks: impl Iterator<Item = Bus> + Clone,
    nics: usize,
    balloon: bool,
    rng: bool,
) -> Result<(), &'static str> {
    if disks.clone().filter(|bus| *bus == Bus::Scsi).count() > disk::SCSI_IDS {
        Err("has more than 256 disks on the bus scsi")
    } else if device_count(disks, nics, balloon, rng) <= slots::MOST {
        Ok(())
    } else {
        Err("has more devices than the 141 PCI functions that this machine type has for them: \
             disks on the bus scsi share one")
    }
}

/// Arguments while they are gathered.
#[derive(Default)]
struct Args(Vec<OsString>);

impl Args {
    fn flag(&mut self, flag: &str) {
        self.0.push(flag.into());
    }

    fn option(&mut self, flag: &str, value: impl Into<OsString>) {
        self.0.push(flag.into());
        self.0.push(value.into());
    }

    fn json(&mut self, flag: &str, value: &Value) {
        self.option(flag, value.to_string());
    }
}

/// Arguments of devices, and the places that they took.
struct Devices {
    args: Args,
    slots: Slots,
}

impl Devices {
    /// A device that sits on the PCI bus.
    fn pci(&mut self, mut device: Value) -> Result<(), OrderError> {
        let place = self.slots.take()?;
        if let Some(map) = device.as_object_mut() {
            map.insert("bus".into(), place.bus.into());
            map.insert("addr".into(), place.address.into());
        }
        self.args.json("-device", &device);
        Ok(())
    }
}

/// Doubles the commas of a value inside a `key=value,...` option.
fn escape(value: &str) -> String {
    value.replace(',', ",,")
}
