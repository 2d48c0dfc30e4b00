//! Where things are. The defaults are the paths of a virt-launcher pod; other places are of use in tests only.

use std::{ffi::OsString, path::PathBuf};

/// Paths.
pub(crate) struct Options {
    /// Sockets (below `sockets/`), the serial log, and the last state.
    pub(crate) run: PathBuf,
    /// Temporary overlays of disks.
    pub(crate) overlays: PathBuf,
    /// QEMU.
    pub(crate) qemu: PathBuf,
    /// The directory in which the handler listens. Without it the launcher listens itself, on a descriptor.
    pub(crate) slot: Option<PathBuf>,
}

impl Options {
    pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut options = Self {
            run: "/var/run/kubevirt".into(),
            overlays: "/var/run/kubevirt-ephemeral-disks".into(),
            qemu: "/usr/bin/qemu-system-x86_64".into(),
            slot: None,
        };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let place = match argument.to_str() {
                Some("--run-dir") => &mut options.run,
                Some("--overlay-dir") => &mut options.overlays,
                Some("--qemu") => &mut options.qemu,
                Some("--slot") => options.slot.insert(PathBuf::new()),
                _ => {
                    return Err(format!(
                        "unknown argument {argument:?}; known: --run-dir DIR, --overlay-dir DIR, --qemu FILE, \
                         --slot DIR"
                    ));
                }
            };
            *place = arguments.next().ok_or_else(|| format!("{argument:?} needs a value"))?.into();
        }
        Ok(options)
    }
}
