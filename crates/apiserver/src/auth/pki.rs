//! The cluster's own certificate authority and the certificates that it signs.
//!
//! Files in the directory (0700, keys 0600, each written to a temporary name and renamed): `ca.crt`, `ca.key`,
//! `server.crt`, `server.key`, `admin.crt`, `admin.key`, `sa.key` (signs service-account tokens). What exists is
//! reused; certificates are issued again when they are near their end, not good yet, or no longer cover the names.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ferrovirt_kubernetes::subject::MASTERS;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

/// How long the authority's certificate lives.
const CA_DAYS: i64 = 30 * 365;
/// With less time left than this it gets a new certificate, for the same key: what it signed before stays good, and who
/// holds the old one has years to take the new one.
const CA_RENEW_DAYS: i64 = 5 * 365;
/// Every certificate is good from so long before it was made. Clocks are wrong by hours where a machine starts for the
/// first time, and are set back later; nobody gains anything from a certificate that was good before it was there.
const BACKDATE_DAYS: i64 = 366;
/// How long a leaf certificate lives; one year as kubeadm has it.
const LEAF_DAYS: i64 = 365;
/// A leaf with less time left than this is issued again.
const RENEW_DAYS: i64 = 60;

/// Why the keys and certificates could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file of the directory could not be read or written.
    #[error("cannot {action} `{path}`: check that the data directory is writable by root")]
    File {
        /// "read", "write" or "create".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// A key or certificate file has content that is not one.
    #[error(
        "`{path}` is damaged ({reason}): restore it from a backup, or remove the whole directory to make a new authority"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A key or certificate could not be made.
    #[error("cannot make a certificate for `{subject}`")]
    Issue {
        /// The common name.
        subject: String,
        /// The generator's reason.
        #[source]
        source: rcgen::Error,
    },
}

/// A certificate with its key, both PEM.
#[derive(Clone)]
pub struct Leaf {
    /// The certificate, PEM.
    pub cert_pem: String,
    /// The private key, PKCS#8 PEM.
    pub key_pem: String,
}

impl std::fmt::Debug for Leaf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leaf").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

/// Everything that the server needs to prove itself and to check others.
#[derive(Debug, Clone)]
pub struct Pki {
    /// The authority's certificate, PEM: what clients trust, and what `kube-root-ca.crt` carries.
    pub ca_pem: String,
    /// The authority's certificate, DER.
    pub ca_der: Vec<u8>,
    /// The server's certificate and key.
    pub server: Leaf,
    /// The administrator's client certificate: user `kubernetes-admin`, group `system:masters`.
    pub admin: Leaf,
    /// PKCS#8 DER of the P-256 key that signs service-account tokens.
    pub token_key: Vec<u8>,
}

impl Pki {
    /// Reads the directory, making what is missing or near its end. `addresses` are further addresses that the server
    /// certificate must be good for.
    ///
    /// # Errors
    /// When a file cannot be read, written or understood. A damaged authority is never replaced silently.
    pub fn open(dir: &Path, addresses: &[IpAddr], now: OffsetDateTime) -> Result<Self, PkiError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .and_then(|()| fs::set_permissions(dir, fs::Permissions::from_mode(0o700)))
            .map_err(|source| PkiError::File { action: "create", path: dir.into(), source })?;

        let (ca_path, key_path) = (dir.join("ca.crt"), dir.join("ca.key"));
        let stored = read(&ca_path)?;
        if stored.is_some() && read(&key_path)?.is_none() {
            let reason = "it is missing, but ca.crt is there".to_owned();
            return Err(PkiError::Damaged { path: key_path, reason });
        }
        let ca_key = key(&key_path)?;
        let params = ca_params(now);
        if let Some(pem) = &stored {
            der(&ca_path, pem)?;
        }
        let ca_pem = match stored {
            Some(pem) if !is_due(&pem, Duration::days(CA_RENEW_DAYS), now) => pem,
            stored => {
                if stored.is_some() {
                    tracing::warn!(
                        "the authority's certificate is made again, for the same key: it was near its end, or made \
                         while the clock was ahead. Copies of kubeconfigs that clients refuse must be copied again"
                    );
                }
                let cert = params.self_signed(&ca_key).map_err(|source| issue("ferrovirt-ca", source))?;
                write(&ca_path, cert.pem().as_bytes())?;
                cert.pem()
            }
        };
        let ca_der = der(&ca_path, &ca_pem)?;
        // An issuer is its name, key and key usages; those never change, so the stored certificate is not parsed back.
        let issuer = Issuer::from_params(&params, &ca_key);

        let mut server = leaf_params("kube-apiserver", None, ExtendedKeyUsagePurpose::ServerAuth, now);
        server.subject_alt_names = server_names(addresses);
        let server = leaf(dir, "server", server, &issuer, &ca_der, now)?;
        let admin = leaf_params("kubernetes-admin", Some(MASTERS), ExtendedKeyUsagePurpose::ClientAuth, now);
        let admin = leaf(dir, "admin", admin, &issuer, &ca_der, now)?;
        let token_key = key(&dir.join("sa.key"))?.serialize_der();
        Ok(Self { ca_pem, ca_der, server, admin, token_key })
    }

    /// True when a certificate is near its end or not good yet, so that the directory is to be opened again.
    #[must_use]
    pub fn is_due(&self, now: OffsetDateTime) -> bool {
        is_due(&self.ca_pem, Duration::days(CA_RENEW_DAYS), now)
            || [&self.server, &self.admin]
                .iter()
                .any(|leaf| is_due(&leaf.cert_pem, Duration::days(RENEW_DAYS), now))
    }
}

fn issue(subject: &str, source: rcgen::Error) -> PkiError {
    PkiError::Issue { subject: subject.into(), source }
}

fn ca_params(now: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "ferrovirt-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    // Another number than that of an earlier certificate of the same name and key.
    params.serial_number = Some(now.unix_timestamp_nanos().unsigned_abs().to_be_bytes().to_vec().into());
    params.not_before = now - Duration::days(BACKDATE_DAYS);
    params.not_after = now + Duration::days(CA_DAYS);
    params
}

fn leaf_params(
    name: &str,
    group: Option<&str>,
    usage: ExtendedKeyUsagePurpose,
    now: OffsetDateTime,
) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    params.not_before = now - Duration::days(BACKDATE_DAYS);
    params.not_after = now + Duration::days(LEAF_DAYS);
    params
}

fn server_names(addresses: &[IpAddr]) -> Vec<SanType> {
    let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
    let mut out: Vec<SanType> =
        names.iter().filter_map(|n| (*n).try_into().ok().map(SanType::DnsName)).collect();
    let mut ips = vec![IpAddr::from([127, 0, 0, 1])];
    for address in addresses {
        if !address.is_unspecified() && !ips.contains(address) {
            ips.push(*address);
        }
    }
    out.extend(ips.into_iter().map(SanType::IpAddress));
    out
}

/// Reads the leaf `name`, or issues it when it is missing, near its end, signed by another authority, or without a
/// name that it must have.
fn leaf(
    dir: &Path,
    name: &str,
    params: CertificateParams,
    issuer: &Issuer<'_, &KeyPair>,
    ca_der: &[u8],
    now: OffsetDateTime,
) -> Result<Leaf, PkiError> {
    let (cert_path, key_path) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
    if let (Some(cert_pem), Some(key_pem)) = (read(&cert_path)?, read(&key_path)?) {
        if still_good(&cert_pem, &key_pem, &params, ca_der, now) {
            return Ok(Leaf { cert_pem, key_pem });
        }
        tracing::info!(certificate = name, "issuing the certificate again");
    }
    let fresh = KeyPair::generate().map_err(|source| issue(name, source))?;
    let cert = params.signed_by(&fresh, issuer).map_err(|source| issue(name, source))?;
    // The key first: a crash in between leaves a pair that does not match, which `still_good` notices.
    write(&key_path, fresh.serialize_pem().as_bytes())?;
    write(&cert_path, cert.pem().as_bytes())?;
    Ok(Leaf { cert_pem: cert.pem(), key_pem: fresh.serialize_pem() })
}

fn still_good(
    cert_pem: &str,
    key_pem: &str,
    wanted: &CertificateParams,
    ca_der: &[u8],
    now: OffsetDateTime,
) -> bool {
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(cert_pem.as_bytes()) else { return false };
    let Ok(cert) = pem.parse_x509() else { return false };
    let Ok((_, ca)) = x509_parser::parse_x509_certificate(ca_der) else { return false };
    let Ok(key) = KeyPair::from_pem(key_pem) else { return false };
    if is_due(cert_pem, Duration::days(RENEW_DAYS), now) {
        return false;
    }
    if cert.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
        return false;
    }
    // The signature itself is what ties a leaf to this authority: names are the same after the directory was remade.
    if !signed_by(&cert, &ca) {
        return false;
    }
    let have = cert.subject_alternative_name().ok().flatten();
    wanted.subject_alt_names.iter().all(|san| {
        have.as_ref().is_some_and(|have| have.value.general_names.iter().any(|name| same_name(san, name)))
    })
}

/// True for a certificate that has less than `ahead` left, is not good yet, or cannot be read.
fn is_due(pem: &str, ahead: Duration, now: OffsetDateTime) -> bool {
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(pem.as_bytes()) else { return true };
    let Ok(cert) = pem.parse_x509() else { return true };
    let (now, validity) = (now.unix_timestamp(), cert.validity());
    validity.not_before.timestamp() > now
        || validity.not_after.timestamp() < now.saturating_add(ahead.whole_seconds())
}

fn signed_by(
    cert: &x509_parser::certificate::X509Certificate<'_>,
    ca: &x509_parser::certificate::X509Certificate<'_>,
) -> bool {
    ring::signature::UnparsedPublicKey::new(
        &ring::signature::ECDSA_P256_SHA256_ASN1,
        ca.public_key().subject_public_key.data.as_ref(),
    )
    .verify(cert.tbs_certificate.as_ref(), cert.signature_value.data.as_ref())
    .is_ok()
}

fn same_name(san: &SanType, name: &x509_parser::extensions::GeneralName<'_>) -> bool {
    use x509_parser::extensions::GeneralName;
    match (san, name) {
        (SanType::DnsName(a), GeneralName::DNSName(b)) => a.as_str() == *b,
        (SanType::IpAddress(IpAddr::V4(a)), GeneralName::IPAddress(b)) => a.octets().as_slice() == *b,
        (SanType::IpAddress(IpAddr::V6(a)), GeneralName::IPAddress(b)) => a.octets().as_slice() == *b,
        _ => false,
    }
}

/// The user and groups of a client certificate (`CN` and every `O`), or nothing when it names nobody. The chain has
/// been verified by the TLS layer before.
pub fn subject(cert_der: &[u8]) -> Option<(String, Vec<String>)> {
    let (_, cert) = x509_parser::parse_x509_certificate(cert_der).ok()?;
    let name = cert.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups =
        cert.subject().iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned)).collect();
    (!name.is_empty()).then_some((name, groups))
}

/// Reads the P-256 key at `path`, or makes it.
fn key(path: &Path) -> Result<KeyPair, PkiError> {
    match read(path)? {
        Some(pem) => KeyPair::from_pem(&pem)
            .map_err(|e| PkiError::Damaged { path: path.into(), reason: e.to_string() }),
        None => {
            let key = KeyPair::generate().map_err(|source| issue("key", source))?;
            write(path, key.serialize_pem().as_bytes())?;
            Ok(key)
        }
    }
}

fn der(path: &Path, pem: &str) -> Result<Vec<u8>, PkiError> {
    x509_parser::pem::parse_x509_pem(pem.as_bytes())
        .map(|(_, pem)| pem.contents)
        .map_err(|e| PkiError::Damaged { path: path.into(), reason: e.to_string() })
}

fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::File { action: "read", path: path.into(), source }),
    }
}

/// Writes a secret file so that after a crash there is the old content or the new one, readable by its owner only.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, content: &[u8]) -> Result<(), PkiError> {
    let temporary = path.with_extension("new");
    let result = (|| {
        let _ = fs::remove_file(&temporary);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        match path.parent() {
            Some(dir) => fs::File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    })();
    result.map_err(|source| PkiError::File { action: "write", path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_new_directory_is_filled_with_private_files_and_kept() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("pki");
        let now = OffsetDateTime::now_utc();
        let first = Pki::open(&dir, &[IpAddr::from([10, 0, 0, 7])], now).unwrap();
        assert_eq!(mode(&dir), 0o700);
        for name in ["ca.key", "server.key", "admin.key", "sa.key"] {
            assert_eq!(mode(&dir.join(name)), 0o600, "{name}");
        }
        let second = Pki::open(&dir, &[IpAddr::from([10, 0, 0, 7])], now).unwrap();
        assert_eq!(first.ca_pem, second.ca_pem);
        assert_eq!(first.server.cert_pem, second.server.cert_pem);
        assert_eq!(first.token_key, second.token_key);
        let (_, pem) = x509_parser::pem::parse_x509_pem(first.admin.cert_pem.as_bytes()).unwrap();
        assert_eq!(
            subject(&pem.contents),
            Some(("kubernetes-admin".to_owned(), vec!["system:masters".to_owned()]))
        );
    }

    #[test]
    fn leaves_are_issued_again_near_their_end_or_for_a_new_address() {
        let tmp = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::now_utc();
        let first = Pki::open(tmp.path(), &[], now).unwrap();
        let later = Pki::open(tmp.path(), &[], now + Duration::days(LEAF_DAYS - RENEW_DAYS + 1)).unwrap();
        assert_ne!(first.server.cert_pem, later.server.cert_pem);
        assert_eq!(first.ca_pem, later.ca_pem);
        let moved = Pki::open(tmp.path(), &[IpAddr::from([10, 1, 2, 3])], now).unwrap();
        assert_ne!(first.server.cert_pem, moved.server.cert_pem);
    }

    /// Whether TLS clients accept a leaf for localhost at a time, when they trust the authority `ca_pem`.
    fn accepted(ca_pem: &str, leaf: &Leaf, at: OffsetDateTime) -> bool {
        use rustls::client::danger::ServerCertVerifier as _;
        use rustls::pki_types::{CertificateDer, UnixTime, pem::PemObject as _};
        let read = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let (_, authority) = x509_parser::pem::parse_x509_pem(ca_pem.as_bytes()).unwrap();
        let validity = authority.parse_x509().unwrap().validity().clone();
        let (start, end) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(read(ca_pem)).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(roots.into(), provider);
        let time = std::time::Duration::from_secs(u64::try_from(at.unix_timestamp()).unwrap());
        let verified = verifier.build().unwrap().verify_server_cert(
            &read(&leaf.cert_pem),
            &[],
            &"localhost".try_into().unwrap(),
            &[],
            UnixTime::since_unix_epoch(time),
        );
        // Go looks at the authority's own time, too.
        verified.is_ok() && (start..=end).contains(&at.unix_timestamp())
    }

    #[test]
    fn certificates_made_by_a_clock_that_was_hours_ahead_are_good_after_it_was_corrected() {
        let tmp = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::now_utc();
        let pki = Pki::open(tmp.path(), &[], now + Duration::hours(3)).unwrap();
        for at in [now, now - Duration::hours(12), now + Duration::hours(30)] {
            assert!(accepted(&pki.ca_pem, &pki.server, at), "{at}");
            assert!(!pki.is_due(at), "{at}");
        }
    }

    #[test]
    fn an_authority_that_is_near_its_end_or_not_good_yet_is_renewed_and_the_old_one_still_vouches() {
        let tmp = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::now_utc();
        let first = Pki::open(tmp.path(), &[], now).unwrap();
        let later = now + Duration::days(CA_DAYS - CA_RENEW_DAYS + 1);
        assert!(first.is_due(later));
        let renewed = Pki::open(tmp.path(), &[], later).unwrap();
        assert_ne!(first.ca_pem, renewed.ca_pem);
        assert!(!renewed.is_due(later));
        for authority in [&first, &renewed] {
            assert!(accepted(&authority.ca_pem, &renewed.server, later));
        }
        // Made in a year that has not come: for somebody who starts with such a clock and corrects it.
        let early = now - Duration::days(2 * BACKDATE_DAYS);
        assert!(renewed.is_due(early));
        let corrected = Pki::open(tmp.path(), &[], early).unwrap();
        assert!(accepted(&corrected.ca_pem, &corrected.server, early));
    }

    #[test]
    fn a_damaged_authority_is_an_error_not_a_new_authority() {
        let tmp = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::now_utc();
        Pki::open(tmp.path(), &[], now).unwrap();
        fs::write(tmp.path().join("ca.key"), "nonsense").unwrap();
        assert!(matches!(Pki::open(tmp.path(), &[], now), Err(PkiError::Damaged { .. })));
        fs::remove_file(tmp.path().join("ca.key")).unwrap();
        assert!(matches!(Pki::open(tmp.path(), &[], now), Err(PkiError::Damaged { .. })));
    }
}
