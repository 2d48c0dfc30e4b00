//! Objects that lead somebody else to do what their author may not: the node by a name, the launcher by a value, the garbage
//! collector by an owner, the controller by a decision that nobody made.
#![allow(clippy::indexing_slicing)]

use anyhow::{Context, Result, ensure};
use ferrovirt_e2e::{Cluster, Options, Person, cluster::TIMEOUT, raw::Server, wait_for};
use ferrovirt_hostile::Users;
use serde_json::{Value, json};

const INSTANCES: &str = "/apis/kubevirt.io/v1/namespaces/alpha/virtualmachineinstances";

/// An instance with a value in each place that a row below changes.
fn instance(name: &str) -> Value {
    let disks = ["seed", "image", "claim"].map(|name| json!({"name": name, "disk": {"bus": "virtio"}}));
    json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": {"name": name},
        "spec": {
            "domain": {
                "machine": {"type": "q35"}, "cpu": {"model": "host-passthrough"}, "memory": {"guest": "64Mi"},
                "firmware": {
                    "serial": "one",
                    "kernelBoot": {
                        "container": {"image": "no-such-image", "kernelPath": "/k", "initrdPath": "/i"},
                        "kernelArgs": "quiet",
                    },
                },
                "devices": {"autoattachGraphicsDevice": false, "disks": disks},
            },
            "volumes": [
                {"name": "seed", "cloudInitNoCloud": {"secretRef": {"name": "seed"}}},
                {"name": "image", "containerDisk": {"image": "no-such-image", "path": "/disk/d"}},
                {"name": "claim", "persistentVolumeClaim": {"claimName": "claim"}},
            ],
        },
    })
}

#[test]
fn what_no_launcher_would_start_or_leads_elsewhere_is_refused_with_its_field() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let users = Users::new(&cluster)?;
    let server = Server::of(&cluster.kubeconfig())?;
    let fine = server.post(&users.alice.token, INSTANCES, &instance("fine"))?;
    ensure!(fine.code == 201, "{}", fine.status("message"));
    let rows = [
        ("/spec/domain/firmware/kernelBoot/kernelArgs", "a\nb".into(), "kernelArgs"),
        ("/spec/domain/firmware/kernelBoot/kernelArgs", "a\0b".into(), "kernelArgs"),
        ("/spec/domain/firmware/kernelBoot/kernelArgs", "x".repeat(4097), "kernelArgs"),
        ("/spec/domain/firmware/serial", "a\x1bb".into(), "serial"),
        ("/spec/domain/firmware/serial", "x".repeat(257), "serial"),
        ("/spec/domain/machine/type", "q35,kernel_irqchip=off".into(), "machine.type"),
        ("/spec/domain/cpu/model", "host,+vmx,x=y".into(), "cpu.model"),
        ("/spec/domain/memory/guest", "1".into(), "memory"),
        ("/spec/volumes/0/cloudInitNoCloud/secretRef/name", "../beta/s".into(), "secretRef.name"),
        ("/spec/volumes/1/containerDisk/path", "/disk/a\nb".into(), "containerDisk"),
        ("/spec/volumes/2/persistentVolumeClaim/claimName", "../beta/c".into(), "claimName"),
    ];
    for (number, (path, value, field)) in rows.into_iter().enumerate() {
        let mut object = instance(&format!("row-{number}"));
        *object.pointer_mut(path).context(path)? = value.clone().into();
        let answer = server.post(&users.alice.token, INSTANCES, &object)?;
        ensure!(answer.code == 422, "{path} may be {value:?}: {} {}", answer.code, answer.status("message"));
        ensure!(answer.status("message").contains(field), "{path}: {}", answer.status("message"));
    }
    drop(users);
    cluster.stop()
}

#[test]
fn an_owner_in_another_namespace_keeps_nothing() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let users = Users::new(&cluster)?;
    let server = Server::of(&cluster.kubeconfig())?;
    let make = |person: &Person<'_>, namespace: &str, metadata: Value| -> Result<Value> {
        let path = format!("/api/v1/namespaces/{namespace}/configmaps");
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata});
        let made = server.post(&person.token, &path, &object)?;
        ensure!(made.code == 201, "{}", made.status("message"));
        made.json()
    };
    let theirs = make(&users.bob, "beta", json!({"name": "theirs"}))?;
    let owner = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "theirs", "uid": theirs["metadata"]["uid"]}]);
    make(&users.alice, "alpha", json!({"name": "mine", "ownerReferences": owner}))?;
    let gone = |person: &Person<'_>, namespace: &str, name: &str| -> Result<bool> {
        let path = format!("/api/v1/namespaces/{namespace}/configmaps/{name}");
        Ok(server.get(&person.token, &path)?.code == 404)
    };
    wait_for("what has no owner to be removed", TIMEOUT, || {
        Ok(gone(&users.alice, "alpha", "mine")?.then_some(()))
    })?;
    ensure!(!gone(&users.bob, "beta", "theirs")?, "bob's object is gone");
    drop(users);
    cluster.stop()
}

#[test]
fn a_machine_that_is_going_gains_no_right() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let users = Users::new(&cluster)?;
    let machine = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": {"name": "held", "namespace": "alpha", "finalizers": ["example.com/hold"]},
        "spec": {"runStrategy": "Halted", "template": {"spec": {
            "domain": {"memory": {"guest": "64Mi"}, "devices": {}}}}},
    });
    let (made, said) = users.alice.apply(&machine.to_string())?;
    ensure!(made, "{said}");
    let annotations = || -> Result<Value> {
        Ok(cluster.json(&["get", "vm", "held", "-n", "alpha"])?["metadata"]["annotations"].clone())
    };
    let decided = |all: &Value| ["ferrovirt.io/scc", "ferrovirt.io/pod-scc"].map(|name| all[name].clone());
    let before = annotations()?;
    users.alice.kubectl(&["delete", "vm", "held", "-n", "alpha", "--wait=false"])?;
    let patch = |change: Value| -> Result<(bool, String)> {
        let change = change.to_string();
        let arguments = ["patch", "vm", "held", "-n", "alpha", "--type=merge", "-p", &change];
        let output = users.alice.kubectl(&arguments)?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    patch(json!({"metadata": {"annotations": {
        "ferrovirt.io/scc": "kubevirt-controller", "ferrovirt.io/pod-scc": "privileged"}}}))?;
    let after = annotations()?;
    ensure!(decided(&after) == decided(&before), "{before} became {after}");
    let disk = json!({"spec": {"template": {"spec": {
        "domain": {"devices": {"disks": [{"name": "d", "disk": {"bus": "virtio"}}]}},
        "volumes": [{"name": "d", "hostDisk": {"path": "/etc/shadow", "type": "Disk"}}]}}}});
    let (taken, said) = patch(disk)?;
    ensure!(!taken && said.contains("hostPath"), "a disk of the node is stored: {said}");
    let (taken, said) = patch(json!({"metadata": {"finalizers": null}}))?;
    ensure!(taken, "one that goes is let go: {said}");
    drop(users);
    cluster.stop()
}
