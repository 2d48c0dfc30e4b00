//! The files of a directory and what they are, by content first and then by name.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;
use serde_json::Value;

use crate::{Error, files::unreadable};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Policy,
    Json,
    Table,
    Denials,
    Log,
    Cil,
    Source,
    Prose,
    Unknown,
    /// It cannot be unpacked; the bytes say why.
    Damaged,
}

pub(super) struct File {
    /// The directory that it is in.
    pub(super) directory: PathBuf,
    /// The path inside the directory.
    pub(super) shown: String,
    /// The file's name without `.gz`.
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Unpacked.
    pub(super) bytes: Vec<u8>,
}

impl File {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

fn kind(name: &str, bytes: &[u8]) -> Kind {
    if bytes.starts_with(&0xf97c_ff8c_u32.to_le_bytes()) {
        return Kind::Policy;
    }
    let end = name.rsplit_once('.').map_or("", |(_, end)| end);
    match end {
        // Damaged at its first bytes, it is a policy all the same.
        "30" | "31" | "32" | "33" | "34" | "35" => Kind::Policy,
        "json" if name.ends_with(".expected.json") || name.ends_with(".counts.json") => Kind::Json,
        "tsv" => Kind::Table,
        "jsonl" => Kind::Denials,
        "log" => Kind::Log,
        "cil" => Kind::Cil,
        "conf" | "te" => Kind::Source,
        "md" => Kind::Prose,
        _ => by_content(bytes),
    }
}

fn by_content(bytes: &[u8]) -> Kind {
    let text = String::from_utf8_lossy(bytes);
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let table = ["#tag\t", "access\t", "create\t", "invalid\t"];
    if serde_json::from_str::<Value>(first).is_ok_and(|value| value.get("expect").is_some()) {
        Kind::Denials
    } else if text.trim_start().starts_with('{') && serde_json::from_str::<Value>(&text).is_ok() {
        Kind::Json
    } else if table.iter().any(|start| first.starts_with(start)) {
        Kind::Table
    } else if text.contains("avc:  denied ") {
        Kind::Log
    } else {
        Kind::Unknown
    }
}

/// Unpacked, or why that fails.
fn unpack(bytes: Vec<u8>) -> Result<Vec<u8>, std::io::Error> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    let mut unpacked = Vec::new();
    MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut unpacked)?;
    Ok(unpacked)
}

fn walk(directory: &Path, paths: &mut Vec<PathBuf>) -> Result<(), Error> {
    for entry in fs::read_dir(directory).map_err(unreadable(directory))? {
        let entry = entry.map_err(unreadable(directory))?;
        // Links are followed to files, but not to directories: those may lead in a circle.
        if entry.file_type().map_err(unreadable(directory))?.is_dir() {
            walk(&entry.path(), paths)?;
        } else {
            paths.push(entry.path());
        }
    }
    Ok(())
}

/// All files, in the order of their paths.
pub(super) fn list(directory: &Path) -> Result<Vec<File>, Error> {
    let mut paths = Vec::new();
    walk(directory, &mut paths)?;
    paths.sort();
    let file = |path: PathBuf| {
        let bytes = fs::read(&path).map_err(unreadable(&path))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = name.strip_suffix(".gz").map(str::to_owned).unwrap_or(name);
        let (kind, bytes) = match unpack(bytes) {
            Ok(bytes) => (kind(&name, &bytes), bytes),
            Err(error) => (Kind::Damaged, error.to_string().into_bytes()),
        };
        let shown = path.strip_prefix(directory).unwrap_or(&path).display().to_string();
        let directory = path.parent().unwrap_or(directory).to_owned();
        Ok(File { directory, shown, name, kind, bytes })
    };
    paths.into_iter().map(file).collect()
}
