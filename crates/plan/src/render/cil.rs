//! The SELinux module of virt-launcher pods, in CIL.

use ferrovirt_privilege::{GrantSet, Right, Surface};
use std::{collections::BTreeMap, fmt::Write as _};

/// The block that gives the domain its name.
const BLOCK: &str = "virt_launcher";
/// The domain inside the block.
const DOMAIN: &str = "process";

/// The rules of the domain `virt_launcher.process` beyond `container_t`, one sentence above each. Empty when no grant
/// has an SELinux part. The clone of `container_t` is made for the policy of each node.
pub fn rules(grants: &GrantSet) -> String {
    let mut rules: BTreeMap<(String, String), (Vec<String>, Vec<String>)> = BTreeMap::new();
    for (held, origins) in grants.iter().filter(|(held, _)| held.right.surface() == Surface::Selinux) {
        let Right::Selinux { source: _, target, class, permission } = &held.right else { continue };
        let (permissions, comments) = rules.entry((target.clone(), class.clone())).or_default();
        permissions.push(permission.clone());
        for origin in origins {
            let comment =
                format!("{}: {}. Checked by {}.", origin.feature, origin.grant.reason, origin.grant.hook);
            if !comments.contains(&comment) {
                comments.push(comment);
            }
        }
    }
    if rules.is_empty() {
        return String::new();
    }
    let mut out = format!("(block {BLOCK}\n");
    for ((target, class), (permissions, comments)) in rules {
        for comment in comments {
            let _ = writeln!(out, "    ; {comment}");
        }
        let _ = writeln!(out, "    (allow {DOMAIN} {target} ({class} ({})))", permissions.join(" "));
    }
    out.push_str(")\n");
    out
}
