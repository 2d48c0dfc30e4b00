//! What must hold whatever comes in.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests

use ferrovirt_qemu::{
    Descriptors, command_line,
    dhcp::{Request, answer},
    guest::{Action, Exit, Guest},
    order::{Lease, Order},
    protocol::State,
    qmp::{self, Event, Lines, Message, Reason},
};
use proptest::prelude::*;
use std::{net::Ipv4Addr, time::Duration};

fn order() -> Order {
    let file = format!("{}/tests/golden/minimal/order.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

fn descriptors() -> Descriptors {
    Descriptors {
        qmp: 3,
        serial: Some(4),
        taps: [("default".into(), vec![5, 6, 7, 8])].into(),
        ..Descriptors::default()
    }
}

/// Keys of an option that QEMU splits at commas, as QEMU splits it: two commas are one and do not split.
fn keys(option: &str) -> Vec<String> {
    option
        .replace(",,", "\u{0}")
        .split(',')
        .map(|pair| pair.split('=').next().unwrap_or_default().to_owned())
        .collect()
}

#[derive(Clone, Debug)]
enum Input {
    Message(Message),
    Pause,
    Unpause,
    Shutdown(u16),
    Later(u16),
    Broken,
    Closed,
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        Just(Message::Greeting),
        (1_u64..8).prop_map(|id| Message::Return { id: Some(id) }),
        (1_u64..8).prop_map(|id| Message::Error { id: Some(id), description: "no".into() }),
        prop_oneof![
            Just(Event::Stop),
            Just(Event::Resume),
            Just(Event::Reset),
            Just(Event::Powerdown),
            Just(Event::GuestPanicked),
            Just(Event::Shutdown(Reason::GuestShutdown)),
            Just(Event::Shutdown(Reason::Other("x".into()))),
        ]
        .prop_map(Message::Event),
    ]
}

fn input() -> impl Strategy<Value = Input> {
    prop_oneof![
        4 => message().prop_map(Input::Message),
        1 => Just(Input::Pause),
        1 => Just(Input::Unpause),
        1 => (0_u16..100).prop_map(Input::Shutdown),
        2 => (0_u16..100).prop_map(Input::Later),
        1 => Just(Input::Broken),
        1 => Just(Input::Closed),
    ]
}

proptest! {
    #[test]
    fn no_text_of_a_person_becomes_another_option(serial in "\\PC{0,40}", path in "\\PC{0,40}", args in "\\PC{0,40}") {
        let plain = command_line(&order(), &descriptors()).unwrap();
        let mut odd = order();
        odd.serial_number = Some(serial);
        odd.disks[0].path = format!("/{path}");
        odd.kernel.as_mut().unwrap().args = format!("x{args}");
        let line = command_line(&odd, &descriptors()).unwrap();
        prop_assert_eq!(line.len(), plain.len());
        for (have, want) in line.iter().zip(&plain) {
            let (have, want) = (have.to_str().unwrap(), want.to_str().unwrap());
            if want.starts_with("type=1,") {
                let mut expected = keys(want);
                expected.push("serial".into());
                prop_assert_eq!(keys(have), expected);
            } else if want.starts_with("if=none,") {
                prop_assert_eq!(keys(have), keys(want));
            } else if !want.starts_with("console=") {
                prop_assert_eq!(have, want);
            }
        }
    }

    #[test]
    fn a_guest_that_is_shutting_down_always_has_an_end(inputs in prop::collection::vec(input(), 0..60)) {
        let mut guest = Guest::new(&order());
        let mut now = Duration::from_secs(5);
        let mut killed = false;
        for input in inputs {
            let actions = match input {
                Input::Message(message) => guest.message(message, now),
                Input::Pause => guest.pause().unwrap_or_default(),
                Input::Unpause => guest.unpause().unwrap_or_default(),
                Input::Shutdown(grace) => guest.shutdown(Duration::from_secs(grace.into()), now),
                Input::Later(seconds) => {
                    now += Duration::from_secs(seconds.into());
                    guest.tick(now)
                }
                Input::Broken => guest.broken("x", now),
                Input::Closed => {
                    guest.closed(now);
                    Vec::new()
                }
            };
            killed |= actions.contains(&Action::Kill);
            for action in &actions {
                if let Action::State(state) = action {
                    let entered = matches!(state, State::Running | State::Paused | State::ShuttingDown);
                    prop_assert!(entered);
                }
            }
            if *guest.state() == State::ShuttingDown {
                prop_assert!(killed || guest.deadline().is_some());
            }
        }
        // Anyone who asks for an end gets one, at the latest after the grace and two more waits.
        let mut actions = guest.shutdown(Duration::from_secs(30), now);
        for _ in 0..40 {
            now += Duration::from_secs(1);
            actions.extend(guest.tick(now));
        }
        prop_assert!(killed || actions.contains(&Action::Kill));
        let ended = matches!(guest.gone(Exit::Code(0), ""), State::Ended { .. });
        prop_assert!(ended);
    }

    #[test]
    fn any_bytes_from_qemu_are_taken(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..20)) {
        let mut lines = Lines::new(64);
        for piece in pieces {
            lines.push(&piece);
            while let Ok(Some(line)) = lines.next_line() {
                prop_assert!(line.len() <= 64);
                let _ = qmp::parse(&line);
            }
        }
    }

    #[test]
    fn any_bytes_from_a_guest_are_taken(mut bytes in prop::collection::vec(any::<u8>(), 0..700), search in prop::collection::vec("\\PC{0,80}", 0..9)) {
        // Half of the cases get past the fixed part.
        if bytes.len() > 240 && bytes[0] % 2 == 0 {
            bytes[..3].copy_from_slice(&[1, 1, 6]);
            bytes[236..240].copy_from_slice(&[99, 130, 83, 99]);
        }
        if let Ok(request) = Request::parse(&bytes) {
            let address = Ipv4Addr::new(10, 0, 2, 2);
            let lease = Lease { address, prefix: bytes[0], server: address, gateway: None, dns: Vec::new(), search, hostname: "h".into(), mtu: 1500 };
            if let Some(answer) = answer(&request, &lease, request.mac) {
                prop_assert!((300..=548).contains(&answer.bytes.len()));
            }
        }
    }
}
