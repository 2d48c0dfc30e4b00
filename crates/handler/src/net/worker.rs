//! What the child of a slot does: it takes one link of the slot's launcher, passes on what is said, and makes the network
//! through the descriptors that the launcher sends. It ends with the link, and everything that came over that with it.

use super::{
    Refusal,
    child::wait,
    descriptors::{self, Descriptors},
    namespace::Home,
    pod::{self, Pod},
    talk::{self, Binding, Facts, FromChild, MOST, MOST_SAID, ToChild, Wanted},
    view::View,
};
use ferrovirt_netlink::{Channel, route};
use ferrovirt_qemu::protocol::Request;
use ferrovirt_sys::{
    netns,
    seqpacket::{self, Connection, Listener},
};
use rustix::event::{PollFd, PollFlags};
use std::{
    io, mem,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

/// How long a launcher may take to send what it was asked for.
const AWAITED: Duration = Duration::from_secs(10);
/// Most messages of a launcher in [`WINDOW`]: it says some ten in its life.
const MOST_MESSAGES: u32 = 100;
/// Bytes in that time after which the rest of it is waited for.
const MOST_BYTES: usize = 64 * 1024;
const WINDOW: Duration = Duration::from_secs(1);
/// Longest packet that is set where the pod's interface has none that fits, and the limits of what is asked for.
const MTU: std::ops::RangeInclusive<u32> = 576..=65_535;

/// One link.
struct Link {
    link: Connection,
    control: Connection,
    user: u32,
    /// What is asked for, while its descriptors are awaited, and until when.
    awaited: Option<(Wanted, Instant)>,
    window: Window,
}

/// What was said since when.
struct Window {
    begin: Instant,
    messages: u32,
    bytes: usize,
}

impl Window {
    fn new() -> Self {
        Self { begin: Instant::now(), messages: 0, bytes: 0 }
    }

    /// Until when nothing more is read.
    fn pause(&self) -> Option<Instant> {
        let end = self.begin + WINDOW;
        (self.bytes > MOST_BYTES && end > Instant::now()).then_some(end)
    }
}

/// Serves one link and returns when it has ended: then this process has to end, before anything is closed.
pub(super) fn run(bound: OwnedFd, control: Connection) -> ! {
    let (listener, why) = match Listener::listen(bound) {
        Ok(listener) => {
            let why = serve(&listener, control);
            (Some(listener), why)
        }
        Err(error) => (None, Err(error)),
    };
    let code = i32::from(why.is_err());
    if let Err(error) = why {
        tracing::debug!("a link has ended: {error}");
    }
    // Others may wait to be accepted, with descriptors whose closing waits: at the end of a process it does not.
    mem::forget(listener);
    std::process::exit(code)
}

fn serve(listener: &Listener, control: Connection) -> io::Result<()> {
    loop {
        let mut ready = [PollFd::new(listener, PollFlags::IN), PollFd::new(&control, PollFlags::IN)];
        wait(&mut ready, None)?;
        let [of_listener, of_control] = ready.map(|fd| !fd.revents().is_empty());
        if of_control {
            // Nothing is for a launcher that is not there; the end is.
            match control.recv(MOST)? {
                None => return Ok(()),
                Some(_) => continue,
            }
        }
        if of_listener {
            break;
        }
    }
    let link = listener.accept()?;
    let user = seqpacket::peer_user(link.as_fd())?;
    seqpacket::take_descriptors(link.as_fd(), false)?;
    talk::send(&control, &FromChild::Linked { user, cookie: netns::cookie(link.as_fd())? }, &[])?;
    let mut link = Link { link, control, user, awaited: None, window: Window::new() };
    let ended = link.serve();
    if let Err(error) = &ended {
        let why = error.to_string();
        drop(talk::send(&link.control, &FromChild::Ending { why }, &[]));
    }
    mem::forget(link);
    ended
}

impl Link {
    /// Until it ends by itself, or has to be ended.
    fn serve(&mut self) -> io::Result<()> {
        loop {
            let pause = self.window.pause();
            let until = self.awaited.as_ref().map(|(_, until)| *until).into_iter().chain(pause).min();
            let mut ready = vec![PollFd::new(&self.control, PollFlags::IN)];
            // One that is not read for a while is not looked at either: its end would be seen all the time.
            ready.extend(pause.is_none().then(|| PollFd::new(&self.link, PollFlags::IN)));
            wait(&mut ready, until)?;
            let mut ready = ready.iter().map(|fd| !fd.revents().is_empty());
            let (of_control, of_link) = (ready.next() == Some(true), ready.next() == Some(true));
            if of_control && !self.obey()? {
                return Ok(());
            }
            if of_link && !self.hear()? {
                return Ok(());
            }
            if self.awaited.as_ref().is_some_and(|(_, until)| *until <= Instant::now()) {
                self.awaited = None;
                seqpacket::take_descriptors(self.link.as_fd(), false)?;
                self.refuse("the launcher has not sent the descriptors that it was asked for".to_owned())?;
            }
        }
    }

    /// One message of the program's; false when that wants no more.
    fn obey(&mut self) -> io::Result<bool> {
        let Some(message) = self.control.recv(MOST)? else { return Ok(false) };
        let (head, body) = talk::read::<ToChild>(&message.bytes)?;
        match head {
            ToChild::Relay => self.tell(body)?,
            ToChild::Prepare { wanted } => {
                let request = Request::Network { queues: wanted.queues };
                seqpacket::take_descriptors(self.link.as_fd(), true)?;
                self.awaited = Some((wanted, Instant::now() + AWAITED));
                self.tell(&serde_json::to_vec(&request)?)?;
            }
            // Of a question that was given up.
            ToChild::Entered { .. } => {}
        }
        Ok(true)
    }

    /// To the launcher, at once or not at all: it must not hold up what is to be ended.
    fn tell(&self, bytes: &[u8]) -> io::Result<()> {
        seqpacket::send_now(self.link.as_fd(), bytes)
            .map_err(|error| io::Error::new(error.kind(), format!("the launcher does not read: {error}")))
    }

    /// One message of the launcher's; false at the link's end.
    fn hear(&mut self) -> io::Result<bool> {
        let mut bytes = vec![0; MOST_SAID];
        let (length, sent, cut_off) = seqpacket::recv_with_fds(self.link.as_fd(), &mut bytes)?;
        if cut_off {
            mem::forget(sent);
            return Err(io::Error::other("the launcher sent more than anybody reads"));
        }
        if length == 0 {
            mem::forget(sent);
            return Ok(false);
        }
        if let Err(error) = self.count(length) {
            mem::forget(sent);
            return Err(error);
        }
        if !sent.is_empty() {
            let Some((wanted, _)) = self.awaited.take() else {
                mem::forget(sent);
                return Err(io::Error::other("the launcher sent descriptors that nobody asked for"));
            };
            seqpacket::take_descriptors(self.link.as_fd(), false)?;
            return self.prepare(sent, &wanted).map(|()| true);
        }
        talk::send(&self.control, &FromChild::Said, bytes.get(..length).unwrap_or_default())?;
        Ok(true)
    }

    fn count(&mut self, bytes: usize) -> io::Result<()> {
        if self.window.begin.elapsed() > WINDOW {
            self.window = Window::new();
        }
        self.window.messages += 1;
        self.window.bytes += bytes;
        match self.window.messages > MOST_MESSAGES {
            true => Err(io::Error::other("the launcher says too much")),
            false => Ok(()),
        }
    }

    fn refuse(&self, why: String) -> io::Result<()> {
        talk::send(&self.control, &FromChild::Refused { why }, &[])
    }

    fn prepare(&mut self, sent: Vec<OwnedFd>, wanted: &Wanted) -> io::Result<()> {
        let queues = usize::try_from(wanted.queues).unwrap_or(usize::MAX);
        let sorted = descriptors::sort(sent, queues);
        match sorted.map_err(Failed::Refused).and_then(|sent| self.make(sent, wanted)) {
            Ok(facts) => talk::send(&self.control, &FromChild::Ready { facts }, &[]),
            Err(Failed::Refused(refusal)) => self.refuse(refusal.to_string()),
            Err(Failed::Denied(why)) => self.refuse(why),
            Err(Failed::Over(error)) => Err(error),
        }
    }

    fn make(&self, sent: Descriptors, wanted: &Wanted) -> Result<Facts, Failed> {
        let home = Home::of(self.link.as_fd(), &sent)?;
        let mut view = View::of(home.namespace())?;
        view.has(&wanted.addresses)?;
        let mut facts = facts(&mut view, wanted)?;
        self.enter(home.cookie())?;
        let Descriptors { tun, udp, route, netfilter } = sent;
        let mut route = Channel::new(route);
        facts.gateway = route::gateway_of_another(&mut route).ok().flatten();
        let mut pod = Pod::new(home.namespace(), route, Channel::new(netfilter))?;
        let hub = match &wanted.binding {
            Binding::Masquerade { ports } => {
                let hub = pod.masquerade(facts.mtu, ports)?;
                pod.forward()?;
                hub
            }
            Binding::Bridge => pod.bridge(facts.mtu)?.0,
        };
        let port = pod.tap(&tun, self.user, facts.mtu)?;
        port.verify(pod.view(), Some(&hub))?;
        hub.verify(pod.view(), None)?;
        drop(udp);
        Ok(facts)
    }

    /// Asks the program, which knows all slots.
    fn enter(&self, cookie: u64) -> Result<(), Failed> {
        talk::send(&self.control, &FromChild::Enter { cookie }, &[])?;
        loop {
            let message =
                self.control.recv(MOST)?.ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe))?;
            let (head, body) = talk::read::<ToChild>(&message.bytes)?;
            match head {
                ToChild::Entered { refusal: None } => return Ok(()),
                ToChild::Entered { refusal: Some(why) } => return Err(Failed::Denied(why)),
                ToChild::Relay => self.tell(body)?,
                ToChild::Prepare { .. } => {}
            }
        }
    }
}

/// What the pod's interface is like, and the size of packets.
fn facts(view: &mut View, wanted: &Wanted) -> Result<Facts, Refusal> {
    let nic = view.link(pod::NIC)?.filter(|link| link.name == pod::NIC);
    let nic = nic.ok_or(Refusal::Interface("the pod has no interface eth0"))?;
    let addresses = view.addresses()?;
    let own =
        addresses.iter().find(|own| own.index == nic.index && wanted.addresses.contains(&own.address.into()));
    let (Some(mac), Some(own)) = (nic.address, own) else {
        return Err(Refusal::Interface("the pod's interface has no IPv4 address"));
    };
    let mtu = wanted.mtu.unwrap_or(nic.mtu);
    if !MTU.contains(&mtu) || mtu > nic.mtu {
        return Err(Refusal::Interface("the guest's packets would be longer than the pod's interface takes"));
    }
    Ok(Facts {
        bridge: pod::BRIDGE.to_owned(),
        tap: pod::TAP.to_owned(),
        mac,
        address: own.address,
        prefix: own.prefix,
        mtu,
        gateway: None,
    })
}

/// Why a network was not made.
enum Failed {
    Refused(Refusal),
    /// By the program.
    Denied(String),
    /// And the link is over.
    Over(io::Error),
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Over(error)
    }
}
