//! Each rule left out in turn: what fails without it.
//!
//! The types that lack a rule have no attribute of the base policy: what `domain` gives would hide that a rule is needed.
//! A compiler that checks the base's assertions refuses such types, so the check is switched off here.

use super::{Nest, boot, failure, plan, policy, scenarios};
use crate::root;
use anyhow::{Context, Result, ensure};
use ferrovirt_nested::Scenario;
use ferrovirt_plan::selinux::base::Base;
use ferrovirt_privilege::{Domain, Right};
use std::{collections::BTreeMap, fmt::Write as _, fs};

/// A type with every feature, and whether it is for emulation.
const WHOLE: [(&str, bool); 2] = [
    ("virt_machine.kvm_multiqueue_hugepages_block", false),
    ("virt_machine.emulated_multiqueue_hugepages_block", true),
];

/// A type that lacks one rule; the first of each kind lacks none.
struct Lacking {
    domain: String,
    lacks: Option<Right<String>>,
    emulation: bool,
    rights: Vec<Right<String>>,
}

pub(super) fn run(nest: &Nest, base: &Base) -> Result<()> {
    let types = types(base)?;
    let cil = types.iter().map(cil).collect::<String>();
    policy::compile(nest, base, "base", &policy::Form::Lacking(&cil))?;
    let mut failures: BTreeMap<&str, String> = BTreeMap::new();
    // A whole guest takes much longer than one that is refused at its start.
    for round in 0..scenarios::ROUNDS {
        let left = types.iter().filter(|lacking| !failures.contains_key(lacking.domain.as_str()));
        let next = left.filter_map(|lacking| {
            scenarios::everything(lacking.emulation, &lacking.domain).into_iter().nth(round)
        });
        let next: Vec<Scenario> = next.collect();
        println!("round {}: {} machines", round + 1, next.len());
        if next.is_empty() {
            break;
        }
        let (outcomes, _) = boot(nest, &plan(base, next.clone(), true))?;
        ensure!(outcomes.len() == next.len(), "only {} of {} ran", outcomes.len(), next.len());
        for outcome in &outcomes {
            let found =
                types.iter().find(|lacking| lacking.domain == outcome.domain).context("an unknown type")?;
            if let Some(text) = failure(outcome) {
                failures.insert(&found.domain, steady(&text.replace(&found.domain, "X")));
            }
        }
    }
    let mut text = String::from(
        "Each SELinux rule of a machine with every feature (X) left out in turn: what failed without it, in a kernel that \
         enforced the rest\n(cargo xtask selinux-nested --ablate; types without the base's attributes)\n\n",
    );
    let mut useless = 0;
    for lacking in &types {
        let failure = failures.get(lacking.domain.as_str());
        let Some(right) = &lacking.lacks else {
            ensure!(failure.is_none(), "with every rule: {}", failure.map_or("", String::as_str));
            continue;
        };
        useless += u32::from(failure.is_none());
        let what = right.to_string().replace("selinux ", "");
        let _ = writeln!(text, "{what}\n    {}", failure.map_or("nothing failed", String::as_str));
    }
    print!("{text}");
    let directory = root().join("tests/golden/selinux");
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("without.txt"), text)?;
    ensure!(useless == 0, "{useless} rules are needed by nothing that ran");
    Ok(())
}

/// A failure without what differs from run to run: times in front of logged lines, and random ends of file names.
fn steady(text: &str) -> String {
    let time = |word: &&str| {
        word.split_once('.').is_some_and(|(seconds, rest)| {
            seconds.len() == 10
                && [seconds, rest].iter().all(|part| part.bytes().all(|byte| byte.is_ascii_digit()))
        })
    };
    let words = text.split(' ').filter(|word| !time(word));
    let words = words.map(|word| match word.find("/vl.") {
        Some(at) => format!("{}{}", word.get(..at + 4).unwrap_or(word), "XXXXXX'"),
        None => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

fn types(base: &Base) -> Result<Vec<Lacking>> {
    let mut all: Vec<Lacking> = Vec::new();
    for (name, emulation) in WHOLE {
        let domain =
            Domain::all().into_iter().find(|domain| domain.name() == name).context("no such type")?;
        let rights: Vec<Right<String>> = base
            .rights(&domain)
            .iter()
            .filter(|right| !matches!(right, Right::SelinuxAttribute { .. }))
            .map(|right| right.map(&|text| text.replace(name, "X")))
            .collect();
        let known: Vec<Right<String>> = all.iter().filter_map(|lacking| lacking.lacks.clone()).collect();
        let new = rights.iter().filter(|right| !known.contains(right)).cloned().map(Some);
        for lacks in std::iter::once(None).chain(new) {
            let domain = format!("without.r{}", all.len());
            all.push(Lacking { domain, lacks, emulation, rights: rights.clone() });
        }
    }
    Ok(all)
}

fn cil(one: &Lacking) -> String {
    let short = one.domain.trim_start_matches("without.");
    let mut out = format!("(block without (type {short}))\n");
    for right in one.rights.iter().filter(|right| one.lacks.as_ref() != Some(right)) {
        let _ = match right.map(&|text| text.replace('X', &one.domain)) {
            Right::Selinux { source, target, class, permission } => {
                writeln!(out, "(allow {source} {target} ({class} ({permission})))")
            }
            Right::SelinuxRole { domain, role } => writeln!(out, "(roletype {role} {domain})"),
            _ => Ok(()),
        };
    }
    out
}
