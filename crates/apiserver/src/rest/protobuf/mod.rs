//! Request bodies in Kubernetes' protobuf form, which newer typed clients send for built-in kinds (`kubectl create
//! namespace` does). Answers are always JSON, which these clients accept.
//!
//! The form does not name fields, so `schema.txt` does: one line for each message, with number, JSON name and type of
//! each field. Reading ends in the same JSON value that the JSON form would have been; everything after this is the
//! same for both.

mod wire;

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ferrovirt_api::document::{self, MAX_VALUES};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value};

use crate::status::ApiError;
use wire::{Field, Reader};

/// What such a body starts with.
const MAGIC: &[u8] = b"k8s\0";
/// Depth of messages; the deepest kind (pods) has about a dozen.
const MAX_DEPTH: usize = 64;

/// A body that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error("it does not start with the bytes of a Kubernetes object")]
    Magic,
    #[error("it ends in the middle of a field")]
    Truncated,
    #[error("field {0} has the wrong wire type")]
    WireType(u64),
    #[error("a text is not UTF-8")]
    Utf8,
    #[error("an embedded JSON value cannot be read")]
    Json,
    #[error("it is nested too deep")]
    Depth,
    #[error("it has more than {MAX_VALUES} values")]
    TooMany,
    #[error("{0} is not supported in protobuf form; use application/json")]
    Kind(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Text,
    Bool,
    Int,
    Double,
    Bytes,
    Time,
    MicroTime,
    Quantity,
    IntOrString,
    /// JSON inside bytes inside a message.
    Raw,
    /// A message that is nothing but a list of strings.
    Strings,
    Message(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Present on the wire even when it is empty: an empty value means absent.
    Plain,
    /// Absent or present; an empty value is a value.
    Optional,
    List,
    Map,
}

#[derive(Debug)]
struct Spec {
    /// JSON name; empty when the message's fields belong to the parent.
    name: &'static str,
    kind: Type,
    shape: Shape,
}

type Message = HashMap<u64, Spec>;

/// Parsed at the first body that needs it.
static SCHEMA: LazyLock<HashMap<&'static str, Message>> = LazyLock::new(|| {
    include_str!("schema.txt")
        .lines()
        .filter_map(|line| {
            let (name, fields) = line.split_once(' ')?;
            Some((name, fields.split(' ').filter_map(spec).collect()))
        })
        .collect()
});

fn spec(text: &'static str) -> Option<(u64, Spec)> {
    let (number, rest) = text.split_once('=')?;
    let (name, kind) = rest.split_once(':')?;
    let (kind, shape) = match kind.as_bytes().last()? {
        b'?' => (kind.strip_suffix('?')?, Shape::Optional),
        b'*' => (kind.strip_suffix('*')?, Shape::List),
        b'%' => (kind.strip_suffix('%')?, Shape::Map),
        _ => (kind, Shape::Plain),
    };
    let kind = match kind {
        "string" => Type::Text,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "double" => Type::Double,
        "bytes" => Type::Bytes,
        "time" => Type::Time,
        "microtime" => Type::MicroTime,
        "quantity" => Type::Quantity,
        "intorstring" => Type::IntOrString,
        "raw" => Type::Raw,
        "strings" => Type::Strings,
        message => Type::Message(message),
    };
    Some((number.parse().ok()?, Spec { name, kind, shape }))
}

/// Reads a body.
pub(super) fn read(bytes: &[u8]) -> Result<Value, ApiError> {
    envelope(bytes).map_err(|problem| match problem {
        Problem::TooMany => ApiError::new(
            413,
            "RequestEntityTooLarge",
            format!("the request body is too large for protobuf: {problem}"),
        ),
        problem => ApiError::bad_request(format!("the request body is not a protobuf object: {problem}")),
    })
}

/// The outer message: type, and the object's bytes.
fn envelope(bytes: &[u8]) -> Result<Value, Problem> {
    let body = bytes.strip_prefix(MAGIC).ok_or(Problem::Magic)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in Reader::new(body) {
        match field? {
            (1, Field::Bytes(meta)) => {
                for field in Reader::new(meta) {
                    match field? {
                        (1, Field::Bytes(text)) => api_version = utf8(text)?,
                        (2, Field::Bytes(text)) => kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Field::Bytes(object)) => raw = object,
            _ => {}
        }
    }
    let group = api_version.split_once('/').map_or("core", |(group, _)| group);
    let family = group.split('.').next().unwrap_or_default();
    // Options have the group of what they are for.
    let name =
        if kind == "DeleteOptions" { "meta.DeleteOptions".to_owned() } else { format!("{family}.{kind}") };
    let Some((name, _)) = SCHEMA.get_key_value(name.as_str()) else {
        return Err(Problem::Kind(format!("{kind} of {api_version}")));
    };
    let mut object = Map::new();
    message(name, raw, &mut object, Place { depth: 0, left: &Cell::new(MAX_VALUES) })?;
    object.insert("apiVersion".to_owned(), api_version.into());
    object.insert("kind".to_owned(), kind.into());
    Ok(Value::Object(object))
}

/// Where in the object the reader is, and how many values may still come: two bytes can stand for one.
#[derive(Clone, Copy)]
struct Place<'a> {
    depth: usize,
    left: &'a Cell<usize>,
}

impl Place<'_> {
    fn deeper(self) -> Self {
        Self { depth: self.depth + 1, ..self }
    }

    fn count(self) -> Result<(), Problem> {
        self.left.set(self.left.get().checked_sub(1).ok_or(Problem::TooMany)?);
        Ok(())
    }
}

fn message(name: &str, bytes: &[u8], out: &mut Map<String, Value>, at: Place<'_>) -> Result<(), Problem> {
    if at.depth > MAX_DEPTH {
        return Err(Problem::Depth);
    }
    let schema = SCHEMA.get(name).ok_or_else(|| Problem::Kind(name.to_owned()))?;
    for field in Reader::new(bytes) {
        let (number, field) = field?;
        // A field of a newer release: as an unknown field in JSON that nobody validates.
        let Some(spec) = schema.get(&number) else { continue };
        at.count()?;
        let wrong = || Problem::WireType(number);
        if let (Type::Message(inner), "") = (spec.kind, spec.name) {
            message(inner, field.bytes().ok_or_else(wrong)?, out, at.deeper())?;
            continue;
        }
        match spec.shape {
            Shape::Map => {
                let (key, value) = entry(spec.kind, field.bytes().ok_or_else(wrong)?, number, at)?;
                let place = out.entry(spec.name).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(entries) = place {
                    entries.insert(key, value);
                }
            }
            Shape::List => {
                let value = value(spec.kind, &field, number, at)?;
                let place = out.entry(spec.name).or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(items) = place {
                    items.push(value);
                }
            }
            Shape::Optional => {
                out.insert(spec.name.to_owned(), value(spec.kind, &field, number, at)?);
            }
            Shape::Plain => {
                let value = value(spec.kind, &field, number, at)?;
                if !is_empty(&value) {
                    out.insert(spec.name.to_owned(), value);
                }
            }
        }
    }
    Ok(())
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

fn entry(kind: Type, bytes: &[u8], number: u64, at: Place<'_>) -> Result<(String, Value), Problem> {
    let (mut key, mut content) = (String::new(), value(kind, &Field::Bytes(&[]), number, at)?);
    for field in Reader::new(bytes) {
        match field? {
            (1, Field::Bytes(text)) => key = utf8(text)?,
            (2, field) => content = value(kind, &field, number, at)?,
            _ => {}
        }
    }
    Ok((key, content))
}

fn value(kind: Type, field: &Field<'_>, number: u64, at: Place<'_>) -> Result<Value, Problem> {
    let wrong = || Problem::WireType(number);
    let bytes = || field.bytes().ok_or_else(wrong);
    Ok(match kind {
        Type::Bool => Value::Bool(field.integer().ok_or_else(wrong)? != 0),
        Type::Int => Value::from(field.integer().ok_or_else(wrong)?),
        Type::Double => Value::from(field.double().ok_or_else(wrong)?),
        Type::Text => Value::String(utf8(bytes()?)?),
        Type::Bytes => Value::String(STANDARD.encode(bytes()?)),
        Type::Quantity => {
            Value::String(utf8(inner(bytes()?, 1)?.and_then(|f| f.bytes()).unwrap_or_default())?)
        }
        Type::Time | Type::MicroTime => time(kind, bytes()?)?,
        Type::IntOrString => {
            let bytes = bytes()?;
            match inner(bytes, 1)?.and_then(|f| f.integer()) {
                Some(1) => Value::String(utf8(inner(bytes, 3)?.and_then(|f| f.bytes()).unwrap_or_default())?),
                _ => Value::from(inner(bytes, 2)?.and_then(|f| f.integer()).unwrap_or_default()),
            }
        }
        Type::Raw => match inner(bytes()?, 1)?.and_then(|f| f.bytes()) {
            None | Some([]) => Value::Null,
            Some(json) => document::json(json).map_err(|_| Problem::Json)?,
        },
        Type::Strings => {
            let mut items = Vec::new();
            for field in Reader::new(bytes()?) {
                if let (1, Field::Bytes(text)) = field? {
                    at.count()?;
                    items.push(Value::String(utf8(text)?));
                }
            }
            Value::Array(items)
        }
        Type::Message(name) => {
            let mut fields = Map::new();
            message(name, bytes()?, &mut fields, at.deeper())?;
            Value::Object(fields)
        }
    })
}

/// One field of a small message; the last one counts.
fn inner(bytes: &[u8], wanted: u64) -> Result<Option<Field<'_>>, Problem> {
    let mut found = None;
    for field in Reader::new(bytes) {
        let (number, field) = field?;
        if number == wanted {
            found = Some(field);
        }
    }
    Ok(found)
}

/// An empty message is the zero time, which JSON writes as null.
fn time(kind: Type, bytes: &[u8]) -> Result<Value, Problem> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let seconds = inner(bytes, 1)?.and_then(|field| field.integer()).unwrap_or_default();
    let nanos = inner(bytes, 2)?.and_then(|field| field.integer()).unwrap_or_default();
    let Ok(time) = Timestamp::new(seconds, i32::try_from(nanos).unwrap_or_default()) else {
        return Ok(Value::Null);
    };
    Ok(Value::String(match kind {
        Type::MicroTime => format!("{time:.6}"),
        _ => format!("{time:.0}"),
    }))
}

fn utf8(bytes: &[u8]) -> Result<String, Problem> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Problem::Utf8)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
        out.extend_from_slice(content);
        out
    }

    fn body(kind: &str, api_version: &str, object: &[u8]) -> Vec<u8> {
        let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &meta), field(2, object)].concat()
    }

    #[test]
    fn a_config_map_reads_as_its_json() {
        let metadata = [
            field(1, b"a"),
            field(2, b""),
            field(8, b""),
            field(11, &[field(1, b"k"), field(2, b"v")].concat()),
        ]
        .concat();
        let data = [field(1, b"x"), field(2, b"")].concat();
        let immutable = vec![4 << 3, 0];
        let object = [field(1, &metadata), field(2, &data), immutable].concat();
        assert_eq!(
            envelope(&body("ConfigMap", "v1", &object)).unwrap(),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "immutable": false,
                "metadata": {"name": "a", "labels": {"k": "v"}}, "data": {"x": ""}})
        );
    }

    #[test]
    fn times_and_inlined_messages() {
        // seconds = 1, and for the second no payload at all
        let metadata = [field(1, b"p"), field(8, &[1 << 3, 1])].concat();
        let volume = [field(1, b"v"), field(2, &field(2, b""))].concat();
        let object = [field(1, &metadata), field(2, &field(1, &volume))].concat();
        assert_eq!(
            envelope(&body("Pod", "v1", &object)).unwrap(),
            json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "p", "creationTimestamp": "1970-01-01T00:00:01Z"},
                "spec": {"volumes": [{"name": "v", "emptyDir": {}}]}})
        );
    }

    #[test]
    fn damaged_bodies_are_refused() {
        let good = body("ConfigMap", "v1", &field(1, &field(1, b"name")));
        assert!(envelope(&good).is_ok());
        for length in 0..good.len() {
            // A cut body may still be a shorter valid one; it must only not panic.
            let _ = envelope(&good[..length]);
        }
        assert!(matches!(envelope(b"{}"), Err(Problem::Magic)));
        assert!(matches!(envelope(&good[..good.len() - 1]), Err(Problem::Truncated)));
        assert!(matches!(envelope(&body("Job", "batch/v1", b"")), Err(Problem::Kind(_))));
        let huge_length =
            [MAGIC, &[2 << 3 | 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]].concat();
        assert!(envelope(&huge_length).is_err());
    }

    #[test]
    fn the_schema_is_closed() {
        for (name, message) in SCHEMA.iter() {
            assert!(!message.is_empty(), "{name}");
            for spec in message.values() {
                if let Type::Message(inner) = spec.kind {
                    assert!(SCHEMA.contains_key(inner), "{inner} in {name}");
                }
            }
        }
    }
}
