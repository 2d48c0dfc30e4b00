//! `ferrovirt scc who-can`.

use super::{Answer, Form, Source, diff, input::Implied, roles, state::State};
use anyhow::{Context, Result};
use clap::Args;
use ferrovirt_kubernetes::object;
use ferrovirt_plan::scc::excess::{Excess, excess};
use ferrovirt_scc::{Operation, Request, SecurityContextConstraints, least, minimal, prepare};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// What the generated SCC's grants are compared with.
const BASE: &str = "restricted-v2";

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    source: Source,
    /// Name of the generated SCC; made from the object's name when absent
    #[arg(long)]
    name: Option<String>,
}

/// What the report says about one object.
struct Report<'a> {
    object: &'a Implied,
    /// The least SCC that admits it, with what it grants beyond the base and who may use it.
    least: Option<(&'a SecurityContextConstraints, Vec<Excess>, Vec<String>)>,
    /// Names of all that admit it, in the order in which they are tried.
    all: Vec<String>,
    made: Value,
    made_grants: Vec<Excess>,
}

pub(super) fn who_can(options: &Options) -> Answer {
    let source = &options.source;
    let objects = super::input::implied(&source.file, &source.namespace, source.profile)?;
    let namespaces: std::collections::BTreeSet<&str> = objects.iter().map(|o| o.namespace.as_str()).collect();
    let namespaces: Vec<&str> = namespaces.into_iter().collect();
    let state = State::load(&source.known, &namespaces)?;
    let reports = objects.iter().map(|object| report(&state, options, object)).collect::<Result<Vec<_>>>()?;
    let code = i32::from(reports.iter().any(|report| report.least.is_none()));
    let text = match source.output {
        Form::Json => {
            let all: Vec<Value> = reports.iter().map(Report::json).collect();
            let all = json!({"assumed": state.assumed, "objects": all});
            format!("{}\n", serde_json::to_string_pretty(&all)?)
        }
        Form::Text => {
            let mut text = String::new();
            // Comments: the whole answer can be applied.
            for line in &state.assumed {
                writeln!(text, "# assumed: {line}")?;
            }
            for report in &reports {
                report.text(&mut text)?;
            }
            text
        }
    };
    Ok((text, code))
}

fn report<'a>(state: &'a State, options: &Options, object: &'a Implied) -> Result<Report<'a>> {
    let Implied { namespace, pod, .. } = object;
    let request = Request {
        operation: Operation::Create,
        subresource: "",
        name: "",
        namespace,
        values: state.values(namespace),
        user: "",
        groups: &[],
    };
    let verdicts = state
        .constraints
        .consider(&request, &state.rights, pod)
        .map_err(|cause| anyhow::anyhow!("{}: {cause:?}", object.object))?;
    let base = ferrovirt_scc::defaults::all().into_iter().find(|scc| scc.name() == BASE).unwrap_or_default();
    let least = least(&verdicts)
        .and_then(|verdict| state.constraints.get(&verdict.scc))
        .map(|scc| (scc, excess(scc, &base), roles::holders(&state.rights, scc, namespace)));
    let all = verdicts.iter().filter(|v| v.admits.is_ok()).map(|v| v.scc.clone()).collect();
    let name = options.name.clone().unwrap_or_else(|| {
        let name = object.object.rsplit(' ').next().unwrap_or_default().trim_end_matches('.');
        format!("{}-least", name.trim_end_matches('-'))
    });
    let made = minimal(&name, pod).map_err(|cause| anyhow::anyhow!("{}: {cause:?}", object.object))?;
    let made_grants = excess(&made, &base);
    let stored = prepare(serde_json::to_value(&made)?)
        .map_err(|errors| {
            anyhow::anyhow!("{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        })
        .with_context(|| format!("{}: no valid SCC can be made for it", object.object))?;
    Ok(Report { object, least, all, made: stored, made_grants })
}

impl Report<'_> {
    fn json(&self) -> Value {
        let grants = |list: &[Excess]| list.iter().map(diff::as_json).collect::<Vec<_>>();
        let least = self.least.as_ref().map(|(scc, beyond, holders)| {
            json!({"scc": scc.name(), "beyondRestrictedV2": grants(beyond), "usableBy": holders})
        });
        json!({
            "object": self.object.object, "namespace": self.object.namespace, "least": least, "admittedBy": self.all,
            "generated": self.made, "generatedBeyondRestrictedV2": grants(&self.made_grants),
        })
    }

    fn text(&self, text: &mut String) -> Result<()> {
        let mut said = String::new();
        let Implied { object, namespace, .. } = self.object;
        match &self.least {
            Some((scc, beyond, holders)) => {
                writeln!(
                    said,
                    "{object} in namespace {namespace}: the least SCC that admits it is {}",
                    scc.name()
                )?;
                beyond_base(&mut said, scc.name(), beyond)?;
                match holders.as_slice() {
                    [] => writeln!(said, "nobody may use it by name")?,
                    holders => writeln!(said, "who may use it: {}", holders.join("; "))?,
                }
                writeln!(said, "all that admit it: {}", self.all.join(", "))?;
            }
            None => writeln!(said, "{object} in namespace {namespace}: no SCC admits it")?,
        }
        let name = object::name(&self.made);
        writeln!(said, "the SCC below admits it and little else; nobody may use it yet")?;
        beyond_base(&mut said, name, &self.made_grants)?;
        for line in said.lines() {
            writeln!(text, "# {line}")?;
        }
        writeln!(text, "{}---", serde_saphyr::to_string(&self.made)?)?;
        Ok(())
    }
}

fn beyond_base(text: &mut String, name: &str, beyond: &[Excess]) -> Result<()> {
    if beyond.is_empty() {
        writeln!(text, "{name} allows nothing beyond {BASE}")?;
    } else {
        writeln!(text, "{name} allows beyond {BASE}:\n{}", diff::grants(beyond).trim_end())?;
    }
    Ok(())
}
