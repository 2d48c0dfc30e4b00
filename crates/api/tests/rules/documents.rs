//! Bounds on documents of strangers, each at its border, and the definitions that are served.

use ferrovirt_api::{
    crd,
    document::{DocumentError, MAX_DEPTH, MAX_VALUES, json as read_json, scan, yaml},
    kubevirt::VirtualMachine,
    schema,
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn nested(depth: usize, inner: &str) -> String {
    format!("{}{inner}{}", "[".repeat(depth), "]".repeat(depth))
}

/// Only what is open counts: neighbours are not deeper than each other, and brackets in texts are letters.
#[test]
fn depth_is_what_is_open() {
    let neighbours = format!("[{}0]", "[],{\"a\":{}},".repeat(1000));
    assert_eq!(scan(neighbours.as_bytes()), Ok(()));
    for text in [r#""\"[[["#, r#""\\\"{{{"#, r#""{[\\\\\"["#] {
        let text = format!("[{}\"]", text.replace("[[[", &"[".repeat(500)));
        assert!(read_json(text.as_bytes()).is_ok(), "{text}");
    }
    // A backslash that is escaped itself ends with its text.
    let after = format!(r#"["\\",{}]"#, nested(MAX_DEPTH, "1"));
    assert_eq!(scan(after.as_bytes()), Err(DocumentError::TooDeep));
    let fits = format!(r#"["\\",{}]"#, nested(MAX_DEPTH - 1, "1"));
    assert!(read_json(fits.as_bytes()).is_ok());
}

#[test]
fn values_are_counted_to_the_last() {
    // A list and its commas; a name and its value count as two.
    let list = |commas: usize| format!("[{}1]", "1,".repeat(commas));
    assert_eq!(scan(list(MAX_VALUES - 2).as_bytes()), Ok(()));
    assert_eq!(scan(list(MAX_VALUES - 1).as_bytes()), Err(DocumentError::TooMany));
    let object = |names: usize| format!("{{{}\"b\":1}}", "\"a\":1,".repeat(names));
    assert_eq!(scan(object(MAX_VALUES / 2 - 2).as_bytes()), Ok(()));
    assert_eq!(scan(object(MAX_VALUES / 2).as_bytes()), Err(DocumentError::TooMany));
    assert_eq!(yaml(list(MAX_VALUES).as_bytes()), Err(DocumentError::TooLarge { limit: 256 << 10 }));
    assert!(DocumentError::TooMany.is_size() && DocumentError::TooLarge { limit: 1 }.is_size());
    assert!(!DocumentError::TooDeep.is_size() && !DocumentError::Syntax(String::new()).is_size());
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        r#"[\\"\[\]{}:, a-z\n\u{e4}]{0,8}"#.prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(r#"[\\"\[{:,a-z]{0,4}"#, inner, 0..5)
                .prop_map(|map| map.into_iter().collect::<Value>()),
        ]
    })
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or_default(),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or_default(),
        _ => 0,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever its texts hold, a document fits exactly as deep as its values are nested, and is read as it was written.
    #[test]
    fn a_document_is_as_deep_as_its_values(value in any_json(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&value).unwrap() } else { value.to_string() };
        let room = MAX_DEPTH - depth(&value);
        let fits = nested(room, &text);
        prop_assert!(read_json(fits.as_bytes()).is_ok());
        prop_assert_eq!(scan(nested(room + 1, &text).as_bytes()), Err(DocumentError::TooDeep));
        prop_assert_eq!(read_json(text.as_bytes()).unwrap(), value);
    }
}

#[test]
fn definitions() {
    let crds = crd();
    for crd in &crds {
        let stored = crd.spec.versions.iter().filter(|version| version.storage).collect::<Vec<_>>();
        assert_eq!(stored.len(), 1, "exactly one version is stored");
        assert_eq!((stored[0].name.as_str(), crd.spec.scope.as_str()), ("v1", "Namespaced"));
        assert!(crd.spec.versions.iter().all(|version| version.served));
    }
    let count = |name: fn(
        &k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinitionNames,
    ) -> Vec<String>| {
        let all: Vec<String> = crds.iter().flat_map(|crd| name(&crd.spec.names)).collect();
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        (all.len(), distinct.len())
    };
    // kubectl takes the first that fits: a short name that is there twice hides a kind.
    let (all, distinct) = count(|names| {
        let mut words = names.short_names.clone().unwrap_or_default();
        words.extend([names.plural.clone(), names.singular.clone().unwrap_or_default()]);
        words
    });
    assert_eq!((all, distinct), (12, 12));
    let vm = schema::<VirtualMachine>();
    let spec = &vm["properties"]["spec"]["properties"]["template"]["properties"]["spec"]["properties"];
    // A number that cannot be negative says so, and one that can does not.
    let cores = &spec["domain"]["properties"]["cpu"]["properties"]["cores"];
    assert_eq!((&cores["minimum"], &cores["format"]), (&json!(0), &json!("int64")));
    assert!(spec["terminationGracePeriodSeconds"]["minimum"].is_null());
    // Requests hold quantities of any name, and nothing but quantities.
    let requests = &spec["domain"]["properties"]["resources"]["properties"]["requests"];
    assert_eq!(requests["additionalProperties"]["x-kubernetes-int-or-string"], true);
    assert_eq!(vm["properties"]["metadata"], json!({"type": "object"}));
}
