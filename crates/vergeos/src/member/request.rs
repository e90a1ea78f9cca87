//! The parts of a request, put together from what is written down of it.

use boxrig_wire::{Error, Kind, Result};
use serde_json::{Map, Value};

use super::catalogue::{Step, Way};
use super::run::Run;
use super::value::{Look, eval, plain, put};
use crate::ops::{ActionPost, ListQuery};
use crate::{Filter, Row};

/// The id of the operation that a step is.
pub(crate) fn operation(method: &str, entries: &Map<String, Value>) -> &'static str {
    let parts = (0..4)
        .filter(|n| entries.contains_key(&format!("p.{n}")))
        .count();
    let action = entries.contains_key("b.action");
    match (method, parts) {
        ("GET", 1) => "list",
        ("GET", _) => "get",
        ("POST", 1) if action => "action",
        ("POST", 1) => "create",
        ("POST", 2) => "table_verb",
        ("POST", _) => "row_verb",
        ("PUT", 2) if entries.contains_key("q.action") => "row_action",
        ("PUT", 2) => "update",
        ("PUT", _) => "row_apply",
        _ => "delete",
    }
}
impl Run {
    /// Other columns are asked for in every way of reading the rows, also where that was not written down.
    fn fields_entry<'a>(&self, way: &'a Way, step: &Step, entry: &Value) -> Option<&'a Value> {
        if self.arg("fields").is_none() || entry[0] != "p" {
            return None;
        }
        let siblings = way.steps.iter().filter(|s| {
            s.id != step.id && s.method == "GET" && s.entries.get("p.0") == step.entries.get("p.0")
        });
        let mut entries = siblings.filter_map(|s| s.entries.get("q.fields"));
        entries.find(|e| e[0].is_array() && e[0][1] == *entry)
    }

    /// The parts of a step's request.
    pub(crate) fn build(&self, way: &Way, step: &Step) -> Result<Built> {
        let mut built = Built::default();
        let mut filters = Vec::new();
        let mut own_filter = None;
        for (name, entry) in &step.entries {
            let shared = (name == "q.fields").then(|| self.fields_entry(way, step, entry));
            let entry = shared.flatten().unwrap_or(entry);
            let Some(expr) = self.choose(entry) else {
                continue;
            };
            let Some(value) = eval(self, expr)? else {
                continue;
            };
            match name.split_once('.') {
                Some(("p", _)) => built.path.push(plain(&value)),
                Some(("f", _)) => {
                    let own = expr[1][0][0] == "a" && expr[1][0][1] == "filter";
                    match own {
                        true => own_filter = Some(plain(&value)),
                        false => filters.push(plain(&value)),
                    }
                }
                Some(("q", name)) => {
                    built.query.insert(name.to_owned(), plain(&value));
                }
                Some(("b", way)) => {
                    put(built.body.get_or_insert_default(), way, value);
                }
                None if name == "b" => {
                    if let Value::Object(map) = value {
                        built.body.get_or_insert_default().extend(map);
                    }
                }
                _ => {}
            }
        }
        let here = way.spread_step.is_empty() || way.spread_step.contains(&step.id);
        if here && !self.invocation.set.is_empty() {
            for place in &way.spread {
                match place.as_str() {
                    "f" if step.method == "GET" => {
                        for (column, value) in &self.invocation.set {
                            filters.push(condition(column, value)?);
                        }
                    }
                    "b" if matches!(step.method.as_str(), "POST" | "PUT") => {
                        let body = built.body.get_or_insert_default();
                        body.extend(self.invocation.set.clone());
                    }
                    place if place.starts_with("b.") && step.method != "GET" => {
                        let body = built.body.get_or_insert_default();
                        for (column, value) in &self.invocation.set {
                            put(body, &format!("{}.{column}", &place[2..]), value.clone());
                        }
                    }
                    _ => {}
                }
            }
        }
        if let Some(own) = own_filter {
            filters.insert(
                0,
                match filters.is_empty() {
                    true => own,
                    false => format!("({own})"),
                },
            );
        }
        if filters.len() > 1 {
            for f in &mut filters {
                // An alternative in the middle would swallow what stands before it.
                if f.contains(" or ") && !enclosed(f) {
                    *f = format!("({f})");
                }
            }
        }
        if !filters.is_empty() {
            built
                .query
                .insert("filter".to_owned(), filters.join(" and "));
        }
        let limit = step.entries.get("q.limit");
        built.unique = limit.is_some_and(|l| l == &serde_json::json!(["k", "1"]))
            && built.query.contains_key("filter")
            && !built.query.contains_key("sort");
        if built.unique {
            // Two, to know whether the one is the only one.
            built.query.insert("limit".to_owned(), "2".to_owned());
        }
        Ok(built)
    }
}

/// Whether one pair of parentheses is around the whole of a filter.
fn enclosed(text: &str) -> bool {
    let Some(inner) = text.strip_prefix('(').and_then(|t| t.strip_suffix(')')) else {
        return false;
    };
    let (mut depth, mut quoted, mut escaped) = (0i32, false, false);
    for c in inner.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '\'' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth -= 1,
            _ => {}
        }
        if depth < 0 {
            return false;
        }
    }
    depth == 0
}

pub(crate) fn action_post(mut body: Row) -> ActionPost {
    let action = body.remove("action").map(|v| plain(&v));
    let mut post = ActionPost {
        action: action.unwrap_or_default(),
        ..ActionPost::default()
    };
    match body.remove("params") {
        Some(Value::Object(params)) => post.params = params,
        Some(other) => {
            body.insert("params".to_owned(), other);
        }
        None => {}
    }
    post.row = body;
    post
}
/// A column and its value as a filter; wildcards and lists as the vendor's SDK takes them.
fn condition(column: &str, value: &Value) -> Result<String> {
    let one = |value: &Value| match value {
        Value::String(text) if text.contains(['*', '?']) => Filter::like(column, text),
        Value::String(text) => Filter::eq(column, text.as_str()),
        Value::Bool(b) => Filter::eq(column, *b),
        Value::Number(n) => match n.as_i64() {
            Some(n) => Filter::eq(column, n),
            None => Filter::eq(column, n.as_f64().unwrap_or(f64::NAN)),
        },
        _ => Filter::eq(column, crate::filter::Literal::Null),
    };
    let filter = match value {
        Value::Array(items) => {
            let mut items = items.iter();
            let Some(first) = items.next() else {
                return Err(Error::new(
                    Kind::Invalid,
                    format!("{column}: no value, which would match nothing"),
                ));
            };
            let chain = items.fold(one(first), |chain, item| chain.or(one(item)));
            return chain
                .encode()
                .map(|text| format!("({text})"))
                .map_err(|e| Error::new(Kind::Invalid, format!("the filter: {e}")));
        }
        value => one(value),
    };
    filter
        .encode()
        .map_err(|e| Error::new(Kind::Invalid, format!("the filter: {e}")))
}
/// A request in parts.
#[derive(Default)]
pub(crate) struct Built {
    pub(crate) path: Vec<String>,
    pub(crate) query: std::collections::BTreeMap<String, String>,
    pub(crate) body: Option<Row>,
    pub(crate) unique: bool,
}

impl Built {
    /// What it says about a list.
    pub(crate) fn list(&self) -> ListQuery {
        let text = |name: &str| self.query.get(name).cloned();
        let number = |name: &str| text(name)?.parse().ok();
        ListQuery {
            filter: text("filter"),
            fields: text("fields"),
            sort: text("sort"),
            limit: number("limit"),
            offset: number("offset"),
        }
    }
    /// Whether it carries nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.body.as_ref().is_none_or(Row::is_empty) && !self.query.contains_key("action")
    }
}

#[cfg(test)]
mod tests {
    use super::enclosed;

    #[test]
    fn one_pair_around_the_whole() {
        for (text, wanted) in [
            ("(a eq 1 or b eq 2)", true),
            ("(a eq 1) or (b eq 2)", false),
            ("((a eq 1) or (b eq 2))", true),
            ("(a eq ')') or (b eq '(')", false),
            (r"(a eq '\')' or b eq 2)", true),
            ("a eq 1 or b eq 2", false),
        ] {
            assert_eq!(enclosed(text), wanted, "{text}");
        }
    }
}
