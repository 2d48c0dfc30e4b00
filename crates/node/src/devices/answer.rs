//! What is taken from a plug-in: its bytes are another program's, and end up in the configuration of a container.

use super::error::Error;
use crate::oci::{
    bundle::{Device, Mount},
    granted::{Granted, overlap},
};
use ferrovirt_kubelet_api::messages::{AllocateResponse, ContainerResponse, Devices, HEALTHY};
use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

/// Most devices of a resource.
pub const MOST_DEVICES: usize = 10_000;
/// Longest name of a device, in bytes.
const LONGEST_ID: usize = 256;
/// Most mounts, device nodes, variables and annotations of one container, of each.
const MOST: usize = 256;
/// Longest path, in bytes, as PATH_MAX.
const LONGEST_PATH: usize = 4096;
/// Longest variable or annotation, in bytes.
const LONGEST_TEXT: usize = 32 << 10;
/// Most characters of what a plug-in says that anybody gets to see.
const MOST_SAID: usize = 200;

/// Beginnings of annotations that runtimes, and the engines above them, obey: a filter for system calls, another handler,
/// properties of a unit. What a container may do is decided without them.
const OBEYED: [&str; 8] = [
    "run.oci.",
    "org.systemd.",
    "org.criu.",
    "io.kubernetes.",
    "module.wasm.",
    "seccomp.security.alpha.kubernetes.io/",
    "container.seccomp.security.alpha.kubernetes.io/",
    "container.apparmor.security.beta.kubernetes.io/",
];

/// A plug-in's devices by name, and whether each is healthy.
///
/// # Errors
/// When there are too many, or one has no name, a name that is too long or one that another has.
pub fn devices(resource: &str, list: Devices) -> Result<BTreeMap<String, bool>, Error> {
    let wrong = |what: String| Error::List { resource: resource.to_owned(), what };
    if list.devices.len() > MOST_DEVICES {
        return Err(wrong(format!("{} devices, and {MOST_DEVICES} are the most", list.devices.len())));
    }
    let mut devices = BTreeMap::new();
    for device in list.devices {
        if device.id.is_empty() || device.id.len() > LONGEST_ID {
            return Err(wrong(format!("a device's name has 1 to {LONGEST_ID} bytes")));
        }
        let healthy = device.health == HEALTHY;
        if devices.insert(device.id, healthy).is_some() {
            return Err(wrong("two devices of one name".to_owned()));
        }
    }
    Ok(devices)
}

/// Where a plug-in's socket is: its name below the directory of plug-ins, joined as a kubelet does, where `..` takes a part
/// of the text away.
pub fn socket(directory: &Path, endpoint: &str) -> PathBuf {
    let mut out = PathBuf::from("/");
    // A name with a slash before it is below the directory, too.
    let below = directory.components().chain(Path::new(endpoint.trim_start_matches('/')).components());
    for part in below {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::Normal(name) => out.push(name),
            _ => {}
        }
    }
    out
}

/// The one answer for the one container that was asked for.
///
/// # Errors
/// When it is not one, or has what is not given to containers.
pub fn container(answer: AllocateResponse) -> Result<ContainerResponse, String> {
    let mut containers = answer.containers.into_iter();
    let (Some(one), None) = (containers.next(), containers.next()) else {
        return Err("it answered for another number of containers than were asked for".to_owned());
    };
    if !one.named.is_empty() {
        return Err("devices of the Container Device Interface are not supported on this node".to_owned());
    }
    for (what, count) in [
        ("mounts", one.mounts.len()),
        ("devices", one.devices.len()),
        ("variables", one.variables.len()),
        ("annotations", one.annotations.len()),
    ] {
        if count > MOST {
            return Err(format!("{count} {what}, and {MOST} are the most"));
        }
    }
    let paths = one.mounts.iter().flat_map(|mount| [&mount.container_path, &mount.host_path]);
    let paths =
        paths.chain(one.devices.iter().flat_map(|device| [&device.container_path, &device.host_path]));
    for path in paths {
        if !is_place(path) {
            let path: String = path.chars().take(100).collect();
            return Err(format!("{path:?} is no absolute path without `..`"));
        }
    }
    for device in &one.devices {
        let known = |right: char| "rwm".contains(right);
        if !device.permissions.contains('r') || !device.permissions.chars().all(known) {
            return Err("permissions of a device are of r, w and m, and have r".to_owned());
        }
    }
    let text = |text: &String| text.len() <= LONGEST_TEXT && !text.contains('\0');
    let name = |name: &String| !name.is_empty() && !name.contains('=') && text(name);
    if !one.variables.iter().all(|(key, value)| name(key) && text(value)) {
        return Err("a variable without a name, or of too many bytes".to_owned());
    }
    if !one.annotations.iter().all(|(key, value)| !key.is_empty() && text(key) && text(value)) {
        return Err("an annotation without a name, or of too many bytes".to_owned());
    }
    let obeyed = |key: &&String| OBEYED.iter().any(|start| key.starts_with(start));
    if let Some(key) = one.annotations.keys().find(obeyed) {
        return Err(format!("the annotation {key} is for the runtime, and no plug-in's"));
    }
    Ok(one)
}

/// An absolute path below the root, as it is written: no part of it leads up.
fn is_place(path: &str) -> bool {
    let plain = |part: Component| matches!(part, Component::RootDir | Component::Normal(_));
    path.len() <= LONGEST_PATH
        && path.len() > 1
        && !path.contains('\0')
        && Path::new(path).is_absolute()
        && Path::new(path).components().all(plain)
        && Path::new(path).file_name().is_some()
}

/// What a plug-in says, for logs and statuses: its beginning, without what acts on a terminal.
pub fn cut(text: &str) -> String {
    let plain = |c: char| match c {
        '"' | '\'' | '\\' => vec![c],
        other => other.escape_debug().collect(),
    };
    text.chars().flat_map(plain).take(MOST_SAID).collect()
}

/// A path in the container with each slash once.
fn plain(path: &str) -> String {
    path.split('/').filter(|part| !matches!(*part, "" | ".")).flat_map(|part| ["/", part]).collect()
}

/// Adds what one plug-in gives to what others gave. Looks at the device nodes, and at nothing else of the node: a file
/// system that hangs holds it up.
///
/// # Errors
/// When a device is not on the node, or two plug-ins want one place, variable or annotation of the container.
pub fn add(granted: &mut Granted, more: ContainerResponse) -> Result<(), String> {
    let taken = |what: String| Err(format!("another plug-in has {what} already"));
    let others = granted.clone();
    for device in more.devices {
        let path = plain(&device.container_path);
        let writable = device.permissions.contains('w');
        let made = Device::of(Path::new(&device.host_path), &path, writable);
        let made = made.map_err(|error| error.to_string())?;
        // Two resources may come with one device node.
        if granted.devices.contains(&made) {
            continue;
        }
        if granted.devices.iter().any(|known| overlap(known.path(), &path)) {
            return taken(path);
        }
        granted.devices.push(made);
    }
    for mount in more.mounts {
        let made = Mount::bind(mount.host_path.into(), &plain(&mount.container_path), mount.read_only);
        if granted.mounts.contains(&made) {
            continue;
        }
        let hidden = |known: &Mount| overlap(&known.destination, &made.destination);
        let same = |known: &Mount| known.destination == made.destination;
        if others.mounts.iter().any(hidden) || granted.mounts.iter().any(same) {
            return taken(made.destination);
        }
        granted.mounts.push(made);
    }
    for (known, more, what) in [
        (&mut granted.variables, more.variables, "variable"),
        (&mut granted.annotations, more.annotations, "annotation"),
    ] {
        for (key, value) in more {
            if known.get(&key).is_some_and(|known| *known != value) {
                return taken(format!("the {what} {key}"));
            }
            known.insert(key, value);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrovirt_kubelet_api::messages::{self, DeviceSpec, NamedDevice};

    fn mount(container: &str, host: &str) -> messages::Mount {
        let (container_path, host_path) = (container.to_owned(), host.to_owned());
        messages::Mount { container_path, host_path, read_only: true }
    }

    fn node(container: &str, host: &str, permissions: &str) -> DeviceSpec {
        let permissions = permissions.to_owned();
        DeviceSpec { container_path: container.to_owned(), host_path: host.to_owned(), permissions }
    }

    fn one(response: ContainerResponse) -> Result<ContainerResponse, String> {
        container(AllocateResponse { containers: vec![response] })
    }

    #[test]
    fn a_list_of_devices_is_bounded_and_has_each_once() {
        let device =
            |id: &str, health: &str| messages::Device { id: id.to_owned(), health: health.to_owned() };
        let list = |devices| devices_of(Devices { devices });
        fn devices_of(list: Devices) -> Result<BTreeMap<String, bool>, String> {
            devices("v.example/x", list).map_err(|error| error.to_string())
        }
        let read = list(vec![device("a", "Healthy"), device("b", "Unhealthy"), device("c", "")]).unwrap();
        assert_eq!(read.into_values().collect::<Vec<_>>(), [true, false, false]);
        for wrong in [
            vec![device("a", "Healthy"), device("a", "Healthy")],
            vec![device("", "Healthy")],
            vec![device(&"x".repeat(LONGEST_ID + 1), "Healthy")],
            (0..=MOST_DEVICES).map(|number| device(&number.to_string(), "Healthy")).collect(),
        ] {
            list(wrong).unwrap_err();
        }
    }

    #[test]
    fn the_socket_is_where_a_kubelet_looks_for_it() {
        let at = |endpoint: &str| socket(Path::new("/var/lib/plugins"), endpoint).display().to_string();
        assert_eq!(at("a.sock"), "/var/lib/plugins/a.sock");
        assert_eq!(at("/a.sock"), "/var/lib/plugins/a.sock");
        assert_eq!(at(&format!("{}/run/a.sock", "../".repeat(32))), "/run/a.sock");
    }

    #[test]
    fn what_a_plug_in_says_is_plain_and_short() {
        assert_eq!(cut("it's \"broken\": \u{e4}"), "it's \"broken\": \u{e4}");
        assert_eq!(cut("a\nb\u{1b}[2J\u{202e}"), "a\\nb\\u{1b}[2J\\u{202e}");
        assert_eq!(cut(&"x".repeat(4 << 20)).len(), MOST_SAID);
        assert_eq!(cut(&"\n".repeat(4 << 20)).len(), MOST_SAID);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let none = ContainerResponse::default;
        assert_eq!(one(none()), Ok(none()));
        container(AllocateResponse::default()).unwrap_err();
        container(AllocateResponse { containers: vec![none(), none()] }).unwrap_err();
        let variable = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        for wrong in [
            ContainerResponse { mounts: vec![mount("run", "/a")], ..none() },
            ContainerResponse { mounts: vec![mount("/run", "a")], ..none() },
            ContainerResponse { mounts: vec![mount("/run/../etc", "/a")], ..none() },
            ContainerResponse { mounts: vec![mount("/", "/a")], ..none() },
            ContainerResponse { mounts: vec![mount("/a\0", "/a")], ..none() },
            ContainerResponse {
                mounts: vec![mount(&format!("/{}", "x".repeat(LONGEST_PATH)), "/a")],
                ..none()
            },
            ContainerResponse { mounts: vec![mount("/a", "/a"); MOST + 1], ..none() },
            ContainerResponse { devices: vec![node("/dev/x", "/dev/null", "w")], ..none() },
            ContainerResponse { devices: vec![node("/dev/x", "/dev/null", "rx")], ..none() },
            ContainerResponse { devices: vec![node("dev/x", "/dev/null", "rw")], ..none() },
            ContainerResponse { variables: variable("", "x"), ..none() },
            ContainerResponse { variables: variable("A=B", "x"), ..none() },
            ContainerResponse { variables: variable("A", &"x".repeat(LONGEST_TEXT + 1)), ..none() },
            ContainerResponse { annotations: variable("", "x"), ..none() },
            ContainerResponse { annotations: variable("run.oci.seccomp_bpf_data", "x"), ..none() },
            ContainerResponse { annotations: variable("run.oci.handler", "krun"), ..none() },
            ContainerResponse { annotations: variable("org.systemd.property.Delegate", "true"), ..none() },
            ContainerResponse { annotations: variable("io.kubernetes.cri.container-type", "x"), ..none() },
            ContainerResponse { named: vec![NamedDevice { name: "v/c=n".to_owned() }], ..none() },
        ] {
            assert!(one(wrong.clone()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn two_plug_ins_do_not_share_a_place() {
        let mut granted = Granted::default();
        let none = ContainerResponse::default;
        let first = ContainerResponse {
            mounts: vec![mount("/run/a", "/srv/a")],
            devices: vec![node("/dev/x", "/dev/null", "rw")],
            variables: BTreeMap::from([("A".to_owned(), "x".to_owned())]),
            annotations: BTreeMap::from([("v.example/a".to_owned(), "x".to_owned())]),
            ..none()
        };
        add(&mut granted, first.clone()).unwrap();
        add(&mut granted, first).unwrap();
        let again = ContainerResponse {
            mounts: vec![mount("/run//./a/", "/srv/a")],
            devices: vec![node("/dev//x", "/dev/null", "rw")],
            ..none()
        };
        add(&mut granted, again).unwrap();
        assert_eq!((granted.mounts.len(), granted.devices.len()), (1, 1));
        for wrong in [
            ContainerResponse { mounts: vec![mount("/run/a", "/srv/b")], ..none() },
            ContainerResponse { mounts: vec![mount("/run//a", "/srv/b")], ..none() },
            ContainerResponse { mounts: vec![mount("/run/a/b", "/srv/b")], ..none() },
            ContainerResponse { mounts: vec![mount("/run", "/srv/b")], ..none() },
            ContainerResponse { variables: BTreeMap::from([("A".to_owned(), "y".to_owned())]), ..none() },
            ContainerResponse {
                annotations: BTreeMap::from([("v.example/a".to_owned(), "y".to_owned())]),
                ..none()
            },
            ContainerResponse { devices: vec![node("/dev//x", "/dev/zero", "rw")], ..none() },
            ContainerResponse { devices: vec![node("/dev/x", "/dev/zero", "rw")], ..none() },
            ContainerResponse { devices: vec![node("/dev/y", "/nonexistent", "rw")], ..none() },
            ContainerResponse { devices: vec![node("/dev/y", "/etc/passwd", "rw")], ..none() },
        ] {
            add(&mut granted, wrong).unwrap_err();
        }
    }
}
