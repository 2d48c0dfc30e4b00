//! The files behind a machine's disks: found, made or filled before the launcher starts.

use ferrovirt_model::{
    Machine,
    machine::{Disk, Payload, Source},
};
use ferrovirt_node::{
    image,
    oci::identity::Identity,
    selinux,
    volumes::{Claim, Error, Objects, Places, io_error, lost, unsupported},
};
use ferrovirt_plan::{paths, render::order::DiskFacts};
use ferrovirt_qemu::{order::whole_blocks, seed};
use k8s_openapi::api::core::v1::Secret;
use rustix::fs::{Mode, OFlags};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{MetadataExt, fchown},
    },
};

/// Secrets that the machine's disks name, beyond what its pod mounts.
pub fn secrets(machine: &Machine) -> BTreeSet<String> {
    let payloads = machine.disks.iter().flat_map(|disk| match &disk.source {
        Source::CloudInit { user_data, network_data } => vec![user_data, network_data],
        _ => vec![],
    });
    payloads
        .flatten()
        .filter_map(|payload| match payload {
            Payload::Secret(name) => Some(name.clone()),
            Payload::Inline(_) => None,
        })
        .collect()
}

/// Finds or makes the file of every disk. Blocks.
///
/// # Errors
/// When a file is missing or cannot be made.
pub fn prepare(
    machine: &Machine,
    places: &Places,
    identity: &Identity,
    objects: &Objects,
) -> Result<BTreeMap<String, DiskFacts>, Error> {
    let work = Work { places, identity, objects };
    machine.disks.iter().map(|disk| Ok((disk.name.clone(), work.disk(disk)?))).collect()
}

struct Work<'a> {
    places: &'a Places,
    identity: &'a Identity,
    objects: &'a Objects,
}

impl Work<'_> {
    fn disk(&self, disk: &Disk) -> Result<DiskFacts, Error> {
        let fixed = DiskFacts::default();
        let block = match &disk.source {
            Source::Claim { claim, .. } => self.objects.claims.get(claim).is_some_and(|claim| claim.block),
            _ => false,
        };
        let file = paths::disk_file(disk, block);
        match (&disk.source, file) {
            (Source::ContainerDisk { image, path: None }, _) => {
                let inside = paths::disk_root(disk, false);
                let (root, _) = self
                    .places
                    .find(&inside)
                    .ok_or_else(|| unsupported(&disk.name, "the pod does not mount its image"))?;
                let file = image::only_file(root, paths::IMAGE_DISKS, image)?;
                Ok(DiskFacts { path: Some(paths::join(&inside, &file)), ..DiskFacts::default() })
            }
            // The launcher looks at them, or makes them.
            (Source::ContainerDisk { .. } | Source::CloudInit { .. } | Source::EmptyDisk { .. }, _) => {
                Ok(fixed)
            }
            (Source::HostDisk { path, create }, Some(file)) => {
                match (self.places.open(&file, OFlags::PATH, Mode::empty()), create) {
                    (Ok(_), _) => Ok(fixed),
                    (Err(error), Some(capacity)) if error.kind() == io::ErrorKind::NotFound => {
                        self.sparse(disk, &file, capacity.0).map(|()| fixed)
                    }
                    (Err(source), _) => Err(io_error(&disk.name, path.as_ref(), source)),
                }
            }
            (Source::Claim { claim, read_only, .. }, Some(file)) => {
                if !block
                    && !*read_only
                    && let Some(claim) = self.objects.claims.get(claim)
                {
                    self.claim_file(disk, &file, claim)?;
                    claim.mark.set().map_err(|source| io_error(&disk.name, &claim.mark.file, source))?;
                }
                Ok(fixed)
            }
            (_, None) => Ok(fixed),
        }
    }

    /// The file of a claim belongs to the launcher; when the claim is used for the first time and has none, it is made
    /// as large as the volume says. Later a missing file is somebody's lost data, or a file system that is not mounted.
    fn claim_file(&self, disk: &Disk, path: &str, claim: &Claim) -> Result<(), Error> {
        let failed = |source| io_error(&disk.name, path.as_ref(), source);
        match self.places.open(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()) {
            Ok(fd) => {
                let file = File::from(fd);
                let data = file.metadata().map_err(failed)?;
                if !data.is_file() {
                    return Err(unsupported(&disk.name, "disk.img of the claim is not a regular file"));
                }
                // A second name of the file may lead to something else than this claim: then it keeps its owner.
                if data.nlink() == 1 {
                    if data.uid() != self.identity.uid {
                        fchown(&file, Some(self.identity.uid), None).map_err(failed)?;
                    }
                    self.label(&file).map_err(failed)?;
                }
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && claim.mark.exists() => {
                Err(lost(&disk.name, claim, "the file disk.img"))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && claim.capacity > 0 => {
                self.sparse(disk, path, claim.capacity)
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn sparse(&self, disk: &Disk, path: &str, size: u64) -> Result<(), Error> {
        // Without a group of the pod's own, its group is every launcher's.
        let mode = if self.identity.fs_group.is_some() { 0o660 } else { 0o600 };
        let made = File::from(self.make(disk, path, mode)?);
        made.set_len(whole_blocks(size)).map_err(|source| io_error(&disk.name, path.as_ref(), source))
    }

    /// A new file of the launcher's, never through a link.
    fn make(&self, disk: &Disk, path: &str, mode: u32) -> Result<OwnedFd, Error> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let make = || -> io::Result<OwnedFd> {
            let fd = self.places.open(path, flags, Mode::from_raw_mode(mode))?;
            let group = self.identity.fs_group.unwrap_or(self.identity.gid);
            fchown(&fd, Some(self.identity.uid), Some(group))?;
            self.label(&fd)?;
            Ok(fd)
        };
        make().map_err(|source| io_error(&disk.name, path.as_ref(), source))
    }

    /// With the machine's level, so that no other machine can open it.
    fn label(&self, file: impl AsFd) -> io::Result<()> {
        self.identity.label.as_ref().map_or(Ok(()), |label| selinux::label(file, &label.files))
    }
}

/// The files of the machine's seeds, of which its launcher makes images.
///
/// # Errors
/// When a secret or a key of it is missing, or all are more than a launcher takes.
pub fn seeds(machine: &Machine, objects: &Objects) -> Result<Vec<seed::File>, Error> {
    let read = |disk: &Disk, name: &str, keys: &[&'static str]| -> Result<Option<Vec<u8>>, Error> {
        let secret: &Secret = objects.secrets.get(name).ok_or_else(|| Error::NotFound {
            volume: disk.name.clone(),
            kind: "secret",
            name: name.to_owned(),
        })?;
        let data = keys.iter().find_map(|key| secret.data.as_ref()?.get(*key));
        let data = data.ok_or_else(|| {
            unsupported(&disk.name, &format!("secret {name} has no key {}", keys.join(" or ")))
        })?;
        Ok(Some(data.0.clone()))
    };
    let files = ferrovirt_plan::render::seed::files(machine, read)?;
    let mut bounded = seed::Files::default();
    for file in &files {
        let fits = file.pieces().try_for_each(|piece| bounded.add(piece));
        fits.map_err(|error| unsupported(&file.disk, &error.to_string()))?;
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn machine(source: Value) -> Machine {
        let vmi = json!({
            "metadata": {"name": "m", "namespace": "n", "uid": "u"},
            "spec": {
                "domain": {"devices": {"disks": [{"name": "d", "disk": {"bus": "virtio"}}]}, "memory": {"guest": "64Mi"}},
                "volumes": [{"name": "d", "cloudInitNoCloud": source}],
            },
        });
        ferrovirt_api::machine(&serde_json::from_value(vmi).unwrap()).unwrap()
    }

    fn objects(bytes: usize) -> Objects {
        let data = json!({"data": {"userdata": k8s_openapi::ByteString(vec![b'x'; bytes])}});
        Objects {
            secrets: [("s".to_owned(), serde_json::from_value(data).unwrap())].into(),
            ..Objects::default()
        }
    }

    #[test]
    fn a_seed_has_what_the_machine_or_its_secret_says() {
        let made =
            seeds(&machine(json!({"userData": "u", "networkData": "n"})), &Objects::default()).unwrap();
        let shown: Vec<_> = made.iter().map(|file| (file.name.as_str(), file.content.0.as_slice())).collect();
        let meta = br#"{"instance-id":"m.n","local-hostname":"m"}"#.as_slice();
        assert_eq!(shown, [("user-data", b"u".as_slice()), ("network-config", b"n"), ("meta-data", meta)]);
        let secret = machine(json!({"secretRef": {"name": "s"}}));
        assert_eq!(seeds(&secret, &objects(3)).unwrap()[0].content.0, b"xxx");
        let missing = seeds(&secret, &Objects::default()).unwrap_err();
        assert!(missing.may_pass() && missing.to_string().contains("secret s not found"), "{missing}");
    }

    #[test]
    fn more_than_a_launcher_takes_is_refused_before_it_starts() {
        let error =
            seeds(&machine(json!({"secretRef": {"name": "s"}})), &objects(seed::MAX_BYTES)).unwrap_err();
        assert!(!error.may_pass() && error.to_string().contains("at most"), "{error}");
    }
}
