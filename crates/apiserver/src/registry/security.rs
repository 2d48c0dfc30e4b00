//! The kinds of security.openshift.io: the constraints, and the questions about them.

use ferrovirt_scc::SecurityContextConstraints;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::columns::others;
use super::{BASE, Class, Kind, decode};

const SECURITY: Kind = Kind { group: "security.openshift.io", ..BASE };
const REVIEW: Kind = Kind { class: Class::Review, ..SECURITY };

pub(super) const KINDS: &[Kind] = &[
    Kind {
        kind: "SecurityContextConstraints",
        plural: "securitycontextconstraints",
        singular: "securitycontextconstraints",
        short: &["scc"],
        namespaced: false,
        class: Class::Custom,
        columns: others::SCCS,
        decode: decode::typed_as_given::<SecurityContextConstraints>,
        ..SECURITY
    },
    Kind {
        kind: "PodSecurityPolicyReview",
        plural: "podsecuritypolicyreviews",
        singular: "podsecuritypolicyreview",
        decode: decode::typed::<Review<Accounts>>,
        ..REVIEW
    },
    Kind {
        kind: "PodSecurityPolicySelfSubjectReview",
        plural: "podsecuritypolicyselfsubjectreviews",
        singular: "podsecuritypolicyselfsubjectreview",
        decode: decode::typed::<Review<Caller>>,
        ..REVIEW
    },
    Kind {
        kind: "PodSecurityPolicySubjectReview",
        plural: "podsecuritypolicysubjectreviews",
        singular: "podsecuritypolicysubjectreview",
        decode: decode::typed::<Review<Somebody>>,
        ..REVIEW
    },
];

/// A question about a pod template, with the spec of its kind. Clients send the empty status along.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Review<T> {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: ObjectMeta,
    spec: T,
    #[serde(default, skip_serializing)]
    #[expect(dead_code, reason = "named so that it is known; the answer has its own")]
    status: Value,
}

/// May these service accounts?
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Accounts {
    template: PodTemplateSpec,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service_account_names: Option<Vec<String>>,
}

/// May I?
#[derive(Deserialize, Serialize)]
struct Caller {
    template: PodTemplateSpec,
}

/// May this user, with these groups?
#[derive(Deserialize, Serialize)]
struct Somebody {
    template: PodTemplateSpec,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    groups: Option<Vec<String>>,
}
