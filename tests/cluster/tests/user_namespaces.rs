//! Launchers with users of their own on a real Kubernetes: what a guest that breaks out of QEMU would be on the node, with
//! `hostUsers: false` and without, and that guests have their disks and network all the same.
#![allow(clippy::indexing_slicing)]

mod common;

use anyhow::{Context, Result, ensure};
use common::{TIMEOUT, Test};
use ferrovirt_cluster::{
    Options,
    oci::{Entry, Image},
    wait,
};
use ferrovirt_e2e::process::Process;
use ferrovirt_privilege::{Scenario, scenario::registered};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
};

const KERNEL: &str = "localhost/guest:1";
const DISK: &str = "localhost/guest-disk:1";
/// Users that a kubelet gives a pod.
const UNIT: u32 = 65_536;
/// The launcher's, in its pod.
const USER: u32 = 107;
/// What is in a file of the node's user of that number.
const SECRET: &str = "of the node's user 107\n";

/// A machine whose volumes are mounted images, scratch space, a secret and, where there is one, a claim.
fn manifest(claim: bool) -> String {
    let (disk, volume) = match claim {
        true => (
            "- {name: files, disk: {bus: virtio}}",
            "- {name: files, persistentVolumeClaim: {claimName: files}}",
        ),
        false => ("", ""),
    };
    format!(
        "
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {{name: guest, namespace: vms}}
spec:
  runStrategy: Always
  template:
    spec:
      terminationGracePeriodSeconds: 0
      domain:
        cpu: {{cores: 2}}
        memory: {{guest: 128Mi}}
        firmware:
          kernelBoot:
            container: {{image: '{KERNEL}', kernelPath: /boot/vmlinuz, initrdPath: /boot/initrd}}
            kernelArgs: console=ttyS0
        devices:
          networkInterfaceMultiqueue: true
          interfaces: [{{name: default, masquerade: {{}}}}]
          disks:
          - {{name: image, disk: {{bus: virtio}}}}
          - {{name: empty, disk: {{bus: virtio}}}}
          - {{name: seed, disk: {{bus: virtio}}}}
          {disk}
      networks: [{{name: default, pod: {{}}}}]
      volumes:
      - {{name: image, containerDisk: {{image: '{DISK}'}}}}
      - {{name: empty, emptyDisk: {{capacity: 6Mi}}}}
      - {{name: seed, cloudInitNoCloud: {{secretRef: {{name: user}}}}}}
      {volume}
"
    )
}

/// What the guest runs: it shows what its disks hold, writes to them, and speaks with the node through its pod's translation.
const USER_DATA: &str = "#!/bin/sh
for disk in vda vdb vdd; do
  if [ -e /dev/$disk ]; then
    echo $disk holds $(head -c 64 /dev/$disk | tr -d '\\000')
    echo written to $disk > /dev/$disk
  fi
done
sync
ping -c 3 -W 10 10.244.1.1 > /dev/null && echo the node answers
echo the disks are done
";

fn images(test: &Test) -> Result<()> {
    let made = ferrovirt_e2e::root().join("target/guest");
    let mut kernel = Image { name: KERNEL.to_owned(), ..Image::default() };
    for name in ["vmlinuz", "initrd"] {
        kernel.entries.insert(format!("boot/{name}"), Entry::File(made.join(name), 0o644));
    }
    let mut disk = Image { name: DISK.to_owned(), ..Image::default() };
    let mut content = b"of the image\n".to_vec();
    content.resize(5 << 20, 0);
    disk.entries.insert("disk/disk.raw".to_owned(), Entry::Text(content, 0o644));
    let mut archives = Vec::new();
    for (name, image) in [("kernel.tar", kernel), ("disk.tar", disk)] {
        let archive = test.cluster.layout().path(name);
        image.write(&archive)?;
        archives.push(archive);
    }
    test.cluster.load(&archives)
}

fn configure(test: &Test, user_namespaces: &str) -> Result<()> {
    let patch = json!({"spec": {"configuration": {"userNamespaces": user_namespaces}}}).to_string();
    let words = ["patch", "kubevirt", "kubevirt", "-n", "kubevirt", "--type=merge", "-p", &patch];
    test.cluster.output(&words)?;
    wait("the controller to have seen it", TIMEOUT, || {
        let object = test.json("get kubevirt kubevirt -n kubevirt")?;
        Ok((object["status"]["observedGeneration"] == object["metadata"]["generation"]).then_some(()))
    })
    .with_context(|| test.log())
}

/// QEMU of the machine when its guest is up and has used its disks, and the pod.
fn runs(test: &Test) -> Result<(Process, Value)> {
    let guest =
        wait("QEMU", TIMEOUT, || Ok(test.processes(&["qemu-system-x86_64", "vms_guest"]).into_iter().next()))
            .with_context(|| test.log())?;
    let serial = || {
        let path = PathBuf::from(format!("/proc/{}/root/var/run/kubevirt/serial.log", guest.pid));
        String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
    };
    for word in [
        "guest: ready",
        "guest: eth0 address=10.0.2.2",
        "vda holds of the image",
        "the node answers",
        "the disks are done",
    ] {
        wait(word, TIMEOUT, || Ok(serial().contains(word).then_some(()))).with_context(serial)?;
    }
    let vmi = wait("the phase Running", TIMEOUT, || {
        let vmi = test.json("get vmi guest -n vms")?;
        Ok((vmi["status"]["phase"] == "Running").then_some(vmi))
    })
    .with_context(|| test.log())?;
    let uid = vmi["metadata"]["uid"].as_str().context("no UID")?;
    let pods = test.json(&format!("get pods -n vms -l kubevirt.io/created-by={uid}"))?;
    let pod = pods["items"][0].clone();
    ensure!(vmi["status"]["interfaces"][0]["ipAddress"] == pod["status"]["podIP"], "{vmi:#}");
    Ok((guest, pod))
}

/// The node's number of the first user of the process's user namespace, and how many it has.
fn users(process: &Process) -> Result<[u32; 3]> {
    let map = fs::read_to_string(format!("/proc/{}/uid_map", process.pid))?;
    let numbers: Result<Vec<u32>, _> = map.split_whitespace().map(str::parse).collect();
    numbers?.try_into().map_err(|_| anyhow::anyhow!("{map}"))
}

fn user(process: &Process) -> Result<u32> {
    Ok(process.status("Uid")?.split_whitespace().next().context("no user")?.parse()?)
}

fn has_own_users(test: &Test) -> Result<Process> {
    let (guest, pod) = runs(test)?;
    ensure!(pod["spec"]["hostUsers"] == false, "{pod:#}");
    let [of_pod, first, count] = users(&guest)?;
    ensure!(of_pod == 0 && first >= UNIT && first % UNIT == 0 && count == UNIT, "{of_pod} {first} {count}");
    ensure!(user(&guest)? == first + USER, "{}", user(&guest)?);
    ensure!(u64::from_str_radix(&guest.status("CapEff")?, 16)? == 0);
    let host = fs::read_link("/proc/self/ns/user")?;
    ensure!(fs::read_link(format!("/proc/{}/ns/user", guest.pid))? != host, "it has none of its own");
    Ok(guest)
}

/// Whether who the guest's process is on the node may read a file of the node's user 107: not where its pod has users of its own.
fn reads(process: &Process, file: &Path) -> Result<bool> {
    let number = |field: &str| -> Result<u32> {
        Ok(process.status(field)?.split_whitespace().next().context("no number")?.parse()?)
    };
    let output = Command::new("setpriv")
        .args([format!("--reuid={}", number("Uid")?), format!("--regid={}", number("Gid")?)])
        .args(["--clear-groups", "cat"])
        .arg(file)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success() || said.contains("Permission denied"), "{said}");
    Ok(output.status.success() && output.stdout == SECRET.as_bytes())
}

/// The condition of an object.
fn condition(object: &Value, kind: &str) -> Value {
    let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default()
}

fn cluster_says(test: &Test, status: &str, reason: &str, words: &str) -> Result<()> {
    let said = || {
        Ok::<_, anyhow::Error>(condition(&test.json("get kubevirt kubevirt -n kubevirt")?, "UserNamespaces"))
    };
    wait(&format!("UserNamespaces={status}, {reason}"), TIMEOUT, || {
        let said = said()?;
        let has = said["message"].as_str().is_some_and(|message| message.contains(words));
        Ok((said["status"] == status && said["reason"] == reason && has).then_some(()))
    })
    .with_context(|| format!("{:#}", said().unwrap_or_default()))
}

/// A runtime that refuses containers of one kind (`sandbox`, `container`) that have a user namespace, and what it says then, in
/// its log, as runc does.
fn break_runtime(test: &Test, kind: &str, words: &str) -> Result<()> {
    let runc = test.cluster.layout().path("bin/runc");
    let kept = test.cluster.layout().path("bin/runc-as-it-was");
    if !kept.exists() {
        std::os::unix::fs::symlink(fs::canonicalize(&runc)?, &kept)?;
    }
    let script = format!(
        "#!/bin/sh
for word in \"$@\"; do
  if [ \"$before\" = --log ]; then log=$word; fi
  if [ \"$before\" = --bundle ] && grep -q '\"type\":\"user\"' \"$word/config.json\" &&
      grep -q '\"io.kubernetes.cri.container-type\":\"{kind}\"' \"$word/config.json\"; then
    echo '{{\"level\":\"error\",\"msg\":\"{words}\"}}' > \"$log\"
    exit 1
  fi
  before=$word
done
exec {} \"$@\"
",
        fs::canonicalize(&kept)?.display()
    );
    fs::remove_file(&runc)?;
    fs::write(&runc, script)?;
    Ok(fs::set_permissions(&runc, fs::Permissions::from_mode(0o755))?)
}

/// A pod whose runtime says that it cannot have a user namespace is made again without one, and it is said.
fn falls_back(test: &Test) -> Result<()> {
    break_runtime(test, "container", "failed to set MOUNT_ATTR_IDMAP on /x: invalid argument")?;
    test.cluster.apply(&manifest(false))?;
    let (guest, pod) = runs(test)?;
    ensure!(pod["spec"]["hostUsers"].is_null() && user(&guest)? == USER, "{pod:#}");
    let vmi = test.json("get vmi guest -n vms")?;
    let said = condition(&vmi, "UserNamespace");
    ensure!(said["status"] == "False" && said["reason"] == "NotStarted", "{vmi:#}");
    ensure!(said["message"].as_str().is_some_and(|text| text.contains(&test.node.name)), "{said:#}");
    let events = test.json("get events -n vms --field-selector=reason=NotStarted")?;
    ensure!(events["items"][0]["involvedObject"]["name"] == "guest", "{events:#}");
    cluster_says(test, "False", "NotStarted", "vms/guest")?;
    test.kubectl("delete vm guest -n vms --wait=true --timeout=180s")?;
    cluster_says(test, "True", "Auto", "have a user namespace")
}

/// A pod for which nothing is made keeps its user namespace, and it is said what to look at.
fn waits(test: &Test) -> Result<()> {
    break_runtime(test, "sandbox", "no space left on device")?;
    test.cluster.apply(&manifest(false))?;
    let said = || -> Result<Value> { Ok(condition(&test.json("get vmi guest -n vms")?, "UserNamespace")) };
    wait("UserNamespace=Unknown", TIMEOUT, || {
        let said = said().unwrap_or_default();
        Ok((said["status"] == "Unknown" && said["reason"] == "Waiting").then_some(()))
    })
    .with_context(|| format!("{:#}", said().unwrap_or_default()))?;
    let pods = test.json("get pods -n vms -l kubevirt.io=virt-launcher")?;
    let pod = &pods["items"][0];
    ensure!(pod["spec"]["hostUsers"] == false && pod["metadata"]["deletionTimestamp"].is_null(), "{pods:#}");
    // What keeps it is over, and it starts as the pod that it is.
    break_runtime(test, "none", "")?;
    let guest = has_own_users(test)?;
    ensure!(said()?.is_null(), "{:#}", said()?);
    test.kubectl("delete vm guest -n vms --wait=true --timeout=180s")?;
    wait("the end of QEMU", TIMEOUT, || Ok((!guest.alive()).then_some(())))
}

fn restart(test: &Test, before: &Process) -> Result<()> {
    test.kubectl("delete vmi guest -n vms --wait=true --timeout=180s")?;
    wait("the end of QEMU", TIMEOUT, || Ok((!before.alive()).then_some(())))
}

fn claim(test: &Test, directory: &Path) -> Result<()> {
    let (path, node) = (directory.display(), &test.node.name);
    test.cluster.apply(&format!(
        "
apiVersion: v1
kind: PersistentVolume
metadata: {{name: files}}
spec:
  capacity: {{storage: 7Mi}}
  accessModes: [ReadWriteOnce]
  storageClassName: manual
  local: {{path: '{path}'}}
  nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [{node}]}}]}}]}}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: files, namespace: vms}}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: manual
  volumeName: files
  resources: {{requests: {{storage: 7Mi}}}}
"
    ))?;
    test.kubectl("wait pvc/files -n vms --for=jsonpath={.status.phase}=Bound --timeout=60s").map(drop)
}

#[test]
fn a_guest_that_breaks_out_is_nobody_on_the_node_where_pods_have_users_of_their_own() -> Result<()> {
    let test = Test::whole(Options { name: "users".to_owned(), nodes: 1, ..Options::default() })?;
    images(&test)?;
    let words =
        ["create", "secret", "generic", "user", "-n", "vms", &format!("--from-literal=userdata={USER_DATA}")];
    test.cluster.output(&words)?;
    // The controller decides by what nodes say: this one has to say first that it takes machines.
    let node = wait("places on the node", TIMEOUT, || {
        let node = test.json(&format!("get node {}", test.node.name))?;
        Ok(node["status"]["capacity"]["devices.ferrovirt.io/machine"].is_string().then_some(node))
    })
    .with_context(|| test.log())?;
    let handlers = node["status"]["runtimeHandlers"].as_array().context("the node names no runtime")?;
    let default = handlers.iter().find(|handler| handler["name"].as_str().unwrap_or_default().is_empty());
    ensure!(default.is_some_and(|default| default["features"]["userNamespaces"] == true), "{handlers:?}");

    let host = tempfile::Builder::new().prefix("ferrovirt-users-").tempdir()?;
    fs::set_permissions(host.path(), fs::Permissions::from_mode(0o755))?;
    let file = host.path().join("of-107");
    fs::write(&file, SECRET)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    std::os::unix::fs::chown(&file, Some(USER), Some(USER))?;

    // By default. The witness of the privilege, and of no other one: with it who breaks out of QEMU reads nothing of the node's users.
    cluster_says(&test, "True", "Auto", "have a user namespace")?;
    test.cluster.apply(&manifest(false))?;
    let guest = has_own_users(&test)?;
    ensure!(registered(Scenario::Users).eq(["user-namespace"]));
    ensure!(!reads(&guest, &file)?, "it is a user of the node");

    // Without it the guest is a user of the node that others there are, too.
    configure(&test, "Never")?;
    cluster_says(&test, "False", "Never", "use Auto or Always")?;
    restart(&test, &guest)?;
    let (guest, pod) = runs(&test)?;
    ensure!(pod["spec"]["hostUsers"].is_null(), "{pod:#}");
    let own: Vec<_> =
        fs::read_to_string("/proc/self/uid_map")?.split_whitespace().map(str::to_owned).collect();
    let its = fs::read_to_string(format!("/proc/{}/uid_map", guest.pid))?;
    ensure!(its.split_whitespace().eq(own.iter().map(String::as_str)), "{its}");
    ensure!(user(&guest)? == USER, "{}", user(&guest)?);
    ensure!(reads(&guest, &file)?, "another user of the node");

    // A claim keeps a pod from it, unless the administrator knows its file system. What the guest writes belongs to the
    // launcher as the pod numbers it, and on the disk to the number without the pod's.
    let directory = host.path().join("files");
    fs::create_dir(&directory)?;
    claim(&test, &directory)?;
    configure(&test, "Auto")?;
    test.kubectl("delete vm guest -n vms --wait=true --timeout=180s")?;
    test.cluster.apply(&manifest(true))?;
    let (guest, pod) = runs(&test)?;
    ensure!(pod["spec"]["hostUsers"].is_null(), "{pod:#}");
    configure(&test, "Always")?;
    restart(&test, &guest)?;
    has_own_users(&test)?;
    let disk = fs::metadata(directory.join("disk.img"))?;
    ensure!(disk.uid() == USER, "{}", disk.uid());
    let written = fs::read(directory.join("disk.img"))?;
    ensure!(written.starts_with(b"written to vdd"), "{:?}", &written[..16]);
    test.kubectl("delete vm guest -n vms --wait=true --timeout=180s")?;
    configure(&test, "Auto")?;
    waits(&test)?;
    falls_back(&test)
}
