//! The kinds that are questions: nothing is stored.

use k8s_openapi::api::{authentication, authorization};

use super::{BASE, Class, Kind, decode};

const REVIEW: Kind = Kind { class: Class::Review, namespaced: false, ..BASE };
const AUTHORIZATION: Kind = Kind { group: "authorization.k8s.io", ..REVIEW };
const AUTHENTICATION: Kind = Kind { group: "authentication.k8s.io", ..REVIEW };

pub(super) const KINDS: &[Kind] = &[
    Kind {
        kind: "LocalSubjectAccessReview",
        plural: "localsubjectaccessreviews",
        singular: "localsubjectaccessreview",
        namespaced: true,
        decode: decode::typed::<authorization::v1::LocalSubjectAccessReview>,
        ..AUTHORIZATION
    },
    Kind {
        kind: "SelfSubjectAccessReview",
        plural: "selfsubjectaccessreviews",
        singular: "selfsubjectaccessreview",
        decode: decode::typed::<authorization::v1::SelfSubjectAccessReview>,
        ..AUTHORIZATION
    },
    Kind {
        kind: "SelfSubjectRulesReview",
        plural: "selfsubjectrulesreviews",
        singular: "selfsubjectrulesreview",
        decode: decode::typed::<authorization::v1::SelfSubjectRulesReview>,
        ..AUTHORIZATION
    },
    Kind {
        kind: "SubjectAccessReview",
        plural: "subjectaccessreviews",
        singular: "subjectaccessreview",
        decode: decode::typed::<authorization::v1::SubjectAccessReview>,
        ..AUTHORIZATION
    },
    Kind {
        kind: "SelfSubjectReview",
        plural: "selfsubjectreviews",
        singular: "selfsubjectreview",
        decode: decode::typed::<authentication::v1::SelfSubjectReview>,
        ..AUTHENTICATION
    },
    Kind {
        kind: "TokenReview",
        plural: "tokenreviews",
        singular: "tokenreview",
        decode: decode::typed::<authentication::v1::TokenReview>,
        ..AUTHENTICATION
    },
];
