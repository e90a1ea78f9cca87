//! Checks rows against `docs/json-schema.json`: the part of JSON Schema that it uses.

#![allow(unreachable_pub, reason = "a module of several tests")]
use serde_json::Value;

const SCHEMA: &str = include_str!("../../../../docs/json-schema.json");

/// Fails the test unless `value` is what the schema calls `name`, with no member that it does not list.
pub fn check(name: &str, value: &Value) {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let definition = &schema["$defs"][name];
    assert!(definition.is_object(), "the schema has no {name}");
    let problems = problems(definition, value, name);
    assert!(problems.is_empty(), "{problems:?} in {value:#}");
}

fn problems(schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let mut found = Vec::new();
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let is = |t: &str| match t {
        "null" => value.is_null(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("unknown type {other}"),
    };
    if !types.is_empty() && !types.iter().any(|t| is(t)) {
        found.push(format!("{at}: is not {types:?}"));
    }
    if let Some(values) = schema["enum"].as_array()
        && !values.contains(value)
    {
        found.push(format!("{at}: is none of {values:?}"));
    }
    if let Some(object) = value.as_object() {
        let properties = schema["properties"].as_object();
        for required in schema["required"].as_array().into_iter().flatten() {
            let name = required.as_str().unwrap();
            if !object.contains_key(name) {
                found.push(format!("{at}.{name}: is missing"));
            }
        }
        for (name, member) in object {
            match properties.and_then(|p| p.get(name)) {
                Some(schema) => found.extend(problems(schema, member, &format!("{at}.{name}"))),
                None if schema["additionalProperties"] == false => {
                    found.push(format!("{at}.{name}: is not in the schema"));
                }
                None if schema["additionalProperties"].is_object() => {
                    let schema = &schema["additionalProperties"];
                    found.extend(problems(schema, member, &format!("{at}.{name}")));
                }
                None => {}
            }
        }
    }
    if let (Some(items), Some(array)) = (schema.get("items"), value.as_array()) {
        for (n, item) in array.iter().enumerate() {
            found.extend(problems(items, item, &format!("{at}[{n}]")));
        }
    }
    found
}
