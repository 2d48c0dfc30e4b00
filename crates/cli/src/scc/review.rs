//! `ferrovirt scc review`.

use super::{Answer, Change, Form, Source, changes, input::Implied, state::State};
use anyhow::{Result, bail};
use clap::Args;
use ferrovirt_kubernetes::{json, subject};
use ferrovirt_scc::{
    Denied, Form as RefusalForm, Operation, Outcome, Pass, Refused, Request, SubjectType, Verdict,
};
use serde::Serialize;
use std::fmt::Write as _;

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    source: Source,
    /// The user who would make it
    #[arg(long = "as", value_name = "USER", conflicts_with = "service_account")]
    user: Option<String>,
    /// A group of that user; may be repeated. system:authenticated is always one
    #[arg(long = "as-group", value_name = "GROUP")]
    groups: Vec<String>,
    /// The service account that would make it, such as a controller's
    #[arg(long = "serviceaccount", value_name = "NAMESPACE/NAME")]
    service_account: Option<String>,
}

/// Who asks.
struct Person {
    user: String,
    groups: Vec<String>,
    words: String,
}

impl Options {
    fn person(&self, assumed: &mut Vec<String>) -> Result<Person> {
        let mut groups = self.groups.clone();
        let everybody = subject::AUTHENTICATED.to_owned();
        if !groups.contains(&everybody) {
            groups.push(everybody);
        }
        if let Some(account) = &self.service_account {
            let Some((namespace, name)) =
                account.split_once('/').filter(|(a, b)| !a.is_empty() && !b.is_empty())
            else {
                bail!("--serviceaccount {account}: write NAMESPACE/NAME");
            };
            groups.extend(subject::service_account_groups(namespace));
            let user = subject::service_account(namespace, name);
            return Ok(Person { user, groups, words: format!("service account {account}") });
        }
        if let Some(user) = &self.user {
            return Ok(Person { user: user.clone(), groups, words: format!("user {user}") });
        }
        let words = match self.groups.as_slice() {
            [] => "somebody without further rights".to_owned(),
            groups => format!("somebody of {}", groups.join(", ")),
        };
        assumed.push(format!("{words} makes it: the group system:authenticated (--as USER, --as-group GROUP or --serviceaccount NAMESPACE/NAME says otherwise)"));
        Ok(Person { user: String::new(), groups, words })
    }
}

/// The answer about one object.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    object: String,
    namespace: String,
    admitted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    scc: Option<String>,
    /// Whose right counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    /// What admission would set.
    changes: Vec<Change>,
    /// The message of the refusal, as the API server words it.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// Every SCC in the order in which they are tried.
    candidates: Vec<Candidate>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Candidate {
    scc: String,
    /// Who may use it; absent when nobody who counts may.
    #[serde(skip_serializing_if = "Option::is_none")]
    usable_by: Option<String>,
    admits: bool,
    reasons: Vec<Reason>,
}

#[derive(Serialize)]
struct Reason {
    field: String,
    reason: String,
}

pub(super) fn review(options: &Options) -> Answer {
    let source = &options.source;
    let objects = super::input::implied(&source.file, &source.namespace, source.profile)?;
    let namespaces: std::collections::BTreeSet<&str> = objects.iter().map(|o| o.namespace.as_str()).collect();
    let namespaces: Vec<&str> = namespaces.into_iter().collect();
    let mut state = State::load(&source.known, &namespaces)?;
    let person = options.person(&mut state.assumed)?;
    let reports: Vec<Report> = objects.iter().map(|object| report(&state, &person, object)).collect();
    let code = i32::from(reports.iter().any(|report| !report.admitted));
    let text = match source.output {
        Form::Json => {
            let all = serde_json::json!({"assumed": state.assumed, "objects": reports});
            format!("{}\n", serde_json::to_string_pretty(&all)?)
        }
        Form::Text => {
            let mut text = String::new();
            for line in &state.assumed {
                writeln!(text, "assumed: {line}")?;
            }
            for report in &reports {
                write!(text, "{report}")?;
            }
            text
        }
    };
    Ok((text, code))
}

fn report(state: &State, person: &Person, implied: &Implied) -> Report {
    let Implied { object, namespace, pod } = implied;
    let request = Request {
        operation: Operation::Create,
        subresource: "",
        name: "",
        namespace,
        values: state.values(namespace),
        user: &person.user,
        groups: &person.groups,
    };
    let account = json::text(pod, "/spec/serviceAccountName");
    let words = |subject: SubjectType| match subject {
        SubjectType::User => person.words.clone(),
        SubjectType::ServiceAccount => format!("service account {namespace}/{account}"),
    };
    let mut changed = pod.clone();
    let outcome = state.constraints.admit(&request, &state.rights, &mut changed);
    let candidates = match state.constraints.consider(&request, &state.rights, pod) {
        Ok(verdicts) => verdicts.into_iter().map(|verdict| candidate(verdict, &words)).collect(),
        Err(_) => Vec::new(),
    };
    let mut report = Report {
        object: object.clone(),
        namespace: namespace.clone(),
        admitted: true,
        scc: None,
        subject: None,
        changes: Vec::new(),
        message: None,
        candidates,
    };
    match outcome {
        Ok(Outcome::Admitted(admitted)) => {
            report.changes = changes(pod, &changed);
            report.subject = Some(words(admitted.subject));
            report.scc = Some(admitted.scc);
        }
        Ok(Outcome::Ignored) => {}
        Err(denied) => {
            report.admitted = false;
            report.message = Some(reason(&denied));
        }
    }
    report
}

/// The message without what the report says for each SCC anyway.
fn reason(denied: &Denied) -> String {
    match (&denied.cause, denied.pass) {
        (ferrovirt_scc::Cause::NothingFits(_), Pass::Mutating) => {
            "no SCC that may be used admits it".to_owned()
        }
        _ => denied.reason(),
    }
}

fn candidate(verdict: Verdict, words: &impl Fn(SubjectType) -> String) -> Candidate {
    let reasons = match &verdict.admits {
        Ok(_) => Vec::new(),
        Err(Refused::Unusable(why)) => vec![Reason { field: String::new(), reason: why.clone() }],
        Err(Refused::Rules(rules)) => rules
            .iter()
            .map(|refusal| match refusal.form {
                RefusalForm::NotUsable | RefusalForm::Hint => {
                    Reason { field: String::new(), reason: refusal.to_string() }
                }
                _ => Reason { field: refusal.field.clone(), reason: refusal.body.to_string() },
            })
            .collect(),
    };
    Candidate {
        usable_by: verdict.subject.map(words),
        admits: verdict.admits.is_ok(),
        scc: verdict.scc,
        reasons,
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { object, namespace, .. } = self;
        if let Some(scc) = &self.scc {
            let subject = self.subject.as_deref().unwrap_or_default();
            writeln!(f, "\n{object} in namespace {namespace}: admitted by {scc}, by the right of {subject}")?;
            for change in &self.changes {
                writeln!(f, "  sets {change}")?;
            }
            return Ok(());
        }
        if self.admitted {
            return writeln!(f, "\n{object} in namespace {namespace}: SCCs are not asked about it");
        }
        let message = self.message.as_deref().unwrap_or_default();
        writeln!(f, "\n{object} in namespace {namespace}: refused: {message}")?;
        for candidate in &self.candidates {
            let Candidate { scc, usable_by, admits, reasons } = candidate;
            match usable_by {
                Some(who) => writeln!(f, "  {scc}, usable by {who}")?,
                None if *admits => writeln!(f, "  {scc} would admit it and may not be used")?,
                None => writeln!(f, "  {scc} may not be used and would not admit it")?,
            }
            for Reason { field, reason } in reasons {
                let colon = if field.is_empty() { "" } else { ": " };
                writeln!(f, "    {field}{colon}{reason}")?;
            }
        }
        Ok(())
    }
}
