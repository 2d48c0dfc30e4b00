//! The real kubectl against the real server, in this process, on a free port of the loopback.
#![allow(clippy::expect_used, reason = "helpers of tests")]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use common::Cluster;
use serde_json::{Value, json};

const CONFIG: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: conf, labels: {app: web, tier: '1'}}
data: {a: '1', b: '2'}
";

#[test]
fn get_in_all_output_forms() {
    let cluster = Cluster::start();
    let kubectl = |args: &str| cluster.kubectl(args);
    cluster.apply(CONFIG);
    let table = kubectl("get cm conf");
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "DATA", "AGE"]);
    assert_eq!(lines[1][..2], ["conf", "2"]);
    assert_eq!(kubectl("get cm conf -o name").trim(), "configmap/conf");
    assert_eq!(kubectl("get cm conf -o jsonpath={.data.a}"), "1");
    let object: Value = serde_json::from_str(&kubectl("get cm conf -o json")).unwrap();
    assert_eq!(object["metadata"]["namespace"], "default");
    assert!(object["metadata"]["uid"].as_str().unwrap().len() == 36);
    assert!(object["metadata"]["creationTimestamp"].as_str().unwrap().ends_with('Z'));
    assert!(kubectl("get cm conf -o yaml").contains("\n  a: \"1\"\n"));
    assert!(kubectl("get nodes,cm -A -o wide").contains("conf"));
    assert!(kubectl("get cm -o custom-columns=N:.metadata.name,A:.data.a").contains("conf"));
    assert!(kubectl("get cm --sort-by=.metadata.name --show-labels").contains("app=web,tier=1"));
    assert!(kubectl("get cm -L app").contains("web"));
    let selected = |selector: &str| kubectl(&format!("get cm -o name {selector}"));
    assert!(selected("-l app=web,tier").contains("/conf"));
    assert!(!selected("-l app!=web").contains("/conf"));
    assert!(selected("--field-selector metadata.name=conf").contains("/conf"));
    assert!(
        cluster.fails(&["get", "cm", "--field-selector", "data.a=1"]).contains("field label not supported")
    );
    assert!(
        cluster
            .fails(&["get", "cm", "nothing"])
            .contains("Error from server (NotFound): configmaps \"nothing\" not found")
    );
    assert!(
        cluster.fails(&["get", "nonsense"]).contains("the server doesn't have a resource type \"nonsense\"")
    );
    assert!(kubectl("get --raw /version").contains("gitVersion"));
    assert!(kubectl("version").contains("Server Version: v1.32"));
}

#[test]
fn lists_come_in_pages() {
    let cluster = Cluster::start();
    for number in 0..7 {
        cluster.kubectl(&format!("create configmap page-{number}"));
    }
    let all = cluster.kubectl("get cm -o name --chunk-size=2");
    assert_eq!(all.lines().filter(|line| line.contains("page-")).count(), 7);
    let page = cluster.kubectl("get --raw /api/v1/namespaces/default/configmaps?limit=3");
    let page: Value = serde_json::from_str(&page).unwrap();
    assert_eq!(page["items"].as_array().unwrap().len(), 3);
    assert_eq!(page["items"][0].get("kind"), Some(&json!("ConfigMap")));
    assert!(page["metadata"]["remainingItemCount"].as_u64().unwrap() >= 4);
}

#[test]
fn watch_shows_every_change() {
    let cluster = Cluster::start();
    cluster.apply(CONFIG);
    let mut child = cluster
        .command(&["get", "cm", "-l", "app=web", "-w", "--output-watch-events", "--no-headers"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut next = || lines.next().unwrap();
    assert_eq!(next().split_whitespace().take(2).collect::<Vec<_>>(), ["ADDED", "conf"]);
    cluster.kubectl("annotate cm conf x=y");
    assert!(next().starts_with("MODIFIED"));
    cluster.kubectl("create configmap other");
    cluster.kubectl("label cm other app=web");
    assert_eq!(next().split_whitespace().take(2).collect::<Vec<_>>(), ["ADDED", "other"]);
    cluster.kubectl("label cm other app-");
    assert!(next().starts_with("DELETED"));
    cluster.kubectl("delete cm conf");
    assert!(next().starts_with("DELETED"));
    child.kill().unwrap();
    child.wait().unwrap();

    // The same as a table: what most people watch.
    let mut child = cluster.command(&["get", "cm", "-w"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().starts_with("NAME"));
    cluster.kubectl("create configmap late --from-literal=k=v");
    assert!(lines.find(|line| line.starts_with("late")).unwrap().contains(" 1 "));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn apply_changes_only_what_the_manifest_changes() {
    let cluster = Cluster::start();
    assert_eq!(cluster.apply(CONFIG).trim(), "configmap/conf created");
    assert_eq!(cluster.apply(CONFIG).trim(), "configmap/conf unchanged");
    cluster.kubectl("annotate cm conf mine=1");
    let changed = CONFIG.replace("b: '2'", "c: '3'");
    assert_eq!(cluster.apply(&changed).trim(), "configmap/conf configured");
    let object = cluster.json("get cm conf");
    assert_eq!(object["data"], json!({"a": "1", "c": "3"}));
    assert_eq!(object["metadata"]["annotations"]["mine"], "1");
    let diff = cluster.run_with_input(&["diff", "-f", "-"], CONFIG);
    assert_eq!(diff.status.code(), Some(1), "{}", String::from_utf8_lossy(&diff.stderr));
    assert!(String::from_utf8_lossy(&diff.stdout).contains("+  b: \"2\""));
    let dry = cluster.run_with_input(&["apply", "--dry-run=server", "-f", "-"], CONFIG);
    assert!(String::from_utf8_lossy(&dry.stdout).contains("configured (server dry run)"));
    assert_eq!(cluster.json("get cm conf")["data"]["c"], "3");
    let server_side = cluster.run_with_input(&["apply", "--server-side", "-f", "-"], CONFIG);
    assert!(String::from_utf8_lossy(&server_side.stderr).contains("server-side apply is not supported yet"));
}

#[test]
fn apply_merges_lists_by_their_keys() {
    let cluster = Cluster::start();
    let account = |secrets: &str| {
        format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: sa}}\nsecrets: [{secrets}]\n")
    };
    cluster.apply(&account("{name: a}, {name: b}"));
    cluster.ok(&["patch", "sa", "sa", "-p", r#"{"secrets":[{"name":"c"}]}"#]);
    cluster.apply(&account("{name: b}"));
    let names: Vec<Value> = cluster.json("get sa sa")["secrets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].clone())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names.contains(&json!("b")) && names.contains(&json!("c")));
}

#[test]
fn edit_patch_label_annotate() {
    let cluster = Cluster::start();
    cluster.apply(CONFIG);
    let editor = cluster.script("#!/bin/sh\nsed -i 's/a: \"1\"/a: \"edited\"/' \"$1\"\n");
    let edited = cluster.command(&["edit", "cm", "conf"]).env("KUBE_EDITOR", &editor).output().unwrap();
    assert!(edited.status.success(), "{}", String::from_utf8_lossy(&edited.stderr));
    assert_eq!(cluster.kubectl("get cm conf -o jsonpath={.data.a}"), "edited");

    let patch = |kind: &str, patch: &str| cluster.ok(&["patch", "cm", "conf", "--type", kind, "-p", patch]);
    patch("json", r#"[{"op":"add","path":"/data/j","value":"1"},{"op":"remove","path":"/data/a"}]"#);
    patch("merge", r#"{"data":{"m":"1"}}"#);
    patch("strategic", r#"{"data":{"s":"1"}}"#);
    assert_eq!(cluster.json("get cm conf")["data"], json!({"b": "2", "j": "1", "m": "1", "s": "1"}));
    let failed = cluster.fails(&[
        "patch",
        "cm",
        "conf",
        "--type",
        "json",
        "-p",
        r#"[{"op":"test","path":"/data/b","value":"x"}]"#,
    ]);
    assert!(failed.contains("the server rejected our request due to an error in our request"), "{failed}");

    cluster.kubectl("label cm conf app=db --overwrite");
    cluster.kubectl("annotate cm conf note=yes");
    let object = cluster.json("get cm conf");
    assert_eq!(object["metadata"]["labels"]["app"], "db");
    assert_eq!(object["metadata"]["annotations"]["note"], "yes");
    let bad = cluster.fails(&["label", "cm", "conf", "app=not good"]);
    assert!(bad.contains("label"), "{bad}");
}

#[test]
fn create_replace_and_their_refusals() {
    let cluster = Cluster::start();
    cluster.kubectl("create configmap one --from-literal=a=b");
    let again = cluster.fails(&["create", "configmap", "one"]);
    assert!(again.contains("configmaps \"one\" already exists"), "{again}");
    let generated = cluster.create("apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: gen-}\n");
    assert!(generated.starts_with("configmap/gen-"), "{generated}");
    let upper = cluster.create_fails("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: UPPER}\n");
    assert!(
        upper.contains("metadata.name: Invalid value: \"UPPER\": a lowercase RFC 1123 subdomain"),
        "{upper}"
    );
    let missing =
        cluster.create_fails("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: nowhere}\n");
    assert!(missing.contains("namespaces \"nowhere\" not found"), "{missing}");

    // Optimistic concurrency: the second writer with the same revision loses.
    let mut object = cluster.json("get cm one");
    object["data"]["a"] = json!("c");
    let replaced = cluster.run_with_input(&["replace", "-f", "-"], &object.to_string());
    assert!(replaced.status.success(), "{}", String::from_utf8_lossy(&replaced.stderr));
    let stale = cluster.run_with_input(&["replace", "-f", "-"], &object.to_string());
    let stale = String::from_utf8_lossy(&stale.stderr).into_owned();
    assert!(
        stale.contains(
            "Error from server (Conflict)"
        ) && stale.contains("Operation cannot be fulfilled on configmaps \"one\": the object has been modified; please apply your changes to the latest version and try again"),
        "{stale}"
    );
    object["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    object["metadata"]["uid"] = json!("00000000-0000-0000-0000-000000000000");
    let other = cluster.run_with_input(&["replace", "-f", "-"], &object.to_string());
    assert!(String::from_utf8_lossy(&other.stderr).contains("Precondition failed: UID in precondition"));
}

#[test]
fn unknown_fields_are_refused_or_warned_about() {
    let cluster = Cluster::start();
    let pod = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a, nonsense: 1}\nspec: {foo: 1}\n";
    let refused = cluster.create_fails(pod);
    assert!(
        refused.contains(
            "ServiceAccount in version \"v1\" cannot be handled as a ServiceAccount: strict decoding error: \
                          unknown field \"metadata.nonsense\", unknown field \"spec\""
        ),
        "{refused}"
    );
    let warned = cluster.run_with_input(&["create", "--validate=warn", "-f", "-"], pod);
    assert!(warned.status.success());
    assert!(String::from_utf8_lossy(&warned.stderr).contains("Warning: unknown field \"spec\""));
    assert_eq!(cluster.json("get sa a").get("spec"), None);
    let wrong = cluster.create_fails("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\ndata: {a: 5}\n");
    assert!(wrong.contains("data.a: invalid type: integer `5`, expected a string"), "{wrong}");
    let patched = cluster.command(&["patch", "sa", "a", "-p", r#"{"foo":1}"#]).output().unwrap();
    assert!(String::from_utf8_lossy(&patched.stderr).contains("Warning: unknown field \"foo\""));
    let edited = cluster.run_with_input(&["apply", "-f", "-"], pod);
    let edited = String::from_utf8_lossy(&edited.stderr).into_owned();
    assert!(edited.contains("strict decoding error: unknown field \"metadata.nonsense\""), "{edited}");
}

#[test]
fn hostile_bodies_get_an_answer_and_nothing_else() {
    let cluster = Cluster::start();
    let large = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: large}}\ndata: {{a: '{}'}}\n",
        "x".repeat(4 << 20)
    );
    let refused = cluster.create_fails(&large);
    assert!(refused.contains("Request entity too large: limit is 3145728"), "{refused}");
    let post = |content: &str| {
        let path = cluster.script(content);
        let args = ["create", "--raw", "/api/v1/namespaces/default/configmaps", "-f", path.to_str().unwrap()];
        cluster.fails(&args)
    };
    let deep = post(&"[".repeat(100_000));
    assert!(deep.contains("nested deeper than 127 levels"), "{deep}");
    for bad in [
        "",
        "{",
        "[]",
        "null",
        "5",
        "{\"kind\":\"Pod\",\"apiVersion\":\"v1\"}",
        "{\"metadata\":5}",
        "{\"metadata\":{\"name\":{}}}",
    ] {
        let answer = post(bad);
        assert!(answer.contains("BadRequest") || answer.contains("Invalid"), "{bad}: {answer}");
    }
    assert_eq!(cluster.kubectl("get --raw /readyz"), "ok");
}

#[test]
fn delete_waits_for_finalizers() {
    let cluster = Cluster::start();
    cluster.apply(&CONFIG.replace("{name: conf,", "{name: conf, finalizers: [example.com/hold],"));
    let mut child = cluster.command(&["delete", "cm", "conf"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert!(line.contains("configmap \"conf\" deleted"), "{line}");
    let object = cluster.json("get cm conf");
    assert!(object["metadata"]["deletionTimestamp"].is_string());
    assert!(child.try_wait().unwrap().is_none(), "kubectl must wait for the finalizer");
    let more = cluster.fails(&[
        "patch",
        "cm",
        "conf",
        "--type",
        "merge",
        "-p",
        r#"{"metadata":{"finalizers":["example.com/hold","example.com/new"]}}"#,
    ]);
    assert!(more.contains("no new finalizers can be added if the object is being deleted"), "{more}");
    cluster.ok(&["patch", "cm", "conf", "--type", "merge", "-p", r#"{"metadata":{"finalizers":null}}"#]);
    assert!(child.wait().unwrap().success());
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert!(cluster.fails(&["get", "cm", "conf"]).contains("NotFound"));
    cluster.kubectl("create configmap x1");
    cluster.kubectl("create configmap x2");
    cluster.kubectl("label cm x1 x2 bulk=1");
    let raw = cluster.kubectl("delete cm -l bulk=1");
    assert!(raw.contains("\"x1\" deleted") && raw.contains("\"x2\" deleted"));
}

#[test]
fn wait_for_conditions_and_deletion() {
    let cluster = Cluster::start();
    cluster.apply("apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n");
    let ready = r#"{"status":{"conditions":[{"type":"Ready","status":"True","reason":"r","message":"m"}]}}"#;
    let mut waiting = cluster
        .command(&["wait", "node/n1", "--for=condition=Ready", "--timeout=30s"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    cluster.ok(&["patch", "node", "n1", "--subresource=status", "-p", ready]);
    assert!(waiting.wait().unwrap().success());
    assert_eq!(cluster.kubectl("get nodes --no-headers").split_whitespace().nth(1), Some("Ready"));
    // Through the main resource the status stays as it is.
    cluster.ok(&[
        "patch",
        "node",
        "n1",
        "-p",
        r#"{"status":{"conditions":[{"type":"Ready","status":"False"}]},"spec":{"unschedulable":true}}"#,
    ]);
    assert_eq!(
        cluster.kubectl("get nodes --no-headers").split_whitespace().nth(1),
        Some("Ready,SchedulingDisabled")
    );
    let mut waiting = cluster
        .command(&["wait", "node/n1", "--for=delete", "--timeout=30s"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    cluster.kubectl("delete node n1");
    assert!(waiting.wait().unwrap().success());
}

#[test]
fn discovery_and_explain() {
    let cluster = Cluster::start();
    let resources = cluster.kubectl("api-resources");
    for (name, short, version, namespaced, kind) in [
        ("pods", "po", "v1", "true", "Pod"),
        ("virtualmachines", "vm,vms", "kubevirt.io/v1", "true", "VirtualMachine"),
        ("virtualmachineinstances", "vmi,vmis", "kubevirt.io/v1", "true", "VirtualMachineInstance"),
        (
            "securitycontextconstraints",
            "scc",
            "security.openshift.io/v1",
            "false",
            "SecurityContextConstraints",
        ),
        (
            "customresourcedefinitions",
            "crd,crds",
            "apiextensions.k8s.io/v1",
            "false",
            "CustomResourceDefinition",
        ),
    ] {
        let line = resources
            .lines()
            .find(|line| line.starts_with(&format!("{name} ")))
            .unwrap_or_else(|| panic!("{resources}"));
        assert_eq!(line.split_whitespace().collect::<Vec<_>>(), [name, short, version, namespaced, kind]);
    }
    assert!(cluster.kubectl("api-versions").contains("subresources.kubevirt.io/v1alpha3"));
    let explained = cluster.kubectl("explain vm.spec.runStrategy");
    assert!(explained.contains("FIELD: runStrategy"), "{explained}");
    assert!(cluster.kubectl("explain pod").contains("KIND:       Pod"));
    assert_eq!(cluster.kubectl("auth can-i delete pods").trim(), "yes");
    assert!(cluster.kubectl("auth whoami").contains("kubernetes-admin"));
}

#[test]
fn namespaces_are_emptied_before_they_go() {
    let cluster = Cluster::start();
    cluster.kubectl("create namespace gone");
    assert_eq!(cluster.kubectl("get ns gone -o jsonpath={.status.phase}"), "Active");
    cluster.kubectl("create configmap a -n gone");
    cluster.kubectl("delete namespace gone --timeout=30s");
    assert!(cluster.fails(&["get", "ns", "gone"]).contains("NotFound"));
    assert!(cluster.fails(&["get", "cm", "a", "-n", "gone"]).contains("NotFound"));
}

#[test]
fn machines_are_custom_resources() {
    // A machine is judged by SCCs, so these are there.
    let cluster = common::world::World::new().cluster;
    let machine = "
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {name: vm1}
spec:
  runStrategy: Halted
  template:
    spec:
      domain:
        memory: {guest: 64Mi}
        devices: {}
";
    cluster.apply(machine);
    let object = cluster.json("get vm vm1");
    assert_eq!(object["metadata"]["generation"], 1);
    assert_eq!(
        cluster.kubectl("get vm").lines().next().unwrap().split_whitespace().collect::<Vec<_>>(),
        ["NAME", "AGE", "STATUS", "READY"]
    );
    cluster.ok(&[
        "patch",
        "vm",
        "vm1",
        "--type",
        "merge",
        "--subresource",
        "status",
        "-p",
        r#"{"status":{"printableStatus":"Stopped"}}"#,
    ]);
    assert_eq!(cluster.json("get vm vm1")["metadata"]["generation"], 1);
    assert!(cluster.kubectl("get vm vm1 --no-headers").contains("Stopped"));
    cluster.ok(&["patch", "vm", "vm1", "--type", "merge", "-p", r#"{"spec":{"runStrategy":"Manual"}}"#]);
    assert_eq!(cluster.json("get vm vm1")["metadata"]["generation"], 2);
    assert_eq!(
        cluster.json("get virtualmachines.v1alpha3.kubevirt.io vm1")["apiVersion"],
        "kubevirt.io/v1alpha3"
    );
    let strategic = cluster.fails(&["patch", "vm", "vm1", "--type", "strategic", "-p", r#"{"spec":{}}"#]);
    assert!(strategic.contains("the body of the request was in an unknown format"), "{strategic}");
    let unknown = cluster.create_fails(
        &machine.replace("name: vm1", "name: vm2").replace("devices: {}", "devices: {}\n        nonsense: 1"),
    );
    assert!(unknown.contains("unknown field \"spec.template.spec.domain.nonsense\""), "{unknown}");
    assert!(cluster.kubectl("get all").contains("virtualmachine.kubevirt.io/vm1"));
}

#[test]
fn objects_survive_a_restart() {
    let cluster = Cluster::start();
    cluster.apply(CONFIG);
    let before = cluster.json("get cm conf");
    let cluster = cluster.restart();
    assert_eq!(cluster.json("get cm conf"), before);
}

/// A namespace's block of user ids. It comes right after the namespace.
fn uid_range(cluster: &Cluster, namespace: &str) -> String {
    let path = r"-o=jsonpath={.metadata.annotations.openshift\.io/sa\.scc\.uid-range}";
    let ask = || cluster.ok(&["get", "namespace", namespace, path]);
    let range = std::iter::repeat_with(ask).take(200).find(|range| !range.is_empty());
    range.expect("a block of user ids")
}

#[test]
fn a_block_of_user_ids_is_not_given_again_after_a_deletion_and_a_restart() {
    let cluster = Cluster::start();
    cluster.kubectl("create namespace gone");
    let gone = uid_range(&cluster, "gone");
    cluster.kubectl("delete namespace gone --wait --timeout=60s");
    let cluster = cluster.restart();
    cluster.kubectl("create namespace next");
    let next = uid_range(&cluster, "next");
    assert_ne!(gone, next);
    assert!(gone < next, "blocks of equal length are given in order: {gone}, {next}");
}

#[test]
fn a_port_in_use_is_named() {
    let cluster = Cluster::start();
    let error = cluster.second_server_on_the_same_port();
    assert!(error.contains("is in use by another program") && error.contains("--listen"), "{error}");
}
