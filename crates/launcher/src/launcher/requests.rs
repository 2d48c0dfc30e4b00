//! What the handler or the node agent asks for.

use super::Launcher;
use crate::{
    files, log,
    slot::{self, Network},
    start::{self, Started},
};
use ferrovirt_qemu::{
    guest::Guest,
    order::{Accelerator, Order},
    protocol::{Console, Ending, Request},
};
use ferrovirt_sys::kvm::{self, Kvm};
use std::{io, time::Duration};

/// How long a virtual processor may take to run a few instructions: nobody waits for this launcher but its own guest.
const KVM: Duration = Duration::from_secs(2);

impl Launcher {
    pub(super) fn request(&mut self, id: u64) {
        let waiting = self.guest.is_none();
        let Some(request) = self.agents.receive(id, waiting) else { return };
        let asked = match (request, &mut self.guest) {
            (Request::Descriptors { .. }, _) => return,
            (Request::Piece { .. }, _) => {
                return self.agents.refuse(id, "a guest was already started".into());
            }
            (Request::Start { .. }, Some(_)) => {
                return self
                    .agents
                    .refuse(id, "a guest was already started: a launcher runs one in its life".into());
            }
            (Request::Start { order }, None) => return self.start(id, *order),
            (Request::Network { queues }, None) if self.agents.has_slot() => return self.open(id, queues),
            (Request::Network { .. }, None) => {
                return self
                    .agents
                    .refuse(id, "this launcher has no slot: its queues are passed to it".into());
            }
            (Request::Network { .. }, Some(_)) => {
                return self.agents.refuse(id, "a guest was already started".into());
            }
            (Request::Shutdown { grace_seconds }, _) => {
                return self.shutdown(grace_seconds.map(|seconds| Duration::from_secs(seconds.into())));
            }
            (Request::Console { socket, .. }, _) if !self.agents.has_slot() => {
                let why = "this launcher has no slot: its consoles are sockets".into();
                return self.agents.refuse_console(id, socket, why);
            }
            (Request::Console { socket, .. }, None) => {
                return self.agents.refuse_console(id, socket, "no guest was started yet".into());
            }
            (_, None) => return self.agents.refuse(id, "no guest was started yet".into()),
            (Request::Console { socket, console }, Some(_)) => return self.console(id, socket, console),
            (Request::Pause, Some(guest)) => guest.pause(),
            (Request::Unpause, Some(guest)) => guest.unpause(),
        };
        match asked {
            Ok(actions) => {
                self.asker = id;
                self.act(actions);
            }
            Err(refusal) => self.agents.refuse(id, refusal.to_string()),
        }
    }

    /// Gives a console of the guest to anyone who waits in the slot.
    fn console(&mut self, id: u64, socket: String, console: Console) {
        let connected = match &self.options.slot {
            Some(directory) => slot::connect_console(directory, &socket),
            None => return,
        };
        let stream = match connected {
            Ok(stream) => stream,
            Err(error) => {
                let why = format!("connecting the console {socket}: {error}");
                return self.agents.refuse_console(id, socket, why);
            }
        };
        match (console, &mut self.serial, &mut self.guest) {
            (Console::Serial, Some(serial), _) => serial.take(stream),
            (Console::Vnc, _, Some(guest)) => match guest.serve_vnc() {
                Ok(actions) => {
                    (self.asker, self.vnc) = (id, socket);
                    self.stream = Some(stream);
                    self.act(actions);
                    self.stream = None;
                }
                Err(refusal) => self.agents.refuse_console(id, socket, refusal.to_string()),
            },
            _ => self.agents.refuse_console(id, socket, "the guest has no serial console".into()),
        }
    }

    /// Opens what a TAP is made with and sends copies of it.
    fn open(&mut self, id: u64, queues: u32) {
        // A TAP of an earlier try ends with the last of its queues.
        self.network = None;
        match Network::open(queues) {
            Ok(network) => self.agents.send_network(id, self.network.insert(network)),
            Err(error) => self.agents.refuse(id, format!("opening the pod's network: {error}")),
        }
    }

    fn start(&mut self, id: u64, mut order: Order) {
        let (passed, files) = self.agents.take_passed(id);
        if let Err(error) = ferrovirt_qemu::check(&order) {
            return self.end(Ending::Failed, error.to_string());
        }
        let images = match files::prepare(&mut order, &files) {
            Ok(opened) => opened,
            Err(error) => return self.agents.not_ready(id, error.to_string()),
        };
        drop(files);
        // Elsewhere the node agent has tried it. On a cluster nobody has who may open it.
        if order.accelerator == Accelerator::Kvm
            && self.agents.has_slot()
            && let Some(problem) = kvm_problem(kvm::probe(KVM))
        {
            return self.end(Ending::Failed, problem);
        }
        self.agents.drop_passed();
        self.grace = Duration::from_secs(order.grace_seconds.into());
        self.guest = Some(Guest::new(&order));
        log::line(&format!("starting {}", order.name));
        let opened = self.network.take().map(Network::into_queues);
        match start::start(order, passed, images, opened, &self.options) {
            Ok(Started { qemu, serial, dhcp }) => {
                self.qemu = Some(qemu);
                self.serial = serial;
                self.dhcp = dhcp;
                let state = self.state();
                self.agents.broadcast(&state);
            }
            Err(error) => self.end(Ending::Failed, error.to_string()),
        }
    }
}

/// Why no guest runs on KVM here, for a person.
fn kvm_problem(found: io::Result<Kvm>) -> Option<String> {
    let what = match found {
        Ok(Kvm::Usable) => return None,
        Ok(Kvm::Absent) => {
            "/dev/kvm is not there or may not be opened by this pod's user: let everybody open it on the node (udev's mode \
             0666), or"
        }
        Ok(Kvm::Broken) => "KVM does not run instructions on this node:",
        Ok(Kvm::Hangs) => "KVM hangs on this node:",
        Err(error) => return Some(format!("KVM cannot be tried: {error}")),
    };
    Some(format!(
        "{what} keep machines away from it, or set spec.configuration.developerConfiguration.useEmulation of the KubeVirt \
         object"
    ))
}
