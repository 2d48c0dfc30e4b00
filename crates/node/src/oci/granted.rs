//! What device plug-ins add to a container, and that it takes the place of nothing that the container has of its own.

use super::bundle::{Device, Error, Mount};
use std::{
    collections::BTreeMap,
    path::{Component, Path},
};

/// Empty file systems of every container: below them there is room.
const OPEN: [&str; 2] = ["/run", "/var"];
/// The kernel's file systems, and that of device nodes: nothing is mounted there.
const CLOSED: [&str; 3] = ["/proc", "/sys", "/dev"];
/// What runtimes make in `/dev` of every container.
const MADE: [&str; 16] = [
    "console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin",
    "stdout", "tty", "urandom", "zero",
];

/// What device plug-ins give a container with its resources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// Directories and files of the node.
    pub mounts: Vec<Mount>,
    /// Device nodes.
    pub devices: Vec<Device>,
    /// Environment variables, none of which the container has of its own.
    pub variables: BTreeMap<String, String>,
    /// Annotations of the container for its runtime.
    pub annotations: BTreeMap<String, String>,
}

/// What a container has of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own<'a> {
    /// The root that is below its mounts.
    pub(super) rootfs: &'a Path,
    pub(super) mounts: &'a [Mount],
    pub(super) devices: &'a [Device],
    /// As `NAME=value`.
    pub(super) variables: &'a [String],
}

impl Granted {
    /// Nothing comes with the container's resources.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Refuses what would hide, or be hidden by, something of the container's own.
    ///
    /// # Errors
    /// [`Error::Taken`].
    pub(super) fn check(&self, own: &Own<'_>) -> Result<(), Error> {
        let mounts = self.mounts.iter().map(|mount| &mount.destination);
        let mount = mounts.filter(|place| !is_free(place, own)).map(|place| format!("a mount at {place}"));
        let devices = self.devices.iter().map(Device::path);
        let device =
            devices.filter(|place| !is_free_device(place, own)).map(|place| format!("the device {place}"));
        let has = |name: &str| own.variables.iter().any(|variable| variable.split('=').next() == Some(name));
        let variables = self.variables.keys();
        let variable = variables.filter(|name| has(name)).map(|name| format!("the variable {name}"));
        mount.chain(device).chain(variable).next().map_or(Ok(()), |what| Err(Error::Taken(what)))
    }
}

/// Whether one of the places is the other or lies in it, however often their slashes are written.
pub(crate) fn overlap(one: &str, other: &str) -> bool {
    Path::new(one).starts_with(other) || Path::new(other).starts_with(one)
}

/// Whether a mount may be at this place.
fn is_free(place: &str, own: &Own<'_>) -> bool {
    let path = Path::new(place);
    // What is below a link would be somewhere else, such as in /usr.
    let mut below = path.ancestors().filter_map(|path| path.strip_prefix("/").ok());
    let is_link = below.any(|path| !path.as_os_str().is_empty() && own.rootfs.join(path).is_symlink());
    let hides = |mount: &Mount| {
        let mounted = Path::new(&mount.destination);
        mounted.starts_with(path)
            || path.starts_with(mounted) && !OPEN.iter().any(|open| mounted == Path::new(open))
    };
    !is_link && !CLOSED.iter().any(|closed| path.starts_with(closed)) && !own.mounts.iter().any(hides)
}

/// Whether a device node may be at this place.
fn is_free_device(place: &str, own: &Own<'_>) -> bool {
    let Ok(below) = Path::new(place).strip_prefix("/dev") else { return false };
    let Some(Component::Normal(first)) = below.components().next() else { return false };
    let dev = |mount: &&Mount| Path::new(&mount.destination) != Path::new("/dev");
    !MADE.iter().any(|made| first == *made)
        && !own.devices.iter().any(|device| overlap(device.path(), place))
        && !own.mounts.iter().filter(dev).any(|mount| overlap(&mount.destination, place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{
        bundle::{self, Node, Program},
        cgroup::HugeLimit,
        identity::Identity,
        sources::Sources,
    };
    use k8s_openapi::api::core::v1::{Container, Pod};
    use serde_json::json;
    use std::{fs, os::unix::fs::symlink};

    fn mount(place: &str) -> Mount {
        Mount::bind("/srv".into(), place, true)
    }

    fn device(place: &str) -> Device {
        Device::of(Path::new("/dev/null"), place, true).unwrap()
    }

    fn check(granted: &Granted) -> Result<(), String> {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        symlink("usr/lib", root.path().join("lib")).unwrap();
        let mounts =
            ["/proc", "/dev", "/sys", "/run", "/var", "/usr", "/program", "/run/a/volume", "/dev/hugepages"]
                .map(mount);
        let own = Own {
            rootfs: root.path(),
            mounts: &mounts,
            devices: &[device("/dev/kvm"), device("/dev/net/tun")],
            variables: &["PATH=/usr/bin".to_owned(), "A=B=C".to_owned()],
        };
        granted.check(&own).map_err(|error| error.to_string())
    }

    #[test]
    fn a_mount_hides_nothing_of_the_containers_own() {
        let one = |place: &str| check(&Granted { mounts: vec![mount(place)], ..Granted::default() });
        for free in ["/run/b", "/run/a/other", "/var/lib/b", "/srv/b", "/etc/b", "/programs", "/devices"] {
            one(free).unwrap();
        }
        for taken in [
            "/",
            "/proc",
            "/proc/self",
            "/sys/fs",
            "/dev",
            "/dev/b",
            "/run",
            "/var/",
            "/usr",
            "/usr/lib/b",
            "//usr//lib",
            "/program",
            "/run/a",
            "/run//a/volume",
            "/run/a/volume/b",
            "/lib",
            "/lib/b",
        ] {
            let error = one(taken).unwrap_err();
            assert!(error.contains(&format!("a mount at {taken},")), "{error}");
        }
    }

    #[test]
    fn a_device_is_beside_those_of_the_containers_own() {
        let one = |place: &str| check(&Granted { devices: vec![device(place)], ..Granted::default() });
        for free in ["/dev/b", "/dev/net/b", "/dev/nulls"] {
            one(free).unwrap();
        }
        for taken in [
            "/dev/kvm",
            "/dev//kvm",
            "/dev/kvm/b",
            "/dev/net",
            "/dev/null",
            "/dev/pts/0",
            "/dev/hugepages",
            "/dev/hugepages/b",
            "/dev",
            "/run/b",
            "/usr/b",
        ] {
            let error = one(taken).unwrap_err();
            assert!(error.contains(&format!("the device {taken},")), "{error}");
        }
    }

    #[test]
    fn a_container_with_a_place_that_is_taken_has_no_configuration() {
        let container: Container = serde_json::from_value(json!({
            "name": "c", "env": [{"name": "OWN", "value": "x"}],
        }))
        .unwrap();
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}})).unwrap();
        let identity = Identity::of(&pod, &container, 7).unwrap();
        let config = |granted: &Granted| {
            let node = Node {
                rootfs: Path::new("/nonexistent"),
                sources: &Sources::default(),
                program: Program { image: "/usr/bin/a", container: "/a", file: Path::new("/bin/true") },
                usr: Path::new("/usr"),
                netns: Path::new("/nonexistent"),
                own_ports: true,
                hostname: "p",
                granted,
                huge: HugeLimit::Agent,
                seccomp: json!({}),
            };
            let (volumes, devices) = ([mount("/run/volume")], [device("/dev/own")]);
            bundle::config(&pod, &container, &identity, &volumes, &devices, &node)
        };
        config(&Granted { mounts: vec![mount("/run/b")], ..Granted::default() }).unwrap();
        let variables = BTreeMap::from([("OWN".to_owned(), "y".to_owned())]);
        for taken in [
            Granted { mounts: vec![mount("/run/volume")], ..Granted::default() },
            Granted { mounts: vec![mount("/a")], ..Granted::default() },
            Granted { devices: vec![device("/dev/own")], ..Granted::default() },
            Granted { variables, ..Granted::default() },
        ] {
            assert!(matches!(config(&taken), Err(Error::Taken(_))), "{taken:?}");
        }
    }

    #[test]
    fn a_variable_is_set_once() {
        let one = |name: &str| {
            let variables = BTreeMap::from([(name.to_owned(), "x".to_owned())]);
            check(&Granted { variables, ..Granted::default() })
        };
        one("B").unwrap();
        one("PATHS").unwrap();
        for taken in ["PATH", "A"] {
            let error = one(taken).unwrap_err();
            assert!(error.contains(&format!("the variable {taken},")), "{error}");
        }
    }
}
