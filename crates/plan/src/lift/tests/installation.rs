//! Proof 6, and proof 4 for roles, SCCs and filters: what is installed has what the table says.

use super::*;

/// Proof 6: nothing in the manifests gives a right that no feature asked for.
#[test]
fn the_installation_grants_what_the_table_says_and_nothing_else() {
    for profile in PROFILES {
        let grants = cluster_grants(profile);
        let config = config(profile, false);
        let installed = render::install(&config);
        let lifted = rbac::lift(&installed).unwrap();
        let asked: BTreeSet<_> = grants
            .iter()
            .map(|(held, _)| held)
            .filter(|held| {
                let elsewhere = [Subject::Node, Subject::SccWebhook, Subject::MachineApi, Subject::Api];
                held.right.surface() == Surface::Rbac && !elsewhere.contains(&held.subject)
            })
            .cloned()
            .collect();
        assert_eq!(lifted, asked);
        let sccs: BTreeSet<_> = installed
            .iter()
            .filter(|manifest| manifest["kind"] == "SecurityContextConstraints")
            .flat_map(scc::lift)
            .collect();
        assert_eq!(sccs, &grants.on(Surface::Scc) | &grants.on(Surface::MachineScc));
        let node = rbac::lift(&render::rbac::roles(&grants, Subject::Node)).unwrap();
        assert!(node.iter().all(|held| held.subject == Subject::Node));
        let rights: BTreeSet<_> = node.into_iter().map(|held| held.right).collect();
        let asked = grants.of(Subject::Node).into_iter().filter(|right| right.surface() == Surface::Rbac);
        assert_eq!(rights, asked.collect());
        // Every kind of manifest has been read, or grants nothing by itself.
        let kinds: BTreeSet<_> =
            installed.iter().map(|manifest| manifest["kind"].as_str().unwrap()).collect();
        let known = [
            "ClusterRole",
            "ClusterRoleBinding",
            "CustomResourceDefinition",
            "KubeVirt",
            "Namespace",
            "Role",
            "RoleBinding",
            "SecurityContextConstraints",
            "ServiceAccount",
        ];
        assert!(kinds.is_subset(&BTreeSet::from(known)), "{kinds:?}");
    }
}

/// Proof 6 for what is applied to a cluster: the same rights and those of the machine API, and pods that have nothing but what
/// the table says.
#[test]
fn the_pods_of_the_installation_have_what_the_table_says_and_nothing_else() {
    let manifests = render::cluster(&render::cluster::Options::default());
    let grants = cluster_grants(Profile::default());
    // The handler's account is its part `api` there, and the node agent elsewhere.
    let lifted = rbac::lift(&manifests).unwrap().into_iter().map(|mut held| {
        if held.subject == Subject::NodeAgent {
            held.subject = Subject::Api;
        }
        held
    });
    let elsewhere = [Subject::Node, Subject::SccWebhook, Subject::NodeAgent];
    let asked = grants.iter().map(|(held, _)| held);
    let asked =
        asked.filter(|held| held.right.surface() == Surface::Rbac && !elsewhere.contains(&held.subject));
    assert_eq!(lifted.collect::<BTreeSet<_>>(), asked.cloned().collect());
    let field = |name: &str, value: &str| Right::PodField { field: name.into(), value: value.into() };
    // A token, and an id that is not root's.
    let own = BTreeSet::from([field("automountServiceAccountToken", "true"), field("runAsUser", "65532")]);
    let template =
        |manifest: &Value| -> Pod { serde_json::from_value(manifest["spec"]["template"].clone()).unwrap() };
    let of = |kind: &'static str| manifests.iter().filter(move |manifest| manifest["kind"] == kind);
    assert_eq!(of("Deployment").count(), 2);
    for deployment in of("Deployment") {
        assert_eq!(super::pod::lift(&template(deployment)), own);
    }
    // Root in two containers: one sees three directories of the node and has no capability, one has a capability and sees
    // one of them, and a directory of the pod's own.
    let whole = template(of("DaemonSet").next().unwrap());
    let containers = &whole.spec.as_ref().unwrap().containers;
    assert_eq!(containers.len(), 3);
    let only = |container: &Container| {
        let mut alone = whole.clone();
        let spec = alone.spec.as_mut().unwrap();
        let mounts: BTreeSet<_> =
            container.volume_mounts.iter().flatten().map(|mount| mount.name.as_str()).collect();
        spec.containers = vec![container.clone()];
        spec.volumes.as_mut().unwrap().retain(|volume| mounts.contains(volume.name.as_str()));
        alone
    };
    let group = || field("fsGroup", "64107");
    for (container, subject) in containers.iter().zip([Subject::Plug, Subject::Net]) {
        let alone = only(container);
        let mut asked = BTreeSet::from([
            field("container.runAsUser", "0"),
            field("container.runAsGroup", "0"),
            field("runAsNonRoot", "false"),
            group(),
        ]);
        for right in grants.of(subject) {
            match right {
                Right::NodePath { path, access } => {
                    let volume = path.rsplit('/').next().unwrap().to_owned();
                    let create = access == Access::ReadWrite;
                    let source = VolumeSource::HostPath { path: path.clone(), create };
                    asked.insert(Right::Mount { volume, path, source, access });
                }
                Right::Host { capability, .. } => drop(asked.insert(Right::Capability(capability))),
                _ => {}
            }
        }
        if subject == Subject::Net {
            asked.insert(Right::Mount {
                volume: "net".to_owned(),
                path: "/run/ferrovirt-net".to_owned(),
                source: VolumeSource::Scratch,
                access: Access::ReadWrite,
            });
        }
        assert_eq!(asked.len(), 7);
        assert_eq!(super::pod::lift(&alone), asked);
    }
    // The third has a token and what `net` is heard on, and nothing of the node.
    let lifted = super::pod::lift(&only(&containers[2]));
    let (volumes, rest): (BTreeSet<_>, BTreeSet<_>) = lifted
        .into_iter()
        .partition(|right| matches!(right, Right::PodField { field, .. } if field == "volumes"));
    let [Right::PodField { value, .. }] = volumes.iter().collect::<Vec<_>>()[..] else {
        panic!("{volumes:?}")
    };
    assert!(value.contains("serviceAccountToken") && !value.contains("secret"), "{value}");
    let (mounts, ports): (BTreeSet<_>, BTreeSet<_>) = grants
        .of(Subject::Api)
        .into_iter()
        .filter(|right| right.surface() != Surface::Rbac)
        .partition(|right| matches!(right, Right::Mount { .. }));
    let listens: BTreeSet<_> = ports
        .iter()
        .map(|right| match right {
            Right::Port { port, .. } => port.parse::<i32>().unwrap(),
            other => panic!("{other:?}"),
        })
        .collect();
    let ports = containers[2].ports.iter().flatten().map(|port| port.container_port);
    assert_eq!(listens, ports.collect());
    assert!(containers[..2].iter().all(|container| container.ports.is_none()));
    let net = Right::Mount {
        volume: "net".to_owned(),
        path: "/run/ferrovirt-net".to_owned(),
        source: VolumeSource::Scratch,
        access: Access::Read,
    };
    let user = [field("container.runAsUser", "64107"), field("container.runAsGroup", "64107")];
    assert_eq!(rest, user.into_iter().chain([group(), net]).chain(mounts).collect());
    let kinds: BTreeSet<_> = manifests.iter().map(|manifest| manifest["kind"].as_str().unwrap()).collect();
    let known = [
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "DaemonSet",
        "Deployment",
        "Lease",
        "Namespace",
        "PodDisruptionBudget",
        "Role",
        "RoleBinding",
        "Secret",
        "Service",
        "ServiceAccount",
        // It says where requests go.
        "APIService",
        // They refuse, and grant nothing.
        "MutatingWebhookConfiguration",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "ValidatingWebhookConfiguration",
    ];
    assert_eq!(kinds, BTreeSet::from(known));
}

/// Proof 6 for the webhook's own manifests.
#[test]
fn the_webhook_is_granted_what_the_table_says_and_nothing_else() {
    let manifests = render::scc_webhook::manifests(render::cluster::IMAGE_PREFIX);
    let lifted = rbac::lift(&manifests).unwrap();
    let (webhook, others): (BTreeSet<_>, BTreeSet<_>) =
        lifted.into_iter().partition(|held| held.subject == Subject::SccWebhook);
    let rights: BTreeSet<_> = webhook.into_iter().map(|held| held.right).collect();
    let grants = cluster_grants(Profile::default());
    let asked = grants.of(Subject::SccWebhook).into_iter().filter(|right| right.surface() == Surface::Rbac);
    assert_eq!(rights, asked.collect());
    // Beside that there is the platform's own rule: everybody may use the two restricted SCCs.
    let others: Vec<String> = others.iter().map(|held| format!("{} {}", held.subject, held.right)).collect();
    assert_eq!(others.len(), 2, "{others:?}");
    for name in ["restricted-v2", "restricted-v3"] {
        assert!(others.iter().any(|held| held.starts_with("anybody") && held.contains(name)), "{others:?}");
    }
    // The webhook's own pod is one that anybody may have; it has a token, and an id that is not root's.
    let deployment = manifests.iter().find(|manifest| manifest["kind"] == "Deployment").unwrap();
    let template: Pod = serde_json::from_value(deployment["spec"]["template"].clone()).unwrap();
    let field = |name: &str, value: &str| Right::PodField { field: name.into(), value: value.into() };
    let own = [field("automountServiceAccountToken", "true"), field("runAsUser", "65532")];
    assert_eq!(super::pod::lift(&template), BTreeSet::from(own));
    let kinds: BTreeSet<_> = manifests.iter().map(|manifest| manifest["kind"].as_str().unwrap()).collect();
    let known = [
        "ClusterRole",
        "ClusterRoleBinding",
        "ConfigMap",
        "Deployment",
        "MutatingWebhookConfiguration",
        "Namespace",
        "PodDisruptionBudget",
        "Role",
        "RoleBinding",
        "Secret",
        "SecurityContextConstraints",
        "Service",
        "ServiceAccount",
        "ValidatingWebhookConfiguration",
    ];
    assert!(kinds.is_subset(&BTreeSet::from(known)), "{kinds:?}");
}

/// Proof 4 for roles: more than the table says is seen or refused.
#[test]
fn a_role_with_more_is_seen() {
    let grants = cluster_grants(Profile::Minimal);
    let good = render::rbac::roles(&grants, Subject::Controller);
    let expected = rbac::lift(&good).unwrap();
    let changed = |change: &dyn Fn(&mut Vec<Value>)| {
        let mut manifests = good.clone();
        change(&mut manifests);
        rbac::lift(&manifests)
    };
    let seen = |change: &dyn Fn(&mut Vec<Value>)| assert_ne!(changed(change).unwrap(), expected);
    seen(&|manifests| manifests[0]["rules"][0]["verbs"] = json!(["*"]));
    seen(&|manifests| manifests[0]["rules"][0]["resources"] = json!(["*"]));
    seen(&|manifests| manifests[0]["rules"][0]["apiGroups"] = json!(["*"]));
    seen(&|manifests| {
        let rules = manifests[0]["rules"].as_array_mut().unwrap();
        rules.push(json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}));
    });
    let refused = |change: &dyn Fn(&mut Vec<Value>)| changed(change).unwrap_err();
    let bound = |manifests: &mut Vec<Value>| manifests[1]["subjects"][0]["name"] = json!("default");
    assert!(matches!(refused(&bound), rbac::RbacError::Holder { .. }));
    let other = |manifests: &mut Vec<Value>| manifests[1]["subjects"][0]["namespace"] = json!("demo");
    assert!(matches!(refused(&other), rbac::RbacError::Holder { .. }));
    let missing = |manifests: &mut Vec<Value>| manifests[1]["roleRef"]["name"] = json!("cluster-admin");
    assert!(matches!(refused(&missing), rbac::RbacError::Missing { .. }));
    let urls = |manifests: &mut Vec<Value>| manifests[0]["rules"][0]["nonResourceURLs"] = json!(["*"]);
    assert!(matches!(refused(&urls), rbac::RbacError::Form { .. }));
}

/// Proof 4 for the SCC and the seccomp profile.
#[test]
fn an_scc_or_a_filter_with_more_is_seen() {
    let grants = cluster_grants(Profile::Minimal);
    let good = render::scc::controller(&grants);
    for (field, value) in [
        ("allowPrivilegedContainer", json!(true)),
        ("allowPrivilegeEscalation", json!(true)),
        ("allowHostPID", json!(true)),
        ("groups", json!(["system:authenticated"])),
        ("volumes", json!(["*"])),
        ("priority", json!(10)),
        ("allowedUnsafeSysctls", json!(["*"])),
        ("runAsUser", json!({"type": "MustRunAs", "uid": 0})),
        ("newField", json!({"a": "b"})),
    ] {
        let mut scc = good.clone();
        scc[field] = value;
        assert_ne!(scc::lift(&scc), grants.on(Surface::Scc), "{field}");
    }
    let mut filter = render::seccomp::profile();
    filter["syscalls"][0]["names"].as_array_mut().unwrap().push(json!("mount"));
    assert_ne!(seccomp::lift(&filter), grants.on(Surface::Seccomp));
    let mut filter = render::seccomp::profile();
    filter["defaultAction"] = json!("SCMP_ACT_ALLOW");
    assert_ne!(seccomp::lift(&filter), grants.on(Surface::Seccomp));
}
