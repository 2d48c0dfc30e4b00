//! `ferrovirt selinux`: questions about SELinux policies and denials, offline.
//!
//! Exit codes: 0 an answer was given (and the two sides of `diff` are the same, a proof holds, what `status` looks for is in
//! force), 1 the sides of `diff` differ, a proof does not hold, something is not in force, 2 the question or an input is
//! wrong, or a step was refused.

mod machines;
mod node;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Subcommand, ValueEnum};
use ferrovirt_model::Profile;
use ferrovirt_plan::{base::Base, denial, installed};
use ferrovirt_selinux::{
    Database, LookupError, Policy, PolicyError, ReadError, avc,
    clone::Held,
    diff::{Difference, Sign, between_policies, between_types},
    policy::{Class, RuleKind, TypeKind},
    query::{Criterion, Query, search, search_ranges, search_role_allows, search_role_transitions},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    fs::File,
    io::{self, ErrorKind, Read, Write},
    path::{Path, PathBuf},
};

/// The running kernel's policy.
const RUNNING: &str = "/sys/fs/selinux/policy";

#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Text,
    Json,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Allow,
    Auditallow,
    Dontaudit,
    Allowxperm,
    Auditallowxperm,
    Dontauditxperm,
    TypeTransition,
    TypeMember,
    TypeChange,
    RangeTransition,
    RoleAllow,
    RoleTransition,
}

#[derive(Args)]
struct Source {
    /// Binary policy, a directory such as /etc/selinux/targeted or /var/lib/selinux/targeted, or /sys/fs/selinux/policy
    policy: PathBuf,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    output: Form,
}

#[derive(Args)]
struct Listing {
    #[command(flatten)]
    source: Source,
    /// Only this one, with its details
    name: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Find rules: what a source may do, on which targets, under which conditions
    Query(Box<QueryOptions>),
    /// Types, or a type with its attributes, aliases and roles
    Types(Listing),
    /// Attributes, or an attribute with its types
    Attributes(Listing),
    /// Classes, or a class with its permissions and constraints
    Classes(Listing),
    /// Booleans with their states
    Booleans(Listing),
    /// The difference of two policies, or of two types of one policy
    Diff(DiffOptions),
    /// Tell what denials in a log mean and what to do
    Explain(ExplainOptions),
    /// Try the privilege table's rules in a real kernel that enforces them
    Prove(Box<crate::prove::Options>),
    /// Print the launcher's module for a base policy, in CIL
    Policy(PolicyOptions),
    /// Install the launchers' modules on this node, or bring them up to date
    Install(node::NodeOptions),
    /// Tell whether the launchers' modules are in force on this node
    Status(node::NodeOptions),
    /// Take the launchers' modules off this node
    Remove(node::RemoveOptions),
}

#[derive(Args)]
struct QueryOptions {
    #[command(flatten)]
    source: Source,
    /// Source type or attribute; of role-allow and role-transition a role
    #[arg(short = 's', long = "source", value_name = "TYPE")]
    from: Option<String>,
    /// Target type or attribute; of role-allow a role
    #[arg(short, long, value_name = "TYPE")]
    target: Option<String>,
    /// Classes, any of them
    #[arg(short, long, value_delimiter = ',')]
    class: Vec<String>,
    /// Permissions, any of them
    #[arg(short, long, value_delimiter = ',')]
    permission: Vec<String>,
    /// Booleans of the condition, any of them
    #[arg(short, long, value_delimiter = ',')]
    boolean: Vec<String>,
    /// The type that the rule gives; of range-transition a range, of role-transition a role
    #[arg(short = 'D', long, value_name = "TYPE")]
    result: Option<String>,
    /// Kinds of rules
    #[arg(short, long, value_enum, value_delimiter = ',', default_values = ["allow", "allowxperm"])]
    kind: Vec<Kind>,
    /// Only rules that name source and target themselves, not through an attribute
    #[arg(long)]
    direct: bool,
}

#[derive(Args)]
struct DiffOptions {
    #[command(flatten)]
    source: Source,
    /// The second policy
    #[arg(required_unless_present = "from", conflicts_with = "from")]
    second: Option<PathBuf>,
    /// A type of the first policy
    #[arg(long, requires = "to", value_name = "TYPE")]
    from: Option<String>,
    /// The type to compare it with
    #[arg(long, requires = "from", value_name = "TYPE")]
    to: Option<String>,
}

#[derive(Args)]
struct ExplainOptions {
    /// Audit log or kernel messages; `-` for standard input
    #[arg(default_value = "-")]
    log: PathBuf,
    /// The node's policy: tells constraints and booleans from missing rules
    #[arg(long)]
    policy: Option<PathBuf>,
    #[command(flatten)]
    machines: machines::MachinesOptions,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    output: Form,
}

#[derive(Args)]
struct PolicyOptions {
    /// The base: a binary policy, a store's directory, /sys/fs/selinux/policy, or in the minimal profile one of the names
    /// refpolicy and container-selinux
    #[arg(long, default_value = RUNNING)]
    base: PathBuf,
    /// Whose types
    #[arg(long, value_enum, default_value_t = PolicyProfile::Documented)]
    profile: PolicyProfile,
    /// The type that the documented profile's copies
    #[arg(long, default_value = "container_t")]
    copy: String,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = PolicyForm::Text)]
    output: PolicyForm,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PolicyProfile {
    Documented,
    Minimal,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PolicyForm {
    /// CIL, with comments
    Text,
    Json,
    /// An object for the Security Profiles Operator
    RawSelinuxProfile,
}

/// Runs a command; ends the process where the exit code is another than 0.
pub(crate) fn run(options: Options) -> Result<()> {
    let done = match options.command {
        Command::Query(options) => query(&options),
        Command::Types(options) => types(&options, TypeKind::Type),
        Command::Attributes(options) => types(&options, TypeKind::Attribute),
        Command::Classes(options) => classes(&options),
        Command::Booleans(options) => booleans(&options),
        Command::Diff(options) => diff(&options),
        Command::Explain(options) => explain(&options),
        Command::Prove(options) => crate::prove::prove(&options),
        Command::Policy(options) => policy(&options),
        Command::Install(options) => node::install(&options),
        Command::Status(options) => node::status(&options),
        Command::Remove(options) => node::remove(&options),
    };
    match done.and_then(|(text, code)| print(&text).map(|()| code)) {
        Ok(0) => Ok(()),
        Ok(code) => std::process::exit(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::exit(2)
        }
    }
}

/// What to print, and the exit code.
type Answer = Result<(String, i32)>;

fn answer(form: Form, text: impl FnOnce() -> String, json: impl FnOnce() -> Value) -> Answer {
    let text = match form {
        Form::Text => text(),
        Form::Json => format!("{}\n", serde_json::to_string_pretty(&json())?),
    };
    Ok((text, 0))
}

fn lines<T: AsRef<str>>(all: impl IntoIterator<Item = T>) -> String {
    all.into_iter().fold(String::new(), |mut text, line| {
        text.push_str(line.as_ref());
        text.push('\n');
        text
    })
}

/// A reader that has seen enough (`| head`) is no error.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// The newest policy of a directory: of `/etc/selinux/NAME`, of a module store such as `/var/lib/selinux/NAME`, or of a
/// directory of policies.
fn in_directory(directory: &Path) -> Result<PathBuf> {
    let mut best: Option<(u32, PathBuf)> = None;
    for directory in [directory.to_owned(), directory.join("policy")] {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let version =
                name.to_str().and_then(|name| name.strip_prefix("policy.")).and_then(|end| end.parse().ok());
            if let Some(version) = version
                && best.as_ref().is_none_or(|(other, _)| *other < version)
            {
                best = Some((version, entry.path()));
            }
        }
    }
    if let Some((_, path)) = best {
        return Ok(path);
    }
    // What semodule compiled last, before it was installed under /etc/selinux.
    let store = [directory.join("active"), directory.to_owned()];
    let compiled = store.iter().map(|directory| directory.join("policy.kern")).find(|path| path.is_file());
    if let Some(path) = compiled {
        return Ok(path);
    }
    if store.iter().any(|directory| directory.join("modules").is_dir()) {
        bail!(
            "the module store {} has no compiled policy: `semodule -n -B` makes one, or name the policy file",
            directory.display()
        );
    }
    bail!("no file policy.N in {} or its directory policy, and no module store either", directory.display())
}

/// The policy lives until the process ends, which is soon: to return its memory piece by piece would take time for
/// nothing.
fn load(path: &Path) -> Result<&'static Database> {
    let path = if path.is_dir() { in_directory(path)? } else { path.to_owned() };
    let policy = read(&path).map_err(|error| {
        let hint = if path == Path::new(RUNNING) {
            "; SELinux is not running on this machine, so name a policy file"
        } else {
            ""
        };
        anyhow!("cannot read the policy {}: {error}{hint}", path.display())
    })?;
    let database = policy.map_err(PolicyError::from).and_then(|policy| Ok(Database::new(policy)?));
    Ok(Box::leak(Box::new(database.with_context(|| path.display().to_string())?)))
}

/// Larger than any policy.
const TOO_LARGE: u64 = 256 << 20;

/// Reads a file piece by piece, so that only the policy itself takes memory. The kernel's is read whole and at once, since
/// only one process may have it open, and so is what has no size, such as a pipe.
fn read(path: &Path) -> io::Result<Result<Policy, ReadError>> {
    let mut file = File::open(path)?;
    let data = file.metadata()?;
    if data.len() > TOO_LARGE {
        return Err(io::Error::other("it has more than 256 MiB, which no policy has"));
    }
    if data.is_file() && data.len() > 0 && path != Path::new(RUNNING) {
        return Ok(Policy::read(&mut file, data.len() as usize));
    }
    let mut bytes = Vec::new();
    (&mut file).take(TOO_LARGE).read_to_end(&mut bytes)?;
    Ok(Policy::parse(&bytes))
}

fn query(options: &QueryOptions) -> Answer {
    let database = load(&options.source.policy)?;
    let criterion = |name: &Option<String>| {
        name.as_ref().map(|name| Criterion { name: name.clone(), direct: options.direct })
    };
    type More = fn(&Database, &Query) -> Result<Vec<String>, LookupError>;
    let (mut kinds, mut others): (Vec<RuleKind>, Vec<More>) = (Vec::new(), Vec::new());
    for kind in &options.kind {
        match kind {
            Kind::Allow => kinds.push(RuleKind::Allow),
            Kind::Auditallow => kinds.push(RuleKind::AuditAllow),
            Kind::Dontaudit => kinds.push(RuleKind::DontAudit),
            Kind::Allowxperm => kinds.push(RuleKind::AllowXperm),
            Kind::Auditallowxperm => kinds.push(RuleKind::AuditAllowXperm),
            Kind::Dontauditxperm => kinds.push(RuleKind::DontAuditXperm),
            Kind::TypeTransition => kinds.push(RuleKind::TypeTransition),
            Kind::TypeMember => kinds.push(RuleKind::TypeMember),
            Kind::TypeChange => kinds.push(RuleKind::TypeChange),
            Kind::RangeTransition => others.push(search_ranges),
            Kind::RoleAllow => others.push(search_role_allows),
            Kind::RoleTransition => others.push(search_role_transitions),
        }
    }
    let narrowed = !options.permission.is_empty() || !options.boolean.is_empty();
    if !others.is_empty() && narrowed {
        bail!("changes of ranges and roles have neither permissions nor booleans: leave -p and -b out");
    }
    let query = Query {
        kinds,
        source: criterion(&options.from),
        target: criterion(&options.target),
        classes: options.class.clone(),
        permissions: options.permission.clone(),
        booleans: options.boolean.clone(),
        result: options.result.clone(),
    };
    let mut rules = Vec::new();
    if !query.kinds.is_empty() {
        rules.extend(search(database, &query)?.into_iter().map(|one| database.found_text(one)));
    }
    for other in others {
        rules.extend(other(database, &query)?);
    }
    rules.sort_unstable();
    answer(options.source.output, || lines(&rules), || json!({ "rules": rules }))
}

fn types(options: &Listing, kind: TypeKind) -> Answer {
    let database = load(&options.source.policy)?;
    let name_of = |value: u32| database.type_name(value);
    let Some(name) = &options.name else {
        let entries = database.policy().types.entries.iter().filter(|one| one.kind() == kind);
        let mut names: Vec<&str> = entries.map(|one| &*one.name).collect();
        names.sort_unstable();
        return answer(options.source.output, || lines(&names), || json!(names));
    };
    let value = database.find_type(name)?;
    if database.is_attribute(value) != (kind == TypeKind::Attribute) {
        bail!(
            "{name} is {}",
            if kind == TypeKind::Type { "an attribute, not a type" } else { "a type, not an attribute" }
        );
    }
    let sorted = |mut names: Vec<&str>| -> Vec<String> {
        names.sort_unstable();
        names.into_iter().map(str::to_owned).collect()
    };
    if kind == TypeKind::Attribute {
        let members = sorted(database.members(value).iter().map(|bit| name_of(bit + 1)).collect());
        return answer(
            options.source.output,
            || lines(&members),
            || json!({ "attribute": name_of(value), "types": members }),
        );
    }
    let policy = database.policy();
    let aliases =
        policy.types.entries.iter().filter(|one| one.kind() == TypeKind::Alias && one.value == value);
    let aliases = sorted(aliases.map(|one| &*one.name).collect());
    let attributes = sorted(database.attributes_of(value).map(name_of).collect());
    let roles = policy.roles.entries.iter().filter(|role| role.types.contains(value - 1));
    let roles = sorted(roles.map(|role| &*role.name).collect());
    let permissive = policy.permissive.contains(value);
    let bounds = database.type_entry(value).map_or(0, |one| one.bounds);
    answer(
        options.source.output,
        || {
            let mut text = format!("type {}\n", name_of(value));
            for (what, names) in [("aliases", &aliases), ("attributes", &attributes), ("roles", &roles)] {
                if !names.is_empty() {
                    let _ = writeln!(text, "  {what}: {}", names.join(" "));
                }
            }
            if permissive {
                text.push_str("  permissive\n");
            }
            if bounds != 0 {
                let _ = writeln!(text, "  bounded by {}", name_of(bounds));
            }
            text
        },
        || {
            json!({
                "type": name_of(value), "aliases": aliases, "attributes": attributes, "roles": roles,
                "permissive": permissive, "boundedBy": (bounds != 0).then(|| name_of(bounds)),
            })
        },
    )
}

fn classes(options: &Listing) -> Answer {
    let database = load(&options.source.policy)?;
    let policy = database.policy();
    let Some(name) = &options.name else {
        let mut names: Vec<&str> = policy.classes.entries.iter().map(|one| &*one.name).collect();
        names.sort_unstable();
        return answer(options.source.output, || lines(&names), || json!(names));
    };
    let value = database.find_class(name)?;
    let class: &Class = database.class(value).ok_or_else(|| anyhow!("no class {name}"))?;
    let permissions = database.permission_names(value, u32::MAX);
    let constraints = class.constraints.iter().map(|one| (one, false));
    let constraints = constraints.chain(class.validatetrans.iter().map(|one| (one, true)));
    let constraints: Vec<String> = constraints
        .map(|(one, on_change)| ferrovirt_selinux::decide::text(database, value, one, on_change))
        .collect();
    answer(
        options.source.output,
        || {
            let mut text = format!("class {name}\n");
            if !class.common.is_empty() {
                let _ = writeln!(text, "  inherits: {}", class.common);
            }
            let _ = writeln!(text, "  permissions: {}", permissions.join(" "));
            for constraint in &constraints {
                let _ = writeln!(text, "  {constraint}");
            }
            text
        },
        || {
            let common = (!class.common.is_empty()).then_some(&class.common);
            json!({ "class": name, "inherits": common, "permissions": permissions, "constraints": constraints })
        },
    )
}

fn booleans(options: &Listing) -> Answer {
    let database = load(&options.source.policy)?;
    let mut all: BTreeMap<&str, bool> =
        database.policy().booleans.entries.iter().map(|one| (&*one.name, one.state)).collect();
    if let Some(name) = &options.name {
        database.find_boolean(name)?;
        all.retain(|other, _| *other == name.as_str());
    }
    let text =
        || lines(all.iter().map(|(name, state)| format!("{name} {}", if *state { "on" } else { "off" })));
    answer(options.source.output, text, || json!(all))
}

fn diff(options: &DiffOptions) -> Answer {
    let policy = &options.source.policy;
    let difference: Difference = match (&options.second, &options.from, &options.to) {
        (Some(second), ..) => between_policies(load(policy)?, load(second)?),
        (None, Some(from), Some(to)) => {
            let first = load(policy)?;
            let value = |name: &str| -> Result<u32> {
                let value = first.find_type(name)?;
                if first.is_attribute(value) {
                    bail!("{name} is an attribute; name two types");
                }
                Ok(value)
            };
            let (one, two) = (value(from)?, value(to)?);
            between_types(first, one, two).grouped(first.type_name(one), first.type_name(two))
        }
        _ => bail!("name a second policy, or two types with --from and --to"),
    };
    let json = || {
        let group = |sign: Sign, lines: &[ferrovirt_selinux::diff::Line]| -> Vec<String> {
            lines.iter().filter(|line| line.sign == sign).map(|line| line.text.clone()).collect()
        };
        let groups: Vec<Value> = difference
            .groups
            .iter()
            .map(|one| {
                let (removed, added) = (group(Sign::Removed, &one.lines), group(Sign::Added, &one.lines));
                json!({ "cause": one.cause, "onlyInFirst": removed, "onlyInSecond": added })
            })
            .collect();
        json!({ "same": difference.is_empty(), "groups": groups })
    };
    let (text, _) = answer(options.source.output, || difference.to_string(), json)?;
    Ok((text, i32::from(!difference.is_empty())))
}

/// What was told, each text once: a program that is refused again and again is one entry.
#[derive(Default)]
struct Told {
    texts: Vec<(String, String, usize)>,
    places: HashMap<String, usize>,
}

impl Told {
    fn push(&mut self, event: String, text: String) {
        let place = *self.places.entry(text.clone()).or_insert(self.texts.len());
        match self.texts.get_mut(place) {
            Some((_, _, more)) => *more += 1,
            None => self.texts.push((event, text, 0)),
        }
    }

    fn text(&self) -> String {
        self.texts.iter().fold(String::new(), |mut all, (event, text, more)| {
            let more = if *more > 0 { format!(" and {more} more") } else { String::new() };
            let _ = write!(all, "{event}{more}: {text}");
            all
        })
    }
}

/// Longer than a log that somebody would read the answer to.
const LONGEST_LOG: u64 = 256 << 20;

/// What a log says, without what a terminal would act on: names of files and programs are their owners' choice.
fn shown(text: &str) -> String {
    let quote = |one| matches!(one, '"' | '\'');
    text.chars().fold(String::new(), |mut all, one| {
        if quote(one) {
            all.push(one);
        } else {
            all.extend(one.escape_debug());
        }
        all
    })
}

fn explain(options: &ExplainOptions) -> Answer {
    let mut bytes = Vec::new();
    if options.log == Path::new("-") {
        io::stdin()
            .lock()
            .take(LONGEST_LOG + 1)
            .read_to_end(&mut bytes)
            .context("cannot read standard input")?;
    } else {
        let read = File::open(&options.log).and_then(|log| log.take(LONGEST_LOG + 1).read_to_end(&mut bytes));
        read.with_context(|| format!("cannot read {}", options.log.display()))?;
    }
    if bytes.len() as u64 > LONGEST_LOG {
        bail!("the log has more than 256 MiB: give a part of it, such as `ausearch -m avc --start today`");
    }
    let database = options.policy.as_ref().map(|path| load(path)).transpose()?;
    let machines = machines::read(&options.machines)?;
    let table = denial::Table::default();
    let allowed = |source: &str, target: &str, class: &str, permission: &str| {
        table.reason(source, target, class, permission)
    };
    let log = String::from_utf8_lossy(&bytes);
    let (events, damaged) = avc::events(log.lines());
    for (number, error) in &damaged {
        eprintln!("line {number}: {error}");
    }
    let mut told = Told::default();
    let mut all = Vec::new();
    for event in &events {
        for (record, denial) in event.denials().filter(|(_, denial)| !denial.granted) {
            let explanation = denial::explain(event, denial, database, &allowed);
            let comm = record.field("comm").or_else(|| record.field("exe")).unwrap_or("?");
            let path = record.field("path").or_else(|| record.field("name"));
            let serial =
                event.stamp.map_or_else(|| "no serial".to_owned(), |stamp| format!("event {}", stamp.serial));
            let permissions = shown(&denial.permissions.join(" "));
            let mut text = format!("{}: {} {{ {permissions} }} denied\n", shown(comm), shown(&denial.class));
            let _ = writeln!(
                text,
                "  from {}\n  to {}{}",
                shown(&denial.source),
                shown(&denial.target),
                path.map_or(String::new(), |path| format!(" ({})", shown(path)))
            );
            let (whose, towards) = (machines.of_context(&denial.source), machines.of_context(&denial.target));
            for (role, machine) in [("asks", &whose), ("is asked for something", &towards)] {
                if let Some(machine) = machine {
                    let _ = writeln!(text, "  machine {machine} {role}");
                }
            }
            if denial.permissive {
                text.push_str("  the access went on all the same: the domain or the system is permissive\n");
            }
            let topic = match explanation.topic {
                denial::Topic::None => String::new(),
                topic => format!(" ({})", topic.name()),
            };
            let _ = writeln!(text, "  {}{topic}: {}", explanation.kind.name(), explanation.advice);
            let _ = writeln!(text, "  because {}", explanation.because);
            if !explanation.unless_known.is_empty() {
                let others: Vec<&str> = explanation.unless_known.iter().map(|kind| kind.name()).collect();
                let _ =
                    writeln!(text, "  or {}: only the node's policy tells (--policy)", others.join(" or "));
            }
            if let Some(granted) = &explanation.granted {
                let _ = writeln!(text, "  the privilege table has it: {granted}");
            }
            if let Some(rule) = &explanation.rule {
                let _ = writeln!(text, "  missing: {}", shown(rule));
            }
            for detail in &explanation.details {
                let _ = writeln!(text, "  policy: {}", shown(detail));
            }
            if options.output == Form::Text {
                told.push(serial, text);
                continue;
            }
            all.push(json!({
                "serial": event.stamp.map(|stamp| stamp.serial), "comm": comm, "path": path,
                "source": denial.source, "target": denial.target, "class": denial.class,
                "permissions": denial.permissions, "permissive": denial.permissive,
                "sourceMachine": whose, "targetMachine": towards,
                "kind": explanation.kind.name(),
                "unlessPolicyTells": explanation.unless_known.iter().map(|kind| kind.name()).collect::<Vec<_>>(),
                "feature": explanation.topic.name(),
                "cause": if explanation.constraint { "constraint" } else { "missing-allow" },
                "missingRule": explanation.rule, "granted": explanation.granted,
                "because": explanation.because, "advice": explanation.advice, "policy": explanation.details,
            }));
        }
    }
    let text = || match told.text() {
        none if none.is_empty() => "no denials in this log\n".to_owned(),
        text => text,
    };
    answer(options.output, text, || json!({ "denials": all, "damagedLines": damaged.len() }))
}

fn policy(options: &PolicyOptions) -> Answer {
    let family = options.base.to_str().and_then(Base::family);
    let (head, made) = match options.profile {
        PolicyProfile::Documented if family.is_some() => bail!(
            "the documented profile's type is an exact copy of container_t, which only a policy tells: name a policy file \
             with --base (the name {} is enough for --profile minimal only)",
            options.base.display()
        ),
        PolicyProfile::Documented => {
            let database = load(&options.base)?;
            let made = installed::copy_of(database, &options.copy)?;
            let head = format!(
                "; The type virt_launcher.process: an exact copy of {} in the base policy, and the documented rules.\n",
                options.copy
            );
            (head, made)
        }
        PolicyProfile::Minimal => {
            let head =
                "; The types of the minimal profile, one for each combination of features.\n".to_owned();
            let made = match &family {
                Some(base) => installed::minimal_module(base),
                None => installed::module(load(&options.base)?, Profile::Minimal)?,
            };
            (head, made)
        }
    };
    let form = match options.output {
        PolicyForm::RawSelinuxProfile => return Ok((installed::raw_selinux_profile(&made), 0)),
        PolicyForm::Text => Form::Text,
        PolicyForm::Json => Form::Json,
    };
    let text = || {
        let mut text = head;
        for one in &made.remainder {
            let what = format!("{} {} {}", one.target, one.class, one.permission);
            let _ = match &one.held {
                Held::No => Ok(()),
                Held::Always => writeln!(text, "; {} has this already: {what}", options.copy),
                Held::If(condition, true) => {
                    writeln!(text, "; {} has this if {condition}: {what}", options.copy)
                }
                Held::If(condition, false) => {
                    writeln!(text, "; {} has this unless {condition}: {what}", options.copy)
                }
            };
        }
        text + &made.text
    };
    let json = || {
        let remainder: Vec<Value> = made
            .remainder
            .iter()
            .map(|one| {
                let held = match &one.held {
                    Held::No => json!(false),
                    Held::Always => json!(true),
                    Held::If(condition, state) => json!({ "condition": condition, "state": state }),
                };
                json!({ "target": one.target, "class": one.class, "permission": one.permission, "held": held })
            })
            .collect();
        json!({ "cil": made.text, "documented": remainder })
    };
    answer(form, text, json)
}
