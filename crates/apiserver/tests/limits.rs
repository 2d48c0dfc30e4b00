//! What those who are nobody, and single users, can take from the server.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "each test file uses what it needs of it")]
mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::Cluster;
use common::world::World;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

type Connection = StreamOwned<ClientConnection, TcpStream>;

/// TLS without a client certificate.
fn tls(cluster: &Cluster) -> Arc<ClientConfig> {
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
    Arc::new(tls)
}

fn connect(cluster: &Cluster, tls: &Arc<ClientConfig>) -> Connection {
    let name = ServerName::try_from("localhost").unwrap();
    let socket = TcpStream::connect(cluster.address()).unwrap();
    // Only ends a test that has failed.
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // The kernel would let it grow to tens of MiB, and what a client does not take would be in there.
    rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 64 << 10).unwrap();
    let mut stream = StreamOwned::new(ClientConnection::new(Arc::clone(tls), name).unwrap(), socket);
    stream.flush().unwrap();
    stream
}

/// A server, and somebody with a service account who may edit the namespace `default`.
struct Someone {
    world: World,
    tls: Arc<ClientConfig>,
    token: String,
}

impl Someone {
    fn new() -> Self {
        let world = World::new();
        let kubeconfig = world.account("someone").pop().unwrap();
        world.made("rolebinding all --clusterrole=edit --group=system:serviceaccounts:default -n default");
        let config: Value = serde_json::from_str(&std::fs::read_to_string(kubeconfig).unwrap()).unwrap();
        let token = config["users"][0]["user"]["token"].as_str().unwrap().to_owned();
        let tls = tls(&world.cluster);
        Self { world, tls, token }
    }

    fn config_map(&self, name: &str, size: usize) {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"},
            "data": {"text": "x".repeat(size)}});
        self.world.cluster.create(&map.to_string());
    }

    /// Asks for config maps, and reads the status alone.
    fn get(&self, query: &str, headers: &str, body: &str) -> (String, Connection) {
        self.ask("GET", query, headers, body)
    }

    fn ask(&self, method: &str, query: &str, headers: &str, body: &str) -> (String, Connection) {
        let mut connection = connect(&self.world.cluster, &self.tls);
        let request = format!(
            "{method} /api/v1/namespaces/default/configmaps{query} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             authorization: Bearer {}\r\n{headers}content-length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        );
        connection.write_all(request.as_bytes()).unwrap();
        let mut status = [0; 12];
        connection.read_exact(&mut status).unwrap();
        (String::from_utf8(status.to_vec()).unwrap(), connection)
    }
}

#[test]
fn a_list_with_a_large_body_is_answered() {
    let someone = Someone::new();
    someone.config_map("large", 40 << 10);
    for _ in 0..2 {
        let (status, mut connection) = someone.get("", "", &"x".repeat(33 << 10));
        assert_eq!(status, "HTTP/1.1 200");
        let mut text = Vec::new();
        connection.read_to_end(&mut text).unwrap();
        assert!(text.len() > 40 << 10);
    }
}

#[test]
fn who_acts_as_many_accounts_is_one_user() {
    let someone = Someone::new();
    let watch = |number: usize| {
        let headers = format!("impersonate-user: system:serviceaccount:default:a{number}\r\n");
        someone.get("?watch=true", &headers, "")
    };
    let held: Vec<_> = (0..64).map(watch).collect();
    assert!(held.iter().all(|(status, _)| status == "HTTP/1.1 200"));
    assert_eq!(watch(64).0, "HTTP/1.1 429");
    assert_eq!(someone.get("?watch=true", "", "").0, "HTTP/1.1 429", "they are the same user");
    let counted = someone.world.cluster.kubectl("get --raw /metrics");
    assert!(counted.contains("\nferrovirt_apiserver_too_many_requests_total 2\n"), "{counted}");
    drop(held);
}

#[test]
fn who_acts_as_an_account_of_the_system_has_no_more_space_than_before() {
    let someone = Someone::new();
    someone.world.made("clusterrole act --verb=impersonate --resource=serviceaccounts");
    someone.world.made("clusterrolebinding act --clusterrole=act --group=system:serviceaccounts:default");
    someone
        .world
        .made("rolebinding own --clusterrole=edit --group=system:serviceaccounts:kubevirt -n default");
    let map = |name: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"text": "x".repeat(1000 << 10)}})
            .to_string()
    };
    let json = "content-type: application/json\r\n";
    let own = |name: &str| someone.ask("POST", "", json, &map(name)).0;
    let acting = format!("{json}impersonate-user: system:serviceaccount:kubevirt:kubevirt-controller\r\n");
    let acting = |name: &str| someone.ask("POST", "", &acting, &map(name)).0;
    assert_eq!(acting("first"), "HTTP/1.1 201", "it may write");
    let made = (0..40).take_while(|number| own(&number.to_string()) == "HTTP/1.1 201").count();
    assert!((20..40).contains(&made), "{made}");
    assert_eq!(acting("last"), "HTTP/1.1 403", "the namespace is full, no matter who they say that they are");
}

#[test]
fn lists_that_nobody_takes_keep_a_part_of_the_memory_and_no_more() {
    let someone = Someone::new();
    for number in 0..10 {
        someone.config_map(&number.to_string(), 1000 << 10);
    }
    let held: Vec<_> =
        ["", "?watch=true"].iter().cycle().take(6).map(|query| someone.get(query, "", "")).collect();
    assert!(held.iter().all(|(status, _)| status == "HTTP/1.1 200"));
    assert_eq!(someone.get("", "", "").0, "HTTP/1.1 429");
    drop(held);
    assert_eq!(someone.get("", "", "").0, "HTTP/1.1 200");
}

#[test]
fn a_watch_that_ends_without_room_says_where_to_go_on_and_loses_nothing() {
    let someone = Someone::new();
    // More than the sockets between them take. What is there when a watch begins is kept for it, however slow it is.
    for number in 0..9 {
        someone.config_map(&number.to_string(), 1000 << 10);
    }
    let held: Vec<_> = (0..4).map(|_| someone.get("?watch=true", "", "")).collect();
    assert!(held.iter().all(|(status, _)| status == "HTTP/1.1 200"));
    let list = someone.world.cluster.kubectl("get --raw /api/v1/secrets");
    let list: Value = serde_json::from_str(&list).unwrap();
    let from = list["metadata"]["resourceVersion"].as_str().unwrap();
    someone.config_map("9", 1000 << 10);
    let events = || -> Vec<Value> {
        let query = format!("?watch=true&timeoutSeconds=1&allowWatchBookmarks=true&resourceVersion={from}");
        let (status, mut connection) = someone.get(&query, "", "");
        assert_eq!(status, "HTTP/1.1 200");
        let mut text = String::new();
        connection.read_to_string(&mut text).unwrap();
        // Between the events are the lengths of chunks.
        let events = text.lines().filter(|line| line.starts_with('{'));
        events.map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    // Until the four wait for their clients, another one has room in between.
    let deadline = Instant::now() + Duration::from_secs(60);
    let last = loop {
        let mut seen = events();
        let last = seen.pop().unwrap();
        assert_eq!(last["type"], "BOOKMARK");
        if seen.iter().all(|event| event["object"]["metadata"]["name"] != "9") {
            break last;
        }
        assert!(Instant::now() < deadline, "it always had room");
    };
    let on = last["object"]["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    drop(held);
    let path =
        format!("/api/v1/namespaces/default/configmaps?watch=true&timeoutSeconds=5&resourceVersion={on}");
    let rest = someone.world.cluster.kubectl(&format!("get --raw {path}"));
    assert!(rest.contains("\"name\":\"9\""), "what was not sent comes from where it said");
}

/// A frame of HTTP/2: type, stream, content.
fn frame(connection: &mut Connection) -> (u8, u32, Vec<u8>) {
    let mut head = [0; 9];
    connection.read_exact(&mut head).unwrap();
    let mut content = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    connection.read_exact(&mut content).unwrap();
    (head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), content)
}

#[test]
fn what_lies_in_memory_before_a_place_is_taken_is_little() {
    const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    let cluster = Cluster::start();
    let mut config = Arc::unwrap_or_clone(tls(&cluster));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut connection = connect(&cluster, &Arc::new(config));
    connection.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    connection.write_all(&PING).unwrap();
    // What the protocol begins with, and what the server gives on top before anybody has asked for anything.
    let (mut streams, mut window, mut whole) = (u32::MAX, 65_535, 65_535);
    loop {
        match frame(&mut connection) {
            // Its settings.
            (4, 0, content) => {
                for setting in content.chunks(6) {
                    let value = u32::from_be_bytes(setting[2..].try_into().unwrap());
                    match setting[1] {
                        3 => streams = value,
                        4 => window = value,
                        _ => {}
                    }
                }
            }
            (8, 0, content) => whole += u32::from_be_bytes(content.try_into().unwrap()),
            // The answer to the ping: what came before is all that there is.
            (6, 0, _) => break,
            _ => {}
        }
    }
    assert!(streams <= 100 && window <= 32 << 10 && whole <= 64 << 10, "{streams} {window} {whole}");
}

#[test]
fn a_connection_on_which_nobody_says_who_they_are_is_closed() {
    let cluster = Cluster::start();
    let mut silent = connect(&cluster, &tls(&cluster));
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
