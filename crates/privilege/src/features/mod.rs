//! The table itself: one file for each feature.

mod api;
mod base_machine;
mod claims;
mod cloud_init;
mod confined;
mod container_disk;
mod control_plane;
mod dhcp;
mod empty_disk;
mod emulation;
mod graphics;
mod host_disk;
mod huge_pages;
mod kernel_boot;
mod kvm;
mod machine_api;
mod multi_queue;
mod net;
mod network;
mod node;
mod plug;
mod processes;
mod scc_webhook;
mod selinux_label;
mod serial_console;
mod served_image;
mod slot;
mod sriov;
mod syscalls;
mod user_namespace;
mod user_roles;

use crate::{feature::Feature, grant::Grant};
use ferrovirt_model::Profile;

/// Rights on system calls: `calls![Syscall: "read" "write"]`.
macro_rules! calls {
    ($kind:ident : $($name:literal)+) => { &[$($crate::right::Right::$kind($name)),+] };
}
use calls;

/// The entries of one feature.
struct Table {
    /// In either profile.
    both: &'static [&'static [Grant]],
    /// In the minimal profile only.
    minimal: &'static [Grant],
    /// In the documented profile only.
    documented: &'static [Grant],
}

impl Table {
    const NONE: Self = Self { both: &[], minimal: &[], documented: &[] };
}

/// What a feature grants in a profile. Texts of the rights may hold placeholders that a machine fills in.
pub fn grants(feature: Feature, profile: Profile) -> impl Iterator<Item = &'static Grant> {
    let table = table(feature);
    let own = match profile {
        Profile::Minimal => table.minimal,
        Profile::Documented => table.documented,
    };
    table.both.iter().copied().flatten().chain(own)
}

fn table(feature: Feature) -> &'static Table {
    match feature {
        Feature::BaseMachine => &base_machine::TABLE,
        Feature::Kvm => &kvm::TABLE,
        Feature::Emulation => &emulation::TABLE,
        Feature::Tap => &network::TAP,
        Feature::Masquerade => &network::MASQUERADE,
        Feature::Bridge => &network::BRIDGE,
        Feature::MultiQueue => &multi_queue::TABLE,
        Feature::Dhcp => &dhcp::TABLE,
        Feature::HugePages => &huge_pages::TABLE,
        Feature::ContainerDisk => &container_disk::TABLE,
        Feature::KernelBoot => &kernel_boot::TABLE,
        Feature::ServedImage => &served_image::ONE,
        Feature::ServedImages => &served_image::ALL,
        Feature::HostDiskRead => &host_disk::READ,
        Feature::HostDiskWrite => &host_disk::WRITE,
        Feature::HostDiskCreate => &host_disk::CREATE,
        Feature::ClaimFileRead => &claims::FILE_READ,
        Feature::ClaimFileWrite => &claims::FILE_WRITE,
        Feature::ClaimBlockRead => &claims::BLOCK_READ,
        Feature::ClaimBlockWrite => &claims::BLOCK_WRITE,
        Feature::Overlay => &container_disk::OVERLAY,
        Feature::EmptyDisk => &empty_disk::WRITE,
        Feature::EmptyDiskRead => &empty_disk::READ,
        Feature::CloudInit => &cloud_init::TABLE,
        Feature::CloudInitSecret => &cloud_init::SECRET,
        Feature::CloudInitMounted => &cloud_init::MOUNTED,
        Feature::Graphics => &graphics::TABLE,
        Feature::SerialConsole => &serial_console::TABLE,
        Feature::Sriov => &sriov::TABLE,
        Feature::SelinuxLabel => &selinux_label::TABLE,
        Feature::UserNamespace => &user_namespace::TABLE,
        Feature::VolumeGroup => &claims::GROUP,
        Feature::Slot => &slot::TABLE,
        Feature::ControlPlane => &control_plane::TABLE,
        Feature::SccWebhook => &scc_webhook::TABLE,
        Feature::MachineApi => &machine_api::TABLE,
        Feature::UserRoles => &user_roles::TABLE,
    }
}
