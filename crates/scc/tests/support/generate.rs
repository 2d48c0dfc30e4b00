//! Random SCCs and pods from small pools, so that they meet often.

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Map, Value, json};

const CAPABILITIES: [&str; 6] = ["ALL", "CAP_SYS_ADMIN", "CHOWN", "KILL", "NET_ADMIN", "NET_BIND_SERVICE"];
const PROFILES: [&str; 5] = ["*", "docker/default", "localhost/a.json", "runtime/default", "unconfined"];
const VOLUMES: [&str; 8] =
    ["configMap", "emptyDir", "flexVolume", "hostPath", "nfs", "projected", "secret", "cephFS"];
const LEVELS: [&str; 4] = ["s0:c25,c10", "s0:c10,c25", "s0", ""];
const IDS: [i64; 8] = [-1, 0, 1, 107, 1000, 1_000_620_000, 1_000_625_000, 1_000_630_000];
const SYSCTLS: [&str; 5] = [
    "kernel.msgmax",
    "kernel.shm_rmid_forced",
    "net.core.somaxconn",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
];
const SYSCTL_PATTERNS: [&str; 5] = ["*", "kernel.*", "kernel.msgmax", "net.*", "net.ipv4.tcp_syncookies"];

/// Fields that are there or not.
fn object(fields: Vec<(&'static str, BoxedStrategy<Option<Value>>)>) -> impl Strategy<Value = Value> {
    let (names, strategies): (Vec<_>, Vec<_>) = fields.into_iter().unzip();
    strategies.prop_map(move |values| {
        let pairs = names.iter().zip(values).filter_map(|(name, value)| Some(((*name).to_owned(), value?)));
        Value::Object(pairs.collect::<Map<_, _>>())
    })
}

fn maybe<T: std::fmt::Debug + Into<Value> + 'static>(
    strategy: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Option<Value>> {
    of(strategy.prop_map(Into::into)).boxed()
}

fn always<T: std::fmt::Debug + Into<Value> + 'static>(
    strategy: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Option<Value>> {
    strategy.prop_map(|v| Some(v.into())).boxed()
}

/// True one time in four: pods and SCCs with every flag set would rarely be interesting.
fn seldom() -> BoxedStrategy<Option<Value>> {
    prop_oneof![3 => Just(None), 1 => any::<bool>().prop_map(|b| Some(b.into()))].boxed()
}

fn some_of(pool: &'static [&'static str], most: usize) -> impl Strategy<Value = Value> {
    subsequence(pool.to_vec(), 0..=most).prop_shuffle().prop_map(|list| json!(list))
}

fn ids(pool: &'static [i64]) -> impl Strategy<Value = i64> {
    select(pool)
}

fn groups() -> impl Strategy<Value = Value> {
    let range = (ids(&IDS), ids(&IDS)).prop_map(|(min, max)| json!({"min": min, "max": max}));
    object(vec![("type", always(select(vec!["MustRunAs", "RunAsAny"]))), ("ranges", maybe(vec(range, 0..3)))])
}

fn label() -> impl Strategy<Value = Value> {
    object(vec![
        ("level", maybe(select(LEVELS.to_vec()))),
        ("type", seldom_text("container_t")),
        ("user", seldom_text("system_u")),
    ])
}

fn seldom_text(text: &'static str) -> BoxedStrategy<Option<Value>> {
    prop_oneof![4 => Just(None), 1 => Just(Some(Value::from(text)))].boxed()
}

fn user() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({"type": "RunAsAny"})),
        Just(json!({"type": "MustRunAsNonRoot"})),
        Just(json!({"type": "MustRunAsRange"})),
        (ids(&IDS), ids(&IDS)).prop_map(|(min, max)| {
            json!({"type": "MustRunAsRange", "uidRangeMin": min, "uidRangeMax": max})
        }),
        ids(&IDS).prop_map(|uid| json!({"type": "MustRunAs", "uid": uid})),
    ]
}

/// An SCC that can be used, by some of the users and groups of the tests.
pub fn scc(name: String) -> impl Strategy<Value = Value> {
    let drivers = vec(select(vec!["a", "b"]).prop_map(|d| json!({"driver": d})), 0..2);
    let access = object(vec![
        ("priority", maybe(-1..3)),
        ("users", maybe(some_of(&["alice", "bob", "system:serviceaccount:demo:default"], 2))),
        ("groups", maybe(some_of(&["system:authenticated", "system:serviceaccounts:demo"], 1))),
        ("allowPrivilegedContainer", seldom()),
        ("allowHostNetwork", seldom()),
        ("allowHostPID", seldom()),
        ("allowHostIPC", seldom()),
        ("allowHostPorts", seldom()),
        ("readOnlyRootFilesystem", seldom()),
        ("allowPrivilegeEscalation", seldom()),
        ("defaultAllowPrivilegeEscalation", seldom()),
        ("userNamespaceLevel", maybe(select(vec!["AllowHostLevel", "RequirePodLevel"]))),
    ]);
    let rules = object(vec![
        ("allowedCapabilities", maybe(some_of(&["*", "CAP_SYS_ADMIN", "KILL", "NET_ADMIN"], 3))),
        ("defaultAddCapabilities", maybe(some_of(&CAPABILITIES, 2))),
        ("requiredDropCapabilities", maybe(some_of(&CAPABILITIES, 2))),
        ("volumes", always(prop_oneof![some_of(&VOLUMES, 8), Just(json!(["*"]))])),
        ("allowedFlexVolumes", maybe(drivers)),
        ("seccompProfiles", maybe(some_of(&PROFILES, 3))),
        ("allowedUnsafeSysctls", maybe(some_of(&SYSCTL_PATTERNS, 2))),
        ("forbiddenSysctls", seldom_list()),
        ("runAsUser", always(user())),
        ("fsGroup", always(groups())),
        ("supplementalGroups", always(groups())),
        (
            "seLinuxContext",
            always(object(vec![
                ("type", always(select(vec!["MustRunAs", "RunAsAny"]))),
                ("seLinuxOptions", maybe(label())),
            ])),
        ),
    ]);
    (access, rules).prop_map(move |(access, rules)| {
        let mut scc = json!({"metadata": {"name": name}});
        let all = scc.as_object_mut().unwrap();
        all.extend(access.as_object().unwrap().clone());
        all.extend(rules.as_object().unwrap().clone());
        // A flexVolume driver list without the type itself restricts nothing.
        if !all["volumes"].as_array().unwrap().iter().any(|v| v == "*" || v == "flexVolume") {
            all.remove("allowedFlexVolumes");
        }
        scc
    })
}

fn seldom_list() -> BoxedStrategy<Option<Value>> {
    prop_oneof![3 => Just(None).boxed(), 1 => maybe(some_of(&SYSCTL_PATTERNS, 1))].boxed()
}

fn profile() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({"type": "RuntimeDefault"})),
        Just(json!({"type": "Unconfined"})),
        Just(json!({"type": "Localhost", "localhostProfile": "a.json"})),
    ]
}

fn container(name: String) -> impl Strategy<Value = Value> {
    let capabilities =
        object(vec![("add", maybe(some_of(&CAPABILITIES, 2))), ("drop", maybe(some_of(&CAPABILITIES, 3)))]);
    let context = object(vec![
        ("runAsUser", maybe(ids(&IDS))),
        ("runAsNonRoot", seldom()),
        ("seLinuxOptions", prop_oneof![4 => Just(None).boxed(), 1 => maybe(label())].boxed()),
        ("seccompProfile", maybe(profile())),
        ("privileged", seldom()),
        ("readOnlyRootFilesystem", seldom()),
        ("allowPrivilegeEscalation", seldom()),
        ("capabilities", maybe(capabilities)),
    ]);
    object(vec![("name", always(Just(name))), ("securityContext", maybe(context)), ("ports", seldom_ports())])
}

fn seldom_ports() -> BoxedStrategy<Option<Value>> {
    let ports = vec(of(select(vec![0, 80])).prop_map(|p| json!({"containerPort": 80, "hostPort": p})), 0..2);
    prop_oneof![4 => Just(None).boxed(), 1 => maybe(ports)].boxed()
}

fn volume() -> impl Strategy<Value = Value> {
    let source = select(vec!["configMap", "emptyDir", "hostPath", "nfs", "projected", "secret", "cephfs"]);
    prop_oneof![
        source.prop_map(|source| {
            // A projected volume with a foreign source is never taken for the injected token.
            let body = if source == "projected" { json!({"sources": [{"secret": {}}]}) } else { json!({}) };
            json!({"name": "v", source: body})
        }),
        select(vec!["a", "b"]).prop_map(|d| json!({"name": "v", "flexVolume": {"driver": d}})),
        Just(json!({"name": "v", "projected": {"token": true, "sources": [
            {"serviceAccountToken": {"path": "token"}}]}})),
    ]
}

/// A pod of the namespace `demo`.
pub fn pod() -> impl Strategy<Value = Value> {
    let sysctls = subsequence(SYSCTLS.to_vec(), 0..2)
        .prop_map(|names| names.into_iter().map(|n| json!({"name": n})).collect::<Vec<_>>());
    let context = object(vec![
        ("runAsUser", maybe(ids(&IDS))),
        ("runAsNonRoot", seldom()),
        ("fsGroup", prop_oneof![2 => Just(None).boxed(), 1 => maybe(ids(&IDS))].boxed()),
        (
            "supplementalGroups",
            prop_oneof![3 => Just(None).boxed(), 1 => maybe(vec(ids(&IDS), 0..3))].boxed(),
        ),
        ("seLinuxOptions", prop_oneof![3 => Just(None).boxed(), 1 => maybe(label())].boxed()),
        ("seccompProfile", maybe(profile())),
        ("sysctls", prop_oneof![3 => Just(None).boxed(), 1 => maybe(sysctls)].boxed()),
    ]);
    let containers = |prefix: &'static str, count: std::ops::Range<usize>| {
        count.prop_flat_map(move |n| (0..n).map(|i| container(format!("{prefix}{i}"))).collect::<Vec<_>>())
    };
    let spec = object(vec![
        ("hostNetwork", seldom()),
        ("hostPID", seldom()),
        ("hostIPC", seldom()),
        ("hostUsers", seldom()),
        ("serviceAccountName", maybe(Just("default"))),
        ("securityContext", always(context)),
        ("volumes", maybe(vec(volume(), 0..3))),
        ("initContainers", maybe(containers("i", 0..2))),
        ("containers", always(containers("c", 1..3))),
        (
            "ephemeralContainers",
            prop_oneof![4 => Just(None).boxed(), 1 => maybe(containers("e", 0..2))].boxed(),
        ),
    ]);
    let annotations = object(vec![
        (
            "openshift.io/required-scc",
            prop_oneof![6 => Just(None).boxed(), 1 => maybe(select(vec!["s0", "restricted-v2"]))].boxed(),
        ),
        ("openshift.io/scc", maybe(select(vec!["s0", "s1", "restricted-v2", "unknown"]))),
    ]);
    (spec, annotations).prop_map(|(spec, annotations)| {
        json!({"metadata": {"name": "p", "namespace": "demo", "annotations": annotations}, "spec": spec})
    })
}

/// Any JSON, with keys that mean something.
pub fn anything() -> impl Strategy<Value = Value> {
    let keys = vec![
        "metadata",
        "name",
        "annotations",
        "spec",
        "containers",
        "initContainers",
        "securityContext",
        "volumes",
        "capabilities",
        "add",
        "drop",
        "ports",
        "hostPort",
        "seLinuxOptions",
        "seccompProfile",
        "type",
        "runAsUser",
        "fsGroup",
        "supplementalGroups",
        "ranges",
        "min",
        "max",
        "sysctls",
        "projected",
        "sources",
        "flexVolume",
        "users",
        "priority",
        "os",
        "template",
        "serviceAccountNames",
        "seccomp.security.alpha.kubernetes.io/pod",
        "openshift.io/required-scc",
        "container.seccomp.security.alpha.kubernetes.io/",
        "labels",
        "schedulingGates",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        select(vec!["MustRunAs", "RunAsAny", "localhost/", "s0:c1", "*", "windows"]).prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 60, 6, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((select(keys.clone()), inner), 0..6).prop_map(|pairs| {
                Value::Object(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
            }),
        ]
    })
}
