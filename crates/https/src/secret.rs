//! A certificate of our own, kept in a Secret.
//!
//! Each new certificate has an authority of its own whose key is thrown away at once: nobody can ever issue another one.
//! The bundle that the API server trusts holds the new authority and the one before it, and is written before the
//! new certificate is used, so that replicas change over one after the other and no call fails.
//!
//! Replicas need no lease: the one that writes the Secret first, by its resource version, has made the certificate; the others
//! take it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ferrovirt_kubernetes::json;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::identity::Identity;
use crate::stored;

/// How often Secret and configurations are looked at.
const LOOK: Duration = Duration::from_secs(10);
/// Life of a certificate.
const LIFE: time::Duration = time::Duration::days(365);
/// It is replaced this long before its end: two clocks and a long holiday apart.
const AHEAD: time::Duration = time::Duration::days(120);
/// It is good from so long before it was made: clocks differ by hours, and are set back. A certificate that the API
/// server refuses keeps from being made what is asked about.
const BACKDATE: time::Duration = time::Duration::days(366);

const BUNDLE: &str = "ca.crt";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
/// Seconds since 1970 from which the certificate is to be replaced.
const RENEW: &str = "renew-at";

/// Keeps the Secret, and what the API server trusts.
pub(crate) struct Keeper {
    client: Client,
    secrets: Api<Secret>,
    secret: String,
    names: Vec<String>,
    configuration: String,
    services: Vec<String>,
}

impl Keeper {
    pub(crate) fn new(
        client: Client,
        namespace: &str,
        secret: String,
        names: Vec<String>,
        configuration: String,
        services: Vec<String>,
    ) -> Self {
        let secrets = Api::namespaced(client.clone(), namespace);
        Self { secrets, client, secret, names, configuration, services }
    }

    /// Never ends.
    pub(crate) async fn run(self, identity: Arc<Identity>) {
        let mut complaint = String::new();
        let mut used = Vec::new();
        loop {
            let done = self.round(&identity, &mut used).await;
            tokio::time::sleep(stored::next(done, LOOK, &mut complaint)).await;
        }
    }

    async fn round(&self, identity: &Identity, used: &mut Vec<u8>) -> Result<(), String> {
        let name = &self.secret;
        let found = stored::secret(&self.secrets, name).await?;
        let now = OffsetDateTime::now_utc();
        let secret = if is_current(&found, now) {
            found
        } else {
            tracing::info!("making a certificate for {}", self.names.join(", "));
            let fresh =
                self.renewed(found, now).map_err(|why| format!("cannot make a certificate: {why}"))?;
            // A conflict means that another replica was faster: its certificate is taken in the next round.
            self.secrets
                .replace(name, &PostParams::default(), &fresh)
                .await
                .map_err(|why| format!("the Secret {name} cannot be written: {why}"))?
        };
        let part =
            |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
        let (bundle, certificate) = (part(BUNDLE).unwrap_or_default(), part(CERTIFICATE).unwrap_or_default());
        // First what is trusted, then what is shown.
        self.trust::<MutatingWebhookConfiguration>(&self.configuration, bundle).await?;
        self.trust::<ValidatingWebhookConfiguration>(&self.configuration, bundle).await?;
        for service in &self.services {
            self.trust::<APIService>(service, bundle).await?;
        }
        if used != certificate {
            identity.set(certificate, part(KEY).unwrap_or_default())?;
            *used = certificate.to_vec();
        }
        Ok(())
    }

    fn renewed(&self, mut secret: Secret, now: OffsetDateTime) -> Result<Secret, rcgen::Error> {
        let mut authority = CertificateParams::new(Vec::new())?;
        // A name of its own: two authorities in one bundle must not be taken for each other.
        authority
            .distinguished_name
            .push(DnType::CommonName, format!("{} {}", self.configuration, now.unix_timestamp_nanos()));
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        authority.not_before = now - BACKDATE;
        authority.not_after = now + LIFE;
        let mut leaf = CertificateParams::new(self.names.clone())?;
        leaf.not_before = authority.not_before;
        leaf.not_after = authority.not_after;
        let authority_key = KeyPair::generate()?;
        let authority_certificate = authority.self_signed(&authority_key)?.pem();
        let issuer = Issuer::new(authority, authority_key);
        let key = KeyPair::generate()?;
        let certificate = leaf.signed_by(&key, &issuer)?.pem();

        let data = secret.data.get_or_insert_default();
        let before = data.get(BUNDLE).map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned());
        let bundle = authority_certificate + newest(before.as_deref().unwrap_or_default());
        let renew = (now + LIFE - AHEAD).unix_timestamp().to_string();
        let fresh =
            [(BUNDLE, bundle), (CERTIFICATE, certificate), (KEY, key.serialize_pem()), (RENEW, renew)];
        data.extend(fresh.map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes()))));
        Ok(secret)
    }

    /// Writes the bundle into an object of ours, wherever that names its authority.
    async fn trust<K>(&self, name: &str, bundle: &[u8]) -> Result<(), String>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::Serialize
            + serde::de::DeserializeOwned,
    {
        let api: Api<K> = Api::all(self.client.clone());
        let kind = K::kind(&());
        let failed = |why: &dyn std::fmt::Display| format!("the {kind} {name} {why}");
        let found = api.get_opt(name).await.map_err(|why| failed(&format!("cannot be read: {why}")))?;
        // Without it nobody calls; it may come later.
        let Some(found) = found else { return Ok(()) };
        let found = serde_json::to_value(found).map_err(|why| failed(&why))?;
        let patch = patch(&found, &STANDARD.encode(bundle));
        if patch.is_empty() {
            return Ok(());
        }
        let patch = serde_json::from_value(Value::Array(patch)).map_err(|why| failed(&why))?;
        api.patch(name, &PatchParams::default(), &Patch::Json::<()>(patch))
            .await
            .map(|_| ())
            .map_err(|why| failed(&format!("cannot be written: {why}")))
    }
}

/// Sets the bundle where it is another one: of the Service of an `APIService`, or of webhooks, of which each is still the
/// one that was looked at.
fn patch(configuration: &Value, bundle: &str) -> Vec<Value> {
    let mut out = Vec::new();
    if configuration.pointer("/spec/service").is_some()
        && json::string(configuration, "/spec/caBundle") != Some(bundle)
    {
        out.push(json!({"op": "add", "path": "/spec/caBundle", "value": bundle}));
    }
    for (index, webhook) in json::list(configuration, "webhooks").enumerate() {
        if json::string(webhook, "/clientConfig/caBundle") != Some(bundle) {
            let name = webhook.get("name").cloned().unwrap_or_default();
            out.push(json!({"op": "test", "path": format!("/webhooks/{index}/name"), "value": name}));
            let path = format!("/webhooks/{index}/clientConfig/caBundle");
            out.push(json!({"op": "add", "path": path, "value": bundle}));
        }
    }
    out
}

fn is_current(secret: &Secret, now: OffsetDateTime) -> bool {
    let empty = BTreeMap::new();
    let data = secret.data.as_ref().unwrap_or(&empty);
    let renew = data.get(RENEW).and_then(|bytes| std::str::from_utf8(&bytes.0).ok()?.parse::<i64>().ok());
    [BUNDLE, CERTIFICATE, KEY].iter().all(|key| data.contains_key(*key))
        && renew.is_some_and(|renew| {
            // One of a clock that was far ahead is not good yet.
            let start = renew.saturating_sub((LIFE - AHEAD + BACKDATE).whole_seconds());
            (start..renew).contains(&now.unix_timestamp())
        })
}

/// The first certificate of a bundle.
fn newest(bundle: &str) -> &str {
    const END: &str = "-----END CERTIFICATE-----\n";
    bundle.find(END).and_then(|at| bundle.get(..at + END.len())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeper() -> Keeper {
        let config = kube::Config::new("https://127.0.0.1:1".parse().unwrap());
        let client = Client::try_from(config).unwrap();
        Keeper::new(
            client,
            "n",
            "s".into(),
            vec!["localhost".into(), "127.0.0.1".into()],
            "c".into(),
            Vec::new(),
        )
    }

    fn text(secret: &Secret, key: &str) -> String {
        String::from_utf8(secret.data.as_ref().unwrap()[key].0.clone()).unwrap()
    }

    #[tokio::test]
    async fn the_authority_before_the_last_one_is_forgotten() {
        let keeper = keeper();
        let now = OffsetDateTime::now_utc();
        assert!(!is_current(&Secret::default(), now));
        let first = keeper.renewed(Secret::default(), now).unwrap();
        assert!(is_current(&first, now));
        assert!(!is_current(&first, now + LIFE - AHEAD));
        assert!(is_current(&first, now - time::Duration::hours(12)), "the clock was set back");
        let ahead = keeper.renewed(Secret::default(), now + time::Duration::days(500)).unwrap();
        assert!(!is_current(&ahead, now), "it is not good yet");
        let identity = Identity::default();
        identity.set(text(&first, CERTIFICATE).as_bytes(), text(&first, KEY).as_bytes()).unwrap();
        assert!(identity.is_there());
        let second = keeper.renewed(first.clone(), now).unwrap();
        assert!(text(&second, BUNDLE).ends_with(&text(&first, BUNDLE)));
        assert!(identity.set(text(&second, CERTIFICATE).as_bytes(), text(&first, KEY).as_bytes()).is_err());
        let third = keeper.renewed(second.clone(), now).unwrap();
        assert_eq!(text(&third, BUNDLE).matches("BEGIN").count(), 2);
        assert!(!text(&third, BUNDLE).contains(&text(&first, BUNDLE)));
    }

    #[test]
    fn only_other_bundles_are_replaced() {
        let webhook = |name: &str, bundle: &str| json!({"name": name, "clientConfig": {"caBundle": bundle}});
        let object = json!({"webhooks": [webhook("a", "new"), webhook("b", "old"), {"name": "c", "clientConfig": {}}]});
        let paths: Vec<Value> =
            patch(&object, "new").into_iter().map(|operation| operation["path"].clone()).collect();
        assert_eq!(
            paths,
            [
                "/webhooks/1/name",
                "/webhooks/1/clientConfig/caBundle",
                "/webhooks/2/name",
                "/webhooks/2/clientConfig/caBundle"
            ]
        );
        assert_eq!(patch(&json!({"webhooks": [webhook("a", "new")]}), "new"), [] as [Value; 0]);
        let service = |bundle: Value| json!({"spec": {"service": {"name": "s"}, "caBundle": bundle}});
        for old in ["old".into(), Value::Null] {
            assert_eq!(patch(&service(old), "new")[0]["path"], "/spec/caBundle");
        }
        assert_eq!(patch(&service("new".into()), "new"), [] as [Value; 0]);
    }
}
