//! Keys and certificates of one cluster, made again at each start.

use crate::layout::{CONTROL_PLANE, FIRST_SERVICE, Layout};
use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType,
};
use std::{fs, net::IpAddr, os::unix::fs::OpenOptionsExt, path::Path};
use time::{Duration, OffsetDateTime};

/// Whom a certificate names, in Kubernetes' reading: the common name is the user, the organization its group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// File name without its ending.
    pub file: String,
    /// Common name.
    pub user: String,
    /// Organization, where there is one.
    pub group: Option<String>,
    /// Names and addresses at which it serves; none for a client.
    pub serves: Vec<String>,
}

impl Subject {
    fn client(file: &str, user: &str, group: Option<&str>) -> Self {
        Self { file: file.into(), user: user.into(), group: group.map(str::to_owned), serves: Vec::new() }
    }

    fn server(file: &str, user: &str, serves: &[&str]) -> Self {
        let serves = serves.iter().map(|one| (*one).to_owned()).collect();
        Self { file: file.into(), user: user.into(), group: None, serves }
    }
}

/// Every certificate that the cluster's authority signs.
///
/// Names and groups are those of <https://kubernetes.io/docs/setup/best-practices/certificates/>.
pub fn subjects(layout: &Layout) -> Vec<Subject> {
    let (own, service) = (CONTROL_PLANE.to_string(), FIRST_SERVICE.to_string());
    let mut all = vec![
        Subject::server(
            "kube-apiserver",
            "kube-apiserver",
            &[
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                "kubernetes.default.svc.cluster.local",
                "localhost",
                "127.0.0.1",
                &own,
                &service,
            ],
        ),
        // The kubelets' API asks for this group when the API server fetches logs or opens a shell.
        Subject::client("kubelet-client", "kube-apiserver-kubelet-client", Some("system:masters")),
        Subject::client("kube-controller-manager", "system:kube-controller-manager", None),
        Subject::client("kube-scheduler", "system:kube-scheduler", None),
        Subject::client("kube-proxy", "system:kube-proxy", None),
        Subject::client("admin", "kubernetes-admin", Some("system:masters")),
    ];
    for node in layout.nodes() {
        let user = format!("system:node:{}", node.name);
        all.push(Subject::client(&node.name, &user, Some("system:nodes")));
        let address = node.address.to_string();
        all.push(Subject::server(&format!("{}-serving", node.name), &user, &[&node.name, &address]));
    }
    all
}

/// An authority that signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn make(directory: &Path, file: &str, name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        valid(&mut params);
        let key = KeyPair::generate()?;
        write(&directory.join(format!("{file}.crt")), &params.self_signed(&key)?.pem())?;
        write(&directory.join(format!("{file}.key")), &key.serialize_pem())?;
        Ok(Self { issuer: Issuer::new(params, key) })
    }

    fn sign(&self, directory: &Path, subject: &Subject) -> Result<()> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, subject.user.as_str());
        if let Some(group) = &subject.group {
            params.distinguished_name.push(DnType::OrganizationName, group.as_str());
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![if subject.serves.is_empty() {
            ExtendedKeyUsagePurpose::ClientAuth
        } else {
            ExtendedKeyUsagePurpose::ServerAuth
        }];
        for name in &subject.serves {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.as_str().try_into()?),
            });
        }
        valid(&mut params);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        write(&directory.join(format!("{}.crt", subject.file)), &certificate.pem())?;
        write(&directory.join(format!("{}.key", subject.file)), &key.serialize_pem())
    }
}

/// From yesterday, because clocks differ, for a year: a cluster for development lives for less.
fn valid(params: &mut CertificateParams) {
    // The library's own default is the name "rcgen self signed cert".
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::days(1);
    params.not_after = now + Duration::days(365);
}

/// Writes every key and certificate of the cluster into `directory`.
pub fn make(layout: &Layout, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let authority = Authority::make(directory, "ca", "kubernetes-ca")?;
    for subject in subjects(layout) {
        authority.sign(directory, &subject).with_context(|| subject.user.clone())?;
    }
    // Who may speak for others to aggregated API servers is known by an authority of its own.
    let front = Authority::make(directory, "front-proxy-ca", "front-proxy-ca")?;
    front.sign(directory, &Subject::client("front-proxy-client", "front-proxy-client", None))?;
    let tokens = KeyPair::generate()?;
    write(&directory.join("service-accounts.key"), &tokens.serialize_pem())?;
    write(&directory.join("service-accounts.pub"), &public_pem(&tokens))
}

fn public_pem(key: &KeyPair) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(key.subject_public_key_info());
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
}

/// Keys are for root alone.
fn write(path: &Path, text: &str) -> Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| path.display().to_string())?;
    Ok(std::io::Write::write_all(&mut file, text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::prelude::*;

    fn certificate(directory: &Path, file: &str) -> Vec<u8> {
        let text = fs::read(directory.join(format!("{file}.crt"))).unwrap();
        parse_x509_pem(&text).unwrap().1.contents
    }

    #[test]
    fn nodes_and_clients_are_named_as_kubernetes_reads_them() {
        let directory = tempfile::tempdir().unwrap();
        make(&Layout::new("dev", 2).unwrap(), directory.path()).unwrap();
        for (file, user, group) in [
            ("node2", "system:node:node2", Some("system:nodes")),
            ("admin", "kubernetes-admin", Some("system:masters")),
            ("kube-scheduler", "system:kube-scheduler", None),
        ] {
            let der = certificate(directory.path(), file);
            let (_, parsed) = X509Certificate::from_der(&der).unwrap();
            let subject = parsed.subject();
            assert_eq!(subject.iter_common_name().next().unwrap().as_str().unwrap(), user);
            assert_eq!(subject.iter_common_name().count(), 1, "{file}");
            assert_eq!(subject.iter_organization().next().map(|one| one.as_str().unwrap()), group);
            assert_eq!(parsed.issuer().to_string(), "CN=kubernetes-ca");
            let usage = parsed.extended_key_usage().unwrap().unwrap().value;
            assert!(usage.client_auth && !usage.server_auth, "{file}");
        }
    }

    #[test]
    fn the_api_server_serves_at_every_address_that_leads_to_it() {
        let directory = tempfile::tempdir().unwrap();
        make(&Layout::new("dev", 1).unwrap(), directory.path()).unwrap();
        let der = certificate(directory.path(), "kube-apiserver");
        let (_, parsed) = X509Certificate::from_der(&der).unwrap();
        let names = parsed.subject_alternative_name().unwrap().unwrap().value;
        for address in [[172, 30, 0, 1], [10, 96, 0, 1], [127, 0, 0, 1]] {
            assert!(names.general_names.contains(&GeneralName::IPAddress(&address)), "{address:?}");
        }
        assert!(names.general_names.contains(&GeneralName::DNSName("kubernetes.default.svc")));
    }

    #[test]
    fn the_front_proxy_has_an_authority_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        make(&Layout::new("dev", 1).unwrap(), directory.path()).unwrap();
        let der = certificate(directory.path(), "front-proxy-client");
        let (_, parsed) = X509Certificate::from_der(&der).unwrap();
        assert_eq!(parsed.issuer().to_string(), "CN=front-proxy-ca");
        let private = fs::metadata(directory.path().join("ca.key")).unwrap();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&private.permissions()) & 0o077, 0);
    }
}
