//! What is said to requests that no call answers.
//!
//! Clients are shown it by people who do not know the paths: what upstream serves and we do not is refused by its name.

use super::{Call, Refused};
use crate::{INSTANCES, MACHINES};

/// What upstream serves below the group and we do not, each with what has it: a resource, or nothing for what stands in a
/// version or a namespace. A name stands for all that begins with it and a slash, too.
const MISSING: &[(&str, &str)] = &[
    ("", "dump-cluster-profiler"),
    ("", "guestfs"),
    ("", "start-cluster-profiler"),
    ("", "stop-cluster-profiler"),
    (MACHINES, "addvolume"),
    (MACHINES, "evacuate/cancel"),
    (MACHINES, "memorydump"),
    (MACHINES, "migrate"),
    (MACHINES, "objectgraph"),
    (MACHINES, "portforward"),
    (MACHINES, "removememorydump"),
    (MACHINES, "removevolume"),
    (INSTANCES, "addvolume"),
    (INSTANCES, "backup"),
    (INSTANCES, "evacuate/cancel"),
    (INSTANCES, "filesystemlist"),
    (INSTANCES, "freeze"),
    (INSTANCES, "guestosinfo"),
    (INSTANCES, "objectgraph"),
    (INSTANCES, "portforward"),
    (INSTANCES, "redefine-checkpoint"),
    (INSTANCES, "removevolume"),
    (INSTANCES, "reset"),
    (INSTANCES, "sev"),
    (INSTANCES, "softreboot"),
    (INSTANCES, "unfreeze"),
    (INSTANCES, "usbredir"),
    (INSTANCES, "userlist"),
    (INSTANCES, "vnc/screenshot"),
    (INSTANCES, "vsock"),
];

/// Whether clients show people what is said about one only where it is text: virtctl reads these without a look for a Status.
#[must_use]
pub fn is_read_as_text(subresource: &str) -> bool {
    ["guestfs", "guestosinfo"].contains(&subresource)
}

impl Refused {
    /// Why a request is refused that is none of [`Call::ALL`]: 405 where one has another method, 501 for what upstream has,
    /// and 404. `resource` is empty for what stands in a version or a namespace.
    #[must_use]
    pub fn unanswered(resource: &str, subresource: &str) -> Self {
        let is = |call: &Call| (call.resource(), call.name()) == (resource, subresource);
        if let Some(call) = Call::ALL.iter().find(|call| is(call)) {
            let what = format!("{resource}/{subresource}");
            let what = what.trim_end_matches('/');
            return Self::new(405, format!("{what} is asked for by {}", call.method()));
        }
        let has = |(of, name): &&(&str, &str)| {
            let rest = subresource.strip_prefix(name);
            *of == resource && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        match MISSING.iter().find(has) {
            Some(("", name)) => Self::new(501, format!("not supported yet: {name}")),
            Some((of, name)) => Self::new(501, format!("not supported yet: {of}/{name}")),
            None => Self::no_such_path(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_upstream_has_is_refused_by_its_name_and_nothing_else_is() {
        let said = |resource: &str, subresource: &str| {
            let refused = Refused::unanswered(resource, subresource);
            (refused.code, refused.reason, refused.message)
        };
        let missing = |name: &str| (501, "NotImplemented", format!("not supported yet: {name}"));
        assert_eq!(said(MACHINES, "migrate"), missing("virtualmachines/migrate"));
        assert_eq!(said(MACHINES, "portforward/22/tcp"), missing("virtualmachines/portforward"));
        assert_eq!(said(INSTANCES, "vnc/screenshot"), missing("virtualmachineinstances/vnc/screenshot"));
        assert_eq!(said("", "guestfs"), missing("guestfs"));
        assert_eq!(said("expand-vm-spec", "").2, "expand-vm-spec is asked for by PUT");
        assert_eq!(said(MACHINES, "start").0, 405);
        assert_eq!(said(MACHINES, "start").2, "virtualmachines/start is asked for by PUT");
        for (resource, subresource) in [
            (MACHINES, "softreboot"),
            (MACHINES, "migrate2"),
            (MACHINES, ""),
            (MACHINES, "start/now"),
            (INSTANCES, "vnc/other"),
            ("", "start"),
            ("pods", "log"),
        ] {
            assert_eq!(said(resource, subresource).0, 404, "{resource}/{subresource}");
        }
    }

    #[test]
    fn nothing_is_both_served_and_missing() {
        for call in Call::ALL {
            assert!(!MISSING.contains(&(call.resource(), call.name())), "{call:?}");
        }
    }
}
