//! The root file system of a launcher: the node's own `/usr` read-only, and an otherwise empty tree.
//!
//! Each pod has a skeleton of its own: what a runtime might make in it is no other pod's and goes with the pod.

use ferrovirt_node::oci::bundle::Program;
use std::{fs, io, os::unix::fs::symlink, path::Path};

/// Group and user of the launcher image, and what a pod without `runAsUser` runs as.
pub const IMAGE_ID: u32 = 107;
/// Where the launcher's program is in the image.
pub const IMAGE_COMMAND: &str = "/usr/bin/virt-launcher";
/// Where it really is: a file cannot be bound into the read-only `/usr`.
pub const REAL_COMMAND: &str = "/virt-launcher";

/// The launcher, of which `file` is the program on the node.
pub fn program(file: &Path) -> Program<'_> {
    Program { image: IMAGE_COMMAND, container: REAL_COMMAND, file }
}

/// Makes the skeleton, or completes it, with what the pod knows of name servers. Idempotent.
///
/// # Errors
/// What the file system says.
pub fn prepare(root: &Path, resolver: &str) -> io::Result<()> {
    for directory in ["proc", "sys", "dev", "run", "var", "usr", "etc", "tmp", "etc/alternatives"] {
        fs::create_dir_all(root.join(directory))?;
    }
    for (link, target) in
        [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")]
    {
        match symlink(target, root.join(link)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    let passwd = format!(
        "root:x:0:0:root:/:/usr/sbin/nologin\nqemu:x:{IMAGE_ID}:{IMAGE_ID}:qemu:/:/usr/sbin/nologin\n"
    );
    fs::write(root.join("etc/passwd"), passwd)?;
    fs::write(root.join("etc/group"), format!("root:x:0:\nqemu:x:{IMAGE_ID}:\n"))?;
    fs::write(root.join("etc/resolv.conf"), resolver)?;
    for file in ["etc/ld.so.cache", "virt-launcher"] {
        if !root.join(file).exists() {
            fs::write(root.join(file), "")?;
        }
    }
    Ok(())
}
