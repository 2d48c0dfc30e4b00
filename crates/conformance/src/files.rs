//! Finding and reading the files of a directory.

use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde_json::Value;

use crate::Error;

/// What a file's lines are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Cases,
    Order,
    Objects,
    Reviews,
}

/// A file that can be run.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) path: PathBuf,
    pub(crate) kind: Kind,
}

pub(crate) fn unreadable(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.display().to_string();
    move |source| Error::Read { path, source }
}

fn kind(name: &str) -> Option<Kind> {
    let name = name.strip_suffix(".gz").unwrap_or(name).strip_suffix(".jsonl")?;
    let kinds = [
        ("cases", Kind::Cases),
        ("order", Kind::Order),
        ("objects", Kind::Objects),
        ("reviews", Kind::Reviews),
    ];
    kinds.into_iter().find(|(prefix, _)| name.starts_with(prefix)).map(|(_, kind)| kind)
}

/// The directory's files in the order of their names.
pub(crate) fn list(directory: &Path) -> Result<Vec<File>, Error> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable(directory))? {
        let path = entry.map_err(unreadable(directory))?.path();
        if let Some(kind) = path.file_name().and_then(|n| kind(&n.to_string_lossy())) {
            files.push(File { path, kind });
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn content(path: &Path) -> Result<String, Error> {
    let mut text = String::new();
    let mut file = std::fs::File::open(path).map_err(unreadable(path))?;
    if path.extension().is_some_and(|e| e == "gz") {
        MultiGzDecoder::new(file).read_to_string(&mut text).map_err(unreadable(path))?;
    } else {
        file.read_to_string(&mut text).map_err(unreadable(path))?;
    }
    Ok(text)
}

fn parse(path: &Path, line: usize, text: &str) -> Result<Value, Error> {
    serde_json::from_str(text).map_err(|e| Error::Format {
        path: path.display().to_string(),
        line,
        what: format!("no JSON: {e}"),
    })
}

/// The objects of a file with their line numbers.
pub(crate) fn lines(path: &Path) -> Result<Vec<(usize, Value)>, Error> {
    let text = content(path)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(n, line)| Ok((n + 1, parse(path, n + 1, line)?))).collect()
}

/// The named sets of SCCs; none when the directory has no file of them.
pub(crate) fn sets(directory: &Path) -> Result<Value, Error> {
    for name in ["sccsets.json", "sccsets.json.gz"] {
        let path = directory.join(name);
        if path.exists() {
            let value = parse(&path, 1, &content(&path)?)?;
            return Ok(value.get("sets").cloned().unwrap_or_default());
        }
    }
    Ok(Value::Null)
}
