//! `ferrovirt scc` as a whole process: answers, errors and exit codes.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

const DEPLOYMENT: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {a: b}}
  template:
    metadata: {labels: {a: b}}
    spec: {containers: [{name: c, image: example/web:1}]}
";

const JOB: &str = r"
apiVersion: batch/v1
kind: Job
metadata: {name: scan, namespace: shop}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: c, image: example/scan:1, securityContext: {capabilities: {add: [NET_RAW]}}}]
      volumes: [{name: v, hostPath: {path: /var/log}}]
";

const ANY_USER: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: any, namespace: shop}
spec: {serviceAccountName: builder, containers: [{name: c, image: i, securityContext: {runAsUser: 7}}]}
";

/// Runs it with a text on standard input.
fn scc(words: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ferrovirt"))
        .arg("scc")
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read its input ends before all of it is there.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// What it says on which stream, and its exit code.
#[track_caller]
fn check(words: &[&str], input: &str, code: i32, expected: &[&str]) -> String {
    let output = scc(words, input);
    let text = String::from_utf8_lossy(if code == 2 { &output.stderr } else { &output.stdout }).into_owned();
    assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
    for part in expected {
        assert!(text.contains(part), "{words:?}: no {part:?} in\n{text}");
    }
    text
}

#[track_caller]
fn json_of(words: &[&str], input: &str, code: i32) -> Value {
    serde_json::from_str(&check(&[words, &["-o", "json"]].concat(), input, code, &[])).unwrap()
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name)
}

fn file(directory: &tempfile::TempDir, name: &str, text: &str) -> String {
    let path = directory.path().join(name);
    fs::write(&path, text).unwrap();
    path.to_string_lossy().into_owned()
}

#[test]
fn a_workload_is_reviewed_for_the_one_who_makes_it() {
    let admitted = "Deployment web in namespace shop: admitted by restricted-v2, by the right of user alice";
    let sets = "sets .spec.containers[0].securityContext.runAsUser: 1000000000";
    check(&["review", "-f", "-", "--as", "alice"], DEPLOYMENT, 0, &["assumed: ", admitted, sets]);
    check(&["review", "-f", "-"], DEPLOYMENT, 0, &["somebody without further rights makes it"]);
    // An administrator gets what has the highest priority, by group.
    let words = ["review", "-f", "-", "--as", "root", "--as-group", "system:cluster-admins"];
    check(&words, DEPLOYMENT, 0, &["admitted by anyuid, by the right of user root"]);
    // The controllers' own account may use their SCC, which lets the capabilities of launchers be added and no others.
    let account = ["review", "-f", "-", "--serviceaccount", "kubevirt/kubevirt-controller"];
    check(
        &account,
        &JOB.replace("NET_RAW", "SYS_ADMIN"),
        1,
        &[
            "Job scan in namespace shop: refused: no SCC that may be used admits it",
            "kubevirt-controller, usable by service account kubevirt/kubevirt-controller",
            ".containers[0].capabilities.add: Invalid value: \"SYS_ADMIN\": capability may not be added",
            "privileged would admit it and may not be used",
        ],
    );
}

#[test]
fn the_answer_for_programs_has_the_same() {
    let answer = json_of(&["review", "-f", "-", "--as", "alice"], DEPLOYMENT, 0);
    let object = &answer["objects"][0];
    assert_eq!((&object["object"], &object["scc"]), (&json!("Deployment web"), &json!("restricted-v2")));
    assert_eq!((&object["admitted"], &object["subject"]), (&json!(true), &json!("user alice")));
    let set = |field: &str| {
        object["changes"].as_array().unwrap().iter().any(|change| change["field"] == field).to_string()
    };
    assert_eq!(set(".spec.securityContext.seccompProfile.type"), "true", "{object}");

    let answer = json_of(&["review", "-f", "-", "--as", "alice"], JOB, 1);
    let object = &answer["objects"][0];
    assert_eq!((&object["admitted"], &object["scc"]), (&json!(false), &Value::Null));
    let candidates = object["candidates"].as_array().unwrap();
    assert!(candidates.len() >= 13, "{object}");
    let one = |name: &str| candidates.iter().find(|candidate| candidate["scc"] == name).unwrap();
    assert_eq!(one("restricted-v2")["usableBy"], "user alice");
    let fields: Vec<&Value> =
        one("restricted-v2")["reasons"].as_array().unwrap().iter().map(|reason| &reason["field"]).collect();
    assert_eq!(fields, [".spec.volumes[0]", ".containers[0].capabilities.add"]);
    assert_eq!((&one("privileged")["admits"], &one("privileged")["usableBy"]), (&json!(true), &Value::Null));
}

#[test]
fn a_machine_is_reviewed_through_its_pod() {
    let plain = example("plain.yaml");
    let host = example("hostdisk.yaml");
    let (plain, host) = (plain.to_str().unwrap(), host.to_str().unwrap());
    let words = ["review", "-f", plain, "--as", "alice"];
    check(&words, "", 0, &["VirtualMachine plain in namespace default: admitted by restricted-v2"]);
    let refused = "Invalid value: \"hostPath\": hostPath volumes are not allowed to be used";
    check(&["review", "-f", host, "--as", "alice"], "", 1, &["VirtualMachine hostdisk", refused]);
    // In the other profile the pod asks for more.
    let documented = ["review", "-f", plain, "--as", "alice", "--profile", "documented"];
    check(&documented, "", 1, &["restricted-v2, usable by user alice", "NET_ADMIN"]);
}

#[test]
fn sccs_and_roles_come_from_files() {
    let directory = tempfile::tempdir().unwrap();
    let own = r"
apiVersion: v1
kind: List
items:
- apiVersion: security.openshift.io/v1
  kind: SecurityContextConstraints
  metadata: {name: own}
  priority: 20
  users: [bob]
  allowHostDirVolumePlugin: true
  allowedCapabilities: [NET_RAW]
  volumes: [hostPath, projected]
  runAsUser: {type: RunAsAny}
  seLinuxContext: {type: RunAsAny}
  fsGroup: {type: RunAsAny}
  supplementalGroups: {type: RunAsAny}
";
    let roles = r"
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: any, namespace: shop}
rules:
- {apiGroups: [security.openshift.io], resources: [securitycontextconstraints], resourceNames: [anyuid], verbs: [use]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: any, namespace: shop}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: any}
subjects: [{kind: ServiceAccount, name: builder, namespace: shop}]
";
    let (own, roles) = (file(&directory, "own.yaml", own), file(&directory, "roles.yaml", roles));
    let by = ["review", "-f", "-", "--sccs", &own, "--as"];
    check(&[&by[..], &["bob"]].concat(), JOB, 0, &["admitted by own, by the right of user bob"]);
    check(&[&by[..], &["alice"]].concat(), JOB, 1, &["own would admit it and may not be used"]);
    // The pod's own account counts, in its namespace alone.
    let granted = ["review", "-f", "-", "--rbac", &roles, "--as", "alice"];
    let admitted = "admitted by anyuid, by the right of service account shop/builder";
    check(&granted, ANY_USER, 0, &[admitted]);
    check(&granted, &ANY_USER.replace("namespace: shop", "namespace: other"), 1, &["refused"]);

    // Two sides, by name and from a file.
    let words = ["diff", "own", "restricted-v2", "--sccs", &own];
    let left = "own allows, and restricted-v2 does not:";
    let text = check(&words, "", 1, &[left, "allowedCapabilities=NET_RAW", "host disk: machines can use"]);
    assert!(text.contains("restricted-v2 allows, and own does not:"), "{text}");
    let answer = json_of(&["diff", &own, "privileged"], "", 1);
    assert_eq!((&answer["a"], &answer["onlyA"]), (&json!("own"), &json!([])));
    assert!(answer["onlyB"].as_array().unwrap().len() > 5, "{answer}");
    check(&["diff", "anyuid", "anyuid"], "", 0, &["anyuid allows nothing that anyuid does not"]);

    // Who holds the least one is known from the roles.
    let words = ["who-can", "-f", "-", "--rbac", &roles];
    let least = "# Pod any in namespace shop: the least SCC that admits it is nonroot-v2";
    check(&words, ANY_USER, 0, &[least, "# all that admit it: anyuid, ", "name: any-least\n"]);
    let answer = json_of(&["who-can", "-f", "-", "--sccs", &own], JOB, 0);
    let object = &answer["objects"][0];
    assert_eq!(
        (&object["least"]["scc"], &object["least"]["usableBy"]),
        (&json!("own"), &json!(["user bob"]))
    );
    assert_eq!(object["admittedBy"], json!(["own", "privileged"]));
    assert_eq!(object["generated"]["metadata"]["name"], "scan-least");
    assert_eq!(object["generated"]["allowedCapabilities"], json!(["NET_RAW"]));
}

#[test]
fn what_who_can_makes_admits_what_it_was_made_for() {
    let directory = tempfile::tempdir().unwrap();
    let host = example("hostdisk.yaml");
    let machine = fs::read_to_string(&host).unwrap();
    for (manifest, name) in
        [(JOB, "scan-least"), (machine.as_str(), "hostdisk-least"), (ANY_USER, "any-least")]
    {
        let made = check(&["who-can", "-f", "-"], manifest, 0, &[&format!("name: {name}\n")]);
        let made = file(&directory, name, &made.replace("users: []", "users: [alice]"));
        let words = ["review", "-f", "-", "--sccs", &made, "--as", "alice"];
        check(&words, manifest, 0, &[&format!("admitted by {name}, by the right of user alice")]);
        // And little else: a privileged pod is still refused.
        let privileged = ANY_USER.replace("runAsUser: 7", "privileged: true");
        check(&words, &privileged, 1, &["Privileged containers are not allowed"]);
    }
}

#[test]
fn wrong_input_is_reported_and_ends_with_2() {
    let review = ["review", "-f", "-"];
    check(&["review", "-f", "/nonexistent"], "", 2, &["error: /nonexistent"]);
    check(&review, "", 2, &["no pod, workload or machine in -"]);
    check(&review, "kind: ConfigMap\nmetadata: {name: a}\n", 2, &["no pod, workload or machine"]);
    check(&review, "[1", 2, &["error: -"]);
    check(&review, "- 1\n", 2, &["a document is no object"]);
    check(&review, &DEPLOYMENT.replace("template:", "tmplate:"), 2, &["/spec/template is missing"]);
    check(&review, &DEPLOYMENT.replace("name: c,", "nam: c,"), 2, &["Deployment web"]);
    check(&review, &JOB.replace("volumes:", "volume:"), 2, &["unknown field \"spec.volume\""]);
    check(&review, &ANY_USER.replace("containers: [", "initContainers: ["), 2, &["a pod needs a container"]);
    let slash = ["review", "-f", "-", "--serviceaccount", "builder"];
    check(&slash, DEPLOYMENT, 2, &["--serviceaccount builder: write NAMESPACE/NAME"]);
    check(
        &["review", "-f", "-", "--as", "a", "--serviceaccount", "b/c"],
        DEPLOYMENT,
        2,
        &["cannot be used with"],
    );
    check(&["review", "-f", "-", "--sccs", "a", "--cluster"], DEPLOYMENT, 2, &["cannot be used with"]);
    check(&["diff", "nobody", "anyuid"], "", 2, &["nobody is neither a file nor an SCC; there are: "]);
    check(&["who-can", "-f", "-"], "kind: Pod\nspec: {hostNetwork: 7}\n", 2, &["Pod without a name"]);
    let directory = tempfile::tempdir().unwrap();
    let bad = "kind: SecurityContextConstraints\nmetadata: {name: bad}\nusers: 7\n";
    let bad = file(&directory, "bad.yaml", bad);
    check(
        &["review", "-f", "-", "--sccs", &bad],
        DEPLOYMENT,
        2,
        &["SecurityContextConstraints bad: invalid type"],
    );
}
