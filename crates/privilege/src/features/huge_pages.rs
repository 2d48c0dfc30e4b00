//! Guest memory in huge pages.
//!
//! The cgroup refuses pages that the pod did not ask for. In the minimal profile the memory is an anonymous file
//! (memfd) and nothing is mounted; in the documented profile QEMU creates and unlinks files in a hugetlbfs.

use super::Table;
use crate::{
    grant::{Grant, Phase, Subject, selinux},
    right::{Access, Right, VolumeSource},
};

pub(super) const TABLE: Table = Table {
    both: &[&[Grant::new(
        Subject::Qemu,
        Phase::Start,
        &[Right::Resource { name: "hugepages-{page}", quantity: "{size}" }],
        "kernel: hugetlb_cgroup_charge_cgroup refuses pages above the limit",
        "large guest memory is managed with larger pages",
        "huge-pages-resource",
    )]],
    minimal: &[Grant::new(
        Subject::Qemu,
        Phase::Start,
        selinux![
            "{domain}" "hugetlbfs_t" "file": "read" "write" "map",
            "{domain}" "hugetlbfs_t" "filesystem": "getattr",
        ],
        "security hooks: selinux_file_permission, selinux_mmap_file and selinux_sb_statfs on the anonymous file of huge pages, which has \
         the label of hugetlbfs",
        "the guest's memory is an anonymous file whose page size QEMU asks for; no entry of a hugetlbfs is made, opened or removed",
        "huge-pages-memfd-selinux",
    )],
    documented: &[
        Grant::new(
            Subject::Qemu,
            Phase::Start,
            &[Right::Mount {
                volume: "hugepages",
                path: "/dev/hugepages",
                source: VolumeSource::HugePages,
                access: Access::ReadWrite,
            }],
            "kernel: open of a file in a directory that is not a hugetlbfs gives ordinary pages",
            "the documented rules are about entries of a hugetlbfs",
            "huge-pages-mount",
        ),
        Grant::new(
            Subject::Qemu,
            Phase::Start,
            &[Right::Open { path: "/dev/hugepages", access: Access::ReadWrite }],
            "kernel: hugetlbfs_create and hugetlbfs_mmap on the mount",
            "QEMU creates, maps and unlinks the file that backs guest memory",
            "huge-pages-file",
        ),
        Grant::new(
            Subject::Qemu,
            Phase::Start,
            selinux![
                "virt_launcher.process" "hugetlbfs_t" "dir":
                    "add_name" "create" "write" "remove_name" "rmdir" "setattr",
                "virt_launcher.process" "hugetlbfs_t" "file": "create" "unlink",
            ],
            "security hooks: selinux_inode_create, mkdir, rmdir, unlink and setattr (may_create, may_link)",
            "reading and writing hugetlbfs entries",
            "huge-pages-selinux",
        ),
    ],
};
