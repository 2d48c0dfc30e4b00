//! YAML into a value of bounded size.
//!
//! A few kilobytes of YAML can name a part again and again, and that part others: what it becomes has no bound of its
//! own. Here every node is counted as it is made, however often its text is used.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::server::MAX_BODY;

/// The least that a node takes in a text, with what separates it from the next.
const NODE: usize = 2;

/// Reads one document. What it becomes may be as large as a body, written out.
pub(super) fn read(bytes: &[u8]) -> Result<Value, serde_norway::Error> {
    Node { left: &Cell::new(MAX_BODY) }.deserialize(serde_norway::Deserializer::from_slice(bytes))
}

#[derive(Clone, Copy)]
struct Node<'a> {
    left: &'a Cell<usize>,
}

impl Node<'_> {
    fn count<E: Error>(self, bytes: usize) -> Result<(), E> {
        let left = self.left.get().checked_sub(bytes.saturating_add(1).max(NODE));
        self.left.set(left.ok_or_else(|| E::custom(format!("it becomes larger than {MAX_BODY} bytes")))?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value that JSON has, too")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        self.count(0)?;
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.count(0)?;
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.count(0)?;
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.count(0)?;
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.count(value.len())?;
        Ok(value.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.count(0)?;
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.count(0)?;
        let mut out = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            out.push(item);
        }
        Ok(Value::Array(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        self.count(0)?;
        let mut out = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            self.count(name.len())?;
            let value = fields.next_value_seed(self)?;
            out.insert(name, value);
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_read_as_their_json() {
        let text = "a: &x {b: [1, -2, 1.5, true, ~, 'no', \"\"]}\nc: *x\n1: yes\n";
        let x = json!({"b": [1, -2, 1.5, true, null, "no", ""]});
        assert_eq!(read(text.as_bytes()).unwrap(), json!({"a": x, "c": x, "1": "yes"}));
        let plain: Value = serde_norway::from_str(text).unwrap();
        assert_eq!(read(text.as_bytes()).unwrap(), plain);
        assert!(read(b"a: 1\n---\nb: 2\n").is_err());
    }

    #[test]
    fn what_names_itself_over_and_over_is_refused() {
        let long = "x".repeat(1 << 16);
        let aliases = "*a,".repeat(100);
        let text = format!("a: &a '{long}'\nb: [{aliases}]\n");
        assert!(read(text.as_bytes()).unwrap_err().to_string().contains("becomes larger"));
    }

    #[test]
    fn a_large_document_of_small_nodes_is_no_larger_than_its_text() {
        let text = format!("[{}a]", "a,".repeat(MAX_BODY / 2 - 2));
        assert!(text.len() <= MAX_BODY && read(text.as_bytes()).is_ok());
    }
}
