//! Sends image archives to a registry, as the OCI distribution specification has it.
//!
//! Registries on loopback addresses are spoken to in plain HTTP, and no others. Who sends is what docker's configuration file says.

use anyhow::{Context, Result, anyhow, bail, ensure};
use docker_credential::{CredentialRetrievalError, DockerCredential};
use ferrovirt_cluster::oci::digest;
use ferrovirt_qemu::text::plain;
use oci_client::{
    Client, Reference, RegistryOperation,
    client::{ClientConfig, ClientProtocol},
    errors::OciDistributionError,
    secrets::RegistryAuth,
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    io::{ErrorKind, Read as _},
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

/// How long a registry may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(30);
/// How long it may say nothing: it checks what it was sent before it answers.
const ANSWER: Duration = Duration::from_secs(300);
/// Characters of a registry's own words that are shown.
const WORDS: usize = 300;

/// Where images go: `REGISTRY/PATH`, below which each has its own name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Destination {
    registry: String,
    prefix: String,
}

impl FromStr for Destination {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let prefix = text.trim_end_matches('/');
        let registry = prefix.split('/').next().unwrap_or_default();
        let destination = Self { registry: registry.to_owned(), prefix: prefix.to_owned() };
        // Without a dot or a port it would be a path at the registry that container engines take for granted.
        let named = registry == "localhost" || registry.contains(['.', ':']);
        let known = destination.image("x:1").is_ok_and(|image| image.registry() == registry);
        ensure!(
            named && known,
            "{text:?} is no registry and path, such as registry.example.com/team: no scheme before it and no tag behind"
        );
        Ok(destination)
    }
}

impl Destination {
    /// The name of an image, `NAME:TAG`, at this place.
    fn image(&self, name: &str) -> Result<Reference> {
        Ok(format!("{}/{name}", self.prefix).parse()?)
    }

    /// Whether no other machine sees what is said.
    fn is_loopback(&self) -> bool {
        let (host, _) = self.registry.rsplit_once(':').unwrap_or((&self.registry, ""));
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }

    fn client(&self) -> Result<Client> {
        // Several crates have their own default provider; ours is ring. It is there already after the first client.
        let _there = rustls::crypto::ring::default_provider().install_default();
        let mut config = ClientConfig {
            connect_timeout: Some(CONNECT),
            read_timeout: Some(ANSWER),
            // Every registry takes a blob in one piece, and not every one takes it in several.
            use_monolithic_push: true,
            ..ClientConfig::default()
        };
        if self.is_loopback() {
            config.protocol = ClientProtocol::Http;
            // What is not encrypted stays here, whatever proxy the environment names: there is one already, which is for nobody.
            config.http_proxy = Some(format!("http://{}", self.registry));
            config.no_proxy = Some("localhost,127.0.0.0/8,::1".to_owned());
        }
        Client::try_from(config).map_err(|error| self.explained(error))
    }

    /// An error of the client, with what to change. Addresses are left out: those of uploads may be signed.
    fn explained(&self, error: OciDistributionError) -> anyhow::Error {
        let registry = &self.registry;
        let (code, words) = match error {
            OciDistributionError::ServerError { code, message, .. } => (Some(code), message),
            OciDistributionError::UnauthorizedError { .. } => (Some(401), String::new()),
            OciDistributionError::AuthenticationFailure(words) => (Some(401), words),
            OciDistributionError::RegistryError { envelope, .. } => (None, envelope.to_string()),
            OciDistributionError::RequestError(error) => {
                let error = error.without_url();
                (error.status().map(|status| status.as_u16()), chain(&error))
            }
            other => (None, other.to_string()),
        };
        let words = plain(&words, WORDS);
        match code {
            Some(401 | 403) => anyhow!(
                "{registry} lets nobody with these credentials send to {}: `docker login {registry}` as somebody who may \
                 (or another tool that writes docker's config.json) and try again. It said: {words}",
                self.prefix
            ),
            Some(404) => {
                anyhow!("{registry} has no place for {}: make it there first. It said: {words}", self.prefix)
            }
            Some(429) => anyhow!("{registry} had too many requests: try again later. It said: {words}"),
            Some(code) => anyhow!("{registry} answers {code}: {words}"),
            None if self.is_loopback() => {
                anyhow!("{registry}: {words}; on a loopback address a registry has to speak plain HTTP")
            }
            None => anyhow!(
                "{registry}: {words}; a registry that is not on a loopback address has to speak HTTPS"
            ),
        }
    }
}

/// An error with those that it comes from.
fn chain(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        words = format!("{words}: {error}");
        source = error.source();
    }
    words
}

/// docker's configuration file, where there is one.
fn docker_config() -> Option<PathBuf> {
    let directory = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker"));
    directory.or_else(home).map(|directory| directory.join("config.json"))
}

/// What the file has for a registry. No error says anything of what is in it, or of what a helper printed.
fn credentials(config: Option<&Path>, registry: &str) -> Result<RegistryAuth> {
    let Some(path) = config else { return Ok(RegistryAuth::Anonymous) };
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(RegistryAuth::Anonymous),
        file => file.with_context(|| path.display().to_string())?,
    };
    let shown = path.display();
    match docker_credential::get_credential_from_reader(file, registry) {
        Ok(DockerCredential::UsernamePassword(user, password)) => Ok(RegistryAuth::Basic(user, password)),
        Ok(DockerCredential::IdentityToken(_)) => bail!(
            "{shown} has an identity token for {registry}, which is not supported: log in with a password or an access token"
        ),
        Err(CredentialRetrievalError::NoCredentialConfigured) => Ok(RegistryAuth::Anonymous),
        // What all of docker's helpers say of a registry that they do not know.
        Err(CredentialRetrievalError::HelperFailure { stdout, .. })
            if stdout.contains("credentials not found") =>
        {
            Ok(RegistryAuth::Anonymous)
        }
        Err(CredentialRetrievalError::HelperFailure { helper, .. }) => {
            bail!("the credential helper `{helper}` that {shown} names failed: try `docker login {registry}`")
        }
        Err(error) => bail!("{shown}: {error}: mend it, or try `docker login {registry}`"),
    }
}

/// An image as its archive holds it.
struct Archive {
    /// `NAME:TAG`.
    name: String,
    media_type: String,
    manifest: Vec<u8>,
    /// Configuration and layers, by digest.
    blobs: BTreeMap<String, Vec<u8>>,
}

impl Archive {
    fn read(path: &Path) -> Result<Self> {
        let mut index = Value::Null;
        let mut blobs = BTreeMap::new();
        for entry in tar::Archive::new(fs::File::open(path)?).entries()? {
            let mut entry = entry?;
            let name = entry.path()?.to_string_lossy().into_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            if name == "index.json" {
                index = serde_json::from_slice(&bytes)?;
            } else if let Some(hex) = name.strip_prefix("blobs/sha256/") {
                let named = format!("sha256:{hex}");
                ensure!(digest(&bytes) == named, "{named} has other contents");
                blobs.insert(named, bytes);
            }
        }
        let text = |pointer: &str| {
            let value = index.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
            value.with_context(|| format!("its index has no {pointer}"))
        };
        let name = text("/manifests/0/annotations/io.containerd.image.name")?;
        let name = name.rsplit('/').next().unwrap_or_default().to_owned();
        let manifest = blobs.remove(&text("/manifests/0/digest")?).context("its manifest is missing")?;
        Ok(Self { name, media_type: text("/manifests/0/mediaType")?, manifest, blobs })
    }
}

/// What was done for an image.
#[derive(Debug, PartialEq, Eq)]
struct Sent {
    /// Where it is now, with the digest.
    image: String,
    /// Bytes of the blobs that were sent.
    bytes: usize,
    /// Blobs that were there already.
    there: usize,
}

/// Sends what the registry does not have, and asks it what it now gives out.
async fn send(client: &Client, to: &Destination, archive: Archive) -> Result<Sent> {
    let image = to.image(&archive.name)?;
    let (mut bytes, mut there) = (0, 0);
    for (name, blob) in archive.blobs {
        if client.blob_exists(&image, &name).await.map_err(|error| to.explained(error))? {
            there += 1;
            continue;
        }
        bytes += blob.len();
        client.push_blob(&image, blob, &name).await.map_err(|error| to.explained(error))?;
    }
    let media_type = archive.media_type.parse()?;
    let manifest = archive.manifest;
    client
        .push_manifest_raw(&image, manifest.clone(), media_type)
        .await
        .map_err(|error| to.explained(error))?;
    let (given, named) = client
        .pull_manifest_raw(&image, &RegistryAuth::Anonymous, &[&archive.media_type])
        .await
        .map_err(|error| to.explained(error))?;
    let wanted = digest(&manifest);
    ensure!(
        given == manifest && named == wanted,
        "{} gives out {named} as {image}, and {wanted} was sent: somebody else sends there, or the registry changes images",
        to.registry
    );
    Ok(Sent { image: format!("{image}@{wanted}"), bytes, there })
}

/// Sends the archives, one after the other.
pub(crate) fn push(archives: &[PathBuf], to: &Destination) -> Result<()> {
    for sent in push_as(archives, to, &credentials(docker_config().as_deref(), &to.registry)?)? {
        println!("{}: sent {} KiB, {} blobs were there", sent.image, sent.bytes / 1024, sent.there);
    }
    Ok(())
}

fn push_as(archives: &[PathBuf], to: &Destination, credentials: &RegistryAuth) -> Result<Vec<Sent>> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let client = to.client()?;
        let mut done = Vec::new();
        for path in archives {
            let archive = Archive::read(path).with_context(|| path.display().to_string())?;
            let image = to.image(&archive.name)?;
            // Asked for once, so that a refusal is said here and not as one of the first blob.
            for operation in [RegistryOperation::Push, RegistryOperation::Pull] {
                client.auth(&image, credentials, operation).await.map_err(|error| to.explained(error))?;
            }
            done.push(send(&client, to, archive).await?);
        }
        Ok(done)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{guest, run, target};
    use ferrovirt_cluster::oci::{Entry, Image};
    use serde_json::json;
    use std::{
        io::{BufRead, BufReader, Write as _},
        net::{TcpListener, TcpStream},
        process::{Child, Command},
        thread,
        time::Instant,
    };

    const PASSWORD: &str = "opensesame";
    /// What htpasswd(1) makes of it with `-B`, for `ali`.
    const HTPASSWD: &str = "ali:$2b$04$06vEsRb/OQ3WaLic9Blhjuf5XvfPVP/pTdzFLbNhaO8fHG2jLASWe\n";

    /// Debian's registry, which is unpacked and not installed: its package would start a service.
    fn program() -> PathBuf {
        let kept = target().join("registry");
        let program = kept.join("usr/bin/docker-registry");
        if !program.exists() {
            fs::create_dir_all(target()).unwrap();
            let work = tempfile::tempdir_in(target()).unwrap();
            let package = guest::download(work.path(), "docker-registry").unwrap();
            run(Command::new("dpkg-deb").arg("-x").arg(package).arg(work.path().join("tree"))).unwrap();
            // Somebody else may have been faster.
            let _there = fs::rename(work.path().join("tree"), &kept);
        }
        program
    }

    struct Registry {
        child: Child,
        directory: tempfile::TempDir,
        address: String,
    }

    impl Registry {
        /// A registry in which `ali` may do everything and others nothing.
        fn start() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = |name: &str| directory.path().join(name);
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
            fs::write(path("htpasswd"), HTPASSWD).unwrap();
            let config = json!({
                "version": "0.1",
                "storage": {"filesystem": {"rootdirectory": path("store")}},
                "http": {"addr": address},
                "auth": {"htpasswd": {"realm": "test", "path": path("htpasswd")}},
            });
            fs::write(path("config.yml"), config.to_string()).unwrap();
            let log = fs::File::create(path("log")).unwrap();
            let child = Command::new(program())
                .arg("serve")
                .arg(path("config.yml"))
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .unwrap();
            let registry = Self { child, directory, address };
            let end = Instant::now() + Duration::from_secs(60);
            while TcpStream::connect(&registry.address).is_err() {
                assert!(Instant::now() < end, "{}", registry.log());
                thread::sleep(Duration::from_millis(50));
            }
            registry
        }

        fn log(&self) -> String {
            fs::read_to_string(self.directory.path().join("log")).unwrap()
        }

        /// Requests that send blobs.
        fn uploads(&self) -> usize {
            self.log()
                .lines()
                .filter(|line| line.contains("\"PUT /v2/") && line.contains("/blobs/uploads/"))
                .count()
        }
    }

    impl Drop for Registry {
        fn drop(&mut self) {
            let _gone = self.child.kill();
            let _gone = self.child.wait();
        }
    }

    /// The archive of a small image, and its digest.
    fn archive(directory: &Path, contents: &str) -> (PathBuf, String) {
        let mut image = Image { name: "localhost/ferrovirt/part:1".to_owned(), ..Image::default() };
        image.config = json!({"Entrypoint": ["/usr/bin/part"]});
        image.entries.insert("usr/bin/part".to_owned(), Entry::Text(contents.into(), 0o755));
        let path = directory.join(format!("{contents}.tar"));
        let digest = image.write(&path).unwrap();
        (path, digest)
    }

    /// A file as docker writes it.
    fn config(directory: &Path, registry: &str, password: &str) -> PathBuf {
        use base64::{Engine as _, prelude::BASE64_STANDARD};
        let path = directory.join("config.json");
        let auth = BASE64_STANDARD.encode(format!("ali:{password}"));
        fs::write(&path, json!({"auths": {registry: {"auth": auth}}}).to_string()).unwrap();
        path
    }

    /// Another client gets what was sent, and what is there is not sent again. Who may not send learns what to do, and the
    /// error has nothing of the password that was tried.
    #[test]
    fn a_registry_gives_out_what_it_was_sent() {
        let registry = Registry::start();
        let directory = tempfile::tempdir().unwrap();
        let (path, digest) = archive(directory.path(), "one");
        let to: Destination = format!("{}/team", registry.address).parse().unwrap();
        let file = |password| config(directory.path(), &registry.address, password);
        let push = |credentials: Option<&Path>| {
            push_as(std::slice::from_ref(&path), &to, &credentials_of(credentials, &to))
        };

        for refused in [None, Some(file("sesame-close"))] {
            let error = format!("{:#}", push(refused.as_deref()).unwrap_err());
            assert!(error.contains(&format!("docker login {}", registry.address)), "{error}");
            assert!(!error.contains("sesame"), "{error}");
        }
        assert_eq!(registry.uploads(), 0);

        let file = file(PASSWORD);
        let sent = push(Some(&file)).unwrap();
        let image = format!("{}/team/part:1", registry.address);
        assert_eq!(sent[0].image, format!("{image}@{digest}"));
        assert_eq!((sent[0].there, registry.uploads()), (0, 2), "{}", registry.log());

        let pulled = directory.path().join("pulled");
        run(Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"])
            .arg(format!("--src-creds=ali:{PASSWORD}"))
            .args([format!("docker://{image}"), format!("dir:{}", pulled.display())]))
        .expect("`cargo xtask setup` installs skopeo");
        let manifest = fs::read(pulled.join("manifest.json")).unwrap();
        assert_eq!(ferrovirt_cluster::oci::digest(&manifest), digest);

        let again = push(Some(&file)).unwrap();
        assert_eq!((again[0].there, again[0].bytes, registry.uploads()), (2, 0, 2));
    }

    fn credentials_of(config: Option<&Path>, to: &Destination) -> RegistryAuth {
        credentials(config, &to.registry).unwrap()
    }

    /// Answers requests until it gets none, each on a connection of its own.
    fn answer(listener: &TcpListener, answer: impl Fn(&str) -> String) {
        while let Ok((mut connection, _)) = listener.accept() {
            let mut lines = BufReader::new(connection.try_clone().unwrap());
            let (mut request, mut length) = (String::new(), 0);
            lines.read_line(&mut request).unwrap();
            loop {
                let mut line = String::new();
                lines.read_line(&mut line).unwrap();
                if line.trim().is_empty() {
                    break;
                }
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
            }
            lines.read_exact(&mut vec![0; length]).unwrap();
            connection.write_all(answer(&request).as_bytes()).unwrap();
        }
    }

    /// An image that a registry changed is not one that was sent.
    #[test]
    fn a_registry_that_gives_out_something_else_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to: Destination = format!("{}/team", listener.local_addr().unwrap()).parse().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let (path, digest) = archive(directory.path(), "one");
        thread::spawn(move || {
            answer(&listener, |request| {
                let (status, headers, body) = match request.split(' ').next().unwrap() {
                    "PUT" => ("201 Created", "Location: /v2/team/part/manifests/1\r\n", ""),
                    "GET" if request.contains("/manifests/") => ("200 OK", "", "{}"),
                    _ => ("200 OK", "", ""),
                };
                let length = body.len();
                format!(
                    "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
                )
            });
        });
        let error = push_as(&[path], &to, &RegistryAuth::Anonymous).unwrap_err().to_string();
        assert!(error.contains(&digest) && error.contains(&ferrovirt_cluster::oci::digest(b"{}")), "{error}");
    }

    /// 0.0.0.0 is this machine, too, and no loopback address: TLS begins with the byte 22.
    #[test]
    fn nothing_is_said_in_plain_text_to_others() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to: Destination =
            format!("0.0.0.0:{}/team", listener.local_addr().unwrap().port()).parse().unwrap();
        let heard = thread::spawn(move || {
            let mut first = [0];
            listener.accept().unwrap().0.read_exact(&mut first).unwrap();
            first[0]
        });
        let directory = tempfile::tempdir().unwrap();
        let (path, _) = archive(directory.path(), "one");
        let basic = RegistryAuth::Basic("ali".to_owned(), PASSWORD.to_owned());
        let error = push_as(&[path], &to, &basic).unwrap_err().to_string();
        assert!(error.contains("has to speak HTTPS"), "{error}");
        assert_eq!(heard.join().unwrap(), 22);
    }

    #[test]
    fn destinations_name_a_registry_and_nothing_else() {
        let read = |text: &str| text.parse::<Destination>();
        for (text, registry, loopback) in [
            ("registry.example.com/team", "registry.example.com", false),
            ("registry.example.com:5000/a/b/", "registry.example.com:5000", false),
            ("localhost/ferrovirt", "localhost", true),
            ("localhost:5000", "localhost:5000", true),
            ("127.0.0.2:5000/x", "127.0.0.2:5000", true),
            ("127.0.0.1.example.com/x", "127.0.0.1.example.com", false),
            ("localhost.example.com/x", "localhost.example.com", false),
            ("10.0.0.1:5000/x", "10.0.0.1:5000", false),
        ] {
            let destination = read(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(
                (destination.registry.as_str(), destination.is_loopback()),
                (registry, loopback),
                "{text}"
            );
            let image = destination.image("part:1").unwrap().to_string();
            assert_eq!(image, format!("{}/part:1", text.trim_end_matches('/')));
        }
        for text in [
            "",
            "team",
            "team/part",
            "https://registry.example.com/team",
            "registry.example.com/team:1",
            "registry.example.com/Team",
            "localhost:5000@registry.example.com/team",
            "registry.example.com/../x",
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains("registry.example.com/team"), "{text}: {error}");
        }
    }

    /// Without a file or an entry nobody sends; what cannot be used is an error that shows nothing of it.
    #[test]
    fn credentials_are_those_of_the_registry() {
        let directory = tempfile::tempdir().unwrap();
        let path = config(directory.path(), "registry.example.com", "secret");
        let basic = RegistryAuth::Basic("ali".to_owned(), "secret".to_owned());
        assert_eq!(credentials(Some(&path), "registry.example.com").unwrap(), basic);
        assert_eq!(credentials(Some(&path), "other.example.com").unwrap(), RegistryAuth::Anonymous);
        for nothing in [None, Some(directory.path().join("missing"))] {
            let found = credentials(nothing.as_deref(), "registry.example.com").unwrap();
            assert_eq!(found, RegistryAuth::Anonymous);
        }
        let token =
            json!({"auths": {"registry.example.com": {"auth": "", "identitytoken": "secret"}}}).to_string();
        let helper = json!({"credsStore": "no-such-helper", "auths": {}}).to_string();
        for text in [
            token,
            helper,
            "secret".to_owned(),
            r#"{"auths":{"registry.example.com":{"auth":"secret"}}}"#.to_owned(),
        ] {
            fs::write(&path, &text).unwrap();
            let error = format!("{:#}", credentials(Some(&path), "registry.example.com").unwrap_err());
            assert!(error.contains("config.json") && !error.contains("secret"), "{text}: {error}");
        }
    }

    /// A damaged archive is not sent.
    #[test]
    fn blobs_are_what_their_names_say() {
        let directory = tempfile::tempdir().unwrap();
        let (path, digest) = archive(directory.path(), "one");
        let read = Archive::read(&path).unwrap();
        assert_eq!((read.name.as_str(), read.blobs.len()), ("part:1", 2));
        assert_eq!(ferrovirt_cluster::oci::digest(&read.manifest), digest);
        let bytes = fs::read(&path).unwrap();
        let at = bytes.windows(5).position(|five| five == b"linux").unwrap();
        let mut other = bytes;
        other[at] = b'L';
        fs::write(&path, other).unwrap();
        let error = Archive::read(&path).err().unwrap().to_string();
        assert!(error.contains("other contents"), "{error}");
    }
}
