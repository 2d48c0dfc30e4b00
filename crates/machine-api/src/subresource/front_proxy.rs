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
#[derive(Debug)]
pub(crate) struct FrontProxy(RwLock<Result<Arc<Known>, String>>);

#[derive(Debug)]
struct Known {
    authorities: Authorities,
    names: Names,
}

impl Default for FrontProxy {
    fn default() -> Self {
        Self(RwLock::new(Err("the configuration of its front proxy was not read yet".to_owned())))
    }
}

impl FrontProxy {
    /// Who asks, as the front proxy says, if it was the front proxy that has sent this.
    ///
    /// # Errors
    /// What is missing, in words. Headers of anybody else are not looked at.
    pub(crate) fn requester(&self, shown: &Shown, headers: &HeaderMap) -> Result<Requester, String> {
        if !shown.is_there() {
            return Err(
                "this is served through the cluster's API server alone, which shows a client certificate"
                    .to_owned(),
            );
        }
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        known.authorities.check(shown)?;
        if !shown.common_name().is_some_and(|name| known.names.allows(&name)) {
            return Err("the name in the client certificate is not that of the front proxy".to_owned());
        }
        known.names.requester(headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))
    }

    fn set(&self, known: Result<Known, String>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = known.map(Arc::new);
    }

    fn is_known(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_ok()
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
