//! Values as policy sources write them.

use crate::{
    database::Database,
    policy::{
        Bitmap, Conditional, Context, Level, Range, RangeTransition, RoleAllow, RoleTransition, Rule, Step,
        Xperm, XpermSort,
    },
};
use std::fmt::Write as _;

/// Names in braces, a single one without.
pub fn braces<S: AsRef<str>>(names: &[S]) -> String {
    match names {
        [one] => one.as_ref().to_owned(),
        names => {
            let mut text = String::from("{ ");
            for name in names {
                text.push_str(name.as_ref());
                text.push(' ');
            }
            text.push('}');
            text
        }
    }
}

/// Runs of consecutive numbers.
pub fn runs(numbers: impl Iterator<Item = u32>) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = number,
            _ => runs.push((number, number)),
        }
    }
    runs
}

/// The 16-bit numbers of extended permissions, as runs.
pub fn xperm_runs(xperm: &Xperm) -> Vec<(u32, u32)> {
    let bits = xperm.numbers().map(u32::from);
    match xperm.sort {
        XpermSort::IoctlDriver => {
            runs(bits).into_iter().map(|(low, high)| (low << 8, high << 8 | 0xff)).collect()
        }
        _ => runs(bits.map(|bit| u32::from(xperm.driver) << 8 | bit)),
    }
}

/// The kind of extended permissions, as rules name it.
pub fn xperm_name(sort: XpermSort) -> &'static str {
    if sort == XpermSort::Netlink { "nlmsg" } else { "ioctl" }
}

impl Database {
    /// `s0:c1,c2` and so on; runs of three and more categories are written `c1.c3`.
    pub fn level_text(&self, level: &Level) -> String {
        let mut text = self.sensitivity(level.sensitivity).map_or(String::new(), |one| one.name.to_string());
        text.push_str(&self.categories_text(&level.categories));
        text
    }

    fn categories_text(&self, categories: &Bitmap) -> String {
        let mut text = String::new();
        let mut separator = ':';
        for (low, high) in runs(categories.iter().map(|bit| bit + 1)) {
            let _ = write!(text, "{separator}{}", self.category_name(low));
            separator = ',';
            if high > low {
                let between = if high > low + 1 { '.' } else { ',' };
                let _ = write!(text, "{between}{}", self.category_name(high));
            }
        }
        text
    }

    /// `low` or `low-high`.
    pub fn range_text(&self, range: &Range) -> String {
        match &range.high {
            Some(high) if *high != range.low => {
                format!("{}-{}", self.level_text(&range.low), self.level_text(high))
            }
            _ => self.level_text(&range.low),
        }
    }

    /// `user:role:type:range`.
    pub fn context_text(&self, context: &Context) -> String {
        let (user, role) = (self.user_name(context.user), self.role_name(context.role));
        let text = format!("{user}:{role}:{}", self.type_name(context.kind));
        if self.policy().mls() { format!("{text}:{}", self.range_text(&context.range)) } else { text }
    }

    /// A change of the range as policy sources write it: other than in contexts, with spaces between its levels.
    pub fn range_transition_text(&self, one: &RangeTransition) -> String {
        let (source, target) = (self.type_name(one.source), self.type_name(one.target));
        let class = self.class_name(one.class);
        let range = self.range_text(&one.range).replacen('-', " - ", 1);
        format!("range_transition {source} {target}:{class} {range};")
    }

    /// A rule that lets a role become another, as policy sources write it.
    pub fn role_allow_text(&self, one: &RoleAllow) -> String {
        format!("allow {} {};", self.role_name(one.old), self.role_name(one.new))
    }

    /// A change of the role as policy sources write it.
    pub fn role_transition_text(&self, one: &RoleTransition) -> String {
        let (role, result) = (self.role_name(one.role), self.role_name(one.result));
        let class = self.class_name(one.class);
        format!("role_transition {role} {}:{class} {result};", self.type_name(one.kind))
    }

    /// A conditional's expression as setools writes it: the operands of the postfix form in reverse, parentheses by
    /// precedence.
    pub fn condition_text(&self, conditional: &Conditional) -> String {
        let mut stack: Vec<(String, bool)> = Vec::new();
        let mut previous = 5;
        for (step, _) in &conditional.expression {
            let (word, precedence) = match step {
                Step::Boolean(value) => {
                    stack.push((
                        self.boolean(*value).map_or(String::new(), |one| one.name.to_string()),
                        false,
                    ));
                    continue;
                }
                Step::Not => ("!", 5),
                Step::Or => ("||", 1),
                Step::And => ("&&", 3),
                Step::Xor => ("^", 2),
                Step::Equal => ("==", 4),
                Step::Unequal => ("!=", 4),
            };
            let (first, nested) = stack.pop().unwrap_or_default();
            let text = if *step == Step::Not {
                if nested { format!("! ( {first} )") } else { format!("! {first}") }
            } else {
                let (second, _) = stack.pop().unwrap_or_default();
                if previous > precedence {
                    format!("{first} {word} {second}")
                } else {
                    format!("( {first} {word} {second} )")
                }
            };
            stack.push((text, true));
            previous = precedence;
        }
        stack.pop().unwrap_or_default().0
    }

    /// A rule as sesearch prints it.
    pub fn rule_text(&self, number: u32) -> String {
        let Some(rule) = self.rule(number) else { return String::new() };
        let mut text = self.rule_body(rule);
        if let Some((conditional, branch)) = self.conditional(number) {
            let branch = if branch { "True" } else { "False" };
            let _ = write!(text, " [ {} ]:{branch}", self.condition_text(conditional));
        }
        text
    }

    fn rule_body(&self, rule: &Rule) -> String {
        let (source, target) = (self.type_name(rule.source.into()), self.type_name(rule.target.into()));
        let head = format!("{} {source} {target}:{}", rule.kind.name(), self.class_name(rule.class.into()));
        if rule.kind.is_type() {
            return format!("{head} {};", self.type_name(rule.data));
        }
        if rule.kind.is_extended() {
            let Some(xperm) = self.policy().xperms.get(rule.data as usize) else { return head };
            let numbers: Vec<String> = xperm_runs(xperm)
                .into_iter()
                .map(
                    |(low, high)| {
                        if low == high { format!("{low:#06x}") } else { format!("{low:#06x}-{high:#06x}") }
                    },
                )
                .collect();
            return format!("{head} {} {};", xperm_name(xperm.sort), braces(&numbers));
        }
        format!("{head} {};", braces(&self.permission_names(rule.class.into(), rule.permissions())))
    }
}
