//! QEMU's machine protocol: lines of bytes in, messages out, and commands as bytes.
//!
//! QEMU is not trusted here: a guest may have taken it over. Nothing panics, lines are bounded, and what is not
//! known (events, run states, reasons of newer versions) is kept as it came or passed over.

mod lines;

pub use lines::{Lines, TooLong};
use serde::Deserialize;
use serde_json::Value;

/// One message from QEMU.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// The first one of a session.
    Greeting,
    /// A command was carried out.
    Return {
        /// Number of the command, when it was one of ours.
        id: Option<u64>,
    },
    /// A command was refused.
    Error {
        /// Number of the command; absent when QEMU could not even read it.
        id: Option<u64>,
        /// QEMU's words.
        description: String,
    },
    /// Something happened.
    Event(Event),
    /// A message of a kind that is not known.
    Other,
}

/// Events that the life of a guest consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// QEMU is about to end.
    Shutdown(Reason),
    /// The guest asked to be powered down (or was asked to).
    Powerdown,
    /// The guest was reset.
    Reset,
    /// vCPUs stopped.
    Stop,
    /// vCPUs run.
    Resume,
    /// The guest's kernel reported a panic.
    GuestPanicked,
    /// A disk request failed and the guest was stopped for it.
    BlockError(String),
    /// Any other event, by name.
    Other(String),
}

/// Why QEMU ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The guest powered itself off.
    GuestShutdown,
    /// The guest panicked.
    GuestPanic,
    /// The command `quit`.
    HostQuit,
    /// A signal to QEMU.
    HostSignal,
    /// Any other, as QEMU names it.
    Other(String),
}

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    #[serde(rename = "return")]
    result: Option<Value>,
    error: Option<RawError>,
    event: Option<String>,
    data: Option<Value>,
    id: Option<Value>,
}

#[derive(Deserialize)]
struct RawError {
    desc: Option<String>,
}

/// What a line says. A line that is not a JSON object is an error: QEMU never sends one.
///
/// # Errors
/// What the JSON reader says.
pub fn parse(line: &[u8]) -> Result<Message, serde_json::Error> {
    let raw: Raw = serde_json::from_slice(line)?;
    let id = raw.id.as_ref().and_then(Value::as_u64);
    Ok(if let Some(name) = raw.event {
        Message::Event(event(name, raw.data.as_ref()))
    } else if let Some(error) = raw.error {
        Message::Error { id, description: error.desc.unwrap_or_default() }
    } else if raw.greeting.is_some() {
        Message::Greeting
    } else if raw.result.is_some() {
        Message::Return { id }
    } else {
        Message::Other
    })
}

fn event(name: String, data: Option<&Value>) -> Event {
    let text = |key| data.and_then(|data| data.get(key)).and_then(Value::as_str);
    match name.as_str() {
        "SHUTDOWN" => Event::Shutdown(match text("reason").unwrap_or_default() {
            "guest-shutdown" => Reason::GuestShutdown,
            "guest-panic" => Reason::GuestPanic,
            "host-qmp-quit" => Reason::HostQuit,
            "host-signal" => Reason::HostSignal,
            other => Reason::Other(other.into()),
        }),
        "POWERDOWN" => Event::Powerdown,
        "RESET" => Event::Reset,
        "STOP" => Event::Stop,
        "RESUME" => Event::Resume,
        "GUEST_PANICKED" => Event::GuestPanicked,
        "BLOCK_IO_ERROR" if text("action") == Some("stop") => {
            Event::BlockError(text("reason").unwrap_or("unknown reason").into())
        }
        _ => Event::Other(name),
    }
}

/// A command without arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Ends the negotiation that the greeting begins.
    Capabilities,
    /// Runs the vCPUs.
    Continue,
    /// Stops the vCPUs.
    Stop,
    /// Presses the ACPI power button.
    Powerdown,
    /// Ends QEMU.
    Quit,
    /// Takes the descriptor that comes with the line, a stream of a client of VNC.
    TakeStream,
    /// Serves VNC on that.
    ServeVnc,
}

impl Command {
    /// The name that QEMU knows it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Capabilities => "qmp_capabilities",
            Self::Continue => "cont",
            Self::Stop => "stop",
            Self::Powerdown => "system_powerdown",
            Self::Quit => "quit",
            Self::TakeStream => "getfd",
            Self::ServeVnc => "add_client",
        }
    }

    /// Its arguments, as a member of the line.
    fn arguments(self) -> &'static str {
        match self {
            Self::TakeStream => ",\"arguments\":{\"fdname\":\"client\"}",
            Self::ServeVnc => ",\"arguments\":{\"protocol\":\"vnc\",\"fdname\":\"client\"}",
            _ => "",
        }
    }

    /// The command as a line, with the number that its answer will carry.
    pub fn line(self, id: u64) -> Vec<u8> {
        format!("{{\"execute\":\"{}\"{},\"id\":{id}}}\n", self.name(), self.arguments()).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_messages_of_a_session_are_read() {
        let cases: [(&str, Message); 9] = [
            (r#"{"QMP": {"version": {"qemu": {"micro": 22}}, "capabilities": ["oob"]}}"#, Message::Greeting),
            (r#"{"return": {}, "id": 7}"#, Message::Return { id: Some(7) }),
            (r#"{"return": [1,2], "id": "theirs"}"#, Message::Return { id: None }),
            (
                r#"{"id": 3, "error": {"class": "GenericError", "desc": "no"}}"#,
                Message::Error { id: Some(3), description: "no".into() },
            ),
            (
                r#"{"timestamp": {"seconds": 1}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}"#,
                Message::Event(Event::Shutdown(Reason::GuestShutdown)),
            ),
            (
                r#"{"event": "SHUTDOWN", "data": {"guest": true, "reason": "of-the-future"}}"#,
                Message::Event(Event::Shutdown(Reason::Other("of-the-future".into()))),
            ),
            (
                r#"{"event": "BLOCK_IO_ERROR", "data": {"action": "stop", "reason": "No space left on device"}}"#,
                Message::Event(Event::BlockError("No space left on device".into())),
            ),
            (
                r#"{"event": "SOMETHING_NEW", "data": []}"#,
                Message::Event(Event::Other("SOMETHING_NEW".into())),
            ),
            (r#"{"whatever": 1}"#, Message::Other),
        ];
        for (line, message) in cases {
            assert_eq!(parse(line.as_bytes()).unwrap(), message, "{line}");
        }
    }

    #[test]
    fn what_is_no_object_is_an_error() {
        let deep = "[".repeat(100_000);
        for line in ["", "null x", "[", "{\"event\":1}", "\u{fffd}", deep.as_str()] {
            assert!(parse(line.as_bytes()).is_err(), "{line:.20}");
        }
        assert!(parse(&[0xff, 0xfe]).is_err());
    }

    #[test]
    fn commands_are_lines() {
        assert_eq!(Command::Powerdown.line(12), b"{\"execute\":\"system_powerdown\",\"id\":12}\n");
    }
}
