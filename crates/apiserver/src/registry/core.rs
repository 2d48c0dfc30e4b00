//! The core group.

use k8s_openapi::api::core::v1;

use super::columns::{nodes, others, pods, storage};
use super::{BASE, Kind, Subresource, decode};

pub(super) const KINDS: &[Kind] = &[
    Kind {
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short: &["ns"],
        namespaced: false,
        subresources: &[Subresource::STATUS, Subresource::of_parent("finalize", &["update"])],
        columns: others::NAMESPACES,
        decode: decode::typed::<v1::Namespace>,
        ..BASE
    },
    Kind {
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short: &["no"],
        namespaced: false,
        subresources: &[Subresource::STATUS],
        columns: nodes::COLUMNS,
        decode: decode::typed::<v1::Node>,
        ..BASE
    },
    Kind {
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short: &["po"],
        categories: &["all"],
        subresources: &[
            Subresource::STATUS,
            Subresource { kind: "Binding", ..Subresource::of_parent("binding", &["create"]) },
            Subresource {
                name: "eviction",
                group: "policy",
                version: "v1",
                kind: "Eviction",
                verbs: &["create"],
            },
            Subresource::of_parent("log", &["get"]),
        ],
        columns: pods::COLUMNS,
        decode: decode::typed::<v1::Pod>,
        ..BASE
    },
    Kind {
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        columns: others::SECRETS,
        decode: decode::typed::<v1::Secret>,
        ..BASE
    },
    Kind {
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short: &["cm"],
        columns: others::CONFIG_MAPS,
        decode: decode::typed::<v1::ConfigMap>,
        ..BASE
    },
    Kind {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short: &["sa"],
        subresources: &[Subresource {
            name: "token",
            group: "authentication.k8s.io",
            version: "v1",
            kind: "TokenRequest",
            verbs: &["create"],
        }],
        columns: others::SERVICE_ACCOUNTS,
        decode: decode::typed::<v1::ServiceAccount>,
        ..BASE
    },
    Kind {
        kind: "PersistentVolume",
        plural: "persistentvolumes",
        singular: "persistentvolume",
        short: &["pv"],
        namespaced: false,
        subresources: &[Subresource::STATUS],
        columns: storage::VOLUMES,
        decode: decode::typed::<v1::PersistentVolume>,
        ..BASE
    },
    Kind {
        kind: "PersistentVolumeClaim",
        plural: "persistentvolumeclaims",
        singular: "persistentvolumeclaim",
        short: &["pvc"],
        subresources: &[Subresource::STATUS],
        columns: storage::CLAIMS,
        decode: decode::typed::<v1::PersistentVolumeClaim>,
        ..BASE
    },
    Kind {
        kind: "Service",
        plural: "services",
        singular: "service",
        short: &["svc"],
        categories: &["all"],
        subresources: &[Subresource::STATUS],
        columns: others::SERVICES,
        decode: decode::typed::<v1::Service>,
        ..BASE
    },
];
