//! What those who are nobody, and single users, can take from the server.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "each test file uses what it needs of it")]
mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::Cluster;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

/// A TLS connection without a client certificate.
fn connect(cluster: &Cluster) -> StreamOwned<ClientConnection, TcpStream> {
    let config: Value = serde_json::from_str(&cluster.kubectl("config view --raw -o json")).unwrap();
    let pem = config["clusters"][0]["cluster"]["certificate-authority-data"].as_str().unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&STANDARD.decode(pem).unwrap()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let socket = TcpStream::connect(cluster.address()).unwrap();
    // Only ends a test that has failed.
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut stream = StreamOwned::new(ClientConnection::new(Arc::new(tls), name).unwrap(), socket);
    stream.flush().unwrap();
    stream
}

#[test]
fn a_connection_on_which_nobody_says_who_they_are_is_closed() {
    let cluster = Cluster::start();
    let mut silent = connect(&cluster);
    while silent.conn.is_handshaking() {
        silent.conn.complete_io(&mut silent.sock).unwrap();
    }
    let mut byte = [0];
    match silent.read(&mut byte) {
        Ok(length) => assert_eq!(length, 0),
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{error}");
        }
    }
}
