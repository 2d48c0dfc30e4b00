//! Who asks: the cluster's API server says it, as a front proxy.
//!
//! Which authority its certificate has, which names count and in which headers it writes whom is in a ConfigMap of
//! `kube-system`, which it keeps.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ferrovirt_https::{Authorities, Shown};
use ferrovirt_machines::subresource::{Names, Requester};
use http::HeaderMap;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};

/// How often the ConfigMap is looked at.
const LOOK: Duration = Duration::from_secs(10);
const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";
const AUTHORITIES: &str = "requestheader-client-ca-file";

/// What is known of the front proxy.
#[derive(Debug, Default)]
pub(crate) struct FrontProxy(RwLock<Option<Result<Arc<Known>, String>>>);

/// Why nobody is known to have asked.
#[derive(Debug)]
pub(crate) enum Unknown {
    /// It was not the front proxy, or it names nobody: another request may be better.
    Client(String),
    /// Who the front proxy is, is not known here: the same request may be good later, or elsewhere.
    Proxy(String),
}

#[derive(Debug)]
struct Known {
    authorities: Authorities,
    names: Names,
}

impl FrontProxy {
    /// Who asks, as the front proxy says, if it was the front proxy that has sent this.
    ///
    /// # Errors
    /// What is missing. Headers of anybody else are not looked at.
    pub(crate) fn requester(&self, shown: &Shown, headers: &HeaderMap) -> Result<Requester, Unknown> {
        let client = |why: &str| Unknown::Client(why.to_owned());
        if !shown.is_there() {
            return Err(client(
                "this is served through the cluster's API server alone, which shows a client certificate",
            ));
        }
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        let known = known
            .unwrap_or_else(|| Err("the configuration of its front proxy was not read yet".to_owned()))
            .map_err(Unknown::Proxy)?;
        known.authorities.check(shown).map_err(Unknown::Client)?;
        if !shown.common_name().is_some_and(|name| known.names.allows(&name)) {
            return Err(client("the name in the client certificate is not that of the front proxy"));
        }
        let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        known.names.requester(headers).map_err(Unknown::Client)
    }

    /// Whether it was tried to read the configuration, however that went.
    pub(crate) fn is_tried(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn set(&self, known: Result<Known, String>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(known.map(Arc::new));
    }

    fn is_known(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(Result::is_ok)
    }

    /// Reads the configuration again and again. Never ends.
    pub(crate) async fn follow(self: Arc<Self>, client: Client) {
        let maps: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
        let (mut seen, mut complaint) = (None, String::new());
        loop {
            let problem = match maps.get_opt(NAME).await {
                Ok(found) if seen.as_ref() == Some(&found) => None,
                Ok(found) => {
                    let known = read(found.as_ref());
                    let problem = known.as_ref().err().cloned();
                    self.set(known);
                    seen = Some(found);
                    problem
                }
                // What was known stays: an API server that is away asks nothing.
                Err(why) => {
                    let why = format!("the ConfigMap {NAMESPACE}/{NAME} cannot be read: {why}");
                    if !self.is_known() {
                        self.set(Err(why.clone()));
                    }
                    seen = None;
                    Some(why)
                }
            };
            if let Some(why) = problem
                && why != complaint
            {
                tracing::warn!("subresources are refused: {why}");
                complaint = why;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn read(map: Option<&ConfigMap>) -> Result<Known, String> {
    let map = map.ok_or_else(|| format!("there is no ConfigMap {NAMESPACE}/{NAME}"))?;
    let of = |key: &str| map.data.as_ref()?.get(key).map(String::as_str);
    let authorities = of(AUTHORITIES).ok_or_else(|| {
        format!("the cluster's API server has no front proxy: {AUTHORITIES} is not in the ConfigMap {NAMESPACE}/{NAME}")
    })?;
    let place = |why| format!("the ConfigMap {NAMESPACE}/{NAME}: {why}");
    let bundle = authorities.as_bytes();
    let authorities = Authorities::default();
    authorities.set(bundle).map_err(place)?;
    Ok(Known { authorities, names: Names::read(of).map_err(place)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_here_is_not_the_clients_fault_and_is_tried_before_readiness() {
        let proxy = FrontProxy::default();
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let shown = Shown::of(&[certificate.der().clone()]);
        let asked = |shown: &Shown| proxy.requester(shown, &HeaderMap::new()).unwrap_err();
        assert!(!proxy.is_tried());
        assert!(matches!(asked(&shown), Unknown::Proxy(why) if why.contains("was not read yet")));
        assert!(matches!(asked(&Shown::default()), Unknown::Client(_)));
        proxy.set(read(None));
        assert!(proxy.is_tried() && !proxy.is_known());
        assert!(matches!(asked(&shown), Unknown::Proxy(why) if why.contains("there is no ConfigMap")));
        let data = [
            (AUTHORITIES, certificate.pem()),
            ("requestheader-username-headers", r#"["X-Remote-User"]"#.to_owned()),
        ];
        let data = data.map(|(key, text)| (key.to_owned(), text)).into();
        proxy.set(read(Some(&ConfigMap { data: Some(data), ..ConfigMap::default() })));
        assert!(proxy.is_known());
        assert!(matches!(asked(&shown), Unknown::Client(_)));
    }
}
