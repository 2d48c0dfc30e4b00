//! What is looked at on the node: processes with their contexts, labels of files.

use anyhow::{Context, Result, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A process.
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) context: String,
    /// Its program's name, from its command line.
    pub(super) program: String,
    pub(super) command: String,
}

/// Every process that has a command line: not those of the kernel, nor those that only wait to be reaped.
pub(super) fn processes() -> Vec<Process> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let read = |name: &str| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        let command = read("cmdline");
        if command.is_empty() {
            continue;
        }
        let program = command.split('\0').next().unwrap_or_default();
        let program = program.rsplit('/').next().unwrap_or_default().to_owned();
        let context = read("attr/current").trim_end_matches(['\0', '\n']).to_owned();
        found.push(Process { pid, context, program, command: command.replace('\0', " ") });
    }
    found
}

/// The one process with this program and context.
pub(super) fn one(program: &str, context: &str) -> Result<Process> {
    let all = processes();
    let those: Vec<String> = all
        .iter()
        .filter(|process| process.program.contains("qemu") || process.program.contains("launcher"))
        .map(|process| format!("{} {} as {}", process.pid, process.program, process.context))
        .collect();
    let mut found = all.into_iter().filter(|one| one.program == program && one.context == context);
    let process =
        found.next().with_context(|| format!("no {program} runs as {context}; there are {those:?}"))?;
    ensure!(found.next().is_none(), "two {program} run as {context}");
    Ok(process)
}

/// The label of a file.
pub(super) fn label(path: &Path) -> Result<String> {
    let mut bytes = [0_u8; 256];
    let length = rustix::fs::lgetxattr(path, "security.selinux", &mut bytes)
        .with_context(|| format!("the label of {}", path.display()))?;
    let text = String::from_utf8_lossy(bytes.get(..length).unwrap_or_default()).into_owned();
    Ok(text.trim_end_matches('\0').to_owned())
}

/// Everything below a directory, with itself. What goes away meanwhile is left out.
pub(super) fn tree(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![directory.to_owned()];
    let is_directory = |path: &Path| fs::symlink_metadata(path).is_ok_and(|data| data.is_dir());
    let mut next = 0;
    while let Some(path) = found.get(next).cloned() {
        if is_directory(&path) {
            found.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
        next += 1;
    }
    found
}

/// Names in a directory; none when it is not there.
pub(super) fn names(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
