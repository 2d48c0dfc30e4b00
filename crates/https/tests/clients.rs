//! Whose certificate a server takes from its clients.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ferrovirt_https::{Authorities, ClientTrust, Files, Identity, Options, Shown, serve, text};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

/// An authority.
struct Authority(String, Issuer<'static, KeyPair>);

/// A certificate and its key, PEM.
type Pair = (String, String);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Self(certificate, Issuer::new(params, key))
    }

    fn signs(&self, name: &str) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::CommonName, name);
        (params.signed_by(&key, &self.1).unwrap().pem(), key.serialize_pem())
    }
}

/// A server and what it has.
struct Server {
    address: SocketAddr,
    identity: Arc<Identity>,
    authorities: Arc<Authorities>,
    authority: Authority,
}

/// Says the common name in the certificate of its client; the server's own is by the same authority as its clients'.
async fn server(trust: fn(Arc<Authorities>) -> ClientTrust) -> Server {
    let (identity, authorities) = (Arc::default(), Arc::new(Authorities::of_name("kubevirt-api").unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let options = Options { clients: trust(Arc::clone(&authorities)), ..Options::default() };
    tokio::spawn(serve(listener, Arc::clone(&identity), options, |request: Request<Incoming>| async move {
        let name = request.extensions().get::<Shown>().and_then(Shown::common_name);
        text(StatusCode::OK, name.unwrap_or_default())
    }));
    Server { address, identity, authorities, authority: Authority::new() }
}

impl Server {
    /// Gives it its certificate and its authorities.
    fn prepare(&self) {
        let (certificate, key) = self.authority.signs("localhost");
        self.identity.set(certificate.as_bytes(), key.as_bytes()).unwrap();
        self.authorities.set(self.authority.0.as_bytes()).unwrap();
    }

    /// What a client with this certificate is answered.
    async fn ask(&self, shown: Option<&Pair>) -> std::io::Result<String> {
        ask(self.address, &self.authority.0, shown, rustls::ALL_VERSIONS).await
    }
}

async fn ask(
    address: SocketAddr,
    authority: &str,
    shown: Option<&Pair>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> std::io::Result<String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let config = match shown {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).ok_or_else(|| {
        std::io::Error::new(std::io::ErrorKind::InvalidData, format!("this is no answer: {answer}"))
    })
}

#[tokio::test]
async fn only_clients_with_the_right_name_by_the_right_authority_are_heard() {
    let server = server(ClientTrust::Required).await;
    let right = server.authority.signs("kubevirt-api");
    let refused = |why: &str, answer: std::io::Result<String>| assert!(answer.is_err(), "{why}: {answer:?}");
    refused("no certificate of its own", server.ask(Some(&right)).await);
    let (certificate, key) = server.authority.signs("localhost");
    server.identity.set(certificate.as_bytes(), key.as_bytes()).unwrap();
    refused("no authorities", server.ask(Some(&right)).await);
    server.prepare();
    refused("no certificate", server.ask(None).await);
    let other = Authority::new();
    refused("another authority", server.ask(Some(&other.signs("kubevirt-api"))).await);
    refused("another name", server.ask(Some(&server.authority.signs("kubevirt-api.example"))).await);
    assert_eq!(server.ask(Some(&right)).await.unwrap(), "kubevirt-api");
    let old = ask(server.address, &server.authority.0, Some(&right), &[&rustls::version::TLS12]).await;
    refused("TLS 1.2", old);
    // Authorities that are of no use replace nothing; others do.
    assert!(server.authorities.set(b"").is_err() && server.authorities.set(right.1.as_bytes()).is_err());
    assert_eq!(server.ask(Some(&right)).await.unwrap(), "kubevirt-api");
    server.authorities.set(other.0.as_bytes()).unwrap();
    refused("an authority of before", server.ask(Some(&right)).await);
    assert!(server.ask(Some(&other.signs("kubevirt-api"))).await.is_ok());
}

#[tokio::test]
async fn files_are_taken_when_they_come_and_when_they_change() {
    let server = server(ClientTrust::Required).await;
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    let files = Files { certificate: file("c"), key: file("k"), authorities: file("a") };
    tokio::spawn(files.follow(Arc::clone(&server.identity), Arc::clone(&server.authorities)));
    let right = server.authority.signs("kubevirt-api");
    assert!(server.ask(Some(&right)).await.is_err());
    let (certificate, key) = server.authority.signs("localhost");
    write("c", &certificate);
    write("k", &key);
    write("a", &server.authority.0);
    until(async || server.ask(Some(&right)).await.is_ok()).await;
    let other = Authority::new();
    write("a", &other.0);
    until(async || server.ask(Some(&other.signs("kubevirt-api"))).await.is_ok()).await;
    assert!(server.ask(Some(&right)).await.is_err());
    std::fs::remove_file(Path::new(&file("a"))).unwrap();
    assert!(server.ask(Some(&other.signs("kubevirt-api"))).await.is_ok());
}

async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waited).await.unwrap();
}
