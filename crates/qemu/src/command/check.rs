//! What an order must be before any of it reaches a command line.

use super::OrderError;
use crate::order::{Accelerator, Backing, Bus, Disk, Kernel, Memory, Nic, Order, Tap, VERSION};
use std::collections::BTreeSet;

/// Largest number of queues of one device (the highest that a virtio-net device of QEMU takes).
const MAX_QUEUES: u32 = 256;
/// Largest number of vCPUs without an interrupt-remapping IOMMU.
const MAX_VCPUS: u64 = 255;

pub(super) fn order(order: &Order) -> Result<(), OrderError> {
    if order.version != VERSION {
        return Err(OrderError::Version(order.version));
    }
    word("name", &order.name, 253)?;
    uuid(&order.uuid)?;
    if let Some(serial) = &order.serial_number {
        printable("serialNumber", serial, 256)?;
    }
    let q35 = order.machine == "q35" || order.machine.starts_with("pc-q35-");
    if !q35 || !order.machine.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b)) {
        return Err(field("machine", &order.machine, "must be q35 or a pc-q35 version"));
    }
    word("cpuModel", &order.cpu_model, 64)?;
    if order.cpu_model == "host" && order.accelerator == Accelerator::Tcg {
        return Err(OrderError::HostCpu);
    }
    vcpus(order)?;
    memory(&order.memory)?;
    if let Some(boot) = &order.kernel {
        kernel(boot)?;
    }
    let mut names = BTreeSet::new();
    for disk in &order.disks {
        self::disk(disk)?;
        unique(&mut names, &disk.name)?;
    }
    names.clear();
    for nic in &order.nics {
        self::nic(nic)?;
        unique(&mut names, &nic.name)?;
    }
    Ok(())
}

fn unique<'a>(names: &mut BTreeSet<&'a str>, name: &'a str) -> Result<(), OrderError> {
    if names.insert(name) { Ok(()) } else { Err(OrderError::Twice(name.into())) }
}

/// vCPUs of an order, within what this crate takes.
pub(super) fn vcpus(order: &Order) -> Result<u64, OrderError> {
    let count = u64::from(order.sockets)
        .saturating_mul(u64::from(order.cores))
        .saturating_mul(u64::from(order.threads));
    if (1..=MAX_VCPUS).contains(&count) { Ok(count) } else { Err(OrderError::Vcpus(count)) }
}

fn memory(memory: &Memory) -> Result<(), OrderError> {
    let refuse = |rule: String| Err(OrderError::Memory { bytes: memory.bytes, rule });
    // i64 is what QEMU parses sizes into.
    if memory.bytes == 0 || i64::try_from(memory.bytes).is_err() {
        return refuse("must be more than nothing and less than 8 EiB".into());
    }
    match &memory.backing {
        Backing::Anonymous => Ok(()),
        Backing::HugeMemfd { page_bytes } => {
            if !page_bytes.is_power_of_two() || *page_bytes < 4096 {
                return refuse(format!("huge pages of {page_bytes} bytes do not exist"));
            }
            if !memory.bytes.is_multiple_of(*page_bytes) {
                return refuse(format!("must be a multiple of the huge page size, {page_bytes} bytes"));
            }
            Ok(())
        }
        Backing::HugeDirectory { path } => self::path("memory.backing.path", path),
    }
}

fn kernel(kernel: &Kernel) -> Result<(), OrderError> {
    match &kernel.kernel {
        Some(file) => path("kernel.kernel", file)?,
        None => return Err(OrderError::NoKernel),
    }
    if let Some(file) = &kernel.initrd {
        path("kernel.initrd", file)?;
    }
    printable("kernel.args", &kernel.args, 4096)
}

fn disk(disk: &Disk) -> Result<(), OrderError> {
    label("disks.name", &disk.name)?;
    path("disks.path", &disk.path)?;
    if let Some(serial) = &disk.serial {
        word("disks.serial", serial, 256)?;
    }
    let refuse = |rule| Err(OrderError::Disk { disk: disk.name.clone(), rule });
    if disk.cdrom && disk.bus == Bus::Virtio {
        return refuse("a CD-ROM drive cannot be on the virtio bus: use sata, scsi or usb");
    }
    if disk.bus == Bus::Sata && disk.read_only && !disk.cdrom {
        return refuse("a SATA disk cannot be read-only: use virtio, scsi or usb, or a CD-ROM drive");
    }
    boot_order(&disk.name, disk.boot_order)?;
    queues(&disk.name, disk.queues, disk.bus == Bus::Virtio)
}

fn nic(nic: &Nic) -> Result<(), OrderError> {
    label("nics.name", &nic.name)?;
    let pairs: Vec<&str> = nic.mac.split(':').collect();
    let hex = |pair: &&str| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit());
    if pairs.len() != 6 || !pairs.iter().all(hex) {
        return Err(field("nics.mac", &nic.mac, "must be six hexadecimal pairs with colons between them"));
    }
    if !super::nic::MODELS.iter().any(|(model, _)| *model == nic.model) {
        return Err(field("nics.model", &nic.model, "must be virtio, e1000, e1000e or rtl8139"));
    }
    if let Tap::Created { interface, bridge, .. } = &nic.tap {
        link("nics.tap.interface", interface)?;
        link("nics.tap.bridge", bridge)?;
    }
    boot_order(&nic.name, nic.boot_order)?;
    queues(&nic.name, nic.queues, nic.model == "virtio")
}

fn boot_order(device: &str, order: Option<u32>) -> Result<(), OrderError> {
    match order {
        Some(0) => Err(field("bootOrder", device, "boot positions start at 1")),
        Some(n) if i32::try_from(n).is_err() => Err(field("bootOrder", device, "too large")),
        _ => Ok(()),
    }
}

fn queues(device: &str, queues: u32, multi: bool) -> Result<(), OrderError> {
    let rule = match queues {
        1 => return Ok(()),
        2..=MAX_QUEUES if multi => return Ok(()),
        2..=MAX_QUEUES => "only a virtio device has more than one",
        _ => "must be 1 to 256",
    };
    Err(OrderError::Queues { device: device.into(), queues, rule })
}

fn field(field: &str, value: &str, rule: &'static str) -> OrderError {
    // A hostile value is cut so that an error stays readable.
    OrderError::Field { field: field.into(), value: value.chars().take(80).collect(), rule }
}

fn uuid(value: &str) -> Result<(), OrderError> {
    let groups: Vec<&str> = value.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    let hex = groups.iter().all(|group| group.bytes().all(|b| b.is_ascii_hexdigit()));
    if hex && lengths == [8, 4, 4, 4, 12] { Ok(()) } else { Err(field("uuid", value, "must be a UUID")) }
}

/// Letters, digits and `-_.+`, starting with a letter or digit.
fn word(name: &str, value: &str, most: usize) -> Result<(), OrderError> {
    let good = value.len() <= most
        && value.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+".contains(&b));
    if good { Ok(()) } else { Err(field(name, value, "must be letters, digits and -_.+ only, not too long")) }
}

/// An RFC 1123 label; a little longer and dots are allowed, as in names of Kubernetes objects.
fn label(name: &str, value: &str) -> Result<(), OrderError> {
    let good = (1..=253).contains(&value.len())
        && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
        && !value.starts_with(['-', '.']);
    if good { Ok(()) } else { Err(field(name, value, "must be lower-case letters, digits, dashes and dots")) }
}

/// A network interface's name.
fn link(name: &str, value: &str) -> Result<(), OrderError> {
    let good = (1..=15).contains(&value.len())
        && value != "."
        && value != ".."
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if good {
        Ok(())
    } else {
        Err(field(name, value, "must be 1 to 15 letters, digits, dashes, dots and underscores"))
    }
}

fn printable(name: &str, value: &str, most: usize) -> Result<(), OrderError> {
    if value.len() <= most && !value.chars().any(char::is_control) {
        Ok(())
    } else {
        Err(field(name, value, "must be text without control characters, not too long"))
    }
}

fn path(name: &str, value: &str) -> Result<(), OrderError> {
    let good = value.starts_with('/') && value.len() < 4096 && !value.chars().any(char::is_control);
    if good { Ok(()) } else { Err(field(name, value, "must be an absolute path without control characters")) }
}
