//! Slots and their children: they come with what `plug` knows, and go with it.

use super::{
    super::child::{self, Worker},
    Child, Job, PERIOD, SLOW, Server, Slot, ToApi,
};
use ferrovirt_sys::{
    fork::Process,
    seqpacket::{self, Connection},
};
use rustix::net::SocketType;
use std::{
    io, mem,
    os::fd::AsFd,
    time::{Duration, Instant},
};

/// For how long after a change of what `plug` knows everything is read again with each look: within one tick of the kernel's
/// clock two changes look like one.
const AFTER: Duration = Duration::from_secs(3);
/// Between the end of a link and the next child, at first and at most.
const FIRST: Duration = Duration::from_millis(50);
const LAST: Duration = Duration::from_secs(5);
/// A link that lasts longer was a good one.
const GOOD: Duration = Duration::from_secs(10);
/// The name of the socket in a slot.
const SOCKET: &str = "machine.sock";

impl Server {
    /// A child has ended.
    pub(super) fn reap(&mut self, name: &str) {
        // What it said before that comes first.
        while self.hear_child(name) {}
        let Some(slot) = self.slots.get_mut(name) else { return };
        if !slot.child.as_mut().is_some_and(|child| child.worker.is_gone()) {
            return;
        }
        let Some(child) = slot.child.take() else { return };
        slot.pause = if child.since.elapsed() > GOOD { FIRST } else { (slot.pause * 2).min(LAST) };
        slot.next = Instant::now() + slot.pause;
        let unfinished = child.prepare.is_some();
        let link = slot.link.take().map(|link| link.number);
        if link.is_some() || child.why.is_some() {
            let slot = || name.to_owned();
            if let (true, Some(link)) = (unfinished, link) {
                let why = "the link ended before the network was made".to_owned();
                self.begun_in_vain(name, &why);
                self.say(&ToApi::Refused { slot: slot(), link, why }, &[]);
            }
            self.say(&ToApi::Ended { slot: slot(), link, why: child.why }, &[]);
        }
    }

    /// Follows the slots.
    pub(super) fn look(&mut self, now: Instant) {
        let informed = mem::take(&mut self.informed);
        let period = if self.reader.news().is_some() && !self.failed { SLOW } else { PERIOD };
        // Who makes rounds begin, launchers and api among them, does not make this one read.
        if !informed && self.looked.is_some_and(|looked| now.duration_since(looked) < period) {
            return;
        }
        self.looked = Some(now);
        let stamp = self.reader.stamp().ok();
        if informed || stamp != self.stamp {
            (self.stamp, self.changed) = (stamp, now);
        } else if !self.failed && now.duration_since(self.changed) > AFTER {
            return;
        }
        let held = match self.reader.held() {
            Ok(held) => held,
            Err(error) => {
                if !mem::replace(&mut self.failed, true) {
                    tracing::error!("reading what is known of the slots: {error}");
                }
                return;
            }
        };
        self.failed = false;
        let gone = self.slots.iter().filter(|(name, slot)| held.get(*name) != Some(&slot.held));
        for name in gone.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            if let Some(slot) = self.slots.remove(&name) {
                if let Some(mut child) = slot.child {
                    child.worker.end(now);
                    self.leaving.push((name.clone(), child));
                }
                self.say(&ToApi::Gone { slot: name }, &[]);
            }
        }
        // One that is refused for a while had its network all the same: until its directory goes.
        self.entered.retain(|name, _| self.reader.slot(name).is_dir());
        self.namespaces.retain(|name| self.reader.slot(name).is_dir());
        for (name, held) in held {
            if !self.slots.contains_key(&name) {
                let slot = Slot { held, child: None, link: None, said: None, next: now, pause: FIRST };
                self.slots.insert(name.clone(), slot);
                self.introduce(&name);
            }
        }
    }

    pub(super) fn deadlines(&mut self, now: Instant) {
        self.leaving.retain_mut(|(_, child)| !child.worker.is_gone());
        let mut hung = Vec::new();
        for (name, slot) in &mut self.slots {
            let Some(child) = &mut slot.child else { continue };
            if child.prepare.is_some_and(|deadline| deadline <= now) {
                child.why.get_or_insert_with(|| "its network was not made in time".to_owned());
                child.worker.end(now);
            }
            if child.worker.hangs(now) && !mem::replace(&mut child.hung, true) {
                hung.push(name.clone());
            }
        }
        for slot in hung {
            tracing::error!("what serves the slot {slot} cannot be ended");
            self.say(&ToApi::Hung { slot }, &[]);
        }
    }

    /// The next child to be started: its slot has none, and it is time.
    pub(in super::super) fn due(&mut self) -> Option<Job> {
        let now = Instant::now();
        // One that hangs, of a slot that was gone for a while, closes the slot, too.
        let hangs = |name: &String| self.leaving.iter().any(|(of, _)| of == name);
        let due = |name: &String, slot: &Slot| slot.child.is_none() && slot.next <= now && !hangs(name);
        let due = self.slots.iter_mut().find(|(name, slot)| due(name, slot));
        let (name, slot) = due?;
        let path = self.reader.slot(name).join(SOCKET);
        let bind = || {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let (ours, theirs) = Connection::pair()?;
            ours.set_nonblocking(true)?;
            let bound = seqpacket::bind(&path, SocketType::SEQPACKET)?;
            seqpacket::take_descriptors(bound.as_fd(), false)?;
            Ok(Job { name: name.clone(), bound, theirs, ours })
        };
        match bind() {
            Ok(job) => Some(job),
            Err(error) => {
                slot.pause = (slot.pause * 2).min(LAST);
                slot.next = now + slot.pause;
                tracing::error!("listening on {}: {error}", path.display());
                None
            }
        }
    }

    /// The child has been started.
    pub(in super::super) fn started(&mut self, job: Job, process: Process) {
        let worker = Worker::of(process);
        let Job { name, ours, .. } = job;
        let (control, since) = (Some(ours), Instant::now());
        let child = Child { worker, control, since, prepare: None, why: None, hung: false };
        match self.slots.get_mut(&name) {
            Some(slot) => slot.child = Some(child),
            None => self.leaving.push((name, child)),
        }
    }

    /// The child could not be started.
    pub(in super::super) fn not_started(&mut self, job: &Job) {
        if let Some(slot) = self.slots.get_mut(&job.name) {
            slot.pause = (slot.pause * 2).min(LAST);
            slot.next = Instant::now() + slot.pause;
        }
    }

    /// Ends every child, and waits for them as long as one may take.
    pub(in super::super) fn finish(mut self) {
        let slots = mem::take(&mut self.slots);
        let mut children: Vec<_> = slots
            .into_values()
            .filter_map(|slot| slot.child)
            .chain(mem::take(&mut self.leaving).into_iter().map(|(_, child)| child))
            .collect();
        let begin = Instant::now();
        for child in &mut children {
            child.worker.end(begin);
        }
        while begin.elapsed() < child::GRACE
            && (!self.end_streams(begin) || children.iter_mut().any(|child| !child.worker.is_gone()))
        {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
