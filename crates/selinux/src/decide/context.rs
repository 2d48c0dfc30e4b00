//! Whether the parts of a context go together.

use super::constraint::{contains, dominates_level};
use crate::{
    database::Database,
    policy::{Context, Level, Range},
};

/// The role of objects has this value in every policy, and may go with each type and user.
pub(super) const OBJECT_ROLE: u32 = 1;

impl Database {
    /// Whether the kernel accepts a context.
    pub fn is_valid(&self, context: &Context) -> bool {
        self.invalid(context).is_none()
    }

    /// Why the kernel refuses a context.
    pub fn invalid(&self, context: &Context) -> Option<String> {
        let (Some(user), Some(role)) = (self.user(context.user), self.role(context.role)) else {
            return Some("its user or role does not exist".to_owned());
        };
        if self.type_entry(context.kind).is_none() || self.is_attribute(context.kind) {
            return Some("its type does not exist".to_owned());
        }
        if context.role != OBJECT_ROLE {
            if !role.types.contains(context.kind - 1) {
                return Some(format!(
                    "the role {} may not have the type {}",
                    role.name,
                    self.type_name(context.kind)
                ));
            }
            if !user.roles.contains(context.role - 1) {
                return Some(format!("the user {} may not have the role {}", user.name, role.name));
            }
        }
        if !self.policy().mls() {
            return None;
        }
        let Range { low, .. } = &context.range;
        let high = context.range.high();
        if !self.level_exists(low) || !self.level_exists(high) {
            return Some("a category does not go with its sensitivity".to_owned());
        }
        if !dominates_level(high, low) {
            return Some("the high level does not contain the low one".to_owned());
        }
        let allowed = (&user.range.low, user.range.high());
        if context.role != OBJECT_ROLE && !contains(allowed, (low, high)) {
            return Some(format!(
                "the user {} may not have the range {}",
                user.name,
                self.range_text(&context.range)
            ));
        }
        None
    }

    fn level_exists(&self, level: &Level) -> bool {
        self.sensitivity(level.sensitivity)
            .is_some_and(|one| level.categories.is_subset(&one.level.categories))
    }
}
