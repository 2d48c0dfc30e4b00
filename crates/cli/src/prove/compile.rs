//! The base policy and how it becomes one with our module.

use anyhow::{Context, Error, Result, bail, ensure};
use ferrovirt_selinux_node::{CompileError, Output, cil_files};
use std::{
    fs,
    path::{Path, PathBuf},
};

fn secilc(modules: &[PathBuf], policy: &Path) -> Result<(), CompileError> {
    let output = Output { policy, contexts: Path::new("/dev/null"), neverallow: true };
    ferrovirt_selinux_node::secilc(modules, output)
}

/// A base policy: compiled, and its modules in CIL.
pub(super) struct Base {
    pub(super) binary: PathBuf,
    modules: Vec<PathBuf>,
}

impl Base {
    /// Finds a base by its name in a directory, or compiles the modules of a directory.
    pub(super) fn find(name: &str, files: &Path, work: &Path) -> Result<Self> {
        let binary = files.join(name).with_extension("33");
        if binary.exists() {
            let mut modules = cil(&files.join("cil"))?;
            let overlay = files.join("overlays").join(name).with_extension("cil");
            if overlay.exists() {
                modules.push(overlay);
            }
            return Ok(Self { binary, modules });
        }
        let directory = Path::new(name);
        if !directory.is_dir() {
            bail!(
                "there is no base policy {name}: {} is no file, and {name} is no directory. `cargo xtask selinux-base` makes \
                 base, early2020 and modern",
                binary.display()
            );
        }
        let base = Self { binary: work.join("base.33"), modules: cil(directory)? };
        secilc(&base.modules, &base.binary)?;
        Ok(base)
    }

    /// Compiles the base's modules, one of ours, which goes to `own`, and further ones to a policy. Without one of ours the base
    /// is the policy.
    pub(super) fn compile(&self, module: &str, further: &[PathBuf], own: &Path, policy: &Path) -> Result<()> {
        if module.is_empty() {
            fs::copy(&self.binary, policy)?;
            return Ok(());
        }
        fs::write(own, module)?;
        let mut modules = self.modules.clone();
        modules.push(own.to_owned());
        modules.extend(further.iter().cloned());
        secilc(&modules, policy).map_err(|error| {
            let message = error.to_string();
            let mut texts =
                further.iter().filter_map(|file| Some((file.as_path(), fs::read_to_string(file).ok()?)));
            let shown = reason(&message, own, module)
                .or_else(|| texts.find_map(|(file, text)| reason(&message, file, &text)));
            match shown {
                Some(shown) => Error::from(error).context(shown),
                None => error.into(),
            }
        })
    }
}

/// The modules of a directory, of which there have to be some.
fn cil(directory: &Path) -> Result<Vec<PathBuf>> {
    let found = cil_files(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    ensure!(!found.is_empty(), "{} holds no .cil files", directory.display());
    Ok(found)
}

/// The rule of a module that the compiler names by its line, with the comments above it: feature and reason where it is ours.
fn reason(message: &str, file: &Path, module: &str) -> Option<String> {
    let place = format!("{}:", file.display());
    // It names what surrounds the statement first.
    let (_, number) = message.rsplit_once(&place)?;
    let number: usize = number.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()?;
    let lines: Vec<&str> = module.lines().take(number).map(str::trim).collect();
    let (rule, above) = lines.split_last()?;
    let comments = above.iter().rev().take_while(|line| line.starts_with(';')).copied();
    let mut text: Vec<&str> = comments.collect();
    text.reverse();
    text.push(rule);
    Some(format!("this rule does not fit the base policy:\n  {}", text.join("\n  ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_rule_is_shown_with_its_reason() {
        let module =
            "(block b\n  (type t)\n  ; SR-IOV: why\n  ; asked by\n  (allow t sysfs_u (file (write))))\n";
        let message = "failed\n  block at /x/ours.cil:1\n  allow at /x/ours.cil:5\nFailed to compile";
        assert_eq!(
            reason(message, Path::new("/x/ours.cil"), module).unwrap(),
            "this rule does not fit the base policy:\n  ; SR-IOV: why\n  ; asked by\n  (allow t sysfs_u (file (write))))"
        );
        assert_eq!(reason("Failed at /x/base.cil:3", Path::new("/x/ours.cil"), module), None);
    }
}
