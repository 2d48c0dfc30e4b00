//! `ferrovirt selinux install`, `status` and `remove`: the modules of launcher pods in a node's module store.
//!
//! `semodule` does the work, at priority 400, where local modules belong. What is there afterwards is read back with our
//! own reader: from the running kernel, or from the policy that the store has compiled.

use super::{
    Answer, Form, answer, lines,
    source::{self, in_directory},
};
use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{Args, ValueEnum};
use ferrovirt_model::Profile;
use ferrovirt_plan::installed::{self, Installed, Module};
use ferrovirt_selinux::Database;
use serde_json::{Value, json};
use std::{
    fmt::Write as _,
    fs,
    io::{ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Where local modules belong: above the distribution's at 100.
const PRIORITY: &str = "400";
/// Most differences that are printed.
const SHOWN: usize = 20;

#[derive(Args)]
pub(super) struct NodeOptions {
    /// Whose types
    #[arg(long, value_enum, default_value_t = Which::All)]
    profile: Which,
    /// Directory that holds etc/selinux and var/lib/selinux of another system, in place of this node
    #[arg(long)]
    root: Option<PathBuf>,
    /// Name of the store; that of etc/selinux/config when absent
    #[arg(long)]
    store: Option<String>,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    output: Form,
}

#[derive(Clone, Copy, ValueEnum)]
enum Which {
    Documented,
    Minimal,
    All,
}

impl Which {
    fn profiles(self) -> &'static [Profile] {
        match self {
            Self::Documented => &[Profile::Documented],
            Self::Minimal => &[Profile::Minimal],
            Self::All => &[Profile::Documented, Profile::Minimal],
        }
    }
}

/// A module store, and the policy that is in force with it.
struct Store {
    root: Option<PathBuf>,
    name: String,
    modules: PathBuf,
}

impl Store {
    /// Finds the store.
    fn open(options: &NodeOptions) -> Result<Self> {
        ensure!(
            options.root.is_some() || enforcing().is_some(),
            "SELinux is disabled on this node, so that there is no policy to install into; to prepare the store of \
             another system, name its directory with --root"
        );
        let base = options.root.clone().unwrap_or_else(|| PathBuf::from("/"));
        let name = match &options.store {
            Some(name) => name.clone(),
            None => configured(&base)?,
        };
        // Debian and Fedora keep it below var, RHEL and OKD below etc.
        let places = [base.join("var/lib/selinux").join(&name), base.join("etc/selinux").join(&name)];
        let modules = places.iter().map(|place| place.join("active/modules")).find(|place| place.is_dir());
        let modules = modules.ok_or_else(|| {
            anyhow!(
                "there is no module store {name} in {} or {}: install the policy package (selinux-policy-default on \
                 Debian, selinux-policy-targeted on Fedora, RHEL and OKD), or name the store with --store",
                places[0].display(),
                places[1].display()
            )
        })?;
        Ok(Self { root: options.root.clone(), name, modules })
    }

    /// The policy that is in force: the kernel's, or the one that the store has compiled.
    fn policy(&self) -> Result<Vec<u8>> {
        let path = match &self.root {
            None => PathBuf::from(source::RUNNING),
            Some(root) => in_directory(&root.join("etc/selinux").join(&self.name))?,
        };
        fs::read(&path).with_context(|| format!("cannot read the policy {}", path.display()))
    }

    fn look(&self, profile: Profile) -> Result<Installed> {
        Ok(installed::look(&self.policy()?, profile)?)
    }

    /// A module of ours is in the store, whatever the policy has.
    fn holds(&self, profile: Profile) -> bool {
        self.modules.join(PRIORITY).join(installed::module_name(profile)).is_dir()
    }

    fn writable(&self) -> Result<()> {
        match rustix::fs::access(&self.modules, rustix::fs::Access::WRITE_OK) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::ROFS) => bail!(
                "the module store {} is read-only, so that this node's policy cannot be changed from here; use an image \
                 of the node with the module, or the Security Profiles Operator (policy -o raw-selinux-profile)",
                self.modules.display()
            ),
            Err(error) => bail!("the module store {}: {error}; run this as root", self.modules.display()),
        }
    }

    /// Runs semodule with these arguments. `modules`: what it may complain about.
    fn semodule(&self, arguments: &[&str], modules: &[Module]) -> Result<()> {
        self.writable()?;
        let mut command = Command::new("semodule");
        if let Some(root) = &self.root {
            // The kernel's policy is another one.
            command.arg("-p").arg(root).arg("-n");
        }
        command.args(["-s", &self.name, "-X", PRIORITY]).args(arguments).stdin(Stdio::null());
        let output = command.output().map_err(|error| match error.kind() {
            ErrorKind::NotFound => anyhow!(
                "semodule is not installed: install the package policycoreutils (on Debian also semodule-utils)"
            ),
            _ => anyhow!("semodule: {error}"),
        })?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let mut message = format!("semodule refuses: {}", said.trim());
        for (statement, comments) in modules.iter().flat_map(|module| complaints(&said, module)) {
            let _ = write!(message, "\n  the statement is {statement}");
            for comment in comments {
                let _ = write!(message, "\n  it is there for {comment}");
            }
        }
        bail!(message)
    }
}

/// Whether SELinux enforces, `None` where it is off.
fn enforcing() -> Option<bool> {
    fs::read_to_string("/sys/fs/selinux/enforce").ok().map(|text| text.trim() == "1")
}

/// The store that the system's configuration names.
fn configured(base: &Path) -> Result<String> {
    let path = base.join("etc/selinux/config");
    let text = fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}; name the store with --store", path.display()))?;
    let name = text.lines().find_map(|line| line.trim().strip_prefix("SELINUXTYPE="));
    let name = name.map(str::trim).filter(|name| !name.is_empty() && !name.contains('/'));
    Ok(name.with_context(|| format!("{} names no SELINUXTYPE; use --store", path.display()))?.to_owned())
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
    lines.into_iter().filter_map(|line| installed::reason(&module.text, line)).collect()
}

/// A directory for the modules' texts that goes away.
struct Texts(PathBuf);

impl Texts {
    fn write(modules: &[Module]) -> Result<(Self, Vec<String>)> {
        let directory = std::env::temp_dir().join(format!("ferrovirt-selinux-{}", std::process::id()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .with_context(|| directory.display().to_string())?;
        let texts = Self(directory);
        let mut paths = Vec::new();
        for module in modules {
            // The file's name is the module's.
            let path = texts.0.join(format!("{}.cil", module.name));
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(module.text.as_bytes())?;
            paths.push(path.to_string_lossy().into_owned());
        }
        Ok((texts, paths))
    }
}

impl Drop for Texts {
    fn drop(&mut self) {
        // In the worst case a directory in the temporary directory stays.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Brings the modules into the store and the policy.
pub(super) fn install(options: &NodeOptions) -> Answer {
    let store = Store::open(options)?;
    let mut lines = Vec::new();
    let mut wanted = Vec::new();
    for profile in options.profile.profiles() {
        let name = installed::module_name(*profile);
        match store.look(*profile)? {
            Installed::Current(notes) => {
                lines.push(format!("{name} is installed and current: nothing to do"));
                lines.extend(notes.into_iter().map(|note| format!("  {note}")));
            }
            Installed::Missing(_) => wanted.push((*profile, format!("{name} is installed"))),
            Installed::Stale(differences) => {
                let count = differences.len();
                wanted.push((
                    *profile,
                    format!("{name} was stale ({count} differences) and is installed anew"),
                ));
            }
        }
    }
    if !wanted.is_empty() {
        let database = Database::open(&store.policy()?)?;
        let made = wanted.iter().map(|(profile, _)| installed::module(&database, *profile));
        let modules: Vec<Module> = made.collect::<Result<_, _>>()?;
        let (_texts, paths) = Texts::write(&modules)?;
        // One call, one compilation.
        let arguments: Vec<&str> = paths.iter().flat_map(|path| ["-i", path]).collect();
        store.semodule(&arguments, &modules)?;
        for (profile, done) in wanted {
            match store.look(profile)? {
                Installed::Current(notes) => {
                    lines.push(format!("{done}; {}", store.place()));
                    lines.extend(notes.into_iter().map(|note| format!("  {note}")));
                }
                Installed::Missing(why) => bail!("semodule was content, but the policy is not: {why}"),
                Installed::Stale(differences) => bail!(
                    "semodule was content, but the policy has something else than the table says, {} differences: {}",
                    differences.len(),
                    differences.into_iter().take(SHOWN).collect::<Vec<_>>().join("; ")
                ),
            }
        }
    }
    answer(options.output, || self::lines(&lines), || json!({ "done": lines }))
}

impl Store {
    fn place(&self) -> String {
        match &self.root {
            None => "the running kernel has exactly its rules".to_owned(),
            Some(root) => format!("the policy below {} has exactly its rules", root.display()),
        }
    }
}

#[derive(Args)]
pub(super) struct RemoveOptions {
    #[command(flatten)]
    node: NodeOptions,
    /// Also while processes run under these types: their contexts become invalid
    #[arg(long)]
    force: bool,
}

/// Takes the modules out of the store and the policy.
pub(super) fn remove(options: &RemoveOptions) -> Answer {
    let RemoveOptions { node: options, force } = options;
    let store = Store::open(options)?;
    let (held, absent): (Vec<Profile>, Vec<Profile>) =
        options.profile.profiles().iter().partition(|profile| store.holds(**profile));
    let names = |profiles: &[Profile]| -> Vec<&str> {
        profiles.iter().map(|profile| installed::module_name(*profile)).collect()
    };
    let mut lines: Vec<String> =
        names(&absent).into_iter().map(|name| format!("{name} is not installed: nothing to do")).collect();
    if !held.is_empty() {
        if store.root.is_none() && !force {
            let users = users(&names(&held));
            ensure!(
                users.is_empty(),
                "processes run under these types (PID {}): stop the machines first, or use --force",
                users.join(", ")
            );
        }
        let arguments: Vec<&str> = names(&held).into_iter().flat_map(|name| ["-r", name]).collect();
        store.semodule(&arguments, &[])?;
        for profile in held {
            let name = installed::module_name(profile);
            ensure!(
                matches!(store.look(profile)?, Installed::Missing(_)),
                "semodule was content, but the policy still has types of {name}: another module declares them"
            );
            lines.push(format!("{name} is removed"));
        }
    }
    answer(options.output, || self::lines(&lines), || json!({ "done": lines }))
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

/// Tells what is in force. The exit code is 0 when everything asked for is.
pub(super) fn status(options: &NodeOptions) -> Answer {
    let mode = match (&options.root, enforcing()) {
        (Some(_), _) => "another system's",
        (None, Some(true)) => "enforcing",
        (None, Some(false)) => "permissive",
        (None, None) => {
            let text = || {
                "SELinux is disabled on this node: nothing enforces the types of launcher pods\n".to_owned()
            };
            let (text, _) = answer(options.output, text, || json!({ "selinux": "disabled" }))?;
            return Ok((text, 1));
        }
    };
    let store = Store::open(options)?;
    let mut good = mode != "permissive";
    let mut lines = vec![format!("SELinux: {mode}, store {}", store.name)];
    let mut all: Vec<Value> = Vec::new();
    for profile in options.profile.profiles() {
        let name = installed::module_name(*profile);
        let (state, details) = match store.look(*profile)? {
            Installed::Current(notes) => ("current", notes),
            Installed::Stale(differences) => ("stale", differences),
            Installed::Missing(why) => ("not installed", vec![why]),
        };
        good &= state == "current";
        lines.push(format!("{} profile: {name} is {state}", profile.name()));
        lines.extend(details.iter().take(SHOWN).map(|detail| format!("  {detail}")));
        if details.len() > SHOWN {
            lines.push(format!("  and {} more", details.len() - SHOWN));
        }
        all.push(json!({ "profile": profile.name(), "module": name, "state": state, "details": details }));
    }
    let json = || json!({ "selinux": mode, "store": store.name, "profiles": all });
    let (text, _) = answer(options.output, || self::lines(&lines), json)?;
    Ok((text, i32::from(!good)))
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
}
