//! Who may do what, and what admission and the built-in controllers make of it: the real kubectl against the real
//! server, with everything installed that `ferrovirt up` installs.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "each test file uses what it needs of it")]
mod common;

use common::world::World;
use serde_json::{Value, json};

fn pod(name: &str, namespace: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace},
        "spec": {"containers": [{"name": "c", "image": "a/b:1"}]}})
}

#[test]
fn tokens_say_who_somebody_is_until_the_account_is_gone() {
    let world = World::new();
    let sa = world.account("robot");
    assert!(world.run(&sa, "auth whoami").contains("system:serviceaccount:default:robot"));
    assert!(world.cluster.kubectl("auth whoami").contains("kubernetes-admin"));
    let bad = world.with_token("bad", "a.b.c");
    let bad = vec!["--kubeconfig".to_owned(), bad.to_str().unwrap().to_owned()];
    assert!(world.refused(&bad, "get pods").contains("Unauthorized"));
    world.cluster.kubectl("delete serviceaccount robot");
    assert!(world.refused(&sa, "get pods").contains("Unauthorized"));
}

#[test]
fn roles_grant_and_their_absence_is_a_403_in_kubernetes_words() {
    let world = World::new();
    let sa = world.account("reader");
    let user = "system:serviceaccount:default:reader";
    assert_eq!(
        world.refused(&sa, "get pods").trim(),
        format!(
            "Error from server (Forbidden): pods is forbidden: User \"{user}\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
        )
    );
    assert!(
        world
            .refused(&sa, "get nodes")
            .contains("cannot list resource \"nodes\" in API group \"\" at the cluster scope")
    );
    let no = world.cluster.command(&[&sa[0], &sa[1], "auth", "can-i", "list", "pods"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&no.stdout).trim(), "no");
    world.made("role r --verb=list,get --resource=pods");
    world.made("rolebinding r --role=r --serviceaccount=default:reader");
    assert_eq!(world.run(&sa, "auth can-i list pods").trim(), "yes");
    world.run(&sa, "get pods");
    assert!(world.run(&sa, "auth can-i --list").contains("pods"));
    assert!(world.refused(&sa, "get pods -n kube-system").contains("in the namespace \"kube-system\""));
    assert_eq!(world.cluster.kubectl(&format!("auth can-i get pods --as={user}")).trim(), "yes");
    assert!(world.refused(&sa, "get pods --as=jane").contains("cannot impersonate resource \"users\""));
    world.cluster.kubectl("delete rolebinding r");
    assert!(world.refused(&sa, "get pods").contains("Forbidden"));
}

#[test]
fn nobody_grants_what_they_do_not_have() {
    let world = World::new();
    let sa = world.account("boss");
    world.made("rolebinding boss --clusterrole=admin --serviceaccount=default:boss");
    assert!(world.make(&sa, "role fine --verb=get --resource=pods").0);
    let (_, refused) = world.make(&sa, "role nodes --verb=get --resource=nodes");
    assert!(refused.contains("is attempting to grant RBAC permissions not currently held:"), "{refused}");
    assert!(refused.contains("{APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"get\"]}"), "{refused}");
    let (_, refused) = world.make(&sa, "rolebinding all --clusterrole=cluster-admin --user=jane");
    assert!(refused.contains("not currently held"), "{refused}");
    assert!(world.make(&sa, "rolebinding ok --clusterrole=view --user=jane").0);
}

#[test]
fn pods_get_an_scc_and_the_namespaces_identity() {
    let world = World::new();
    world.made("namespace work");
    let sa = world.account("dev");
    world.made("rolebinding dev -n work --clusterrole=edit --serviceaccount=default:dev");
    let who: Vec<&str> = sa.iter().map(String::as_str).collect();
    assert_eq!(world.create(&who, &pod("plain", "work")), (true, "pod/plain created\n".into()));
    let made = world.cluster.json("get pod plain -n work");
    assert_eq!(made["metadata"]["annotations"]["openshift.io/scc"], "restricted-v2");
    let range =
        world.cluster.json("get namespace work")["metadata"]["annotations"]["openshift.io/sa.scc.uid-range"]
            .clone();
    let start: i64 = range.as_str().unwrap().split('/').next().unwrap().parse().unwrap();
    assert_eq!(made["spec"]["containers"][0]["securityContext"]["runAsUser"], start);
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    assert_eq!(made["status"]["phase"], "Pending");

    let mut privileged = pod("privileged", "work");
    privileged["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
    let (ok, said) = world.create(&who, &privileged);
    assert!(!ok && said.contains("unable to validate against any security context constraint"), "{said}");
    assert!(world.create(&[], &pod("admins", "work")).0);
    assert_eq!(
        world.cluster.json("get pod admins -n work")["metadata"]["annotations"]["openshift.io/scc"],
        "anyuid"
    );
}

#[test]
fn labelled_namespaces_enforce_pod_security() {
    let world = World::new();
    for level in ["baseline", "restricted"] {
        world.made(&format!("namespace {level}"));
        world.cluster.kubectl(&format!("label namespace {level} pod-security.kubernetes.io/enforce={level}"));
    }
    world.made("namespace warned");
    world.cluster.kubectl("label namespace warned pod-security.kubernetes.io/warn=restricted");
    assert!(
        world
            .cluster
            .fails(&["label", "namespace", "warned", "pod-security.kubernetes.io/audit=strict"])
            .contains("must be one of")
    );

    // The administrator's pod is admitted by anyuid, which sets nothing that Pod Security asks for.
    assert!(world.create(&[], &pod("a", "baseline")).0);
    let (ok, said) = world.create(&[], &pod("a", "restricted"));
    assert!(!ok, "{said}");
    assert!(
        said.contains(
            "pods \"a\" is forbidden: violates PodSecurity \"restricted:latest\": \
             allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false)"
        ),
        "{said}"
    );
    let (ok, said) = world.create(&[], &pod("a", "warned"));
    assert!(ok && said.contains("Warning: would violate PodSecurity \"restricted:latest\""), "{said}");
    let mut host = pod("h", "baseline");
    host["spec"]["hostNetwork"] = json!(true);
    assert!(world.create(&[], &host).1.contains("host namespaces (hostNetwork=true)"));
}

#[test]
fn deleting_a_namespace_and_an_owner_takes_everything_along() {
    let world = World::new();
    let kubectl = |args: &str| world.cluster.kubectl(args);
    world.made("namespace doomed");
    world.made("configmap a -n doomed");
    world.made("secret generic b -n doomed --from-literal=k=v");
    kubectl("delete namespace doomed --timeout=20s");
    assert!(world.cluster.fails(&["get", "namespace", "doomed"]).contains("NotFound"));
    assert!(world.make(&[], "configmap c -n doomed").1.contains("namespaces \"doomed\" not found"));
    assert!(
        world
            .cluster
            .fails(&["delete", "namespace", "default"])
            .contains("this namespace may not be deleted")
    );

    world.made("configmap owner");
    let uid = kubectl("get configmap owner -o jsonpath={.metadata.uid}");
    let child = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "child", "ownerReferences":
        [{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid, "blockOwnerDeletion": true}]}});
    assert!(world.create(&[], &child).0);
    kubectl("delete configmap owner --cascade=foreground --timeout=20s");
    assert!(world.cluster.fails(&["get", "configmap", "child"]).contains("NotFound"));
}

#[test]
fn unschedulable_pods_say_what_is_missing() {
    let world = World::new();
    ready_node(&world);
    let mut big = pod("big", "default");
    big["spec"]["containers"][0]["resources"] =
        json!({"limits": {"hugepages-2Mi": "512Mi", "memory": "1Gi", "cpu": "1"}});
    assert!(world.create(&[], &big).0);
    world.cluster.kubectl("wait pod/big --for=condition=PodScheduled=false --timeout=20s");
    let message = world.cluster.kubectl("get pod big -o jsonpath={.status.conditions[0].message}");
    assert_eq!(
        message,
        "0/1 nodes are available: 1 Insufficient hugepages-2Mi (256 pages needed, 64 of 64 free; reserve them on the node: echo 256 > /proc/sys/vm/nr_hugepages)."
    );
    assert!(world.create(&[], &pod("small", "default")).0);
    world.cluster.kubectl("wait pod/small --for=condition=PodScheduled --timeout=20s");
    assert_eq!(world.cluster.kubectl("get pod small -o jsonpath={.spec.nodeName}"), "n1");
}

#[test]
fn a_right_on_one_object_shows_no_other() {
    let world = World::new();
    for name in ["mine", "other"] {
        world.made(&format!("secret generic {name} --from-literal=k=v"));
    }
    let sa = world.account("reader");
    world.made("role one --verb=get,list,watch --resource=secrets --resource-name=mine");
    world.made("rolebinding one --role=one --serviceaccount=default:reader");
    let base = "/api/v1/namespaces/default/secrets";
    let named = world.run(&sa, &format!("get --raw {base}/mine?watch=true&timeoutSeconds=1"));
    assert_eq!(serde_json::from_str::<Value>(&named).unwrap()["metadata"]["name"], "mine");
    let selected = world.run(&sa, "get secrets --field-selector metadata.name=mine -o name");
    assert_eq!(selected.trim(), "secret/mine");
    for all in ["", "?watch=true&timeoutSeconds=1", "?fieldSelector=metadata.name!=mine"] {
        assert!(world.refused(&sa, &format!("get --raw {base}{all}")).contains("Forbidden"), "{all}");
    }
    // A question about the whole cluster is no resource of a namespace.
    world.made("rolebinding boss --clusterrole=cluster-admin --serviceaccount=default:reader");
    let path = "/apis/authorization.k8s.io/v1/namespaces/default/subjectaccessreviews";
    let who: Vec<&str> = sa.iter().map(String::as_str).chain(["create", "--raw", path, "-f", "-"]).collect();
    let asked = world.cluster.run_with_input(&who, "{}");
    assert!(String::from_utf8_lossy(&asked.stderr).contains("could not find the requested"), "{asked:?}");
}

#[test]
fn a_dry_eviction_evicts_nothing() {
    let world = World::new();
    assert!(world.create(&[], &pod("p", "default")).0);
    let path = "/api/v1/namespaces/default/pods/p/eviction";
    let evict = |query: &str, options: Value| {
        let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"},
            "deleteOptions": options});
        let path = format!("{path}{query}");
        let said = world.cluster.run_with_input(&["create", "--raw", &path, "-f", "-"], &body.to_string());
        assert!(said.status.success(), "{said:?}");
    };
    evict("", json!({"dryRun": ["All"]}));
    evict("?dryRun=All", json!({}));
    world.cluster.kubectl("get pod p");
    evict("", json!({}));
    assert!(world.cluster.fails(&["get", "pod", "p"]).contains("NotFound"));
}

#[test]
fn machines_are_defaulted_and_refused_as_kubevirt_does() {
    let world = World::new();
    let machine = |cores: i64| {
        json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "vm", "namespace": "default"},
            "spec": {"runStrategy": "Halted", "template": {"spec": {"domain": {"cpu": {"cores": cores},
                "memory": {"guest": "64Mi"}, "devices": {"disks": [{"name": "missing", "disk": {"bus": "virtio"}}]}}}}}})
    };
    let (ok, said) = world.create(&[], &machine(1));
    assert!(!ok, "{said}");
    assert!(said.contains("spec.template.spec.domain.devices.disks[0].Name 'missing' not found."), "{said}");
    let mut good = machine(1);
    good["spec"]["template"]["spec"]["domain"]["devices"] = json!({});
    let (ok, said) = world.create(&[], &good);
    assert!(ok, "{said}");
    let made = world.cluster.json("get vm vm");
    assert_eq!(made["spec"]["template"]["spec"]["domain"]["machine"]["type"], "q35");
    let raw = |action: &str| {
        format!("/apis/subresources.kubevirt.io/v1/namespaces/default/virtualmachines/vm/{action}")
    };
    let refused = world.cluster.run_with_input(&["replace", "--raw", &raw("stop"), "-f", "-"], "{}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("VM is not running"), "{refused:?}");
    let started = world.cluster.run_with_input(&["replace", "--raw", &raw("start"), "-f", "-"], "{}");
    assert!(started.status.success(), "{started:?}");
    let made = world.cluster.json("get vm vm");
    assert_eq!(made["spec"]["runStrategy"], "Always");
}

/// A node that is ready, without any agent behind it.
fn ready_node(world: &World) {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    assert!(world.create(&[], &node).0);
    let status = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}],
        "allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10", "hugepages-2Mi": "128Mi"}}});
    world.cluster.ok(&[
        "patch",
        "node",
        "n1",
        "--subresource=status",
        "--type=merge",
        "-p",
        &status.to_string(),
    ]);
}

#[test]
fn logs_come_from_the_nodes_agent_for_those_who_may_read_them() {
    use std::io::{Read, Write};
    let world = World::new();
    ready_node(&world);
    assert!(world.create(&[], &pod("p", "default")).0);
    world.cluster.kubectl("wait pod/p --for=condition=PodScheduled --timeout=20s");
    assert!(world.cluster.fails(&["logs", "p"]).contains("the node's agent does not answer"));
    assert!(world.cluster.fails(&["logs", "p", "-c", "x"]).contains("container x is not valid for pod p"));

    let socket = world.cluster.agent_socket();
    let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    let agent = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            request.extend(byte);
        }
        let answer = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 6\r\n\r\nhello\n";
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(request).unwrap()
    });
    assert_eq!(world.cluster.kubectl("logs p --tail=5"), "hello\n");
    let request = agent.join().unwrap();
    assert!(request.starts_with("GET /containerLogs/default/p/c?tailLines=5 HTTP/1.1"), "{request}");

    let sa = world.account("nosy");
    world.made("role pods --verb=get --resource=pods");
    world.made("rolebinding pods --role=pods --serviceaccount=default:nosy");
    assert!(world.refused(&sa, "logs p").contains("cannot get resource \"pods/log\""));
}

#[test]
fn a_put_that_makes_something_asks_for_the_right_to_create() {
    let world = World::new();
    let sa = world.account("updater");
    world.made("role leases --verb=update --resource=leases.coordination.k8s.io");
    world.made("rolebinding leases --role=leases --serviceaccount=default:updater");
    let path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/one";
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "one", "namespace": "default"}, "spec": {"holderIdentity": "me"}});
    let put = |who: &[String]| {
        let who: Vec<&str> =
            who.iter().map(String::as_str).chain(["replace", "--raw", path, "-f", "-"]).collect();
        world.cluster.run_with_input(&who, &lease.to_string())
    };
    let refused = put(&sa);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("cannot create resource \"leases\""), "{refused:?}");
    world.cluster.fails(&["get", "lease", "one"]);
    let made = put(&[]);
    assert!(made.status.success(), "{made:?}");
    let updated = put(&sa);
    assert!(updated.status.success(), "what is there may be updated: {updated:?}");
}
