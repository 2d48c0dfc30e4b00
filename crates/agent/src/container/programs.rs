//! QEMU for launchers on a node with SELinux.
//!
//! Elsewhere a container has the node's own `/usr`. Its files have types of the node's, which a machine's type may neither
//! execute nor read, and a bind mount cannot have another label. So QEMU, its libraries and its firmware are copied once,
//! as an image would hold them, and labelled as files that every container may read.

use ferrovirt_node::selinux;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const QEMU: &str = "qemu-system-x86_64";
/// The dynamic loader, which also tells what a program loads.
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
/// Firmware; what is a link there leads from one to the other.
const FIRMWARE: [&str; 2] = ["/usr/share/qemu", "/usr/share/seabios"];
/// QEMU's accelerators are modules of its own, in a directory beside its libraries.
const ACCELERATOR: &str = "accel-";

/// What to copy: path below the new root, and the file.
type Files = BTreeMap<PathBuf, PathBuf>;

/// Finds or makes the copy in `directory`; its `usr`. Copies of other versions go when the node is `idle`: no container is left.
///
/// # Errors
/// QEMU or its loader is missing, or what the file system says.
pub fn prepare(directory: &Path, idle: bool) -> io::Result<PathBuf> {
    let files = files()?;
    let name = name(&files)?;
    let own = directory.join(&name);
    if !own.is_dir() {
        let part = directory.join("part");
        remove(&part)?;
        for (path, source) in &files {
            let copy = part.join(path);
            if let Some(parent) = copy.parent() {
                directories(&part, parent)?;
            }
            fs::copy(source, &copy)?;
            let executable = fs::metadata(source)?.permissions().mode() & 0o111 != 0;
            fs::set_permissions(&copy, fs::Permissions::from_mode(if executable { 0o755 } else { 0o644 }))?;
        }
        selinux::label_tree(&part, selinux::SHARED_FILES)?;
        // Its name says that it is whole, also after a crash.
        rustix::fs::syncfs(fs::File::open(directory)?)?;
        fs::rename(&part, &own)?;
    }
    // Anyone who labels the node's files again labels these otherwise.
    selinux::label_tree(&own, selinux::SHARED_FILES)?;
    if idle {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_name() != *name {
                remove(&entry.path())?;
            }
        }
    }
    Ok(own.join("usr"))
}

/// Makes directories that everybody may enter, whatever the process's mask takes away.
fn directories(root: &Path, directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent().filter(|_| directory != root) {
        directories(root, parent)?;
    }
    fs::create_dir(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn files() -> io::Result<Files> {
    let missing = |what: &str| io::Error::new(io::ErrorKind::NotFound, format!("{what} is missing"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).map(|directory| directory.join(QEMU)).find(|file| file.is_file());
    let qemu = found.ok_or_else(|| missing(QEMU))?;
    let mut programs = vec![qemu.clone()];
    let mut files = Files::new();
    files.insert(Path::new("usr/bin").join(QEMU), qemu.clone());
    let libraries = libraries(&qemu)?;
    let system = libraries.iter().find(|(name, _)| name == "libc.so.6");
    let system = system.and_then(|(_, path)| path.parent()).ok_or_else(|| missing("libc.so.6"))?;
    // The C library is in a directory that the loader looks into by default.
    let directory = fs::canonicalize(system)?;
    let below = |path: &Path| path.strip_prefix("/").unwrap_or(path).to_owned();
    for entry in fs::read_dir(directory.join("qemu")).into_iter().flatten() {
        let module = entry?.path();
        if module.file_name().is_some_and(|name| name.to_string_lossy().starts_with(ACCELERATOR)) {
            files.insert(below(&module), module.clone());
            programs.push(module);
        }
    }
    for program in &programs {
        for (name, path) in self::libraries(program)? {
            files.insert(below(&directory).join(name), path);
        }
    }
    files.insert(Path::new("usr/lib64/ld-linux-x86-64.so.2").to_owned(), PathBuf::from(LOADER));
    for firmware in FIRMWARE {
        tree(Path::new(firmware), &mut files)?;
    }
    Ok(files)
}

/// What the loader would load for a program: name and file of each library.
fn libraries(program: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut command = Command::new(LOADER);
    command.arg("--list").arg(program).stdin(Stdio::null());
    let output = command.output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(io::Error::other(format!("the libraries of {}: {said}", program.display())));
    }
    let list = String::from_utf8_lossy(&output.stdout).into_owned();
    match list.lines().find(|line| line.ends_with("=> not found")) {
        Some(line) => Err(io::Error::other(format!("a library of {}: {}", program.display(), line.trim()))),
        None => Ok(parse(&list)),
    }
}

/// Lines such as `libz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f...)`; others are the kernel's and the loader's.
fn parse(list: &str) -> Vec<(String, PathBuf)> {
    let line = |line: &str| {
        let (name, rest) = line.trim().split_once(" => ")?;
        let path = rest.rsplit_once(" (").map_or(rest, |(path, _)| path);
        let plain = !name.contains('/') && path.starts_with('/');
        plain.then(|| (name.to_owned(), PathBuf::from(path)))
    };
    list.lines().filter_map(line).collect()
}

/// The files of a directory, links to files as what they lead to. What leads nowhere is left out.
fn tree(directory: &Path, files: &mut Files) -> io::Result<()> {
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry?.path();
        match fs::metadata(&path) {
            Ok(data) if data.is_dir() => tree(&path, files)?,
            Ok(data) if data.is_file() => {
                drop(files.insert(path.strip_prefix("/").unwrap_or(&path).to_owned(), path.clone()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A name that changes with the files.
fn name(files: &Files) -> io::Result<String> {
    let mut hash = Sha256::new();
    for (path, source) in files {
        let data = fs::metadata(source)?;
        hash.update(path.as_os_str().as_encoded_bytes());
        for number in [data.len(), data.ino(), data.mtime().unsigned_abs(), data.mtime_nsec().unsigned_abs()]
        {
            hash.update(number.to_le_bytes());
        }
    }
    Ok(hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_the_loaders_list() {
        let list = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found = parse(list);
        assert_eq!(found, [("libz.so.1".to_owned(), PathBuf::from("/lib/x86_64-linux-gnu/libz.so.1"))]);
    }

    /// The copy is complete: QEMU starts from it when nothing else of the node is there.
    #[test]
    fn the_copy_runs_alone() {
        let directory = tempfile::tempdir().unwrap();
        let usr = prepare(directory.path(), true).unwrap();
        let root = usr.parent().unwrap();
        std::os::unix::fs::symlink("usr/lib", root.join("lib")).unwrap();
        std::os::unix::fs::symlink("usr/lib64", root.join("lib64")).unwrap();
        let mut command = Command::new("chroot");
        command.arg(root).args(["/usr/bin/qemu-system-x86_64", "-accel", "help"]);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.contains("tcg"), "{output:?}");
        // The same files: the same copy.
        fs::remove_file(root.join("lib")).unwrap();
        assert_eq!(prepare(directory.path(), true).unwrap(), usr);
        // Another version's goes with the last container.
        fs::create_dir(directory.path().join("old")).unwrap();
        prepare(directory.path(), false).unwrap();
        assert!(directory.path().join("old").exists());
        prepare(directory.path(), true).unwrap();
        assert!(!directory.path().join("old").exists());
    }
}
