//! What the first processes of the laboratory's guests share: [`run`] mounts what a kernel shows, has something done, says
//! how that went, and ends the machine; [`prepare`] makes ready what a [`Setup`] names, up to the loaded policy.
//!
//! The kernel is permissive until the program inside makes it enforce.

pub mod label;
mod port;

pub use port::Port;

use ferrovirt_lab_protocol::{Line, POLICY, Setup};
use rustix::{
    mount::MountFlags,
    system::{RebootCommand, finit_module, reboot},
};
use serde::de::DeserializeOwned;
use std::{
    ffi::CString,
    fmt::Display,
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

/// Does everything as the first process of a guest, and ends the guest.
pub fn run<E: Display>(conduct: impl FnOnce(&mut Port) -> Result<(), E>) -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("this is the first process of a virtual machine and does nothing elsewhere");
        return ExitCode::from(2);
    }
    if let Err(error) = mounts() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    let mut port = match Port::open() {
        Ok(port) => port,
        Err(error) => {
            eprintln!("the second serial port: {error}");
            return ExitCode::FAILURE;
        }
    };
    let line = match conduct(&mut port) {
        Ok(()) => Line::Done,
        Err(error) => Line::Failed(format!("{error:#}")),
    };
    if let Err(error) = port.say::<()>(&line) {
        eprintln!("the second serial port: {error}");
    }
    port.close();
    // QEMU ends instead of starting again. Without the right to it, the end of the first process stops the guest as well.
    let _ = reboot(RebootCommand::Restart);
    ExitCode::SUCCESS
}

/// An error with what was tried.
pub fn context<E: Into<io::Error>>(what: impl Display) -> impl FnOnce(E) -> io::Error {
    move |error| {
        let error = error.into();
        io::Error::new(error.kind(), format!("{what}: {error}"))
    }
}

/// Mounts a file system of a kind, with these options, at a directory that is made.
///
/// # Errors
/// What mkdir(2) and mount(2) say, with the directory.
pub fn mount(kind: &str, directory: &str, flags: MountFlags, options: &str) -> io::Result<()> {
    let mounted = || -> io::Result<()> {
        fs::create_dir_all(directory)?;
        let options = CString::new(options)?;
        Ok(rustix::mount::mount(kind, directory, kind, flags, Some(options.as_c_str()))?)
    };
    mounted().map_err(context(format_args!("mounting {kind} on {directory}")))
}

fn mounts() -> io::Result<()> {
    for (kind, directory) in
        [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("selinuxfs", "/sys/fs/selinux")]
    {
        mount(kind, directory, MountFlags::empty(), "")?;
    }
    Ok(())
}

/// Reads what the host has left in a file, in JSON.
///
/// # Errors
/// The file is not there, or not what this program knows: host and guest are of different versions.
pub fn instructions<T: DeserializeOwned>(path: &str) -> io::Result<T> {
    let text = fs::read_to_string(path).map_err(context(path))?;
    serde_json::from_str(&text).map_err(context(path))
}

/// Loads the modules and then the policy, reserves huge pages, labels files.
///
/// # Errors
/// The kernel refuses something, which the error names.
pub fn prepare(setup: &Setup) -> io::Result<()> {
    // Records beyond a rate are dropped otherwise.
    fs::write("/proc/sys/kernel/printk_ratelimit", "0").map_err(context("printk_ratelimit"))?;
    for module in &setup.modules {
        let file = File::open(module).map_err(context(module))?;
        finit_module(file, c"", 0).map_err(context(module))?;
    }
    fs::write("/proc/sys/vm/nr_hugepages", setup.huge_pages.to_string()).map_err(context("huge pages"))?;
    load()?;
    for (path, text) in &setup.labels {
        label::set(Path::new(path), text)?;
    }
    Ok(())
}

/// Loads the policy in one write, as the kernel wants it.
fn load() -> io::Result<()> {
    const LOAD: &str = "/sys/fs/selinux/load";
    let policy = fs::read(POLICY).map_err(context(POLICY))?;
    let mut file = File::options().write(true).open(LOAD).map_err(context(LOAD))?;
    let written = file.write(&policy).map_err(context("the kernel refuses the policy"))?;
    if written != policy.len() {
        return Err(io::Error::other("the kernel took only a part of the policy"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elsewhere_nothing_is_done() {
        let code = run(|_| -> io::Result<()> { unreachable!("this is no guest") });
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(2)));
    }

    #[test]
    fn an_error_says_what_was_tried_and_stays_of_its_kind() {
        let error = context::<rustix::io::Errno>("opening x")(rustix::io::Errno::NOENT);
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().starts_with("opening x: No such file"), "{error}");
    }

    #[test]
    fn instructions_of_another_version_are_refused_with_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("setup.json").to_string_lossy().into_owned();
        let read = || instructions::<Setup>(&path);
        assert!(read().unwrap_err().to_string().contains("setup.json: No such file"));
        let text = r#"{"modules":["/a.ko"],"huge_pages":3,"labels":[["/init","u:r:t:s0"]]}"#;
        fs::write(&path, text).unwrap();
        let labels = vec![("/init".to_owned(), "u:r:t:s0".to_owned())];
        assert_eq!(read().unwrap(), Setup { modules: vec!["/a.ko".to_owned()], huge_pages: 3, labels });
        for changed in
            [text.replace("3", "-3"), text.replace("3", "3,\"new\":1"), text.replace("modules", "m")]
        {
            fs::write(&path, &changed).unwrap();
            assert!(read().unwrap_err().to_string().contains("setup.json: "), "{changed}");
        }
    }
}
