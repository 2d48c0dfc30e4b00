//! What may be in a launcher pod beyond what was rendered: for each field who adds it and which values are allowed.

use super::Place;
use crate::{render::pod::KEPT_BACK, user_namespace};
use ferrovirt_kubernetes::json;
use ferrovirt_kubernetes::quantity::Amount;
use ferrovirt_scc::{NamespaceValues, REQUIRED_SCC, SCC, SECCOMP_POD, SUBJECT_TYPE};
use serde_json::{Value, json};

pub use super::Part;

/// A field that admission may add, or write otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Path of the field; `*` is any element of a list and `?` any field of an object.
    pub field: &'static [&'static str],
    /// Who adds it.
    pub by: &'static str,
    /// The allowed values, in words.
    pub values: &'static str,
    allows: fn(&Given<'_>) -> bool,
}

/// A field that differs from the rendered pod.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    pub(super) path: &'a [Part<'a>],
    pub(super) should: Option<&'a Value>,
    pub(super) actual: &'a Value,
    pub(super) place: &'a Place<'a>,
    pub(super) pod: &'a Value,
    pub(super) rendered: &'a Value,
}

const API: &str = "API server, defaults";
const ACCOUNT: &str = "ServiceAccount";
const PRIORITY: &str = "Priority";
const CONSTRAINT: &str = "SecurityContextConstraint";
/// Those of images too.
const CONTAINER: &str = "containers";
/// The highest priority of a class that users may make.
const HIGHEST_PRIORITY: i64 = 1_000_000_000;
/// Annotations of the network that give a pod more interfaces.
const NETWORKS: [&str; 2] = ["k8s.v1.cni.cncf.io/networks", "v1.multus-cni.io/default-network"];

/// Everything that may be added. Sources: the defaults of Kubernetes' `pkg/apis/core/v1/defaults.go`, and the plug-ins below
/// `plugin/pkg/admission`; OKD's `apiserver-library-go` for SCCs.
pub const TABLE: &[Row] = &[
    Row {
        field: &["spec", "dnsPolicy"],
        by: API,
        values: "ClusterFirst",
        allows: |g| g.added(&["ClusterFirst"]),
    },
    Row {
        field: &["spec", "schedulerName"],
        by: API,
        values: "default-scheduler",
        allows: |g| g.added(&["default-scheduler"]),
    },
    Row {
        field: &["spec", CONTAINER, "*", "terminationMessagePath"],
        by: API,
        values: "/dev/termination-log",
        allows: |g| g.added(&["/dev/termination-log"]),
    },
    Row {
        field: &["spec", CONTAINER, "*", "resizePolicy"],
        by: API,
        values: "no restart for any resource",
        allows: |g| {
            g.should.is_none()
                && json::list(g.actual, "").all(|policy| {
                    has_only(policy, &["resourceName", "restartPolicy"])
                        && policy.get("restartPolicy").is_some_and(|policy| policy == "NotRequired")
                })
        },
    },
    Row {
        field: &["spec", "volumes", "*", "secret", "defaultMode"],
        by: API,
        values: "420",
        allows: |g| g.should.is_none() && *g.actual == json!(0o644),
    },
    Row {
        field: &["spec", CONTAINER, "*", "resources", "requests", "?"],
        by: API,
        values: "the same amount, in canonical form",
        allows: |g| g.is_the_same_amount(),
    },
    Row {
        field: &["spec", CONTAINER, "*", "resources", "limits", "?"],
        by: API,
        values: "the same amount, in canonical form",
        allows: |g| g.is_the_same_amount(),
    },
    Row {
        field: &["spec", "serviceAccountName"],
        by: ACCOUNT,
        values: "default",
        allows: |g| g.added(&["default"]),
    },
    Row {
        field: &["spec", "serviceAccount"],
        by: ACCOUNT,
        values: "the account's name, under its old key",
        allows: |g| {
            let account = json::string(g.rendered, "/spec/serviceAccountName");
            g.added(&[account.unwrap_or("default")])
        },
    },
    Row {
        field: &["spec", "imagePullSecrets"],
        by: ACCOUNT,
        values: "names of secrets",
        allows: |g| g.should.is_none() && json::list(g.actual, "").all(|secret| has_only(secret, &["name"])),
    },
    Row {
        field: &["spec", "tolerations", "*"],
        by: "DefaultTolerationSeconds",
        values: "not-ready and unreachable nodes, for a time",
        allows: |g| {
            let fields = ["key", "operator", "effect", "tolerationSeconds"];
            has_only(g.actual, &fields)
                && g.is("key", &["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"])
                && g.is("operator", &["Exists"])
                && g.is("effect", &["NoExecute"])
                && g.actual.get("tolerationSeconds").is_some_and(Value::is_u64)
        },
    },
    Row {
        field: &["spec", "tolerations", "*"],
        by: "PodTolerationRestriction",
        values: "nodes that are short of memory",
        allows: |g| {
            has_only(g.actual, &["key", "operator", "effect"])
                && g.is("key", &["node.kubernetes.io/memory-pressure"])
                && g.is("operator", &["Exists"])
                && g.is("effect", &["NoSchedule"])
        },
    },
    Row {
        field: &["spec", "tolerations", "*"],
        by: "ExtendedResourceToleration",
        values: "nodes that are kept for a device that the pod asks for",
        allows: |g| {
            let requests = g.rendered.pointer("/spec/containers/0/resources/requests");
            let key = json::text(g.actual, "key");
            has_only(g.actual, &["key", "operator"])
                && g.is("operator", &["Exists"])
                && key.contains('/')
                && requests.is_some_and(|requests| requests.get(key).is_some())
        },
    },
    Row {
        field: &["spec", "nodeSelector", "?"],
        by: "PodNodeSelector",
        values: "the namespace's selector",
        allows: |g| {
            let annotations = g.place.namespace.pointer("/metadata/annotations");
            let own = ["openshift.io/node-selector", "scheduler.alpha.kubernetes.io/node-selector"];
            let own = own.iter().filter_map(|key| annotations?.get(*key)?.as_str());
            let Some(Part::Key(key)) = g.path.last() else { return false };
            let value = g.actual.as_str();
            g.should.is_none()
                && own.flat_map(|text| text.split(',')).any(|pair| {
                    pair.split_once('=').is_some_and(|(k, v)| k.trim() == *key && Some(v.trim()) == value)
                })
        },
    },
    Row {
        field: &["spec", "priorityClassName"],
        by: PRIORITY,
        values: "a class that users may make: the cluster's default",
        allows: |g| {
            g.should.is_none() && g.actual.as_str().is_some_and(|class| !class.starts_with("system-"))
        },
    },
    Row {
        field: &["spec", "priority"],
        by: PRIORITY,
        values: "up to 1000000000; more with a class of the system that was rendered",
        allows: |g| {
            let class = json::string(g.rendered, "/spec/priorityClassName");
            let system = class.is_some_and(|class| class.starts_with("system-"));
            g.should.is_none()
                && g.actual.as_i64().is_some_and(|priority| system || priority <= HIGHEST_PRIORITY)
        },
    },
    Row {
        field: &["spec", "preemptionPolicy"],
        by: PRIORITY,
        values: "PreemptLowerPriority or Never",
        allows: |g| g.added(&["PreemptLowerPriority", "Never"]),
    },
    Row {
        field: &["spec", CONTAINER, "*", "resources", "limits"],
        by: "LimitRanger",
        values: "cpu, memory and ephemeral-storage, not under what is asked for",
        allows: |g| {
            let all = g.actual.as_object();
            g.should.is_none()
                && all.is_some_and(|all| all.iter().all(|(name, limit)| g.is_a_limit_of_a_range(name, limit)))
        },
    },
    Row {
        field: &["spec", CONTAINER, "*", "resources", "limits", "?"],
        by: "LimitRanger",
        values: "cpu, memory and ephemeral-storage, not under what is asked for",
        allows: |g| {
            let Some(Part::Key(name)) = g.path.last() else { return false };
            g.should.is_none() && g.is_a_limit_of_a_range(name, g.actual)
        },
    },
    Row {
        field: &["spec", "nodeName"],
        by: "scheduler",
        values: "the node that asks",
        allows: |g| g.added(&[g.place.node]),
    },
    Row {
        field: &["spec", "securityContext", "fsGroup"],
        by: CONSTRAINT,
        values: "one of the namespace's groups",
        allows: |g| g.should.is_none() && g.is_a_group(g.actual),
    },
    Row {
        field: &["spec", "securityContext", "supplementalGroups"],
        by: CONSTRAINT,
        values: "the namespace's groups",
        allows: |g| g.should.is_none() && json::list(g.actual, "").all(|group| g.is_a_group(group)),
    },
    Row {
        field: &["spec", "securityContext", "seLinuxOptions"],
        by: CONSTRAINT,
        values: "the namespace's level and nothing else",
        allows: |g| {
            g.should.is_none()
                && has_only(g.actual, &["level"])
                && g.values().mcs.is_some_and(|level| g.is("level", &[level]))
        },
    },
    Row {
        field: &["spec", CONTAINER, "*", "securityContext", "runAsUser"],
        by: CONSTRAINT,
        values: "one of the namespace's user ids, never 0; in a user namespace those of restricted-v3",
        allows: |g| {
            let uid = g.actual.as_u64().and_then(|uid| u32::try_from(uid).ok()).filter(|uid| *uid != 0);
            let range = g.values().uids().ok();
            let of_namespace =
                || uid.zip(range).is_some_and(|(uid, range)| (range.start..=range.end).contains(&uid));
            let own = || uid.is_some_and(|uid| user_namespace::USERS.contains(&uid));
            g.should.is_none() && if g.has_own_users() { own() } else { of_namespace() }
        },
    },
    Row {
        field: &["spec", CONTAINER, "*", "securityContext", "runAsNonRoot"],
        by: CONSTRAINT,
        values: "true",
        allows: |g| g.should.is_none() && *g.actual == json!(true),
    },
    Row {
        field: &["spec", CONTAINER, "*", "securityContext", "seccompProfile"],
        by: CONSTRAINT,
        values: "RuntimeDefault",
        allows: |g| g.should.is_none() && *g.actual == json!({"type": "RuntimeDefault"}),
    },
    Row {
        field: &["spec", CONTAINER, "*", "securityContext", "capabilities", "drop"],
        by: CONSTRAINT,
        values: "what was rendered, and more",
        allows: |g| {
            let dropped: Vec<&Value> = json::list(g.actual, "").collect();
            g.should.is_some()
                && g.should
                    .into_iter()
                    .flat_map(|names| json::list(names, ""))
                    .all(|name| dropped.contains(&name))
        },
    },
    Row {
        field: &["metadata", "annotations", SCC],
        by: CONSTRAINT,
        values: "the one that the pod is bound to, or any where it is not bound",
        allows: |g| {
            let annotations = g.rendered.pointer("/metadata/annotations");
            let bound = annotations.and_then(|all| all.get(REQUIRED_SCC));
            g.should.is_none() && bound.is_none_or(|bound| bound == g.actual)
        },
    },
    Row {
        field: &["metadata", "annotations", SUBJECT_TYPE],
        by: CONSTRAINT,
        values: "user or serviceaccount",
        allows: |g| g.added(&["user", "serviceaccount"]),
    },
    Row {
        field: &["metadata", "annotations", SECCOMP_POD],
        by: CONSTRAINT,
        values: "runtime/default",
        allows: |g| g.added(&["runtime/default"]),
    },
];

/// Whether a row of the table allows it.
pub(super) fn allows(given: &Given<'_>) -> bool {
    TABLE.iter().any(|row| fits(row.field, given.path) && (row.allows)(given))
}

fn fits(field: &[&str], path: &[Part<'_>]) -> bool {
    field.len() == path.len()
        && field.iter().zip(path).all(|(wanted, part)| match part {
            Part::Index(_) => *wanted == "*",
            Part::Key(key) => {
                *wanted == "?" || wanted == key || (*wanted == CONTAINER && *key == "initContainers")
            }
        })
}

/// Whether a runtime, a node or a network acts on an annotation with this key. Others are the users' and controllers'.
pub(super) fn counts(key: &str) -> bool {
    // kubectl's own are read by kubectl alone.
    let asks = KEPT_BACK.iter().filter(|prefix| !prefix.starts_with("kubectl."));
    asks.chain(["kubernetes.io/config."].iter()).any(|prefix| key.starts_with(prefix))
        || NETWORKS.contains(&key)
        || key.contains("crio.io/")
        || key == crate::decide::DOMAIN_ANNOTATION
}

pub(super) fn same_amount(one: &Value, other: &Value) -> bool {
    let amount =
        |value: &Value| value.as_str().and_then(|text| Amount::parse(text).ok()).map(Amount::thousandths);
    amount(one).is_some_and(|one| Some(one) == amount(other))
}

fn has_only(value: &Value, fields: &[&str]) -> bool {
    value.as_object().is_some_and(|all| all.keys().all(|key| fields.contains(&key.as_str())))
}

impl<'a> Given<'a> {
    /// Was not rendered, and is one of these texts.
    fn added(&self, allowed: &[&str]) -> bool {
        self.should.is_none() && self.actual.as_str().is_some_and(|text| allowed.contains(&text))
    }

    fn is(&self, field: &str, allowed: &[&str]) -> bool {
        self.actual.get(field).and_then(Value::as_str).is_some_and(|text| allowed.contains(&text))
    }

    fn is_the_same_amount(&self) -> bool {
        self.should.is_some_and(|should| same_amount(should, self.actual))
    }

    fn is_a_limit_of_a_range(&self, name: &str, limit: &Value) -> bool {
        let [_, Part::Key(list), Part::Index(index), ..] = self.path else { return false };
        let amount = |value: &Value| Some(Amount::parse(value.as_str()?).ok()?.thousandths());
        let requested = self.pod.pointer(&format!("/spec/{list}/{index}/resources/requests/{name}"));
        ["cpu", "memory", "ephemeral-storage"].contains(&name)
            && amount(limit)
                .is_some_and(|limit| limit > 0 && requested.and_then(amount).unwrap_or(0) <= limit)
    }

    fn values(&self) -> NamespaceValues<'a> {
        NamespaceValues::of(self.place.namespace)
    }

    /// In a user namespace one constraint alone admits it, which gives users that are in every one.
    fn has_own_users(&self) -> bool {
        self.rendered.pointer("/spec/hostUsers") == Some(&Value::Bool(false))
    }

    fn is_a_group(&self, group: &Value) -> bool {
        let group = group.as_u64().and_then(|group| u32::try_from(group).ok()).filter(|group| *group != 0);
        if self.has_own_users() {
            return group.is_some_and(|group| user_namespace::USERS.contains(&group));
        }
        let ranges = self.values().groups().unwrap_or_default();
        group.is_some_and(|group| ranges.iter().any(|range| (range.start..=range.end).contains(&group)))
    }
}
