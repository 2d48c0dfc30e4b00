//! Which of several replicas works: the one whose name is in the Lease.
//!
//! The rules are those of client-go, so that tools which look at leases understand ours: the replica that holds the Lease writes it
//! again every few seconds; who sees it unchanged for as long as it says takes it over; who cannot write it for two thirds
//! of that time has lost it and must end. How long it has been unchanged is measured here, so that clocks may differ. All
//! writes name the version that was read, so that of two who take it one gets it.
//!
//! A Lease keeps replicas from doing the same work twice. That nothing breaks when two of them work at once, for a moment
//! as clocks and networks want it, is the business of names and versions: see the crate.

use std::time::Duration;

use ferrovirt_plan::config::NAMESPACE;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::Instant;

/// Name of the Lease, in the namespace of the controllers. The manifests make it, and the account may write this one alone.
pub const LEASE: &str = "kubevirt-controller";
/// A Lease that says it holds for longer than this is taken over after this time: nobody of ours writes such a one.
const LONGEST: Duration = Duration::from_secs(300);
/// How long giving the Lease back may take at the end.
const LAST: Duration = Duration::from_secs(3);

/// How long a Lease holds, and how often it is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Seconds for which others leave an unchanged Lease alone.
    pub seconds: i32,
    /// Who has not written it for so long has lost it; less than `seconds`.
    pub deadline: Duration,
    /// Between two looks.
    pub pause: Duration,
}

impl Default for Timing {
    /// The values of Kubernetes' own controllers.
    fn default() -> Self {
        Self { seconds: 15, deadline: Duration::from_secs(10), pause: Duration::from_secs(2) }
    }
}

/// Where a replica stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has not seen the Lease, or could not when it looked last.
    Unknown,
    /// Another one works; this one could take over.
    Waiting,
    /// It has the Lease and does not know the cluster yet.
    Leading,
    /// It works.
    Working,
}

/// How a replica that had the Lease lost it.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// Somebody else has it.
    #[error("{0} has the Lease {NAMESPACE}/{LEASE} now")]
    Taken(String),
    /// It could not be written in time.
    #[error("the Lease {NAMESPACE}/{LEASE} could not be written in time: {0}")]
    Expired(String),
}

/// One replica's part in the election.
#[derive(Debug)]
pub struct Election {
    leases: Api<Lease>,
    identity: String,
    timing: Timing,
    standing: watch::Sender<Standing>,
    /// What the Lease said, and since when it has said so.
    seen: Option<(LeaseSpec, Instant)>,
    /// When the last write that succeeded was begun.
    held: Option<Instant>,
}

/// What one look at the Lease gave.
enum Look {
    Ours,
    Theirs(String),
    /// Somebody wrote between reading and writing.
    Overtaken,
}

impl Election {
    /// Takes part under a name that no other replica has. Where it stands is sent to `standing`.
    pub fn new(client: Client, identity: String, timing: Timing, standing: watch::Sender<Standing>) -> Self {
        let leases = Api::namespaced(client, NAMESPACE);
        Self { leases, identity, timing, standing, seen: None, held: None }
    }

    /// Returns when this replica has the Lease. What goes wrong until then is written once to the log and tried again.
    pub async fn acquire(&mut self) {
        let mut complaint = String::new();
        loop {
            let said = match tokio::time::timeout(self.timing.deadline, self.look()).await {
                Ok(Ok(Look::Ours)) => {
                    self.standing.send_replace(Standing::Leading);
                    return;
                }
                Ok(Ok(Look::Theirs(holder))) => Ok(format!("{holder} leads; this replica waits")),
                Ok(Ok(Look::Overtaken)) => Ok("another replica was faster".to_owned()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("the API server does not answer".to_owned()),
            };
            self.standing.send_replace(if said.is_ok() { Standing::Waiting } else { Standing::Unknown });
            let text = said.as_ref().unwrap_or_else(|error| error).clone();
            if text != complaint {
                match said {
                    Ok(_) => tracing::info!("{text}"),
                    Err(_) => tracing::warn!("the Lease {NAMESPACE}/{LEASE} cannot be had: {text}"),
                }
                complaint = text;
            }
            tokio::time::sleep(self.timing.pause).await;
        }
    }

    /// Keeps the Lease; returns when it is lost. Nothing may be done in its name from then on.
    pub async fn keep(&mut self) -> Lost {
        let mut trouble = "the API server does not answer".to_owned();
        loop {
            let begun = self.held.unwrap_or_else(Instant::now);
            let deadline = begun + self.timing.deadline;
            tokio::time::sleep_until((Instant::now() + self.timing.pause).min(deadline)).await;
            match tokio::time::timeout_at(deadline, self.look()).await {
                Ok(Ok(Look::Ours)) => {}
                Ok(Ok(Look::Theirs(holder))) => return Lost::Taken(holder),
                Ok(Ok(Look::Overtaken)) => trouble = "others write it all the time".to_owned(),
                Ok(Err(error)) => trouble = error.to_string(),
                Err(_) => return Lost::Expired(trouble),
            }
            if self.held.is_none_or(|held| held.elapsed() >= self.timing.deadline) {
                return Lost::Expired(trouble);
            }
        }
    }

    /// Gives the Lease back, so that another replica need not wait for its end. Only after everything that was done in its
    /// name has ended.
    pub async fn release(&mut self) {
        let release = async {
            let mut lease = self.leases.get(LEASE).await?;
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() == Some(self.identity.as_str()) {
                spec.holder_identity = Some(String::new());
                spec.lease_duration_seconds = Some(1);
                spec.renew_time = Some(MicroTime(Timestamp::now()));
                self.leases.replace(LEASE, &PostParams::default(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        };
        match tokio::time::timeout(LAST, release).await {
            Ok(Ok(())) => tracing::info!("gave the Lease back"),
            // It ends by itself.
            Ok(Err(error)) => tracing::warn!("the Lease was not given back: {error}"),
            Err(_) => tracing::warn!("the Lease was not given back: the API server does not answer"),
        }
        self.held = None;
    }

    /// Reads the Lease and writes it if it may be ours.
    async fn look(&mut self) -> kube::Result<Look> {
        let begun = Instant::now();
        let mut lease = self.leases.get(LEASE).await?;
        let spec = lease.spec.clone().unwrap_or_default();
        let since = match &self.seen {
            Some((seen, since)) if *seen == spec => *since,
            _ => begun,
        };
        self.seen = Some((spec.clone(), since));
        if let Some(holder) = other(&spec, &self.identity, since.elapsed()) {
            return Ok(Look::Theirs(holder));
        }
        lease.spec = Some(taken(spec, &self.identity, self.timing.seconds, Timestamp::now()));
        match self.leases.replace(LEASE, &PostParams::default(), &lease).await {
            Ok(written) => {
                self.seen = Some((written.spec.unwrap_or_default(), begun));
                self.held = Some(begun);
                Ok(Look::Ours)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Look::Overtaken),
            Err(error) => Err(error),
        }
    }
}

/// Who else holds a Lease that has been unchanged for so long.
fn other(spec: &LeaseSpec, identity: &str, unchanged: Duration) -> Option<String> {
    let holder =
        spec.holder_identity.as_deref().filter(|holder| !holder.is_empty() && *holder != identity)?;
    let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0);
    (unchanged < Duration::from_secs(seconds).min(LONGEST)).then(|| holder.to_owned())
}

/// The Lease as `identity` writes it.
fn taken(before: LeaseSpec, identity: &str, seconds: i32, now: Timestamp) -> LeaseSpec {
    let kept = before.holder_identity.as_deref() == Some(identity);
    let transitions = before.lease_transitions.unwrap_or(0);
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: Some(seconds),
        acquire_time: before.acquire_time.filter(|_| kept).or(Some(MicroTime(now))),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(if kept { transitions } else { transitions.saturating_add(1) }),
        ..before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(holder: &str, seconds: Option<i32>) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: seconds,
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_lease_is_anothers_until_it_was_unchanged_for_its_time() {
        let seconds = Duration::from_secs;
        assert_eq!(other(&held("b", Some(15)), "a", seconds(14)).as_deref(), Some("b"));
        for (spec, unchanged) in [
            (held("b", Some(15)), 15),
            (held("a", Some(15)), 0),
            (held("", Some(15)), 0),
            (LeaseSpec::default(), 0),
            (held("b", None), 0),
            (held("b", Some(-1)), 0),
            // Nobody is kept out for ever by a number.
            (held("b", Some(i32::MAX)), LONGEST.as_secs()),
        ] {
            assert_eq!(other(&spec, "a", seconds(unchanged)), None, "{spec:?}");
        }
    }

    #[test]
    fn a_change_of_hands_is_counted_and_a_renewal_is_not() {
        let first = taken(LeaseSpec::default(), "a", 15, Timestamp::UNIX_EPOCH);
        let kept = taken(first.clone(), "a", 15, Timestamp::MAX);
        assert_eq!((first.lease_transitions, kept.lease_transitions), (Some(1), Some(1)));
        assert_eq!(kept.acquire_time, first.acquire_time);
        assert_ne!(kept.renew_time, first.renew_time);
        let other = taken(kept, "b", 15, Timestamp::MAX);
        assert_eq!((other.lease_transitions, other.holder_identity.as_deref()), (Some(2), Some("b")));
        assert_ne!(other.acquire_time, first.acquire_time);
    }
}
