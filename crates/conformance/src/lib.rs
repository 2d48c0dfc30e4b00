//! Runs recorded decisions of the real implementations against ours and tells every difference. For SELinux see
//! [`selinux`].
//!
//! A directory of recorded SCC decisions holds any of `cases.jsonl`, `order.jsonl`, `objects.jsonl` and
//! `reviews.jsonl` (more of them when the name has something after the first word, as in `cases-2.jsonl`), each plain
//! or compressed (`.gz`), and `sccsets.json` with the named sets of SCCs that they use.

mod access;
mod case;
mod files;
mod meaning;
mod object;
mod order;
mod review;
pub mod selinux;

use std::io::Write;
use std::path::Path;

use ferrovirt_kubernetes::json::{self, text};
use ferrovirt_scc::SecurityContextConstraints;
use serde_json::Value;

pub use access::Grants;
pub use meaning::same_meaning;

/// Why a directory could not be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file or directory.
        path: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A line is not what the format says.
    #[error("{path}, line {line}: {what}")]
    Format {
        /// The file.
        path: String,
        /// Line, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// The directory has nothing to run.
    #[error("{0} holds no cases.jsonl, order.jsonl, objects.jsonl or reviews.jsonl (plain or .gz)")]
    Empty(String),
    /// The directory has nothing about SELinux that can be compared.
    #[error("{0} holds nothing that can be compared: neither policies nor denials, plain or .gz")]
    NothingSelinux(String),
    /// The report could not be written.
    #[error("cannot write the report: {0}")]
    Write(#[from] std::io::Error),
}

/// How many cases were run, and how many answers differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Cases that were run.
    pub run: usize,
    /// Cases with a difference.
    pub different: usize,
}

/// Differences that are printed for each file; the rest is only counted.
const SHOWN: usize = 10;

/// Runs every file of a directory and writes counts and the first differences to `out`. The caller fails when
/// [`Summary::different`] is not 0.
///
/// # Errors
/// [`Error`] when the directory cannot be read or is not in the format.
pub fn run(directory: &Path, out: &mut dyn Write) -> Result<Summary, Error> {
    let mut total = Summary::default();
    let sets = files::sets(directory)?;
    for file in files::list(directory)? {
        let mut here = Summary::default();
        for (line, value) in files::lines(&file.path)? {
            here.run += 1;
            let differences = match file.kind {
                files::Kind::Cases => case::differences(&value, &sets),
                files::Kind::Order => order::differences(&value),
                files::Kind::Objects => object::differences(&value),
                files::Kind::Reviews => review::differences(&value, &sets),
            };
            let differences = differences.map_err(|what| Error::Format {
                path: file.path.display().to_string(),
                line,
                what,
            })?;
            if differences.is_empty() {
                continue;
            }
            here.different += 1;
            if here.different <= SHOWN {
                writeln!(out, "{} (line {line}):", text(&value, "id"))?;
                for difference in differences {
                    writeln!(out, "    {difference}")?;
                }
            }
        }
        let name = file.path.file_name().unwrap_or_default().to_string_lossy();
        writeln!(out, "{name}: {} cases, {} different", here.run, here.different)?;
        total.run += here.run;
        total.different += here.different;
    }
    if total.run == 0 {
        return Err(Error::Empty(directory.display().to_string()));
    }
    writeln!(out, "all: {} cases, {} different", total.run, total.different)?;
    Ok(total)
}

/// The strings of a list; absent is empty.
fn texts(value: &Value, key: &str) -> Vec<String> {
    json::texts(value, key).map(str::to_owned).collect()
}

/// The SCCs of a case: its named set and those given with it, which replace the ones of the same name.
///
/// # Errors
/// A text that names the set that does not exist or the SCC that cannot be read.
pub fn sccs(case: &Value, sets: &Value) -> Result<Vec<SecurityContextConstraints>, String> {
    let mut values: Vec<&Value> = Vec::new();
    let set = text(case, "sccSet");
    if !set.is_empty() {
        let list = sets.get(set).and_then(Value::as_array);
        values.extend(list.ok_or_else(|| format!("sccsets.json has no set {set}"))?);
    }
    values.extend(json::list(case, "sccs"));
    let read =
        |v: &&Value| serde_json::from_value((*v).clone()).map_err(|e| format!("an SCC cannot be read: {e}"));
    values.iter().map(read).collect()
}
