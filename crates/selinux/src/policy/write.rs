//! A policy to bytes, in the order of [`super::read`].

use super::{
    Bitmap, Class, Constraint, Context, Expression, Level, Node, Permission, Policy, Range, Rule, Step,
    Table, Twice,
    read::{MAGIC, TARGET},
};

struct Out(Vec<u8>);

impl Out {
    fn word(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    fn words(&mut self, values: &[u32]) {
        for value in values {
            self.word(*value);
        }
    }

    fn count<T>(&mut self, list: &[T]) {
        self.word(list.len() as u32);
    }

    fn length(&mut self, name: &str) {
        self.word(name.len() as u32);
    }

    fn text(&mut self, name: &str) {
        self.0.extend(name.as_bytes());
    }

    fn bitmap(&mut self, bitmap: &Bitmap) {
        bitmap.write(&mut self.0);
    }

    fn table<T>(&mut self, table: &Table<T>, mut one: impl FnMut(&mut Self, &T)) {
        self.word(table.highest);
        self.list(&table.entries, &mut one);
    }

    fn list<T>(&mut self, list: &[T], mut one: impl FnMut(&mut Self, &T)) {
        self.count(list);
        for entry in list {
            one(self, entry);
        }
    }

    fn permission(&mut self, permission: &Permission) {
        self.length(&permission.name);
        self.word(permission.value);
        self.text(&permission.name);
    }

    fn class(&mut self, class: &Class) {
        self.length(&class.name);
        self.length(&class.common);
        self.words(&[class.value, class.permissions.highest]);
        self.count(&class.permissions.entries);
        self.count(&class.constraints);
        self.text(&class.name);
        self.text(&class.common);
        for permission in &class.permissions.entries {
            self.permission(permission);
        }
        for constraint in &class.constraints {
            self.constraint(constraint);
        }
        self.list(&class.validatetrans, Self::constraint);
        self.words(&[class.default_user, class.default_role, class.default_range, class.default_type]);
    }

    fn constraint(&mut self, constraint: &Constraint) {
        self.word(constraint.permissions);
        self.list(&constraint.expression, |out, step| match step {
            Expression::Not([a, b]) => out.words(&[1, *a, *b]),
            Expression::And([a, b]) => out.words(&[2, *a, *b]),
            Expression::Or([a, b]) => out.words(&[3, *a, *b]),
            Expression::Compare { operand, operator } => out.words(&[4, operand.0, *operator as u32 + 1]),
            Expression::Names { operand, operator, set } => {
                out.words(&[5, operand.0, *operator as u32 + 1]);
                out.bitmap(&set.names);
                out.bitmap(&set.written);
                out.bitmap(&set.negated);
                out.word(set.flags);
            }
        });
    }

    fn level(&mut self, level: &Level) {
        self.word(level.sensitivity);
        self.bitmap(&level.categories);
    }

    fn range(&mut self, range: &Range) {
        match &range.high {
            None => {
                self.word(1);
                self.level(&range.low);
            }
            Some(high) => {
                self.words(&[2, range.low.sensitivity, high.sensitivity]);
                self.bitmap(&range.low.categories);
                self.bitmap(&high.categories);
            }
        }
    }

    fn context(&mut self, context: &Context) {
        self.words(&[context.user, context.role, context.kind]);
        self.range(&context.range);
    }

    fn twice(&mut self, twice: &Twice) {
        self.length(&twice.name);
        self.text(&twice.name);
        self.context(&twice.first);
        self.context(&twice.second);
    }

    fn node<const N: usize>(&mut self, node: &Node<N>) {
        self.0.extend(node.address);
        self.0.extend(node.mask);
        self.context(&node.context);
    }

    fn rules(&mut self, policy: &Policy, rules: &[Rule]) {
        self.count(rules);
        for rule in rules {
            let kind = rule.kind.number() | if rule.enabled { 0x8000 } else { 0 };
            for half in [rule.source, rule.target, rule.class, kind] {
                self.0.extend(half.to_le_bytes());
            }
            match policy.xperms.get(rule.data as usize) {
                Some(xperm) if rule.kind.is_extended() => {
                    self.0.extend([xperm.sort as u8, xperm.driver]);
                    self.words(&xperm.bits);
                }
                _ => self.word(rule.data),
            }
        }
    }
}

pub(super) fn policy(policy: &Policy) -> Vec<u8> {
    let mut out = Out(Vec::new());
    out.words(&[MAGIC, TARGET.len() as u32]);
    out.0.extend(TARGET);
    out.words(&[policy.version, policy.config, 8, if policy.version >= 31 { 9 } else { 7 }]);
    out.bitmap(&policy.capabilities);
    out.bitmap(&policy.permissive);
    if policy.version >= 35 {
        out.bitmap(&policy.neveraudit);
    }
    symbols(&mut out, policy);
    out.rules(policy, policy.rules.get(..policy.unconditional).unwrap_or_default());
    out.list(&policy.conditionals, |out, conditional| {
        out.word(conditional.state);
        out.list(&conditional.expression, |out, (step, word)| {
            let number = match step {
                Step::Boolean(_) => 1,
                Step::Not => 2,
                Step::Or => 3,
                Step::And => 4,
                Step::Xor => 5,
                Step::Equal => 6,
                Step::Unequal => 7,
            };
            out.words(&[number, *word]);
        });
        for branch in [&conditional.yes, &conditional.no] {
            out.rules(policy, policy.rules.get(branch.clone()).unwrap_or_default());
        }
    });
    out.list(&policy.role_transitions, |out, one| out.words(&[one.role, one.kind, one.result, one.class]));
    out.list(&policy.role_allows, |out, one| out.words(&[one.old, one.new]));
    out.list(&policy.named_transitions, |out, one| {
        out.length(&one.name);
        out.text(&one.name);
        if policy.version <= 32 {
            for (sources, result) in one.results.iter().take(1) {
                let source = sources.highest().map_or(0, |bit| bit.saturating_add(1));
                out.words(&[source, one.target, one.class, *result]);
            }
            return;
        }
        out.words(&[one.target, one.class]);
        out.list(&one.results, |out, (sources, result)| {
            out.bitmap(sources);
            out.word(*result);
        });
    });
    ocontexts(&mut out, policy);
    out.list(&policy.paths, |out, system| {
        out.length(&system.name);
        out.text(&system.name);
        out.list(&system.paths, |out, path| {
            out.length(&path.path);
            out.text(&path.path);
            out.word(path.class);
            out.context(&path.context);
        });
    });
    out.list(&policy.range_transitions, |out, one| {
        out.words(&[one.source, one.target, one.class]);
        out.range(&one.range);
    });
    for map in &policy.attribute_maps {
        out.bitmap(map);
    }
    out.0
}

fn symbols(out: &mut Out, policy: &Policy) {
    out.table(&policy.commons, |out, common| {
        out.length(&common.name);
        out.words(&[common.value, common.permissions.highest]);
        out.count(&common.permissions.entries);
        out.text(&common.name);
        for permission in &common.permissions.entries {
            out.permission(permission);
        }
    });
    out.table(&policy.classes, Out::class);
    out.table(&policy.roles, |out, role| {
        out.length(&role.name);
        out.words(&[role.value, role.bounds]);
        out.text(&role.name);
        out.bitmap(&role.dominates);
        out.bitmap(&role.types);
    });
    out.table(&policy.types, |out, kind| {
        out.length(&kind.name);
        out.words(&[kind.value, kind.properties, kind.bounds]);
        out.text(&kind.name);
    });
    out.table(&policy.users, |out, user| {
        out.length(&user.name);
        out.words(&[user.value, user.bounds]);
        out.text(&user.name);
        out.bitmap(&user.roles);
        out.range(&user.range);
        out.level(&user.level);
    });
    out.table(&policy.booleans, |out, boolean| {
        out.words(&[boolean.value, boolean.state.into()]);
        out.length(&boolean.name);
        out.text(&boolean.name);
    });
    out.table(&policy.sensitivities, |out, sensitivity| {
        out.length(&sensitivity.name);
        out.word(sensitivity.alias.into());
        out.text(&sensitivity.name);
        out.level(&sensitivity.level);
    });
    out.table(&policy.categories, |out, category| {
        out.length(&category.name);
        out.words(&[category.value, category.alias.into()]);
        out.text(&category.name);
    });
}

fn ocontexts(out: &mut Out, policy: &Policy) {
    let all = &policy.ocontexts;
    out.list(&all.initial, |out, (number, context)| {
        out.word(*number);
        out.context(context);
    });
    out.list(&all.file_systems, Out::twice);
    out.list(&all.ports, |out, port| {
        out.words(&[port.protocol, port.low, port.high]);
        out.context(&port.context);
    });
    out.list(&all.interfaces, Out::twice);
    out.list(&all.nodes, Out::node);
    out.list(&all.uses, |out, one| {
        out.word(one.behaviour);
        out.length(&one.name);
        out.text(&one.name);
        out.context(&one.context);
    });
    out.list(&all.nodes6, Out::node);
    if policy.version >= 31 {
        out.list(&all.partition_keys, |out, key| {
            out.0.extend(key.prefix);
            out.words(&[key.low, key.high]);
            out.context(&key.context);
        });
        out.list(&all.endports, |out, endport| {
            out.length(&endport.name);
            out.word(endport.port);
            out.text(&endport.name);
            out.context(&endport.context);
        });
    }
}
