//! QEMU started by hand, to compare with: the very command line of a machine of ours.

use crate::guest::Guest;
use anyhow::{Context, Result};
use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

/// A QEMU without anything around it.
pub(super) struct Bare {
    child: Child,
    serial: tempfile::NamedTempFile,
}

impl Bare {
    /// Starts one with the arguments of a QEMU of ours, from [`arguments`].
    pub(super) fn start(arguments: &[String]) -> Result<Self> {
        let serial = tempfile::NamedTempFile::new()?;
        let child = Command::new("qemu-system-x86_64")
            .args(arguments)
            .arg("-serial")
            .arg(format!("file:{}", serial.path().display()))
            .stdin(Stdio::null())
            .spawn()
            .context("qemu-system-x86_64")?;
        Ok(Self { child, serial })
    }

    /// Where its serial output is.
    pub(super) fn serial(&self) -> &Path {
        self.serial.path()
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The arguments of a QEMU of ours as a person would type them, so that kernel, options and devices are the same: the
/// guest starts at once and not by QMP, the network is QEMU's own instead of a TAP, the files are those of the node.
/// The serial port is left to [`Bare::start`].
pub(super) fn arguments(ours: &[String], guest: &Guest) -> Result<Vec<String>> {
    let mut bare = Vec::new();
    let mut given = ours.iter().skip(1);
    while let Some(option) = given.next() {
        if option == "-S" {
            continue;
        }
        // Every other option without a value is one of these.
        if matches!(option.as_str(), "-nodefaults" | "-no-user-config") {
            bare.push(option.clone());
            continue;
        }
        let value = given.next().with_context(|| format!("{option} has no value"))?;
        let value = match option.as_str() {
            "-chardev" | "-mon" | "-serial" => continue,
            "-netdev" => {
                let netdev: serde_json::Value = serde_json::from_str(value)?;
                serde_json::json!({"type": "user", "id": netdev.get("id"), "restrict": true}).to_string()
            }
            "-kernel" => fs::canonicalize(&guest.kernel)?.to_string_lossy().into_owned(),
            "-initrd" => fs::canonicalize(&guest.initrd)?.to_string_lossy().into_owned(),
            _ => value.clone(),
        };
        bare.extend([option.clone(), value]);
    }
    Ok(bare)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bare(ours: &[&str]) -> Result<Vec<String>> {
        let directory = tempfile::tempdir()?;
        let file = |name: &str| directory.path().join(name);
        fs::write(file("k"), "")?;
        fs::write(file("r"), "")?;
        let guest = Guest { kernel: file("k"), initrd: file("r"), images: file("images") };
        let ours: Vec<String> = ours.iter().map(|word| (*word).to_owned()).collect();
        let all = arguments(&ours, &guest)?;
        let prefix = format!("{}/", fs::canonicalize(directory.path())?.display());
        Ok(all.into_iter().map(|word| word.replace(&prefix, "")).collect())
    }

    /// What the launcher alone can do is left out; all else stays as it is, so that both guests are the same.
    #[test]
    fn the_bare_command_line_is_ours_without_the_launcher() {
        let ours = [
            "/usr/bin/qemu-system-x86_64",
            "-nodefaults",
            "-S",
            "-m",
            "128M",
            "-chardev",
            "socket,id=qmp,fd=3",
            "-mon",
            "chardev=qmp",
            "-kernel",
            "/proc/self/fd/9",
            "-initrd",
            "/proc/self/fd/10",
            "-append",
            "-S quiet",
            "-netdev",
            r#"{"type":"tap","id":"net0","fds":"4:5","vhost":false}"#,
            "-device",
            r#"{"driver":"virtio-net-pci","netdev":"net0"}"#,
            "-no-user-config",
            "-serial",
            "chardev:serial",
        ];
        let netdev = r#"{"id":"net0","restrict":true,"type":"user"}"#;
        let expected = [
            "-nodefaults",
            "-m",
            "128M",
            "-kernel",
            "k",
            "-initrd",
            "r",
            "-append",
            "-S quiet",
            "-netdev",
            netdev,
            "-device",
            r#"{"driver":"virtio-net-pci","netdev":"net0"}"#,
            "-no-user-config",
        ];
        assert_eq!(bare(&ours).unwrap(), expected);
    }

    #[test]
    fn an_option_without_its_value_is_an_error() {
        let error = bare(&["qemu", "-nodefaults", "-m"]).unwrap_err();
        assert!(error.to_string().contains("-m has no value"), "{error}");
        assert!(bare(&["qemu", "-netdev", "tap,id=n"]).is_err());
    }
}
