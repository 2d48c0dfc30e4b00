//! No field is ignored: the table of decisions against the wire types and the conversion, row by row, with values that are
//! made from the schema.

use std::sync::LazyLock;

use ferrovirt_api::{
    Cause,
    kubevirt::VirtualMachine,
    machine, schema,
    support::{TABLE, Verdict},
};
use ferrovirt_model::Machine;
use serde_json::{Value, json};

/// A machine with every list that a row looks into, so that each row has a place.
fn base() -> Value {
    json!({
        "domain": {
            "devices": {
                "disks": [{"name": "a", "disk": {"bus": "virtio"}}],
                "interfaces": [{"name": "net", "masquerade": {}, "model": "virtio"}],
            },
            "cpu": {"sockets": 2},
            "memory": {"guest": "64Mi"},
            "firmware": {"kernelBoot": {"container": {"image": "i", "kernelPath": "/k"}}},
        },
        "networks": [{"name": "net", "pod": {}}],
        "volumes": [{"name": "a", "emptyDisk": {"capacity": "1Gi"}}],
    })
}

/// The base that a row needs: another target of the disk, or another source of its volume.
fn base_for(row: &str) -> Value {
    let mut spec = base();
    if row.contains("disks[].cdrom") {
        spec["domain"]["devices"]["disks"][0] = json!({"name": "a", "cdrom": {"bus": "sata"}});
    }
    let source = match row.strip_prefix("volumes[].").and_then(|rest| rest.split('.').next()) {
        Some("containerDisk") => json!({"containerDisk": {"image": "i"}}),
        Some("cloudInitNoCloud") => json!({"cloudInitNoCloud": {"userData": "u"}}),
        Some("ephemeral") => json!({"ephemeral": {"persistentVolumeClaim": {"claimName": "c"}}}),
        Some("dataVolume") => json!({"dataVolume": {"name": "d"}}),
        Some("hostDisk") => json!({"hostDisk": {"path": "/d", "type": "DiskOrCreate", "capacity": "1Gi"}}),
        Some("persistentVolumeClaim") => json!({"persistentVolumeClaim": {"claimName": "c"}}),
        _ => return spec,
    };
    spec["volumes"][0] = source;
    spec["volumes"][0]["name"] = json!("a");
    spec
}

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let vm = schema::<VirtualMachine>();
    vm["properties"]["spec"]["properties"]["template"]["properties"]["spec"].clone()
});

/// The schema of a row's field.
fn schema_of(row: &str) -> &'static Value {
    let mut node: &Value = &SCHEMA;
    for part in row.split('.') {
        node = match node.get("additionalProperties") {
            Some(values) => values,
            None => &node["properties"][part.trim_end_matches("[]")],
        };
        if part.ends_with("[]") {
            node = &node["items"];
        }
    }
    node
}

/// A value that a schema allows, with everything in it that it can have.
fn sample(node: &Value, flag: bool) -> Value {
    if node.get("x-kubernetes-int-or-string").is_some() {
        return json!("7");
    }
    match node["type"].as_str() {
        Some("string") => json!("x7"),
        Some("integer" | "number") => json!(7),
        Some("boolean") => json!(flag),
        Some("array") => json!([sample(&node["items"], flag)]),
        _ => {
            let properties = node.get("properties").and_then(Value::as_object).into_iter().flatten();
            properties.map(|(name, inner)| (name.clone(), sample(inner, flag))).collect::<Value>()
        }
    }
}

/// Puts a value at the place of a row, in the first element of each list; `None` takes away what is there.
fn put(spec: &mut Value, row: &str, value: Option<&Value>) {
    let (parents, last) = row.rsplit_once('.').unwrap_or(("", row));
    let mut place = spec;
    for part in parents.split('.').filter(|part| !part.is_empty()) {
        place = &mut place[part.trim_end_matches("[]")];
        if part.ends_with("[]") {
            place = &mut place[0];
        }
    }
    match (value, place) {
        (Some(value), place) => place[last] = value.clone(),
        (None, Value::Object(map)) => drop(map.remove(last)),
        (None, _) => {}
    }
}

/// The machine; an error for what is no instance at all.
fn read(spec: Value) -> Option<Result<Machine, Vec<Cause>>> {
    let object = json!({"metadata": {"name": "vm"}, "spec": spec});
    serde_json::from_value(object).ok().map(|vmi| machine(&vmi))
}

/// The path of a row as messages have it.
fn path(row: &str) -> String {
    format!("spec.{}", row.replace("[]", "[0]"))
}

fn rows(wanted: fn(&Verdict) -> bool) -> impl Iterator<Item = (&'static str, Verdict)> {
    TABLE.iter().copied().filter(move |(_, verdict)| wanted(verdict))
}

#[test]
fn the_base_is_a_machine() {
    for (row, _) in TABLE {
        assert!(read(base_for(row)).unwrap().is_ok(), "{row}");
    }
}

/// What is not built is refused by name, whatever stands in the field.
#[test]
fn a_refused_field_is_refused_at_its_path() {
    for (row, verdict) in rows(|verdict| matches!(verdict, Verdict::Refused(_))) {
        let Verdict::Refused(neutral) = verdict else { continue };
        let neutral: Vec<Value> = neutral.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
        let node = schema_of(row);
        let mut value = sample(node, true);
        if neutral.contains(&value) {
            value = sample(node, false);
        }
        assert!(!neutral.contains(&value), "{row}: no other value than {value}");
        let mut spec = base_for(row);
        put(&mut spec, row, Some(&value));
        let causes = read(spec).unwrap_or_else(|| panic!("{row}: {value} is no value of it")).unwrap_err();
        let (field, message) = (path(row), format!("not supported yet: {}", path(row)));
        assert!(
            causes.iter().any(|cause| cause.field == field && cause.message == message),
            "{row}: {value}: {causes:?}"
        );
    }
}

/// A value that says what is the case anyway passes and changes nothing: it is written as the wire type writes it, and the
/// machine is the same.
#[test]
fn a_neutral_value_changes_nothing() {
    for (row, verdict) in rows(|verdict| matches!(verdict, Verdict::Refused(_))) {
        let Verdict::Refused(neutral) = verdict else { continue };
        for text in neutral {
            let value: Value = serde_json::from_str(text).unwrap();
            let mut spec = base_for(row);
            let before = read(spec.clone()).unwrap().unwrap();
            put(&mut spec, row, Some(&value));
            let after = read(spec).unwrap_or_else(|| panic!("{row}: {text} is no value of it"));
            let mut after = after.unwrap_or_else(|causes| panic!("{row}: {text}: {causes:?}"));
            if row == "domain.devices.interfaces[].model" {
                // The model is a choice of which most are built.
                after.interfaces[0].model = before.interfaces[0].model;
            }
            assert_eq!(after, before, "{row}: {text}");
        }
    }
}

#[test]
fn a_harmless_field_changes_nothing() {
    for (row, _) in rows(|verdict| matches!(verdict, Verdict::Harmless(_))) {
        let mut spec = base_for(row);
        let before = read(spec.clone()).unwrap().unwrap();
        put(&mut spec, row, Some(&sample(schema_of(row), true)));
        assert_eq!(read(spec).unwrap(), Ok(before), "{row}");
    }
}

/// A field that acts makes another machine, or is refused for its value; no value of it is passed over.
#[test]
fn a_field_that_acts_changes_the_machine() {
    // What defaulting does with it before anything is converted.
    let elsewhere = ["domain.devices.autoattachPodInterface"];
    for (row, _) in rows(|verdict| matches!(verdict, Verdict::Acts)) {
        if elsewhere.contains(&row) {
            continue;
        }
        let node = schema_of(row);
        let plain = base_for(row);
        let before = read(plain.clone()).unwrap().unwrap();
        let values = [
            Some(sample(node, true)),
            Some(sample(node, false)),
            Some(json!({"x7": "7"})),
            Some(json!("Paused")),
            None,
        ];
        let acts = values.iter().any(|value| {
            let mut spec = plain.clone();
            put(&mut spec, row, value.as_ref());
            read(spec).is_some_and(|after| after.as_ref() != Ok(&before))
        });
        assert!(acts, "{row}: every value of it makes the same machine");
    }
}
