//! Paths of the group.

use ferrovirt_kubernetes::names;

use super::{EXPAND, GROUP, VERSIONS};
use crate::{INSTANCES, MACHINES};

/// A path below `/apis/subresources.kubevirt.io`, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path<'a> {
    /// The group itself.
    Group,
    /// One of its versions.
    Version(&'a str),
    /// What clients compare themselves with, in a version.
    Release(&'a str),
    /// Whether it is healthy, in a version.
    Health(&'a str),
    /// A subresource of an object, or what stands in a namespace in its place.
    Object(Asked<'a>),
    /// Something else in a version, or in a namespace of it, by its one word.
    Other(&'a str),
}

/// What a request for a subresource names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked<'a> {
    /// Version of the group.
    pub version: &'a str,
    /// Namespace, a valid one.
    pub namespace: &'a str,
    /// `virtualmachines`, `virtualmachineinstances`, or [`EXPAND`], which has neither name nor subresource.
    pub resource: &'a str,
    /// Name, a valid one, or nothing.
    pub name: &'a str,
    /// The subresource, which need not exist; of one that has more parts all of them, as they stand in the path.
    pub subresource: &'a str,
}

impl<'a> Path<'a> {
    /// Reads the path of a URL. Names that no object can have lead nowhere: nothing in them is ever decoded or escaped.
    #[must_use]
    pub fn parse(path: &'a str) -> Option<Self> {
        let rest = path.strip_prefix("/apis/")?.strip_prefix(GROUP)?;
        let mut parts = rest.split('/');
        if !parts.next()?.is_empty() {
            return None;
        }
        let parts: Vec<&str> = parts.collect();
        let version = match parts.first() {
            None => return Some(Self::Group),
            Some(version) if VERSIONS.contains(version) => version,
            Some(_) => return None,
        };
        match parts.get(1..)? {
            [] => Some(Self::Version(version)),
            ["version"] => Some(Self::Release(version)),
            ["healthz"] => Some(Self::Health(version)),
            ["namespaces", namespace, resource @ EXPAND] if names::is_label(namespace) => {
                Some(Self::Object(Asked { version, namespace, resource, name: "", subresource: "" }))
            }
            ["namespaces", namespace, word] if names::is_label(namespace) => Some(Self::Other(word)),
            [word] => Some(Self::Other(word)),
            ["namespaces", namespace, resource, name, _, ..]
                if names::is_label(namespace)
                    && [MACHINES, INSTANCES].contains(resource)
                    && names::is_subdomain(name) =>
            {
                // Behind version, `namespaces`, namespace, resource and name, each with its slash.
                let subresource = rest.splitn(7, '/').last()?;
                Some(Self::Object(Asked { version, namespace, resource, name, subresource }))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_what_they_name_and_nowhere_else() {
        let root = "/apis/subresources.kubevirt.io";
        assert_eq!(Path::parse(root), Some(Path::Group));
        assert_eq!(Path::parse(&format!("{root}/v1alpha3")), Some(Path::Version("v1alpha3")));
        assert_eq!(Path::parse(&format!("{root}/v1/version")), Some(Path::Release("v1")));
        assert_eq!(Path::parse(&format!("{root}/v1/healthz")), Some(Path::Health("v1")));
        let whole = format!("{root}/v1/namespaces/n/virtualmachines/m/start");
        let asked =
            Asked { version: "v1", namespace: "n", resource: MACHINES, name: "m", subresource: "start" };
        assert_eq!(Path::parse(&whole), Some(Path::Object(asked)));
        let asked = Asked { subresource: "start/now", ..asked };
        assert_eq!(Path::parse(&format!("{whole}/now")), Some(Path::Object(asked)));
        assert_eq!(Path::parse(&format!("{root}/v1/guestfs")), Some(Path::Other("guestfs")));
        let asked = Asked { resource: EXPAND, name: "", subresource: "", ..asked };
        assert_eq!(Path::parse(&format!("{root}/v1/namespaces/n/{EXPAND}")), Some(Path::Object(asked)));
        assert_eq!(Path::parse(&format!("{root}/v1/{EXPAND}")), Some(Path::Other(EXPAND)));
        assert_eq!(Path::parse(&format!("{root}/v1/namespaces/n/guestfs")), Some(Path::Other("guestfs")));
        for other in [
            "/apis/subresources.kubevirt.io2/v1",
            "/apis/subresources.kubevirt.io/v2",
            "/apis/subresources.kubevirt.io/",
            "/apis/subresources.kubevirt.io/v1/namespaces/n/pods/m/log",
            "/apis/subresources.kubevirt.io/v1/namespaces/n/virtualmachines/m",
            "/apis/subresources.kubevirt.io/v1/namespaces//virtualmachines/m/start",
            "/apis/subresources.kubevirt.io/v1/namespaces/n/virtualmachines/../start",
            "/apis/subresources.kubevirt.io/v1/namespaces/n/virtualmachines/m%2Fx/start",
            "/apis/subresources.kubevirt.io/v1/namespaces/n/virtualmachines/M/start",
            "/apis/subresources.kubevirt.io/v1/namespaces/a.b/virtualmachines/m/start",
            "/apis/subresources.kubevirt.io/v1/namespaces/N/expand-vm-spec",
            "apis/subresources.kubevirt.io/v1",
            "",
        ] {
            assert_eq!(Path::parse(other), None, "{other}");
        }
    }
}
