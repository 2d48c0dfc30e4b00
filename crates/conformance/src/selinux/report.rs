//! Counts and differences.

use std::{collections::BTreeMap, io::Write};

use crate::Error;

/// Differences that are printed for each file; the rest is only counted.
const SHOWN: usize = 10;

#[derive(Default)]
struct Count {
    run: usize,
    different: usize,
}

/// What was compared, by kind.
#[derive(Default)]
pub(super) struct Report {
    counts: BTreeMap<&'static str, Count>,
    differences: Vec<String>,
    notes: Vec<String>,
}

impl Report {
    /// One comparison: what differs, if something does.
    pub(super) fn compare(&mut self, kind: &'static str, result: Result<(), String>) {
        let count = self.counts.entry(kind).or_default();
        count.run += 1;
        if let Err(difference) = result {
            count.different += 1;
            if self.differences.len() < SHOWN {
                self.differences.push(difference);
            }
        }
    }

    /// One comparison of two values.
    pub(super) fn equal<T: PartialEq + std::fmt::Debug>(
        &mut self,
        kind: &'static str,
        what: &str,
        want: &T,
        have: &T,
    ) {
        let same = want == have;
        let difference = || format!("{what}: want {want:?}, have {have:?}");
        self.compare(kind, if same { Ok(()) } else { Err(difference()) });
    }

    /// Something that was not compared.
    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Whether there is nothing to tell.
    pub(super) fn is_empty(&self) -> bool {
        self.counts.is_empty() && self.notes.is_empty()
    }

    pub(super) fn run(&self) -> usize {
        self.counts.values().map(|count| count.run).sum()
    }

    pub(super) fn different(&self) -> usize {
        self.counts.values().map(|count| count.different).sum()
    }

    /// Adds the counts of a file.
    pub(super) fn add(&mut self, file: Self) {
        for (kind, count) in file.counts {
            let sum = self.counts.entry(kind).or_default();
            sum.run += count.run;
            sum.different += count.different;
        }
    }

    /// One file.
    pub(super) fn print(&self, name: &str, out: &mut dyn Write) -> Result<(), Error> {
        for difference in &self.differences {
            writeln!(out, "{name}: {difference}")?;
        }
        let hidden = self.different() - self.differences.len();
        if hidden > 0 {
            writeln!(out, "{name}: and {hidden} more")?;
        }
        for note in &self.notes {
            writeln!(out, "{name}: {note}")?;
        }
        if self.run() > 0 {
            let counts: Vec<String> =
                self.counts.iter().map(|(kind, count)| format!("{} {kind}", count.run)).collect();
            writeln!(out, "{name}: {}, {} different", counts.join(", "), self.different())?;
        }
        Ok(())
    }

    /// The counts of all files.
    pub(super) fn print_all(&self, out: &mut dyn Write) -> Result<(), Error> {
        for (kind, count) in &self.counts {
            writeln!(out, "{kind}: {}, {} different", count.run, count.different)?;
        }
        writeln!(out, "all: {}, {} different", self.run(), self.different())?;
        Ok(())
    }
}
