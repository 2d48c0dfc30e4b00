//! A whole node in the enforcing kernel: a disk with `ferrovirt` and what it needs of Debian's packages, labelled as the
//! base policy says, and `ferrovirt up` on it with machines of both profiles.

use super::{Nest, image, policy, start};
use crate::{guest::Guest, run, target};
use anyhow::{Context, Result, ensure};
use ferrovirt_lab_protocol::{Setup, read};
use ferrovirt_nested::{Check, NODE, Node, UNREACHABLE, Wanted};
use ferrovirt_plan::selinux::{DOCUMENTED_TYPE, base::Base};
use ferrovirt_privilege::{Domain, Feature};
use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

/// Modules in loading order: machines, then the network of pods.
const MODULES: [&str; 23] = [
    "irqbypass",
    "kvm",
    "kvm-amd",
    "tun",
    "libcrc32c",
    "llc",
    "stp",
    "bridge",
    "veth",
    "nfnetlink",
    "nf_defrag_ipv4",
    "nf_defrag_ipv6",
    "nf_conntrack",
    "nf_nat",
    "nf_tables",
    "nft_chain_nat",
    "nft_masq",
    "nft_nat",
    "nft_ct",
    "nf_conncount",
    "nft_connlimit",
    "nft_objref",
    "nft_meta_bridge",
];

/// What `ferrovirt up` starts, and what the administrator uses.
const PROGRAMS: [&str; 6] = [
    "/usr/bin/qemu-system-x86_64",
    "/usr/bin/crun",
    "/usr/sbin/nft",
    "/usr/lib/cni/bridge",
    "/usr/lib/cni/host-local",
    "/usr/bin/kubectl",
];

/// Labels that an administrator gives beyond the base's own: `ferrovirt up` comes as a container's image does, which the
/// container engine starts as a privileged container. Debian has the links by another file of the same policy.
const CONTEXTS: &str = "
/usr/bin/ferrovirt -- system_u:object_r:container_ro_file_t:s0
/usr/bin/virt-handler -- system_u:object_r:container_ro_file_t:s0
/usr/bin/virt-launcher -- system_u:object_r:container_ro_file_t:s0
/usr/libexec/nested/engine -- system_u:object_r:container_engine_exec_t:s0
/srv/log(/.*)? system_u:object_r:container_file_t:s0
/(bin|sbin) -l system_u:object_r:bin_t:s0
/lib(64)? -l system_u:object_r:lib_t:s0
";

/// Device nodes and directories in memory, which udev and systemd label on a real node.
const LABELS: [(&str, &str); 16] = [
    ("/run", "var_run_t"),
    ("/tmp", "tmp_t"),
    ("/dev/null", "null_device_t"),
    ("/dev/zero", "zero_device_t"),
    ("/dev/full", "null_device_t"),
    ("/dev/random", "random_device_t"),
    ("/dev/urandom", "urandom_device_t"),
    ("/dev/tty", "devtty_t"),
    ("/dev/console", "console_device_t"),
    ("/dev/ptmx", "ptmx_t"),
    ("/dev/kmsg", "kmsg_device_t"),
    ("/dev/kvm", "kvm_device_t"),
    ("/dev/net/tun", "tun_tap_device_t"),
    ("/dev/ttyS0", "tty_device_t"),
    ("/dev/ttyS1", "tty_device_t"),
    ("/dev/nvme0n1", "fixed_disk_device_t"),
];

const HUGE_PAGES: u32 = 140;
const GUEST_MIB: u32 = 192;

pub(super) fn run_node(
    nest: &Nest,
    guest: &Guest,
    base: &Base,
    overlay: &str,
    enforcing: bool,
) -> Result<()> {
    policy::compile(nest, base, overlay, &policy::Form::Node { reachable: false })?;
    fs::rename(nest.dir.join("policy"), nest.dir.join("policy.unreachable"))?;
    let contexts = policy::compile(nest, base, overlay, &policy::Form::Node { reachable: true })?;
    stage(nest, guest, &contexts, &plan(base, enforcing))?;
    let append = "root=/dev/nvme0n1 rw rootwait random.trust_cpu=on init=/usr/libexec/nested/init -- node";
    let words = "-drive if=none,id=root,format=raw,file=node.img -device nvme,serial=root,drive=root";
    let seen = start(nest, 3072, 900, words, append)?;
    fs::remove_file(nest.dir.join("node.img"))?;
    let said = read::<Check>(&seen.results);
    let mut failed = 0;
    for check in &said.reports {
        let text = check.failure.as_deref().unwrap_or(&check.seen).trim().replace('\n', "; ");
        failed += usize::from(check.failure.is_some());
        let verdict = if check.failure.is_some() { "FAILED" } else { "holds" };
        let colon = if text.is_empty() { "" } else { ": " };
        println!("{verdict:<7}{:>6} ms  {}{colon}{text}", check.took, check.name);
    }
    for note in &said.notes {
        println!("  {note}");
    }
    print!("{}", super::denied("the whole node", seen.console.lines()));
    ensure!(failed == 0, "{failed} checks failed");
    said.end.with_context(|| seen.last_lines())
}

fn plan(base: &Base, enforcing: bool) -> Node {
    use Feature::{HugePages, Kvm, MultiQueue, Tap};
    let domain = |features: &[Feature]| Domain::of(&features.iter().copied().collect()).name().to_owned();
    let wanted = |name: &str, profile: &str, domain: String, rich: bool| Wanted {
        name: name.to_owned(),
        profile: profile.to_owned(),
        manifest: manifest(name, rich),
        domain,
        huge_pages: if rich { GUEST_MIB / 2 } else { 0 },
    };
    Node {
        enforcing,
        setup: Setup {
            modules: MODULES.iter().map(|name| format!("/usr/libexec/nested/{name}.ko")).collect(),
            huge_pages: HUGE_PAGES,
            labels: LABELS
                .iter()
                .map(|(path, kind)| ((*path).to_owned(), format!("system_u:object_r:{kind}:s0")))
                .collect(),
        },
        engine: base.runtime.clone(),
        agent: base.agent.clone(),
        machines: vec![
            wanted("plain", "minimal", domain(&[Kvm, Tap]), false),
            wanted("rich", "minimal", domain(&[Kvm, Tap, MultiQueue, HugePages]), true),
            wanted("documented", "documented", DOCUMENTED_TYPE.to_owned(), false),
        ],
    }
}

/// A machine; a rich one has several queues, huge pages, a seed and a disk of its own.
fn manifest(name: &str, rich: bool) -> String {
    let (cores, pages, queues) = if rich {
        (2, ", hugepages: {pageSize: 2Mi}", "networkInterfaceMultiqueue: true, ")
    } else {
        (1, "", "")
    };
    let (disks, volumes) = if rich {
        (
            "disks: [{name: seed, disk: {bus: virtio}}, {name: scratch, disk: {bus: virtio}}], ",
            "volumes: [{name: seed, cloudInitNoCloud: {userData: '#!/bin/sh'}}, {name: scratch, emptyDisk: {capacity: 16Mi}}]",
        )
    } else {
        ("", "volumes: []")
    };
    format!(
        "
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {{name: {name}, namespace: default}}
spec:
  runStrategy: Always
  template:
    spec:
      terminationGracePeriodSeconds: 0
      domain:
        cpu: {{cores: {cores}}}
        memory: {{guest: {GUEST_MIB}Mi{pages}}}
        firmware:
          kernelBoot:
            container: {{image: ferrovirt/guest-kernel, kernelPath: /boot/vmlinuz, initrdPath: /boot/initrd}}
            kernelArgs: console=ttyS0 quiet no_timer_check random.trust_cpu=on
        devices: {{{disks}{queues}autoattachGraphicsDevice: false, interfaces: [{{name: default, masquerade: {{}}}}]}}
      networks: [{{name: default, pod: {{}}}}]
      {volumes}
"
    )
}

/// Makes the disk. Its labels need root, and nothing else here does.
fn stage(nest: &Nest, guest: &Guest, contexts: &Path, plan: &Node) -> Result<()> {
    let tree = nest.dir.join("tree");
    let _ = fs::remove_dir_all(&tree);
    for directory in
        ["usr/bin", "usr/sbin", "usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/libexec/nested", "usr/share"]
    {
        fs::create_dir_all(tree.join(directory))?;
    }
    for directory in [
        "etc/selinux",
        "root",
        "srv/log",
        "var/lib/selinux/default/active/modules",
        "proc",
        "sys",
        "dev",
        "run",
        "tmp",
    ] {
        fs::create_dir_all(tree.join(directory))?;
    }
    for (link, to) in [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")] {
        symlink(to, tree.join(link))?;
    }
    fs::write(tree.join("etc/selinux/config"), "SELINUX=enforcing\nSELINUXTYPE=default\n")?;
    fs::write(tree.join("etc/hosts"), "127.0.0.1 localhost\n")?;
    fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    let nested = image::nested()?;
    for name in ["init", "engine", "observer"] {
        image::program(&nested, &tree.join("usr/libexec/nested").join(name))?;
    }
    for module in MODULES {
        let copy = tree.join(format!("usr/libexec/nested/{module}.ko"));
        fs::copy(nest.selinux.join(format!("modules/{module}.ko")), copy)
            .with_context(|| module.to_owned())?;
    }
    fs::copy(nest.dir.join("policy"), tree.join("policy"))?;
    fs::copy(nest.dir.join("policy.unreachable"), tree.join(UNREACHABLE.trim_start_matches('/')))?;
    fs::write(tree.join(NODE.trim_start_matches('/')), serde_json::to_vec(plan)?)?;
    for program in PROGRAMS {
        image::with_libraries(Path::new(program), &tree)?;
    }
    for program in ["ferrovirt", "virt-handler", "virt-launcher"] {
        let source = target().join("dist").join(program);
        image::program(&source, &tree.join("usr/bin").join(program))?;
        image::libraries(&source, &tree)?;
    }
    image::with_libraries(Path::new(image::ACCELERATOR), &tree)?;
    for directory in ["qemu", "seabios"] {
        run(Command::new("cp")
            .arg("-a")
            .arg(Path::new("/usr/share").join(directory))
            .arg(tree.join("usr/share")))?;
    }
    run(Command::new("cp").arg("-a").arg(&guest.images).arg(tree.join("srv/images")))?;
    let mut text = fs::read_to_string(contexts)?;
    text.push_str(CONTEXTS);
    fs::write(contexts, text)?;
    run(Command::new("setfiles").arg("-r").arg(&tree).arg(contexts).arg(&tree))
        .context("labelling the node's files: it needs root and the package policycoreutils")?;
    let disk = nest.dir.join("node.img");
    let _ = fs::remove_file(&disk);
    fs::File::create(&disk)?.set_len(2 << 30)?;
    run(Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&tree).arg(&disk))?;
    Ok(fs::remove_dir_all(&tree)?)
}
