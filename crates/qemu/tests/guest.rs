//! Lives of a guest, written as what QEMU says and what the launcher then does.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests

use ferrovirt_qemu::{
    guest::{Action, Exit, Guest, Refusal},
    order::Order,
    protocol::{Ending, State},
    qmp,
};
use std::time::Duration;

const START: Duration = Duration::from_secs(1000);

fn order() -> Order {
    let file = format!("{}/tests/golden/minimal/order.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

/// A guest and what came out of it, as short words.
struct Life(Guest, Duration);

impl Life {
    fn new(order: &Order) -> Self {
        Self(Guest::new(order), START)
    }

    fn running() -> Self {
        Self::running_as(&order())
    }

    fn running_as(order: &Order) -> Self {
        let mut life = Self::new(order);
        assert_eq!(life.hears(r#"{"QMP":{}}"#), ["qmp_capabilities#1"]);
        assert_eq!(life.hears(r#"{"return":{},"id":1}"#), ["cont#2"]);
        assert_eq!(life.hears(r#"{"event":"RESUME"}"#), ["state running"]);
        assert_eq!(life.hears(r#"{"return":{},"id":2}"#), [""; 0]);
        life
    }

    fn hears(&mut self, line: &str) -> Vec<String> {
        words(self.0.message(qmp::parse(line.as_bytes()).unwrap(), self.1))
    }

    fn after(&mut self, seconds: u64) -> Vec<String> {
        self.1 += Duration::from_secs(seconds);
        words(self.0.tick(self.1))
    }

    fn shutdown(&mut self, seconds: u64) -> Vec<String> {
        words(self.0.shutdown(Duration::from_secs(seconds), self.1))
    }

    fn gone(&mut self) -> (Ending, String) {
        match self.0.gone(Exit::Code(0), "") {
            State::Ended { ending, message } => (ending, message),
            other => panic!("{other:?}"),
        }
    }
}

fn words(actions: Vec<Action>) -> Vec<String> {
    let word = |action| match action {
        Action::Send(line) | Action::SendStream(line) => {
            let command: serde_json::Value = serde_json::from_slice(&line).unwrap();
            format!("{}#{}", command["execute"].as_str().unwrap(), command["id"])
        }
        Action::Kill => "kill".into(),
        Action::State(state) => format!("state {}", serde_json::to_value(state).unwrap().as_str().unwrap()),
        Action::Log(_) => "log".into(),
        Action::Refused(text) | Action::NoVnc(text) => format!("refused {text}"),
    };
    actions.into_iter().map(word).collect()
}

#[test]
fn a_guest_that_powers_itself_off_is_shut_down() {
    let mut life = Life::running();
    let said = life.hears(r#"{"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-shutdown"}}"#);
    assert_eq!(said, ["state shuttingDown"]);
    assert_eq!(life.gone().0, Ending::Shutdown);
}

#[test]
fn pause_and_unpause_follow_the_events() {
    let mut life = Life::running();
    assert_eq!(life.0.unpause(), Err(Refusal::Already("running")));
    assert_eq!(words(life.0.pause().unwrap()), ["stop#3"]);
    assert_eq!(life.hears(r#"{"event":"STOP"}"#), ["state paused"]);
    assert_eq!(life.0.pause(), Err(Refusal::Already("paused")));
    assert_eq!(words(life.0.unpause().unwrap()), ["cont#4"]);
    assert_eq!(
        life.hears(r#"{"id":4,"error":{"class":"GenericError","desc":"busy"}}"#),
        ["refused QEMU refused cont: busy"]
    );
    assert_eq!(life.hears(r#"{"event":"RESUME"}"#), ["state running"]);
}

#[test]
fn vnc_is_served_on_a_stream_while_there_is_a_guest_with_graphics() {
    let mut life = Life::new(&Order { graphics: true, ..order() });
    assert_eq!(life.0.serve_vnc(), Err(Refusal::Starting));
    let mut life = Life::running_as(&Order { graphics: true, ..order() });
    let actions = life.0.serve_vnc().unwrap();
    assert!(matches!(actions[..], [Action::SendStream(_), Action::Send(_)]));
    assert_eq!(words(actions), ["getfd#3", "add_client#4"]);
    assert_eq!(
        life.hears(r#"{"id":4,"error":{"class":"GenericError","desc":"no"}}"#),
        ["refused QEMU refused add_client: no"]
    );
    life.shutdown(8);
    assert_eq!(life.0.serve_vnc(), Err(Refusal::ShuttingDown));
    let mut without = Life::new(&Order { graphics: false, ..order() });
    assert_eq!(without.0.serve_vnc(), Err(Refusal::NoGraphics));
}

#[test]
fn a_guest_can_be_left_paused_after_start() {
    let mut life = Life::new(&Order { start_paused: true, ..order() });
    assert_eq!(life.0.pause(), Err(Refusal::Starting));
    life.hears(r#"{"QMP":{}}"#);
    assert_eq!(life.hears(r#"{"return":{},"id":1}"#), ["state paused"]);
}

#[test]
fn a_graceful_shutdown_presses_the_button_again_and_ends_qemu_at_last() {
    let mut life = Life::running();
    assert_eq!(life.shutdown(8), ["system_powerdown#3", "state shuttingDown"]);
    assert_eq!(life.0.pause(), Err(Refusal::ShuttingDown));
    assert_eq!(life.after(1), [""; 0]);
    assert_eq!(life.after(2), ["system_powerdown#4"]);
    assert_eq!(life.after(3), ["system_powerdown#5"]);
    assert_eq!(life.after(2), ["quit#6"]);
    assert_eq!(life.after(4), [""; 0]);
    assert_eq!(life.after(1), ["kill"]);
    assert_eq!(life.gone().0, Ending::Destroyed);
}

#[test]
fn a_guest_that_obeys_the_button_is_shut_down_and_not_destroyed() {
    let mut life = Life::running();
    life.shutdown(8);
    life.hears(r#"{"event":"POWERDOWN"}"#);
    life.hears(r#"{"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-shutdown"}}"#);
    assert_eq!(life.shutdown(0), [""; 0]);
    assert_eq!(life.gone().0, Ending::Shutdown);
}

#[test]
fn a_second_request_can_only_shorten_the_grace() {
    let mut life = Life::running();
    life.shutdown(60);
    assert_eq!(life.shutdown(100), [""; 0]);
    assert_eq!(life.shutdown(2), [""; 0]);
    assert_eq!(life.after(2), ["quit#4"]);

    let mut life = Life::running();
    life.shutdown(60);
    assert_eq!(life.shutdown(0), ["quit#4"]);
}

#[test]
fn a_paused_guest_runs_again_to_see_the_button() {
    let mut life = Life::running();
    life.hears(r#"{"event":"STOP"}"#);
    assert_eq!(life.shutdown(5), ["cont#3", "system_powerdown#4", "state shuttingDown"]);
}

#[test]
fn without_acpi_or_grace_qemu_is_ended_at_once() {
    let mut life = Life::running();
    assert_eq!(life.shutdown(0), ["state shuttingDown", "quit#3"]);
    life.hears(r#"{"event":"SHUTDOWN","data":{"guest":false,"reason":"host-qmp-quit"}}"#);
    assert_eq!(life.gone().0, Ending::Destroyed);

    let mut life = Life::new(&Order { acpi: false, ..order() });
    life.hears(r#"{"QMP":{}}"#);
    life.hears(r#"{"return":{},"id":1}"#);
    assert_eq!(life.shutdown(30), ["state shuttingDown", "quit#3"]);
}

#[test]
fn a_qemu_that_has_not_answered_yet_is_killed() {
    let mut life = Life::new(&order());
    assert_eq!(life.shutdown(30), ["state shuttingDown", "kill"]);
    assert_eq!(life.gone().0, Ending::Destroyed);
}

#[test]
fn endings_are_distinguished_and_the_last_words_are_kept() {
    for (reason, ending) in [
        ("guest-panic", Ending::Panicked),
        ("host-signal", Ending::Failed),
        ("host-error", Ending::Failed),
        ("host-qmp-quit", Ending::Destroyed),
    ] {
        let mut life = Life::running();
        life.hears(&format!(r#"{{"event":"SHUTDOWN","data":{{"reason":"{reason}"}}}}"#));
        assert_eq!(life.gone().0, ending, "{reason}");
    }
    let mut panicked = Life::running();
    panicked.hears(r#"{"event":"GUEST_PANICKED","data":{"action":"pause"}}"#);
    assert_eq!(panicked.gone().0, Ending::Panicked);

    let mut died = Life::running();
    let State::Ended { ending, message } = died.0.gone(Exit::Signal(9), "qemu: out of luck\n") else {
        panic!()
    };
    assert_eq!((ending, message.as_str()), (Ending::Failed, "QEMU was ended by signal 9: qemu: out of luck"));

    let mut refused = Life::new(&order());
    refused.hears(r#"{"QMP":{}}"#);
    refused.hears(r#"{"return":{},"id":1}"#);
    assert_eq!(refused.hears(r#"{"id":2,"error":{"desc":"no"}}"#), ["kill"]);
    let (ending, message) = refused.gone();
    assert_eq!((ending, message.as_str()), (Ending::Failed, "QEMU refused to start the guest: no"));
}

#[test]
fn a_qemu_that_says_goodbye_and_stays_is_killed() {
    let mut life = Life::running();
    life.hears(r#"{"event":"SHUTDOWN","data":{"reason":"guest-shutdown"}}"#);
    assert_eq!(life.0.deadline(), Some(START + Duration::from_secs(5)));
    assert_eq!(life.after(5), ["kill"]);
    assert_eq!(life.gone().0, Ending::Shutdown);
}

#[test]
fn a_guest_that_stays_after_a_panic_can_still_be_ended() {
    let mut life = Life::running();
    life.hears(r#"{"event":"GUEST_PANICKED","data":{"action":"pause"}}"#);
    life.hears(r#"{"event":"STOP"}"#);
    assert_eq!(life.shutdown(0), ["state shuttingDown", "quit#3"]);
    assert_eq!(life.gone().0, Ending::Panicked);
}
