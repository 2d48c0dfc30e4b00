//! What supervisor and API server say to each other: one JSON object a line over a socket that both have from the
//! start.
//!
//! Kubeconfigs go this way because their files are root's. Tools run programs that a kubeconfig names (`exec`) and open
//! files that it names, so the supervisor takes them apart into fields that can do neither, and writes those.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

/// Longest message in bytes; a kubeconfig with certificates has some 4 KiB.
const LONGEST: usize = 64 * 1024;

/// What the API server must know, as its one argument.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Settings {
    /// Its directory, for messages: it is in it and may not be able to reach it by this name.
    pub(super) directory: PathBuf,
    pub(super) node_name: String,
    pub(super) options: super::ApiOptions,
}

/// From the supervisor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kvm {
    /// Guests are emulated in software.
    pub(super) emulate: bool,
}

/// From the API server.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Said {
    /// Write this file.
    Credential { file: File, kubeconfig: Box<Kubeconfig> },
    /// It answers requests, as this cluster: the UID of the namespace kube-system.
    Ready { cluster: String },
}

/// The kubeconfigs that the supervisor writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum File {
    /// The administrator's.
    Admin,
    /// The node agent's, for machines.
    Handler,
    /// The node agent's, for its node and pods.
    Node,
}

/// A kubeconfig of plain values.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kubeconfig {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    clusters: Vec<NamedCluster>,
    contexts: Vec<NamedContext>,
    #[serde(rename = "current-context")]
    current_context: String,
    users: Vec<NamedUser>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority_data: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedContext {
    name: String,
    context: Context_,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Context_ {
    cluster: String,
    user: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct User {
    /// Where the token is, in what this process writes; what it hears may name no file.
    #[serde(rename = "tokenFile", skip_deserializing, skip_serializing_if = "Option::is_none")]
    token_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_certificate_data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_key_data: Option<String>,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("User")
    }
}

impl Kubeconfig {
    /// Takes the token out and names a file in its place, which clients read again while they run.
    pub(super) fn move_token(&mut self, path: &Path) -> Option<String> {
        let user = &mut self.users.first_mut()?.user;
        let token = user.token.take()?;
        user.token_file = Some(path.to_owned());
        Some(token)
    }
}

/// Messages that come over a socket.
#[derive(Debug)]
pub(super) struct Lines {
    stream: UnixStream,
    bytes: Vec<u8>,
}

/// What a look at the socket gave.
#[derive(Debug)]
pub(super) enum Heard<T> {
    Message(T),
    /// Nothing whole is there yet.
    Nothing,
    /// The other side is gone.
    Closed,
}

impl Lines {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, bytes: Vec::new() }
    }

    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Whether a whole message was read from the socket and not taken: nothing says so when it is polled.
    pub(super) fn is_waiting(&self) -> bool {
        self.bytes.contains(&b'\n')
    }

    /// The next message.
    ///
    /// # Errors
    /// A message that is none, or is too long: the other side is not to be trusted with anything more.
    pub(super) fn next<T: DeserializeOwned>(&mut self) -> Result<Heard<T>> {
        loop {
            if let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.bytes.drain(..=end).collect();
                // Its text may hold a key: the parser's error is left out but for the place.
                let message = serde_json::from_slice(&line)
                    .map_err(|error| anyhow::anyhow!("no such message (column {})", error.column()))?;
                return Ok(Heard::Message(message));
            }
            ensure!(self.bytes.len() <= LONGEST, "a message of more than {LONGEST} bytes");
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece) {
                Ok(0) => return Ok(Heard::Closed),
                Ok(length) => self.bytes.extend_from_slice(piece.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Heard::Nothing),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // An end without ceremony.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(Heard::Closed),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether a text is the identity of a cluster: it becomes an argument and the content of a file.
pub(super) fn is_identity(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Sends one message.
pub(super) fn say(mut stream: &UnixStream, message: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line).context("the other process of `ferrovirt up` is gone")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(text: &str) -> Result<Heard<Said>> {
        let (ours, theirs) = UnixStream::pair()?;
        (&theirs).write_all(text.as_bytes())?;
        drop(theirs);
        Lines::new(ours).next()
    }

    fn credential(user: &str) -> String {
        let text = format!(
            r#"{{"credential":{{"file":"admin","kubeconfig":{{"apiVersion":"v1","kind":"Config",
            "clusters":[{{"name":"f","cluster":{{"server":"https://127.0.0.1:1","certificate-authority-data":"QQ=="}}}}],
            "contexts":[{{"name":"f","context":{{"cluster":"f","user":"u"}}}}],"current-context":"f",
            "users":[{{"name":"u","user":{user}}}]}}}}}}"#
        );
        text.replace('\n', "") + "\n"
    }

    #[test]
    fn a_kubeconfig_that_names_programs_or_files_is_refused() {
        assert!(matches!(
            heard(&credential(r#"{"token":"t"}"#)),
            Ok(Heard::Message(Said::Credential { .. }))
        ));
        for user in [
            r#"{"exec":{"apiVersion":"client.authentication.k8s.io/v1","command":"/bin/sh"}}"#,
            r#"{"tokenFile":"/etc/shadow"}"#,
            r#"{"client-key":"/etc/ssl/key"}"#,
            r#"{"auth-provider":{"name":"gcp"}}"#,
        ] {
            assert!(heard(&credential(user)).is_err(), "{user}");
        }
    }

    #[test]
    fn a_token_goes_to_a_file_of_its_own_that_clients_read_again() {
        let Heard::Message(Said::Credential { mut kubeconfig, .. }) =
            heard(&credential(r#"{"token":"secret"}"#)).unwrap()
        else {
            panic!("no credential");
        };
        assert_eq!(kubeconfig.move_token(Path::new("/run/token")).as_deref(), Some("secret"));
        let text = serde_saphyr::to_string(&kubeconfig).unwrap();
        assert!(!text.contains("secret"), "{text}");
        let read = kube::config::Kubeconfig::from_yaml(&text).unwrap();
        let user = read.auth_infos[0].auth_info.as_ref().unwrap();
        assert_eq!((user.token_file.as_deref(), user.token.is_none()), (Some("/run/token"), true));
    }

    #[test]
    fn messages_that_arrive_together_are_known_to_wait() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let ready = "{\"ready\":{\"cluster\":\"a\"}}\n";
        (&theirs).write_all(ready.repeat(2).as_bytes()).unwrap();
        let mut lines = Lines::new(ours);
        for waiting in [true, false] {
            assert!(matches!(lines.next(), Ok(Heard::Message(Said::Ready { .. }))));
            assert_eq!(lines.is_waiting(), waiting);
        }
    }

    #[test]
    fn a_message_without_end_is_refused() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let writer = std::thread::spawn(move || {
            let piece = [b'x'; 4096];
            while (&theirs).write_all(&piece).is_ok() {}
        });
        assert!(Lines::new(ours).next::<Said>().is_err());
        writer.join().unwrap();
    }
}
