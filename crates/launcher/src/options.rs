//! Where things are. The defaults are the paths of a virt-launcher pod; other places are of use in tests only.

use std::{ffi::OsString, path::PathBuf};

/// What the program is started for.
pub(crate) enum Task {
    /// To run one guest.
    Run(Options),
    /// To copy itself to a file, for containers of images.
    CopyTo(PathBuf),
    /// To give out what is in the image of its container, at a socket; the image is at the second path.
    ServeImage(PathBuf, PathBuf),
}

impl Task {
    pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let arguments: Vec<OsString> = arguments.collect();
        match arguments.as_slice() {
            [word, file] if word == "--copy-to" => Ok(Self::CopyTo(file.into())),
            [word, socket] if word == "--serve-image" => Ok(Self::ServeImage(socket.into(), "/".into())),
            [word, socket, root] if word == "--serve-image" => {
                Ok(Self::ServeImage(socket.into(), root.into()))
            }
            _ => Options::parse(arguments.into_iter()).map(Self::Run),
        }
    }
}

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
    fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Self, String> {
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
                         --slot DIR; or alone: --copy-to FILE, --serve-image SOCKET [ROOT]"
                    ));
                }
            };
            *place = arguments.next().ok_or_else(|| format!("{argument:?} needs a value"))?.into();
        }
        Ok(options)
    }
}
