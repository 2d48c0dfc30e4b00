//! What only the file system knows about an order's disks.

use ferrovirt_qemu::{
    Descriptors,
    order::{Cache, Disk},
};
use rustix::fs::{FileType, Mode, OFlags};
use std::io;

/// A disk that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("disk {name:?}: {path}: {error}")]
pub(crate) struct DiskError {
    name: String,
    path: String,
    error: io::Error,
}

/// Notes which disks are block devices and which can be opened past the page cache.
pub(crate) fn probe(disks: &[Disk], descriptors: &mut Descriptors) -> Result<(), DiskError> {
    for disk in disks {
        let open = |extra| {
            let access =
                if disk.read_only || disk.cdrom || disk.overlay { OFlags::RDONLY } else { OFlags::RDWR };
            let flags = access | OFlags::CLOEXEC | OFlags::NONBLOCK | extra;
            rustix::fs::open(disk.path.as_str(), flags, Mode::empty())
        };
        let looked = open(OFlags::empty()).and_then(rustix::fs::fstat);
        let stat = looked.map_err(|error| DiskError {
            name: disk.name.clone(),
            path: disk.path.clone(),
            error: error.into(),
        })?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice {
            descriptors.block_devices.insert(disk.name.clone());
        }
        if disk.cache == Cache::Auto && !disk.overlay && open(OFlags::DIRECT).is_ok() {
            descriptors.direct.insert(disk.name.clone());
        }
    }
    Ok(())
}
