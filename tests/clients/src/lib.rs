//! What other people's clients send, as it was recorded once, to be sent again to any API server.
//!
//! A client that is in no package registry cannot be run in CI; its requests can. A file below `recorded/` is one version of
//! one client: its name, version and commit, the date, and for each command line what it sent, in order, against a machine
//! `guest` in the namespace `vms`. Method, path, query, body and the headers that a server decides by are kept; credentials,
//! lengths and keys of a connection are not, nor what it asks after an error to compare versions. `{uid}` in a body stands for
//! that of the object that was read before.

mod server;

pub use server::{Answer, Server, Socket, until};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// One version of one client.
#[derive(Debug, Deserialize)]
pub struct Recorded {
    /// Its name.
    pub client: String,
    /// What it says itself.
    pub version: String,
    /// What it was built from.
    pub commit: String,
    /// When it was recorded, `YYYY-MM-DD`.
    pub date: String,
    /// What was run.
    pub commands: Vec<Command>,
}

/// One command line.
#[derive(Clone, Debug, Deserialize)]
pub struct Command {
    /// As it was typed, without the namespace.
    pub command: String,
    /// What it sent.
    pub requests: Vec<Request>,
    /// What has to be said, where the last request is refused whatever there is: the code and the message. A message with 404
    /// is that of the embedded API server; others say with it in their own words that they do not have the resource.
    #[serde(default)]
    pub refused: Option<(u16, String)>,
}

/// One request.
#[derive(Clone, Debug, Deserialize)]
pub struct Request {
    /// HTTP method.
    pub method: String,
    /// Path of the URL.
    pub path: String,
    /// Its query, or nothing.
    #[serde(default)]
    pub query: String,
    /// Headers by their names in lower case.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The body, or null.
    #[serde(default)]
    pub body: Value,
}

impl Request {
    /// Whether it asks for a WebSocket.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        self.headers.get("upgrade").is_some_and(|protocol| protocol == "websocket")
    }
}

impl Recorded {
    /// What virtctl sends.
    ///
    /// # Errors
    /// A file that is not of this form.
    pub fn virtctl() -> Result<Self> {
        Ok(serde_json::from_str(include_str!("../recorded/virtctl.json"))?)
    }

    /// What a command line sent.
    ///
    /// # Errors
    /// One that was not run.
    pub fn of(&self, command: &str) -> Result<&Command> {
        let found = self.commands.iter().find(|one| one.command == command);
        found.with_context(|| format!("`{} {command}` is not recorded", self.client))
    }

    /// Sends what a command line sent; the last answer.
    ///
    /// # Errors
    /// A connection that breaks off, a command that was not run, or sent nothing.
    pub fn run(&self, server: &Server, command: &str) -> Result<Answer> {
        let mut last: Option<Answer> = None;
        for request in &self.of(command)?.requests {
            let uid = last.as_ref().and_then(|answer| answer.body.pointer("/metadata/uid")?.as_str());
            let body = request.body.to_string().replace("{uid}", uid.unwrap_or_default());
            let request = Request { body: serde_json::from_str(&body)?, ..request.clone() };
            last = Some(server.ask(&request).with_context(|| command.to_owned())?);
        }
        last.with_context(|| format!("`{} {command}` sent nothing", self.client))
    }

    /// Sends everything that is refused whatever there is, and checks that it is said so; `embedded` is the embedded API
    /// server.
    ///
    /// # Errors
    /// What was answered otherwise.
    pub fn missing(&self, server: &Server, embedded: bool) -> Result<()> {
        for command in &self.commands {
            let Some((code, message)) = &command.refused else { continue };
            let answer =
                self.run(server, &command.command)?.expect(*code).context(command.command.clone())?;
            let said = if answer.body.is_null() { answer.text.as_str() } else { answer.message() };
            let own = embedded || *code != 404;
            ensure!(!own || said == message, "{}: {said}", command.command);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What people read about it is what is tested.
    #[test]
    fn everything_that_is_refused_is_in_the_table() {
        let table = std::fs::read_to_string(ferrovirt_e2e::root().join("docs/compatibility.md")).unwrap();
        for command in Recorded::virtctl().unwrap().commands.iter().filter(|one| one.refused.is_some()) {
            let words: Vec<_> = command.command.split(' ').take(2).collect();
            let named = table.contains(&format!("`{}`", words[0]))
                || table.contains(&format!("`{}`", words.join(" ")));
            assert!(named, "{} is not in docs/compatibility.md", command.command);
        }
        let all = Recorded::virtctl().unwrap();
        assert!(table.contains(&all.version) && table.contains(&all.date), "it names another version");
    }

    #[test]
    fn what_is_recorded_can_be_sent_again() {
        let all = Recorded::virtctl().unwrap();
        assert_eq!(all.client, "virtctl");
        assert!(all.date.len() == 10 && all.version.starts_with('v') && !all.commit.is_empty());
        for command in &all.commands {
            assert!(!command.requests.is_empty(), "{}", command.command);
            for request in &command.requests {
                assert!(request.path.starts_with("/api"), "{request:?}");
                assert!(!request.headers.contains_key("authorization"), "{request:?}");
            }
        }
        let names: std::collections::BTreeSet<_> = all.commands.iter().map(|one| &one.command).collect();
        assert_eq!(names.len(), all.commands.len(), "one is there twice");
    }
}
