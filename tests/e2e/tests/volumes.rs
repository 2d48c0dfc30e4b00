//! Every kind of volume, as the guest sees it.
#![allow(clippy::indexing_slicing)]

use anyhow::{Result, ensure};
use ferrovirt_e2e::{Cluster, Options};
use std::{fs, os::unix::fs::MetadataExt};

#[test]
fn guest_sees_every_kind_of_volume() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let host = tempfile::Builder::new().prefix("ferrovirt-host-").tempdir()?;
    let claim = tempfile::Builder::new().prefix("ferrovirt-claim-").tempdir()?;
    fs::File::create(claim.path().join("disk.img"))?.set_len(7 << 20)?;
    let manifest = format!(
        r"
apiVersion: v1
kind: PersistentVolume
metadata: {{name: volume}}
spec:
  capacity: {{storage: 7Mi}}
  accessModes: [ReadWriteOnce]
  storageClassName: manual
  hostPath: {{path: '{claim}'}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: claim}}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: manual
  resources: {{requests: {{storage: 7Mi}}}}
---
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {{name: disks}}
spec:
  terminationGracePeriodSeconds: 10
  domain:
    memory: {{guest: 256Mi}}
    firmware:
      kernelBoot:
        container: {{image: 'ferrovirt/guest-kernel', kernelPath: /boot/vmlinuz, initrdPath: /boot/initrd}}
        kernelArgs: console=ttyS0 quiet tsc=reliable no_timer_check lpj=4000000
    devices:
      autoattachGraphicsDevice: false
      disks:
      - {{name: image, disk: {{bus: virtio}}}}
      - {{name: host, disk: {{bus: virtio}}}}
      - {{name: empty, disk: {{bus: virtio}}}}
      - {{name: claimed, disk: {{bus: virtio}}}}
      - {{name: seed, disk: {{bus: virtio}}}}
  volumes:
  - {{name: image, containerDisk: {{image: 'ferrovirt/guest-disk:latest'}}}}
  - {{name: host, hostDisk: {{path: '{host}/disk.img', type: DiskOrCreate, capacity: 5Mi}}}}
  - {{name: empty, emptyDisk: {{capacity: 6Mi}}}}
  - {{name: claimed, persistentVolumeClaim: {{claimName: claim}}}}
  - name: seed
    cloudInitNoCloud:
      userData: |
        #!/bin/sh
        echo user data was run
      networkData: 'version: 2'
",
        claim = claim.path().display(),
        host = host.path().display(),
    );
    let gate = r#"{"spec":{"configuration":{"developerConfiguration":{"featureGates":["HostDisk"]}}}}"#;
    cluster.kubectl(&["patch", "kubevirt", "kubevirt", "-n", "kubevirt", "--type=merge", "-p", gate])?;
    cluster.apply(&manifest)?;
    let serial = cluster.wait_serial("default", "disks", "guest: ready")?;
    for (name, bytes) in [("vda", 42_991_616_u64), ("vdb", 5 << 20), ("vdc", 6 << 20), ("vdd", 7 << 20)] {
        ensure!(
            serial.contains(&format!("disk {name} bytes={bytes}")),
            "{name} is not {bytes} bytes:\n{serial}"
        );
    }
    ensure!(serial.contains("user-data: user data was run"), "user data did not arrive:\n{serial}");
    ensure!(serial.contains("network-config: version: 2"), "network data did not arrive:\n{serial}");
    ensure!(fs::metadata(host.path().join("disk.img"))?.size() == 5 << 20, "the host disk has another size");
    let bound = cluster.json(&["get", "pvc", "claim"])?;
    ensure!(bound["status"]["phase"] == "Bound", "the claim is not bound: {bound}");
    cluster.stop()
}
