//! A pod's volumes: directories of the agent's own, of the node and of images, turned into mounts of the container.

mod claim;
mod group;
pub mod marks;
mod place;
mod secret;

pub use claim::{Claim, Written};
pub use place::Places;

use crate::{
    disk::{remove_tree, unmount},
    image::{self, Store},
    oci::{
        bundle::{self, Device, Mount},
        identity::Identity,
    },
    selinux,
};
use ferrovirt_kubernetes::quantity::Amount;
use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, HostPathVolumeSource, Pod, Secret, Volume,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt, chown},
    path::{Component, Path, PathBuf},
};

/// Why a volume cannot be given to a pod.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An image.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// Something that the pod names is not in the cluster.
    #[error("volume {volume}: {kind} {name} not found: create it in the pod's namespace")]
    NotFound {
        /// The volume.
        volume: String,
        /// What kind of thing.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// What a claim's volume should have is not on the node.
    #[error(
        "volume {volume}: {what} of PersistentVolume {name} is missing on this node{before}: mount or restore it there; to \
         begin with an empty volume, delete the claim and the PersistentVolume, and create them again"
    )]
    Lost {
        /// The volume.
        volume: String,
        /// What is missing.
        what: &'static str,
        /// The PersistentVolume.
        name: String,
        /// That it was there.
        before: &'static str,
    },
    /// A kind of volume, or an option, that this node does not have.
    #[error("volume {volume}: {what}")]
    Unsupported {
        /// The volume.
        volume: String,
        /// What it asks for.
        what: String,
    },
    /// The file system said no.
    #[error("volume {volume}: {path}: {source}")]
    Io {
        /// The volume.
        volume: String,
        /// Where.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A device.
    #[error(transparent)]
    Device(#[from] bundle::Error),
    /// A size.
    #[error("volume {volume}: {source}")]
    Quantity {
        /// The volume.
        volume: String,
        /// What is wrong.
        source: ferrovirt_kubernetes::quantity::QuantityError,
    },
}

impl Error {
    /// The reason that a waiting container shows.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Image(image::Error::Missing { .. } | image::Error::Tag { .. }) => "ErrImagePull",
            Self::Image(image::Error::Reference(_)) => "InvalidImageName",
            Self::Image(_) => "ErrImagePull",
            Self::NotFound { .. } | Self::Unsupported { .. } | Self::Device(_) | Self::Quantity { .. } => {
                "CreateContainerConfigError"
            }
            Self::Io { .. } | Self::Lost { .. } => "CreateContainerError",
        }
    }

    /// It can get better without a change of the pod: somebody creates what is missing.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::Io { .. } | Self::Lost { .. } | Self::Image(_))
    }
}

/// Objects of the cluster that a pod's volumes name, as far as they exist.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// Secrets by name.
    pub secrets: BTreeMap<String, Secret>,
    /// Claims by name, each with where its volume is on this node.
    pub claims: BTreeMap<String, Claim>,
}

/// Names of the objects to fetch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Secrets.
    pub secrets: BTreeSet<String>,
    /// Claims.
    pub claims: BTreeSet<String>,
}

/// What the volumes of `pod` name.
pub fn names(pod: &Pod) -> Names {
    let mut names = Names::default();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        names.secrets.extend(volume.secret.iter().filter_map(|s| s.secret_name.clone()));
        names.claims.extend(volume.persistent_volume_claim.iter().map(|c| c.claim_name.clone()));
    }
    names
}

/// What a container gets of its volumes.
#[derive(Debug, Default)]
pub struct Prepared {
    /// Mounts, parents first.
    pub mounts: Vec<Mount>,
    /// Block devices.
    pub devices: Vec<Device>,
    /// Where paths of the container are on the node.
    pub places: Places,
}

/// Where the pod's own directories are and what they need.
#[derive(Debug)]
pub struct Context<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Directory for this pod's volumes.
    pub directory: &'a Path,
    /// Who will use them.
    pub identity: &'a Identity,
    /// Images.
    pub images: &'a Store,
    /// Directory in which the pod marks the images that it uses.
    pub marks: &'a Path,
    /// Objects that [`names`] asked for.
    pub objects: &'a Objects,
}

/// What backs a volume.
enum Backing {
    Directory { path: PathBuf, read_only: bool },
    Special { kind: &'static str, options: Vec<String> },
    Block { path: PathBuf, read_only: bool },
}

/// Prepares every volume that the container uses. Blocks.
///
/// # Errors
/// When one cannot be given; what was made stays in the pod's directory and goes with it.
pub fn prepare(context: &Context<'_>, container: &Container) -> Result<Prepared, Error> {
    let mut out = Prepared::default();
    let volumes: BTreeMap<&str, &Volume> = context
        .pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten())
        .map(|volume| (volume.name.as_str(), volume))
        .collect();
    let find = |name: &String| {
        volumes
            .get(name.as_str())
            .copied()
            .ok_or_else(|| unsupported(name, "the pod has no volume of this name"))
    };
    let mut special = BTreeSet::new();
    let mut mounts: Vec<_> = container.volume_mounts.iter().flatten().collect();
    mounts.sort_by_key(|mount| mount.mount_path.clone());
    for mount in mounts {
        let name = &mount.name;
        match context.backing(find(name)?, container)? {
            Backing::Directory { path, read_only } => {
                // The runtime mounts by path: between a look at what is below the volume and its mount, another pod
                // with the same volume could put a link to anywhere on the node in its place.
                if mount.sub_path_expr.is_some() || mount.sub_path.as_deref().is_some_and(|s| !s.is_empty()) {
                    return Err(unsupported(name, "subPath is not supported: mount the whole volume"));
                }
                let read_only = read_only || mount.read_only == Some(true);
                out.places.add(&mount.mount_path, path.clone());
                out.mounts.push(Mount::bind(path, &mount.mount_path, read_only));
            }
            Backing::Special { kind, options } => {
                if !special.insert(name) || mount.sub_path.is_some() {
                    return Err(unsupported(name, "a volume in memory is mounted once and whole"));
                }
                out.mounts.push(Mount {
                    destination: mount.mount_path.clone(),
                    kind,
                    source: PathBuf::from(kind),
                    options,
                });
            }
            Backing::Block { .. } => {
                return Err(unsupported(name, "a block volume belongs in volumeDevices"));
            }
        }
    }
    for device in container.volume_devices.iter().flatten() {
        match context.backing(find(&device.name)?, container)? {
            Backing::Block { path, read_only } => {
                out.devices.push(Device::of(&path, &device.device_path, !read_only)?);
            }
            _ => return Err(unsupported(&device.name, "only a claim in block mode is a device")),
        }
    }
    Ok(out)
}

impl Context<'_> {
    fn backing(&self, volume: &Volume, container: &Container) -> Result<Backing, Error> {
        let name = &volume.name;
        // It names a directory. The API lets no other through.
        if name.is_empty() || name.starts_with('.') || name.contains('/') {
            return Err(unsupported(name, "its name is no label"));
        }
        if let Some(source) = &volume.empty_dir {
            return self.empty_dir(name, source, container);
        }
        if let Some(source) = &volume.image {
            let reference = source.reference.as_deref().unwrap_or_default();
            let path = self.images.root(reference, self.marks)?;
            if self.identity.label.is_some() {
                selinux::label_tree(&path, selinux::SHARED_FILES)
                    .map_err(|source| io_error(name, &path, source))?;
            }
            return Ok(Backing::Directory { path, read_only: true });
        }
        if let Some(source) = &volume.host_path {
            return host_path(name, source);
        }
        if let Some(source) = &volume.persistent_volume_claim {
            let claim = self.objects.claims.get(&source.claim_name).ok_or_else(|| Error::NotFound {
                volume: name.clone(),
                kind: "a bound persistentvolumeclaim",
                name: source.claim_name.clone(),
            })?;
            let read_only = source.read_only == Some(true);
            let path = claim.path.clone();
            if claim.block {
                return Ok(Backing::Block { path, read_only });
            }
            if claim.create && !claim.mark.exists() && !path.exists() {
                let made = fs::create_dir_all(&path).and_then(|()| self.label(&path));
                made.map_err(|source| io_error(name, &path, source))?;
            }
            if !path.is_dir() {
                return Err(lost(name, claim, "the directory"));
            }
            return Ok(Backing::Directory { path, read_only });
        }
        if let Some(source) = &volume.secret {
            let files = secret::files(volume, source, self.objects)?;
            let path = self.directory.join(name);
            let readers = self.identity.into();
            let written =
                secret::make(&path, &files, readers).and_then(|()| secret::write(&path, &files, readers));
            written.map_err(|source| io_error(name, &path, source))?;
            return Ok(Backing::Directory { path, read_only: true });
        }
        Err(unsupported(name, "a volume of this kind is not supported on this node"))
    }

    fn empty_dir(
        &self,
        name: &str,
        source: &EmptyDirVolumeSource,
        container: &Container,
    ) -> Result<Backing, Error> {
        let quantity = |source| Error::Quantity { volume: name.to_owned(), source };
        let group = self.identity.fs_group.unwrap_or(self.identity.gid);
        let mut options: Vec<String> = ["nosuid", "nodev", "noexec"].map(str::to_owned).into();
        options.push(format!("uid={}", self.identity.uid));
        options.push(format!("gid={group}"));
        options.push("mode=0770".to_owned());
        match source.medium.as_deref().unwrap_or_default() {
            "" => {
                // Without a group of the pod's own, its group is every pod's of its image.
                let mode = if self.identity.fs_group.is_some() { 0o2770 } else { 0o700 };
                let path = self.directory.join(name);
                self.directory_for(name, &path, self.identity.uid, group, mode)?;
                Ok(Backing::Directory { path, read_only: false })
            }
            "Memory" => {
                if let Some(size) = &source.size_limit {
                    let bytes = Amount::parse(&size.0).and_then(Amount::bytes).map_err(quantity)?;
                    options.push(format!("size={bytes}"));
                }
                Ok(Backing::Special { kind: "tmpfs", options })
            }
            medium if medium.starts_with("HugePages") => {
                let limits = bundle::huge_pages(container)?;
                let page = match medium.strip_prefix("HugePages-") {
                    Some(size) => Amount::parse(size).and_then(Amount::bytes).map_err(quantity)?,
                    None => match limits.keys().collect::<Vec<_>>().as_slice() {
                        [one] => **one,
                        _ => return Err(unsupported(name, "name the page size as HugePages-SIZE")),
                    },
                };
                let limit = limits
                    .get(&page)
                    .ok_or_else(|| unsupported(name, "the container has no limit of this huge page size"))?;
                options.push(format!("pagesize={page}"));
                options.push(format!("size={limit}"));
                Ok(Backing::Special { kind: "hugetlbfs", options })
            }
            other => Err(unsupported(name, &format!("medium {other:?} is unknown"))),
        }
    }

    fn directory_for(&self, name: &str, path: &Path, uid: u32, gid: u32, mode: u32) -> Result<(), Error> {
        let make = || -> io::Result<()> {
            match fs::create_dir(path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
                other => other?,
            }
            // While it is root's own: the set-group-ID bit of another's directory would take CAP_FSETID.
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
            chown(path, Some(uid), Some(gid))?;
            self.label(path)
        };
        make().map_err(|source| io_error(name, path, source))
    }

    fn label(&self, path: &Path) -> io::Result<()> {
        self.identity.label.as_ref().map_or(Ok(()), |label| selinux::label_path(path, &label.files))
    }
}

fn host_path(name: &str, source: &HostPathVolumeSource) -> Result<Backing, Error> {
    let path = PathBuf::from(&source.path);
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Err(unsupported(name, "hostPath.path must be absolute and without `..`"));
    }
    let failed = |what: &str| Err(io_error(name, &path, io::Error::other(what.to_owned())));
    match source.type_.as_deref().unwrap_or_default() {
        "" => {}
        "DirectoryOrCreate" => {
            fs::create_dir_all(&path).map_err(|source| io_error(name, &path, source))?;
        }
        "Directory" if path.is_dir() => {}
        "Directory" => return failed("is not a directory on this node"),
        "FileOrCreate" => {
            let made = fs::OpenOptions::new().append(true).create(true).open(&path);
            made.map_err(|source| io_error(name, &path, source))?;
        }
        "File" if path.is_file() => {}
        "File" => return failed("is not a regular file on this node"),
        "Socket" | "CharDevice" | "BlockDevice" => {
            let kind = fs::metadata(&path).map_err(|source| io_error(name, &path, source))?.file_type();
            if !(kind.is_socket() || kind.is_char_device() || kind.is_block_device()) {
                return failed("is of another type than hostPath.type says");
            }
        }
        other => return Err(unsupported(name, &format!("hostPath.type {other:?} is unknown"))),
    }
    Ok(Backing::Directory { path, read_only: false })
}

/// Gives the secrets of a pod that runs, whose volumes are in `directory`, what they hold now.
///
/// # Errors
/// As [`prepare`]; what was there before stays.
pub fn refresh(pod: &Pod, directory: &Path, identity: &Identity, objects: &Objects) -> Result<(), Error> {
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let Some(source) = &volume.secret else { continue };
        let path = directory.join(&volume.name);
        let files = secret::files(volume, source, objects)?;
        let written = secret::exchange(&path, &files, identity.into());
        if written.map_err(|source| io_error(&volume.name, &path, source))? {
            tracing::debug!(volume = volume.name, "a secret has changed");
        }
    }
    Ok(())
}

/// Unmounts the volumes of a pod that has ended, as a kubelet does: its secrets are in no memory any more. What is on the disk
/// stays. Fine where there are none.
///
/// # Errors
/// What the kernel says of the first that failed; the others are unmounted all the same.
pub fn unmount_all(directory: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    let mut all = Ok(());
    for entry in entries {
        all = all.and(entry.and_then(|entry| unmount(&entry.path())));
    }
    all
}

/// Removes the volumes of a pod: what is mounted there first.
///
/// # Errors
/// What the kernel says.
pub fn remove(directory: &Path) -> io::Result<()> {
    unmount_all(directory)?;
    remove_tree(directory)
}

/// Something of a claim's volume is not there. It is never made in place of what may hold somebody's data.
pub fn lost(volume: &str, claim: &Claim, what: &'static str) -> Error {
    let before = if claim.mark.exists() { ", though the claim was in use before" } else { "" };
    Error::Lost { volume: volume.to_owned(), what, name: claim.volume.clone(), before }
}

/// This node does not have what a volume asks for.
pub fn unsupported(volume: &str, what: &str) -> Error {
    Error::Unsupported { volume: volume.to_owned(), what: what.to_owned() }
}

/// The file system said no about a volume.
pub fn io_error(volume: &str, path: &Path, source: io::Error) -> Error {
    Error::Io { volume: volume.to_owned(), path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
