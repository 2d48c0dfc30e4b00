//! Containers that give out files of images, where a cluster mounts no images: one copies a program of ours into scratch space,
//! and for each image one runs that copy, and nothing of the image's.
//!
//! They are init containers that the kubelet starts before the launcher; those of images it lets run beside the launcher, and
//! ends when the launcher has ended (`restartPolicy: Always`, from Kubernetes 1.29).

use super::pod_meta::label_value;
use crate::paths;
use ferrovirt_privilege::{GrantSet, Right, Surface};
use k8s_openapi::{
    api::core::v1::{
        Capabilities, Container, EmptyDirVolumeSource, ResourceRequirements, SecurityContext, Volume,
        VolumeMount,
    },
    apimachinery::pkg::api::resource::Quantity,
};

/// The container that copies, and the scratch space of the copy.
pub(crate) const HELPER: &str = "image-helper";
/// Scratch space of the sockets.
pub(crate) const SOCKETS: &str = "image-sockets";
/// The program in its own image, and as the containers of other images have it.
const PROGRAM: &str = "/usr/bin/virt-launcher";
const COPY: &str = "/var/run/kubevirt-image-helper/virt-launcher";

/// The containers, in the order in which they start; none where every image is mounted.
pub(super) fn containers(grants: &GrantSet, user: Option<u32>) -> Vec<Container> {
    let (mut helpers, mut servers) = (Vec::new(), Vec::new());
    for right in grants.on(Surface::Pod) {
        match right {
            Right::ImageHelper { image } => helpers.push(helper(&image, user)),
            Right::ImageServer { volume, image } => servers.push(server(&volume, &image, user)),
            _ => {}
        }
    }
    helpers.append(&mut servers);
    helpers
}

/// Where the copy is: no volume of the launcher's.
pub(super) fn volume() -> Volume {
    Volume {
        name: HELPER.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            size_limit: Some(Quantity("64Mi".to_owned())),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Copies our program out of its image.
pub(crate) fn helper(image: &str, user: Option<u32>) -> Container {
    let command = [PROGRAM, "--copy-to", COPY].map(str::to_owned).to_vec();
    let mounts = vec![mount(HELPER, paths::IMAGE_HELPER, false)];
    Container { name: HELPER.to_owned(), ..container(image, command, mounts, user) }
}

/// Gives out what is in an image, in the place of a volume.
pub(crate) fn server(volume: &str, image: &str, user: Option<u32>) -> Container {
    let command = vec![COPY.to_owned(), "--serve-image".to_owned(), format!("{}/{volume}", paths::IMAGES)];
    let mounts = vec![mount(HELPER, paths::IMAGE_HELPER, true), mount(SOCKETS, paths::IMAGES, false)];
    Container {
        name: label_value(&format!("serve-{volume}")),
        restart_policy: Some("Always".to_owned()),
        ..container(image, command, mounts, user)
    }
}

/// The volume in whose place a container is that [`server`] makes.
pub(crate) fn served(container: &Container) -> Option<&str> {
    let socket = container.command.as_ref()?.last()?;
    socket.strip_prefix(paths::IMAGES)?.strip_prefix('/')
}

fn container(image: &str, command: Vec<String>, mounts: Vec<VolumeMount>, user: Option<u32>) -> Container {
    let amounts = |cpu: &str, memory: &str| {
        let amount = |name: &str, text: &str| (name.to_owned(), Quantity(text.to_owned()));
        Some([amount("cpu", cpu), amount("memory", memory)].into())
    };
    Container {
        image: Some(image.to_owned()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(command),
        resources: Some(ResourceRequirements {
            requests: amounts("1m", "8Mi"),
            limits: amounts("100m", "32Mi"),
            ..Default::default()
        }),
        // What `restricted` asks for. An image that names no user would be root's.
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            privileged: Some(false),
            read_only_root_filesystem: Some(true),
            run_as_user: user.map(i64::from),
            // And its files may say which groups a user has.
            run_as_group: user.map(i64::from),
            capabilities: Some(Capabilities { add: None, drop: Some(vec!["ALL".to_owned()]) }),
            ..Default::default()
        }),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(mounts),
        ..Default::default()
    }
}

fn mount(volume: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: volume.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..Default::default()
    }
}
