//! Words for which this field has others: who reads the code looks for the field's.

use anyhow::Result;
use std::{fs, path::Path};

/// A word, and what is written instead.
const WORDS: [(&str, &str); 9] = [
    ("anew", "again"),
    ("folder", "directory"),
    ("folders", "directories"),
    ("patience", "timeout"),
    ("told", "informed, sent, reported"),
    ("untold", "unreported"),
    ("whoever", "who, anybody who, no matter who"),
    ("wish", "request, option"),
    ("wishes", "requests, options"),
];
/// The old name of an option, which is taken for one release more.
const OLD_NAME: &str = "kvm-patience";
/// Where others' texts are, the list itself, and lists of the packages of others.
const LEFT_OUT: [&str; 3] = ["tests/conformance/", "xtask/src/tidy/words.rs", ".lock"];

/// Refuses these words in `files`, which are paths below `root`. What is no text is no source.
pub(super) fn check(root: &Path, files: &str, wrong: &mut Vec<String>) -> Result<()> {
    for file in files.lines().filter(|file| !LEFT_OUT.iter().any(|part| file.contains(part))) {
        let Ok(text) = String::from_utf8(fs::read(root.join(file))?) else { continue };
        for (line, text) in text.lines().enumerate() {
            for (word, instead) in found(text) {
                wrong.push(format!("{file}:{} says {word:?}: write {instead}", line + 1));
            }
        }
    }
    Ok(())
}

/// The words of a line, those inside names included, that have others.
fn found(line: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let line = line.replace(OLD_NAME, "").to_lowercase();
    WORDS
        .into_iter()
        .filter(move |(word, _)| line.split(|sign: char| !sign.is_alphanumeric()).any(|other| other == *word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_in_texts_and_names_and_with_their_line() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let write = |name: &str, text: &str| fs::write(root.join(name), text).unwrap();
        write(
            "a.rs",
            "/// Fine: a threshold, NotOlderThan.\nfn users_are_told() {}\n// Whoever reads; a folder.\n",
        );
        write("b.md", "`--kvm-patience` is `--kvm-timeout`.\n");
        write("c.lock", "told");
        fs::write(root.join("d.bin"), b"\xfftold").unwrap();
        let mut wrong = Vec::new();
        check(root, "a.rs\nb.md\nc.lock\nd.bin\n", &mut wrong).unwrap();
        assert_eq!(
            wrong,
            [
                "a.rs:2 says \"told\": write informed, sent, reported",
                "a.rs:3 says \"folder\": write directory",
                "a.rs:3 says \"whoever\": write who, anybody who, no matter who",
            ]
        );
    }
}
