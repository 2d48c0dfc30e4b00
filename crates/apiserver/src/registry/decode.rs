//! Strict decoding: JSON into a kind's type, with the path of everything that does not belong there.

use std::cell::RefCell;
use std::fmt::Write as _;

use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Serialize, forward_to_deserialize_any};
use serde_json::{Error, Value};

/// What a decoder answers.
#[derive(Debug)]
pub struct Decoded {
    /// The object with only what its type knows, in the type's own form.
    pub object: Value,
    /// Paths of fields that the type does not know, for example `spec.containers[0].imag`.
    pub unknown: Vec<String>,
}

/// A value has the wrong type or form.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {message}")]
pub struct WrongType {
    /// Where.
    pub path: String,
    /// What was found and what was expected.
    pub message: String,
}

/// A kind's decoder.
pub type Decode = fn(&Value) -> Result<Decoded, WrongType>;

/// Takes anything.
///
/// # Errors
/// Never.
pub fn any(value: &Value) -> Result<Decoded, WrongType> {
    Ok(Decoded { object: value.clone(), unknown: Vec::new() })
}

/// Decodes into a type and writes it out again: what the type does not know is gone.
///
/// # Errors
/// When a value has the wrong type.
pub fn typed<T: DeserializeOwned + Serialize>(value: &Value) -> Result<Decoded, WrongType> {
    let (typed, unknown) = decode::<T>(value)?;
    let object = serde_json::to_value(typed)
        .map_err(|error| WrongType { path: String::new(), message: error.to_string() })?;
    Ok(Decoded::new(object, &unknown))
}

/// Decodes into a type only to check; the object stays as it was given, less what the type does not know: as a custom
/// resource is stored.
///
/// # Errors
/// When a value has the wrong type.
pub fn typed_as_given<T: DeserializeOwned>(value: &Value) -> Result<Decoded, WrongType> {
    let (_, unknown) = decode::<T>(value)?;
    let mut object = value.clone();
    for path in &unknown {
        remove(&mut object, path);
    }
    Ok(Decoded::new(object, &unknown))
}

/// How many unknown fields an answer names.
const MAX_NAMED: usize = 100;

impl Decoded {
    fn new(object: Value, unknown: &[Vec<Step>]) -> Self {
        let mut unknown: Vec<String> = unknown.iter().take(MAX_NAMED).map(|path| text(path)).collect();
        unknown.sort();
        Self { object, unknown }
    }
}

/// Reads one object of `T`, for callers that want the type and not the JSON.
///
/// # Errors
/// When a value has the wrong type.
fn decode<T: DeserializeOwned>(value: &Value) -> Result<(T, Vec<Vec<Step>>), WrongType> {
    let trace = Trace::default();
    let result = T::deserialize(Node { value, trace: &trace });
    match result {
        Ok(typed) => Ok((typed, trace.unknown.into_inner())),
        Err(error) => {
            let path = trace.failed.into_inner().unwrap_or_default();
            Err(WrongType { path: text(&path), message: error.to_string() })
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

fn text(path: &[Step]) -> String {
    let mut out = String::new();
    for step in path {
        match step {
            Step::Key(key) if out.is_empty() => out.push_str(key),
            Step::Key(key) => {
                out.push('.');
                out.push_str(key);
            }
            Step::Index(index) => {
                // Writing to a String cannot fail.
                let _ = write!(out, "[{index}]");
            }
        }
    }
    out
}

fn remove(object: &mut Value, path: &[Step]) {
    let Some((last, parents)) = path.split_last() else { return };
    let mut at = Some(object);
    for step in parents {
        at = match (at, step) {
            (Some(value), Step::Key(key)) => value.get_mut(key),
            (Some(value), Step::Index(index)) => value.get_mut(index),
            (None, _) => None,
        };
    }
    if let (Some(Value::Object(fields)), Step::Key(key)) = (at, last) {
        fields.remove(key);
    }
}

/// Where the decoder is, what it skipped, and where it stopped.
#[derive(Default)]
struct Trace {
    here: RefCell<Vec<Step>>,
    unknown: RefCell<Vec<Vec<Step>>>,
    failed: RefCell<Option<Vec<Step>>>,
}

impl Trace {
    fn within<T>(&self, step: Step, inner: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        self.here.borrow_mut().push(step);
        let result = inner();
        if result.is_err() {
            self.failed.borrow_mut().get_or_insert_with(|| self.here.borrow().clone());
        }
        self.here.borrow_mut().pop();
        result
    }
}

/// One value on the way through the visitors of a type.
struct Node<'a> {
    value: &'a Value,
    trace: &'a Trace,
}

impl<'de> de::Deserializer<'de> for Node<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::String(text) => visitor.visit_str(text),
            Value::Number(number) => {
                if let Some(number) = number.as_u64() {
                    visitor.visit_u64(number)
                } else if let Some(number) = number.as_i64() {
                    visitor.visit_i64(number)
                } else {
                    visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN))
                }
            }
            Value::Array(items) => {
                visitor.visit_seq(Items { items: items.iter(), index: 0, trace: self.trace })
            }
            Value::Object(fields) => {
                visitor.visit_map(Fields { fields: fields.iter(), value: None, trace: self.trace })
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.value.clone().deserialize_enum(name, variants, visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.trace.unknown.borrow_mut().push(self.trace.here.borrow().clone());
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq
        tuple tuple_struct map struct identifier
    }
}

struct Items<'a> {
    items: std::slice::Iter<'a, Value>,
    index: usize,
    trace: &'a Trace,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some(value) = self.items.next() else { return Ok(None) };
        let index = self.index;
        self.index += 1;
        let trace = self.trace;
        trace.within(Step::Index(index), || seed.deserialize(Node { value, trace })).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Fields<'a> {
    fields: serde_json::map::Iter<'a>,
    value: Option<(&'a str, &'a Value)>,
    trace: &'a Trace,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((key, value)) = self.fields.next() else { return Ok(None) };
        self.value = Some((key, value));
        seed.deserialize(key.as_str().into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (key, value) = self.value.take().ok_or_else(|| de::Error::custom("a value without a key"))?;
        let trace = self.trace;
        trace.within(Step::Key(key.to_owned()), || seed.deserialize(Node { value, trace }))
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    fn pod(container: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [container]}})
    }

    #[test]
    fn unknown_fields_are_found_with_their_paths_and_dropped() {
        let mut input = pod(json!({"name": "c", "imag": "x", "env": [{"name": "A", "vlue": "b"}]}));
        input["spec"]["foo"] = json!({"deep": [1]});
        let decoded = typed::<Pod>(&input).unwrap();
        assert_eq!(
            decoded.unknown,
            ["spec.containers[0].env[0].vlue", "spec.containers[0].imag", "spec.foo"]
        );
        assert_eq!(decoded.object["spec"]["foo"], Value::Null);
        let as_given = typed_as_given::<Pod>(&input).unwrap();
        assert_eq!(as_given.object["spec"]["containers"][0], json!({"name": "c", "env": [{"name": "A"}]}));
    }

    #[test]
    fn wrong_types_are_reported_with_their_path() {
        let error = typed::<Pod>(&pod(json!({"name": "c", "image": 5}))).unwrap_err();
        assert_eq!(error.path, "spec.containers[0].image");
        assert!(error.message.contains("expected a string"), "{}", error.message);
        let error = typed::<Pod>(&json!({"kind": "Pod", "apiVersion": "v1", "spec": "x"})).unwrap_err();
        assert_eq!(error.path, "spec");
    }

    #[test]
    fn numbers_are_quantities_too() {
        let container = json!({"name": "c", "resources": {"limits": {"cpu": 1, "memory": "64Mi"}}});
        let decoded = typed::<Pod>(&pod(container)).unwrap();
        assert_eq!(decoded.object["spec"]["containers"][0]["resources"]["limits"]["cpu"], "1");
    }
}
