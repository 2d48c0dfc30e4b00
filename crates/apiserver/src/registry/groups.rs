//! Built-in kinds outside the core group.

use k8s_openapi::api::{admissionregistration, apps, coordination, rbac, scheduling, storage};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;

use super::columns::{others, rbac as rbac_columns, storage as storage_columns};
use super::{BASE, Kind, Subresource, decode};

const RBAC: Kind = Kind { group: "rbac.authorization.k8s.io", loose_names: true, ..BASE };
const WEBHOOKS: Kind = Kind {
    group: "admissionregistration.k8s.io",
    categories: &["api-extensions"],
    namespaced: false,
    columns: others::WEBHOOKS,
    ..BASE
};

pub(super) const KINDS: &[Kind] = &[
    Kind {
        group: "apps",
        kind: "ControllerRevision",
        plural: "controllerrevisions",
        singular: "controllerrevision",
        columns: others::CONTROLLER_REVISIONS,
        decode: decode::typed::<apps::v1::ControllerRevision>,
        ..BASE
    },
    Kind {
        kind: "ClusterRole",
        plural: "clusterroles",
        singular: "clusterrole",
        namespaced: false,
        columns: rbac_columns::ROLES,
        decode: decode::typed::<rbac::v1::ClusterRole>,
        ..RBAC
    },
    Kind {
        kind: "ClusterRoleBinding",
        plural: "clusterrolebindings",
        singular: "clusterrolebinding",
        namespaced: false,
        columns: rbac_columns::BINDINGS,
        decode: decode::typed::<rbac::v1::ClusterRoleBinding>,
        ..RBAC
    },
    Kind {
        kind: "Role",
        plural: "roles",
        singular: "role",
        columns: rbac_columns::ROLES,
        decode: decode::typed::<rbac::v1::Role>,
        ..RBAC
    },
    Kind {
        kind: "RoleBinding",
        plural: "rolebindings",
        singular: "rolebinding",
        columns: rbac_columns::BINDINGS,
        decode: decode::typed::<rbac::v1::RoleBinding>,
        ..RBAC
    },
    Kind {
        group: "storage.k8s.io",
        kind: "StorageClass",
        plural: "storageclasses",
        singular: "storageclass",
        short: &["sc"],
        namespaced: false,
        columns: storage_columns::CLASSES,
        decode: decode::typed::<storage::v1::StorageClass>,
        ..BASE
    },
    Kind {
        group: "coordination.k8s.io",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        columns: others::LEASES,
        decode: decode::typed::<coordination::v1::Lease>,
        create_on_update: true,
        ..BASE
    },
    Kind {
        group: "scheduling.k8s.io",
        kind: "PriorityClass",
        plural: "priorityclasses",
        singular: "priorityclass",
        short: &["pc"],
        namespaced: false,
        columns: others::PRIORITY_CLASSES,
        decode: decode::typed::<scheduling::v1::PriorityClass>,
        ..BASE
    },
    Kind {
        kind: "MutatingWebhookConfiguration",
        plural: "mutatingwebhookconfigurations",
        singular: "mutatingwebhookconfiguration",
        decode: decode::typed::<admissionregistration::v1::MutatingWebhookConfiguration>,
        ..WEBHOOKS
    },
    Kind {
        kind: "ValidatingWebhookConfiguration",
        plural: "validatingwebhookconfigurations",
        singular: "validatingwebhookconfiguration",
        decode: decode::typed::<admissionregistration::v1::ValidatingWebhookConfiguration>,
        ..WEBHOOKS
    },
    Kind {
        group: "apiextensions.k8s.io",
        kind: "CustomResourceDefinition",
        plural: "customresourcedefinitions",
        singular: "customresourcedefinition",
        short: &["crd", "crds"],
        categories: &["api-extensions"],
        namespaced: false,
        subresources: &[Subresource::STATUS],
        columns: others::NAME_CREATED,
        decode: decode::typed::<apiextensions::v1::CustomResourceDefinition>,
        ..BASE
    },
];
