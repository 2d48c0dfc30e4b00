//! `ferrovirt scc diff`.

use super::{Answer, Form, input, state};
use anyhow::{Context, Result, bail};
use clap::Args;
use ferrovirt_plan::scc::excess::{Excess, excess};
use ferrovirt_scc::SecurityContextConstraints;
use serde_json::{Value, json};
use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

#[derive(Args)]
pub(crate) struct Options {
    /// Name of an SCC, or a file with one
    a: String,
    /// Name of an SCC, or a file with one
    b: String,
    /// Where names are looked up before the defaults
    #[arg(long, value_name = "FILE")]
    sccs: Vec<PathBuf>,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    output: Form,
}

pub(super) fn diff(options: &Options) -> Answer {
    let mut known = state::sccs(&input::documents(&options.sccs)?)?;
    known.extend(state::built_in());
    let (a, b) = (find(&options.a, &known)?, find(&options.b, &known)?);
    let (more, less) = (excess(&a, &b), excess(&b, &a));
    let code = i32::from(!(more.is_empty() && less.is_empty()));
    let text = match options.output {
        Form::Json => {
            let side = |list: &[Excess]| list.iter().map(as_json).collect::<Vec<_>>();
            let both = json!({"a": a.name(), "b": b.name(), "onlyA": side(&more), "onlyB": side(&less)});
            format!("{}\n", serde_json::to_string_pretty(&both)?)
        }
        Form::Text => {
            let mut text = String::new();
            section(&mut text, a.name(), b.name(), &more)?;
            section(&mut text, b.name(), a.name(), &less)?;
            text
        }
    };
    Ok((text, code))
}

fn section(text: &mut String, a: &str, b: &str, list: &[Excess]) -> Result<()> {
    if list.is_empty() {
        writeln!(text, "{a} allows nothing that {b} does not")?;
        return Ok(());
    }
    writeln!(text, "{a} allows, and {b} does not:")?;
    write!(text, "{}", grants(list))?;
    Ok(())
}

/// One paragraph for each right, with the features that ask for it.
pub(super) fn grants(list: &[Excess]) -> String {
    let mut text = String::new();
    for excess in list {
        text.push_str(&format!("  {excess}\n"));
        for asked in &excess.asked_by {
            text.push_str(&format!("      {}: {}\n", asked.feature, asked.reason));
        }
    }
    text
}

pub(super) fn as_json(excess: &Excess) -> Value {
    json!({"right": excess.right.to_string(), "what": excess.what, "askedBy": excess.asked_by})
}

fn find(wanted: &str, known: &[SecurityContextConstraints]) -> Result<SecurityContextConstraints> {
    if let Some(scc) = known.iter().find(|scc| scc.name() == wanted) {
        return Ok(scc.clone());
    }
    let file = Path::new(wanted);
    if !file.is_file() {
        let names: Vec<&str> = known.iter().map(SecurityContextConstraints::name).collect();
        bail!("{wanted} is neither a file nor an SCC; there are: {}", names.join(", "));
    }
    let mut found = state::sccs(&input::documents(&[file.to_owned()])?)?.into_iter();
    found.next().with_context(|| format!("no SecurityContextConstraints in {wanted}"))
}
