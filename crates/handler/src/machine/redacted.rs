//! Text on its way to users: events, conditions, statuses, answers.
//!
//! Errors of this node name files, because anyone who runs it needs that; the log shows them whole. Users read the same
//! without the node's paths (the volume, claim or image is named beside them), without characters that act on a
//! terminal, and no more than people read. Whatever shows a text to users takes a [`Redacted`], and nothing else makes one.

use ferrovirt_qemu::text::plain;
use serde::{Deserialize, Serialize};
use std::{fmt, path::Path};

/// Most characters of one text.
const MOST: usize = 1000;
/// What stands in the place of a path.
const HIDDEN: &str = "(a path of the node)";
/// Paths that are the same in every container or on every kernel, and say nothing about this node.
const SHOWN: [&str; 6] = [
    "/var/run/kubevirt",
    "/dev/",
    "/disk",
    "/sys/kernel/mm/hugepages",
    "/proc/sys/vm/nr_hugepages",
    "/usr/bin/qemu-system-",
];

/// A text that users may see.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Redacted(String);

impl Redacted {
    /// A text of ours, known when the program is built.
    pub fn ours(text: &'static str) -> Self {
        Self(text.to_owned())
    }

    /// A text of this program. Paths of the node are taken out; a path in double quotes is what somebody wrote into an
    /// object, as `{:?}` writes it, and stays, unless it leads to the program's `own` directories.
    pub fn new(text: &str, own: &[&Path]) -> Self {
        Self::with(text, own, true)
    }

    /// A text of a launcher, or with one in it: its quotes are whatever its guest likes, and keep nothing.
    pub fn foreign(text: &str, own: &[&Path]) -> Self {
        Self::with(text, own, false)
    }

    fn with(text: &str, own: &[&Path], quotes: bool) -> Self {
        let mut text = text.to_owned();
        for directory in own {
            let directory = directory.to_string_lossy();
            // `/` itself would be in every path.
            if directory.len() > 1 {
                text = without(&text, &directory);
            }
        }
        Self(plain(&without_others(&text, quotes), MOST))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Ends a path in a text.
fn ends(c: char) -> bool {
    c.is_whitespace() || "\"'`,;:()<>".contains(c)
}

/// Every path below `directory` replaced.
fn without(text: &str, directory: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(directory) {
        out.push_str(before);
        rest = after;
        // A longer name that only begins alike is another path: it is dealt with below.
        if after.is_empty() || after.starts_with('/') || after.starts_with(ends) {
            out.push_str(HIDDEN);
            rest = after.find(ends).and_then(|end| after.get(end..)).unwrap_or_default();
        } else {
            out.push_str(directory);
        }
    }
    out + rest
}

/// Every absolute path replaced that is not known to be the same everywhere, nor, with `quotes`, in double quotes.
fn without_others(text: &str, quotes: bool) -> String {
    let mut out = String::new();
    let mut rest = text;
    let mut before = ' ';
    while let Some(c) = rest.chars().next() {
        if c == '/' && (ends(before) || "=[{".contains(before)) {
            let (path, further) = rest.split_at(rest.find(ends).unwrap_or(rest.len()));
            let known = path.len() == 1 || SHOWN.iter().any(|shown| path.starts_with(shown));
            out.push_str(if known { path } else { HIDDEN });
            rest = further;
            before = ')';
            continue;
        }
        let length = if c == '"' && quotes { quoted(rest) } else { c.len_utf8() };
        let (taken, further) = rest.split_at_checked(length).unwrap_or((rest, ""));
        out.push_str(taken);
        before = c;
        rest = further;
    }
    out
}

/// Bytes of the quoted text at the beginning, with both quotes. A quote behind a backslash is a part of it; without an end
/// it is the quote alone.
fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> [&'static Path; 2] {
        [Path::new("/mnt/pictures"), Path::new("/srv/secret place/agent")]
    }

    fn redacted(text: &str) -> String {
        Redacted::new(text, &own()).as_str().to_owned()
    }

    #[test]
    fn paths_of_the_node_are_taken_out_and_nothing_else() {
        let rows = [
            ("plain words, and/or n/a", "plain words, and/or n/a"),
            ("/srv/secret place/agent/pods/u/volumes/v: denied", "(a path of the node): denied"),
            (
                "at /mnt/pictures/a/b or /mnt/pictures/a.tar",
                "at (a path of the node) or (a path of the node)",
            ),
            ("netns \"/srv/secret place/agent/netns/u\": no", "netns \"(a path of the node)\": no"),
            ("open `/proc/self/fd/12/launcher-sock`: x", "open `(a path of the node)`: x"),
            ("/mnt/pictures2/a", "(a path of the node)"),
            ("volume v: /home/tank/vol1: gone", "volume v: (a path of the node): gone"),
            ("from=/home/x", "from=(a path of the node)"),
            ("registry.example/a/b:1 and /dev/kvm", "registry.example/a/b:1 and /dev/kvm"),
            ("\"/disk/a b\" and \"/boot/x\" are not in it", "\"/disk/a b\" and \"/boot/x\" are not in it"),
            (
                "/var/run/kubevirt-private/vmi-disks/d/disk.img: x",
                "/var/run/kubevirt-private/vmi-disks/d/disk.img: x",
            ),
            ("two\nlines\u{1b}[2J", "two\\nlines\\u{1b}[2J"),
        ];
        for (text, shown) in rows {
            assert_eq!(redacted(text), shown);
        }
        assert!(redacted(&"x".repeat(100_000)).chars().count() < 1100);
    }

    #[test]
    fn a_quote_that_a_user_or_a_guest_wrote_hides_and_shows_nothing() {
        // As `{:?}` writes a name with a quote in it.
        let name = format!("volume {:?}: /home/tank/vol1: gone", "a\" /b");
        assert_eq!(redacted(&name), "volume \"a\\\" /b\": (a path of the node): gone");
        let name = format!("volume {:?}: /home/tank/vol1: gone", "a\\");
        assert_eq!(redacted(&name), "volume \"a\\\\\": (a path of the node): gone");
        assert_eq!(redacted("said \" /home/x"), "said \" (a path of the node)");
        let foreign = |text: &str| Redacted::foreign(text, &own()).as_str().to_owned();
        assert_eq!(foreign("\"/etc/passwd\" \""), "\"(a path of the node)\" \"");
        assert_eq!(foreign("\"/dev/kvm\" and /disk/a"), "\"/dev/kvm\" and /disk/a");
    }
}
