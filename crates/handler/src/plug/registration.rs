//! That the kubelet knows a plug-in.
//!
//! The kubelet forgets every plug-in when it is started again, and this one when another of the same name was there and
//! ended. Both show in that it does not listen to the list of devices any more. A kubelet that was started again also has
//! another socket, which may be there long before or after.
//!
//! ```text
//!   Due(at) ──begin──► Calling ──Ok──► Registered(until) ──Opened──► Listening(since)
//!      ▲                  │ Err            │ until is over                │ Closed, or another socket
//!      └──────────────────┴────────────────┴──────────────────────────────┘   after a pause that grows
//! ```

use super::{
    grpc::Channel,
    messages::{Empty, Options, REGISTER, RegisterRequest, VERSION},
    plugin::Seen,
};
use std::{
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// The first pause after a failure; it doubles.
const FIRST: Duration = Duration::from_millis(200);
/// The longest.
const LONGEST: Duration = Duration::from_secs(30);
/// How long a kubelet may take to ask for the list after it was registered with.
const LISTENS: Duration = Duration::from_secs(10);
/// A registration that held this long begins with the first pause again.
const STABLE: Duration = Duration::from_secs(60);
/// How often the kubelet's socket is looked at while it listens, and while it does not: then machines may wait for places.
const LOOK: Duration = Duration::from_millis(500);
const SOON: Duration = Duration::from_millis(50);
/// How long there may be no kubelet without a word: it may start a moment later than this program.
const MISSING: Duration = Duration::from_secs(5);
/// How long a call may take; the kubelet connects to the plug-in meanwhile.
const CALL: Duration = Duration::from_secs(15);
/// Bytes of the kubelet's answer, which has no field.
const ANSWER: usize = 4 << 10;

/// What tells a socket from another one at the same path: device, inode, and when it changed (numbers of inodes are used
/// again at once).
pub type Identity = (u64, u64, i64, i64);

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The kubelet's socket was looked at; `None` where there is none.
    Looked(Option<Identity>),
    /// The call to register ended, well or not.
    Answered(bool),
    /// The kubelet listens to the list.
    Opened,
    /// One that listened does not any more.
    Closed,
    /// Time went by.
    Waited,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Due(Instant),
    Calling,
    Registered(Instant),
    Listening(Instant),
}

/// The state of a registration.
#[derive(Clone, Debug)]
pub struct Registration {
    phase: Phase,
    failures: u32,
    listeners: u32,
    kubelet: Option<Identity>,
}

impl Registration {
    /// One that is due as soon as there is a kubelet.
    pub fn new(now: Instant) -> Self {
        Self { phase: Phase::Due(now), failures: 0, listeners: 0, kubelet: None }
    }

    /// Takes note of what has happened.
    pub fn step(&mut self, event: Event, now: Instant) {
        match event {
            Event::Looked(kubelet) if kubelet != self.kubelet => {
                let known = self.kubelet.is_some();
                self.kubelet = kubelet;
                let waits = matches!(self.phase, Phase::Due(_));
                if kubelet.is_some() && (waits || known) && self.phase != Phase::Calling {
                    self.phase = Phase::Due(now);
                }
            }
            Event::Answered(true) if self.listeners > 0 => self.phase = Phase::Listening(now),
            Event::Answered(true) => self.phase = Phase::Registered(now + LISTENS),
            Event::Answered(false) => self.fail(now),
            Event::Opened => {
                self.listeners += 1;
                if self.phase != Phase::Calling {
                    self.phase = Phase::Listening(now);
                }
            }
            Event::Closed => {
                self.listeners = self.listeners.saturating_sub(1);
                if let Phase::Listening(since) = self.phase
                    && self.listeners == 0
                {
                    if now.saturating_duration_since(since) >= STABLE {
                        self.failures = 0;
                    }
                    self.fail(now);
                }
            }
            Event::Waited => {
                if let Phase::Registered(until) = self.phase
                    && now >= until
                {
                    self.fail(now);
                }
            }
            Event::Looked(_) => {}
        }
    }

    fn fail(&mut self, now: Instant) {
        let pause = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        self.phase = Phase::Due(now + pause);
    }

    /// Whether to register now; then it counts as being done until it was [answered](Event::Answered).
    pub fn begin(&mut self, now: Instant) -> bool {
        let due = matches!(self.phase, Phase::Due(at) if now >= at) && self.kubelet.is_some();
        if due {
            self.phase = Phase::Calling;
        }
        due
    }

    /// Whether the kubelet knows the plug-in, as far as can be known.
    pub fn holds(&self) -> bool {
        matches!(self.phase, Phase::Listening(_))
    }

    /// When to look at it again, at the latest.
    pub fn next(&self, now: Instant) -> Instant {
        let look = now + if self.holds() { LOOK } else { SOON };
        match self.phase {
            Phase::Due(at) | Phase::Registered(at) if at > now => at.min(look),
            _ => look,
        }
    }
}

/// What is registered, and with whom.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The name of the resource.
    pub resource: &'static str,
    /// The kubelet's socket.
    pub kubelet: PathBuf,
    /// The plug-in's own socket, by an absolute path of the node.
    pub socket: PathBuf,
}

impl Entry {
    fn request(&self) -> RegisterRequest {
        // The kubelet joins its directory and this name, and takes `..` out of the text. More of them than its directory
        // has parts lead to the root, so that the socket may lie in a directory of ours.
        let endpoint = format!("{}{}", "../".repeat(32).trim_end_matches('/'), self.socket.display());
        RegisterRequest {
            version: VERSION.to_owned(),
            endpoint,
            resource_name: self.resource.to_owned(),
            options: Some(Options::default()),
        }
    }

    async fn register(&self) -> Result<(), String> {
        let call = async {
            let channel = Channel::connect(&self.kubelet).await.map_err(|error| error.to_string())?;
            let answer = channel.unary::<_, Empty>(REGISTER, self.request(), ANSWER).await;
            answer.map(drop).map_err(|status| status.message().to_owned())
        };
        tokio::time::timeout(CALL, call).await.unwrap_or_else(|_| Err("it does not answer".to_owned()))
    }

    fn look(&self) -> Option<Identity> {
        let found = std::fs::symlink_metadata(&self.kubelet).ok()?;
        Some((found.dev(), found.ino(), found.ctime(), found.ctime_nsec()))
    }

    /// Keeps it registered, and says to `listens` whether it is, with the cookie of the kubelet's network namespace.
    /// Ends when nobody can be seen any more.
    pub async fn keep(
        self,
        mut seen: mpsc::UnboundedReceiver<Seen>,
        mut listens: impl FnMut(Option<Option<u64>>),
    ) {
        let mut state = Registration::new(Instant::now());
        let (mut missing, mut said) = (None, false);
        loop {
            let kubelet = self.look();
            let since = *missing.get_or_insert_with(Instant::now);
            if kubelet.is_some() {
                (missing, said) = (None, false);
            } else if since.elapsed() >= MISSING && !std::mem::replace(&mut said, true) {
                tracing::warn!("there is no kubelet at {}: is that its directory?", self.kubelet.display());
            }
            state.step(Event::Looked(kubelet), Instant::now());
            state.step(Event::Waited, Instant::now());
            if state.begin(Instant::now()) {
                let answer = self.register().await;
                match &answer {
                    Ok(()) => tracing::info!("the kubelet has taken {}", self.resource),
                    Err(error) => {
                        let kubelet = self.kubelet.display();
                        tracing::warn!("registering {} at {kubelet}: {error}", self.resource);
                    }
                }
                state.step(Event::Answered(answer.is_ok()), Instant::now());
            }
            let next = tokio::time::Instant::from_std(state.next(Instant::now()));
            match tokio::time::timeout_at(next, seen.recv()).await {
                Ok(Some(Seen::Opened(cookie))) => {
                    state.step(Event::Opened, Instant::now());
                    listens(Some(cookie));
                }
                Ok(Some(Seen::Closed)) => {
                    state.step(Event::Closed, Instant::now());
                    if !state.holds() {
                        tracing::info!("the kubelet does not listen for {} any more", self.resource);
                        listens(None);
                    }
                }
                Ok(None) => return,
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
