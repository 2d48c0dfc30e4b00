//! The CustomResourceDefinitions, generated from the wire types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinition, CustomResourceDefinitionNames,
    CustomResourceDefinitionSpec, CustomResourceDefinitionVersion, CustomResourceSubresourceStatus,
    CustomResourceSubresources, CustomResourceValidation, JSONSchemaProps,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::kubevirt::{KubeVirt, VirtualMachine, VirtualMachineInstance};

const AGE: (&str, &str, &str, i32) = ("Age", "date", ".metadata.creationTimestamp", 0);
const READY: &str = ".status.conditions[?(@.type=='Ready')].status";

/// The definitions of every kind that is served, in the order in which they are installed.
pub fn crd() -> Vec<CustomResourceDefinition> {
    vec![
        // No status subresource: KubeVirt's clients write the status through the main resource.
        definition::<VirtualMachineInstance>(
            &["vmi", "vmis"],
            false,
            &[
                AGE,
                ("Phase", "string", ".status.phase", 0),
                ("IP", "string", ".status.interfaces[0].ipAddress", 0),
                ("NodeName", "string", ".status.nodeName", 0),
                ("Ready", "string", READY, 0),
                ("Live-Migratable", "string", ".status.conditions[?(@.type=='LiveMigratable')].status", 1),
                ("Paused", "string", ".status.conditions[?(@.type=='Paused')].status", 1),
            ],
        ),
        definition::<VirtualMachine>(
            &["vm", "vms"],
            true,
            &[AGE, ("Status", "string", ".status.printableStatus", 0), ("Ready", "string", READY, 0)],
        ),
        definition::<KubeVirt>(&["kv", "kvs"], true, &[AGE, ("Phase", "string", ".status.phase", 0)]),
    ]
}

/// The structural schema of a kind, as a CRD carries it.
pub fn schema<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::openapi3().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    structural(&mut schema);
    if let Some(metadata) = schema.pointer_mut("/properties/metadata") {
        // What metadata may hold is not the definition's to say.
        *metadata = json!({"type": "object"});
    }
    schema
}

fn definition<T>(
    short: &[&str],
    status: bool,
    columns: &[(&str, &str, &str, i32)],
) -> CustomResourceDefinition
where
    T: JsonSchema + k8s_openapi::Resource + k8s_openapi::ListableResource,
{
    // The schema is plain JSON made by `structural`; should it ever not fit, an empty schema would let everything
    // through, which the tests would show.
    let props: JSONSchemaProps = serde_json::from_value(schema::<T>()).unwrap_or_default();
    let columns: Vec<_> = columns
        .iter()
        .map(|(name, kind, path, priority)| CustomResourceColumnDefinition {
            name: (*name).to_owned(),
            type_: (*kind).to_owned(),
            json_path: (*path).to_owned(),
            priority: (*priority != 0).then_some(*priority),
            ..Default::default()
        })
        .collect();
    let version = |name: &str, storage: bool| CustomResourceDefinitionVersion {
        name: name.to_owned(),
        served: true,
        storage,
        additional_printer_columns: Some(columns.clone()),
        schema: Some(CustomResourceValidation { open_api_v3_schema: Some(props.clone()) }),
        subresources: status.then(|| CustomResourceSubresources {
            status: Some(CustomResourceSubresourceStatus(json!({}))),
            ..Default::default()
        }),
        ..Default::default()
    };
    CustomResourceDefinition {
        metadata: ObjectMeta {
            name: Some(format!("{}.{}", T::URL_PATH_SEGMENT, T::GROUP)),
            ..Default::default()
        },
        spec: CustomResourceDefinitionSpec {
            group: T::GROUP.to_owned(),
            names: CustomResourceDefinitionNames {
                kind: T::KIND.to_owned(),
                list_kind: Some(T::LIST_KIND.to_owned()),
                plural: T::URL_PATH_SEGMENT.to_owned(),
                singular: Some(T::KIND.to_lowercase()),
                short_names: Some(short.iter().map(|name| (*name).to_owned()).collect()),
                categories: Some(vec!["all".to_owned()]),
            },
            scope: "Namespaced".to_owned(),
            versions: vec![version("v1", true), version("v1alpha3", false)],
            ..Default::default()
        },
        status: None,
    }
}

/// Makes a generated schema structural: no references, no alternatives, no nulls, no defaults.
fn structural(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    for key in ["$schema", "title", "default", "components", "nullable"] {
        map.remove(key);
    }
    if map.get("format").and_then(Value::as_str) == Some("uint32") {
        map.insert("format".to_owned(), json!("int64"));
        map.insert("minimum".to_owned(), json!(0));
    }
    if map.get("x-kubernetes-int-or-string").is_none() {
        flatten(map);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(key) {
            structural(inner);
        }
    }
    // A struct without properties accepts nothing; `type: object` alone says that.
    map.remove("additionalProperties")
        .filter(|value| value.is_object())
        .map(|value| map.insert("additionalProperties".to_owned(), value));
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(structural);
    }
}

/// `anyOf: [X, null]`, `allOf: [X]` and the like become `X`, keeping the outer description.
fn flatten(map: &mut Map<String, Value>) {
    for key in ["anyOf", "allOf", "oneOf"] {
        let Some(Value::Array(choices)) = map.remove(key) else { continue };
        let chosen = choices.into_iter().find(|choice| !is_null(choice));
        if let Some(Value::Object(inner)) = chosen {
            for (name, value) in inner {
                map.entry(name).or_insert(value);
            }
        }
        for key in ["$schema", "title", "default", "nullable"] {
            map.remove(key);
        }
    }
    if let Some(Value::Array(types)) = map.get_mut("type") {
        let first = types.iter().find(|name| name.as_str() != Some("null")).cloned();
        if let Some(first) = first {
            map.insert("type".to_owned(), first);
        }
    }
}

fn is_null(choice: &Value) -> bool {
    choice.get("type").and_then(Value::as_str) == Some("null")
        || choice.get("enum").and_then(Value::as_array).is_some_and(|list| list.iter().all(Value::is_null))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every node has a type, and nothing of JSON Schema that a structural schema may not have.
    fn check(path: &str, node: &Value) {
        let map = node.as_object().unwrap_or_else(|| panic!("{path}: {node}"));
        let int_or_string = map.contains_key("x-kubernetes-int-or-string");
        assert!(int_or_string || map.get("type").is_some_and(Value::is_string), "{path}: {node}");
        for forbidden in ["$ref", "default", "nullable", "$defs", "oneOf", "allOf"] {
            assert!(!map.contains_key(forbidden), "{path}: {forbidden}");
        }
        assert!(int_or_string || !map.contains_key("anyOf"), "{path}");
        for (name, inner) in map.get("properties").and_then(Value::as_object).into_iter().flatten() {
            check(&format!("{path}.{name}"), inner);
        }
        for key in ["items", "additionalProperties"] {
            if let Some(inner) = map.get(key) {
                check(&format!("{path}[]"), inner);
            }
        }
    }

    #[test]
    fn structural_schemas() {
        check("vm", &schema::<VirtualMachine>());
        check("vmi", &schema::<VirtualMachineInstance>());
        check("kubevirt", &schema::<KubeVirt>());
        let vm = schema::<VirtualMachine>();
        assert_eq!(vm["required"], json!(["spec"]));
        assert_eq!(vm["properties"]["spec"]["required"], json!(["template"]));
        let spec = &vm["properties"]["spec"]["properties"]["template"]["properties"]["spec"];
        assert_eq!(spec["required"], json!(["domain"]));
        let cpu = &spec["properties"]["domain"]["properties"]["cpu"]["properties"];
        assert_eq!(cpu["cores"]["type"], "integer");
        let memory = &spec["properties"]["domain"]["properties"]["memory"]["properties"];
        assert_eq!(memory["guest"]["x-kubernetes-int-or-string"], true);
    }

    #[test]
    fn definitions_are_whole() {
        for crd in crd() {
            assert_eq!(crd.metadata.name, Some(format!("{}.kubevirt.io", crd.spec.names.plural)));
            for version in &crd.spec.versions {
                let props = version.schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap();
                assert!(props.properties.as_ref().unwrap().contains_key("spec"));
                let with_status = crd.spec.names.kind != "VirtualMachineInstance";
                assert_eq!(version.subresources.is_some(), with_status);
            }
        }
    }
}
