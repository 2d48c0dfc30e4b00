//! Whom a server listens to: certificates of clients, and which authorities they are by.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};

use crate::identity::Identity;
use crate::shown::Shown;

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Whose certificates a server asks for. One that was shown is in each request's extensions, as [`Shown`].
#[derive(Clone, Debug, Default)]
pub enum ClientTrust {
    /// Nobody's.
    #[default]
    None,
    /// A client may have one, whose key it has; whom it names and who says so is looked at for each request. For a server that
    /// most callers need no certificate for, and some have another's.
    Any,
    /// Without one by these authorities the handshake fails. Such a server speaks TLS 1.3 alone.
    Required(Arc<Authorities>),
}

/// Which authorities clients' certificates are by, and whose name they have. The authorities can change while a server runs:
/// each handshake counts with those of its time, and none is abbreviated. While there are none, nobody's certificate is good.
#[derive(Default)]
pub struct Authorities {
    verifier: RwLock<Option<Arc<dyn ClientCertVerifier>>>,
    name: Option<ServerName<'static>>,
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorities").field("there", &self.is_there()).field("name", &self.name).finish()
    }
}

impl Authorities {
    /// Only certificates with this DNS name, as a subject's alternative name, are good.
    ///
    /// # Errors
    /// What is no DNS name, in words.
    pub fn of_name(name: &str) -> Result<Self, String> {
        let name =
            ServerName::try_from(name.to_owned()).map_err(|why| format!("{name} is no DNS name: {why}"))?;
        Ok(Self { name: Some(name), ..Self::default() })
    }

    /// Whether there are any.
    pub fn is_there(&self) -> bool {
        self.verifier.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Takes a bundle of certificates, PEM, from now on.
    ///
    /// # Errors
    /// A bundle that is of no use, in words; what was there stays.
    pub fn set(&self, bundle: &[u8]) -> Result<(), String> {
        let roots = roots(bundle)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
            .build()
            .map_err(|why| format!("the authorities are of no use: {why}"))?;
        *self.verifier.write().unwrap_or_else(PoisonError::into_inner) = Some(verifier);
        Ok(())
    }

    /// Whether one of them has made a certificate that was shown, for a client, and it is valid now.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn check(&self, shown: &Shown) -> Result<(), String> {
        let (own, between) = shown.certificates().split_first().ok_or("no client certificate was shown")?;
        let verified = self.verify(own, between, UnixTime::now());
        verified.map(|_| ()).map_err(|why| format!("the client certificate is not good: {why}"))
    }

    fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, Error> {
        let verifier = self.verifier.read().unwrap_or_else(PoisonError::into_inner).clone();
        verifier.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))
    }

    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.verifier()?.verify_client_cert(certificate, chain, now)?;
        if let Some(name) = &self.name {
            verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
        }
        Ok(verified)
    }
}

/// The certificates of a bundle, PEM, of which each has to be of use.
pub(crate) fn roots(bundle: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle) {
        let certificate = certificate.map_err(|why| format!("the authorities are not PEM: {why}"))?;
        roots.add(certificate).map_err(|why| format!("an authority is of no use: {why}"))?;
    }
    if roots.is_empty() { Err("there are no authorities".to_owned()) } else { Ok(roots) }
}

/// What rustls asks.
#[derive(Debug)]
pub(crate) struct Verifier {
    authorities: Arc<Authorities>,
    schemes: Vec<SignatureScheme>,
}

impl Verifier {
    pub(crate) fn new(authorities: Arc<Authorities>) -> Self {
        let provider = rustls::crypto::ring::default_provider();
        let schemes = provider.signature_verification_algorithms.supported_schemes();
        Self { authorities, schemes }
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    /// None are named: they change, and clients have one certificate for us.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.authorities.verify(certificate, chain, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.verifier()?.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.verifier()?.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

/// Takes all of it or nothing: a server must not believe new authorities with a certificate that others made.
fn take(
    identity: &Identity,
    authorities: &Authorities,
    certificate: &[u8],
    key: &[u8],
    bundle: &[u8],
) -> Result<(), String> {
    // A trial: what fits here fits below.
    Identity::default().set(certificate, key)?;
    authorities.set(bundle)?;
    identity.set(certificate, key)
}

/// Files of a server that asks for its clients' certificates, PEM, as a Secret is mounted.
#[derive(Clone, Debug)]
pub struct Files {
    /// The chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// Authorities of the clients' certificates.
    pub authorities: PathBuf,
}

impl Files {
    /// Reads the files when they are there and whenever they change. What does not fit, or is gone, replaces nothing. Never
    /// ends.
    pub async fn follow(self, identity: Arc<Identity>, authorities: Arc<Authorities>) {
        let mut seen = None;
        loop {
            // Small files, read whole: times of modification miss what a mounted Secret's symbolic link does.
            let read =
                || [&self.certificate, &self.key, &self.authorities].map(|path| std::fs::read(path).ok());
            let now = read();
            // The link may be set between two files: what is read twice belongs together. The rest is for the next look.
            if seen.as_ref() != Some(&now) && read() == now {
                if let [Some(certificate), Some(key), Some(bundle)] = &now {
                    match take(&identity, &authorities, certificate, key, bundle) {
                        Ok(()) => tracing::info!("certificate and authorities were read"),
                        Err(why) => tracing::warn!("what was read of the certificate is not used: {why}"),
                    }
                }
                seen = Some(now);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        (certificate.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn a_secret_that_is_damaged_changes_nothing() {
        let (identity, authorities) = (Identity::default(), Authorities::default());
        let ((certificate, key), (other, _)) = (pair(), pair());
        let take = |key: &str, bundle: &str| {
            take(&identity, &authorities, certificate.as_bytes(), key.as_bytes(), bundle.as_bytes())
        };
        assert!(take("", &certificate).is_err());
        assert!(!authorities.is_there() && !identity.is_there());
        assert!(take(&key, "").is_err());
        assert!(!authorities.is_there() && !identity.is_there());
        take(&key, &certificate).unwrap();
        assert!(authorities.is_there() && identity.is_there());
        let before = authorities.verifier().unwrap();
        assert!(take(&pair().1, &other).is_err(), "a good bundle with another's key");
        assert!(Arc::ptr_eq(&before, &authorities.verifier().unwrap()));
        take(&key, &other).unwrap();
        assert!(!Arc::ptr_eq(&before, &authorities.verifier().unwrap()));
    }
}
