//! `ferrovirt selinux install`, `status` and `remove`: the modules of launcher pods in a node's module store.

use super::{Answer, Form, answer, lines};
use clap::{Args, ValueEnum};
use ferrovirt_model::Profile;
use ferrovirt_node::selinux::Kernel;
use ferrovirt_plan::selinux::module::{self, Installed};
use ferrovirt_selinux_node::{Change, Store, StoreError};
use serde_json::{Value, json};
use std::path::PathBuf;

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

impl NodeOptions {
    fn open(&self) -> Result<Store, StoreError> {
        Store::open(self.root.as_deref(), self.store.as_deref())
    }

    fn names<'a>(profiles: &'a [Profile]) -> impl Iterator<Item = &'static str> + 'a {
        profiles.iter().map(|profile| module::module_name(*profile))
    }
}

/// Brings the modules into the store and the policy.
pub(super) fn install(options: &NodeOptions) -> Answer {
    let store = options.open()?;
    let place = match store.root() {
        None => "the running kernel has exactly its rules".to_owned(),
        Some(root) => format!("the policy below {} has exactly its rules", root.display()),
    };
    let mut lines = Vec::new();
    for (profile, change, notes) in store.install(options.profile.profiles())? {
        let name = module::module_name(profile);
        lines.push(match change {
            Change::Current => format!("{name} is installed and current: nothing to do"),
            Change::Installed => format!("{name} is installed; {place}"),
            Change::Renewed(differences) => {
                format!("{name} was stale ({differences} differences) and is installed again; {place}")
            }
        });
        lines.extend(notes.into_iter().map(|note| format!("  {note}")));
    }
    answer(options.output, || self::lines(&lines), || json!({ "done": lines }))
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
    let store = options.open()?;
    let (held, absent): (Vec<Profile>, Vec<Profile>) =
        options.profile.profiles().iter().partition(|profile| store.holds(**profile));
    let mut lines: Vec<String> =
        NodeOptions::names(&absent).map(|name| format!("{name} is not installed: nothing to do")).collect();
    if !held.is_empty() {
        store.remove(&held, *force)?;
        lines.extend(NodeOptions::names(&held).map(|name| format!("{name} is removed")));
    }
    answer(options.output, || self::lines(&lines), || json!({ "done": lines }))
}

/// Says what is in force. The exit code is 0 when everything asked for is.
pub(super) fn status(options: &NodeOptions) -> Answer {
    let kernel = Kernel::default();
    let mode = match (&options.root, kernel.is_enabled()) {
        (Some(_), _) => "another system's",
        (None, true) if kernel.is_enforcing() => "enforcing",
        (None, true) => "permissive",
        (None, false) => {
            let text = || {
                "SELinux is disabled on this node: nothing enforces the types of launcher pods\n".to_owned()
            };
            let (text, _) = answer(options.output, text, || json!({ "selinux": "disabled" }))?;
            return Ok((text, 1));
        }
    };
    let store = options.open()?;
    let mut good = mode != "permissive";
    let mut lines = vec![format!("SELinux: {mode}, store {}", store.name())];
    let mut all: Vec<Value> = Vec::new();
    for profile in options.profile.profiles() {
        let name = module::module_name(*profile);
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
    let json = || json!({ "selinux": mode, "store": store.name(), "profiles": all });
    let (text, _) = answer(options.output, || self::lines(&lines), json)?;
    Ok((text, i32::from(!good)))
}
