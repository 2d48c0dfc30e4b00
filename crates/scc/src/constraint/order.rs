//! The order in which SCCs are tried: priority, restrictiveness, name.

use std::cmp::Ordering;

use crate::constraint::types::SecurityContextConstraints;

const PRIVILEGED: u32 = 1_600_000;
const HOST_PORTS: u32 = 800_000;
const HOST_NETWORK: u32 = 400_000;
const HOST_VOLUME: u32 = 200_000;
const OTHER_VOLUME: u32 = 100_000;

/// Restrictiveness: the lower, the less an SCC grants.
pub fn points(scc: &SecurityContextConstraints) -> u32 {
    let flag = |set: bool, points: u32| if set { points } else { 0 };
    flag(scc.allow_privileged_container, PRIVILEGED)
        + flag(scc.allow_host_ports, HOST_PORTS)
        + flag(scc.allow_host_network, HOST_NETWORK)
        + volume_points(scc.volume_types())
        + strategy_points(&scc.run_as_user.kind)
        + strategy_points(&scc.se_linux_context.kind)
        + capability_points(scc)
}

fn volume_points(volumes: &[String]) -> u32 {
    const TRIVIAL: [&str; 6] = ["secret", "configMap", "emptyDir", "downwardAPI", "projected", "none"];
    if volumes.iter().any(|v| v == "hostPath" || v == "*") {
        HOST_VOLUME
    } else if volumes.iter().any(|v| !TRIVIAL.contains(&v.as_str())) {
        OTHER_VOLUME
    } else {
        0
    }
}

fn strategy_points(kind: &str) -> u32 {
    match kind {
        "RunAsAny" => 40_000,
        "MustRunAsNonRoot" => 30_000,
        "MustRunAsRange" => 20_000,
        "MustRunAs" => 10_000,
        _ => 0,
    }
}

fn capability_points(scc: &SecurityContextConstraints) -> u32 {
    let len = |list: &[String]| i64::try_from(list.len()).unwrap_or(i64::MAX / 1000);
    let all = |list: &[String]| list.iter().any(|c| c.eq_ignore_ascii_case("ALL"));
    let allowed = &scc.allowed_capabilities;
    let mut sum = 5000 + 300 * len(&scc.default_add_capabilities);
    sum += if all(allowed) || allowed.iter().any(|c| c == "*") { 4000 } else { 10 * len(allowed) };
    let drop = &scc.required_drop_capabilities;
    sum -= if all(drop) { 3000 } else { 50 * len(drop) };
    u32::try_from(sum.clamp(0, 9999)).unwrap_or(0)
}

/// Order of two SCCs with their points.
pub(crate) fn compare(
    a: (&SecurityContextConstraints, u32),
    b: (&SecurityContextConstraints, u32),
) -> Ordering {
    let priority = |scc: &SecurityContextConstraints| scc.priority.unwrap_or(0);
    priority(b.0)
        .cmp(&priority(a.0))
        .then(a.1.cmp(&b.1))
        .then_with(|| a.0.name().as_bytes().cmp(b.0.name().as_bytes()))
}

/// Why an SCC is tried before another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its priority is higher.
    Priority,
    /// Only the name decides.
    Name,
    /// It grants less, first of all in this.
    Restrictive(&'static str),
}

impl Why {
    /// As audit annotations word it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Priority => "has higher priority",
            Self::Name => "ordered by name",
            Self::Restrictive(text) => text,
        }
    }
}

/// Why `a` comes before `b`, given that it does.
pub fn why_before(a: &SecurityContextConstraints, b: &SecurityContextConstraints) -> Why {
    if a.priority.unwrap_or(0) != b.priority.unwrap_or(0) {
        return Why::Priority;
    }
    let (mut ours, mut theirs) = (points(a), points(b));
    if ours == theirs {
        return Why::Name;
    }
    for (step, text) in [
        (PRIVILEGED, "forbids privileged"),
        (HOST_PORTS, "forbids host ports"),
        (HOST_NETWORK, "forbids host networking"),
        (HOST_VOLUME, "forbids host volume mounts"),
        (OTHER_VOLUME, "forbids non-trivial volume mounts"),
    ] {
        match (ours >= step, theirs >= step) {
            (false, true) => return Why::Restrictive(text),
            (true, true) => (ours, theirs) = (ours - step, theirs - step),
            _ => {}
        }
    }
    if ours / 10_000 < theirs / 10_000 {
        Why::Restrictive("permits less runAs strategies")
    } else if ours % 10_000 < theirs % 10_000 {
        Why::Restrictive("permits less capabilities")
    } else {
        Why::Restrictive("is equally restrictive")
    }
}
