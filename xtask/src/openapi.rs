//! The FastVM OpenAPI file as a judge: which operation a request is, and whether a body is what
//! the file says.
//!
//! Understands what `api/fastvm.openapi.yaml` uses (OpenAPI 3.0 without `oneOf`, `not` and
//! discriminators) and refuses a file that uses more, so that nothing is silently unchecked.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::Result;

/// Keywords that are checked, and those that only inform.
const CHECKED: &[&str] = &[
    "$ref",
    "additionalProperties",
    "allOf",
    "anyOf",
    "enum",
    "format",
    "items",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "nullable",
    "pattern",
    "properties",
    "required",
    "type",
];
const INFORMING: &[&str] = &[
    "default",
    "deprecated",
    "description",
    "example",
    "readOnly",
    "title",
    "writeOnly",
];

/// Texts for examples of strings with a pattern.
const PATTERN_EXAMPLES: &[&str] = &[
    "any",
    "gs://bucket/prefix",
    "bm_0123456789abcdef012345",
    "vol_0123456789abcdef012345",
];

/// The parsed file.
#[derive(Debug)]
pub(crate) struct Document {
    root: Value,
}

/// One operation of the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation<'a> {
    /// Its `operationId`.
    pub(crate) id: &'a str,
    /// Its method, in lower case.
    pub(crate) method: &'a str,
    /// Its path template.
    pub(crate) path: &'a str,
    body: &'a Value,
}

impl Document {
    /// Reads the file and refuses one with keywords that would go unchecked.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let document = Self {
            root: serde_saphyr::from_str(&text)?,
        };
        let schemas = document
            .root
            .pointer("/components/schemas")
            .and_then(Value::as_object)
            .ok_or("the OpenAPI file has no schemas")?;
        for (name, schema) in schemas {
            document.known_keywords(schema, name)?;
        }
        Ok(document)
    }

    fn known_keywords(&self, schema: &Value, at: &str) -> Result<()> {
        let Some(schema) = schema.as_object() else {
            return Ok(());
        };
        for (key, value) in schema {
            let at = format!("{at}/{key}");
            match key.as_str() {
                "properties" => {
                    for (name, inner) in value.as_object().into_iter().flatten() {
                        self.known_keywords(inner, &format!("{at}/{name}"))?;
                    }
                }
                "items" | "additionalProperties" => self.known_keywords(value, &at)?,
                "allOf" | "anyOf" => {
                    for inner in value.as_array().into_iter().flatten() {
                        self.known_keywords(inner, &at)?;
                    }
                }
                "$ref" => {
                    self.resolve(
                        schema
                            .get("$ref")
                            .and_then(Value::as_str)
                            .unwrap_or_default(),
                    )?;
                }
                key if key.starts_with("x-")
                    || CHECKED.contains(&key)
                    || INFORMING.contains(&key) => {}
                _ => return Err(format!("{at}: this check does not know the keyword").into()),
            }
        }
        Ok(())
    }

    fn resolve(&self, reference: &str) -> Result<&Value> {
        reference
            .strip_prefix('#')
            .and_then(|pointer| self.root.pointer(pointer))
            .ok_or_else(|| format!("the reference {reference:?} leads nowhere").into())
    }

    /// All operations in the order of the file.
    pub(crate) fn operations(&self) -> Vec<Operation<'_>> {
        let mut all = Vec::new();
        for (path, item) in self.root["paths"].as_object().into_iter().flatten() {
            for (method, body) in item.as_object().into_iter().flatten() {
                if let Some(id) = body.get("operationId").and_then(Value::as_str) {
                    all.push(Operation {
                        id,
                        method,
                        path,
                        body,
                    });
                }
            }
        }
        all
    }

    /// The operation with this id.
    pub(crate) fn operation(&self, id: &str) -> Option<Operation<'_>> {
        self.operations().into_iter().find(|o| o.id == id)
    }

    /// What is wrong with an answer to `operation`; empty when nothing is.
    ///
    /// A status that the file does not list for the operation is judged by the general error
    /// schema when it is an error, and is wrong when it is a success.
    pub(crate) fn check_answer(
        &self,
        operation: &Operation<'_>,
        status: u16,
        content_type: Option<&str>,
        body: &[u8],
    ) -> Vec<String> {
        let listed = &operation.body["responses"][status.to_string().as_str()];
        let listed = match listed
            .get("$ref")
            .and_then(Value::as_str)
            .map(|r| self.resolve(r))
        {
            Some(Ok(response)) => response,
            Some(Err(e)) => return vec![e.to_string()],
            None => listed,
        };
        let error = json!({"$ref": "#/components/schemas/Error"});
        let media = content_type
            .unwrap_or_default()
            .split(';')
            .next()
            .unwrap_or_default()
            .trim();
        let schema = match (listed, listed.get("content")) {
            (Value::Null, _) if status < 400 => {
                return vec![format!("{status} is not an answer of {}", operation.id)];
            }
            (Value::Null, _) => &error,
            (_, None) if body.is_empty() => return Vec::new(),
            (_, None) => return vec![format!("{status} has no body by the file, but one came")],
            (_, Some(content)) => match content.get(media) {
                Some(content) => &content["schema"],
                None => return vec![format!("{media:?} is not a content type of {status}")],
            },
        };
        let mut problems = Vec::new();
        if media == "application/x-ndjson" {
            let lines = body.split(|b| *b == b'\n').filter(|line| !line.is_empty());
            for line in lines {
                self.check_text(schema, line, &mut problems);
            }
        } else if media == "application/json" {
            self.check_text(schema, body, &mut problems);
        } else {
            problems.push(format!("the content type is {media:?}"));
        }
        problems
    }

    fn check_text(&self, schema: &Value, text: &[u8], problems: &mut Vec<String>) {
        match serde_json::from_slice(text) {
            Ok(value) => self.check(schema, &value, "", problems),
            Err(e) => problems.push(format!("not JSON: {e}")),
        }
    }

    /// What is wrong with a request body.
    pub(crate) fn check_request(&self, operation: &Operation<'_>, body: &[u8]) -> Vec<String> {
        let request = &operation.body["requestBody"];
        let mut problems = Vec::new();
        match request.pointer("/content/application~1json/schema") {
            None if body.is_empty() => {}
            None => problems.push(format!("{} takes no body", operation.id)),
            Some(_) if body.is_empty() && request["required"] != true => {}
            Some(schema) => self.check_text(schema, body, &mut problems),
        }
        problems
    }

    fn check(&self, schema: &Value, value: &Value, at: &str, problems: &mut Vec<String>) {
        let Some(rules) = schema.as_object() else {
            return;
        };
        if value.is_null() && rules.get("nullable") == Some(&Value::Bool(true)) {
            return;
        }
        let mut wrong = |what: String| {
            problems.push(format!(
                "{}: {what}",
                if at.is_empty() { "the body" } else { at }
            ));
        };
        if let Some(Value::String(expected)) = rules.get("type")
            && !has_type(value, expected)
        {
            wrong(format!("is not of type {expected}: {value}"));
            return;
        }
        if let Some(Value::Array(allowed)) = rules.get("enum")
            && !allowed.contains(value)
        {
            wrong(format!(
                "{value} is not one of {}",
                Value::Array(allowed.clone())
            ));
        }
        match value {
            Value::Number(number) => check_number(rules, number, &mut wrong),
            Value::String(text) => check_string(rules, text, &mut wrong),
            Value::Array(items)
                if rules.get("minItems").and_then(Value::as_u64) > Some(items.len() as u64) =>
            {
                wrong("has too few items".into());
            }
            Value::Object(members) => check_members(rules, members, &mut wrong),
            _ => {}
        }
        self.check_inner(rules, value, at, problems);
    }

    fn check_inner(
        &self,
        rules: &Map<String, Value>,
        value: &Value,
        at: &str,
        problems: &mut Vec<String>,
    ) {
        if let Some(Value::String(reference)) = rules.get("$ref") {
            match self.resolve(reference) {
                Ok(schema) => self.check(schema, value, at, problems),
                Err(e) => problems.push(e.to_string()),
            }
        }
        for part in rules
            .get("allOf")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            self.check(part, value, at, problems);
        }
        if let Some(Value::Array(choices)) = rules.get("anyOf") {
            let fits = choices.iter().any(|choice| {
                let mut found = Vec::new();
                self.check(choice, value, at, &mut found);
                found.is_empty()
            });
            if !fits {
                problems.push(format!("{at}: fits none of the alternatives"));
            }
        }
        if let (Some(items), Value::Array(values)) = (rules.get("items"), value) {
            for (index, inner) in values.iter().enumerate() {
                self.check(items, inner, &format!("{at}/{index}"), problems);
            }
        }
        if let Value::Object(members) = value {
            let named = rules.get("properties").and_then(Value::as_object);
            for (name, inner) in members {
                let at = format!("{at}/{name}");
                match (
                    named.and_then(|n| n.get(name)),
                    rules.get("additionalProperties"),
                ) {
                    (Some(schema), _) => self.check(schema, inner, &at, problems),
                    (None, Some(Value::Bool(false))) => problems.push(format!("{at}: not allowed")),
                    (None, Some(schema)) => self.check(schema, inner, &at, problems),
                    (None, None) => {}
                }
            }
        }
    }

    /// The success status of an operation with a body that satisfies the file and every SDK
    /// compiled from it: the required members, and no optional one.
    pub(crate) fn example(&self, operation: &Operation<'_>) -> Option<(u16, Option<Value>)> {
        let (status, response) = operation.body["responses"]
            .as_object()?
            .iter()
            .find(|(status, _)| status.starts_with('2'))?;
        let schema = response.pointer("/content/application~1json/schema");
        Some((status.parse().ok()?, schema.map(|s| self.example_of(s))))
    }

    /// A body that the file allows for a request of the operation, when it has one.
    #[cfg(test)]
    pub(crate) fn example_request(&self, operation: &Operation<'_>) -> Option<Value> {
        let schema = operation
            .body
            .pointer("/requestBody/content/application~1json/schema")?;
        Some(self.example_of(schema))
    }

    fn example_of(&self, schema: &Value) -> Value {
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            return self
                .resolve(reference)
                .map_or(Value::Null, |s| self.example_of(s));
        }
        if let Some(parts) = schema.get("allOf").and_then(Value::as_array) {
            let mut whole = Map::new();
            for part in parts {
                if let Value::Object(members) = self.example_of(part) {
                    whole.extend(members);
                }
            }
            return Value::Object(whole);
        }
        if let Some(first) = schema.pointer("/enum/0").or_else(|| schema.get("example")) {
            return first.clone();
        }
        match schema.get("type").and_then(Value::as_str) {
            Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or(json!(1)),
            Some("boolean") => json!(true),
            Some("array") => json!([self.example_of(&schema["items"])]),
            Some("string") if schema.get("pattern").is_some() => {
                // The candidate that fits: few patterns, so no generator of texts.
                let fits = |text: &&&str| {
                    let pattern = schema["pattern"].as_str().unwrap_or_default();
                    regex_lite::Regex::new(pattern).is_ok_and(|regex| regex.is_match(text))
                };
                json!(
                    PATTERN_EXAMPLES
                        .iter()
                        .find(fits)
                        .copied()
                        .unwrap_or("text")
                )
            }
            Some("string") => match schema.get("format").and_then(Value::as_str) {
                Some("date-time") => json!("2026-01-02T03:04:05Z"),
                Some("uuid") => json!("00000000-0000-4000-8000-000000000000"),
                Some("uri") => json!("http://127.0.0.1/"),
                _ => json!("text"),
            },
            _ => {
                let required = schema.get("required").and_then(Value::as_array);
                let names = required.into_iter().flatten().filter_map(Value::as_str);
                let members = names.map(|name| {
                    (
                        name.to_owned(),
                        self.example_of(&schema["properties"][name]),
                    )
                });
                Value::Object(members.collect())
            }
        }
    }
}

fn has_type(value: &Value, expected: &str) -> bool {
    match expected {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        _ => false,
    }
}

fn check_number(
    rules: &Map<String, Value>,
    number: &serde_json::Number,
    wrong: &mut impl FnMut(String),
) {
    let bound = |name: &str| rules.get(name).and_then(Value::as_f64);
    let number = number.as_f64().unwrap_or(f64::NAN);
    if bound("minimum").is_some_and(|least| number < least) {
        wrong(format!("{number} is too small"));
    }
    if bound("maximum").is_some_and(|most| number > most) {
        wrong(format!("{number} is too large"));
    }
}

fn check_string(rules: &Map<String, Value>, text: &str, wrong: &mut impl FnMut(String)) {
    let length = text.chars().count() as u64;
    let bound = |name: &str| rules.get(name).and_then(Value::as_u64);
    if bound("minLength").is_some_and(|least| length < least) {
        wrong("is too short".into());
    }
    if bound("maxLength").is_some_and(|most| length > most) {
        wrong("is too long".into());
    }
    if let Some(pattern) = rules.get("pattern").and_then(Value::as_str) {
        match regex_lite::Regex::new(pattern) {
            Ok(regex) if regex.is_match(text) => {}
            Ok(_) => wrong(format!("{text:?} does not match {pattern}")),
            Err(e) => wrong(format!("the pattern {pattern} cannot be read: {e}")),
        }
    }
    let fits = match rules.get("format").and_then(Value::as_str) {
        Some("date-time") => text.parse::<jiff::Timestamp>().is_ok(),
        Some("uuid") => uuid::Uuid::parse_str(text).is_ok(),
        Some("uri") => text
            .parse::<http::Uri>()
            .is_ok_and(|uri| uri.scheme().is_some()),
        Some("byte") => regex_lite::Regex::new(
            "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$",
        )
        .is_ok_and(|base64| base64.is_match(text)),
        _ => true,
    };
    if !fits {
        wrong(format!("{text:?} is no {}", rules["format"]));
    }
}

fn check_members(
    rules: &Map<String, Value>,
    members: &Map<String, Value>,
    wrong: &mut impl FnMut(String),
) {
    for name in rules
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        if name
            .as_str()
            .is_some_and(|name| !members.contains_key(name))
        {
            wrong(format!("lacks {name}"));
        }
    }
    if rules
        .get("maxProperties")
        .and_then(Value::as_u64)
        .is_some_and(|n| members.len() as u64 > n)
    {
        wrong("has too many members".into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Document {
        Document::load(&crate::root().join("api/fastvm.openapi.yaml")).unwrap()
    }

    fn vm() -> Value {
        json!({
            "id": "00000000-0000-4000-8000-000000000000", "name": "a", "orgId": "o", "cpu": 1,
            "memoryMiB": 2048, "diskGiB": 10, "status": "running", "createdAt": "2026-01-02T03:04:05.1Z",
        })
    }

    fn problems(id: &str, status: u16, body: &Value) -> Vec<String> {
        let document = document();
        let operation = document.operation(id).unwrap();
        let text = serde_json::to_vec(body).unwrap();
        document.check_answer(
            &operation,
            status,
            Some("application/json; charset=utf-8"),
            &text,
        )
    }

    #[test]
    fn the_file_has_49_operations_with_an_example_each() {
        let document = document();
        assert_eq!(document.operations().len(), 49);
        for operation in document.operations() {
            let (status, body) = document.example(&operation).unwrap();
            let text = body.map_or(Vec::new(), |b| serde_json::to_vec(&b).unwrap());
            let media = (!text.is_empty()).then_some("application/json");
            let found = document.check_answer(&operation, status, media, &text);
            // An example of a pattern is not made up.
            let found: Vec<_> = found
                .iter()
                .filter(|p| !p.contains("does not match"))
                .collect();
            assert!(found.is_empty(), "{}: {found:?}", operation.id);
        }
    }

    #[test]
    fn a_good_answer_passes() {
        assert_eq!(problems("getVm", 200, &vm()), Vec::<String>::new());
        assert_eq!(
            problems("listVms", 200, &json!([vm(), vm()])),
            Vec::<String>::new()
        );
        assert_eq!(
            problems("getVm", 404, &json!({"error": "no"})),
            Vec::<String>::new()
        );
        let mut with = vm();
        with["ttl"] = json!(null);
        with["somethingNew"] = json!({"a": 1});
        assert_eq!(problems("getVm", 200, &with), Vec::<String>::new());
    }

    #[test]
    fn what_is_wrong_is_found() {
        for (path, value, words) in [
            ("createdAt", json!("2026-01-02 03:04"), "date-time"),
            ("id", json!("vm-1"), "uuid"),
            ("cpu", json!("1"), "integer"),
            ("cpu", json!(1.5), "integer"),
            ("metadata", json!({"a": 1}), "/metadata/a"),
            ("ttl", json!({"seconds": 0, "action": "pause"}), "too small"),
            (
                "ttl",
                json!({"seconds": 1, "action": "explode"}),
                "not one of",
            ),
            ("volumes", json!([{"volumeId": "v"}]), "/volumes/0: lacks"),
            ("publicIpv6", json!(null), "/publicIpv6"),
        ] {
            let mut changed = vm();
            changed[path] = value;
            let found = problems("getVm", 200, &changed).join("; ");
            assert!(found.contains(words), "{path}: {found}");
        }
        let mut short = vm();
        short.as_object_mut().unwrap().remove("orgId");
        assert_eq!(
            problems("getVm", 200, &short),
            ["the body: lacks \"orgId\""]
        );
        assert_eq!(
            problems("getVm", 201, &vm()),
            ["201 is not an answer of getVm"]
        );
        assert!(!problems("getVm", 501, &json!({"message": "no"})).is_empty());
        assert!(!problems("launchVm", 429, &json!({"error": "quota"})).is_empty());
    }

    #[test]
    fn requests_are_checked_too() {
        let document = document();
        let check = |id: &str, body: &str| {
            let operation = document.operation(id).unwrap();
            document.check_request(&operation, body.as_bytes())
        };
        assert!(check("execVm", r#"{"command":["true"],"stdin":"YQ=="}"#).is_empty());
        assert!(!check("execVm", r#"{"command":["true"],"stdin":"stdin"}"#).is_empty());
        assert!(!check("execVm", "").is_empty());
        assert!(check("pauseVm", "").is_empty());
        assert!(check("setVmFirewall", r#"{"mode":"open"}"#).is_empty());
        assert!(!check("createSnapshot", "{}").is_empty());
    }
}
