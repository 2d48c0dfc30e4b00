//! Discovery: which groups, versions and resources there are, in the old form and in the aggregated one.

use ferrovirt_machines::subresource;
use http::HeaderMap;
use serde_json::{Value, json};

use crate::answer::{self, Answer};
use crate::registry::{self, Kind, SUBRESOURCES_GROUP};
use crate::rest::negotiate;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// The version that we tell clients: the Kubernetes release whose behaviour this server has.
pub(crate) fn version() -> Value {
    json!({
        "major": "1", "minor": "32", "gitVersion": concat!("v1.32.0+ferrovirt-", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none",
        "compiler": "rustc", "platform": format!("{}/{}", std::env::consts::OS, arch()),
    })
}

/// Kubernetes' name of this machine's architecture.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Answers discovery paths; nothing for others.
pub(crate) fn answer(path: &[String], headers: &HeaderMap) -> Option<Answer> {
    let words: Vec<&str> = path.iter().map(String::as_str).collect();
    let body = match words.as_slice() {
        ["api"] if aggregated(headers) => return Some(answer::bytes(200, AGGREGATED, group_list(true))),
        ["apis"] if aggregated(headers) => return Some(answer::bytes(200, AGGREGATED, group_list(false))),
        ["api"] => json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [],
        }),
        ["apis"] => json!({
            "kind": "APIGroupList", "apiVersion": "v1",
            "groups": registry::groups().iter().filter(|(group, _)| !group.is_empty())
                .map(|(group, versions)| api_group(group, versions)).collect::<Vec<_>>(),
        }),
        ["api", version] => resource_list("", version)?,
        ["apis", group] => {
            let groups = registry::groups();
            let (group, versions) = groups.iter().find(|(name, _)| name == group && !name.is_empty())?;
            let mut body = api_group(group, versions);
            if let Value::Object(fields) = &mut body {
                fields.insert("kind".to_owned(), "APIGroup".into());
                fields.insert("apiVersion".to_owned(), "v1".into());
            }
            body
        }
        ["apis", group, version] if !group.is_empty() => resource_list(group, version)?,
        ["version"] => version(),
        _ => return None,
    };
    Some(answer::json(200, &body))
}

fn aggregated(headers: &HeaderMap) -> bool {
    negotiate::accepted(headers)
        .iter()
        .filter(|entry| entry.is_json())
        .map(|entry| (entry.parameter("as"), entry.parameter("v")))
        .find(|form| matches!(form, ("", _) | ("APIGroupDiscoveryList", "v2")))
        .is_some_and(|(form, _)| !form.is_empty())
}

fn api_group(group: &str, versions: &[&str]) -> Value {
    let version = |version: &&str| json!({"groupVersion": format!("{group}/{version}"), "version": version});
    json!({
        "name": group, "versions": versions.iter().map(version).collect::<Vec<_>>(),
        "preferredVersion": versions.first().map(version),
    })
}

fn kinds_of<'a>(group: &'a str, version: &'a str) -> impl Iterator<Item = &'static Kind> + 'a {
    registry::all().filter(move |kind| kind.group == group && kind.versions.contains(&version))
}

fn has_version(group: &str, version: &str) -> bool {
    registry::groups().iter().any(|(name, versions)| *name == group && versions.contains(&version))
}

fn resource_list(group: &str, version: &str) -> Option<Value> {
    if !has_version(group, version) {
        return None;
    }
    let mut resources = Vec::new();
    for kind in kinds_of(group, version) {
        let mut row = json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind,
            "verbs": kind.verbs(),
        });
        if let Value::Object(fields) = &mut row {
            for (name, list) in [("shortNames", kind.short), ("categories", kind.categories)] {
                if !list.is_empty() {
                    fields.insert(name.to_owned(), json!(list));
                }
            }
        }
        resources.push(row);
        for subresource in kind.subresources {
            let mut row = json!({
                "name": format!("{}/{}", kind.plural, subresource.name), "singularName": "",
                "namespaced": kind.namespaced, "verbs": subresource.verbs,
                "kind": if subresource.kind.is_empty() { kind.kind } else { subresource.kind },
            });
            if let (Value::Object(fields), false) = (&mut row, subresource.group.is_empty()) {
                fields.insert("group".to_owned(), subresource.group.into());
                fields.insert("version".to_owned(), subresource.version.into());
            }
            resources.push(row);
        }
    }
    if group == SUBRESOURCES_GROUP {
        resources.extend(subresource::rows());
    }
    Some(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": registry::api_version(group, version),
        "resources": resources,
    }))
}

fn group_list(core: bool) -> String {
    let items: Vec<Value> = registry::groups()
        .iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let metadata = if core { json!({"creationTimestamp": null}) } else { json!({"name": group}) };
            let versions: Vec<Value> =
                versions.iter().map(|version| version_discovery(group, version)).collect();
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
    })
    .to_string()
}

fn version_discovery(group: &str, version: &str) -> Value {
    let scope = |kind: &Kind| if kind.namespaced { "Namespaced" } else { "Cluster" };
    let mut resources: Vec<Value> = kinds_of(group, version)
        .map(|kind| {
            let subresources: Vec<Value> = kind
                .subresources
                .iter()
                .map(|subresource| {
                    let (group, version) = if subresource.group.is_empty() {
                        (group, version)
                    } else {
                        (subresource.group, subresource.version)
                    };
                    let name = if subresource.kind.is_empty() { kind.kind } else { subresource.kind };
                    json!({
                        "subresource": subresource.name, "verbs": subresource.verbs,
                        "responseKind": {"group": group, "version": version, "kind": name},
                    })
                })
                .collect();
            let mut row = json!({
                "resource": kind.plural, "singularResource": kind.singular, "scope": scope(kind),
                "responseKind": {"group": group, "version": version, "kind": kind.kind},
                "verbs": kind.verbs(),
            });
            if let Value::Object(fields) = &mut row {
                for (name, list) in [("shortNames", kind.short), ("categories", kind.categories)] {
                    if !list.is_empty() {
                        fields.insert(name.to_owned(), json!(list));
                    }
                }
                if !subresources.is_empty() {
                    fields.insert("subresources".to_owned(), json!(subresources));
                }
            }
            row
        })
        .collect();
    if group == SUBRESOURCES_GROUP {
        resources.extend(subresource::aggregated_rows());
    }
    json!({"version": version, "resources": resources, "freshness": "Current"})
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, header};

    use super::*;

    #[test]
    fn the_form_follows_the_accept_header() {
        let mut headers = HeaderMap::new();
        assert!(!aggregated(&headers));
        let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                      application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        assert!(aggregated(&headers));
        let old =
            "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        headers.insert(header::ACCEPT, HeaderValue::from_static(old));
        assert!(!aggregated(&headers));
    }

    #[test]
    fn every_kind_is_discovered_in_both_forms() {
        for kind in registry::all() {
            for version in kind.versions {
                let list = resource_list(kind.group, version).unwrap();
                assert!(list["resources"].as_array().unwrap().iter().any(|row| row["name"] == kind.plural));
                let aggregated = version_discovery(kind.group, version);
                let rows = aggregated["resources"].as_array().unwrap();
                assert!(rows.iter().any(|row| row["resource"] == kind.plural));
            }
        }
        assert!(resource_list("", "v2").is_none());
        assert!(resource_list("nothing.example", "v1").is_none());
    }
}
