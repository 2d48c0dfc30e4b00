//! Denials and what they mean.

use std::collections::BTreeMap;

use ferrovirt_kubernetes::json::text;
use ferrovirt_model::Profile;
use ferrovirt_plan::selinux::denial;
use ferrovirt_privilege::{Right, cluster_grants};
use ferrovirt_selinux::avc::{self, RecordKind};
use serde_json::Value;

use super::report::Report;

const KIND: &str = "denials";

/// The documented rules, by target and class.
pub(super) fn documented() -> BTreeMap<(String, String), std::collections::BTreeSet<String>> {
    let mut rules = BTreeMap::<_, std::collections::BTreeSet<String>>::new();
    for (held, _) in cluster_grants(Profile::Documented).iter() {
        if let Right::Selinux { target, class, permission, .. } = &held.right {
            rules.entry((target.clone(), class.clone())).or_default().insert(permission.clone());
        }
    }
    rules
}

/// One denial in each line, with its event and what it means. The policies that were loaded are not in such directories, so
/// each is explained by the log alone.
pub(super) fn samples(lines: &str, report: &mut Report) {
    let rules = documented();
    let allowed = |_: &str, target: &str, class: &str, permission: &str| {
        let permissions = rules.get(&(target.to_owned(), class.to_owned()))?;
        permissions.contains(permission).then(|| "documented".to_owned())
    };
    let mut ambiguous = 0;
    for (number, line) in (1..).zip(lines.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let result = serde_json::from_str(line).map_err(|error| format!("no JSON: {error}")).and_then(
            |sample: Value| {
                sample_differs(&sample, &allowed, &mut ambiguous)
                    .map_err(|problem| format!("{}: {problem}", text(&sample, "id")))
            },
        );
        report.compare(KIND, result.map_err(|problem| format!("line {number}: {problem}")));
    }
    if ambiguous > 0 {
        report.note(format!("{ambiguous} denials have several meanings as long as their policy is not known; the right one is among ours"));
    }
}

fn sample_differs(sample: &Value, allowed: denial::Allowed<'_>, ambiguous: &mut usize) -> Result<(), String> {
    let expect = sample.get("expect").ok_or("a sample needs expect")?;
    let record = avc::parse(text(sample, "avc")).map_err(|error| error.to_string())?;
    let denial = record.and_then(|record| record.denial).ok_or("avc holds no denial")?;
    let records: Vec<&str> = match sample.get("records").and_then(Value::as_array) {
        Some(records) => records.iter().filter_map(Value::as_str).collect(),
        None => vec![text(sample, "avc")],
    };
    let (events, damaged) = avc::events(records);
    if let Some((_, error)) = damaged.first() {
        return Err(error.to_string());
    }
    let event = events
        .iter()
        .find(|event| event.denials().any(|(_, known)| *known == denial))
        .ok_or("the denial is not among the event's records")?;
    let mut problems = Vec::new();
    let mut field = |key: &str, have: Value| match expect.get(key) {
        Some(want) if *want != have => problems.push(format!("{key}: want {want}, have {have}")),
        _ => {}
    };
    for (context, kind, level) in
        [(&denial.source, "source_type", "source_level"), (&denial.target, "target_type", "target_level")]
    {
        let mut parts = context.splitn(4, ':').skip(2);
        field(kind, parts.next().into());
        field(level, parts.next().into());
    }
    field("class", denial.class.as_str().into());
    field("permissions", denial.permissions.clone().into());
    field("ioctl", event.tun_request().into());
    let explanation = denial::explain(event, &denial, None, allowed);
    let cause = if explanation.constraint { "constraint" } else { "missing-allow" };
    let kind = text(expect, "kind");
    if explanation.kind.name() != kind && explanation.unless_known.iter().any(|other| other.name() == kind) {
        *ambiguous += 1;
    } else {
        field("cause", cause.into());
        field("kind", explanation.kind.name().into());
    }
    field("feature", explanation.topic.name().into());
    let documented = explanation.granted.is_some() && explanation.kind == denial::Kind::FeatureRule;
    field("in_the_four_rules", documented.into());
    if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
}

/// Kernel messages: every line with a denial is understood and finds its system call.
pub(super) fn log(lines: &str, report: &mut Report) {
    let (events, damaged) = avc::events(lines.lines());
    let is_denial = |line: &&str| line.contains("avc:  denied ") || line.contains("avc:  granted ");
    let want = lines.lines().filter(is_denial).count().saturating_sub(damaged.len());
    for (number, error) in damaged {
        report.compare("lines of logs", Err(format!("line {number}: {error}")));
    }
    report.equal("logs", "denials", &want, &events.iter().flat_map(|event| event.denials()).count());
    for event in &events {
        for (_, denial) in event.denials() {
            let syscall = event.records.iter().any(|record| record.kind == RecordKind::Syscall);
            let explained = denial::explain(event, denial, None, &|_, _, _, _| None);
            let understood = explained.details.is_empty() && !explained.advice.is_empty();
            let found = !syscall || event.field(&RecordKind::Syscall, "exe").is_some();
            report.compare(
                "lines of logs",
                if understood && found { Ok(()) } else { Err(format!("not understood: {denial:?}")) },
            );
        }
    }
}
