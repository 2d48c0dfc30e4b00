//! Whether the SELinux policy of launcher pods is in force on this node: looked at when the kernel loads a policy, said by a
//! condition and a label of the node and by a metric.

use ferrovirt_model::Profile;
use ferrovirt_node::selinux::Kernel;
use ferrovirt_plan::selinux::{
    NodeState,
    module::{self, Installed},
};
use ferrovirt_selinux_node::{Change, Store, StoreError};
use std::{
    error::Error,
    fmt::Write as _,
    sync::{Mutex, PoisonError},
};

/// Most differences that a condition names.
const NAMED: usize = 3;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The state.
    pub state: NodeState,
    /// For people.
    pub message: String,
}

/// What a report depends on. Nothing is looked at while it stays the same.
type Facts = (Profile, bool, Option<u32>);

/// Looks again when something has changed.
#[derive(Debug)]
pub struct Watch {
    kernel: Kernel,
    last: Mutex<Option<(Facts, Report)>>,
}

impl Watch {
    /// Of a kernel.
    pub fn new(kernel: Kernel) -> Self {
        Self { kernel, last: Mutex::default() }
    }

    /// The state for a profile. Blocks for some 50 ms after a policy was loaded.
    pub fn look(&self, profile: Profile) -> Report {
        let facts = (profile, self.kernel.is_enforcing(), self.kernel.loads());
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((known, report)) if *known == facts => report.clone(),
            _ => {
                let report = self.report(profile, facts.1);
                *last = Some((facts, report.clone()));
                report
            }
        }
    }

    fn report(&self, profile: Profile, enforcing: bool) -> Report {
        let say = |state, message: String| Report { state, message };
        if !self.kernel.is_enabled() {
            return say(NodeState::Disabled, "SELinux is disabled on this node".to_owned());
        }
        let name = profile.name();
        let fix = format!("run `ferrovirt selinux install --profile {name}` on the node as root");
        let found = self.kernel.policy().map_err(|error| error.to_string());
        match found.and_then(|policy| module::look(&policy, profile).map_err(|error| error.to_string())) {
            Err(error) => {
                say(NodeState::NotInstalled, format!("the kernel's policy cannot be read: {error}"))
            }
            Ok(Installed::Missing(why)) => say(
                NodeState::NotInstalled,
                format!("the types of the {name} profile are not there: {why}; {fix}"),
            ),
            Ok(Installed::Stale(differences)) => {
                let more = differences.len().saturating_sub(NAMED);
                let mut text = differences.into_iter().take(NAMED).collect::<Vec<_>>().join("; ");
                if more > 0 {
                    let _ = write!(text, "; and {more} more");
                }
                say(NodeState::Stale, format!("the base policy has changed ({text}); {fix}"))
            }
            Ok(Installed::Current(_)) if !enforcing => {
                let message = format!("the policy of the {name} profile is there, but SELinux is permissive");
                say(NodeState::Permissive, message)
            }
            Ok(Installed::Current(_)) => {
                say(NodeState::InForce, format!("the policy of the {name} profile is enforced"))
            }
        }
    }

    /// The last state as a metric in the text format of Prometheus.
    pub fn metric(&self) -> String {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::from(
            "# HELP ferrovirt_selinux_policy State of the SELinux policy of launcher pods on this node.\n\
             # TYPE ferrovirt_selinux_policy gauge\n",
        );
        for state in NodeState::ALL {
            let holds = last.as_ref().is_some_and(|(_, report)| report.state == state);
            let _ =
                writeln!(text, "ferrovirt_selinux_policy{{state=\"{}\"}} {}", state.name(), u8::from(holds));
        }
        text
    }
}

/// Installs the policy where it is missing or stale: once for each policy that is loaded, so that a policy that never becomes
/// right does not keep the node busy.
#[derive(Debug, Default)]
pub struct Installer {
    tried: Option<(Profile, Option<u32>)>,
}

impl Installer {
    /// Installs if there is reason to. Blocks for as long as the compiler takes.
    pub fn repair(&mut self, kernel: &Kernel, profile: Profile, report: &Report) {
        if !self.is_due((profile, kernel.loads()), report.state) {
            return;
        }
        match install(profile) {
            Ok(done) => tracing::info!("{done}"),
            Err(error) => {
                let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
                tracing::error!("installing the SELinux policy: {error}{source}");
            }
        }
        // Installing has loaded a policy.
        self.tried = Some((profile, kernel.loads()));
    }

    fn is_due(&self, now: (Profile, Option<u32>), state: NodeState) -> bool {
        matches!(state, NodeState::NotInstalled | NodeState::Stale) && self.tried != Some(now)
    }
}

fn install(profile: Profile) -> Result<String, StoreError> {
    let name = module::module_name(profile);
    let done = Store::open(None, None)?.install(&[profile])?;
    let current = done.iter().all(|(_, change, _)| *change == Change::Current);
    Ok(format!(
        "the SELinux module {name} {}",
        if current { "was installed already" } else { "is installed" }
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, io::Read};

    /// A recorded policy of Debian's with the documented type, made stale by nothing or by another policy in its place.
    fn policy(name: &str) -> Vec<u8> {
        let path = format!("{}/../selinux/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(&*fs::read(path).unwrap()).read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_state_follows_the_kernel() {
        let directory = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| fs::write(directory.path().join(name), bytes).unwrap();
        let watch = Watch::new(Kernel::at(directory.path().to_owned()));
        let state = |profile| watch.look(profile).state;
        assert_eq!(state(Profile::Documented), NodeState::Disabled);
        let loaded =
            |number: u8| put("status", &[[0; 12], [number, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]].concat()[..20]);
        put("enforce", b"1");
        put("policy", &policy("refpolicy-base.33.gz"));
        loaded(1);
        assert_eq!(state(Profile::Documented), NodeState::NotInstalled);
        put("policy", &policy("refpolicy-virt_launcher.33.gz"));
        // The same policy as far as the kernel says.
        assert_eq!(state(Profile::Documented), NodeState::NotInstalled);
        loaded(2);
        assert_eq!(state(Profile::Documented), NodeState::InForce);
        assert!(watch.metric().contains("{state=\"in-force\"} 1\n"), "{}", watch.metric());
        assert_eq!(state(Profile::Minimal), NodeState::NotInstalled);
        put("enforce", b"0");
        assert_eq!(state(Profile::Documented), NodeState::Permissive);
        put("policy", b"no policy");
        loaded(3);
        let report = watch.look(Profile::Documented);
        assert!(report.message.contains("cannot be read"), "{}", report.message);
    }

    #[test]
    fn the_policy_is_installed_once_for_each_that_is_loaded() {
        let (first, second) = ((Profile::Minimal, Some(1)), (Profile::Minimal, Some(2)));
        let installer = Installer::default();
        assert!(!installer.is_due(first, NodeState::InForce));
        for state in [NodeState::NotInstalled, NodeState::Stale] {
            assert!(installer.is_due(first, state));
            let tried = Installer { tried: Some(first) };
            assert!(!tried.is_due(first, state));
            assert!(tried.is_due(second, state) && tried.is_due((Profile::Documented, Some(1)), state));
        }
    }
}
