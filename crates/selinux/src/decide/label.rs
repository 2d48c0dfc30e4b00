//! The context of a new object or process.

use super::context::OBJECT_ROLE;
use crate::{
    database::Database,
    policy::{Bitmap, Class, Context, Level, Range, RuleKind},
};

/// The class says that the new range is the common part of source and target, and there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the ranges of source and target have nothing in common, so the new object's range cannot be computed"
)]
pub struct Uncomputable;

impl Database {
    /// The context of what `source` creates in or from `target`, by its last path component if given. The result may
    /// be a context that the kernel refuses: see [`Database::is_valid`].
    ///
    /// # Errors
    /// Ranges without a common part, where the class asks for it.
    pub fn new_label(
        &self,
        source: &Context,
        target: &Context,
        class: u32,
        name: Option<&str>,
    ) -> Result<Context, Uncomputable> {
        let entry = self.class(class);
        let class_name = self.class_name(class);
        let as_source = class_name == "process" || class_name.ends_with("socket");
        let choose = |default: u32, source: u32, target: u32, otherwise: u32| match default {
            1 => source,
            2 => target,
            _ => otherwise,
        };
        let default = |pick: fn(&Class) -> u32| entry.map_or(0, pick);
        let user = choose(default(|class| class.default_user), source.user, target.user, source.user);
        let role = if as_source { source.role } else { OBJECT_ROLE };
        let role = choose(default(|class| class.default_role), source.role, target.role, role);
        let kind = if as_source { source.kind } else { target.kind };
        let kind = choose(default(|class| class.default_type), source.kind, target.kind, kind);
        let kind = self.type_transition(source.kind, target.kind, class).unwrap_or(kind);
        let named = name.and_then(|name| self.named_transition(source.kind, target.kind, class, name));
        let kind = named.unwrap_or(kind);
        let mut roles = self.policy().role_transitions.iter();
        let role = roles
            .find(|rule| rule.role == source.role && rule.kind == target.kind && rule.class == class)
            .map_or(role, |rule| rule.result);
        let range = self.new_range(source, target, class, as_source)?;
        Ok(Context { user, role, kind, range })
    }

    /// The result of a type transition without a name; rules outside of conditionals come first.
    pub fn type_transition(&self, source: u32, target: u32, class: u32) -> Option<u32> {
        let rules = self.rules_between(source, target).iter();
        let fitting = |number: &&u32| {
            self.rule(**number).is_some_and(|rule| {
                rule.kind == RuleKind::TypeTransition
                    && u32::from(rule.class) == class
                    && self.in_force(**number)
            })
        };
        rules.filter(fitting).min().and_then(|number| self.rule(*number)).map(|rule| rule.data)
    }

    fn named_transition(&self, source: u32, target: u32, class: u32, name: &str) -> Option<u32> {
        let all = self.policy().named_transitions.iter();
        let mut fitting =
            all.filter(|rule| rule.target == target && rule.class == class && &*rule.name == name);
        fitting.find_map(|rule| {
            rule.results
                .iter()
                .find(|(sources, _)| source > 0 && sources.contains(source - 1))
                .map(|(_, result)| *result)
        })
    }

    fn new_range(
        &self,
        source: &Context,
        target: &Context,
        class: u32,
        as_source: bool,
    ) -> Result<Range, Uncomputable> {
        let mut transitions = self.policy().range_transitions.iter();
        let fitting = transitions
            .find(|rule| rule.source == source.kind && rule.target == target.kind && rule.class == class);
        if let Some(rule) = fitting {
            return Ok(rule.range.clone());
        }
        let single = |level: &Level| Range { low: level.clone(), high: None };
        Ok(match self.class(class).map_or(0, |class| class.default_range) {
            1 => single(&source.range.low),
            2 => single(source.range.high()),
            3 => source.range.clone(),
            4 => single(&target.range.low),
            5 => single(target.range.high()),
            6 => target.range.clone(),
            7 => common(&source.range, &target.range)?,
            _ if as_source => source.range.clone(),
            _ => single(&source.range.low),
        })
    }
}

/// The greatest low and the least high level.
fn common(range: &Range, other: &Range) -> Result<Range, Uncomputable> {
    if range.high().sensitivity < other.low.sensitivity || other.high().sensitivity < range.low.sensitivity {
        return Err(Uncomputable);
    }
    let both = |a: &Level, b: &Level, sensitivity| Level {
        sensitivity,
        categories: Bitmap::of(a.categories.iter().filter(|bit| b.categories.contains(*bit))),
    };
    let low = both(&range.low, &other.low, range.low.sensitivity.max(other.low.sensitivity));
    let high = both(range.high(), other.high(), range.high().sensitivity.min(other.high().sensitivity));
    let high = Some(high).filter(|high| *high != low);
    Ok(Range { low, high })
}
