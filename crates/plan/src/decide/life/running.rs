//! A pod whose container runs and with which nobody here speaks: an ordinary one, for a kubelet. It is asked to end by a
//! signal.

use super::{Action, Event, Retry};
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Running {
    /// When the port of a pod that was taken over is to be admitted (again).
    port: Option<Retry>,
    /// The shortest grace with which its end was asked for.
    grace: Option<i64>,
    kill_at: Option<Duration>,
    evicted: bool,
}

impl Running {
    /// `fresh`: the container was just started.
    pub(super) fn new(fresh: bool, now: Duration) -> Self {
        let port = (!fresh).then_some(Retry { at: Some(now), ..Retry::NOW });
        Self { port, grace: None, kill_at: None, evicted: false }
    }

    pub(super) fn kill_at(&self) -> Option<Duration> {
        self.kill_at
    }

    pub(super) fn wake(&self) -> Option<Duration> {
        self.port.and_then(|retry| retry.at).into_iter().chain(self.kill_at).min()
    }

    pub(super) fn take(&mut self, event: &Event, now: Duration, out: &mut Vec<Action>) {
        match event {
            Event::Tick if self.kill_at.is_some_and(|at| at <= now) => {
                self.kill_at = None;
                out.push(Action::Kill);
            }
            Event::Evict => {
                self.evicted = true;
                out.push(Action::Kill);
            }
            Event::PortAdmitted(admitted) => {
                self.port = self.port.filter(|_| !admitted).map(|retry| retry.after(now));
            }
            _ => {}
        }
    }

    /// Has the port of a pod that was taken over admitted where it is time to.
    pub(super) fn admit_port(&mut self, now: Duration, out: &mut Vec<Action>) {
        if let Some(retry) = &mut self.port
            && retry.at.is_some_and(|at| at <= now)
        {
            retry.at = None;
            out.push(Action::AdmitPort);
        }
    }

    /// Asks the container to end within the pod's grace period; shorter ones that come later count.
    pub(super) fn stop(&mut self, grace: i64, now: Duration, out: &mut Vec<Action>) {
        let grace = grace.max(0);
        if self.grace.is_some_and(|known| known <= grace) {
            return;
        }
        self.grace = Some(grace);
        if grace == 0 {
            return out.push(Action::Kill);
        }
        // Longer than a century is never, and must not be more than a clock can say.
        let limit = Duration::from_secs(u32::try_from(grace).unwrap_or(u32::MAX).into());
        let at = now.saturating_add(limit);
        self.kill_at = Some(self.kill_at.map_or(at, |known| known.min(at)));
        out.push(Action::Terminate);
    }

    pub(super) fn end(self, code: Option<i32>, out: &mut Vec<Action>) {
        out.push(Action::End { code, end: None, evicted: self.evicted });
    }
}
