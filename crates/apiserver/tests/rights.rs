//! The user's own rights: who may make which machine, what is recorded, and that the controller is no way around it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "each test file uses what it needs of it")]
mod common;

use common::world::World;
use serde_json::{Value, json};

/// A machine with a disk in a file of the node, or with none.
fn machine(name: &str, host: Option<&str>) -> Value {
    let volumes: Vec<Value> = host
        .map(|path| json!({"name": "root", "hostDisk": {"path": path, "type": "Disk"}}))
        .into_iter()
        .collect();
    let disks: Vec<Value> =
        volumes.iter().map(|_| json!({"name": "root", "disk": {"bus": "virtio"}})).collect();
    json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"runStrategy": "Halted", "template": {"spec": {
            "domain": {"memory": {"guest": "128Mi"}, "devices": {"disks": disks}}, "volumes": volumes}}},
    })
}

/// The machine as an instance of its own.
fn instance(vm: &Value) -> Value {
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": vm["metadata"],
        "spec": vm["spec"]["template"]["spec"]})
}

struct Shop {
    world: World,
    /// kubectl as somebody who edits the namespace and machines in it.
    alice: Vec<String>,
}

impl Shop {
    fn new() -> Self {
        let world = World::new();
        let kubectl = |args: &str| world.cluster.kubectl(args);
        kubectl("create namespace shop");
        let alice = world.account("alice");
        for role in ["edit", "kubevirt.io:edit"] {
            let name = role.replace(['.', ':'], "-");
            kubectl(&format!(
                "create rolebinding {name} -n shop --clusterrole={role} --serviceaccount=default:alice"
            ));
        }
        let gate = r#"{"spec":{"configuration":{"developerConfiguration":{"featureGates":["HostDisk"]}}}}"#;
        world.cluster.ok(&["patch", "kubevirt", "kubevirt", "-n", "kubevirt", "--type=merge", "-p", gate]);
        Self { world, alice }
    }

    fn configure(&self, configuration: &Value) {
        let patch = json!({"spec": {"configuration": configuration}}).to_string();
        self.world.cluster.ok(&[
            "patch",
            "kubevirt",
            "kubevirt",
            "-n",
            "kubevirt",
            "--type=merge",
            "-p",
            &patch,
        ]);
    }

    /// Lets alice use an SCC in the namespace, as `oc adm policy add-scc-to-user -n` does.
    fn allow(&self, scc: &str) {
        self.world.cluster.kubectl(&format!(
            "create rolebinding use-{scc} -n shop --clusterrole=system:openshift:scc:{scc} --serviceaccount=default:alice"
        ));
    }

    fn create(&self, who: &[String], object: &Value) -> (bool, String) {
        let who: Vec<&str> = who.iter().map(String::as_str).collect();
        self.world.create(&who, object)
    }

    fn made(&self, who: &[String], object: &Value) {
        let (ok, said) = self.create(who, object);
        assert!(ok, "{said}");
    }

    fn refused(&self, who: &[String], object: &Value) -> String {
        let (ok, said) = self.create(who, object);
        assert!(!ok, "{said}");
        said
    }

    fn patch(&self, who: &[String], name: &str, patch: &Value) -> (bool, String) {
        let patch = patch.to_string();
        let args: Vec<&str> = who
            .iter()
            .map(String::as_str)
            .chain(["patch", "vm", name, "-n", "shop", "--type=merge", "-p", &patch])
            .collect();
        let output = self.world.cluster.command(&args).output().unwrap();
        (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    }

    /// SCC, subject and the pod's SCC that are recorded.
    fn recorded(&self, what: &str) -> [Value; 3] {
        let object = self.world.cluster.json(&format!("get {what} -n shop"));
        let annotations = &object["metadata"]["annotations"];
        ["ferrovirt.io/scc", "ferrovirt.io/scc-subject", "ferrovirt.io/pod-scc"]
            .map(|key| annotations[key].clone())
    }

    /// kubectl as the controller.
    fn controller(&self) -> Vec<String> {
        let path = "/api/v1/namespaces/kubevirt/serviceaccounts/kubevirt-controller/token";
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
        let answer =
            self.world.cluster.run_with_input(&["create", "--raw", path, "-f", "-"], &request.to_string());
        let answer: Value = serde_json::from_slice(&answer.stdout).unwrap();
        let path = self.world.with_token("controller", answer["status"]["token"].as_str().unwrap());
        vec!["--kubeconfig".to_owned(), path.to_str().unwrap().to_owned()]
    }
}

const ALICE: &str = "user system:serviceaccount:default:alice";

#[test]
fn a_user_needs_the_right_to_what_the_machine_implies() {
    let shop = Shop::new();
    shop.made(&shop.alice, &machine("plain", None));
    let restricted = ["restricted-v2", ALICE, "restricted-v2"].map(Value::from);
    assert_eq!(shop.recorded("vm/plain"), restricted);

    // Feature, privilege and SCC are named, and what to ask for.
    for object in [machine("host", Some("/srv/a.img")), instance(&machine("host", Some("/srv/a.img")))] {
        let said = shop.refused(&shop.alice, &object);
        for wanted in [
            "(Forbidden)",
            "host disk needs scc allowHostDirVolumePlugin=true and scc volumes=hostPath",
            "provider restricted-v2: .spec.volumes[",
            "hostPath volumes are not allowed to be used",
            "the verb \"use\"",
            "kubevirt-controller",
        ] {
            assert!(said.contains(wanted), "`{wanted}` is not in {said}");
        }
    }
    // A change is checked again; one that changes nothing of the machine is not.
    let disk = json!({"spec": {"template": {"spec": machine("plain", Some("/etc/shadow"))["spec"]["template"]["spec"]}}});
    let (ok, said) = shop.patch(&shop.alice, "plain", &disk);
    assert!(!ok && said.contains("hostPath"), "{said}");
    assert_eq!(shop.recorded("vm/plain"), restricted);
    // Nobody writes the decision but admission.
    let forged = json!({"metadata": {"annotations": {"ferrovirt.io/pod-scc": "privileged", "ferrovirt.io/scc": null}}});
    let (ok, said) = shop.patch(&shop.alice, "plain", &forged);
    assert!(ok, "{said}");
    assert_eq!(shop.recorded("vm/plain"), restricted);
    let mut forger = machine("forger", None);
    forger["metadata"]["annotations"] = json!({"ferrovirt.io/pod-scc": "privileged"});
    shop.made(&shop.alice, &forger);
    assert_eq!(shop.recorded("vm/forger"), restricted);

    shop.allow("kubevirt-controller");
    shop.made(&shop.alice, &machine("host", Some("/srv/a.img")));
    let ours = ["kubevirt-controller", ALICE, "kubevirt-controller"].map(Value::from);
    assert_eq!(shop.recorded("vm/host"), ours);
    let mut direct = instance(&machine("direct", Some("/srv/b.img")));
    direct["metadata"]["annotations"] = json!({"ferrovirt.io/scc": "privileged"});
    shop.made(&shop.alice, &direct);
    assert_eq!(shop.recorded("vmi/direct"), ours);

    // The right is gone, the machine stays as it was admitted until it changes.
    shop.world.cluster.kubectl("delete rolebinding use-kubevirt-controller -n shop");
    let (ok, said) = shop.patch(&shop.alice, "host", &json!({"spec": {"runStrategy": "Manual"}}));
    assert!(ok, "{said}");
    assert_eq!(shop.recorded("vm/host"), ours);
    let memory = json!({"spec": {"template": {"spec": {"domain": {"memory": {"guest": "256Mi"}}}}}});
    let (ok, said) = shop.patch(&shop.alice, "host", &memory);
    assert!(!ok && said.contains("allowHostDirVolumePlugin"), "{said}");
}

#[test]
fn the_controller_lends_nothing_but_by_the_switch() {
    let shop = Shop::new();
    let admin: &[String] = &[];
    let controller = shop.controller();
    let child = |name: &str, spec_of: &Value| {
        let vm = shop.world.cluster.json(&format!("get vm/{name} -n shop"));
        let mut vmi = instance(spec_of);
        vmi["metadata"] = json!({"name": name, "namespace": "shop", "ownerReferences": [{
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": name, "uid": vm["metadata"]["uid"],
            "controller": true, "blockOwnerDeletion": true}]});
        vmi
    };
    let host = |name: &str| machine(name, Some("/srv/a.img"));

    // An instance has the decision of its machine, and may not need more than that allows.
    shop.made(&shop.alice, &machine("plain", None));
    let said = shop.refused(&controller, &child("plain", &host("plain")));
    assert!(said.contains("hostPath") && said.contains("restricted-v2"), "{said}");
    shop.made(&controller, &child("plain", &machine("plain", None)));
    assert_eq!(shop.recorded("vmi/plain"), shop.recorded("vm/plain"));
    // A user cannot borrow another machine's decision.
    shop.made(admin, &host("boss"));
    let said = shop.refused(&shop.alice, &child("boss", &host("boss")));
    assert!(said.contains("allowHostDirVolumePlugin"), "{said}");
    shop.made(&controller, &child("boss", &host("boss")));
    assert_eq!(shop.recorded("vmi/boss")[2], "kubevirt-controller");

    // The classic behaviour: anybody who makes machines has the controller's rights, and nothing is recorded.
    shop.configure(&json!({"launcherRights": "Controller"}));
    shop.made(&shop.alice, &host("classic"));
    assert_eq!(shop.recorded("vm/classic"), [Value::Null, Value::Null, Value::Null]);
    // Back again: what was never decided is not more than everybody's, and labels can still be changed.
    shop.configure(&json!({"launcherRights": "Requester"}));
    let (ok, said) = shop.patch(&shop.alice, "classic", &json!({"metadata": {"labels": {"a": "b"}}}));
    assert!(ok, "{said}");
    let said = shop.refused(&controller, &child("classic", &host("classic")));
    assert!(said.contains("restricted-v2"), "{said}");
    // Somebody with the right touches it, and it is decided.
    let (ok, said) = shop.patch(admin, "classic", &json!({"metadata": {"labels": {"a": "c"}}}));
    assert!(ok, "{said}");
    assert_eq!(shop.recorded("vm/classic")[0], "kubevirt-controller");
    shop.made(&controller, &child("classic", &host("classic")));

    // The documented profile lends the controller's rights unless the field says otherwise.
    shop.configure(&json!({"launcherRights": null, "privilegeProfile": "documented"}));
    shop.made(&shop.alice, &machine("documented", None));
    shop.configure(&json!({"launcherRights": "Requester"}));
    let said = shop.refused(&shop.alice, &machine("strict", None));
    assert!(said.contains("scc allowedCapabilities=NET_ADMIN"), "{said}");
}

#[test]
fn a_configuration_that_nothing_could_act_on_is_refused_where_it_is_written() {
    let world = World::new();
    let patch = |configuration: Value| {
        let patch = json!({"spec": {"configuration": configuration}}).to_string();
        ["patch", "kubevirt", "kubevirt", "-n", "kubevirt", "--type=merge", "-p", &patch].map(str::to_owned)
    };
    for (configuration, field) in [
        (json!({"podNetwork": {"isolation": "Everything"}}), "podNetwork.isolation"),
        (json!({"podNetwork": {"nodeServices": [{"port": 0}]}}), "podNetwork.nodeServices[0].port"),
        (json!({"podNetwork": {"nodeServices": [{"port": 1, "protocol": "x"}]}}), "nodeServices[0].protocol"),
        (json!({"launcherRights": "Everybody"}), "launcherRights"),
        (json!({"privilegeProfile": "huge"}), "huge"),
    ] {
        let said = world.cluster.fails(&patch(configuration).each_ref().map(String::as_str));
        assert!(said.contains(field), "{said}");
    }
    let service = json!({"port": 53, "protocol": "UDP"});
    let open = json!({"podNetwork": {"isolation": "None", "nodeServices": [service]}});
    world.cluster.ok(&patch(open).each_ref().map(String::as_str));
}

#[test]
fn a_machine_that_goes_keeps_its_decision_and_gains_nothing() {
    let shop = Shop::new();
    let mut held = machine("held", None);
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    shop.made(&shop.alice, &held);
    let decided = shop.recorded("vm/held");
    shop.world.run(&shop.alice, "delete vm held -n shop --wait=false");
    let forged = json!({"metadata": {"annotations": {
        "ferrovirt.io/scc": "kubevirt-controller", "ferrovirt.io/pod-scc": "privileged"}}});
    let (ok, said) = shop.patch(&shop.alice, "held", &forged);
    assert!(ok, "{said}");
    assert_eq!(shop.recorded("vm/held"), decided);
    let disk = json!({"spec": {"template": {"spec": machine("held", Some("/etc/shadow"))["spec"]["template"]["spec"]}}});
    let (ok, said) = shop.patch(&shop.alice, "held", &disk);
    assert!(!ok && said.contains("hostPath"), "{said}");
    let (ok, said) = shop.patch(&shop.alice, "held", &json!({"metadata": {"finalizers": null}}));
    assert!(ok, "one that goes is let go: {said}");
}
