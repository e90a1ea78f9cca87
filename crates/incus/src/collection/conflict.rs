//! Two changes of one thing: what either side did.

use std::collections::BTreeMap;

use boxrig_wire::{Error, escape_line};
use serde_json::Value;

/// Puts in the error which members the other side has changed and which ours were. Values are not named: they may be secrets.
pub(super) fn both_sides(e: Error, base: &Value, ours: &Value, theirs: Option<&Value>) -> Error {
    let ours = changed(base, ours);
    let theirs = theirs.map_or_else(Vec::new, |theirs| changed(base, theirs));
    let both: Vec<_> = theirs
        .iter()
        .filter(|m| ours.contains(m))
        .cloned()
        .collect();
    let list = |members: &[String]| match members.is_empty() {
        true => "nothing".to_owned(),
        false => escape_line(&members.join(", ")).into_owned(),
    };
    e.context(format_args!(
        "it was changed by somebody else since it was read: theirs {}; ours {}; both {}",
        list(&theirs),
        list(&ours),
        list(&both)
    ))
    .with_hint("nothing was written: read it again, and decide")
}

/// The members that differ, as dotted paths.
fn changed(from: &Value, to: &Value) -> Vec<String> {
    let (mut a, mut b) = (BTreeMap::new(), BTreeMap::new());
    flatten("", from, &mut a);
    flatten("", to, &mut b);
    let mut out: Vec<String> = a
        .iter()
        .filter(|(name, value)| b.get(*name) != Some(value))
        .map(|(name, _)| name.clone())
        .chain(b.keys().filter(|name| !a.contains_key(*name)).cloned())
        .collect();
    out.sort();
    out.dedup();
    out
}

/// Leaves that say something, by path.
fn flatten<'a>(prefix: &str, value: &'a Value, out: &mut BTreeMap<String, &'a Value>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let path = match prefix {
                    "" => name.clone(),
                    prefix => format!("{prefix}.{name}"),
                };
                flatten(&path, value, out);
            }
        }
        Value::Null | Value::Bool(false) => {}
        Value::String(s) if s.is_empty() => {}
        Value::Array(a) if a.is_empty() => {}
        value => {
            out.insert(prefix.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use boxrig_wire::Kind;
    use serde_json::json;

    #[test]
    fn either_side_is_named_and_no_value_is() {
        let base = json!({"config": {"a": "1", "b": "1"}, "description": ""});
        let ours = json!({"config": {"a": "canary", "b": "1"}});
        let theirs = json!({"config": {"a": "3"}, "description": "x"});
        let e = both_sides(
            Error::new(Kind::Precondition, ""),
            &base,
            &ours,
            Some(&theirs),
        );
        let text = e.to_string();
        assert!(
            text.contains("theirs config.a, config.b, description; ours config.a; both config.a"),
            "{text}"
        );
        assert!(!text.contains("canary"));
    }
}
