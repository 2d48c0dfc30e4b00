//! `ferrovirt selinux explain`: what denials in a log mean, and what to do.

use super::{Answer, Form, answer, machines, source::load};
use anyhow::{Context, Result, bail};
use clap::Args;
use ferrovirt_plan::selinux::denial::{self, Explanation, Topic};
use ferrovirt_selinux::avc::{self, Denial};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    fmt::Write as _,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

#[derive(Args)]
pub(super) struct ExplainOptions {
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

/// Texts, each once: a program that is refused again and again is one entry.
#[derive(Default)]
struct Texts {
    texts: Vec<(String, String, usize)>,
    places: HashMap<String, usize>,
}

impl Texts {
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
    text.chars().fold(String::new(), |mut all, letter| {
        if matches!(letter, '"' | '\'') {
            all.push(letter);
        } else {
            all.extend(letter.escape_debug());
        }
        all
    })
}

/// A denial, and what is known of it.
struct Refused<'a> {
    /// The event's number in the log.
    serial: Option<u64>,
    comm: &'a str,
    path: Option<&'a str>,
    denial: &'a Denial,
    explanation: Explanation,
    /// The machine that asked, and the one that was asked for something.
    machines: [Option<&'a str>; 2],
}

impl Refused<'_> {
    fn text(&self) -> String {
        let Self { comm, path, denial, explanation, .. } = self;
        let permissions = shown(&denial.permissions.join(" "));
        let mut text = format!("{}: {} {{ {permissions} }} denied\n", shown(comm), shown(&denial.class));
        let path = path.map_or(String::new(), |path| format!(" ({})", shown(path)));
        let _ = writeln!(text, "  from {}\n  to {}{path}", shown(&denial.source), shown(&denial.target));
        for (role, machine) in ["asks", "is asked for something"].iter().zip(self.machines) {
            if let Some(machine) = machine {
                let _ = writeln!(text, "  machine {machine} {role}");
            }
        }
        if denial.permissive {
            text.push_str("  the access went on all the same: the domain or the system is permissive\n");
        }
        let topic = match explanation.topic {
            Topic::None => String::new(),
            topic => format!(" ({})", topic.name()),
        };
        let _ = writeln!(text, "  {}{topic}: {}", explanation.kind.name(), explanation.advice);
        let _ = writeln!(text, "  because {}", explanation.because);
        if !explanation.unless_known.is_empty() {
            let others: Vec<&str> = explanation.unless_known.iter().map(|kind| kind.name()).collect();
            let _ = writeln!(text, "  or {}: only the node's policy tells (--policy)", others.join(" or "));
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
        text
    }

    fn json(&self) -> Value {
        let Self { serial, comm, path, denial, explanation, machines: [whose, towards] } = self;
        let unless: Vec<&str> = explanation.unless_known.iter().map(|kind| kind.name()).collect();
        json!({
            "serial": serial, "comm": comm, "path": path,
            "source": denial.source, "target": denial.target, "class": denial.class,
            "permissions": denial.permissions, "permissive": denial.permissive,
            "sourceMachine": whose, "targetMachine": towards,
            "kind": explanation.kind.name(), "unlessPolicyTells": unless, "feature": explanation.topic.name(),
            "cause": if explanation.constraint { "constraint" } else { "missing-allow" },
            "missingRule": explanation.rule, "granted": explanation.granted,
            "because": explanation.because, "advice": explanation.advice, "policy": explanation.details,
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        let input = io::stdin().lock();
        input.take(LONGEST_LOG + 1).read_to_end(&mut bytes).context("cannot read standard input")?;
    } else {
        let read = File::open(path).and_then(|log| log.take(LONGEST_LOG + 1).read_to_end(&mut bytes));
        read.with_context(|| format!("cannot read {}", path.display()))?;
    }
    if bytes.len() as u64 > LONGEST_LOG {
        bail!("the log has more than 256 MiB: give a part of it, such as `ausearch -m avc --start today`");
    }
    Ok(bytes)
}

/// Explains every denial of a log.
pub(super) fn explain(options: &ExplainOptions) -> Answer {
    let bytes = read(&options.log)?;
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
    let mut texts = Texts::default();
    let mut all = Vec::new();
    for event in &events {
        for (record, denial) in event.denials().filter(|(_, denial)| !denial.granted) {
            let refused = Refused {
                serial: event.stamp.map(|stamp| stamp.serial),
                comm: record.field("comm").or_else(|| record.field("exe")).unwrap_or("?"),
                path: record.field("path").or_else(|| record.field("name")),
                denial,
                explanation: denial::explain(event, denial, database, &allowed),
                machines: [&denial.source, &denial.target].map(|context| machines.of_context(context)),
            };
            if options.output == Form::Json {
                all.push(refused.json());
                continue;
            }
            let serial =
                refused.serial.map_or_else(|| "no serial".to_owned(), |serial| format!("event {serial}"));
            texts.push(serial, refused.text());
        }
    }
    let text = || match texts.text() {
        none if none.is_empty() => "no denials in this log\n".to_owned(),
        text => text,
    };
    answer(options.output, text, || json!({ "denials": all, "damagedLines": damaged.len() }))
}
