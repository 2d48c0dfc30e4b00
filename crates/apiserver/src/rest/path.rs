//! From method and path to what is asked for.

use http::Method;

use crate::registry::{self, Kind};
use crate::request::Attributes;
use crate::status::ApiError;

/// A request for a resource.
#[derive(Debug)]
pub(crate) struct ResourcePath {
    /// The kind; for subresources.kubevirt.io the kind of the machine, if there is one in the path.
    pub(crate) kind: Option<&'static Kind>,
    /// Group as in the path.
    pub(crate) group: String,
    /// Version as in the path.
    pub(crate) version: String,
    /// Plural name as in the path.
    pub(crate) resource: String,
    /// Namespace or empty.
    pub(crate) namespace: String,
    /// Name or empty.
    pub(crate) name: String,
    /// Subresource or empty.
    pub(crate) subresource: String,
    /// What follows the subresource.
    pub(crate) rest: Vec<String>,
}

/// What a path means.
#[derive(Debug)]
pub(crate) enum Route {
    /// A resource of a group.
    Resource(ResourcePath),
    /// Anything else: discovery, health, version.
    Other(Vec<String>),
}

/// Reads a path. Percent-escapes are decoded in each part, after the path was taken apart.
pub(crate) fn route(path: &str) -> Result<Route, ApiError> {
    let mut parts = Vec::new();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        parts.push(unescape(part).ok_or_else(|| ApiError::bad_request("the path is not valid UTF-8"))?);
    }
    let words: Vec<&str> = parts.iter().map(String::as_str).collect();
    let (group, version, rest) = match words.as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
        _ => return Ok(Route::Other(parts)),
    };
    // `namespaces/x` alone is the namespace itself; so are its own subresources.
    let (namespace, rest) = match rest {
        ["namespaces", _] | ["namespaces", _, "status" | "finalize"] if group.is_empty() => ("", rest),
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
        _ => ("", rest),
    };
    let at = |index: usize| rest.get(index).copied().unwrap_or_default();
    let resource = at(0);
    let kind = if group == registry::SUBRESOURCES_GROUP {
        registry::find("kubevirt.io", resource)
    } else {
        registry::find(group, resource).filter(|kind| kind.versions.contains(&version))
    };
    let owned = |text: &str| text.to_owned();
    Ok(Route::Resource(ResourcePath {
        kind,
        group: owned(group),
        version: owned(version),
        resource: owned(resource),
        namespace: owned(namespace),
        name: owned(at(1)),
        subresource: owned(at(2)),
        rest: rest.iter().skip(3).map(|part| owned(part)).collect(),
    }))
}

impl ResourcePath {
    /// What authorization is asked about. `watch` is the query's.
    pub(crate) fn attributes(&self, method: &Method, watch: bool, path: &str) -> Attributes {
        let collection = self.name.is_empty();
        let verb = match *method {
            // Upstream: only collections are watched. A name with `watch=true` is a get, or the right to watch one
            // object would be asked for and all would be shown.
            Method::GET | Method::HEAD if !collection => "get",
            Method::GET | Method::HEAD if watch => "watch",
            Method::GET | Method::HEAD => "list",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if collection => "deletecollection",
            Method::DELETE => "delete",
            _ => "",
        };
        // Upstream: a role in a namespace can grant rights on the namespace object itself.
        let own = self.group.is_empty() && self.resource == "namespaces";
        Attributes {
            verb: verb.to_owned(),
            group: self.group.clone(),
            version: self.version.clone(),
            resource: self.resource.clone(),
            subresource: self.subresource.clone(),
            namespace: if own { self.name.clone() } else { self.namespace.clone() },
            name: self.name.clone(),
            path: path.to_owned(),
        }
    }
}

/// Decodes `%41`; nothing when the result is not UTF-8.
pub(crate) fn unescape(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digits = [bytes.next()?, bytes.next()?];
        out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: Method, path: &str, expected: &str) {
        let Route::Resource(resource) = route(path).unwrap() else { panic!("{path} is no resource") };
        let a = resource.attributes(&method, false, path);
        let got = [&a.verb, &a.group, &a.version, &a.resource, &a.subresource, &a.namespace, &a.name]
            .map(String::as_str)
            .join("|");
        assert_eq!(got, expected);
    }

    #[test]
    fn paths_become_attributes() {
        check(Method::GET, "/api/v1/pods", "list||v1|pods|||");
        check(Method::GET, "/api/v1/namespaces/a/pods", "list||v1|pods||a|");
        check(Method::GET, "/api/v1/namespaces/a/pods/b/log", "get||v1|pods|log|a|b");
        check(Method::GET, "/api/v1/namespaces/a", "get||v1|namespaces||a|a");
        check(Method::PUT, "/api/v1/namespaces/a/finalize", "update||v1|namespaces|finalize|a|a");
        check(Method::POST, "/api/v1/namespaces", "create||v1|namespaces|||");
        check(
            Method::PUT,
            "/apis/subresources.kubevirt.io/v1/namespaces/a/virtualmachines/b/start",
            "update|subresources.kubevirt.io|v1|virtualmachines|start|a|b",
        );
        check(
            Method::DELETE,
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
            "delete|rbac.authorization.k8s.io|v1|clusterroles|||system:node",
        );
        for (path, verb) in [("/api/v1/secrets", "watch"), ("/api/v1/namespaces/a/secrets/b", "get")] {
            let Route::Resource(resource) = route(path).unwrap() else { panic!("{path} is no resource") };
            assert_eq!(resource.attributes(&Method::GET, true, path).verb, verb, "{path}");
        }
        assert!(matches!(route("/apis/apps/v1").unwrap(), Route::Other(_)));
        assert!(route("/api/v1/pods/%ff").is_err());
    }
}
