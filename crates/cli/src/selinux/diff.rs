//! `ferrovirt selinux diff`: two policies, or two types of one.

use super::{Answer, Source, answer, source::load};
use anyhow::{Result, bail};
use clap::Args;
use ferrovirt_selinux::diff::{Difference, Line, Sign, between_policies, between_types};
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(Args)]
pub(super) struct DiffOptions {
    #[command(flatten)]
    source: Source,
    /// The second policy
    #[arg(required_unless_present = "from", conflicts_with = "from")]
    second: Option<PathBuf>,
    /// A type of the first policy
    #[arg(long, requires = "to", value_name = "TYPE")]
    from: Option<String>,
    /// The type to compare it with
    #[arg(long, requires = "from", value_name = "TYPE")]
    to: Option<String>,
}

pub(super) fn diff(options: &DiffOptions) -> Answer {
    let policy = &options.source.policy;
    let difference: Difference = match (&options.second, &options.from, &options.to) {
        (Some(second), ..) => between_policies(load(policy)?, load(second)?),
        (None, Some(from), Some(to)) => {
            let first = load(policy)?;
            let value = |name: &str| -> Result<u32> {
                let value = first.find_type(name)?;
                if first.is_attribute(value) {
                    bail!("{name} is an attribute; name two types");
                }
                Ok(value)
            };
            let (one, two) = (value(from)?, value(to)?);
            between_types(first, one, two).grouped(first.type_name(one), first.type_name(two))
        }
        _ => bail!("name a second policy, or two types with --from and --to"),
    };
    let json = || {
        let group = |sign: Sign, lines: &[Line]| -> Vec<String> {
            lines.iter().filter(|line| line.sign == sign).map(|line| line.text.clone()).collect()
        };
        let groups: Vec<Value> = difference
            .groups
            .iter()
            .map(|about| {
                let (removed, added) = (group(Sign::Removed, &about.lines), group(Sign::Added, &about.lines));
                json!({ "cause": about.cause, "onlyInFirst": removed, "onlyInSecond": added })
            })
            .collect();
        json!({ "same": difference.is_empty(), "groups": groups })
    };
    let (text, _) = answer(options.source.output, || difference.to_string(), json)?;
    Ok((text, i32::from(!difference.is_empty())))
}
