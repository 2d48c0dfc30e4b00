//! Consoles, pause and unpause: as the machine API asks the node of a machine for them, over mutual TLS at the handler's pod,
//! and as people do, through the cluster's API server.

use super::{boots, condition, instance, log, running};
use crate::common::{TIMEOUT, Test};
use anyhow::{Context, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ferrovirt_cluster::{layout, network, wait};
use ferrovirt_privilege::{Scenario, scenario::registered};
use ferrovirt_sys::netns;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use serde_json::json;
use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::Arc,
    time::Instant,
};
use tokio_tungstenite::tungstenite::{self, Message, WebSocket, client::IntoClientRequest as _};

/// The name by which the handler is known to its clients.
const SERVER: &str = "virt-handler";
/// Its certificate.
const SECRET: &str = "virt-handler-certificate";
const MACHINE: &str = "/v1/namespaces/vms/virtualmachineinstances/guest";

type Stream = StreamOwned<ClientConnection, TcpStream>;

/// A certificate and its key, PEM.
type Pair = (String, String);

/// An authority, and what it signs.
struct Authority(String, Issuer<'static, KeyPair>);

impl Authority {
    fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let key = KeyPair::generate()?;
        Ok(Self(params.self_signed(&key)?.pem(), Issuer::new(params, key)))
    }

    fn signs(&self, name: &str) -> Result<Pair> {
        let key = KeyPair::generate()?;
        let params = CertificateParams::new([name.to_owned()])?;
        Ok((params.signed_by(&key, &self.1)?.pem(), key.serialize_pem()))
    }
}

/// The handler, or the API server, as a client sees it.
struct Handler<'a> {
    test: &'a Test,
    address: SocketAddr,
    /// The name in its certificate.
    name: &'static str,
    /// The path of the machine.
    machine: String,
    /// Whom clients act as, where they may.
    user: Option<&'static str>,
    authority: String,
    /// Of the machine API, and one that is not.
    right: Pair,
    wrong: Pair,
}

fn connect(test: &Test, address: SocketAddr) -> std::io::Result<TcpStream> {
    // Pods are reached from where the API server is.
    let namespace = netns::open(&network::file(&test.cluster.layout().namespace()))?;
    let stream = netns::run_in(&namespace, || TcpStream::connect(address))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

impl Handler<'_> {
    /// A client with this certificate, or without one.
    fn open(&self, shown: Option<&Pair>) -> Result<Stream> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let config = match shown {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes())?];
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes())?)?
            }
        };
        let session = ClientConnection::new(Arc::new(config), ServerName::try_from(self.name)?)?;
        Ok(StreamOwned::new(session, connect(self.test, self.address)?))
    }

    /// What a request is answered: the first line, and the body.
    fn ask(&self, shown: Option<&Pair>, line: &str) -> Result<(String, String)> {
        let mut stream = self.open(shown)?;
        let text =
            format!("{line} HTTP/1.1\r\nhost: {SERVER}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        stream.write_all(text.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").with_context(|| answer.clone())?;
        Ok((head.lines().next().unwrap_or_default().to_owned(), body.to_owned()))
    }

    fn console(&self, kind: &str) -> Result<WebSocket<Stream>> {
        let mut request = format!("wss://{}{}/{kind}", self.name, self.machine).into_client_request()?;
        request.headers_mut().insert("sec-websocket-protocol", "plain.kubevirt.io".parse()?);
        if let Some(user) = self.user {
            request.headers_mut().insert("impersonate-user", user.parse()?);
        }
        match tungstenite::client(request, self.open(Some(&self.right))?) {
            Ok((socket, _)) => Ok(socket),
            Err(error) => bail!("{kind}: {error}\n{}", self.test.log()),
        }
    }
}

/// What a guest says until this is in it.
fn hears(socket: &mut WebSocket<Stream>, words: &str) -> Result<String> {
    let (mut said, begin) = (String::new(), Instant::now());
    while !said.contains(words) {
        ensure!(begin.elapsed() < TIMEOUT, "{words} is not in: {said}");
        match socket.read() {
            Ok(Message::Binary(bytes)) => said.push_str(&String::from_utf8_lossy(&bytes)),
            Ok(_) => {}
            Err(error) => bail!("{error}, and {words} is not in: {said}"),
        }
    }
    Ok(said)
}

/// The handler's only pod: its name and address.
fn pod(test: &Test) -> Result<(String, IpAddr)> {
    let pods =
        test.json("get pods -n kubevirt -l kubevirt.io=virt-handler --field-selector status.phase=Running")?;
    let pod = &pods["items"][0];
    let name = pod["metadata"]["name"].as_str().context("no handler")?.to_owned();
    Ok((name, pod["status"]["podIP"].as_str().context("no address")?.parse()?))
}

fn address(test: &Test) -> Result<SocketAddr> {
    test.kubectl("rollout status daemonset/virt-handler -n kubevirt --timeout=180s")?;
    Ok(SocketAddr::new(pod(test)?.1, 8443))
}

/// Without the Secret's mount nobody listens, and everything else goes on.
fn without_certificate(test: &Test) -> Result<()> {
    let set = test.json("get daemonset virt-handler -n kubevirt")?;
    let containers = set["spec"]["template"]["spec"]["containers"].as_array().context("no containers")?;
    let at = containers.iter().position(|container| container["name"] == "api").context("no api")?;
    let mounts = containers[at]["volumeMounts"].as_array().context("no mounts")?;
    let mount = mounts.iter().position(|mount| mount["name"] == "certificate").context("no mount")?;
    let path = format!("/spec/template/spec/containers/{at}/volumeMounts/{mount}");
    let patch = json!([{"op": "remove", "path": path}]).to_string();
    let (before, _) = pod(test)?;
    test.cluster.output(&[
        "patch",
        "daemonset",
        "virt-handler",
        "-n",
        "kubevirt",
        "--type=json",
        "-p",
        &patch,
    ])?;
    let address = address(test)?;
    ensure!(pod(test)?.0 != before, "the pod is the same");
    wait("the machine to be taken over", TIMEOUT, || {
        Ok(log(test, false)?.contains("the guest runs").then_some(()))
    })
    .with_context(|| test.log())?;
    let refused = connect(test, address).err().map(|error| error.kind());
    ensure!(refused == Some(ErrorKind::ConnectionRefused), "it listens without a certificate: {refused:?}");
    for witness in ["handler-certificate", "handler-port"] {
        ensure!(registered(Scenario::Machine).any(|name| name == witness), "{witness}");
    }
    test.kubectl(&format!("apply -f {}", test.file().display())).map(drop)
}

/// Authority, certificate and key of a Secret that has them.
fn secret(test: &Test, name: &str) -> Option<[String; 3]> {
    let found = test.json(&format!("get secret {name} -n kubevirt")).ok()?;
    let part = |key: &str| String::from_utf8(STANDARD.decode(found["data"][key].as_str()?).ok()?).ok();
    Some([part("ca.crt")?, part("tls.crt")?, part("tls.key")?])
}

/// Whom clients believe, and what the machine API and somebody else show.
fn certificates(test: &Test) -> Result<(String, Pair, Pair)> {
    // Who asks the handlers keeps certificates of both sides; a handler's own is of another name.
    if let Some([authority, certificate, key]) = secret(test, "kubevirt-api-client") {
        let [_, other, other_key] = secret(test, SECRET).context("the handlers have no certificate")?;
        return Ok((authority, (certificate, key), (other, other_key)));
    }
    let authority = Authority::new()?;
    let (certificate, key) = authority.signs(SERVER)?;
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET, "namespace": "kubevirt"},
        "stringData": {"tls.crt": certificate, "tls.key": key, "ca.crt": authority.0},
    });
    test.cluster.apply(&secret.to_string())?;
    let (right, wrong) = (authority.signs("kubevirt-api")?, authority.signs("kubevirt-handler")?);
    Ok((authority.0, right, wrong))
}

/// The part listens once its certificate is there, and hears the cluster's API and nobody else.
fn listens<'a>(test: &'a Test, shown: &(String, Pair, Pair)) -> Result<Handler<'a>> {
    let address = address(test)?;
    let (authority, right, wrong) = shown.clone();
    let machine = MACHINE.to_owned();
    let handler = Handler { test, address, name: SERVER, machine, user: None, authority, right, wrong };
    // The kubelet looks at a pod that changes at once, and at others once a minute.
    test.kubectl(&format!("annotate pod {} -n kubevirt looked-at=now", pod(test)?.0))?;
    wait("the handler to listen", TIMEOUT, || Ok(connect(test, handler.address).ok()))
        .with_context(|| test.log())?;
    let healthy = ("HTTP/1.1 200 OK".to_owned(), "ok".to_owned());
    ensure!(handler.ask(Some(&handler.right), "GET /healthz")? == healthy, "{}", test.log());
    for (who, shown) in [("nobody", None), ("another name", Some(&handler.wrong))] {
        let heard = handler.ask(shown, "GET /healthz");
        ensure!(heard.is_err(), "{who} is heard: {heard:?}");
    }
    Ok(handler)
}

fn pauses(test: &Test, handler: &Handler<'_>) -> Result<()> {
    let put = |verb: &str| handler.ask(Some(&handler.right), &format!("PUT {MACHINE}/{verb}"));
    let paused = |wanted: bool| {
        instance(test, "guest", "the condition Paused", |vmi| {
            let is = condition(vmi, "Paused").is_some_and(|condition| condition["status"] == "True");
            (is == wanted).then_some(())
        })
    };
    let (code, body) = put("pause")?;
    ensure!(code == "HTTP/1.1 200 OK", "{code} {body}\n{}", test.log());
    paused(true)?;
    // The launcher's own words.
    let (code, body) = put("pause")?;
    ensure!(code.contains(" 409 ") && body.contains("paused"), "{code} {body}");
    let (code, body) = put("unpause")?;
    ensure!(code == "HTTP/1.1 200 OK", "{code} {body}");
    paused(false)
}

/// Somebody with the role edit, whom the API server forwards to the machine API and that one to the node, has the machine's
/// consoles and pauses it; somebody who may only look has and does not.
fn through_the_api_server(test: &Test) -> Result<()> {
    for (user, role) in [("edith", "edit"), ("victor", "view")] {
        test.kubectl(&format!("create rolebinding {user} -n vms --clusterrole={role} --user={user}"))?;
    }
    let pki = |file: &str| std::fs::read_to_string(test.cluster.layout().path("pki").join(file));
    let machine = format!("/apis/subresources.kubevirt.io{MACHINE}");
    let admin = (pki("admin.crt")?, pki("admin.key")?);
    let mut server = Handler {
        test,
        address: SocketAddr::new(layout::CONTROL_PLANE.into(), layout::PORT),
        name: "kubernetes",
        machine: machine.clone(),
        user: Some("victor"),
        authority: pki("ca.crt")?,
        right: admin.clone(),
        wrong: admin,
    };
    let refused = server.console("console").err().map(|error| format!("{error:#}"));
    ensure!(refused.as_ref().is_some_and(|said| said.contains("403")), "{refused:?}");
    server.user = Some("edith");
    let mut serial = server.console("console")?;
    hears(&mut serial, "guest: ready")?;
    for (line, answer) in [("\r", "# "), ("echo again $((40 + 3))\r", "again 43")] {
        serial.send(Message::binary(line.as_bytes().to_vec()))?;
        hears(&mut serial, answer)?;
    }
    let mut screen = server.console("vnc")?;
    hears(&mut screen, "RFB 003.008\n")?;

    let body = test.cluster.layout().path("empty.json");
    std::fs::write(&body, "{}")?;
    let put = |user: &str, verb: &str| {
        test.kubectl(&format!("replace --raw {machine}/{verb} -f {} --as={user}", body.display()))
    };
    let refused = put("victor", "pause").err().map(|error| format!("{error:#}"));
    ensure!(refused.as_ref().is_some_and(|said| said.contains("orbidden")), "{refused:?}");
    let paused = |wanted: bool| {
        instance(test, "guest", "the condition Paused", |vmi| {
            let is = condition(vmi, "Paused").is_some_and(|condition| condition["status"] == "True");
            (is == wanted).then_some(())
        })
    };
    put("edith", "pause").with_context(|| test.log())?;
    paused(true)?;
    let refused = put("edith", "pause").err().map(|error| format!("{error:#}"));
    ensure!(refused.as_ref().is_some_and(|said| said.contains("already paused")), "{refused:?}");
    put("edith", "unpause").with_context(|| test.log())?;
    paused(false)
}

/// All of it, on a machine that runs.
pub(super) fn serve(test: &Test) -> Result<()> {
    running(test, "guest")?;
    boots(test, "guest")?;
    let shown = certificates(test)?;
    // Otherwise nobody might ever listen there.
    listens(test, &shown)?;
    without_certificate(test)?;
    let handler = listens(test, &shown)?;
    let (code, body) =
        handler.ask(Some(&handler.right), &format!("GET {}/console", MACHINE.replace("guest", "none")))?;
    ensure!(code.contains(" 404 ") && body.contains("not found on this node"), "{code} {body}");

    let mut serial = handler.console("console")?;
    // What was said before somebody listened is said again.
    hears(&mut serial, "login:")?;
    for (line, answer) in [("root\r", "# "), ("echo answer $((40 + 2))\r", "answer 42")] {
        serial.send(Message::binary(line.as_bytes().to_vec()))?;
        hears(&mut serial, answer)?;
    }
    let mut screen = handler.console("vnc")?;
    hears(&mut screen, "RFB 003.008\n")?;
    pauses(test, &handler)?;
    // Of a serial port the latest client is the one; the first sees its end, and the screen goes on.
    let mut second = handler.console("console")?;
    hears(&mut second, "guest: ready")?;
    while !matches!(serial.read()?, Message::Close(_)) {}
    screen.send(Message::binary(b"RFB 003.008\n".to_vec()))?;
    ensure!(matches!(screen.read(), Ok(Message::Binary(_))), "the screen says nothing");
    through_the_api_server(test)
}
