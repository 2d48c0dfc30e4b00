//! Rules.

use super::{
    Field, Type,
    expression::{self, SetName},
    name,
};
use crate::message::Attributes;
use std::net::Ipv4Addr;

/// A rule: what must hold, one after the other, and what is done then.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    pub(super) steps: Vec<Step>,
}

/// A step of a rule.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Ready(Attributes),
    /// Whether what the first register has is one of the values; the set is made with the rule.
    Among {
        kind: Type,
        values: Vec<Vec<u8>>,
        inside: bool,
    },
}

/// Of [`Field::CtState`]: the bits of states (`NF_CT_STATE_BIT`).
const INVALID: u32 = 1;
const ESTABLISHED_OR_RELATED: u32 = 6;
const NEW: u32 = 8;

impl Rule {
    /// One that always holds.
    pub fn new() -> Self {
        Self::default()
    }

    fn with(mut self, step: Attributes) -> Self {
        self.steps.push(Step::Ready(step));
        self
    }

    /// The field has this value.
    pub fn is(self, field: Field, value: impl AsRef<[u8]>) -> Self {
        self.with(field.load(0)).with(expression::compare(true, value.as_ref()))
    }

    /// The field has another value.
    pub fn is_not(self, field: Field, value: impl AsRef<[u8]>) -> Self {
        self.with(field.load(0)).with(expression::compare(false, value.as_ref()))
    }

    /// The bits of the field that are in the mask have this value; both are as long as the field.
    pub fn masked(self, field: Field, mask: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        let step = self.with(field.load(0)).with(expression::mask(mask.as_ref()));
        step.with(expression::compare(true, value.as_ref()))
    }

    /// The address is in the network, or with `inside` false in none of it. At borders of bytes only its first bytes
    /// are looked at.
    pub fn network(self, field: Field, (address, prefix): (Ipv4Addr, u8), inside: bool) -> Self {
        let bits = u32::MAX.checked_shl(32_u32.saturating_sub(prefix.into())).unwrap_or_default();
        let (bits, bytes) = (bits.to_be_bytes(), (address.to_bits() & bits).to_be_bytes());
        let whole = usize::from(prefix / 8);
        let first = field.load_first((prefix / 8).into()).filter(|_| prefix.is_multiple_of(8) && prefix > 0);
        match (first, bytes.get(..whole)) {
            (Some(load), Some(bytes)) => self.with(load).with(expression::compare(inside, bytes)),
            _ => {
                let step = self.with(field.load(0)).with(expression::mask(&bits));
                step.with(expression::compare(inside, &bytes))
            }
        }
    }

    /// It came by this interface.
    pub fn iifname(self, text: &str) -> Self {
        self.is(Field::Iifname, name(text))
    }

    /// It goes by this interface.
    pub fn oifname(self, text: &str) -> Self {
        self.is(Field::Oifname, name(text))
    }

    /// The interface's name begins like this.
    pub fn begins(self, field: Field, text: &str) -> Self {
        self.is(field, text)
    }

    /// It is of this protocol above IP.
    pub fn l4proto(self, number: u8) -> Self {
        self.is(Field::L4proto, [number])
    }

    /// In a table of several families: it is IPv4.
    pub fn nfproto_ipv4(self) -> Self {
        self.is(Field::Nfproto, [2])
    }

    /// In a table of the bridge: it is IPv4, by the frame's own protocol.
    pub fn protocol_ip(self) -> Self {
        self.is(Field::Protocol, [8, 0])
    }

    /// In a table of the bridge: the frame's type is that of ARP.
    pub fn ether_type_arp(self) -> Self {
        self.is(Field::EtherType, [8, 6])
    }

    /// The connection is there already, or belongs to one.
    pub fn established(self) -> Self {
        self.state(ESTABLISHED_OR_RELATED)
    }

    /// A new connection.
    pub fn state_new(self) -> Self {
        self.state(NEW)
    }

    /// A packet of no connection that there could be.
    pub fn state_invalid(self) -> Self {
        self.state(INVALID)
    }

    fn state(self, bits: u32) -> Self {
        let step = self.with(Field::CtState.load(0)).with(expression::mask(&bits.to_ne_bytes()));
        step.with(expression::compare(false, &[0; 4]))
    }

    /// The fields, one behind the other, are a key of the named set.
    pub fn among(self, fields: &[Field], set: &str) -> Self {
        self.load_all(fields).with(expression::lookup(SetName { name: set, id: None }, true, false))
    }

    /// They are no key of it.
    pub fn not_among(self, fields: &[Field], set: &str) -> Self {
        self.load_all(fields).with(expression::lookup(SetName { name: set, id: None }, false, false))
    }

    fn load_all(mut self, fields: &[Field]) -> Self {
        let mut slot = 0;
        for field in fields {
            self = self.with(field.load(slot));
            slot += field.kind().map_or(1, |kind| kind.length().div_ceil(4));
        }
        self
    }

    /// The field has one of these values.
    pub fn one_of<V: AsRef<[u8]>>(self, field: Field, values: &[V]) -> Self {
        self.values(field, values, true)
    }

    /// The field has none of these values.
    pub fn none_of<V: AsRef<[u8]>>(self, field: Field, values: &[V]) -> Self {
        self.values(field, values, false)
    }

    fn values<V: AsRef<[u8]>>(self, field: Field, values: &[V], inside: bool) -> Self {
        let values = values.iter().map(|value| value.as_ref().to_owned()).collect();
        let mut rule = self.with(field.load(0));
        let kind = field.kind().unwrap_or(Type::InetProto);
        rule.steps.push(Step::Among { kind, values, inside });
        rule
    }

    /// Sets the packet mark to what the named map has for the field; holds where it has something.
    pub fn mark_from(self, field: Field, map: &str) -> Self {
        let step = self.with(field.load(0));
        step.with(expression::lookup(SetName { name: map, id: None }, true, true))
            .with(expression::set_mark())
    }

    /// Sets the packet mark.
    pub fn set_mark(self, mark: u32) -> Self {
        self.with(expression::mark_value(mark)).with(expression::set_mark())
    }

    /// The connections of the field's value, which the named dynamic set counts, are more than `most`.
    pub fn count_over(self, field: Field, set: &str, most: u32) -> Self {
        self.with(field.load(0)).with(expression::count_over(set, most))
    }

    /// Counts the packet.
    pub fn counter(self) -> Self {
        self.with(expression::counter())
    }

    /// Counts the packet under a name.
    pub fn counter_name(self, name: &str) -> Self {
        self.with(expression::named_counter(name))
    }

    /// Lets it through.
    pub fn accept(self) -> Self {
        self.with(expression::verdict(1, None))
    }

    /// Drops it.
    pub fn drop(self) -> Self {
        self.with(expression::verdict(0, None))
    }

    /// Goes on in another chain, and here when that one says nothing.
    pub fn jump(self, chain: &str) -> Self {
        self.with(expression::verdict(-3, Some(chain)))
    }

    /// Translates its receiver.
    pub fn dnat(self, to: Ipv4Addr) -> Self {
        let [address, nat] = expression::translate(true, to);
        self.with(address).with(nat)
    }

    /// Translates its sender.
    pub fn snat(self, to: Ipv4Addr) -> Self {
        let [address, nat] = expression::translate(false, to);
        self.with(address).with(nat)
    }

    /// Translates its sender to the address of the interface by which it goes.
    pub fn masquerade(self) -> Self {
        self.with(expression::masquerade())
    }
}
