//! System calls out of the generated constants.

use crate::render::calls::ONLY_X86_64;
use std::collections::{BTreeMap, BTreeSet};

/// The system calls of each list in the source file. Whatever else is in it is a call by the name of its line.
pub fn lift(source: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut out: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut list = None;
    for line in source.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")) {
        if let Some((name, _)) = line.strip_prefix("pub const ").and_then(|rest| rest.split_once(':')) {
            list = Some(name.to_owned());
        } else if line != "];" && line != ONLY_X86_64 {
            let call =
                line.strip_prefix("libc::SYS_").and_then(|rest| rest.strip_suffix(',')).unwrap_or(line);
            out.entry(list.clone().unwrap_or_default()).or_default().insert(call.to_owned());
        }
    }
    out
}
