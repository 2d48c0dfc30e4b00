//! The privilege table as text under review: features by grants, and subjects by grants.

use ferrovirt_model::Profile;
use ferrovirt_privilege::{Feature, Right, Subject, Task, feature_grants, grants, task};
use std::collections::{BTreeMap, BTreeSet};

const PROFILES: [Profile; 2] = [Profile::Minimal, Profile::Documented];

/// A right as a line of the matrix: the many system calls are one.
fn line(right: &Right<String>) -> String {
    match right {
        Right::Syscall(_) => "system calls of the seccomp profile".to_owned(),
        Right::OwnSyscall(_) => "system calls of its own filter".to_owned(),
        other => other.to_string(),
    }
}

/// In which profiles a right is granted: `m` minimal, `d` documented.
fn mark(profiles: &BTreeSet<Profile>) -> String {
    PROFILES
        .iter()
        .map(|profile| match (profiles.contains(profile), profile) {
            (true, Profile::Minimal) => 'm',
            (true, Profile::Documented) => 'd',
            (false, _) => '-',
        })
        .collect()
}

type Lines = BTreeMap<(Subject, String), BTreeSet<Profile>>;

fn lines(features: &[Feature]) -> Lines {
    let mut out = Lines::new();
    for feature in features {
        for profile in PROFILES {
            for (held, _) in feature_grants(*feature, profile).iter() {
                out.entry((held.subject, line(&held.right))).or_default().insert(profile);
            }
        }
    }
    out
}

const HEAD: &str = "m: granted in the minimal profile. d: in the documented profile. -: not granted.\n\
                    A text in braces is filled in by the machine.\n";

/// Every feature with the rights that it grants to each subject.
pub fn features() -> String {
    let mut out = format!("Features and what each grants\n\n{HEAD}");
    for feature in Feature::ALL {
        out.push_str(&format!("\n{feature}\n"));
        let lines = lines(&[feature]);
        if lines.is_empty() {
            out.push_str("      nothing beyond the base machine\n");
        }
        for ((subject, right), profiles) in lines {
            out.push_str(&format!("  {}  {:<20}{right}\n", mark(&profiles), subject.name()));
        }
    }
    out
}

/// Every subject with the rights that it can have, and the features that grant each.
pub fn subjects() -> String {
    let mut out = format!("Subjects and what each can have\n\n{HEAD}");
    for subject in Subject::ALL {
        out.push_str(&format!("\n{subject}\n"));
        let mut rights: BTreeMap<String, (BTreeSet<Profile>, Vec<&str>)> = BTreeMap::new();
        for feature in Feature::ALL {
            for ((_, right), profiles) in
                lines(&[feature]).into_iter().filter(|((who, _), _)| *who == subject)
            {
                let (all, features) = rights.entry(right).or_default();
                all.extend(profiles);
                features.push(feature.name());
            }
        }
        for (right, (profiles, features)) in rights {
            out.push_str(&format!("  {}  {right}  <- {}\n", mark(&profiles), features.join(", ")));
        }
    }
    out.push_str(&tasks());
    out
}

/// What the node agent does on its node, by task: one process for all of them today.
fn tasks() -> String {
    let mut out = String::from("\nThe node agent's process, by task\n");
    let all = || Feature::ALL.into_iter().flat_map(|feature| grants(feature, Profile::Minimal));
    for wanted in Task::ALL {
        let rights = all().filter(|grant| task(grant) == Some(wanted)).flat_map(|grant| grant.rights);
        let lines: BTreeSet<String> = rights.map(|right| format!("      {right}\n")).collect();
        out.push_str(&format!("\n{wanted}\n"));
        out.extend(lines);
    }
    out
}
