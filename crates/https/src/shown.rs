//! Certificates that clients have shown, and nobody has looked at yet.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// What a client has shown: its certificate, and those between it and an authority.
#[derive(Clone, Debug, Default)]
pub struct Shown(Arc<[CertificateDer<'static>]>);

impl Shown {
    /// Certificates, the client's own first. That the client has its key is for the caller to know.
    #[must_use]
    pub fn of(certificates: &[CertificateDer<'static>]) -> Self {
        Self(certificates.into())
    }

    pub(crate) fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.0
    }

    /// Whether there is a certificate.
    #[must_use]
    pub fn is_there(&self) -> bool {
        !self.0.is_empty()
    }

    /// The common name of the client's certificate; none where it has no name or several.
    #[must_use]
    pub fn common_name(&self) -> Option<String> {
        let (_, certificate) = X509Certificate::from_der(self.0.first()?).ok()?;
        let mut names = certificate.subject().iter_common_name();
        let name = names.next()?.as_str().ok()?.to_owned();
        names.next().is_none().then_some(name)
    }
}

/// Takes every certificate whose key the client has. Whom it names, and who says so, is decided for each request: the
/// authorities change while connections are open, and most callers need no certificate.
#[derive(Debug)]
pub(crate) struct AnyCertificate(WebPkiSupportedAlgorithms);

impl AnyCertificate {
    pub(crate) fn new() -> Self {
        Self(rustls::crypto::ring::default_provider().signature_verification_algorithms)
    }
}

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

    use super::*;
    use crate::clients::Authorities;

    struct Authority(Issuer<'static, KeyPair>, String);

    fn authority() -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "front-proxy-ca");
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority(Issuer::new(params, key), pem)
    }

    fn shown(by: &Authority, names: &[&str], usage: ExtendedKeyUsagePurpose) -> Shown {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for name in names {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        Shown::of(&[params.signed_by(&key, &by.0).unwrap().der().clone()])
    }

    #[test]
    fn a_certificate_counts_when_an_authority_has_made_it_for_a_client() {
        let (known, other) = (authority(), authority());
        let authorities = Authorities::default();
        assert!(authorities.check(&shown(&known, &["proxy"], ExtendedKeyUsagePurpose::ClientAuth)).is_err());
        authorities.set(known.1.as_bytes()).unwrap();
        let client = |by| shown(by, &["proxy"], ExtendedKeyUsagePurpose::ClientAuth);
        assert_eq!(authorities.check(&client(&known)), Ok(()));
        assert!(authorities.check(&client(&other)).is_err());
        assert!(authorities.check(&shown(&known, &["proxy"], ExtendedKeyUsagePurpose::ServerAuth)).is_err());
        assert!(authorities.check(&Shown::default()).is_err());
        assert!(authorities.check(&Shown::of(&[CertificateDer::from(vec![0x30, 0x82, 0xff])])).is_err());
        assert_eq!(client(&known).common_name().as_deref(), Some("proxy"));
        assert_eq!(shown(&known, &[], ExtendedKeyUsagePurpose::ClientAuth).common_name(), None);
    }
}
