//! What a type of a policy has beside its rules, as texts in which the type itself is `self`: what two types have
//! differently is what only one of them has of these.

use super::{Difference, compare};
use crate::{
    database::Database,
    policy::{Constraint, Expression, Operand},
};

/// What a type has of one kind, a line each.
type Section = fn(&Subject<'_>) -> Vec<String>;

/// Compares two types in everything but their rules.
pub(super) fn difference(database: &Database, from: u32, to: u32) -> Difference {
    let first = Subject { database, kind: from, peer: to };
    let second = Subject { database, kind: to, peer: from };
    let sections: [(&str, Section); 7] = [
        ("attributes", |subject| subject.attributes()),
        ("roles", |subject| subject.roles()),
        ("properties", |subject| subject.properties()),
        ("transitions by name", |subject| subject.transitions_by_name()),
        ("range transitions", |subject| subject.range_transitions()),
        ("role transitions", |subject| subject.role_transitions()),
        ("constraints", |subject| subject.constraints()),
    ];
    let mut difference = Difference::default();
    for (name, section) in sections {
        difference.group(name, compare(section(&first), section(&second)));
    }
    difference
}

/// A type, and the one that it is compared with.
struct Subject<'a> {
    database: &'a Database,
    kind: u32,
    peer: u32,
}

impl Subject<'_> {
    /// A type as it is written here, so that what each of the two has to itself, or to the other, is the same text.
    fn name(&self, value: u32) -> String {
        match value {
            value if value == self.kind => "self".to_owned(),
            value if value == self.peer => "(the other)".to_owned(),
            value => self.database.type_name(value).to_owned(),
        }
    }

    fn attributes(&self) -> Vec<String> {
        let attributes = self.database.attributes_of(self.kind);
        attributes.map(|attribute| self.database.type_name(attribute).to_owned()).collect()
    }

    fn roles(&self) -> Vec<String> {
        let roles = self.database.policy().roles.entries.iter();
        roles.filter(|role| role.types.contains(self.kind - 1)).map(|role| role.name.to_string()).collect()
    }

    fn properties(&self) -> Vec<String> {
        let policy = self.database.policy();
        let mut properties = Vec::new();
        if policy.permissive.contains(self.kind) {
            properties.push("permissive".to_owned());
        }
        if policy.neveraudit.contains(self.kind) {
            properties.push("never audited".to_owned());
        }
        let bounds = self.database.type_entry(self.kind).map_or(0, |entry| entry.bounds);
        if bounds != 0 {
            properties.push(format!("bounded by {}", self.database.type_name(bounds)));
        }
        properties
    }

    fn transitions_by_name(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for transition in &self.database.policy().named_transitions {
            let (class, file) = (self.database.class_name(transition.class), &transition.name);
            for (sources, result) in &transition.results {
                let (target, result) = (self.name(transition.target), self.name(*result));
                if sources.contains(self.kind - 1) {
                    lines.push(format!("type_transition self {target}:{class} {result} \"{file}\";"));
                }
                if transition.target == self.kind {
                    for source in sources.iter().map(|bit| bit + 1).filter(|source| *source != self.kind) {
                        let source = self.name(source);
                        lines.push(format!("type_transition {source} self:{class} {result} \"{file}\";"));
                    }
                }
            }
        }
        lines
    }

    fn range_transitions(&self) -> Vec<String> {
        let transitions = self.database.policy().range_transitions.iter();
        transitions
            .filter(|transition| transition.source == self.kind || transition.target == self.kind)
            .map(|transition| {
                let (source, target) = (self.name(transition.source), self.name(transition.target));
                let class = self.database.class_name(transition.class);
                let range = self.database.range_text(&transition.range);
                format!("range_transition {source} {target}:{class} {range};")
            })
            .collect()
    }

    fn role_transitions(&self) -> Vec<String> {
        let transitions = self.database.policy().role_transitions.iter();
        transitions
            .filter(|transition| transition.kind == self.kind)
            .map(|transition| {
                let role = self.database.role_name(transition.role);
                let result = self.database.role_name(transition.result);
                let class = self.database.class_name(transition.class);
                format!("role_transition {role} self:{class} {result};")
            })
            .collect()
    }

    /// Comparisons with names where the type is in the set, of constraints that treat its peer otherwise.
    fn constraints(&self) -> Vec<String> {
        let places = |constraint: &Constraint, kind: u32| -> Vec<u32> {
            let steps = (1..).zip(&constraint.expression);
            let in_set = |step: &Expression| {
                matches!(step, Expression::Names { operand, set, .. }
                    if operand.0 & 7 == Operand::TYPE && set.names.contains(kind - 1))
            };
            steps.filter(|(_, step)| in_set(step)).map(|(place, _)| place).collect()
        };
        let mut lines = Vec::new();
        for class in &self.database.policy().classes.entries {
            for (on_change, list) in [(false, &class.constraints), (true, &class.validatetrans)] {
                for constraint in list {
                    let own = places(constraint, self.kind);
                    if !own.is_empty() && own != places(constraint, self.peer) {
                        let text = crate::decide::text(self.database, class.value, constraint, on_change);
                        let steps: Vec<String> = own.iter().map(u32::to_string).collect();
                        lines.push(format!("{text} names it in step {}", steps.join(", ")));
                    }
                }
            }
        }
        lines
    }
}
