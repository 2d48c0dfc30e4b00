//! Certificates of two parts of ours that speak with each other: one serves, the other calls, and each knows the other.
//!
//! ```text
//!   Secret AUTHORITY   ca.crt, ca.key             read by the signer alone
//!     ├──► Secret SERVER   tls.crt, tls.key, ca.crt    mounted by who serves: what it shows, and whose clients it believes
//!     └──► Secret CLIENT   tls.crt, tls.key, ca.crt    read by who calls
//! ```
//!
//! Replicas need no lease: who writes a Secret first, by its resource version, has made what is in it.
//!
//! An authority stays for ten years, and the one before it is believed beside it: what a server has mounted is minutes old. For
//! the same reason nothing is signed by an authority that is younger than an hour, unless there is nothing else to show. An
//! authority that was lost is replaced, and what it has signed is believed until it is replaced in its time.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::{Api, Client};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;

use crate::clients::{Authorities, roots};
use crate::shown::Shown;
use crate::stored;

/// How often the Secrets are looked at.
const LOOK: Duration = Duration::from_secs(10);
/// An authority, and what it signs: life, and how long before its end it is replaced. What is signed ends before its authority.
const AUTHORITY: Life = Life { life: time::Duration::days(3650), ahead: time::Duration::days(730) };
const LEAF: Life = Life { life: time::Duration::days(365), ahead: time::Duration::days(120) };
/// It is good from so long before it was made: clocks differ, and are set back.
const BACKDATE: time::Duration = time::Duration::days(366);
/// Until what is mounted has followed.
const SETTLED: time::Duration = time::Duration::hours(1);
/// Authorities that are believed: the last one, the one before, and one that was lost.
const BELIEVED: usize = 3;

const BUNDLE: &str = "ca.crt";
const AUTHORITY_KEY: &str = "ca.key";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
/// Seconds since 1970 from which it is to be replaced.
const RENEW: &str = "renew-at";

struct Life {
    life: time::Duration,
    ahead: time::Duration,
}

impl Life {
    fn renew(&self, now: OffsetDateTime) -> i64 {
        (now + self.life - self.ahead).unix_timestamp()
    }

    /// When something was made that is replaced then.
    fn made(&self, renew: i64) -> i64 {
        renew.saturating_sub((self.life - self.ahead).whole_seconds())
    }

    /// Whether what is replaced then may be used now: one of a clock that was far ahead is not good yet.
    fn holds(&self, renew: i64, now: OffsetDateTime) -> bool {
        let start = self.made(renew).saturating_sub(BACKDATE.whole_seconds());
        (start..renew).contains(&now.unix_timestamp())
    }
}

/// The Secrets, and the names in the certificates.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Namespace of the Secrets, which may be empty.
    pub namespace: String,
    /// Secret of the authority.
    pub authority: String,
    /// Secret of who serves, and the DNS name in its certificate.
    pub server: (String, String),
    /// Secret of who calls, and the common and DNS name in its certificate.
    pub client: (String, String),
}

/// How the other part is called: with the newest certificate, and believing the newest authorities.
#[derive(Debug, Default)]
pub struct Caller(RwLock<Option<Arc<rustls::ClientConfig>>>);

impl Caller {
    /// The configuration of a connection; nothing before there is a certificate.
    #[must_use]
    pub fn config(&self) -> Option<Arc<rustls::ClientConfig>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, secret: &Secret) -> Result<(), String> {
        let (chain, key) = (chain(part(secret, CERTIFICATE))?, key(part(secret, KEY))?);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(|why| format!("TLS cannot be used: {why}"))?;
        let config = config.with_root_certificates(roots(part(secret, BUNDLE))?);
        let config =
            config.with_client_auth_cert(chain, key).map_err(|why| format!("it cannot be used: {why}"))?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(config));
        Ok(())
    }
}

/// Which side of a connection a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Server,
    Client,
}

/// What signs.
struct Signer {
    bundle: String,
    issuer: Issuer<'static, KeyPair>,
    settled: bool,
}

impl Pair {
    /// Keeps the Secrets, and what is called with. Never ends.
    pub async fn keep(self, client: Client, caller: Arc<Caller>) {
        let secrets: Api<Secret> = Api::namespaced(client, &self.namespace);
        let (mut complaint, mut used) = (String::new(), None);
        loop {
            let done = self.round(&secrets, &caller, &mut used).await;
            tokio::time::sleep(stored::next(done, LOOK, &mut complaint)).await;
        }
    }

    async fn round(
        &self,
        secrets: &Api<Secret>,
        caller: &Caller,
        used: &mut Option<BTreeMap<String, ByteString>>,
    ) -> Result<(), String> {
        let now = OffsetDateTime::now_utc();
        let authority = stored::secret(secrets, &self.authority).await?;
        let signer = match signer(&authority, now) {
            Some(signer) => signer,
            None => {
                tracing::info!("making an authority for {} and {}", self.server.1, self.client.1);
                let fresh = renewed(authority, &self.authority, now)?;
                let written = write(secrets, &self.authority, &fresh).await?;
                signer(&written, now).ok_or("the authority that was made cannot be read")?
            }
        };
        // Neither side waits for the other.
        let (name, dns) = &self.server;
        let served = self.leaf(secrets, (name, dns, Side::Server), &signer, now).await.map(drop);
        let (name, dns) = &self.client;
        let own = self.leaf(secrets, (name, dns, Side::Client), &signer, now).await;
        let called = own.and_then(|own| {
            if *used != own.data {
                caller.set(&own).map_err(|why| format!("the Secret {name}: {why}"))?;
                *used = own.data;
            }
            Ok(())
        });
        match (served, called) {
            (Err(first), Err(second)) => Err(format!("{first}; {second}")),
            (served, called) => served.and(called),
        }
    }

    /// The Secret of one side, with a certificate that can be used and the authorities of the other.
    async fn leaf(
        &self,
        secrets: &Api<Secret>,
        (name, dns, side): (&str, &str, Side),
        signer: &Signer,
        now: OffsetDateTime,
    ) -> Result<Secret, String> {
        let mut secret = stored::secret(secrets, name).await?;
        let bundle = merged(&signer.bundle, part(&secret, BUNDLE));
        let usable = check(&secret, &bundle, dns, side);
        let due = !renew(&secret).is_some_and(|renew| LEAF.holds(renew, now));
        let sign = usable.is_err() || (due && signer.settled);
        if !sign && part(&secret, BUNDLE) == bundle.as_bytes() {
            return Ok(secret);
        }
        let data = secret.data.get_or_insert_default();
        let mut put = |key: &str, text: String| data.insert(key.to_owned(), ByteString(text.into_bytes()));
        if sign {
            tracing::info!("making a certificate for {dns}");
            let (certificate, key) = signed(signer, dns, side, now).map_err(|why| why.to_string())?;
            put(CERTIFICATE, certificate);
            put(KEY, key);
            put(RENEW, LEAF.renew(now).to_string());
        }
        put(BUNDLE, bundle);
        write(secrets, name, &secret).await
    }
}

/// A conflict means that another replica was faster: what it has made is taken in the next round.
async fn write(secrets: &Api<Secret>, name: &str, secret: &Secret) -> Result<Secret, String> {
    let written = secrets.replace(name, &PostParams::default(), secret).await;
    written.map_err(|why| format!("the Secret {name} cannot be written: {why}"))
}

fn part<'a>(secret: &'a Secret, key: &str) -> &'a [u8] {
    secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice()).unwrap_or_default()
}

fn renew(secret: &Secret) -> Option<i64> {
    std::str::from_utf8(part(secret, RENEW)).ok()?.parse().ok()
}

fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|why| format!("the certificate is not PEM: {why}"))?;
    if chain.is_empty() { Err("there is no certificate".to_owned()) } else { Ok(chain) }
}

fn key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|why| format!("the key is not a PEM key: {why}"))
}

/// What an authority's Secret has, if it can be used now.
fn signer(secret: &Secret, now: OffsetDateTime) -> Option<Signer> {
    let renew = renew(secret).filter(|renew| AUTHORITY.holds(*renew, now))?;
    let bundle = std::str::from_utf8(part(secret, BUNDLE)).ok()?;
    let own = certificates(bundle).next()?;
    // Who has the key of another certificate would sign what nobody believes.
    let key = std::str::from_utf8(part(secret, AUTHORITY_KEY)).ok()?;
    CertifiedKey::from_der(
        chain(own.as_bytes()).ok()?,
        self::key(key.as_bytes()).ok()?,
        &rustls::crypto::ring::default_provider(),
    )
    .ok()?;
    // What it signs says its name, as [`renewed`] has written it.
    let common = Shown::of(&chain(own.as_bytes()).ok()?).common_name()?;
    let issuer = Issuer::new(params(&common), KeyPair::from_pem(key).ok()?);
    let settled = now.unix_timestamp().saturating_sub(AUTHORITY.made(renew)) >= SETTLED.whole_seconds();
    Some(Signer { bundle: bundle.to_owned(), issuer, settled })
}

/// An authority of this common name.
fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// The Secret with another authority before the one that it has.
fn renewed(mut secret: Secret, name: &str, now: OffsetDateTime) -> Result<Secret, String> {
    // The name tells authorities of one Secret from each other.
    let mut params = params(&format!("{name} {}", now.unix_timestamp_nanos()));
    params.not_before = now - BACKDATE;
    params.not_after = now + AUTHORITY.life;
    let failed = |why: rcgen::Error| format!("cannot make an authority: {why}");
    let key = KeyPair::generate().map_err(failed)?;
    let own = params.self_signed(&key).map_err(failed)?.pem();
    let data = secret.data.get_or_insert_default();
    let before = data.get(BUNDLE).map(|bytes| bytes.0.clone()).unwrap_or_default();
    let bundle = merged(&own, &before);
    let bundle: String = certificates(&bundle).take(2).collect();
    let fresh =
        [(BUNDLE, bundle), (AUTHORITY_KEY, key.serialize_pem()), (RENEW, AUTHORITY.renew(now).to_string())];
    data.extend(fresh.map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes()))));
    Ok(secret)
}

fn signed(
    signer: &Signer,
    dns: &str,
    side: Side,
    now: OffsetDateTime,
) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::new(vec![dns.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, dns);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Neither side can be the other.
    params.extended_key_usages = vec![match side {
        Side::Server => ExtendedKeyUsagePurpose::ServerAuth,
        Side::Client => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    params.not_before = now - BACKDATE;
    params.not_after = now + LEAF.life;
    let key = KeyPair::generate()?;
    Ok((params.signed_by(&key, &signer.issuer)?.pem(), key.serialize_pem()))
}

/// Whether the certificate of one side has its key, and is what the other side believes.
fn check(secret: &Secret, bundle: &str, dns: &str, side: Side) -> Result<(), String> {
    let (chain, key) = (chain(part(secret, CERTIFICATE))?, key(part(secret, KEY))?);
    CertifiedKey::from_der(chain.clone(), key, &rustls::crypto::ring::default_provider())
        .map_err(|why| format!("certificate and key do not fit: {why}"))?;
    match side {
        Side::Client => {
            // As whom it calls knows it.
            let authorities = Authorities::of_name(dns)?;
            authorities.set(bundle.as_bytes())?;
            authorities.check(&Shown::of(&chain))
        }
        Side::Server => {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let roots = Arc::new(roots(bundle.as_bytes())?);
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
            let verifier = verifier.map_err(|why| why.to_string())?;
            let name = ServerName::try_from(dns.to_owned()).map_err(|why| why.to_string())?;
            let (own, between) = chain.split_first().ok_or("there is no certificate")?;
            let verified = verifier.verify_server_cert(own, between, &name, &[], UnixTime::now());
            verified.map(|_| ()).map_err(|why| why.to_string())
        }
    }
}

/// The certificates of one bundle, then those of another that are not among them, at the most [`BELIEVED`]. What is no
/// certificate is left out.
fn merged(first: &str, then: &[u8]) -> String {
    let then = String::from_utf8_lossy(then);
    let mut out: Vec<&str> = Vec::new();
    for certificate in certificates(first).chain(certificates(&then)) {
        if !out.contains(&certificate) && roots(certificate.as_bytes()).is_ok() {
            out.push(certificate);
        }
    }
    out.truncate(BELIEVED);
    out.concat()
}

/// The certificates of a bundle, as they stand there.
fn certificates(bundle: &str) -> impl Iterator<Item = &str> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    bundle.split_inclusive("-----END CERTIFICATE-----\n").filter_map(|part| part.get(part.find(BEGIN)?..))
}

#[cfg(test)]
mod tests;
