//! A node's module store, and the modules of launcher pods in it.
//!
//! `semodule` does the work, at priority 400, where local modules belong. What is there afterwards is read back with our
//! own reader: from the running kernel, or from the policy that the store has compiled.

use crate::{FindError, RUNNING, in_directory};
use ferrovirt_model::Profile;
use ferrovirt_plan::selinux::module::{self, Installed, Module, ModuleError};
use ferrovirt_selinux::{Database, PolicyError};
use rustix::{
    fs::{Access, access},
    io::Errno,
};
use std::{
    fmt::Write as _,
    fs,
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use tempfile::TempDir;

/// What is there where SELinux is on.
const ENABLED: &str = "/sys/fs/selinux/enforce";
/// Where local modules belong: above the distribution's at 100.
const PRIORITY: &str = "400";
/// Most differences that an error names.
const NAMED: usize = 20;

/// Why something of a store cannot be done, with what to change.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no SELinux here.
    #[error(
        "SELinux is disabled on this node, so that there is no policy to install into; to prepare the store of another \
         system, name its directory with --root"
    )]
    Disabled,
    /// The configuration of SELinux cannot be read.
    #[error("cannot read {path}; name the store with --store")]
    Configuration {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The configuration of SELinux names no store.
    #[error("{0} names no SELINUXTYPE; use --store")]
    NoName(PathBuf),
    /// There is no store.
    #[error(
        "there is no module store {name} in {} or {}: install the policy package (selinux-policy-default on Debian, \
         selinux-policy-targeted on Fedora, RHEL and OKD), or name the store with --store",
        .places[0].display(), .places[1].display()
    )]
    NoStore {
        /// Its name.
        name: String,
        /// Where it was looked for.
        places: [PathBuf; 2],
    },
    /// There is no policy.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The policy cannot be read.
    #[error("cannot read the policy {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// What was read is no policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The policy can have no module of ours.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// The store is part of an image.
    #[error(
        "the module store {0} is read-only, so that this node's policy cannot be changed from here; use an image of the \
         node with the module, or the Security Profiles Operator (policy -o raw-selinux-profile)"
    )]
    ReadOnly(PathBuf),
    /// The store is somebody else's.
    #[error("the module store {path}: {source}; run this as root")]
    NotOurs {
        /// The store.
        path: PathBuf,
        /// The system's reason.
        source: Errno,
    },
    /// The modules' texts cannot be written.
    #[error("cannot write the modules' texts into {path}")]
    Texts {
        /// The directory or file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// There is no semodule.
    #[error("semodule is not installed: install the package policycoreutils (on Debian also semodule-utils)")]
    NoSemodule,
    /// It cannot be started.
    #[error("semodule: {0}")]
    Semodule(io::Error),
    /// It refuses, in its own words, with the statement and its reason.
    #[error("semodule refuses: {0}")]
    Refused(String),
    /// It was content, and the policy is not what it should be.
    #[error("semodule was content, but {0}")]
    Differs(String),
    /// Machines run.
    #[error("processes run under these types (PID {0}): stop the machines first, or use --force")]
    Used(String),
}

/// A module store, and the policy that is in force with it.
#[derive(Debug)]
pub struct Store {
    root: Option<PathBuf>,
    name: String,
    modules: PathBuf,
}

/// What was done about a profile's module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was what it should be.
    Current,
    /// It was not there and is now.
    Installed,
    /// It had as many differences, and has none now.
    Renewed(usize),
}

impl Store {
    /// Finds the store of this node, or of the system whose etc/selinux and var/lib/selinux are below `root`. Its name is
    /// that of etc/selinux/config when `name` is absent.
    ///
    /// # Errors
    /// SELinux is off here, or there is no store.
    pub fn open(root: Option<&Path>, name: Option<&str>) -> Result<Self, StoreError> {
        if root.is_none() && !Path::new(ENABLED).exists() {
            return Err(StoreError::Disabled);
        }
        let base = root.unwrap_or(Path::new("/"));
        let name = match name {
            Some(name) => name.to_owned(),
            None => configured(base)?,
        };
        // Debian and Fedora keep it below var, RHEL and OKD below etc.
        let places = [base.join("var/lib/selinux").join(&name), base.join("etc/selinux").join(&name)];
        let modules = places.iter().map(|place| place.join("active/modules")).find(|place| place.is_dir());
        match modules {
            Some(modules) => Ok(Self { root: root.map(Path::to_owned), name, modules }),
            None => Err(StoreError::NoStore { name, places }),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory of the other system that it belongs to, if it is not this node's.
    #[must_use]
    pub fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    /// The policy that is in force: the kernel's, or the one that the store has compiled.
    fn policy(&self) -> Result<Vec<u8>, StoreError> {
        let path = match &self.root {
            None => PathBuf::from(RUNNING),
            Some(root) => in_directory(&root.join("etc/selinux").join(&self.name))?,
        };
        fs::read(&path).map_err(|source| StoreError::Read { path, source })
    }

    /// What the policy that is in force has of a profile's module.
    ///
    /// # Errors
    /// There is no policy, or it cannot be read.
    pub fn look(&self, profile: Profile) -> Result<Installed, StoreError> {
        Ok(module::look(&self.policy()?, profile)?)
    }

    /// A module of ours is in the store, whatever the policy has.
    #[must_use]
    pub fn holds(&self, profile: Profile) -> bool {
        self.modules.join(PRIORITY).join(module::module_name(profile)).is_dir()
    }

    /// Brings the profiles' modules into store and policy where they are missing or stale, in one compilation, and reads
    /// them back. For each: what was done, and notes about what the base has by itself. Takes as long as the compiler.
    ///
    /// # Errors
    /// The policy can have no module of ours, the store cannot be written, `semodule` refuses, or the policy is not what
    /// it should be afterwards.
    pub fn install(&self, profiles: &[Profile]) -> Result<Vec<(Profile, Change, Vec<String>)>, StoreError> {
        let mut done = Vec::new();
        let mut wanted = Vec::new();
        for profile in profiles {
            match self.look(*profile)? {
                Installed::Current(notes) => done.push((*profile, Change::Current, notes)),
                Installed::Missing(_) => wanted.push((*profile, Change::Installed)),
                Installed::Stale(differences) => {
                    wanted.push((*profile, Change::Renewed(differences.len())));
                }
            }
        }
        if wanted.is_empty() {
            return Ok(done);
        }
        let database = Database::open(&self.policy()?)?;
        let made = wanted.iter().map(|(profile, _)| module::module(&database, *profile));
        let modules: Vec<Module> = made.collect::<Result<_, _>>()?;
        let (_texts, paths) = texts(&modules)?;
        let arguments: Vec<&str> = paths.iter().flat_map(|path| ["-i", path]).collect();
        self.semodule(&arguments, &modules)?;
        for (profile, change) in wanted {
            match self.look(profile)? {
                Installed::Current(notes) => done.push((profile, change, notes)),
                Installed::Missing(why) => {
                    return Err(StoreError::Differs(format!("the policy is not: {why}")));
                }
                Installed::Stale(differences) => {
                    return Err(StoreError::Differs(format!(
                        "the policy has something else than the table says, {} differences: {}",
                        differences.len(),
                        differences.into_iter().take(NAMED).collect::<Vec<_>>().join("; ")
                    )));
                }
            }
        }
        Ok(done)
    }

    /// Takes the profiles' modules, which the store [holds](Self::holds), out of store and policy. `force`: also while
    /// processes run under their types, whose contexts become invalid.
    ///
    /// # Errors
    /// Such processes run, the store cannot be written, `semodule` refuses, or the types are still there afterwards.
    pub fn remove(&self, profiles: &[Profile], force: bool) -> Result<(), StoreError> {
        let names: Vec<&str> = profiles.iter().map(|profile| module::module_name(*profile)).collect();
        if self.root.is_none() && !force {
            let users = users(&names);
            if !users.is_empty() {
                return Err(StoreError::Used(users.join(", ")));
            }
        }
        let arguments: Vec<&str> = names.iter().flat_map(|name| ["-r", name]).collect();
        self.semodule(&arguments, &[])?;
        for (profile, name) in profiles.iter().zip(names) {
            if !matches!(self.look(*profile)?, Installed::Missing(_)) {
                let what = format!("the policy still has types of {name}: another module declares them");
                return Err(StoreError::Differs(what));
            }
        }
        Ok(())
    }

    fn writable(&self) -> Result<(), StoreError> {
        let path = self.modules.clone();
        match access(&self.modules, Access::WRITE_OK) {
            Ok(()) => Ok(()),
            Err(Errno::ROFS) => Err(StoreError::ReadOnly(path)),
            Err(source) => Err(StoreError::NotOurs { path, source }),
        }
    }

    /// Runs semodule with these arguments. `modules`: what it may complain about.
    fn semodule(&self, arguments: &[&str], modules: &[Module]) -> Result<(), StoreError> {
        self.writable()?;
        let mut command = Command::new("semodule");
        if let Some(root) = &self.root {
            // The kernel's policy is another one.
            command.arg("-p").arg(root).arg("-n");
        }
        command.args(["-s", &self.name, "-X", PRIORITY]).args(arguments).stdin(Stdio::null());
        let output = command.output().map_err(|error| match error.kind() {
            ErrorKind::NotFound => StoreError::NoSemodule,
            _ => StoreError::Semodule(error),
        })?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let mut message = said.trim().to_owned();
        for (statement, comments) in modules.iter().flat_map(|module| complaints(&said, module)) {
            let _ = write!(message, "\n  the statement is {statement}");
            for comment in comments {
                let _ = write!(message, "\n  it is there for {comment}");
            }
        }
        Err(StoreError::Refused(message))
    }
}

/// The store that the system's configuration names.
fn configured(base: &Path) -> Result<String, StoreError> {
    let path = base.join("etc/selinux/config");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) => return Err(StoreError::Configuration { path, source }),
    };
    let name = text.lines().find_map(|line| line.trim().strip_prefix("SELINUXTYPE="));
    let name = name.map(str::trim).filter(|name| !name.is_empty() && !name.contains('/'));
    name.map(str::to_owned).ok_or(StoreError::NoName(path))
}

/// The lines of a module that the compiler names, with their reasons.
fn complaints<'a>(said: &str, module: &'a Module) -> Vec<(&'a str, Vec<&'a str>)> {
    let place = format!("/{}/cil:", module.name);
    let lines = said.match_indices(&place).filter_map(|(at, _)| {
        let digits: String = said.get(at + place.len()..)?.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<usize>().ok()
    });
    let mut lines: Vec<usize> = lines.collect();
    lines.sort_unstable();
    lines.dedup();
    lines.into_iter().filter_map(|line| module::reason(&module.text, line)).collect()
}

/// The modules' texts in files of a directory that goes away; a file's name is its module's.
fn texts(modules: &[Module]) -> Result<(TempDir, Vec<String>), StoreError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| StoreError::Texts { path, source }
    };
    // Who could write here would write the policy.
    let directory = tempfile::Builder::new()
        .prefix("ferrovirt-selinux-")
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir();
    let directory = directory.map_err(failed(&std::env::temp_dir()))?;
    let mut paths = Vec::new();
    for module in modules {
        let path = directory.path().join(format!("{}.cil", module.name));
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(module.text.as_bytes())).map_err(failed(&path))?;
        paths.push(path.to_string_lossy().into_owned());
    }
    Ok((directory, paths))
}

/// Processes of this node whose types are in one of these blocks.
fn users(blocks: &[&str]) -> Vec<String> {
    let mut users = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(context) = fs::read_to_string(entry.path().join("attr/current")) else { continue };
        let kind = context.split(':').nth(2).unwrap_or_default();
        if kind.split_once('.').is_some_and(|(block, _)| blocks.contains(&block)) {
            users.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    users
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statement_that_the_compiler_refuses_is_named_with_its_reason() {
        let text = "(block virt_launcher\n    (type process)\n    ; SR-IOV: the pod writes to sysfs. Checked by security hook: x.\n    \
                    (allow process sysfs_t (file (write)))\n)\n";
        let module = Module { name: "virt_launcher", text: text.to_owned(), remainder: Vec::new() };
        let said = "Failed to resolve allow statement at /var/lib/selinux/default/tmp/modules/400/virt_launcher/cil:4\n\
                    Failed to resolve AST\nsemodule:  Failed!\n";
        assert_eq!(
            complaints(said, &module),
            [(
                "(allow process sysfs_t (file (write)))",
                vec!["SR-IOV: the pod writes to sysfs. Checked by security hook: x."]
            )]
        );
        for other in ["", "at /other/cil:4", "at /virt_launcher/cil:", "at /virt_launcher/cil:99"] {
            assert_eq!(complaints(other, &module), [], "{other}");
        }
    }

    #[test]
    fn the_modules_texts_are_their_writers_alone() {
        let module =
            Module { name: "virt_launcher", text: "(block virt_launcher)".to_owned(), remainder: Vec::new() };
        let (directory, paths) = texts(&[module]).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(directory.path()), 0o700);
        assert_eq!(paths.iter().map(|path| mode(Path::new(path))).collect::<Vec<_>>(), [0o600]);
    }

    #[test]
    fn a_store_is_found_by_the_configuration_in_either_place_or_said_to_be_missing() {
        let directory = tempfile::tempdir().unwrap();
        let root = Some(directory.path());
        let path = |name: &str| directory.path().join(name);
        assert!(matches!(Store::open(root, None), Err(StoreError::Configuration { .. })));
        fs::create_dir_all(path("etc/selinux")).unwrap();
        for text in ["SELINUX=enforcing\n", "SELINUXTYPE=\n", "SELINUXTYPE=../x\n"] {
            fs::write(path("etc/selinux/config"), text).unwrap();
            assert!(matches!(Store::open(root, None), Err(StoreError::NoName(_))), "{text}");
        }
        fs::write(path("etc/selinux/config"), "SELINUX=enforcing\n SELINUXTYPE=targeted \n").unwrap();
        let error = Store::open(root, None).unwrap_err().to_string();
        assert!(error.contains("no module store targeted"), "{error}");
        fs::create_dir_all(path("etc/selinux/targeted/active/modules/400/virt_machine")).unwrap();
        let store = Store::open(root, None).unwrap();
        assert_eq!(store.name(), "targeted");
        assert_eq!(
            [Profile::Documented, Profile::Minimal].map(|profile| store.holds(profile)),
            [false, true]
        );
        assert!(matches!(store.look(Profile::Minimal), Err(StoreError::Find(_))));
        fs::create_dir_all(path("var/lib/selinux/mls/active/modules")).unwrap();
        assert_eq!(Store::open(root, Some("mls")).unwrap().name(), "mls");
    }
}
