//! How wire types are written: one macro, and the schemas of the types of Kubernetes that they embed.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A part of an object that belongs to somebody else or to a later version: kept as it came, never interpreted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Opaque(pub Map<String, Value>);

impl JsonSchema for Opaque {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Opaque".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        object(generator)
    }
}

/// Whether a field has nothing to say, so that it is left out of the JSON.
pub(crate) trait Absent {
    fn is_absent(&self) -> bool;
}

impl<T> Absent for Option<T> {
    fn is_absent(&self) -> bool {
        self.is_none()
    }
}

impl<T> Absent for Vec<T> {
    fn is_absent(&self) -> bool {
        self.is_empty()
    }
}

impl<K, V> Absent for BTreeMap<K, V> {
    fn is_absent(&self) -> bool {
        self.is_empty()
    }
}

/// Mandatory values are always written.
macro_rules! always_written {
    ($($ty:ty),*) => {$(
        impl crate::wire::Absent for $ty {
            fn is_absent(&self) -> bool {
                false
            }
        }
    )*};
}
pub(crate) use always_written;
always_written!(bool, i32, i64, u32, String, Opaque);
always_written!(k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta);
always_written!(k8s_openapi::apimachinery::pkg::api::resource::Quantity);

/// Declares wire structs: camel case, nothing written for what is absent, mandatory where the type is neither
/// `Option` nor defaulted.
macro_rules! wire {
    ($($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $ty:ty,)* })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            $(
                $(#[$field_meta])*
                #[serde(skip_serializing_if = "crate::wire::Absent::is_absent")]
                pub $field: $ty,
            )*
        }
        crate::wire::always_written!($name);
    )*};
}
pub(crate) use wire;

/// Declares a kind: metadata, specification and status, usable with `kube::Api`.
macro_rules! kind {
    ($(#[$meta:meta])* $name:ident, $plural:literal, $list:literal, $spec:ty, $status:ty) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            /// Group and version, `kubevirt.io/v1`.
            #[serde(default)]
            pub api_version: String,
            /// Name of the kind.
            #[serde(default)]
            pub kind: String,
            /// Standard metadata.
            #[serde(default)]
            #[schemars(schema_with = "crate::wire::object")]
            pub metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
            /// What is wanted.
            pub spec: $spec,
            /// What is.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub status: Option<$status>,
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    api_version: <Self as k8s_openapi::Resource>::API_VERSION.to_owned(),
                    kind: <Self as k8s_openapi::Resource>::KIND.to_owned(),
                    metadata: Default::default(),
                    spec: Default::default(),
                    status: None,
                }
            }
        }

        impl k8s_openapi::Resource for $name {
            const API_VERSION: &'static str = "kubevirt.io/v1";
            const GROUP: &'static str = "kubevirt.io";
            const KIND: &'static str = stringify!($name);
            const VERSION: &'static str = "v1";
            const URL_PATH_SEGMENT: &'static str = $plural;
            type Scope = k8s_openapi::NamespaceResourceScope;
        }

        impl k8s_openapi::ListableResource for $name {
            const LIST_KIND: &'static str = $list;
        }

        impl k8s_openapi::Metadata for $name {
            type Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

            fn metadata(&self) -> &Self::Ty {
                &self.metadata
            }

            fn metadata_mut(&mut self) -> &mut Self::Ty {
                &mut self.metadata
            }
        }
    };
}
pub(crate) use kind;

/// Schema of an embedded type of Kubernetes: its decoder checks it, the schema only says that it is an object.
pub(crate) fn object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// A list of [`object`].
pub(crate) fn object_list(generator: &mut SchemaGenerator) -> Schema {
    let items = object(generator);
    json_schema!({"type": "array", "items": items})
}

/// Schema of a quantity.
pub(crate) fn quantity(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "x-kubernetes-int-or-string": true,
    })
}

/// A map of [`quantity`].
pub(crate) fn quantity_map(generator: &mut SchemaGenerator) -> Schema {
    let values = quantity(generator);
    json_schema!({"type": "object", "additionalProperties": values})
}

/// Schema of a time stamp.
pub(crate) fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time", "nullable": true})
}
