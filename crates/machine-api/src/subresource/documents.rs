//! What clients and the aggregator read to find out what is served.

use ferrovirt_machines::subresource::{GROUP, Path, VERSIONS, aggregated_rows, rows, version};
use http::{HeaderMap, header};
use serde_json::{Value, json};

/// The type of aggregated discovery.
pub(super) const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
pub(super) const JSON: &str = "application/json";

/// The document at a path, with its type; nothing where there is none.
pub(super) fn at(path: &str, headers: &HeaderMap) -> Option<(&'static str, Value)> {
    let document = match path {
        "/apis" if wants_aggregated(headers) => return Some((AGGREGATED, aggregated())),
        "/apis" => json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group()]}),
        "/version" => version(),
        // Nothing of ours has a schema here: the kinds are described by their definitions.
        "/openapi/v2" => {
            let info = json!({"title": "Ferrovirt", "version": env!("CARGO_PKG_VERSION")});
            json!({"swagger": "2.0", "info": info, "paths": {}})
        }
        "/openapi/v3" => json!({"paths": {}}),
        _ => match Path::parse(path)? {
            Path::Group => {
                let mut document = group();
                if let Some(fields) = document.as_object_mut() {
                    fields.insert("kind".to_owned(), "APIGroup".into());
                    fields.insert("apiVersion".to_owned(), "v1".into());
                }
                document
            }
            Path::Version(version) => {
                let name = format!("{GROUP}/{version}");
                json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": rows()})
            }
            Path::Release(_) => version(),
            Path::Health(_) => json!({"apiserver": {"connectivity": "ok"}}),
            Path::Object(_) | Path::Other(_) => return None,
        },
    };
    Some((JSON, document))
}

fn group() -> Value {
    let version = |version: &&str| json!({"groupVersion": format!("{GROUP}/{version}"), "version": version});
    let versions: Vec<Value> = VERSIONS.iter().map(version).collect();
    json!({"name": GROUP, "preferredVersion": versions.first(), "versions": versions})
}

fn aggregated() -> Value {
    let version =
        |version: &&str| json!({"version": version, "resources": aggregated_rows(), "freshness": "Current"});
    let versions: Vec<Value> = VERSIONS.iter().map(version).collect();
    let item = json!({"metadata": {"name": GROUP}, "versions": versions});
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": [item]})
}

/// Whether a client knows the aggregated form of version v2; it names that before the plain one.
fn wants_aggregated(headers: &HeaderMap) -> bool {
    let all = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut forms = all.flat_map(|value| value.split(','));
    forms.any(|form| {
        let has = |wanted: &str| form.split(';').any(|part| part.trim() == wanted);
        has("as=APIGroupDiscoveryList") && has("v=v2") && has("g=apidiscovery.k8s.io")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_document_is_of_the_kind_that_its_readers_expect() {
        let none = HeaderMap::new();
        let kind = |path: &str| at(path, &none).unwrap().1["kind"].clone();
        assert_eq!(kind("/apis"), "APIGroupList");
        assert_eq!(kind("/apis/subresources.kubevirt.io"), "APIGroup");
        assert_eq!(kind("/apis/subresources.kubevirt.io/v1alpha3"), "APIResourceList");
        assert_eq!(at("/apis/subresources.kubevirt.io/v1/namespaces/n/virtualmachines/m/start", &none), None);
        assert_eq!(at("/apis/kubevirt.io", &none), None);
        let mut headers = HeaderMap::new();
        let accept =
            format!("{AGGREGATED},application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList");
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        let (form, document) = at("/apis", &headers).unwrap();
        assert_eq!((form, &document["items"][0]["versions"][1]["version"]), (AGGREGATED, &"v1alpha3".into()));
        headers.insert(header::ACCEPT, header::HeaderValue::from_static("application/json;as=Table;v=v2"));
        assert_eq!(at("/apis", &headers).unwrap().0, JSON);
    }
}
