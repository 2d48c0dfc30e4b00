//! The files of NoCloud seeds: what of them stands in the machine, and what is in secrets.

use crate::paths;
use ferrovirt_model::{
    Machine,
    machine::{Disk, Payload, Source},
};
use ferrovirt_qemu::{
    order::{Inline, Mounted},
    seed::{Content, File},
};
use std::convert::Infallible;

/// A file of a seed that a machine can give in two ways.
struct Part<'a> {
    /// Its name in the seed.
    name: &'static str,
    /// What the machine says.
    payload: Option<&'a Payload>,
    /// The keys of a secret under which it is looked for, as upstream.
    keys: [&'static str; 2],
    /// What the name of its volume ends with, as upstream.
    suffix: &'static str,
}

fn parts(disk: &Disk) -> Option<[Part<'_>; 2]> {
    let Source::CloudInit { user_data, network_data } = &disk.source else { return None };
    Some([
        Part {
            name: "user-data",
            payload: user_data.as_ref(),
            keys: ["userdata", "userData"],
            suffix: "udata",
        },
        Part {
            name: "network-config",
            payload: network_data.as_ref(),
            keys: ["networkdata", "networkData"],
            suffix: "ndata",
        },
    ])
}

/// The files of the machine's seeds. `read` is asked for a disk, the name of its secret and the keys; a file for which it
/// has nothing is left out.
///
/// # Errors
/// The first one of `read`.
pub fn files<E>(
    machine: &Machine,
    read: impl Fn(&Disk, &str, &[&'static str]) -> Result<Option<Vec<u8>>, E>,
) -> Result<Vec<File>, E> {
    let mut all = Vec::new();
    for disk in &machine.disks {
        let files = of_disk(machine, disk, |secret, keys| read(disk, secret, keys))?;
        all.extend(files.into_iter().map(|Inline { name, content }| File {
            disk: disk.name.clone(),
            name,
            content,
        }));
    }
    Ok(all)
}

fn of_disk<E>(
    machine: &Machine,
    disk: &Disk,
    read: impl Fn(&str, &[&'static str]) -> Result<Option<Vec<u8>>, E>,
) -> Result<Vec<Inline>, E> {
    let mut files = Vec::new();
    let Some(parts) = parts(disk) else { return Ok(files) };
    let mut add = |name: &str, bytes: Vec<u8>| {
        files.push(Inline { name: name.to_owned(), content: Content(bytes) });
    };
    for part in parts {
        match part.payload {
            Some(Payload::Inline(bytes)) => add(part.name, bytes.clone()),
            Some(Payload::Secret(secret)) => {
                if let Some(bytes) = read(secret, &part.keys)? {
                    add(part.name, bytes);
                }
            }
            // Without it cloud-init takes the seed for none.
            None if part.name == "user-data" => add(part.name, Vec::new()),
            None => {}
        }
    }
    let hostname = machine.scheduling.hostname.as_ref().unwrap_or(&machine.name);
    let meta = serde_json::json!({
        "instance-id": format!("{}.{}", machine.name, machine.namespace), "local-hostname": hostname,
    });
    add("meta-data", meta.to_string().into_bytes());
    Ok(files)
}

/// The files of a disk's seed that stand in the machine, as an order on a cluster has them: the launcher finds the rest in
/// volumes of its pod.
pub fn inline(machine: &Machine, disk: &Disk) -> Vec<Inline> {
    of_disk(machine, disk, |_, _| Ok::<_, Infallible>(None)).unwrap_or_default()
}

/// The files of a disk that are in secrets, and where the launcher's pod has them on a cluster.
pub fn mounted(disk: &Disk) -> Vec<Mounted> {
    let of = |part: Part<'_>| match part.payload {
        Some(Payload::Secret(secret)) => Some(Mounted {
            name: part.name.to_owned(),
            directory: format!("{}/{}-{}", paths::SECRETS, disk.name, part.suffix),
            keys: part.keys.map(str::to_owned).into(),
            secret: secret.clone(),
        }),
        _ => None,
    };
    parts(disk).into_iter().flatten().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    #[test]
    fn what_is_in_a_secret_is_read_or_mounted_and_the_rest_is_the_machines() {
        let mut machine = samples::plain();
        let secret = |name: &str| Some(Payload::Secret(name.to_owned()));
        let source = Source::CloudInit { user_data: secret("u"), network_data: secret("n") };
        machine.disks = vec![samples::disk("seed", source)];
        let meta =
            ("meta-data".to_owned(), br#"{"instance-id":"small.demo","local-hostname":"small"}"#.to_vec());
        let own = inline(&machine, &machine.disks[0]);
        let own: Vec<_> = own.into_iter().map(|file| (file.name, file.content.0)).collect();
        assert_eq!(own, std::slice::from_ref(&meta));
        let read = |_: &Disk, name: &str, keys: &[&'static str]| {
            Ok::<_, Infallible>(Some(format!("{name}:{}", keys.join("+")).into_bytes()))
        };
        let user = ("user-data".to_owned(), b"u:userdata+userData".to_vec());
        let network = ("network-config".to_owned(), b"n:networkdata+networkData".to_vec());
        let all = files(&machine, read).unwrap().into_iter().map(|file| (file.name, file.content.0));
        assert_eq!(all.collect::<Vec<_>>(), [user, network, meta]);
        let mounted = mounted(&machine.disks[0]);
        let names: Vec<_> =
            mounted.iter().map(|file| (file.name.as_str(), file.directory.as_str())).collect();
        assert_eq!(
            names,
            [
                ("user-data", "/var/run/kubevirt-private/secret/seed-udata"),
                ("network-config", "/var/run/kubevirt-private/secret/seed-ndata")
            ]
        );
    }

    #[test]
    fn a_seed_without_anything_has_empty_user_data() {
        let mut machine = samples::plain();
        machine.disks =
            vec![samples::disk("seed", Source::CloudInit { user_data: None, network_data: None })];
        let files = inline(&machine, &machine.disks[0]);
        assert_eq!(
            files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>(),
            ["user-data", "meta-data"]
        );
        assert!(mounted(&machine.disks[0]).is_empty());
    }
}
