//! What only the file system knows about an order's disks.

use ferrovirt_qemu::{
    Descriptors,
    image::{self, HEADER, ImageError},
    order::{Cache, Disk, Format},
};
use rustix::fs::{FileType, Mode, OFlags};
use std::io;

/// A disk that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("disk {name:?}: {path}: {error}")]
pub(crate) struct DiskError {
    name: String,
    path: String,
    error: Problem,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(transparent)]
    File(#[from] io::Error),
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// Checks that the disks are there, and notes which are block devices and which can be opened past the page cache.
pub(crate) fn probe(disks: &[Disk], descriptors: &mut Descriptors) -> Result<(), DiskError> {
    for disk in disks {
        let open = |extra| {
            let access =
                if disk.read_only || disk.cdrom || disk.overlay { OFlags::RDONLY } else { OFlags::RDWR };
            let flags = access | OFlags::CLOEXEC | OFlags::NONBLOCK | extra;
            rustix::fs::open(disk.path.as_str(), flags, Mode::empty())
        };
        let look = || {
            let file = open(OFlags::empty()).map_err(io::Error::from)?;
            if disk.format == Format::Qcow2 {
                let mut start = [0; HEADER];
                let length = rustix::io::pread(&file, &mut start[..], 0).map_err(io::Error::from)?;
                image::qcow2(start.get(..length).unwrap_or_default())?;
            }
            Ok(rustix::fs::fstat(file).map_err(io::Error::from)?)
        };
        let stat =
            look().map_err(|error| DiskError { name: disk.name.clone(), path: disk.path.clone(), error })?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice {
            descriptors.block_devices.insert(disk.name.clone());
        }
        if disk.cache == Cache::Auto && !disk.overlay && open(OFlags::DIRECT).is_ok() {
            descriptors.direct.insert(disk.name.clone());
        }
    }
    Ok(())
}
