//! Batches.

use super::{
    Element, Family, Rule, Set, Type,
    expression::{self, SetName, value},
    rule::Step,
};
use crate::{
    channel::{Channel, Error, Socket},
    message::{APPEND, Attributes, CREATE, Message},
    read,
};

/// The subsystem in the upper byte of types.
const NF_TABLES: u16 = 10 << 8;
const NEW_TABLE: u16 = NF_TABLES;
const GET_TABLE: u16 = NF_TABLES | 1;
const DELETE_TABLE: u16 = NF_TABLES | 2;
const NEW_CHAIN: u16 = NF_TABLES | 3;
const NEW_RULE: u16 = NF_TABLES | 6;
const DELETE_RULE: u16 = NF_TABLES | 8;
const NEW_SET: u16 = NF_TABLES | 9;
const NEW_ELEMENTS: u16 = NF_TABLES | 12;
const DELETE_ELEMENTS: u16 = NF_TABLES | 14;
const NEW_OBJECT: u16 = NF_TABLES | 18;
const BEGIN: u16 = 16;
const END: u16 = 17;

/// Of sets (`enum nft_set_flags`).
const ANONYMOUS_CONSTANT: u32 = 3;
const MAP: u32 = 8;
const EVAL: u32 = 0x20;
/// Elements of one message: their list is one attribute, of less than 64 KiB.
const MOST_ELEMENTS: usize = 512;
/// The kernel's pattern for names of sets that have none.
const ANONYMOUS: &str = "__set%d";
const ACCEPT: u32 = 1;
const COUNTER: u32 = 1;

/// A batch that failed.
#[derive(Debug, thiserror::Error)]
#[error("nf_tables, {what}: {source}")]
pub struct BatchError {
    /// The part of it that was refused.
    pub what: String,
    /// What was said.
    #[source]
    pub source: Error,
}

/// A table.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: &'a str,
}

/// Type of a chain with a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Lets through or drops.
    Filter,
    /// Sees the first packet of each connection.
    Nat,
}

/// Where a chain with a hook is called (`enum nf_inet_hooks`; the same numbers for bridges).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Whatever comes.
    Prerouting = 0,
    /// What is for this machine.
    Input = 1,
    /// What is for others.
    Forward = 2,
    /// What comes from this machine.
    Output = 3,
    /// Whatever goes.
    Postrouting = 4,
}

impl Hook {
    /// ARP has two hooks with numbers of its own (`NF_ARP_IN`, `NF_ARP_OUT`).
    fn number(self, family: Family) -> u32 {
        match (family, self) {
            (Family::Arp, Self::Input) => 0,
            (Family::Arp, Self::Output) => 1,
            _ => self as u32,
        }
    }
}

/// What is done to tables, whole or not at all.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    messages: Vec<Message>,
    /// What each message is about, for anyone who reads a refusal.
    labels: Vec<String>,
    sets: u32,
}

impl Batch {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn push(&mut self, label: String, message: Message) {
        self.labels.push(label);
        self.messages.push(message);
    }

    /// Makes the table where there is none.
    pub fn table(&mut self, table: Table<'_>) {
        let mut message = message(NEW_TABLE, CREATE, table.family);
        message.attributes().text(1, table.name).big(2, 0);
        self.push(format!("table {}", table.name), message);
    }

    /// Removes the table, whether or not it is there.
    pub fn remove(&mut self, table: Table<'_>) {
        // Kernels before 6.3 know no removal of what may be missing.
        self.table(table);
        let mut message = message(DELETE_TABLE, 0, table.family);
        message.attributes().text(1, table.name);
        self.push(format!("removing table {}", table.name), message);
    }

    /// Removes every rule of the table. Chains, sets, counters and what was counted stay.
    pub fn flush_rules(&mut self, table: Table<'_>) {
        let mut message = message(DELETE_RULE, 0, table.family);
        message.attributes().text(1, table.name);
        self.push(format!("rules of table {}", table.name), message);
    }

    /// Makes a chain for jumps where there is none.
    pub fn chain(&mut self, table: Table<'_>, name: &str) {
        let mut message = message(NEW_CHAIN, CREATE, table.family);
        message.attributes().text(1, table.name).text(3, name);
        self.push(format!("chain {name}"), message);
    }

    /// Makes a chain with a hook where there is none. What it does not decide is let through.
    pub fn base_chain(&mut self, table: Table<'_>, name: &str, kind: Kind, hook: Hook, priority: i32) {
        let mut place = Attributes::new();
        place.big(1, hook.number(table.family)).big(2, priority.cast_unsigned());
        let kind = match kind {
            Kind::Filter => "filter",
            Kind::Nat => "nat",
        };
        let mut message = message(NEW_CHAIN, CREATE, table.family);
        message.attributes().text(1, table.name).text(3, name);
        message.attributes().nest(4, &place).big(5, ACCEPT).text(7, kind);
        self.push(format!("chain {name}"), message);
    }

    /// Makes a named counter where there is none.
    pub fn counter(&mut self, table: Table<'_>, name: &str) {
        let mut zero = Attributes::new();
        zero.push(1, &[0; 8]).push(2, &[0; 8]);
        let mut message = message(NEW_OBJECT, CREATE, table.family);
        message.attributes().text(1, table.name).text(2, name).big(3, COUNTER).nest(4, &zero);
        self.push(format!("counter {name}"), message);
    }

    /// Makes a set or map where there is none.
    pub fn set(&mut self, table: Table<'_>, set: Set<'_>) {
        let mut flags = 0;
        if set.value.is_some() {
            flags |= MAP;
        }
        if set.dynamic.is_some() {
            flags |= EVAL;
        }
        let id = self.next();
        let mut message = set_message(table, set.name, set.key, flags, id);
        if let Some(value) = set.value {
            let length = u32::try_from(value.length()).unwrap_or(u32::MAX);
            message.attributes().big(6, Type::joined(&[value])).big(7, length);
        }
        if let Some(most) = set.dynamic {
            let mut size = Attributes::new();
            size.big(1, most);
            message.attributes().nest(9, &size);
        }
        message.attributes().push(13, &orders(set.key, set.value));
        self.push(format!("set {}", set.name), message);
    }

    /// Removes every element of the set.
    pub fn flush_set(&mut self, table: Table<'_>, set: &str) {
        let mut message = message(DELETE_ELEMENTS, 0, table.family);
        message.attributes().text(1, table.name).text(2, set);
        self.push(format!("elements of set {set}"), message);
    }

    /// Adds elements to the set.
    pub fn elements(&mut self, table: Table<'_>, set: &str, elements: &[Element]) {
        self.add(table, SetName { name: set, id: None }, elements);
    }

    fn add(&mut self, table: Table<'_>, set: SetName<'_>, elements: &[Element]) {
        for chunk in elements.chunks(MOST_ELEMENTS) {
            let mut list = Attributes::new();
            for element in chunk {
                let mut one = Attributes::new();
                one.nest(1, &value(&element.key));
                if let Some(bytes) = &element.value {
                    one.nest(2, &value(bytes));
                }
                list.nest(1, &one);
            }
            let mut message = message(NEW_ELEMENTS, CREATE, table.family);
            message.attributes().text(1, table.name).text(2, set.name).nest(3, &list);
            if let Some(id) = set.id {
                message.attributes().big(4, id);
            }
            self.push(format!("elements of set {}", set.name), message);
        }
    }

    /// Adds a rule at the end of the chain.
    pub fn rule(&mut self, table: Table<'_>, chain: &str, rule: Rule) {
        let mut steps = Attributes::new();
        for step in rule.steps {
            let step = match step {
                Step::Ready(step) => step,
                Step::Among { kind, values, inside } => {
                    let id = self.next();
                    let mut message = set_message(table, ANONYMOUS, &[kind], ANONYMOUS_CONSTANT, id);
                    let mut size = Attributes::new();
                    size.big(1, u32::try_from(values.len()).unwrap_or(u32::MAX));
                    message.attributes().nest(9, &size).push(13, &orders(&[kind], None));
                    self.push(format!("values in a rule of chain {chain}"), message);
                    let elements: Vec<_> =
                        values.into_iter().map(|key| Element { key, value: None }).collect();
                    let set = SetName { name: ANONYMOUS, id: Some(id) };
                    self.add(table, set, &elements);
                    expression::lookup(set, inside, false)
                }
            };
            steps.nest(1, &step);
        }
        let mut message = message(NEW_RULE, CREATE | APPEND, table.family);
        message.attributes().text(1, table.name).text(2, chain).nest(4, &steps);
        self.push(format!("rule of chain {chain}"), message);
    }

    fn next(&mut self) -> u32 {
        self.sets += 1;
        self.sets
    }

    /// Has the kernel do it.
    ///
    /// # Errors
    /// The first refusal; then nothing has been done. After a failure that is no refusal, it is not known whether the
    /// batch was carried out.
    pub fn send(&self, channel: &mut Channel) -> Result<(), BatchError> {
        // The resource of a batch is the subsystem, in the network's order.
        let edge = |kind| Message::new(kind, 0, &[0, 0, 0, 10]);
        channel.orders(&[edge(BEGIN)], &self.messages, &[edge(END)]).map_err(|source| {
            let place = match &source {
                Error::Refused { request, .. } => *request,
                _ => None,
            };
            let label = place.and_then(|place| self.labels.get(place)).cloned();
            BatchError { what: label.unwrap_or_else(|| "the batch".to_owned()), source }
        })
    }
}

fn message(kind: u16, flags: u16, family: Family) -> Message {
    Message::new(kind, flags, &[family as u8, 0, 0, 0])
}

fn set_message(table: Table<'_>, name: &str, key: &[Type], flags: u32, id: u32) -> Message {
    let mut message = message(NEW_SET, CREATE, table.family);
    let length = u32::try_from(Type::key_length(key)).unwrap_or(u32::MAX);
    let attributes = message.attributes();
    attributes.text(1, table.name).text(2, name).big(3, flags);
    attributes.big(4, Type::joined(key)).big(5, length).big(10, id);
    message
}

/// nft's note of the order of bytes in keys and values, for when it shows them: 1 is the machine's, 2 the network's.
fn orders(key: &[Type], value: Option<Type>) -> Vec<u8> {
    let order = |native: bool| if native { 1_u32 } else { 2 };
    let mut bytes = Vec::new();
    let native = matches!(key, [one] if one.is_native());
    for (kind, native) in [(0, Some(native)), (1, value.map(Type::is_native))] {
        if let Some(native) = native {
            bytes.extend([kind, 4]);
            bytes.extend(order(native).to_ne_bytes());
        }
    }
    bytes
}

/// Names of the tables of every family in the socket's network namespace.
///
/// # Errors
/// See [`Error`].
pub fn tables(socket: &mut Socket) -> Result<Vec<String>, Error> {
    // Family 0: all of them.
    let all = Message::new(GET_TABLE, 0, &[0; 4]);
    socket.list(&all, |part| {
        let mut attributes = read::attributes(part.payload.get(4..)?).filter_map(Result::ok);
        attributes.find(|(kind, _)| *kind == 1).and_then(|(_, bytes)| read::text(bytes)).map(str::to_owned)
    })
}
