//! What is rendered and read back is what was granted, mechanism by mechanism.

mod installation;

use super::*;
use crate::{
    config::{ClusterConfig, World},
    judge::judge,
    render,
    render::order::{DiskFacts, NicFacts, NodeFacts, order},
    samples,
    selinux::base::Base,
};
use ferrovirt_api::kubevirt::VirtualMachineInstance;
use ferrovirt_model::{
    Machine, PageSize, Profile,
    machine::{Binding, Bus, DiskTarget, KernelBoot, NicModel},
};
use ferrovirt_privilege::{
    Access, Domain, GrantSet, Label, NetworkStep, Right, Subject, Surface, Surroundings, VolumeSource,
    cluster_grants, machine_grants,
};
use ferrovirt_qemu::order::{Accelerator, Lease};
use k8s_openapi::api::core::v1::{Container, HostPathVolumeSource, Pod, PodSpec, VolumeMount};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::{collections::BTreeSet, net::Ipv4Addr};

const PROFILES: [Profile; 2] = [Profile::Minimal, Profile::Documented];

fn config(profile: Profile, use_emulation: bool) -> ClusterConfig {
    ClusterConfig { profile, use_emulation, ..ClusterConfig::default() }
}

fn block_claims() -> BTreeSet<String> {
    BTreeSet::from(["block".to_owned()])
}

fn granted(machine: &Machine, config: &ClusterConfig) -> GrantSet {
    machine_grants(machine, &config.surroundings(&block_claims()), config.profile)
}

fn rendered(machine: &Machine, config: &ClusterConfig) -> Pod {
    let mut owner = VirtualMachineInstance::default();
    owner.metadata.uid = Some(machine.uid.clone());
    owner.metadata.annotations =
        Some([("openshift.io/required-scc".to_owned(), "privileged".to_owned())].into());
    render::pod_with_claims(machine, &owner, config, &block_claims())
}

fn facts(machine: &Machine) -> NodeFacts {
    let mut facts = NodeFacts::new(Accelerator::Tcg);
    facts.block_claims = block_claims();
    for disk in &machine.disks {
        let root = crate::paths::disk_root(disk, false);
        let path = crate::paths::disk_file(disk, true).is_none().then(|| format!("{root}/disk/only.img"));
        facts.disks.insert(disk.name.clone(), DiskFacts { path, ..DiskFacts::default() });
    }
    for interface in &machine.interfaces {
        let address = Ipv4Addr::new(10, 0, 2, 2);
        let lease = Lease {
            address,
            prefix: 24,
            server: Ipv4Addr::new(10, 0, 2, 1),
            gateway: None,
            dns: vec![],
            search: vec![],
            hostname: machine.name.clone(),
            mtu: 1500,
        };
        let made = NicFacts {
            mac: "02:00:00:00:00:01".into(),
            lease: Some(lease),
            tap: "tap0".into(),
            bridge: "k6t-eth0".into(),
            mtu: 1500,
        };
        facts.nics.insert(interface.name.clone(), made);
    }
    facts
}

/// Proof 2 for the pod of a labelled machine.
#[test]
fn a_labelled_pod_is_its_grants() {
    for profile in PROFILES {
        let config = config(profile, true);
        for machine in [samples::plain(), samples::full()] {
            let kind = config.launcher_type(&machine, &config.surroundings(&block_claims()));
            let label = Label { kind: kind.clone(), level: "s0:c12,c345".to_owned() };
            let surroundings = Surroundings { label: Some(label), ..config.surroundings(&block_claims()) };
            let mut owner = VirtualMachineInstance::default();
            owner.metadata.uid = Some(machine.uid.clone());
            let pod = render::pod_in(&machine, &owner, &config, &surroundings);
            let grants = machine_grants(&machine, &surroundings, profile);
            assert_eq!(pod::lift(&pod), grants.on(Surface::Pod));
            let label = pod.spec.unwrap().security_context.unwrap().se_linux_options.unwrap();
            assert_eq!(label.type_, Some(kind));
            assert_eq!(label.level.as_deref(), Some("s0:c12,c345"));
        }
    }
}

/// Proof 2, for the documents of one machine in either world; and they fit together.
fn equal(machine: &Machine, profile: Profile, emulation: bool) {
    for world in [World::Machine, World::Cluster] {
        equal_in(machine, &ClusterConfig { world, ..config(profile, emulation) });
    }
    equal_in(machine, &served(profile, emulation));
}

/// A cluster that mounts no images.
fn served(profile: Profile, emulation: bool) -> ClusterConfig {
    let (world, image_user) = (World::Cluster, Some(107));
    ClusterConfig { world, image_user, serves_images: true, ..config(profile, emulation) }
}

/// A container of an image is a right of its own only as it is rendered.
#[test]
fn a_container_of_an_image_with_more_is_seen() {
    let of = |change: &dyn Fn(&mut PodSpec)| {
        let mut pod = rendered(&samples::full(), &served(Profile::Minimal, false));
        change(pod.spec.as_mut().unwrap());
        pod::lift(&pod)
    };
    let plain = of(&|_| {});
    let servers = plain.iter().filter(|right| matches!(right, Right::ImageServer { .. })).count();
    assert!(servers > 1 && plain.iter().any(|right| matches!(right, Right::ImageHelper { .. })), "{plain:?}");
    let with = |change: &dyn Fn(&mut Container)| {
        of(&|spec| change(spec.init_containers.as_mut().unwrap().last_mut().unwrap()))
    };
    for (what, lifted) in [
        ("a program of the image", with(&|one| one.command.as_mut().unwrap()[0] = "/bin/sh".into())),
        ("arguments", with(&|one| one.args = Some(vec!["/etc".into()]))),
        ("another socket", with(&|one| one.command.as_mut().unwrap()[2] = "/run/x".into())),
        ("root", with(&|one| one.security_context.as_mut().unwrap().run_as_user = Some(0))),
        (
            "a helper that can be changed",
            with(&|one| one.volume_mounts.as_mut().unwrap()[0].read_only = None),
        ),
        (
            "another mount",
            with(&|one| {
                let mount = one.volume_mounts.as_ref().unwrap()[0].clone();
                one.volume_mounts.as_mut().unwrap().push(VolumeMount { mount_path: "/x".into(), ..mount });
            }),
        ),
        (
            "another volume in the helper's place",
            of(&|spec| {
                let volumes = spec.volumes.as_mut().unwrap();
                let helper = volumes.iter_mut().find(|volume| volume.name == "image-helper").unwrap();
                helper.empty_dir = None;
                helper.host_path = Some(HostPathVolumeSource { path: "/".into(), type_: None });
            }),
        ),
    ] {
        let field = |right: &Right<String>| matches!(right, Right::PodField { field, .. } if field == "initContainers");
        assert!(lifted.iter().any(field), "{what}: {lifted:?}");
    }
}

fn equal_in(machine: &Machine, config: &ClusterConfig) {
    let profile = config.profile;
    let grants = granted(machine, config);
    let pod = rendered(machine, config);
    assert_eq!(pod::lift(&pod), grants.on(Surface::Pod), "pod of {machine:#?}");
    let order = order(machine, config, &facts(machine)).unwrap();
    assert_eq!(super::order::lift(&order), ordered(&grants, config), "order of {machine:#?}");
    let scc = render::scc::controller(&cluster_grants(profile));
    assert_eq!(judge(&pod, &order, &scc), BTreeSet::new(), "plan of {machine:#?}");
}

/// What an order may have. On a cluster queues come to QEMU in one way: what the documented profile lets a launcher do itself
/// beside that is not used there.
fn ordered(grants: &GrantSet, config: &ClusterConfig) -> BTreeSet<Right<String>> {
    let one_way = |right| match (config.world, right) {
        (World::Cluster, Right::Network { nic, step }) => {
            let step = match step {
                NetworkStep::CreateTap => NetworkStep::ReceiveQueue,
                NetworkStep::CreateMoreQueues => NetworkStep::ReceiveMoreQueues,
                other => other,
            };
            Right::Network { nic, step }
        }
        (_, right) => right,
    };
    grants.on(Surface::Order).into_iter().map(one_way).collect()
}

fn any_machine() -> impl Strategy<Value = Machine> {
    let sources = samples::sources();
    let disk =
        (0..sources.len(), any::<bool>(), any::<bool>(), prop_oneof![Just(Bus::Virtio), Just(Bus::Sata)]);
    let interface = (any::<bool>(), 1..=4_u32, any::<bool>());
    let kernel = proptest::option::of((any::<bool>(), any::<bool>()));
    (
        proptest::collection::vec(disk, 0..6),
        proptest::collection::vec(interface, 0..3),
        proptest::option::of(Just(2_u64 << 20)),
        kernel,
        any::<(bool, bool, bool, bool)>(),
        1..=8_u32,
    )
        .prop_map(
            move |(disks, interfaces, page, kernel, (graphics, serial, balloon, paused), cores)| {
                let mut machine = samples::plain();
                machine.cpu.cores = cores;
                machine.memory.huge_pages = page.and_then(PageSize::new);
                machine.devices.graphics = graphics;
                machine.devices.serial_console = serial;
                machine.devices.balloon = balloon;
                machine.start_paused = paused;
                machine.firmware.kernel_boot = kernel.map(|(kernel, initrd)| KernelBoot {
                    image: "guests/kernel:6".into(),
                    kernel_path: (kernel || !initrd).then(|| "/boot/vmlinuz".into()),
                    initrd_path: initrd.then(|| "/boot/initrd".into()),
                    args: "quiet".into(),
                });
                for (n, (source, read_only, cdrom, bus)) in disks.into_iter().enumerate() {
                    let mut disk = samples::disk(&format!("disk{n}"), sources[source].clone());
                    (disk.read_only, disk.bus) = (read_only, bus);
                    disk.target = if cdrom { DiskTarget::Cdrom } else { DiskTarget::Disk };
                    machine.disks.push(disk);
                }
                for (n, (masquerade, queues, virtio)) in interfaces.into_iter().enumerate() {
                    let binding = if masquerade { Binding::Masquerade } else { Binding::Bridge };
                    let queues = if virtio { queues } else { 1 };
                    let mut interface = samples::interface(&format!("net{n}"), binding, queues);
                    interface.model = if virtio { NicModel::Virtio } else { NicModel::E1000 };
                    machine.interfaces.push(interface);
                }
                machine
            },
        )
}

proptest! {
    #[test]
    fn the_documents_of_a_machine_are_its_grants(machine in any_machine(), documented: bool, emulation: bool) {
        equal(&machine, if documented { Profile::Documented } else { Profile::Minimal }, emulation);
    }
}

#[test]
fn the_documents_of_the_table_of_machines_are_their_grants() {
    for profile in PROFILES {
        for emulation in [false, true] {
            equal(&samples::plain(), profile, emulation);
            equal(&samples::full(), profile, emulation);
            for source in samples::sources() {
                for read_only in [false, true] {
                    let mut machine = samples::plain();
                    machine.disks = vec![samples::disk("root", source.clone())];
                    machine.disks[0].read_only = read_only;
                    equal(&machine, profile, emulation);
                }
            }
        }
    }
}

#[test]
fn the_documents_of_the_cluster_are_its_grants() {
    for profile in PROFILES {
        let grants = cluster_grants(profile);
        assert_eq!(seccomp::lift(&render::seccomp::profile()), grants.on(Surface::Seccomp));
        assert_eq!(scc::lift(&render::scc::controller(&grants)), grants.on(Surface::Scc));
        assert_eq!(scc::lift(&render::scc::machine(&grants)), grants.on(Surface::MachineScc));
    }
}

#[test]
fn the_selinux_modules_are_their_grants() {
    let grants = cluster_grants(Profile::Documented);
    assert_eq!(cil::lift(&render::cil::rules(&grants)).unwrap(), grants.on(Surface::Selinux));
    for base in [Base::refpolicy(), Base::container_selinux()] {
        let text = ferrovirt_selinux::cil::text(&render::cil::minimal(&base));
        let asked = Domain::all().iter().flat_map(|domain| base.rights(domain)).collect();
        assert_eq!(cil::lift(&text).unwrap(), asked, "{text}");
    }
}

/// The filters that are compiled into our programs are those of the table, and the launcher's is no wider than the pod's.
#[test]
fn the_compiled_filters_are_what_the_table_says() {
    let compiled = include_str!("../../../../sys/src/calls.rs");
    let lists = calls::lift(compiled);
    let grants = cluster_grants(Profile::Minimal);
    let of = |subject| -> BTreeSet<String> {
        let rights = grants.of(subject).into_iter();
        rights
            .filter_map(|right| match right {
                Right::Syscall(name) | Right::OwnSyscall(name) => Some(name),
                _ => None,
            })
            .collect()
    };
    let names: Vec<&str> = lists.keys().map(String::as_str).collect();
    assert_eq!(names, ["API_SERVER", "LAUNCHER", "LAUNCHER_ON_SLOT", "NET", "PLUG", "QEMU"]);
    assert_eq!(lists["API_SERVER"], of(Subject::ApiServer));
    assert_eq!(lists["PLUG"], of(Subject::Plug));
    assert_eq!(lists["NET"], of(Subject::Net));
    assert_eq!(lists["QEMU"], of(Subject::Qemu));
    assert_eq!(lists["LAUNCHER_ON_SLOT"], &of(Subject::Launcher) | &of(Subject::Qemu));
    let more: Vec<_> = lists["LAUNCHER_ON_SLOT"].difference(&lists["LAUNCHER"]).collect();
    assert_eq!(more, ["connect", "pidfd_open"]);
    let pod: BTreeSet<_> = lists["LAUNCHER"].iter().cloned().map(Right::Syscall).collect();
    assert_eq!(pod, seccomp::lift(&render::seccomp::profile()));
    for call in [
        "io_uring_setup",
        "userfaultfd",
        "ptrace",
        "bpf",
        "perf_event_open",
        "keyctl",
        "mount",
        "kexec_load",
        "unshare",
        "setns",
        "init_module",
        "add_key",
        "pivot_root",
        "process_vm_writev",
        "open_by_handle_at",
    ] {
        assert!(lists.values().all(|calls| !calls.contains(call)), "{call}");
    }
    assert!(!lists["API_SERVER"].contains("execve"));
    // A line that is no call is seen.
    let more = compiled.replacen("libc::SYS_accept4,", "libc::SYS_accept4, 321,", 1);
    assert_ne!(calls::lift(&more), lists);
}

/// Proof 4 for pods: whatever is added to a rendered pod is seen.
#[test]
fn a_pod_with_more_is_seen() {
    let config = config(Profile::Minimal, false);
    let machine = samples::full();
    let good = rendered(&machine, &config);
    let expected = granted(&machine, &config).on(Surface::Pod);
    type Change = fn(&mut k8s_openapi::api::core::v1::PodSpec);
    let changes: [(&str, Change); 14] = [
        ("host network", |spec| spec.host_network = Some(true)),
        ("host processes", |spec| spec.host_pid = Some(true)),
        ("token", |spec| spec.automount_service_account_token = None),
        ("second container", |spec| spec.containers.push(spec.containers[0].clone())),
        ("init container", |spec| spec.init_containers = Some(spec.containers.clone())),
        ("user", |spec| spec.security_context.as_mut().unwrap().run_as_user = Some(0)),
        ("root", |spec| spec.security_context.as_mut().unwrap().run_as_non_root = None),
        ("seccomp", |spec| spec.security_context.as_mut().unwrap().seccomp_profile = None),
        ("unmounted volume", |spec| {
            let mut volume = spec.volumes.as_ref().unwrap()[0].clone();
            volume.name = "more".into();
            spec.volumes.as_mut().unwrap().push(volume);
        }),
        ("write access", |spec| {
            let mounts = spec.containers[0].volume_mounts.as_mut().unwrap();
            mounts.iter_mut().find(|mount| mount.read_only == Some(true)).unwrap().read_only = None;
        }),
        ("capability", |spec| {
            let context = spec.containers[0].security_context.as_mut().unwrap();
            context.capabilities.as_mut().unwrap().add = Some(vec!["NET_ADMIN".into()]);
        }),
        ("all capabilities", |spec| {
            spec.containers[0].security_context.as_mut().unwrap().capabilities = None;
        }),
        ("privileged", |spec| {
            spec.containers[0].security_context.as_mut().unwrap().privileged = Some(true);
        }),
        ("device", |spec| {
            let resources = spec.containers[0].resources.as_mut().unwrap();
            let one = k8s_openapi::apimachinery::pkg::api::resource::Quantity("1".into());
            resources.limits.as_mut().unwrap().insert("devices.kubevirt.io/tun".into(), one);
        }),
    ];
    for (what, change) in changes {
        let mut pod = good.clone();
        change(pod.spec.as_mut().unwrap());
        assert_ne!(pod::lift(&pod), expected, "{what}");
    }
}

/// Pod Security `restricted`, the rules of it that a launcher pod could break.
#[test]
fn a_plain_minimal_machine_needs_nothing() {
    let mut machine = samples::plain();
    machine.interfaces = vec![samples::interface("default", Binding::Masquerade, 4)];
    let config = config(Profile::Minimal, true);
    let pod = rendered(&machine, &config);
    let lifted = pod::lift(&pod);
    let mounts = lifted.iter().all(|right| matches!(right, ferrovirt_privilege::Right::Mount { .. }));
    assert!(mounts, "{lifted:#?}");
    // A machine cannot choose the SCC of its pod: without a recorded decision it is everybody's.
    assert_eq!(pod.metadata.annotations.unwrap()["openshift.io/required-scc"], "restricted-v2");
}

#[test]
fn a_cil_text_that_is_not_ours_is_refused() {
    for text in [
        "(",
        ")",
        "(typepermissive x)",
        "(typetransition a b c d)",
        "(allow a b (c))",
        "allow",
        &"(".repeat(100),
    ] {
        assert!(cil::lift(text).is_err(), "{text}");
    }
    assert!(cil::lift("; only a comment").unwrap().is_empty());
}
