//! JSON and YAML from strangers: depth and size are bounded before, or while, anything is made of them.
//!
//! A parser that recurses, looks back or copies can take minutes and gigabytes for a body of some kilobytes. So JSON is
//! scanned once, byte by byte, before its parser sees it, and YAML is read through the budget of its parser and through
//! a count of our own, since a part that is named again and again is made again and again.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Most bytes of a JSON document, and of what a YAML document becomes. Kubernetes' limit of request bodies.
pub const MAX_BYTES: usize = 3 << 20;
/// Most bytes of a YAML document. Clients turn YAML into JSON before they send it, so few see this limit; a YAML reader
/// needs some hundred times as long for a byte as a JSON reader.
pub const MAX_YAML: usize = 256 << 10;
/// How deep lists and objects may be inside each other: what every JSON reader here can read again.
pub const MAX_DEPTH: usize = 127;
/// The same for YAML, whose reader needs some kilobytes of stack for each level.
pub const MAX_YAML_DEPTH: usize = 64;
/// Most names and values in a document: each takes some fifty bytes of memory, however short it is, and an empty object
/// that stands for a container takes a thousand. Kubernetes has no such limit; no machine, pod or role that is meant comes
/// near a tenth of it.
pub const MAX_VALUES: usize = 1 << 17;

/// Why a document is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// More bytes than [`MAX_BYTES`] or [`MAX_YAML`].
    #[error("it is larger than {limit} bytes")]
    TooLarge {
        /// The limit that it is over.
        limit: usize,
    },
    /// More values than [`MAX_VALUES`].
    #[error("it has more than {MAX_VALUES} names and values")]
    TooMany,
    /// Deeper than [`MAX_DEPTH`].
    #[error("it is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// It is not JSON or YAML.
    #[error("{0}")]
    Syntax(String),
}

impl DocumentError {
    /// True when the document may be good but is more than is read.
    #[must_use]
    pub fn is_size(&self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::TooMany)
    }
}

/// Bounds a JSON document before it is parsed: one pass, no memory. Says nothing of whether it is JSON.
///
/// # Errors
/// All but [`DocumentError::Syntax`].
pub fn scan(bytes: &[u8]) -> Result<(), DocumentError> {
    if bytes.len() > MAX_BYTES {
        return Err(DocumentError::TooLarge { limit: MAX_BYTES });
    }
    let (mut depth, mut values, mut string, mut escaped) = (0usize, 1usize, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if string => escaped = true,
            b'"' => string = !string,
            _ if string => {}
            b'[' | b'{' => {
                depth = depth.saturating_add(1);
                values = values.saturating_add(1);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' | b':' => values = values.saturating_add(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(DocumentError::TooDeep);
        }
        if values > MAX_VALUES {
            return Err(DocumentError::TooMany);
        }
    }
    Ok(())
}

/// Reads one JSON document.
///
/// # Errors
/// See [`DocumentError`].
pub fn json(bytes: &[u8]) -> Result<Value, DocumentError> {
    scan(bytes)?;
    serde_json::from_slice(bytes).map_err(|error| DocumentError::Syntax(error.to_string()))
}

/// Reads one YAML document.
///
/// # Errors
/// See [`DocumentError`].
pub fn yaml(bytes: &[u8]) -> Result<Value, DocumentError> {
    if bytes.len() > MAX_YAML {
        return Err(DocumentError::TooLarge { limit: MAX_YAML });
    }
    let (left, over) = (Cell::new(MAX_BYTES), Cell::new(None));
    let node = Node { left: &left, values: &Cell::new(MAX_VALUES), over: &over };
    serde_saphyr::with_deserializer_from_slice_with_options(bytes, options(), |deserializer| {
        node.deserialize(deserializer)
    })
    .map_err(|error| match over.take() {
        Some(over) => over,
        None => DocumentError::Syntax(error.to_string()),
    })
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            flow_nesting_limit: MAX_YAML_DEPTH,
            max_depth: MAX_YAML_DEPTH,
            max_documents: 1,
            max_nodes: MAX_VALUES,
            max_events: 4 * MAX_VALUES,
            max_recorded_anchor_events: MAX_VALUES,
            max_recorded_anchor_bytes: MAX_BYTES,
            max_total_scalar_bytes: MAX_BYTES,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_VALUES,
        },
        // Messages go to clients and logs: they name the place and do not quote what was sent.
        with_snippet: false,
    }
}

/// One value on its way out of the YAML reader, counted as it is made, however often its text is used.
#[derive(Clone, Copy)]
struct Node<'a> {
    left: &'a Cell<usize>,
    values: &'a Cell<usize>,
    over: &'a Cell<Option<DocumentError>>,
}

impl Node<'_> {
    fn count<E: serde::de::Error>(self, bytes: usize) -> Result<(), E> {
        let over = |error: DocumentError| {
            let message = error.to_string();
            self.over.set(Some(error));
            E::custom(message)
        };
        let left = self.left.get().checked_sub(bytes);
        self.left.set(left.ok_or_else(|| over(DocumentError::TooLarge { limit: MAX_BYTES }))?);
        let values = self.values.get().checked_sub(1);
        self.values.set(values.ok_or_else(|| over(DocumentError::TooMany))?);
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

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        self.count(0)?;
        Ok(value.into())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        self.count(0)?;
        Ok(value.into())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        self.count(0)?;
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        self.count(0)?;
        Ok(value.into())
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.count(value.len())?;
        Ok(value.into())
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        self.count(0)?;
        Ok(Value::Null)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
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
            if out.insert(name, value).is_some() {
                return Err(A::Error::custom("a field is there twice"));
            }
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn yaml_reads_as_its_json() {
        let text = "a: &x {b: [1, -2, 1.5, true, ~, 'no', \"\"]}\nc: *x\n1: text\nd: |\n  {{{\n  [[[\n";
        let x = json!({"b": [1, -2, 1.5, true, null, "no", ""]});
        let all = json!({"a": x, "c": x, "1": "text", "d": "{{{\n[[[\n"});
        assert_eq!(yaml(text.as_bytes()).unwrap(), all);
        assert_eq!(yaml(all.to_string().as_bytes()).unwrap(), all, "JSON is YAML");
        assert!(yaml(b"a: 1\n---\nb: 2\n").is_err());
        assert!(yaml(b"a: 1\na: 2\n").is_err());
        assert!(yaml(b"a: \xff").is_err());
    }

    #[test]
    fn what_names_itself_over_and_over_is_refused() {
        let long = "x".repeat(1 << 16);
        let text = format!("a: &a '{long}'\nb: [{}]\n", "*a,".repeat(100));
        assert!(yaml(text.as_bytes()).is_err());
        let mut text = "a0: &a0 [x]\n".to_owned();
        for level in 1..12 {
            let aliases = format!("*a{},", level - 1).repeat(9);
            text.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        assert!(yaml(text.as_bytes()).is_err());
    }

    #[test]
    fn depth_is_refused_before_it_is_read() {
        let nested = |open: &str, close: &str, depth: usize| {
            [open.repeat(depth), "1".to_owned(), close.repeat(depth)].concat().into_bytes()
        };
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            assert!(json(&nested(open, close, MAX_DEPTH)).is_ok());
            assert_eq!(json(&nested(open, close, MAX_DEPTH + 1)), Err(DocumentError::TooDeep));
            assert_eq!(scan(&nested(open, close, 500_000)), Err(DocumentError::TooDeep));
        }
        for (open, close) in [("[", "]"), ("{a: ", "}"), ("- ", ""), ("? ", "")] {
            assert!(open == "? " || yaml(&nested(open, close, 60)).is_ok(), "{open}");
            assert!(yaml(&nested(open, close, MAX_YAML_DEPTH + 2)).is_err(), "{open}");
            assert!(yaml(&nested(open, close, MAX_YAML / 4 - 1)).is_err(), "{open}");
        }
        let quoted = format!("{{\"a\": \"{}\"}}", "[".repeat(1000));
        assert!(json(quoted.as_bytes()).is_ok());
    }

    #[test]
    fn size_is_refused_before_it_is_read() {
        let many = format!("[{}1]", "1,".repeat(MAX_VALUES));
        assert_eq!(json(many.as_bytes()), Err(DocumentError::TooMany));
        let large = format!("\"{}\"", "x".repeat(MAX_BYTES));
        assert_eq!(json(large.as_bytes()), Err(DocumentError::TooLarge { limit: MAX_BYTES }));
        let yaml_text = "a: b\n".repeat(MAX_YAML / 5 + 1);
        assert_eq!(yaml(yaml_text.as_bytes()), Err(DocumentError::TooLarge { limit: MAX_YAML }));
    }
}
