//! `kubectl apply -f deploy/ferrovirt.yaml` on a cluster that has never seen it: controllers of which one works, places for
//! machines on every node, machines that become instances and launcher pods; and its removal, which leaves nothing.
//!
//! The image of the launchers has no QEMU here, so that no machine runs: `machine.rs` is about those that do.
#![allow(clippy::indexing_slicing)]

use anyhow::{Context, Result, bail, ensure};
use ferrovirt_cluster::{
    Own,
    images::{self, TOOLS},
    network, wait,
};
use ferrovirt_e2e::process::Process;
use ferrovirt_privilege::{
    Scenario,
    scenario::{registered, verbs, witnessed},
};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, time::Duration};

const TIMEOUT: Duration = Duration::from_secs(180);
const RESOURCE: &str = "devices.ferrovirt.io/machine";
/// As many as the manifest says.
const SLOTS: &str = "110";
/// What every grant that is tried here has in common.
const ROLE: &str = "kubevirt-controller";

struct Test {
    cluster: Own,
    file: String,
}

impl Test {
    fn kubectl(&self, words: &str) -> Result<String> {
        self.cluster.output(&words.split(' ').collect::<Vec<_>>())
    }

    fn json(&self, words: &str) -> Result<Value> {
        self.cluster.json(&words.split(' ').collect::<Vec<_>>())
    }

    /// What is in the logs of all replicas, also of containers that were started again.
    fn log(&self) -> String {
        let words = "logs -n kubevirt -l kubevirt.io=kubevirt-controller --tail=-1 --prefix";
        self.kubectl(words).unwrap_or_default()
    }

    /// The replica that works, by the Lease.
    fn holder(&self) -> Result<String> {
        let lease = self.json("get lease kubevirt-controller -n kubevirt")?;
        Ok(lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned())
    }

    /// Another replica than `before` works.
    fn another(&self, before: &str) -> Result<String> {
        wait("another replica to lead", TIMEOUT, || {
            let now = self.holder()?;
            Ok((!now.is_empty() && now != before).then_some(now))
        })
        .with_context(|| self.log())
    }

    fn rolled_out(&self) -> Result<()> {
        self.kubectl("rollout status deployment/kubevirt-controller -n kubevirt --timeout=180s")
            .map(drop)
            .with_context(|| self.kubectl("describe pods -n kubevirt").unwrap_or_default())
    }

    fn available(&self) -> Result<()> {
        self.kubectl("wait kubevirt/kubevirt -n kubevirt --for=create --timeout=180s")
            .with_context(|| self.log())?;
        self.kubectl("wait kubevirt/kubevirt -n kubevirt --for=condition=Available --timeout=180s")
            .map(drop)
            .with_context(|| self.kubectl("get kubevirt -n kubevirt -o yaml").unwrap_or_default())
    }

    /// Machines ask for no /dev/kvm from now on.
    fn emulate(&self) -> Result<()> {
        let patch = r#"{"spec":{"configuration":{"developerConfiguration":{"useEmulation":true}}}}"#;
        let words = ["patch", "kubevirt", "kubevirt", "-n", "kubevirt", "--type=merge", "-p", patch];
        self.cluster.output(&words).map(drop)
    }

    /// Makes a machine; its instance and its launcher pod.
    fn machine(&self, name: &str) -> Result<(Value, Value)> {
        self.cluster.apply(&format!(
            "
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {{name: {name}, namespace: vms}}
spec:
  runStrategy: Once
  template:
    spec: {{domain: {{memory: {{guest: 64Mi}}, devices: {{}}}}}}
"
        ))?;
        let instance = wait(&format!("the instance of {name}"), TIMEOUT, || {
            Ok(self.json(&format!("get vmi {name} -n vms")).ok())
        })
        .with_context(|| self.log())?;
        let uid = instance["metadata"]["uid"].as_str().context("no UID")?;
        let pod = wait(&format!("the pod of {name} on a node"), TIMEOUT, || {
            let pods = self.json(&format!("get pods -n vms -l kubevirt.io/created-by={uid}"))?;
            let pods = pods["items"].as_array().cloned().unwrap_or_default();
            ensure!(pods.len() <= 1, "two pods of one machine");
            Ok(pods.into_iter().find(|pod| pod["spec"]["nodeName"].is_string()))
        })
        .with_context(|| {
            format!("{}\n{}", self.kubectl("describe pods -n vms").unwrap_or_default(), self.log())
        })?;
        Ok((instance, pod))
    }
}

/// Both replicas are ready, and the KubeVirt object, which nobody applied, says so.
fn replicas(test: &Test) -> Result<()> {
    let first = test.kubectl(&format!("apply -f {}", test.file))?;
    ensure!(first.lines().all(|line| line.ends_with(" created")), "{first}");
    test.available()?;
    test.rolled_out()?;
    test.kubectl("rollout status daemonset/virt-handler -n kubevirt --timeout=180s")?;
    let pods = test.json("get pods -n kubevirt -l kubevirt.io=kubevirt-controller")?;
    let nodes: BTreeSet<_> = pods["items"]
        .as_array()
        .context("no pods")?
        .iter()
        .map(|pod| pod["spec"]["nodeName"].as_str())
        .collect();
    ensure!(nodes.len() == 2, "both replicas are on {nodes:?}");
    test.kubectl("wait kubevirt/kubevirt -n kubevirt --for=condition=Progressing=false --timeout=180s")?;
    let again = test.kubectl(&format!("apply -f {}", test.file))?;
    // kubectl replaces the selector of a disruption budget each time, with itself.
    let same = |line: &str| line.ends_with(" unchanged") || line.starts_with("poddisruptionbudget");
    ensure!(again.lines().all(same), "{again}");
    for node in test.cluster.layout().nodes() {
        wait("places for machines", TIMEOUT, || {
            let node = test.json(&format!("get node {}", node.name))?;
            Ok((node["status"]["allocatable"][RESOURCE] == SLOTS).then_some(()))
        })?;
    }
    Ok(())
}

/// A machine's pod is what an ordinary namespace admits, and goes where there are places.
fn launcher(pod: &Value) -> Result<()> {
    let container = &pod["spec"]["containers"][0];
    ensure!(container["resources"]["limits"][RESOURCE] == "1", "{container}");
    let command = json!(["/usr/bin/virt-launcher", "--slot", "/run/ferrovirt"]);
    ensure!(container["command"] == command, "{container}");
    let image = concat!("localhost/ferrovirt/virt-launcher:", env!("CARGO_PKG_VERSION"));
    ensure!(container["image"] == image, "{container}");
    ensure!(pod["spec"]["nodeSelector"].is_null(), "{}", pod["spec"]["nodeSelector"]);
    let paths = pod["spec"]["volumes"].as_array().into_iter().flatten();
    ensure!(paths.into_iter().all(|volume| volume["hostPath"].is_null()), "it names a path of the node");
    Ok(())
}

/// A leader that is killed, and one that is asked to end, is followed by another one, which knows all machines.
fn takeover(test: &Test) -> Result<()> {
    let (instance, pod) = test.machine("first")?;
    launcher(&pod)?;
    let first = test.holder()?;
    let (name, _) = first.split_once('_').context("no replica")?;
    let leader = test.json(&format!("get pod {name} -n kubevirt"))?;
    let container = leader["metadata"]["uid"].as_str().context("no UID")?.to_owned();
    let mut found =
        Process::find(|words| ["serve", "controller"].iter().all(|word| words.iter().any(|one| one == word)))
            .into_iter()
            .filter(|process| {
                fs::read_to_string(format!("/proc/{}/cgroup", process.pid))
                    .unwrap_or_default()
                    .contains(&container)
            });
    found.next().context("the leader has no process")?.signal(Signal::KILL)?;
    let second = test.another(&first)?;
    test.machine("second")?;
    // Asked to end: it gives the Lease back.
    let (name, _) = second.split_once('_').context("no replica")?;
    test.kubectl(&format!("delete pod {name} -n kubevirt"))?;
    test.another(&second)?;
    let (_, pod) = test.machine("third")?;
    launcher(&pod)?;
    let still = test.json("get vmi first -n vms")?;
    ensure!(still["metadata"]["uid"] == instance["metadata"]["uid"], "the first instance is another one");
    let pods = test.json("get pods -n vms -l kubevirt.io=virt-launcher")?;
    ensure!(pods["items"].as_array().is_some_and(|pods| pods.len() == 3), "one pod for each machine: {pods}");
    test.rolled_out()
}

/// What is there only for the API server to ask us is missed as well, and comes back.
fn webhooks_are_missed(test: &Test) -> Result<()> {
    test.kubectl("delete validatingwebhookconfiguration kubevirt-api")?;
    test.kubectl("wait kubevirt/kubevirt -n kubevirt --for=condition=Available=false --timeout=180s")?;
    let object = test.json("get kubevirt kubevirt -n kubevirt")?;
    let said = object["status"]["conditions"].to_string();
    ensure!(said.contains("there is no ValidatingWebhookConfiguration kubevirt-api"), "{said}");
    test.kubectl(&format!("apply -f {}", test.file))?;
    test.available()
}

/// More is logged while somebody wants it, by parts that run on.
fn log_verbosity(test: &Test) -> Result<()> {
    let write = |level: Value| {
        let verbosity =
            json!({"logVerbosity": {"virtController": level, "virtAPI": level, "virtHandler": level}});
        let patch = json!({"spec": {"configuration": {"developerConfiguration": verbosity}}}).to_string();
        test.cluster.output(&[
            "patch",
            "kubevirt",
            "kubevirt",
            "-n",
            "kubevirt",
            "--type=merge",
            "-p",
            &patch,
        ])
    };
    let said = |count: usize, level: u8| {
        for part in ["kubevirt-controller", "kubevirt-api", "virt-handler"] {
            let words = format!("the log has verbosity {level}");
            wait(&format!("{part}: {words}"), TIMEOUT, || {
                let log = test.kubectl(&format!(
                    "logs -n kubevirt -l kubevirt.io={part} --all-containers --tail=-1 --prefix"
                ))?;
                Ok((log.lines().filter(|line| line.contains(&words)).count() == count).then_some(()))
            })
            .with_context(|| test.log())?;
        }
        Ok::<_, anyhow::Error>(())
    };
    ensure!(write(json!("much")).is_err(), "no number was taken");
    ensure!(!test.log().contains(" DEBUG "), "{}", test.log());
    write(json!(5))?;
    // Both replicas, and the handlers of both nodes.
    said(2, 5)?;
    test.machine("loud")?;
    wait("what the controllers decide", TIMEOUT, || Ok(test.log().contains(" DEBUG ").then_some(())))
        .with_context(|| test.log())?;
    write(Value::Null)?;
    said(2, 2)
}

/// Whom the API server trusts to be the machine API is looked at, too.
fn authorities_are_missed(test: &Test) -> Result<()> {
    // Nobody writes it again.
    test.kubectl("scale deployment/kubevirt-api -n kubevirt --replicas=0")?;
    let patch = r#"{"spec":{"caBundle":null}}"#;
    let service = "v1.subresources.kubevirt.io";
    test.cluster.output(&["patch", "apiservice", service, "--type=merge", "-p", patch])?;
    let said = wait("what is said of the authority", TIMEOUT, || {
        let object = test.json("get kubevirt kubevirt -n kubevirt")?;
        let said = object["status"]["conditions"].to_string();
        Ok(said.contains(&format!("the APIService {service} names no authority")).then_some(said))
    })?;
    ensure!(said.contains("no replica of kubevirt-api is available"), "{said}");
    test.kubectl("scale deployment/kubevirt-api -n kubevirt --replicas=2")?;
    test.available()?;
    test.kubectl("wait kubevirt/kubevirt -n kubevirt --for=condition=Degraded=false --timeout=180s").map(drop)
}

/// The KubeVirt object stays while there are machines, or ends them, as its strategy says; no matter who makes machines meanwhile.
fn uninstall_strategy(test: &Test) -> Result<()> {
    const DELETE: &str = "delete kubevirt kubevirt -n kubevirt --timeout=180s";
    let finalizers = |wanted: Value| {
        wait(&format!("the finalizers {wanted}"), TIMEOUT, || {
            let object = test.json("get kubevirt kubevirt -n kubevirt")?;
            Ok((object["metadata"]["finalizers"] == wanted).then_some(()))
        })
        .with_context(|| test.log())
    };
    wait("the annotation", TIMEOUT, || {
        let object = test.json("get kubevirt kubevirt -n kubevirt")?;
        Ok((object["metadata"]["annotations"]["ferrovirt.io/machines"] == "true").then_some(()))
    })
    .with_context(|| test.log())?;
    // A namespace that is deleted must not wait for controllers that have gone before.
    finalizers(Value::Null)?;
    // One by one, and in bulk.
    for words in [DELETE, "delete kubevirt --all -n kubevirt --timeout=180s"] {
        let Err(refused) = test.kubectl(words) else { bail!("{words}: it was deleted") };
        let refused = format!("{refused:#}");
        ensure!(refused.contains("set spec.uninstallStrategy to RemoveWorkloads"), "{refused}");
    }
    // What the controller may change of it is its finalizer and its annotation.
    let patch = |account: &str, patch: &str| {
        let words = ["patch", "kubevirt", "kubevirt", "-n", "kubevirt", "--type=merge", "-p", patch];
        test.cluster.output(&[&words[..], &[&format!("--as={account}")]].concat())
    };
    let controller = "system:serviceaccount:kubevirt:kubevirt-controller";
    let profile = r#"{"spec":{"configuration":{"privilegeProfile":"documented"}}}"#;
    let strategy = r#"{"spec":{"uninstallStrategy":"RemoveWorkloads"}}"#;
    for change in [
        profile,
        strategy,
        r#"{"metadata":{"labels":{"a":"b"}}}"#,
        r#"{"metadata":{"annotations":{"a":"b"}}}"#,
        r#"{"metadata":{"finalizers":["a.b/c"]}}"#,
    ] {
        let Err(refused) = patch(controller, change) else { bail!("the controller has written {change}") };
        let refused = format!("{refused:#}");
        ensure!(refused.contains("its own finalizer and annotation alone"), "{refused}");
    }
    let write = |change: &str| {
        test.cluster.output(&[
            "patch",
            "kubevirt",
            "kubevirt",
            "-n",
            "kubevirt",
            "--type=merge",
            "-p",
            change,
        ])
    };
    let Err(refused) = write(r#"{"spec":{"uninstallStrategy":"Whatever"}}"#) else { bail!("it was taken") };
    let refused = format!("{refused:#}");
    ensure!(refused.contains("use BlockUninstallIfWorkloadsExist or RemoveWorkloads"), "{refused}");
    write(strategy)?;
    finalizers(json!(["ferrovirt.io/machines"]))?;
    let before = test.json("get kubevirt kubevirt -n kubevirt")?;
    // Somebody holds a machine.
    let held = r#"[{"op":"add","path":"/metadata/finalizers/-","value":"example.com/held"}]"#;
    test.cluster.output(&["patch", "vm", "first", "-n", "vms", "--type=json", "-p", held])?;
    test.kubectl("delete kubevirt kubevirt -n kubevirt --wait=false")?;
    wait("what is waited for", TIMEOUT, || {
        let object = test.json("get kubevirt kubevirt -n kubevirt")?;
        Ok(object["status"]["conditions"].to_string().contains("(1): vms/first").then_some(()))
    })
    .with_context(|| test.log())?;
    let Err(refused) = test.machine("late") else { bail!("a machine was made meanwhile") };
    ensure!(format!("{refused:#}").contains("the KubeVirt object is being deleted"), "{refused:#}");
    let free = r#"{"metadata":{"finalizers":null}}"#;
    test.cluster.output(&["patch", "vm", "first", "-n", "vms", "--type=merge", "-p", free])?;
    wait("another configuration", TIMEOUT, || {
        let Ok(now) = test.json("get kubevirt kubevirt -n kubevirt") else { return Ok(None) };
        Ok((now["metadata"]["uid"] != before["metadata"]["uid"]).then_some(()))
    })
    .with_context(|| test.log())?;
    let left = test.json("get vm,vmi -A")?;
    ensure!(left["items"].as_array().is_some_and(Vec::is_empty), "{left}");
    finalizers(Value::Null)?;
    test.available()
}

/// Each verb that nothing but a cluster can miss is taken away, and named by the part that misses it.
fn verbs_are_missed(test: &Test) -> Result<()> {
    let roles = [vec!["role", ROLE, "-n", "kubevirt"], vec!["clusterrole", ROLE]];
    let full = roles.iter().map(|role| test.cluster.json(&[&["get"], &role[..]].concat()));
    let full: Vec<Value> = full.collect::<Result<_>>()?;
    let write = |role: &[&str], rules: &Value| {
        let patch = json!({"rules": rules}).to_string();
        test.cluster.output(&[&["patch"], role, &["--type=merge", "-p", &patch]].concat())
    };
    let all: Vec<_> = registered(Scenario::Cluster).filter_map(witnessed).flat_map(verbs).collect();
    ensure!(all.len() == 15, "{all:?}");
    for round in [&["create", "list"][..], &["watch"]] {
        for (role, full) in roles.iter().zip(&full) {
            let mut lesser = full["rules"].as_array().cloned().unwrap_or_default();
            // Of the cluster's role the witnessed rules alone: without the others the controllers do not begin.
            let groups = ["admissionregistration.k8s.io", "apiregistration.k8s.io"];
            let own =
                |rule: &Value| role[0] == "role" || groups.iter().any(|group| rule["apiGroups"][0] == *group);
            for rule in lesser.iter_mut().filter(|rule| own(rule)) {
                if let Some(verbs) = rule["verbs"].as_array_mut() {
                    verbs.retain(|verb| !round.iter().any(|gone| *verb == *gone));
                }
            }
            lesser.retain(|rule| rule["verbs"].as_array().is_some_and(|verbs| !verbs.is_empty()));
            write(role, &json!(lesser))?;
        }
        test.kubectl("delete kubevirt kubevirt -n kubevirt")?;
        test.kubectl("rollout restart deployment/kubevirt-controller -n kubevirt")?;
        test.rolled_out()?;
        for (group, resource, verb) in all.iter().filter(|(_, _, verb)| round.contains(verb)) {
            let words = format!("cannot {verb} resource \"{resource}\" in API group \"{group}\"");
            wait(&words, TIMEOUT, || Ok(test.log().contains(&words).then_some(())))
                .with_context(|| test.log())?;
        }
        for (role, full) in roles.iter().zip(&full) {
            write(role, &full["rules"])?;
        }
        // Nothing has to be started again.
        test.available()?;
    }
    Ok(())
}

/// A pod whose container, or the one before it, has these limits.
fn pod(name: &str, first: &str, limits: &str) -> String {
    let container = |name: &str, limits: &str| {
        format!(
            r#"
  - name: {name}
    image: {TOOLS}
    imagePullPolicy: Never
    command: [sleep, "86400"]
    securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
    resources: {{limits: {limits}}}"#
        )
    };
    let first = if first.is_empty() {
        String::new()
    } else {
        format!("  initContainers:{}\n", container("first", first))
    };
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: vms}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  automountServiceAccountToken: false
  securityContext: {{runAsNonRoot: true, runAsUser: 1000, seccompProfile: {{type: RuntimeDefault}}}}
{first}  containers:{}
"#,
        container("compute", limits)
    )
}

/// Whatever somebody may do, pods with places are made for machines alone.
fn places_are_for_machines(test: &Test) -> Result<()> {
    const SAID: &str = "create a VirtualMachine, and its pod gets them by itself";
    test.kubectl("create rolebinding alice -n vms --clusterrole=admin --user=alice")?;
    let place = format!("{{{RESOURCE}: 1}}");
    for user in ["alice", "chief", "system:serviceaccount:kubevirt:kubevirt-handler"] {
        if user == "chief" {
            test.kubectl("create clusterrolebinding chief --clusterrole=cluster-admin --user=chief")?;
        }
        if user.contains(':') {
            test.kubectl(&format!("create rolebinding handler -n vms --clusterrole=admin --user={user}"))?;
        }
        let node = "{devices.kubevirt.io/tun: 1}";
        for manifest in
            [pod("own", "", &place), pod("own", &place, "{}"), pod("own", "", node), pod("own", node, "{}")]
        {
            let Err(refused) = test.cluster.create_as(user, &manifest) else { bail!("{user}: {manifest}") };
            let refused = format!("{refused:#}");
            ensure!(refused.contains("Forbidden") && refused.contains(SAID), "{user}: {refused}");
        }
    }
    // Nor by somebody else's hand.
    let template = pod("own", "", &place).replace("restartPolicy: Never", "restartPolicy: Always");
    let (_, template) = template.split_once("spec:").context("no spec")?;
    let template = template.replace('\n', "\n    ");
    test.cluster.create_as(
        "alice",
        &format!(
            "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: own, namespace: vms}}
spec:
  selector: {{matchLabels: {{app: own}}}}
  template:
    metadata: {{labels: {{app: own}}}}
    spec:{template}
"
        ),
    )?;
    let said = wait("the refusal of a Deployment's pod", TIMEOUT, || {
        let events = test.json("get events -n vms --field-selector=reason=FailedCreate")?;
        Ok(events["items"][0]["message"].as_str().map(str::to_owned))
    })?;
    ensure!(said.contains(SAID), "{said}");
    let pods = test.json("get pods -n vms -l app=own")?;
    ensure!(pods["items"].as_array().is_some_and(Vec::is_empty), "{pods}");
    test.kubectl("delete deployment own -n vms")?;
    test.kubectl("delete rolebinding alice handler -n vms")?;
    test.kubectl("delete clusterrolebinding chief").map(drop)
}

/// A pod that asks for a place has a directory and a device node there, and one that does not has neither. Others may label
/// it while it has.
fn places_are_missed(test: &Test) -> Result<()> {
    const CONTROLLER: &str = "system:serviceaccount:kubevirt:kubevirt-controller";
    let small = "cpu: 100m, memory: 32Mi";
    for (name, limits, has) in
        [("with", format!("{{{RESOURCE}: 1, {small}}}"), true), ("without", format!("{{{small}}}"), false)]
    {
        test.cluster.create_as(CONTROLLER, &pod(name, "", &limits))?;
        test.kubectl(&format!("wait pod/{name} -n vms --for=condition=Ready --timeout=180s"))?;
        test.kubectl(&format!("label pod {name} -n vms labelled=yes"))?;
        let mounts = test.kubectl(&format!("exec {name} -n vms -- cat /proc/mounts"))?;
        let mounted = mounts.lines().any(|line| line.split(' ').nth(1) == Some("/run/ferrovirt"));
        ensure!(mounted == has, "{name}: {mounts}");
        let node = test.kubectl(&format!("exec {name} -n vms -- ls /dev/net/tun"));
        ensure!(node.is_ok() == has, "{name}: {node:?}");
        places_are_not_added(test, name)?;
        test.kubectl(&format!("delete pod {name} -n vms"))?;
    }
    Ok(())
}

/// Nobody adds a place to a pod that runs, and nobody is kept from what adds none: the policy is asked about that, after the
/// API server's own rules, which know no such additions either.
fn places_are_not_added(test: &Test, name: &str) -> Result<()> {
    let resize = |resource: &str, amount: &str| {
        let amount = json!({resource: amount});
        let container = json!({"name": "compute", "resources": {"limits": amount, "requests": amount}});
        let patch = json!({"spec": {"containers": [container]}}).to_string();
        test.cluster.output(&["patch", "pod", name, "-n", "vms", "--subresource=resize", "-p", &patch])
    };
    let beside = |resources: Value| {
        let mut pod = test.json(&format!("get pod {name} -n vms"))?;
        pod["metadata"]["resourceVersion"].take();
        let security = pod["spec"]["containers"][0]["securityContext"].clone();
        pod["spec"]["ephemeralContainers"] = json!([{
            "name": "beside", "image": TOOLS, "imagePullPolicy": "Never", "command": ["sleep", "1"],
            "terminationMessagePolicy": "File", "securityContext": security, "resources": resources,
        }]);
        let mut file = tempfile::NamedTempFile::with_suffix(".json")?;
        std::io::Write::write_all(&mut file, pod.to_string().as_bytes())?;
        let path = format!("/api/v1/namespaces/vms/pods/{name}/ephemeralcontainers");
        test.cluster.output(&["replace", "--raw", &path, "-f", &file.path().to_string_lossy()])
    };
    let node = json!({"limits": {"devices.kubevirt.io/tun": "1"}});
    for more in [resize(RESOURCE, "2"), beside(json!({"limits": {RESOURCE: "1"}})), beside(node)] {
        ensure!(more.is_err(), "{name}: {more:?}");
    }
    resize("cpu", "50m").with_context(|| name.to_owned())?;
    beside(json!({})).with_context(|| name.to_owned())?;
    let pod = test.json(&format!("get pod {name} -n vms"))?;
    ensure!(pod["spec"]["ephemeralContainers"][0]["name"] == "beside", "{pod}");
    ensure!(pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "50m", "{pod}");
    Ok(())
}

/// What of Ferrovirt the API still shows.
fn left(test: &Test) -> Result<Vec<String>> {
    let kinds = "crd,clusterrole,clusterrolebinding,namespace,validatingwebhookconfiguration,\
                 mutatingwebhookconfiguration,validatingadmissionpolicy,validatingadmissionpolicybinding,apiservice";
    let all = test.kubectl(&format!("get {kinds} -o name"))?;
    Ok(all
        .lines()
        .filter(|name| name.contains("kubevirt") || name.contains("ferrovirt"))
        .map(str::to_owned)
        .collect())
}

fn removal(test: &Test) -> Result<()> {
    test.kubectl("delete vm --all -n vms --timeout=120s").with_context(|| test.log())?;
    wait("the end of launcher pods", TIMEOUT, || {
        let pods = test.json("get pods -n vms")?;
        Ok(pods["items"].as_array().is_some_and(Vec::is_empty).then_some(()))
    })?;
    test.kubectl(&format!("delete -f {} --timeout=180s", test.file))
        .with_context(|| test.kubectl("get all,kubevirt -n kubevirt -o yaml").unwrap_or_default())?;
    let left = left(test)?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

/// Controllers that cannot start leave machines with finalizers behind; one command removes everything all the same.
fn uninstall(test: &Test) -> Result<()> {
    test.kubectl(&format!("apply -f {}", test.file))?;
    test.available()?;
    test.emulate()?;
    test.machine("last")?;
    test.kubectl(
        "set image deployment/kubevirt-controller -n kubevirt kubevirt-controller=localhost/none:1",
    )?;
    test.kubectl("delete pods -n kubevirt -l kubevirt.io=kubevirt-controller --wait=false")?;
    test.kubectl("scale deployment/kubevirt-api -n kubevirt --replicas=0")?;
    let run = |arguments: &[&str]| -> Result<std::process::Output> {
        let layout = test.cluster.layout();
        let mut command =
            network::command(&layout.namespace(), &ferrovirt_e2e::Cluster::binaries()?.join("ferrovirt"));
        command.arg("uninstall").args(arguments).env("KUBECONFIG", layout.path("admin.kubeconfig"));
        Ok(command.output()?)
    };
    let refused = run(&[])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && said.contains("vms/last"), "{said}");
    test.kubectl("get vm last -n vms")?;
    let output = run(&["--remove-machines"])?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{said}\n{complaints}");
    for line in [
        "deleting the ValidatingWebhookConfiguration kubevirt-api",
        "deleting the Deployment kubevirt/kubevirt-controller",
        "deleted the VirtualMachine vms/last",
    ] {
        ensure!(said.contains(line), "{said}");
    }
    let left = left(test)?;
    ensure!(left.is_empty(), "{left:?}");
    // The pod goes with its owner.
    wait("the end of launcher pods", TIMEOUT, || {
        let pods = test.json("get pods -n vms")?;
        Ok(pods["items"].as_array().is_some_and(Vec::is_empty).then_some(()))
    })?;
    // Nothing to do is no error.
    ensure!(run(&[])?.status.success(), "there is nothing, and it complains");
    namespace_goes(test)?;
    ensure!(run(&[])?.status.success(), "what is left cannot be removed");
    Ok(())
}

/// Who deletes the namespace alone waits for nothing of ours, and neither does any other namespace.
fn namespace_goes(test: &Test) -> Result<()> {
    test.kubectl(&format!("apply -f {}", test.file))?;
    test.available()?;
    for namespace in ["kubevirt", "vms"] {
        test.kubectl(&format!("delete namespace {namespace} --timeout=180s")).with_context(|| {
            test.kubectl(&format!("get namespace {namespace} -o yaml")).unwrap_or_default()
        })?;
    }
    let left = left(test)?;
    // Those of definitions are the API server's own.
    ensure!(!left.iter().any(|name| name.contains(".subresources.kubevirt.io")), "{left:?}");
    ensure!(left.iter().any(|name| name.starts_with("customresourcedefinition")), "more is gone: {left:?}");
    Ok(())
}

#[test]
fn one_command_installs_it_machines_become_pods_and_its_removal_leaves_nothing() -> Result<()> {
    let programs = ferrovirt_e2e::Cluster::binaries()?;
    let cluster = Own::start("install")?;
    let mut archives = Vec::new();
    for program in ["ferrovirt", "virt-handler", "virt-launcher"] {
        let archive = cluster.layout().path(format!("{program}.tar"));
        let name = format!("localhost/ferrovirt/{program}:{}", env!("CARGO_PKG_VERSION"));
        images::program(&name, &programs.join(program))?.write(&archive)?;
        archives.push(archive);
    }
    cluster.load(&archives)?;
    let file = ferrovirt_e2e::root().join("deploy/ferrovirt.yaml").display().to_string();
    let test = Test { cluster, file };

    replicas(&test)?;
    test.cluster.apply(
        "{apiVersion: v1, kind: Namespace, metadata: {name: vms, labels: {pod-security.kubernetes.io/enforce: restricted}}}",
    )?;
    test.emulate()?;
    // Until the controller manager has made it, every pod is refused.
    wait("the service account of vms", TIMEOUT, || {
        Ok(test.kubectl("get serviceaccount default -n vms").ok())
    })?;
    takeover(&test)?;
    places_are_for_machines(&test)?;
    places_are_missed(&test)?;
    log_verbosity(&test)?;
    webhooks_are_missed(&test)?;
    authorities_are_missed(&test)?;
    uninstall_strategy(&test)?;
    verbs_are_missed(&test)?;
    test.emulate()?;
    test.machine("fourth")?;
    removal(&test)?;
    uninstall(&test)
}
