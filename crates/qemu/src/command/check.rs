//! What an order must be before any of it reaches a command line.

use super::OrderError;
use crate::{
    order::{Accelerator, Backing, Bus, Disk, Kernel, Memory, Nic, Order, Tap, VERSION},
    rules::{self, Broken},
};
use std::collections::BTreeSet;

/// Largest number of queues of one device (the highest that a virtio-net device of QEMU takes).
const MAX_QUEUES: u32 = 256;

pub(super) fn order(order: &Order) -> Result<(), OrderError> {
    if order.version != VERSION {
        return Err(OrderError::Version(order.version));
    }
    ask("name", &order.name, rules::name)?;
    uuid(&order.uuid)?;
    if let Some(serial) = &order.serial_number {
        ask("serialNumber", serial, rules::serial)?;
    }
    ask("machine", &order.machine, rules::machine_type)?;
    ask("cpuModel", &order.cpu_model, rules::cpu_model)?;
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
    let Order { sockets, cores, threads, .. } = *order;
    rules::vcpus(sockets, cores, threads).map_err(|rule| OrderError::Vcpus { sockets, cores, threads, rule })
}

fn memory(memory: &Memory) -> Result<(), OrderError> {
    let bytes = memory.bytes;
    let refuse = |rule: String| OrderError::Memory { bytes, rule };
    rules::memory(bytes).map_err(|rule| refuse(rule.into()))?;
    match &memory.backing {
        Backing::Anonymous => Ok(()),
        Backing::HugeMemfd { page_bytes } => {
            rules::huge_page(*page_bytes).map_err(|rule| {
                refuse(format!("huge pages of {page_bytes} bytes do not exist: the size {rule}"))
            })?;
            if !bytes.is_multiple_of(*page_bytes) {
                return Err(refuse(format!("must be a multiple of the huge page size, {page_bytes} bytes")));
            }
            Ok(())
        }
        Backing::HugeDirectory { path } => ask("memory.backing.path", path, rules::path),
    }
}

fn kernel(kernel: &Kernel) -> Result<(), OrderError> {
    match &kernel.kernel {
        Some(file) => ask("kernel.kernel", file, rules::path)?,
        None => return Err(OrderError::NoKernel),
    }
    if let Some(file) = &kernel.initrd {
        ask("kernel.initrd", file, rules::path)?;
    }
    ask("kernel.args", &kernel.args, rules::kernel_args)
}

fn disk(disk: &Disk) -> Result<(), OrderError> {
    ask("disks.name", &disk.name, rules::disk_name)?;
    ask("disks.path", &disk.path, rules::path)?;
    if let Some(serial) = &disk.serial {
        ask("disks.serial", serial, rules::disk_serial)?;
    }
    let refuse = |rule| Err(OrderError::Disk { disk: disk.name.clone(), rule });
    if disk.cdrom && disk.bus == Bus::Virtio {
        return refuse("a CD-ROM drive cannot be on the virtio bus: use sata, scsi or usb");
    }
    if disk.bus == Bus::Sata && disk.read_only && !disk.cdrom {
        return refuse(rules::READ_ONLY_SATA);
    }
    boot_order(&disk.name, disk.boot_order)?;
    queues(&disk.name, disk.queues, disk.bus == Bus::Virtio)
}

fn nic(nic: &Nic) -> Result<(), OrderError> {
    ask("nics.name", &nic.name, rules::interface_name)?;
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
    let Some(position) = order else { return Ok(()) };
    rules::boot_order(position).map_err(|rule| field("bootOrder", device, rule))
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

fn ask(name: &str, value: &str, rule: fn(&str) -> Result<(), Broken>) -> Result<(), OrderError> {
    rule(value).map_err(|rule| field(name, value, rule))
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
