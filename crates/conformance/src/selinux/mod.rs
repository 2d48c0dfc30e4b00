//! Recorded facts about SELinux against our reader, our decisions and our explanations.
//!
//! A folder holds any of these, at any depth, each plain or compressed (gzip):
//!
//! | file | what is compared |
//! |---|---|
//! | a kernel binary policy, such as `tiny.33` | it is valid and written back byte for byte |
//! | `POLICY.expected.json` | a dump of the policy, key by key |
//! | `*.counts.json` | sizes of policies, each found by its size in bytes |
//! | `*.expected.json` with `left` and `right` | what two policies differ in |
//! | `POLICY.tsv` | a kernel's answers: access vectors, new labels, contexts that it refuses |
//! | `*.jsonl` | denials with what they mean |
//! | `*.log` | kernel messages: every denial is understood |
//! | `*.cil` | read and written, it is the same |
//! | `BASE.VARIANT.tsv` with `#tag` | results of real system calls that follow from the policy alone |

mod avc;
mod cil;
mod counts;
mod dump;
mod files;
mod oracle;
mod pair;
mod policy;
mod report;
mod verdicts;

use std::{io::Write, path::Path};

use ferrovirt_selinux::Database;

use crate::{Error, Summary};
use files::{File, Kind};
use report::Report;

/// A policy of the folder.
struct Known {
    /// The file's name without `.gz`.
    name: String,
    size: usize,
    database: Database,
}

/// The policies that other files refer to.
struct Policies(Vec<Known>);

impl Policies {
    fn named(&self, name: &str) -> Option<&Known> {
        self.0.iter().find(|known| known.name == name)
    }
}

/// Runs every file of a folder and writes counts and the first differences to `out`. The caller fails when
/// [`Summary::different`] is not 0.
///
/// # Errors
/// [`Error`] when the folder cannot be read or has nothing to compare.
pub fn run(folder: &Path, out: &mut dyn Write) -> Result<Summary, Error> {
    let files = files::list(folder)?;
    let mut total = Report::default();
    let mut policies = Policies(Vec::new());
    for file in files.iter().filter(|file| file.kind == Kind::Policy) {
        let mut report = Report::default();
        policies.0.extend(policy::check(file, &mut report));
        report.print(&file.shown, out)?;
        total.add(report);
    }
    for file in files.iter().filter(|file| file.kind != Kind::Policy) {
        let mut report = Report::default();
        check(file, &policies, &mut report);
        report.print(&file.shown, out)?;
        total.add(report);
    }
    if total.run() == 0 {
        return Err(Error::NothingSelinux(folder.display().to_string()));
    }
    total.print_all(out)?;
    Ok(Summary { run: total.run(), different: total.different() })
}

fn check(file: &File, policies: &Policies, report: &mut Report) {
    match file.kind {
        Kind::Policy => {}
        Kind::Json => match (serde_json::from_slice(&file.bytes), &file.name) {
            (Err(error), _) => report.compare("files", Err(format!("no JSON: {error}"))),
            (Ok(value), name) if name.ends_with(".counts.json") => counts::check(&value, policies, report),
            (Ok(value), _) if value.get("left").is_some() => pair::check(&value, policies, report),
            (Ok(value), name) => dump::check(name, value, policies, report),
        },
        Kind::Table => match file.text() {
            text if text.starts_with("#tag") => verdicts::check(&file.name, &text, policies, report),
            text => oracle::check(&file.name, &text, policies, report),
        },
        Kind::Denials => avc::samples(&file.text(), report),
        Kind::Log => avc::log(&file.text(), report),
        Kind::Cil => cil::check(&file.text(), report),
        Kind::Source => report.note("a policy's source: nothing is compared; the compiled policies are"),
        Kind::Prose => {}
        Kind::Unknown => report.note("unknown: nothing of it is compared"),
    }
}
