//! Disks and CD-ROM drives.

use super::{Descriptors, Devices, OrderError, escape};
use crate::order::{Bus, Cache, Disk, Format, Order};
use serde_json::{Map, Value, json};

/// Ports of the q35 board's own SATA controller, and of each further one.
pub(super) const SATA_PORTS: usize = 6;
/// Disks of the one SCSI controller.
pub(super) const SCSI_IDS: usize = 256;

impl Devices {
    pub(super) fn disks(&mut self, order: &Order, descriptors: &Descriptors) -> Result<(), OrderError> {
        let has = |bus| order.disks.iter().any(|disk| disk.bus == bus);
        if has(Bus::Scsi) {
            self.pci(json!({"driver": "virtio-scsi-pci", "id": "scsi0", "disable-legacy": "on"}))?;
        }
        if has(Bus::Usb) {
            self.pci(json!({"driver": "qemu-xhci", "id": "usb0"}))?;
        }
        let mut on_sata = 0;
        let mut on_scsi = 0_u32;
        // The firmware starts from devices with a position only. Nobody chose one: the disks, as they are listed.
        let chosen =
            order.disks.iter().map(|disk| disk.boot_order).chain(order.nics.iter().map(|nic| nic.boot_order));
        let as_listed = order.kernel.is_none() && chosen.flatten().next().is_none();
        for (index, disk) in order.disks.iter().enumerate() {
            let listed = as_listed.then(|| u32::try_from(index).map_or(u32::MAX, |index| index + 1));
            let disk = &Disk { boot_order: disk.boot_order.or(listed), ..disk.clone() };
            let cache = Caching::of(disk, descriptors.direct.contains(&disk.name));
            self.bytes(index, disk, cache, descriptors.block_devices.contains(&disk.name));
            match disk.bus {
                Bus::Virtio => self.virtio(index, disk, cache)?,
                Bus::Sata => {
                    self.sata(index, disk, cache, on_sata)?;
                    on_sata += 1;
                }
                Bus::Scsi => {
                    self.scsi(index, disk, cache, on_scsi)?;
                    on_scsi += 1;
                }
                Bus::Usb => self.usb(index, disk, cache),
            }
        }
        Ok(())
    }

    /// The block device behind a disk, named `disk<index>`.
    fn bytes(&mut self, index: usize, disk: &Disk, cache: Caching, block_device: bool) {
        let read_only = disk.read_only || disk.cdrom;
        let driver = if block_device { "host_device" } else { "file" };
        let mut file = json!({"driver": driver, "filename": disk.path});
        let mut format = Map::new();
        match disk.format {
            Format::Raw => format.insert("driver".into(), "raw".into()),
            Format::Qcow2 => {
                format.insert("driver".into(), "qcow2".into());
                // An image that names a backing file would show the guest any file that QEMU can open.
                format.insert("backing".into(), Value::Null)
            }
        };
        if disk.overlay && !read_only {
            // QEMU makes the overlay in $TMPDIR and unlinks it at once: it cannot outlive QEMU. The base is opened
            // read-only. This is the one form of -drive that -blockdev has no words for.
            format.insert("file".into(), file);
            let json = escape(&Value::Object(format).to_string());
            self.args.option("-drive", format!("if=none,id=disk{index},snapshot=on,file=json:{json}"));
            return;
        }
        let caching = json!({"direct": cache.direct, "no-flush": false});
        if let Some(map) = file.as_object_mut() {
            map.insert("read-only".into(), read_only.into());
            map.insert("cache".into(), caching.clone());
            map.insert("aio".into(), if cache.direct { "native" } else { "threads" }.into());
            if !read_only {
                map.insert("discard".into(), "unmap".into());
            }
        }
        if !read_only {
            format.insert("discard".into(), "unmap".into());
        }
        format.insert("node-name".into(), format!("disk{index}").into());
        format.insert("read-only".into(), read_only.into());
        format.insert("cache".into(), caching);
        format.insert("file".into(), file);
        self.args.json("-blockdev", &Value::Object(format));
    }

    fn virtio(&mut self, index: usize, disk: &Disk, cache: Caching) -> Result<(), OrderError> {
        let mut device = device("virtio-blk-pci", index, disk, cache);
        device.insert("disable-legacy".into(), "on".into());
        device.insert("num-queues".into(), disk.queues.into());
        self.pci(Value::Object(device))
    }

    fn sata(&mut self, index: usize, disk: &Disk, cache: Caching, n: usize) -> Result<(), OrderError> {
        let (controller, port) = (n / SATA_PORTS, n % SATA_PORTS);
        if controller > 0 && port == 0 {
            self.pci(json!({"driver": "ich9-ahci", "id": format!("sata{controller}")}))?;
        }
        let bus = if controller == 0 { format!("ide.{port}") } else { format!("sata{controller}.{port}") };
        let mut device = device(if disk.cdrom { "ide-cd" } else { "ide-hd" }, index, disk, cache);
        device.insert("bus".into(), bus.into());
        self.args.json("-device", &Value::Object(device));
        Ok(())
    }

    fn scsi(&mut self, index: usize, disk: &Disk, cache: Caching, id: u32) -> Result<(), OrderError> {
        if usize::try_from(id).is_ok_and(|id| id >= SCSI_IDS) {
            return Err(OrderError::TooManyDevices(SCSI_IDS));
        }
        let mut device = device(if disk.cdrom { "scsi-cd" } else { "scsi-hd" }, index, disk, cache);
        device.extend([
            ("bus".into(), "scsi0.0".into()),
            ("scsi-id".into(), id.into()),
            ("lun".into(), 0.into()),
        ]);
        self.args.json("-device", &Value::Object(device));
        Ok(())
    }

    fn usb(&mut self, index: usize, disk: &Disk, cache: Caching) {
        // usb-storage offers hard disks only; usb-bot is its bare bridge, on which any SCSI device can sit.
        let bridge = json!({"driver": "usb-bot", "id": format!("usbdisk{index}"), "bus": "usb0.0"});
        self.args.json("-device", &bridge);
        let mut device = device(if disk.cdrom { "scsi-cd" } else { "scsi-hd" }, index, disk, cache);
        device.extend([
            ("bus".into(), format!("usbdisk{index}.0").into()),
            ("scsi-id".into(), 0.into()),
            ("lun".into(), 0.into()),
        ]);
        self.args.json("-device", &Value::Object(device));
    }
}

fn device(driver: &str, index: usize, disk: &Disk, cache: Caching) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("driver".into(), driver.into());
    map.insert("id".into(), format!("drive{index}").into());
    map.insert("drive".into(), format!("disk{index}").into());
    if !disk.cdrom {
        map.insert("write-cache".into(), if cache.write_back { "on" } else { "off" }.into());
    }
    if let Some(serial) = &disk.serial {
        map.insert("serial".into(), serial.as_str().into());
    }
    if let Some(order) = disk.boot_order {
        map.insert("bootindex".into(), order.into());
    }
    map
}

/// A cache mode as QEMU's two switches.
#[derive(Clone, Copy)]
struct Caching {
    /// Past the host's page cache.
    direct: bool,
    /// The guest sees a volatile cache and flushes it itself.
    write_back: bool,
}

impl Caching {
    fn of(disk: &Disk, can_direct: bool) -> Self {
        match disk.cache {
            // What is thrown away needs no durability.
            _ if disk.overlay => Self { direct: false, write_back: true },
            Cache::Auto => Self { direct: can_direct, write_back: can_direct },
            Cache::None => Self { direct: true, write_back: true },
            Cache::Writethrough => Self { direct: false, write_back: false },
            Cache::Writeback => Self { direct: false, write_back: true },
        }
    }
}
