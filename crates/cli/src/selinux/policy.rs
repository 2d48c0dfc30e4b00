//! `ferrovirt selinux policy`: the launcher's module for a base policy.

use super::{Answer, Form, answer, source::load};
use anyhow::bail;
use clap::{Args, ValueEnum};
use ferrovirt_model::Profile;
use ferrovirt_plan::selinux::{base::Base, module};
use ferrovirt_selinux::clone::Held;
use ferrovirt_selinux_node::RUNNING;
use serde_json::{Value, json};
use std::{fmt::Write as _, path::PathBuf};

#[derive(Args)]
pub(super) struct PolicyOptions {
    /// The base: a binary policy, a store's directory, /sys/fs/selinux/policy, or in the minimal profile one of the names
    /// refpolicy and container-selinux
    #[arg(long, default_value = RUNNING)]
    base: PathBuf,
    /// Whose types
    #[arg(long, value_enum, default_value_t = PolicyProfile::Documented)]
    profile: PolicyProfile,
    /// The type that the documented profile's copies
    #[arg(long, default_value = "container_t")]
    copy: String,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = PolicyForm::Text)]
    output: PolicyForm,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PolicyProfile {
    Documented,
    Minimal,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PolicyForm {
    /// CIL, with comments
    Text,
    Json,
    /// An object for the Security Profiles Operator
    RawSelinuxProfile,
}

pub(super) fn policy(options: &PolicyOptions) -> Answer {
    let family = options.base.to_str().and_then(Base::family);
    let (head, made) = match options.profile {
        PolicyProfile::Documented if family.is_some() => bail!(
            "the documented profile's type is an exact copy of container_t, which only a policy tells: name a policy file \
             with --base (the name {} is enough for --profile minimal only)",
            options.base.display()
        ),
        PolicyProfile::Documented => {
            let database = load(&options.base)?;
            let made = module::copy_of(database, &options.copy)?;
            let head = format!(
                "; The type virt_launcher.process: an exact copy of {} in the base policy, and the documented rules.\n",
                options.copy
            );
            (head, made)
        }
        PolicyProfile::Minimal => {
            let head =
                "; The types of the minimal profile, one for each combination of features.\n".to_owned();
            let made = match &family {
                Some(base) => module::minimal_module(base),
                None => module::module(load(&options.base)?, Profile::Minimal)?,
            };
            (head, made)
        }
    };
    let form = match options.output {
        PolicyForm::RawSelinuxProfile => return Ok((module::raw_selinux_profile(&made), 0)),
        PolicyForm::Text => Form::Text,
        PolicyForm::Json => Form::Json,
    };
    let text = || {
        let mut text = head;
        for rule in &made.remainder {
            let what = format!("{} {} {}", rule.target, rule.class, rule.permission);
            let _ = match &rule.held {
                Held::No => Ok(()),
                Held::Always => writeln!(text, "; {} has this already: {what}", options.copy),
                Held::If(condition, true) => {
                    writeln!(text, "; {} has this if {condition}: {what}", options.copy)
                }
                Held::If(condition, false) => {
                    writeln!(text, "; {} has this unless {condition}: {what}", options.copy)
                }
            };
        }
        text + &made.text
    };
    let json = || {
        let remainder: Vec<Value> = made
            .remainder
            .iter()
            .map(|rule| {
                let held = match &rule.held {
                    Held::No => json!(false),
                    Held::Always => json!(true),
                    Held::If(condition, state) => json!({ "condition": condition, "state": state }),
                };
                json!({ "target": rule.target, "class": rule.class, "permission": rule.permission, "held": held })
            })
            .collect();
        json!({ "cil": made.text, "documented": remainder })
    };
    answer(form, text, json)
}
