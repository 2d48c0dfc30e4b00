//! One registered webhook: when it is asked, and how it is reached.

use std::sync::Arc;
use std::time::Duration;

use ferrovirt_kubernetes::json;
use ferrovirt_kubernetes::selector::Labels;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;

use super::review::Asked;

/// Where distributions keep the authorities that a machine trusts; for webhooks without a bundle of their own.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What a webhook may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Change the object or refuse.
    Mutating,
    /// Refuse.
    Validating,
}

impl Class {
    pub(super) fn resource(self) -> &'static str {
        match self {
            Self::Mutating => "mutatingwebhookconfigurations",
            Self::Validating => "validatingwebhookconfigurations",
        }
    }
}

/// Where a webhook is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// `https://host[:port][/path]`
    Url(String),
    /// A Service of the cluster.
    Service { namespace: String, name: String, path: String, port: u16 },
}

/// One webhook, read from a stored configuration (which was validated).
pub(super) struct Hook {
    pub(super) class: Class,
    pub(super) configuration: String,
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) tls: Result<Arc<rustls::ClientConfig>, String>,
    pub(super) namespaces: Labels,
    pub(super) objects: Labels,
    pub(super) ignores_failures: bool,
    pub(super) timeout: Duration,
    pub(super) asks_again: bool,
    exact: bool,
    rules: Vec<Rule>,
}

struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: String,
}

/// The version in which a webhook wants to see an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Match {
    pub(super) version: String,
}

impl Hook {
    pub(super) fn read(class: Class, configuration: &str, webhook: &Value) -> Self {
        let text = |pointer: &str| json::text(webhook, pointer);
        let place = match text("/clientConfig/url") {
            "" => Place::Service {
                namespace: text("/clientConfig/service/namespace").to_owned(),
                name: text("/clientConfig/service/name").to_owned(),
                path: text("/clientConfig/service/path").to_owned(),
                port: webhook
                    .pointer("/clientConfig/service/port")
                    .and_then(Value::as_u64)
                    .and_then(|port| u16::try_from(port).ok())
                    .unwrap_or(443),
            },
            url => Place::Url(url.to_owned()),
        };
        let labels = |field: &str| webhook.get(field).map(Labels::from_object).unwrap_or_default();
        let rules = json::list(webhook, "rules");
        Self {
            class,
            configuration: configuration.to_owned(),
            name: text("/name").to_owned(),
            place,
            tls: trust(text("/clientConfig/caBundle")),
            namespaces: labels("namespaceSelector"),
            objects: labels("objectSelector"),
            ignores_failures: text("/failurePolicy") == "Ignore",
            timeout: Duration::from_secs(webhook.get("timeoutSeconds").and_then(Value::as_u64).unwrap_or(10)),
            asks_again: text("/reinvocationPolicy") == "IfNeeded",
            exact: text("/matchPolicy") == "Exact",
            rules: rules.map(Rule::read).collect(),
        }
    }

    /// Whether a rule names the request; in which version of the object. Another version of the same kind than the
    /// request's counts only when the webhook does not insist on exact matches.
    pub(super) fn rule_for(&self, asked: &Asked<'_>) -> Option<Match> {
        let own = [asked.version];
        let other = if self.exact { &[][..] } else { asked.versions };
        let versions = own.iter().chain(other.iter().filter(|version| **version != asked.version));
        versions
            .copied()
            .find(|version| self.rules.iter().any(|rule| rule.names(asked, version)))
            .map(|version| Match { version: version.to_owned() })
    }
}

impl Rule {
    fn read(rule: &Value) -> Self {
        let list = |field: &str| json::texts(rule, field).map(str::to_owned).collect::<Vec<_>>();
        Self {
            operations: list("operations"),
            groups: list("apiGroups"),
            versions: list("apiVersions"),
            resources: list("resources"),
            scope: json::string(rule, "scope").unwrap_or("*").to_owned(),
        }
    }

    fn names(&self, asked: &Asked<'_>, version: &str) -> bool {
        let has = |list: &[String], wanted: &str| list.iter().any(|one| one == "*" || one == wanted);
        let resource = || {
            self.resources.iter().any(|one| {
                let (resource, below) = one.split_once('/').unwrap_or((one, ""));
                (resource == "*" || resource == asked.resource)
                    && (below == "*" || below == asked.subresource)
            })
        };
        let scope = match self.scope.as_str() {
            "Namespaced" => asked.namespaced,
            "Cluster" => !asked.namespaced,
            _ => true,
        };
        scope
            && has(&self.operations, asked.operation)
            && has(&self.groups, asked.group)
            && has(&self.versions, version)
            && resource()
    }
}

/// What a webhook's certificate is checked against.
pub(super) fn trust(bundle: &str) -> Result<Arc<rustls::ClientConfig>, String> {
    let pem = if bundle.is_empty() {
        std::fs::read(SYSTEM_ROOTS)
            .map_err(|why| format!("there is no caBundle, and {SYSTEM_ROOTS} cannot be read: {why}"))?
    } else {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD
            .decode(bundle)
            .map_err(|why| format!("caBundle is not base64: {why}"))?
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|why| format!("caBundle is not PEM: {why}"))?;
        if let Err(why) = roots.add(certificate)
            && !bundle.is_empty()
        {
            return Err(format!("caBundle holds a certificate that cannot be read: {why}"));
        }
    }
    if roots.is_empty() {
        return Err("caBundle holds no certificate".to_owned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|why| why.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
