//! The server with certificates that are made here, a `net` and the tasks of places that the test plays.

use super::{
    super::{
        inbox::{News, Receiver},
        net::channel,
        worker::{Served, Shared},
    },
    *,
};
use crate::{
    machine::{accept::Reader, events::Recorder},
    net::talk::{MOST_OF_STREAM, NotOpened, Open, Opened, packet, read},
};
use ferrovirt_plan::{config::ClusterConfig, decide::place::Answer};
use ferrovirt_sys::seqpacket::{Connection, Listener};
use futures::{SinkExt as _, StreamExt as _};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use std::thread::{JoinHandle, spawn};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Notify,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest as _};

const LINK: u64 = 7;
const PATH: &str = "/v1/namespaces/vms/virtualmachineinstances";

struct Authority(String, Issuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let key = KeyPair::generate().unwrap();
        Self(params.self_signed(&key).unwrap().pem(), Issuer::new(params, key))
    }

    fn signs(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.1).unwrap().pem(), key.serialize_pem())
    }
}

struct World {
    address: SocketAddr,
    authority: Authority,
    node: Arc<Node>,
    directory: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        Self::with(OPENING, Duration::ZERO).await
    }

    async fn with(opening: Duration, served: Duration) -> Self {
        let config = kube::Config::new("https://127.0.0.1:1".parse().unwrap());
        let client = kube::Client::try_from(config).unwrap();
        let reader = Reader {
            pods: client.clone(),
            machines: client.clone(),
            node: "here".to_owned(),
            defaults: ClusterConfig::default(),
        };
        let events = Recorder::new(client, "virt-handler", "here".to_owned());
        let node = Node::new(Arc::new(Shared { reader, events, net: channel().0, changed: Notify::new() }));
        let directory = tempfile::tempdir().unwrap();
        let streams = Streams::new(directory.path().join("streams.sock"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let authority = Authority::new();
        let (identity, authorities) = (Identity::default(), Authorities::of_name(CLIENT).unwrap());
        let (certificate, key) = authority.signs("localhost");
        identity.set(certificate.as_bytes(), key.as_bytes()).unwrap();
        authorities.set(authority.0.as_bytes()).unwrap();
        let server = Arc::new(Http { node: node.clone(), streams, opening, served });
        tokio::spawn(answer(listener, Arc::new(identity), Arc::new(authorities), server));
        Self { address, authority, node, directory }
    }

    /// A machine whose guest is served.
    fn place(&self, machine: &str, serial: bool, graphics: bool) -> Receiver {
        let served = Served { machine: machine.to_owned(), link: LINK, serial, graphics };
        self.node.place(machine, "vms", Some(served))
    }

    async fn connect(&self, shown: Option<(String, String)>) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.0.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
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
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(self.address).await?).await
    }

    /// What a request is answered: code and body.
    async fn ask(&self, line: &str, headers: &str) -> (u16, String) {
        self.ask_as(Some(self.authority.signs(CLIENT)), line, headers).await.unwrap()
    }

    async fn ask_as(
        &self,
        shown: Option<(String, String)>,
        line: &str,
        headers: &str,
    ) -> std::io::Result<(u16, String)> {
        let mut stream = self.connect(shown).await?;
        let request = format!(
            "{line} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n{headers}connection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer).await {
            // After a refused upgrade the end comes without a farewell of TLS.
            Err(error) if answer.is_empty() => return Err(error),
            _ => {}
        }
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
        Ok((head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned()))
    }

    /// A `net` that listens for the launcher, and then does something with the connection.
    fn net(&self, then: impl FnOnce(&Connection) + Send + 'static) -> JoinHandle<()> {
        let listener = Listener::bind(&self.directory.path().join("streams.sock")).unwrap();
        spawn(move || {
            let connection = listener.accept().unwrap();
            let bytes = connection.recv(1024).unwrap().unwrap().bytes;
            let (Open { slot, link }, _) = read(&bytes).unwrap();
            assert_eq!((slot.as_str(), link), ("guest", LINK));
            then(&connection);
        })
    }
}

fn say(connection: &Connection, opened: &Opened) {
    connection.send(&packet(opened, &[]).unwrap(), &[]).unwrap();
}

fn listen(connection: &Connection) {
    say(connection, &Opened::Listening { socket: "console-1".to_owned() });
}

const UPGRADE: &str =
    "upgrade: websocket\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n";

/// What is asked of a place's task.
async fn asked(place: &mut Receiver) -> super::super::asks::Asked {
    match place.recv().await {
        News::Ask(asked) => asked,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn nobody_but_the_clusters_api_is_heard() {
    let world = World::new().await;
    let healthz = |shown| world.ask_as(shown, "GET /healthz", "");
    assert_eq!(world.ask("GET /healthz", "").await, (200, "ok".to_owned()));
    assert!(healthz(None).await.is_err());
    assert!(healthz(Some(world.authority.signs("kubevirt-handler"))).await.is_err());
    assert!(healthz(Some(Authority::new().signs(CLIENT))).await.is_err());
}

#[tokio::test]
async fn what_is_not_here_or_not_asked_for_well_is_refused_in_words() {
    let world = World::new().await;
    let _guest = world.place("guest", false, false);
    let _other = world.node.place("other", "vms", None);
    let _serial = world.place("serial", true, false);
    let protocol = format!("{UPGRADE}sec-websocket-protocol: base64.binary.k8s.io\r\n");
    for (line, headers, code, words) in [
        (format!("GET {PATH}/none/console"), UPGRADE, 404, r#"\"none\" not found on this node"#),
        ("GET /v1/namespaces/x/virtualmachineinstances/guest/vnc".to_owned(), UPGRADE, 404, "not found"),
        (format!("GET {PATH}/other/console"), UPGRADE, 404, "not found on this node"),
        (format!("GET {PATH}/guest/console"), UPGRADE, 400, "No serial console is attached to the VMI"),
        (format!("GET {PATH}/guest/vnc"), UPGRADE, 400, "No graphics device is attached to the VMI"),
        (format!("GET {PATH}/guest/pause"), "", 404, "there is no such subresource"),
        (format!("PUT {PATH}/guest/vnc"), "", 404, "there is no such subresource"),
        ("GET /metrics".to_owned(), "", 404, "there is no such path"),
        (format!("GET {PATH}/serial/console"), "", 400, "ask for an upgrade"),
        (format!("GET {PATH}/serial/console"), &protocol, 400, "the subprotocol must be plain.kubevirt.io"),
        (format!("GET {PATH}/serial/console"), UPGRADE, 503, "virt-handler net does not answer"),
    ] {
        let (found, body) = world.ask(&line, headers).await;
        assert_eq!(found, code, "{line}: {body}");
        assert!(body.contains(words) && body.contains(r#""kind":"Status""#), "{line}: {body}");
    }
}

#[tokio::test]
async fn a_guest_that_the_handler_has_not_found_yet_is_waited_for() {
    let long = Duration::from_secs(3600);
    let world = World::with(long, long).await;
    // After a start of the handler its place is not known at first, and its guest later still.
    let pause = format!("PUT {PATH}/guest/pause");
    let (found, ()) = tokio::join!(world.ask(&pause, ""), async {
        let _early = world.node.place("guest", "vms", None);
        tokio::task::yield_now().await;
        let mut guest = world.place("guest", true, false);
        asked(&mut guest).await.answer.send(Ok(())).unwrap();
    });
    assert_eq!(found, (200, String::new()));
}

#[tokio::test]
async fn vcpus_are_stopped_by_the_places_task() {
    let world = World::new().await;
    let mut guest = world.place("guest", false, false);
    let pause = format!("PUT {PATH}/guest/pause");
    let refused = r#""message":"VMI is not running""#;
    for (answer, code, words) in [
        (Answer::Done, 200, ""),
        (Answer::NotRunning, 409, refused),
        (Answer::Refused("no: /etc/passwd".to_owned()), 409, "no: (a path of the node)"),
        (Answer::Silent, 409, "the launcher does not answer"),
    ] {
        let (found, ()) = tokio::join!(world.ask(&pause, ""), async {
            let asked = asked(&mut guest).await;
            assert_eq!(asked.ask, Ask::Switch { pause: true });
            let mut asks = super::super::asks::Asks::default();
            asks.take(asked);
            asks.answer(1, answer);
        });
        assert_eq!(found.0, code, "{}", found.1);
        assert!(found.1.contains(words), "{}", found.1);
    }
    let unpause = format!("PUT {PATH}/guest/unpause");
    let (found, ()) = tokio::join!(world.ask(&unpause, ""), async {
        assert_eq!(asked(&mut guest).await.ask, Ask::Switch { pause: false });
    });
    assert_eq!(found.0, 409, "who asked is forgotten: {}", found.1);
    drop(guest);
    let (code, body) = world.ask(&pause, "").await;
    assert!(code == 409 && body.contains(refused), "{body}");
}

#[tokio::test]
async fn a_console_leads_to_the_launcher_in_both_directions() {
    let world = World::new().await;
    let mut guest = world.place("guest", true, true);
    let paste = vec![b'x'; 3 * MOST_OF_STREAM];
    let expected = paste.len() + 5;
    let net = world.net(move |connection| {
        listen(connection);
        // Nothing comes before the launcher has connected.
        say(connection, &Opened::Connected);
        connection.send(b"login: ", &[]).unwrap();
        let mut heard = 0;
        while heard < expected {
            heard += connection.recv(MOST_OF_STREAM).unwrap().unwrap().bytes.len();
        }
        connection.send(b"bye", &[]).unwrap();
    });
    let stream = world.connect(Some(world.authority.signs(CLIENT))).await.unwrap();
    let mut request = format!("wss://localhost{PATH}/guest/console").into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "plain.kubevirt.io".parse().unwrap());
    let (opened, connect) = tokio::join!(tokio_tungstenite::client_async(request, stream), asked(&mut guest));
    let (mut socket, response) = opened.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "plain.kubevirt.io");
    let socket_of = Ask::Console { link: LINK, socket: "console-1".to_owned(), console: Console::Serial };
    assert_eq!(connect.ask, socket_of);
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::binary(b"login: ".to_vec()));
    socket.send(Message::binary(paste)).await.unwrap();
    socket.send(Message::text("root\n")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::binary(b"bye".to_vec()));
    assert!(matches!(socket.next().await, Some(Ok(Message::Close(_)))), "the end of the console is the end");
    net.join().unwrap();
}

#[tokio::test]
async fn the_time_for_opening_a_console_is_for_all_of_it() {
    let world = World::with(Duration::ZERO, Duration::ZERO).await;
    // A `net` that accepts nothing: that would be said once there was time enough for that step.
    let _net = Listener::bind(&world.directory.path().join("streams.sock")).unwrap();
    let _guest = world.place("guest", true, true);
    let (code, body) = world.ask(&format!("GET {PATH}/guest/vnc"), UPGRADE).await;
    assert!(code == 504 && body.contains("the launcher does not answer"), "{code} {body}");
}

#[tokio::test]
async fn a_console_that_is_not_connected_ends_with_words() {
    for (case, code, words) in [
        ("no link", 409, "net says why"),
        ("too many", 429, "net says why"),
        ("net cannot", 503, "net says why"),
        ("the launcher refuses", 409, "no graphics here"),
        ("the link ends", 409, "VMI is not running"),
        ("nobody connects", 504, "the launcher does not answer"),
        ("nonsense", 504, "the launcher does not answer"),
    ] {
        let refused = |kind| Opened::Refused { kind, why: "net says why".to_owned() };
        let world = World::new().await;
        let mut guest = world.place("guest", true, true);
        let net = world.net(move |connection| match case {
            "no link" => say(connection, &refused(NotOpened::Away)),
            "too many" => say(connection, &refused(NotOpened::Full)),
            "net cannot" => say(connection, &refused(NotOpened::Failed)),
            "nobody connects" => listen(connection),
            "nonsense" => {
                listen(connection);
                connection.send(b"login: ", &[]).unwrap();
            }
            _ => {
                listen(connection);
                // Until it is given up.
                assert!(connection.recv(1).unwrap().is_none());
            }
        });
        let task = async {
            let answer = match case {
                "the launcher refuses" => Answer::Refused("no graphics here".to_owned()),
                "the link ends" => Answer::NotRunning,
                _ => return,
            };
            let mut asks = super::super::asks::Asks::default();
            asks.take(asked(&mut guest).await);
            asks.answer(1, answer);
        };
        let line = format!("GET {PATH}/guest/vnc");
        let (found, ()) = tokio::join!(world.ask(&line, UPGRADE), task);
        assert_eq!(found.0, code, "{case}: {}", found.1);
        assert!(found.1.contains(words), "{case}: {}", found.1);
        net.join().unwrap();
    }
}
