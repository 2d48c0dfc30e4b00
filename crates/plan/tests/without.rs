//! Each SELinux rule of a machine's type has a witness that was seen to fail without it.
//!
//! The witnesses take minutes, so `cargo xtask selinux-nested --ablate` is no part of the tests. What it wrote is compared
//! here with the table: a rule that is new in it, or that nothing needed, is not let through.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use ferrovirt_plan::selinux::base::Base;
use ferrovirt_privilege::{Domain, Right};
use std::{collections::BTreeSet, fs, path::Path};

/// The types with every feature.
const WHOLE: [&str; 2] =
    ["virt_machine.kvm_multiqueue_hugepages_block", "virt_machine.emulated_multiqueue_hugepages_block"];

#[test]
fn every_rule_was_missed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/selinux/without.txt");
    let text = fs::read_to_string(path).unwrap();
    let lines: Vec<&str> = text.lines().skip_while(|line| !line.is_empty()).skip(1).collect();
    let (mut seen, mut useless) = (BTreeSet::new(), Vec::new());
    for pair in lines.chunks(2) {
        let [rule, failure] = pair else { panic!("{pair:?} is no rule with what failed without it") };
        assert!(failure.starts_with("    ") && failure.trim().len() > 3, "{rule}: {failure:?}");
        if failure.contains("nothing failed") {
            useless.push(*rule);
        }
        seen.insert((*rule).to_owned());
    }
    assert!(useless.is_empty(), "needed by nothing that ran: {useless:#?}");
    let base = Base::refpolicy();
    let domains = Domain::all();
    let whole = domains.iter().filter(|domain| WHOLE.contains(&domain.name()));
    let granted: BTreeSet<String> = whole
        .flat_map(|domain| {
            let rights = base.rights(domain).into_iter();
            let ruled = rights.filter(|right| !matches!(right, Right::SelinuxAttribute { .. }));
            ruled
                .map(|right| right.map(&|text| text.replace(domain.name(), "X")).to_string())
                .collect::<Vec<_>>()
        })
        .map(|right| right.replace("selinux ", ""))
        .collect();
    let why = "after a change of the rules run `cargo xtask selinux-nested --ablate`";
    assert_eq!(seen, granted, "{why}");
}
