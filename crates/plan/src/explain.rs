//! What a machine is granted and why, for people and for programs.

use crate::{
    config::{ClusterConfig, LauncherRights},
    render,
    scc::admission,
    user_namespace::{self, Obstacle},
};
use ferrovirt_model::{Machine, Profile};
use ferrovirt_privilege::{
    Feature, Grant, GrantSet, Held, Right, Subject, Surface, Surroundings, cluster_grants, machine_grants,
};
use serde::Serialize;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
};

/// Width of a line of text.
const WIDTH: usize = 110;

/// The explanation of one machine under one profile. Its [`Display`](fmt::Display) is the text, its serialization the
/// JSON form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// `namespace/name`.
    pub machine: String,
    /// The profile.
    pub profile: String,
    /// The machine's features with what each is granted, in the order of the documents.
    pub features: Vec<FeatureExplanation>,
    /// What launcher, QEMU and the controller's SCC get under this profile, counted.
    pub held: Counts,
    /// The SCC that admits its pod on a cluster as it is installed.
    pub admitted_by: Option<String>,
    /// What keeps its pod from a user namespace of its own; nothing when it has one.
    pub node_users: Vec<String>,
    /// What a guest that breaks out of QEMU is on the node.
    pub broken_out: String,
    /// What the documented profile grants to the same machine in addition, when this is the minimal one.
    pub saved: Vec<SavedRight>,
    /// What this profile grants that the documented one does not: what is passed instead of being taken.
    pub instead: Vec<SavedRight>,
}

/// One feature of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FeatureExplanation {
    /// Its name.
    pub feature: String,
    /// What it is granted; empty when the base machine's grants are enough.
    pub grants: Vec<GrantExplanation>,
}

/// One entry of the table, filled in for the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GrantExplanation {
    /// Who.
    pub subject: String,
    /// When.
    pub phase: String,
    /// What, one text for each right. System calls are counted in the text form.
    pub rights: Vec<String>,
    /// What refuses without it.
    pub hook: String,
    /// Why.
    pub reason: String,
    /// The scenario that fails without it.
    pub witness: String,
}

/// A right that one profile has and the other does not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SavedRight {
    /// Who would have it.
    pub subject: String,
    /// What.
    pub right: String,
    /// Features that ask for it in that profile.
    pub features: Vec<String>,
}

/// Numbers of rights in the pod and of Linux capabilities among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Linux capabilities.
    pub capabilities: usize,
    /// Device nodes.
    pub devices: usize,
    /// SELinux rules, one for each permission: all that the machine's type has in the minimal profile, what it has beyond `container_t` in
    /// the documented one.
    pub selinux: usize,
    /// Mounts.
    pub mounts: usize,
}

/// Explains a machine whose claims are in file-system mode on a cluster with KVM.
pub fn explain(machine: &Machine, profile: Profile) -> Explanation {
    let config = ClusterConfig { profile, ..ClusterConfig::default() };
    explain_in(machine, &config.surroundings(&BTreeSet::new()), &config)
}

/// Explains a machine in its surroundings on a cluster with this configuration, which decides about its user namespace.
pub fn explain_in(machine: &Machine, surroundings: &Surroundings, config: &ClusterConfig) -> Explanation {
    let profile = config.profile;
    let obstacles = user_namespace::obstacles(machine, config, surroundings);
    let surroundings = &Surroundings { user_namespace: obstacles.is_empty(), ..surroundings.clone() };
    let here = machine_grants(machine, surroundings, profile);
    let documented = machine_grants(machine, surroundings, Profile::Documented);
    let present = ferrovirt_privilege::features(machine, surroundings);
    let (admitted_by, unused) = admitted(machine, surroundings, profile);
    let explained = |feature| explain_feature(feature, &here, &unused);
    let features = present.into_iter().map(explained).collect();
    Explanation {
        machine: format!("{}/{}", machine.namespace, machine.name),
        profile: profile.name().to_owned(),
        features,
        held: Counts::of(&here),
        admitted_by,
        broken_out: broken_out(config, &obstacles).to_owned(),
        node_users: obstacles.iter().map(Obstacle::to_string).collect(),
        saved: list(&documented.minus(&here)),
        instead: instead(&here, &documented, machine, surroundings, profile),
    }
}

/// What a guest is that has broken out of QEMU, which is held by the rest of its pod's confinement still: namespaces, the filter of
/// system calls, the SELinux type.
fn broken_out(config: &ClusterConfig, obstacles: &[Obstacle]) -> &'static str {
    match (config.profile, config.image_user) {
        _ if obstacles.is_empty() => {
            "a user that no other pod has and to whom no file of the node belongs, without a capability; also the pod's root \
             would be such a user, and its capabilities would hold in its pod alone"
        }
        (Profile::Documented, _) => {
            "user 107 of the node, as the guests of all other machines there, with NET_ADMIN, NET_RAW and SYS_NICE"
        }
        (Profile::Minimal, None) => {
            "a user of the node from the range of the machine's namespace, as the guests of that namespace's other machines \
             there, without a capability"
        }
        (Profile::Minimal, Some(_)) => {
            "user 107 of the node, as the guests of all other machines there that have no user namespace, without a capability"
        }
    }
}

/// The SCC that admits the machine's pod, and the values of the controller's SCC that it does without: the SCC is there
/// for every machine of the cluster, in either profile. The documented profile is shown whole.
fn admitted(
    machine: &Machine,
    surroundings: &Surroundings,
    profile: Profile,
) -> (Option<String>, BTreeSet<Right<String>>) {
    let config = ClusterConfig {
        profile,
        use_emulation: surroundings.emulation,
        // What the machine needs, no matter who may have it.
        launcher_rights: Some(LauncherRights::Controller),
        ..ClusterConfig::default()
    };
    let pod = render::pod::pod_in(machine, &Default::default(), &config, surroundings);
    let grants = cluster_grants(profile);
    let scc = render::scc::controller(&grants);
    let machines = render::scc::machine(&grants);
    let by = |scc: &Value| {
        let admitted = admission::admit(&pod, &[scc.clone(), machines.clone()]);
        admitted.ok().map(|admitted| admitted.scc)
    };
    let admitted_by = by(&scc);
    let mut unused = BTreeSet::new();
    for right in grants.on(Surface::Scc).into_iter().filter(|_| profile == Profile::Minimal) {
        let Right::Scc { field, value } = &right else { continue };
        if by(&admission::without(&scc, field, value)) == admitted_by {
            unused.insert(right);
        }
    }
    (admitted_by, unused)
}

fn explain_feature(
    feature: Feature,
    grants: &GrantSet,
    unused: &BTreeSet<Right<String>>,
) -> FeatureExplanation {
    let mut entries: BTreeMap<&Grant, BTreeSet<&Held>> = BTreeMap::new();
    for (held, origins) in grants.iter().filter(|(held, _)| !unused.contains(&held.right)) {
        for origin in origins.iter().filter(|origin| origin.feature == feature) {
            entries.entry(origin.grant).or_default().insert(held);
        }
    }
    let explained = |(grant, held): (&Grant, BTreeSet<&Held>)| GrantExplanation {
        subject: grant.subject.to_string(),
        phase: grant.phase.to_string(),
        rights: held.into_iter().map(|held| held.right.to_string()).collect(),
        hook: grant.hook.to_string(),
        reason: grant.reason.to_string(),
        witness: grant.witness.to_string(),
    };
    FeatureExplanation { feature: feature.to_string(), grants: entries.into_iter().map(explained).collect() }
}

fn list(grants: &GrantSet) -> Vec<SavedRight> {
    let saved = |(held, origins): (&Held, &BTreeSet<ferrovirt_privilege::Origin>)| SavedRight {
        subject: held.subject.to_string(),
        right: held.right.to_string(),
        features: origins
            .iter()
            .map(|origin| origin.feature.to_string())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect(),
    };
    grants.iter().map(saved).collect()
}

/// What the documented profile lacks. The rules of a machine's own SELinux type are one line: they stand in the place of
/// all that `container_t` may do.
fn instead(
    here: &GrantSet,
    documented: &GrantSet,
    machine: &Machine,
    surroundings: &Surroundings,
    profile: Profile,
) -> Vec<SavedRight> {
    let selinux = |right: &str| right.starts_with("selinux ");
    let mut all = list(&here.minus(documented));
    let rules: Vec<SavedRight> = all.extract_if(.., |saved| selinux(&saved.right)).collect();
    if profile == Profile::Minimal {
        let domain = ferrovirt_privilege::domain(machine, surroundings);
        let features: BTreeSet<String> = rules.iter().flat_map(|rule| rule.features.clone()).collect();
        all.push(SavedRight {
            subject: Subject::Launcher.to_string(),
            right: format!("SELinux type {domain}: {} rules in all", rules.len()),
            features: features.into_iter().collect(),
        });
    }
    all
}

/// Rights as lines: permissions on one kind of object stand together.
fn lines<'a>(rights: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut out: Vec<(&str, String)> = Vec::new();
    for right in rights {
        let (head, last) = right.rsplit_once(' ').unwrap_or((right, ""));
        match out.last_mut() {
            Some((before, line)) if *before == head && right.starts_with("selinux ") => {
                line.push(' ');
                line.push_str(last);
            }
            _ => out.push((head, right.clone())),
        }
    }
    out.into_iter().map(|(_, line)| line).collect()
}

impl Counts {
    fn of(grants: &GrantSet) -> Self {
        let mut counts = Self::default();
        for (held, _) in grants.iter() {
            match held.right {
                Right::Capability(_) => counts.capabilities += 1,
                Right::Device { .. } => counts.devices += 1,
                _ if held.right.surface() == Surface::Selinux => counts.selinux += 1,
                Right::Mount { .. } => counts.mounts += 1,
                _ => {}
            }
        }
        counts
    }
}

impl Explanation {
    /// The JSON form.
    pub fn json(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "machine {}, profile {}", self.machine, self.profile)?;
        let Counts { capabilities, devices, selinux, mounts } = self.held;
        let built_up = self.profile == Profile::Minimal.name();
        let kind = if built_up { "SELinux rules in all" } else { "SELinux rules beyond container_t's" };
        writeln!(
            f,
            "its pod has: {capabilities} capabilities, {devices} devices, {selinux} {kind}, {mounts} mounts"
        )?;
        match &self.admitted_by {
            Some(scc) => writeln!(f, "admitted by the SCC {scc}")?,
            None => writeln!(f, "no SCC of an installed cluster admits it")?,
        }
        match self.node_users.as_slice() {
            [] => writeln!(f, "user namespace: its pod's own")?,
            why => wrapped(f, "user namespace: ", &format!("the node's ({})", why.join("; ")))?,
        }
        wrapped(f, "a guest that breaks out of QEMU is: ", &self.broken_out)?;
        let names: Vec<_> = self.features.iter().map(|feature| feature.feature.as_str()).collect();
        wrapped(f, "features: ", &names.join(", "))?;
        for feature in &self.features {
            writeln!(f, "\n{}", feature.feature)?;
            if feature.grants.is_empty() {
                writeln!(f, "  needs nothing more")?;
            }
            for grant in &feature.grants {
                let rights = grant.rights.iter().filter(|right| !right.starts_with("system call "));
                let mut rights = lines(rights).into_iter();
                let calls = grant.rights.iter().filter(|right| right.starts_with("system call ")).count();
                let head = format!("  {:<20}", grant.subject);
                if calls > 0 {
                    writeln!(f, "{head}{calls} system calls")?;
                } else if let Some(first) = rights.next() {
                    writeln!(f, "{head}{first}")?;
                }
                for right in rights {
                    writeln!(f, "{:<22}{right}", "")?;
                }
                wrapped(f, &format!("{:<22}why   ", ""), &grant.reason)?;
                wrapped(f, &format!("{:<22}hook  ", ""), &grant.hook)?;
            }
        }
        if self.saved.is_empty() {
            return Ok(());
        }
        writeln!(f, "\nthe documented profile would grant in addition:")?;
        rights(f, &self.saved)?;
        if !self.instead.is_empty() {
            writeln!(f, "\nwhat this profile does instead:")?;
            rights(f, &self.instead)?;
        }
        Ok(())
    }
}

fn rights(f: &mut fmt::Formatter<'_>, list: &[SavedRight]) -> fmt::Result {
    let width = list.iter().map(|saved| saved.right.len()).max().unwrap_or_default().min(70);
    for saved in list {
        writeln!(f, "  {:<20}{:<width$}  {}", saved.subject, saved.right, saved.features.join(", "))?;
    }
    Ok(())
}

/// Writes `text` after `head`, broken at spaces and indented below its start.
fn wrapped(f: &mut fmt::Formatter<'_>, head: &str, text: &str) -> fmt::Result {
    let indent = head.chars().count();
    let mut line = head.to_owned();
    let mut empty = true;
    for word in text.split(' ') {
        if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            writeln!(f, "{line}")?;
            line = " ".repeat(indent);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.write_str(word)?;
        empty = false;
    }
    writeln!(f, "{line}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    #[test]
    fn a_plain_machine_has_no_capability_and_says_what_is_saved() {
        let mut machine = samples::plain();
        machine.interfaces =
            vec![samples::interface("default", ferrovirt_model::machine::Binding::Masquerade, 4)];
        let explanation = explain(&machine, Profile::Minimal);
        let Counts { capabilities, devices, mounts, selinux } = explanation.held;
        assert_eq!((capabilities, devices, mounts), (0, 1, 3));
        let rules = format!("SELinux type virt_machine.kvm_multiqueue: {selinux} rules in all");
        assert!(explanation.instead.iter().any(|right| right.right == rules), "{:#?}", explanation.instead);
        let saved: Vec<_> = explanation.saved.iter().map(|saved| saved.right.as_str()).collect();
        for right in ["capability NET_ADMIN", "capability NET_RAW", "capability SYS_NICE"] {
            assert!(saved.contains(&right), "{saved:#?}");
        }
        let text = explanation.to_string();
        assert!(text.contains("0 capabilities"), "{text}");
        assert!(text.contains("\nadmitted by the SCC restricted-v2\n"), "{text}");
        assert!(!text.contains("  scc ") && !text.contains(" allowedCapabilities"), "{text}");
        assert!(text.contains("the documented profile would grant in addition:"), "{text}");
        assert!(text.lines().all(|line| line.trim_end() == line), "{text}");
        assert_eq!(explanation.json()["profile"], "minimal");
    }

    #[test]
    fn the_scc_is_explained_as_far_as_the_machine_needs_it() {
        let scc = |explanation: &Explanation| -> BTreeSet<String> {
            let grants = explanation.features.iter().flat_map(|feature| &feature.grants);
            let rights = grants.flat_map(|grant| &grant.rights).filter(|right| right.starts_with("scc "));
            rights.cloned().collect()
        };
        let mut machine = samples::plain();
        machine.disks = vec![samples::disk("d", samples::sources()[1].clone())];
        let minimal = explain(&machine, Profile::Minimal);
        assert_eq!(minimal.admitted_by.as_deref(), Some("kubevirt-controller"));
        let needed = scc(&minimal);
        assert!(needed.contains("scc allowHostDirVolumePlugin=true"), "{needed:?}");
        assert!(!needed.iter().any(|right| right.contains("allowedCapabilities")), "{needed:?}");
        let documented = scc(&explain(&machine, Profile::Documented));
        assert!(documented.contains("scc allowedCapabilities=SYS_NICE"), "{documented:?}");
    }

    #[test]
    fn what_keeps_a_pod_from_a_user_namespace_is_named_and_what_that_means() {
        let cluster = |user_namespaces| ClusterConfig {
            user_namespaces,
            cluster_has_user_namespaces: true,
            ..ClusterConfig::on_cluster(Profile::Minimal, "launcher".to_owned(), Some(107))
        };
        let on = |config: &ClusterConfig| {
            explain_in(&samples::plain(), &config.surroundings(&BTreeSet::new()), config)
        };
        let own = on(&cluster(user_namespace::UserNamespaces::Always));
        assert_eq!((own.node_users.len(), own.admitted_by.as_deref()), (0, Some("restricted-v3")));
        let text = own.to_string();
        assert!(
            text.contains("\nuser namespace: its pod's own") && text.contains("pod hostUsers=false"),
            "{text}"
        );
        assert!(own.broken_out.starts_with("a user that no other pod has"), "{text}");
        let kept = on(&cluster(user_namespace::UserNamespaces::Auto));
        assert_eq!(kept.admitted_by.as_deref(), Some("restricted-v2"));
        let text = kept.to_string();
        assert!(text.contains("\nuser namespace: the node's (KVM: /dev/kvm is the node's own"), "{text}");
        assert!(kept.broken_out.starts_with("user 107 of the node"), "{text}");
        let embedded = explain(&samples::plain(), Profile::Minimal);
        assert!(embedded.node_users[0].contains("ferrovirt up"), "{:?}", embedded.node_users);
        assert!(embedded.broken_out.contains("range of the machine's namespace"), "{}", embedded.broken_out);
        let documented = explain(&samples::plain(), Profile::Documented);
        assert!(documented.broken_out.ends_with("SYS_NICE"), "{}", documented.broken_out);
    }

    #[test]
    fn where_constraints_give_users_the_constraint_of_a_pod_is_named_and_what_keeps_it_from_a_user_namespace()
    {
        let on = |user_namespaces| {
            let config = ClusterConfig {
                user_namespaces,
                use_emulation: true,
                cluster_has_user_namespaces: true,
                ..ClusterConfig::on_cluster(Profile::Minimal, "launcher".to_owned(), None)
            };
            explain_in(&samples::plain(), &config.surroundings(&BTreeSet::new()), &config)
        };
        let auto = on(user_namespace::UserNamespaces::Auto);
        assert_eq!(auto.admitted_by.as_deref(), Some("restricted-v2"));
        assert!(auto.node_users[0].contains("which userNamespaces Always changes"), "{auto}");
        assert!(auto.broken_out.contains("range of the machine's namespace"), "{auto}");
        let always = on(user_namespace::UserNamespaces::Always);
        assert_eq!((always.node_users.len(), always.admitted_by.as_deref()), (0, Some("restricted-v3")));
    }

    #[test]
    fn the_documented_profile_saves_nothing() {
        let explanation = explain(&samples::full(), Profile::Documented);
        assert!(explanation.saved.is_empty() && explanation.instead.is_empty());
        assert_eq!(explanation.held.capabilities, 3);
        // The four documented rules without the one of SR-IOV, which this machine does not use.
        assert_eq!(explanation.held.selinux, 3 + 6 + 2);
    }

    #[test]
    fn every_feature_is_explained_with_its_reasons() {
        for profile in [Profile::Minimal, Profile::Documented] {
            let explanation = explain(&samples::full(), profile);
            let grants = explanation.features.iter().flat_map(|feature| &feature.grants);
            assert!(grants.into_iter().all(|grant| !grant.reason.is_empty() && !grant.rights.is_empty()));
        }
    }
}
