//! The machine around the pods, and the files of one.

use anyhow::{Context, Result};
use ferrovirt_lab_guest::{label, mount};
use ferrovirt_nested::{LAUNCHER, LEVEL, POD, Plan, Scenario};
use rustix::{
    fs::{FileType, Mode, mknodat},
    mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount},
};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
    time::{Duration, Instant},
};

/// The context of everything in a pod.
pub(crate) fn pod_context() -> String {
    format!("system_u:object_r:container_file_t:{LEVEL}")
}

/// Labels a directory with all that is in it.
fn set_all(path: &Path, context: &str) -> Result<()> {
    label::set(path, context)?;
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            set_all(&entry?.path(), context)?;
        }
    }
    Ok(())
}

pub(crate) fn prepare(plan: &Plan) -> Result<()> {
    ferrovirt_lab_guest::prepare(&plan.setup)?;
    set_all(Path::new(POD), &pod_context())?;
    let launcher = format!("{POD}{LAUNCHER}");
    mount_bind(format!("{POD}/usr/bin/virt-launcher"), &launcher).context("the launcher's mount")?;
    mount_remount(&launcher, MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID, "")?;
    let options = format!("context=\"{}\",mode=755", pod_context());
    mount("tmpfs", &format!("{POD}/dev"), MountFlags::empty(), &options)?;
    for (name, source) in [("null", "/dev/null"), ("zero", "/dev/zero"), ("urandom", "/dev/urandom")] {
        node(&format!("/dev/{name}"), source)?;
    }
    mount("proc", &format!("{POD}/proc"), MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, "")?;
    mount("sysfs", &format!("{POD}/sys"), MountFlags::RDONLY | MountFlags::NOSUID, "")?;
    Ok(())
}

/// Makes a device node in the pod like one of the machine's, for the pod's user.
fn node(path: &str, source: &str) -> Result<()> {
    let meta = fs::metadata(source).with_context(|| source.to_owned())?;
    let path = format!("{POD}{path}");
    let kind = FileType::from_raw_mode(meta.mode());
    mknodat(rustix::fs::CWD, &path, kind, Mode::from_raw_mode(0o666), meta.rdev())
        .with_context(|| format!("device node {path}"))?;
    Ok(fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?)
}

/// Scratch space, devices and files of one pod.
pub(crate) fn furnish(scenario: &Scenario) -> Result<()> {
    let options = format!("context=\"{}\",mode=755", pod_context());
    mount("tmpfs", &format!("{POD}/var/run"), MountFlags::empty(), &options)?;
    for directory in ["kubevirt", "kubevirt/sockets", "kubevirt-private", "kubevirt-ephemeral-disks"] {
        let path = format!("{POD}/var/run/{directory}");
        fs::create_dir_all(&path)?;
        chown(&path, Some(crate::runtime::USER), Some(crate::runtime::USER))?;
    }
    for (path, source) in &scenario.devices {
        node(path, source)?;
    }
    for (path, source) in &scenario.copies {
        let path = format!("{POD}{path}");
        fs::copy(source, &path).with_context(|| path.clone())?;
        chown(&path, Some(crate::runtime::USER), Some(crate::runtime::USER))?;
    }
    Ok(())
}

pub(crate) fn clear(scenario: &Scenario) -> Result<()> {
    for (path, _) in &scenario.devices {
        let _ = fs::remove_file(format!("{POD}{path}"));
    }
    unmount(format!("{POD}/var/run"), UnmountFlags::DETACH).context("the pod's scratch space")
}

/// Waits until every huge page is free again: the next guest would lack those that the last one still has.
pub(crate) fn pages_are_back(all: u32) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let free = fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")?;
        if free.trim() == all.to_string() {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "only {} of {all} huge pages came back", free.trim());
        std::thread::sleep(Duration::from_millis(20));
    }
}
