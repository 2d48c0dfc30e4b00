//! Every kind of volume of a machine on a real kubelet: nobody but its launcher, which is no root and has no capability, sees
//! the files. The guest tells what is on its disks, and writes to them.
//!
//! The test is the part `api`, which renders the order from the machine, the configuration and the claims alone.
#![allow(clippy::indexing_slicing)]

mod common;

use anyhow::{Context, Result, ensure};
use common::{Api, TIMEOUT, Test};
use ferrovirt_api::kubevirt::{KubeVirt, VirtualMachineInstance};
use ferrovirt_cluster::{
    Options,
    oci::{Entry, Image},
    wait,
};
use ferrovirt_handler::net::talk::{FromApi, ToApi};
use ferrovirt_plan::{
    config::{ClusterConfig, World},
    render::order::{NodeFacts, claim_facts, order},
};
use ferrovirt_qemu::{
    order::Accelerator,
    protocol::{Event, Request, State},
};
use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

const MIB: u64 = 1 << 20;
const KERNEL: &str = "localhost/guest-kernel:1";
const DISK: &str = "localhost/guest-disk:1";

/// A file as a block device of this machine; it is none any more on drop.
struct Loop {
    device: String,
    file: PathBuf,
}

impl Loop {
    fn new(file: &Path) -> Result<Self> {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file).output()?;
        ensure!(output.status.success(), "losetup: {}", String::from_utf8_lossy(&output.stderr));
        let device = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(Self { device, file: file.to_owned() })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // A kubelet that was killed leaves another one on top, by which it held the device under a name of its own.
        let backed = [Path::new(&self.device), &self.file].map(identity);
        let arguments = ["--noheadings", "--list", "--output", "NAME,BACK-INO,BACK-MAJ:MIN"];
        let output = Command::new("losetup").args(arguments).output();
        let text =
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [name, inode, device] = words.as_slice()
                && backed.contains(&Some((inode.to_string(), device.to_string())))
            {
                let _ = Command::new("losetup").args(["--detach", name]).status();
            }
        }
    }
}

/// Number of the inode and of its file system's device, as losetup writes them.
fn identity(path: &Path) -> Option<(String, String)> {
    let data = fs::metadata(path).ok()?;
    let (major, minor) = (rustix::fs::major(data.dev()), rustix::fs::minor(data.dev()));
    Some((data.ino().to_string(), format!("{major}:{minor}")))
}

/// The kernel and RAM file system of the test guest, and a disk with a text in its first bytes.
fn guest(test: &Test) -> Result<()> {
    let made = ferrovirt_e2e::root().join("target/guest");
    let mut kernel = Image { name: KERNEL.to_owned(), ..Image::default() };
    for name in ["vmlinuz", "initrd"] {
        kernel.entries.insert(format!("boot/{name}"), Entry::File(made.join(name), 0o644));
    }
    let mut disk = Image { name: DISK.to_owned(), ..Image::default() };
    let mut content = b"of the image\n".to_vec();
    content.resize(usize::try_from(5 * MIB)?, 0);
    disk.entries.insert("disk/any-name.raw".to_owned(), Entry::Text(content, 0o644));
    let archives = [("kernel.tar", kernel), ("disk.tar", disk)].map(|(name, image)| {
        let path = test.cluster.layout().path(name);
        image.write(&path).map(|_| path)
    });
    let archives: Vec<PathBuf> = archives.into_iter().collect::<Result<_>>()?;
    test.cluster.load(&archives)
}

fn claim(test: &Test, name: &str, mode: &str, path: &Path, size: &str) -> Result<()> {
    let (path, node) = (path.display(), &test.node.name);
    test.cluster.apply(&format!(
        "
apiVersion: v1
kind: PersistentVolume
metadata: {{name: {name}}}
spec:
  capacity: {{storage: {size}}}
  accessModes: [ReadWriteOnce]
  storageClassName: manual
  volumeMode: {mode}
  local: {{path: '{path}'}}
  nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [{node}]}}]}}]}}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: {name}, namespace: vms}}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: manual
  volumeName: {name}
  volumeMode: {mode}
  resources: {{requests: {{storage: {size}}}}}
"
    ))?;
    test.kubectl(&format!("wait pvc/{name} -n vms --for=jsonpath={{.status.phase}}=Bound --timeout=60s"))
        .map(drop)
}

fn machine() -> String {
    format!(
        "
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {{name: disks, namespace: vms}}
spec:
  runStrategy: Once
  template:
    spec:
      terminationGracePeriodSeconds: 0
      domain:
        memory: {{guest: 256Mi}}
        firmware:
          kernelBoot:
            container: {{image: '{KERNEL}', kernelPath: /boot/vmlinuz, initrdPath: /boot/initrd}}
            kernelArgs: console=ttyS0 quiet tsc=reliable no_timer_check lpj=4000000
        devices:
          autoattachGraphicsDevice: false
          autoattachPodInterface: false
          disks:
          - {{name: image, disk: {{bus: virtio}}}}
          - {{name: files, disk: {{bus: virtio}}}}
          - {{name: block, disk: {{bus: virtio}}}}
          - {{name: empty, disk: {{bus: virtio}}}}
          - {{name: seed, disk: {{bus: virtio}}}}
      volumes:
      - {{name: image, containerDisk: {{image: '{DISK}'}}}}
      - {{name: files, persistentVolumeClaim: {{claimName: files}}}}
      - {{name: block, persistentVolumeClaim: {{claimName: block}}}}
      - {{name: empty, emptyDisk: {{capacity: 6Mi}}}}
      - {{name: seed, cloudInitNoCloud: {{secretRef: {{name: user}}, networkData: 'version: 2'}}}}
"
    )
}

/// What the guest runs: it shows what its disks hold, and writes to them.
const USER_DATA: &str = "#!/bin/sh
for disk in vda vdb vdc vdd; do
  echo $disk holds $(head -c 64 /dev/$disk | tr -d '\\000')
  echo written to $disk > /dev/$disk
done
sync
";

/// Sends what `api` sends for a machine. What keeps it waiting, if it does not run.
fn start(test: &Test, api: &Api, slot: &str) -> Result<Option<String>> {
    let vmi: VirtualMachineInstance = serde_json::from_value(test.json("get vmi disks -n vms")?)?;
    let machine = ferrovirt_api::machine(&vmi).map_err(|causes| anyhow::anyhow!("{causes:?}"))?;
    let kubevirt: KubeVirt = serde_json::from_value(test.json("get kubevirt kubevirt -n kubevirt")?)?;
    let config = ClusterConfig { world: World::Cluster, ..ClusterConfig::from_kubevirt(&kubevirt)? };
    let mut facts = NodeFacts::new(Accelerator::Tcg);
    let mut claims = std::collections::BTreeMap::new();
    for name in ["files", "block"] {
        claims
            .insert(name.to_owned(), serde_json::from_value(test.json(&format!("get pvc {name} -n vms"))?)?);
    }
    facts.block_claims.insert("block".to_owned());
    facts.disks = claim_facts(&machine, &claims);
    let relay = FromApi::Relay { slot: slot.to_owned(), link: api.link(slot) };
    let order = Box::new(order(&machine, &config, &facts)?);
    api.ask(&relay, &serde_json::to_vec(&Request::Start { order })?)?;
    api.until("an answer to the order", |head, body| {
        let ToApi::Said { slot: of, .. } = head else { return None };
        match serde_json::from_slice(body) {
            _ if of != slot => None,
            Ok(Event::NotReady { message }) => Some(Some(message)),
            Ok(Event::State { state: State::Running, .. }) => Some(None),
            Ok(Event::State { state: State::Ended { message, .. }, .. }) => Some(Some(message)),
            _ => None,
        }
    })
    .with_context(|| test.log())
}

#[test]
fn a_guest_has_every_kind_of_volume_and_its_launcher_no_right_on_the_node() -> Result<()> {
    let host = tempfile::Builder::new().prefix("ferrovirt-volumes-").tempdir()?;
    let directory = host.path().join("files");
    fs::create_dir(&directory)?;
    let backing = host.path().join("block.img");
    fs::File::create(&backing)?.set_len(8 * MIB)?;
    fs::write(&backing, [b"of the device\n".to_vec(), vec![0; usize::try_from(8 * MIB)? - 14]].concat())?;
    let device = Loop::new(&backing)?;

    let test = Test::start("volumes")?;
    guest(&test)?;
    let (_net, api) = test.net()?;
    claim(&test, "files", "Filesystem", &directory, "7Mi")?;
    claim(&test, "block", "Block", Path::new(&device.device), "8Mi")?;
    test.cluster.apply(&machine())?;
    let pod = wait("the launcher's pod", TIMEOUT, || {
        let pods = test.json("get pods -n vms -l kubevirt.io=virt-launcher")?;
        Ok(pods["items"][0]["metadata"]["name"].as_str().map(str::to_owned))
    })?;
    let slot = api.slot(&pod).with_context(|| test.log())?;
    api.state(&slot, State::Waiting).with_context(|| test.log())?;

    let waits = start(&test, &api, &slot)?.context("it runs without its secret")?;
    ensure!(waits.contains("secret user") && waits.contains("no key userdata or userData"), "{waits}");
    test.cluster.output(&[
        "create",
        "secret",
        "generic",
        "user",
        "-n",
        "vms",
        "--from-literal=other=of nobody's business",
        &format!("--from-literal=userdata={USER_DATA}"),
    ])?;
    wait("the kubelet to bring the secret", TIMEOUT, || {
        Ok(start(&test, &api, &slot)?.is_none().then_some(()))
    })?;

    let launchers = test.processes(&["/usr/bin/virt-launcher", "--slot"]);
    let launcher = launchers.first().context("no launcher")?;
    let root = PathBuf::from(format!("/proc/{}/root/var/run", launcher.pid));
    let serial = || fs::read(root.join("kubevirt/serial.log")).unwrap_or_default();
    let said = || String::from_utf8_lossy(&serial()).into_owned();
    wait("the guest to be ready", TIMEOUT, || Ok(said().contains("guest: ready").then_some(())))
        .with_context(said)?;
    let said = said();
    for (disk, bytes, holds) in [
        ("vda", 5 * MIB, "of the image"),
        ("vdb", 7 * MIB, ""),
        ("vdc", 8 * MIB, "of the device"),
        ("vdd", 6 * MIB, ""),
    ] {
        ensure!(said.contains(&format!("guest: disk {disk} bytes={bytes} ro=0")), "{disk}: {said}");
        let line = format!("user-data: {disk} holds {holds}");
        ensure!(said.contains(line.trim_end()), "{disk}: {said}");
    }
    ensure!(said.contains("network-config: version: 2"), "{said}");
    // The guest has written before it said so.
    let file = directory.join("disk.img");
    let begins = |path: &Path, text: &str| -> Result<()> {
        let content = fs::read(path)?;
        ensure!(content.starts_with(text.as_bytes()), "{}: {:?}", path.display(), content.get(..32));
        Ok(())
    };
    begins(&file, "written to vdb")?;
    begins(&backing, "written to vdc")?;
    let data = fs::metadata(&file)?;
    ensure!(data.gid() == 107 && data.uid() != 0 && data.mode() & 0o777 == 0o660, "{data:?}");
    ensure!(launcher.status("Groups")?.split_whitespace().any(|group| group == "107"), "another group");
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        ensure!(u64::from_str_radix(&launcher.status(set)?, 16)? == 0, "the launcher has a capability");
    }
    // Of the secret its pod has the keys that a seed is made of.
    let keys: Vec<String> = fs::read_dir(root.join("kubevirt-private/secret/seed-udata"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    let keys: Vec<&String> = keys.iter().filter(|name| !name.starts_with("..")).collect();
    ensure!(keys == ["userdata"], "{keys:?}");
    // The kubelet gives its volumes back, and with them the devices that it has made over ours.
    test.kubectl("delete vm disks -n vms --timeout=120s")?;
    wait("the pod to go", TIMEOUT, || {
        Ok(test.kubectl(&format!("get pod {pod} -n vms")).is_err().then_some(()))
    })
}

#[test]
fn where_image_volumes_are_off_containers_give_out_kernels_and_disks() -> Result<()> {
    let test = Test::whole(Options {
        name: "noimages".to_owned(),
        nodes: 1,
        behaves_as: Some("1.34".to_owned()),
        ..Options::default()
    })?;
    guest(&test)?;
    let seed = serde_json::to_string(USER_DATA)?;
    test.cluster.apply(&format!(
        "
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {{name: images, namespace: vms}}
spec:
  runStrategy: Once
  template:
    spec:
      terminationGracePeriodSeconds: 0
      domain:
        memory: {{guest: 256Mi}}
        firmware:
          kernelBoot:
            container: {{image: '{KERNEL}', kernelPath: /boot/vmlinuz, initrdPath: /boot/initrd}}
            kernelArgs: console=ttyS0 quiet tsc=reliable no_timer_check lpj=4000000
        devices:
          autoattachGraphicsDevice: false
          autoattachPodInterface: false
          disks:
          - {{name: image, disk: {{bus: virtio}}}}
          - {{name: seed, disk: {{bus: virtio}}}}
      volumes:
      - {{name: image, containerDisk: {{image: '{DISK}'}}}}
      - {{name: seed, cloudInitNoCloud: {{userData: {seed}}}}}
"
    ))?;
    let launcher = wait("a launcher", TIMEOUT, || {
        Ok(test.processes(&["/usr/bin/virt-launcher", "--slot"]).into_iter().next())
    })
    .with_context(|| test.log())?;
    let root = PathBuf::from(format!("/proc/{}/root/var/run", launcher.pid));
    let said = || fs::read_to_string(root.join("kubevirt/serial.log")).unwrap_or_default();
    wait("the guest to be ready", TIMEOUT, || Ok(said().contains("guest: ready").then_some(())))
        .with_context(|| format!("{}\n{}", said(), test.log()))?;
    let said = said();
    for line in [&format!("guest: disk vda bytes={} ro=0", 5 * MIB), "user-data: vda holds of the image"] {
        ensure!(said.contains(line), "{line}: {said}");
    }
    let pods = test.json("get pods -n vms -l kubevirt.io=virt-launcher")?;
    let pod = &pods["items"][0];
    let names = |field: &str| -> Vec<String> {
        let all = pod["spec"][field].as_array().cloned().unwrap_or_default();
        all.iter().map(|one| one["name"].as_str().unwrap_or_default().to_owned()).collect()
    };
    ensure!(
        names("initContainers") == ["image-helper", "serve-image", "serve-kernel-boot-volume"],
        "{pod:#}"
    );
    ensure!(names("containers") == ["compute"], "{pod:#}");
    // Nothing of the images runs, and what runs there has no right.
    let servers = test.processes(&["/var/run/kubevirt-image-helper/virt-launcher", "--serve-image"]);
    ensure!(servers.len() == 2, "{} containers of images", servers.len());
    for server in &servers {
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            ensure!(u64::from_str_radix(&server.status(set)?, 16)? == 0, "{set} of a container of an image");
        }
        ensure!(server.status("NoNewPrivs")? == "1" && server.status("Seccomp")? == "2", "no filter");
        ensure!(server.status("Uid")?.split_whitespace().all(|user| user == "107"), "another user");
    }
    let vmi = test.json("get vmi images -n vms")?;
    ensure!(vmi["status"]["launcherPod"]["uid"] == pod["metadata"]["uid"], "no record: {vmi:#}");
    no_user_namespaces(&test)?;
    // The containers end with the guest.
    test.kubectl("delete vm images -n vms --timeout=60s").with_context(|| test.log())?;
    wait("the pod to go", TIMEOUT, || {
        let pods = test.json("get pods -n vms -l kubevirt.io=virt-launcher")?;
        Ok(pods["items"].as_array().is_some_and(Vec::is_empty).then_some(()))
    })
    .with_context(|| test.log())
}

/// The API server takes user namespaces out of pods: a machine that would have one starts without, and the KubeVirt object says
/// both, that and what of images.
fn no_user_namespaces(test: &Test) -> Result<()> {
    test.cluster.apply(
        "
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {name: plain, namespace: vms}
spec:
  runStrategy: Always
  template:
    spec: {terminationGracePeriodSeconds: 0, domain: {memory: {guest: 64Mi}, devices: {}}}
",
    )?;
    wait("the plain machine to run", TIMEOUT, || {
        let Ok(vmi) = test.json("get vmi plain -n vms") else { return Ok(None) };
        Ok((vmi["status"]["phase"] == "Running").then_some(()))
    })
    .with_context(|| test.log())?;
    for (kind, words, reason) in [
        ("ImageVolumes", "feature gate ImageVolume", "NoImageVolumes"),
        ("UserNamespaces", "feature gate UserNamespacesSupport", "NoUserNamespaces"),
    ] {
        wait(&format!("the condition {kind}"), TIMEOUT, || {
            let object = test.json("get kubevirt kubevirt -n kubevirt")?;
            let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let said = all.iter().find(|condition| condition["type"] == kind);
            Ok(said
                .filter(|said| said["status"] == "False" && said["reason"] == "ApiServer")
                .filter(|said| said["message"].as_str().is_some_and(|text| text.contains(words)))
                .map(drop))
        })
        .with_context(|| test.log())?;
        let events = test.json(&format!("get events -n kubevirt --field-selector=reason={reason}"))?;
        ensure!(events["items"].as_array().is_some_and(|all| all.len() == 1), "{reason}: {events:#}");
    }
    let pods = test.json("get pods -n vms -l kubevirt.io=virt-launcher")?;
    let with =
        pods["items"].as_array().into_iter().flatten().filter(|pod| !pod["spec"]["hostUsers"].is_null());
    ensure!(with.count() == 0, "{pods:#}");
    test.kubectl("delete vm plain -n vms --timeout=60s").map(drop)
}
