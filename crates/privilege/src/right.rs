//! Rights: the atoms of the privilege table.
//!
//! The table declares them over `&'static str` with placeholders such as `{volume}`; a machine fills these in and
//! owns the result. What is rendered and what is read back are both sets of `Right<String>`.

use std::fmt;

/// How a file, device or mount may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// Reading only.
    Read,
    /// Reading and writing.
    ReadWrite,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::ReadWrite => "read, write",
        })
    }
}

/// Where a device node of a pod comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceSource<T> {
    /// An extended resource that a device plug-in (or the node agent) offers.
    Plugin(T),
    /// A claim in block mode.
    Claim(T),
}

/// What is behind a mount of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VolumeSource<T> {
    /// Scratch space that ends with the pod.
    Scratch,
    /// A hugetlbfs of the pod's own.
    HugePages,
    /// The files of a container image.
    Image(T),
    /// A directory of the node.
    HostPath {
        /// Absolute path.
        path: T,
        /// Made when it is missing.
        create: bool,
    },
    /// A claim in file-system mode.
    Claim(T),
    /// Keys of a secret, and no others.
    Secret {
        /// The secret.
        name: T,
        /// The keys, with commas between them; those that are missing have no file.
        keys: T,
    },
}

/// One right. `T` is the text type: `&'static str` in the table, `String` once it is about a machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Right<T> {
    /// A Linux capability without the `CAP_` prefix, in the pod.
    Capability(T),
    /// A field of the pod's security context beyond what the Pod Security level `restricted` has, or `hostUsers`.
    PodField {
        /// Path below the security context.
        field: T,
        /// Value.
        value: T,
    },
    /// A device node with its device-cgroup rule.
    Device {
        /// Path in the pod.
        path: T,
        /// Where it comes from.
        source: DeviceSource<T>,
        /// How it may be opened.
        access: Access,
    },
    /// A counted resource of the node, such as huge pages.
    Resource {
        /// Resource name.
        name: T,
        /// Kubernetes quantity.
        quantity: T,
    },
    /// A volume in the pod.
    Mount {
        /// Name of the volume.
        volume: T,
        /// Path in the pod.
        path: T,
        /// What is mounted.
        source: VolumeSource<T>,
        /// How.
        access: Access,
    },
    /// A container before the launcher's that copies our program into scratch space of the pod.
    ImageHelper {
        /// The launcher's image, in which it is.
        image: T,
    },
    /// A container of a user's image beside the launcher's, in which that copy alone runs, and gives the launcher descriptors of
    /// files.
    ImageServer {
        /// Name of the volume in whose place it is.
        volume: T,
        /// The image.
        image: T,
    },
    /// A system call that the pod's filter lets through.
    Syscall(T),
    /// A system call that a process of ours lets itself make, outside of any pod.
    OwnSyscall(T),
    /// A descriptor that a process of ours is started with, for what it could not open itself.
    Descriptor(T),
    /// A port of its pod on which a process of ours listens that has rights on a node, and for whom it is. Ports of the
    /// deployments are none: what is heard at `kubevirt-api`'s, also in users' names, gets nobody a right on a node but through
    /// the handler's, and whom it believes is in the threat model.
    Port {
        /// Number.
        port: T,
        /// Whom it hears.
        clients: T,
    },
    /// A path of the node that a process of ours sees in its pod.
    NodePath {
        /// On the node, and in the pod.
        path: T,
        /// How.
        access: Access,
    },
    /// One permission of the SELinux policy.
    Selinux {
        /// Domain.
        source: T,
        /// Type, or `self`; another type acts on the domain where the domain is the target.
        target: T,
        /// Object class.
        class: T,
        /// Permission.
        permission: T,
    },
    /// An attribute of the SELinux policy that a domain has, with all that the policy lets its members do.
    SelinuxAttribute {
        /// Domain.
        domain: T,
        /// Attribute.
        attribute: T,
    },
    /// A role of the SELinux policy in which a domain may run.
    SelinuxRole {
        /// Domain.
        domain: T,
        /// Role.
        role: T,
    },
    /// A field of the SCC `kubevirt-controller` beyond `restricted-v2`.
    Scc {
        /// Field.
        field: T,
        /// Value; one right for each element of a list.
        value: T,
    },
    /// A field of the SCC `kubevirt-machine`, which admits labelled pods of the minimal profile.
    MachineScc {
        /// Field.
        field: T,
        /// Value; one right for each element of a list.
        value: T,
    },
    /// A verb on a Kubernetes resource.
    Verb {
        /// API group; empty for the core group.
        group: T,
        /// Resource, with subresource.
        resource: T,
        /// Verb.
        verb: T,
        /// The only namespace where it holds; everywhere when absent.
        namespace: Option<T>,
        /// The only object for which it holds.
        name: Option<T>,
    },
    /// A file or directory that QEMU opens by the launcher's order.
    Open {
        /// Path in the pod of the mount or device.
        path: T,
        /// How.
        access: Access,
    },
    /// A step on a network interface by the launcher's order.
    Network {
        /// Interface of the machine.
        nic: T,
        /// What happens.
        step: NetworkStep,
    },
    /// A privileged operation of the node agent on its node.
    Host {
        /// What is done.
        operation: T,
        /// The capability that the kernel asks for, without the `CAP_` prefix.
        capability: T,
    },
    /// A sysctl of the pod's network namespace that the node agent sets.
    Sysctl {
        /// Dotted name.
        name: T,
        /// Value.
        value: T,
    },
}

/// How the launcher comes to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NetworkStep {
    /// One open TAP queue is passed to the launcher.
    ReceiveQueue,
    /// Further open queues of the same TAP are passed.
    ReceiveMoreQueues,
    /// The launcher creates the TAP.
    CreateTap,
    /// The launcher creates the TAP with several queues and attaches them.
    CreateMoreQueues,
    /// The UDP socket of the address service is passed to the launcher.
    ReceiveDhcpSocket,
}

impl NetworkStep {
    /// A phrase for people.
    pub fn describe(self) -> &'static str {
        match self {
            Self::ReceiveQueue => "receive an open TAP queue",
            Self::ReceiveMoreQueues => "receive further open TAP queues",
            Self::CreateTap => "create a TAP",
            Self::CreateMoreQueues => "create further TAP queues",
            Self::ReceiveDhcpSocket => "receive the DHCP socket",
        }
    }
}

/// The document in which a right is rendered and from which it is read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Surface {
    /// The virt-launcher pod.
    Pod,
    /// The launcher's order, and with it QEMU's command line.
    Order,
    /// The seccomp profile.
    Seccomp,
    /// The filters that our own processes outside of pods put on themselves.
    Filter,
    /// The SELinux module.
    Selinux,
    /// The SCC `kubevirt-controller`.
    Scc,
    /// The SCC `kubevirt-machine`.
    MachineScc,
    /// Roles.
    Rbac,
    /// The node agent's own powers: nothing is rendered, the list is for the reviewer.
    Node,
}

impl<T> Right<T> {
    /// Where it is rendered.
    pub fn surface(&self) -> Surface {
        match self {
            Self::Capability(_)
            | Self::PodField { .. }
            | Self::Device { .. }
            | Self::Resource { .. }
            | Self::Mount { .. }
            | Self::ImageHelper { .. }
            | Self::ImageServer { .. } => Surface::Pod,
            Self::Open { .. } | Self::Network { .. } => Surface::Order,
            Self::Syscall(_) => Surface::Seccomp,
            Self::Selinux { .. } | Self::SelinuxAttribute { .. } | Self::SelinuxRole { .. } => {
                Surface::Selinux
            }
            Self::Scc { .. } => Surface::Scc,
            Self::MachineScc { .. } => Surface::MachineScc,
            Self::Verb { .. } => Surface::Rbac,
            Self::OwnSyscall(_) => Surface::Filter,
            Self::Host { .. }
            | Self::Sysctl { .. }
            | Self::Descriptor(_)
            | Self::Port { .. }
            | Self::NodePath { .. } => Surface::Node,
        }
    }

    /// The same right over other texts.
    pub fn map<U>(&self, f: &impl Fn(&T) -> U) -> Right<U> {
        match self {
            Self::Capability(name) => Right::Capability(f(name)),
            Self::PodField { field, value } => Right::PodField { field: f(field), value: f(value) },
            Self::Device { path, source, access } => Right::Device {
                path: f(path),
                source: match source {
                    DeviceSource::Plugin(name) => DeviceSource::Plugin(f(name)),
                    DeviceSource::Claim(name) => DeviceSource::Claim(f(name)),
                },
                access: *access,
            },
            Self::Resource { name, quantity } => Right::Resource { name: f(name), quantity: f(quantity) },
            Self::Mount { volume, path, source, access } => {
                Right::Mount { volume: f(volume), path: f(path), source: source.map(f), access: *access }
            }
            Self::ImageHelper { image } => Right::ImageHelper { image: f(image) },
            Self::ImageServer { volume, image } => Right::ImageServer { volume: f(volume), image: f(image) },
            Self::Syscall(name) => Right::Syscall(f(name)),
            Self::OwnSyscall(name) => Right::OwnSyscall(f(name)),
            Self::Descriptor(what) => Right::Descriptor(f(what)),
            Self::Port { port, clients } => Right::Port { port: f(port), clients: f(clients) },
            Self::NodePath { path, access } => Right::NodePath { path: f(path), access: *access },
            Self::Selinux { source, target, class, permission } => Right::Selinux {
                source: f(source),
                target: f(target),
                class: f(class),
                permission: f(permission),
            },
            Self::SelinuxAttribute { domain, attribute } => {
                Right::SelinuxAttribute { domain: f(domain), attribute: f(attribute) }
            }
            Self::SelinuxRole { domain, role } => Right::SelinuxRole { domain: f(domain), role: f(role) },
            Self::Scc { field, value } => Right::Scc { field: f(field), value: f(value) },
            Self::MachineScc { field, value } => Right::MachineScc { field: f(field), value: f(value) },
            Self::Verb { group, resource, verb, namespace, name } => Right::Verb {
                group: f(group),
                resource: f(resource),
                verb: f(verb),
                namespace: namespace.as_ref().map(f),
                name: name.as_ref().map(f),
            },
            Self::Open { path, access } => Right::Open { path: f(path), access: *access },
            Self::Network { nic, step } => Right::Network { nic: f(nic), step: *step },
            Self::Host { operation, capability } => {
                Right::Host { operation: f(operation), capability: f(capability) }
            }
            Self::Sysctl { name, value } => Right::Sysctl { name: f(name), value: f(value) },
        }
    }
}

impl<T> VolumeSource<T> {
    fn map<U>(&self, f: &impl Fn(&T) -> U) -> VolumeSource<U> {
        match self {
            Self::Scratch => VolumeSource::Scratch,
            Self::HugePages => VolumeSource::HugePages,
            Self::Image(reference) => VolumeSource::Image(f(reference)),
            Self::HostPath { path, create } => VolumeSource::HostPath { path: f(path), create: *create },
            Self::Claim(name) => VolumeSource::Claim(f(name)),
            Self::Secret { name, keys } => VolumeSource::Secret { name: f(name), keys: f(keys) },
        }
    }
}

impl<T: fmt::Display> fmt::Display for VolumeSource<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scratch => f.write_str("scratch space"),
            Self::HugePages => f.write_str("hugetlbfs"),
            Self::Image(reference) => write!(f, "image {reference}"),
            Self::HostPath { path, create: false } => write!(f, "node directory {path}"),
            Self::HostPath { path, create: true } => write!(f, "node directory {path} (made when missing)"),
            Self::Claim(name) => write!(f, "claim {name}"),
            Self::Secret { name, keys } => write!(f, "secret {name}, keys {keys}"),
        }
    }
}

impl<T: fmt::Display> fmt::Display for Right<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capability(name) => write!(f, "capability {name}"),
            Self::PodField { field, value } => write!(f, "pod {field}={value}"),
            Self::Device { path, source, access } => match source {
                DeviceSource::Plugin(name) => write!(f, "device {path} ({access}) by {name}"),
                DeviceSource::Claim(name) => write!(f, "device {path} ({access}) of claim {name}"),
            },
            Self::Resource { name, quantity } => write!(f, "resource {name}={quantity}"),
            Self::Mount { path, source, access, .. } => write!(f, "mount {path} ({access}) of {source}"),
            Self::ImageHelper { image } => {
                write!(f, "container with a copy of our program, of image {image}")
            }
            Self::ImageServer { volume, image } => {
                write!(f, "container {volume} of image {image}, in which our program alone runs")
            }
            Self::Syscall(name) | Self::OwnSyscall(name) => write!(f, "system call {name}"),
            Self::Descriptor(what) => write!(f, "descriptor: {what}"),
            Self::Port { port, clients } => write!(f, "listening on port {port}: {clients}"),
            Self::NodePath { path, access } => write!(f, "node path {path} ({access})"),
            Self::Selinux { source, target, class, permission } => {
                write!(f, "selinux {source} {target} {class} {permission}")
            }
            Self::SelinuxAttribute { domain, attribute } => {
                write!(f, "selinux {domain} has attribute {attribute}")
            }
            Self::SelinuxRole { domain, role } => write!(f, "selinux {domain} in role {role}"),
            Self::Scc { field, value } => write!(f, "scc {field}={value}"),
            Self::MachineScc { field, value } => write!(f, "scc kubevirt-machine {field}={value}"),
            Self::Verb { group, resource, verb, namespace, name } => {
                write!(f, "{verb} {resource}")?;
                if !group.to_string().is_empty() {
                    write!(f, ".{group}")?;
                }
                if let Some(name) = name {
                    write!(f, " {name}")?;
                }
                if let Some(namespace) = namespace {
                    write!(f, " in namespace {namespace}")?;
                }
                Ok(())
            }
            Self::Open { path, access } => write!(f, "open {path} ({access})"),
            Self::Network { nic, step } => write!(f, "interface {nic}: {}", step.describe()),
            Self::Host { operation, capability } => write!(f, "{operation} ({capability})"),
            Self::Sysctl { name, value } => write!(f, "sysctl {name}={value}"),
        }
    }
}
