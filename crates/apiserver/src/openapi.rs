//! OpenAPI v3: enough for clients to know which kinds there are, that the server checks fields itself, and, for
//! KubeVirt's kinds, what their fields are.

use http::{HeaderMap, header};
use serde_json::{Map, Value, json};

use crate::answer::{self, Answer};
use crate::registry::{self, Class, Kind};

const TITLE: &str = "Ferrovirt";
/// The form in which clients ask for version 2.
const V2_ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// The same as a media type that can be parsed, as Kubernetes answers.
const V2_BINARY: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Answers `/openapi/v2`, `/openapi/v3` and below; nothing for other paths.
///
/// The version 2 document is an empty one. Clients that find version 3 look into it for kinds that are only posted
/// (reviews), and leave checking to the server when they find nothing there; without it they give up.
pub(crate) fn answer(path: &[String], headers: &HeaderMap) -> Option<Answer> {
    let words: Vec<&str> = path.iter().map(String::as_str).collect();
    let body = match words.as_slice() {
        ["openapi", "v2"] if binary(headers) => return Some(answer::bytes(200, V2_BINARY, v2_binary())),
        ["openapi", "v2"] => json!({
            "swagger": "2.0", "info": {"title": TITLE, "version": env!("CARGO_PKG_VERSION")}, "paths": {},
        }),
        ["openapi", "v3"] => index(),
        ["openapi", "v3", "api", version] => document("", version)?,
        ["openapi", "v3", "apis", group, version] => document(group, version)?,
        _ => return None,
    };
    Some(answer::json(200, &body))
}

fn binary(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|value| value.to_str().is_ok_and(|text| text.contains(V2_ASKED)))
}

/// `swagger` (field 1) and `info` (field 2) with its title and version (fields 1 and 2) of the message
/// `openapi.v2.Document`.
fn v2_binary() -> Vec<u8> {
    let field = |number: u8, content: &[u8]| {
        // Wire type 2, and a length that fits into one byte: the texts are short constants.
        let length = u8::try_from(content.len()).unwrap_or(0) & 0x7f;
        [&[number << 3 | 2, length], content].concat()
    };
    let info = [field(1, TITLE.as_bytes()), field(2, env!("CARGO_PKG_VERSION").as_bytes())].concat();
    [field(1, b"2.0"), field(2, &info)].concat()
}

fn index() -> Value {
    let mut paths = Map::new();
    for (group, versions) in registry::groups() {
        for version in versions {
            let path =
                if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
            // The documents change only with the program, so its version is what clients may cache by.
            let url = format!("/openapi/v3/{path}?hash={}", env!("CARGO_PKG_VERSION"));
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
    }
    json!({"paths": paths})
}

fn document(group: &str, version: &str) -> Option<Value> {
    registry::groups().iter().find(|(name, versions)| *name == group && versions.contains(&version))?;
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for kind in registry::all().filter(|kind| kind.group == group && kind.versions.contains(&version)) {
        let id = schema_id(kind, version);
        schemas.insert(id.clone(), schema(kind, version));
        let root =
            if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        let scope = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("{root}{scope}/{}", kind.plural);
        let operation = |action: &str, patch: bool| operation(kind, version, &id, action, patch);
        if kind.class == Class::Review {
            paths.insert(collection, json!({"post": operation("post", false)}));
            continue;
        }
        paths.insert(
            collection.clone(),
            json!({"get": operation("list", false), "post": operation("post", false)}),
        );
        paths.insert(
            format!("{collection}/{{name}}"),
            json!({
                "get": operation("get", false), "put": operation("put", false),
                "patch": operation("patch", true), "delete": operation("delete", false),
            }),
        );
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": TITLE, "version": env!("CARGO_PKG_VERSION")},
        "paths": paths, "components": {"schemas": schemas},
    }))
}

fn gvk(kind: &Kind, version: &str) -> Value {
    json!({"group": kind.group, "version": version, "kind": kind.kind})
}

/// A name that is unique in its document, in the style of the built-in kinds.
fn schema_id(kind: &Kind, version: &str) -> String {
    let group = if kind.group.is_empty() { "core" } else { kind.group };
    let mut parts: Vec<&str> = group.split('.').collect();
    parts.reverse();
    format!("{}.{version}.{}", parts.join("."), kind.kind)
}

/// The media types of patches leave strategic merge out on purpose: these documents do not say which lists have merge
/// keys, and clients that see it here would compute such patches from the document. They fall back to what they know.
fn operation(kind: &Kind, version: &str, id: &str, action: &str, patch: bool) -> Value {
    let content = json!({"schema": {"$ref": format!("#/components/schemas/{id}")}});
    let mut operation = json!({
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": gvk(kind, version),
        "parameters": [
            parameter("dryRun", "Nothing is stored when this is All."),
            parameter("fieldManager", "Name of the client, for its own records."),
            parameter("fieldValidation", "What happens to unknown fields: Ignore, Warn or Strict."),
        ],
        "responses": {"200": {"description": "OK", "content": {"application/json": content}}},
    });
    if let (Value::Object(fields), true) = (&mut operation, patch) {
        fields.insert(
            "requestBody".to_owned(),
            json!({"content": {"application/json-patch+json": {}, "application/merge-patch+json": {}}}),
        );
    }
    operation
}

fn parameter(name: &str, description: &str) -> Value {
    json!({"name": name, "in": "query", "description": description, "schema": {"type": "string", "uniqueItems": true}})
}

/// KubeVirt's kinds come with the schema of their definitions; for the others the server is the only judge of fields.
fn schema(kind: &Kind, version: &str) -> Value {
    let mut schema = custom_schema(kind, version).unwrap_or_else(|| {
        json!({
            "type": "object",
            "properties": {
                "apiVersion": {"type": "string", "description": "Group and version."},
                "kind": {"type": "string", "description": "Kind."},
                "metadata": {"type": "object", "description": "Name, labels, annotations, owners."},
            },
            "x-kubernetes-preserve-unknown-fields": true,
        })
    });
    if let Value::Object(fields) = &mut schema {
        fields.insert("x-kubernetes-group-version-kind".to_owned(), json!([gvk(kind, version)]));
    }
    schema
}

fn custom_schema(kind: &Kind, version: &str) -> Option<Value> {
    if kind.group != "kubevirt.io" {
        return None;
    }
    let definition = ferrovirt_api::crd().into_iter().find(|crd| crd.spec.names.plural == kind.plural)?;
    let version = definition.spec.versions.into_iter().find(|served| served.name == version)?;
    serde_json::to_value(version.schema?.open_api_v3_schema?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stored_kind_says_that_fields_are_validated() {
        for kind in registry::all().filter(|kind| kind.class != Class::Review) {
            let version = kind.versions[0];
            let document = document(kind.group, version).unwrap();
            let patches =
                document["paths"].as_object().unwrap().values().filter_map(|path| path.get("patch"));
            let of_kind: Vec<_> = patches
                .filter(|patch| patch["x-kubernetes-group-version-kind"] == gvk(kind, version))
                .collect();
            assert_eq!(of_kind.len(), 1, "{}", kind.kind);
            let parameters = of_kind[0]["parameters"].as_array().unwrap();
            assert!(parameters.iter().any(|parameter| parameter["name"] == "fieldValidation"));
        }
    }
}
