//! The registered admission webhooks: when each is asked, and how it is reached. [`crate::admission`] asks them.

use std::sync::Arc;
use std::time::Duration;

use ferrovirt_kubernetes::json;
use ferrovirt_kubernetes::selector::Labels;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;

use crate::fresh::Fresh;
use crate::store::{Prefix, Store};

/// Where distributions keep the authorities that a machine trusts; for webhooks without a bundle of their own.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// API group of the configurations.
pub(crate) const GROUP: &str = "admissionregistration.k8s.io";

/// All webhooks, in the order in which they are asked.
#[derive(Default)]
pub struct Hooks(pub(crate) Vec<Hook>);

impl Hooks {
    /// The webhooks that are registered in the store; read again when a configuration changes.
    #[must_use]
    pub fn of(store: Store) -> Fresh<Self> {
        Fresh::new(store, format!("/{GROUP}/"), |store| {
            let mut all = Vec::new();
            for class in [Class::Mutating, Class::Validating] {
                // The store lists by name, which is the order of the configurations.
                for (key, entry) in store.list(&Prefix::resource(GROUP, class.resource())).entries {
                    let webhooks = json::list(&entry.object, "webhooks");
                    all.extend(webhooks.map(|webhook| Hook::read(class, key.name(), webhook)));
                }
            }
            Self(all)
        })
    }
}

/// What a webhook may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Change the object or refuse.
    Mutating,
    /// Refuse.
    Validating,
}

impl Class {
    pub(crate) fn resource(self) -> &'static str {
        match self {
            Self::Mutating => "mutatingwebhookconfigurations",
            Self::Validating => "validatingwebhookconfigurations",
        }
    }
}

/// Where a webhook is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// `https://host[:port][/path]`
    Url(String),
    /// A Service of the cluster.
    Service { namespace: String, name: String, path: String, port: u16 },
}

/// One webhook, read from a stored configuration (which was validated).
pub(crate) struct Hook {
    pub(crate) class: Class,
    pub(crate) configuration: String,
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) tls: Result<Arc<rustls::ClientConfig>, String>,
    pub(crate) namespaces: Labels,
    pub(crate) objects: Labels,
    pub(crate) ignores_failures: bool,
    pub(crate) timeout: Duration,
    pub(crate) asks_again: bool,
    /// Objects of other versions than the rules' do not concern it.
    pub(crate) exact: bool,
    pub(crate) rules: Vec<Rule>,
}

/// Which requests a webhook is asked about; `*` stands for all.
pub(crate) struct Rule {
    pub(crate) operations: Vec<String>,
    pub(crate) groups: Vec<String>,
    pub(crate) versions: Vec<String>,
    pub(crate) resources: Vec<String>,
    pub(crate) scope: String,
}

impl Hook {
    pub(crate) fn read(class: Class, configuration: &str, webhook: &Value) -> Self {
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
}

/// What a webhook's certificate is checked against.
pub(crate) fn trust(bundle: &str) -> Result<Arc<rustls::ClientConfig>, String> {
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
