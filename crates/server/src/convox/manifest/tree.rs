//! A YAML document as a tree whose nodes know their line.

use serde_json::{Map, Value};

use super::{ManifestError, Result};

/// Reads a document.
pub(super) fn parse(text: &str) -> Result<Node<'_>> {
    let value: Value = serde_saphyr::from_str(text).map_err(|e| {
        let line = e.location().and_then(|l| usize::try_from(l.line()).ok());
        let words = e.to_string();
        let first = words.lines().next().unwrap_or("not YAML").to_owned();
        ManifestError {
            line: line.filter(|l| *l > 0),
            message: first,
        }
    })?;
    Ok(Node {
        text,
        path: Vec::new(),
        value,
    })
}

/// A value and the way to it.
#[derive(Clone, Debug)]
pub(super) struct Node<'a> {
    text: &'a str,
    path: Vec<String>,
    value: Value,
}

impl<'a> Node<'a> {
    fn below(&self, name: &str, value: &Value) -> Self {
        let mut path = self.path.clone();
        path.push(name.to_owned());
        Self {
            text: self.text,
            path,
            value: value.clone(),
        }
    }

    pub(super) fn error(&self, message: impl Into<String>) -> ManifestError {
        ManifestError {
            line: line_of(self.text, &self.path),
            message: message.into(),
        }
    }

    pub(super) fn is_null(&self) -> bool {
        self.value.is_null()
    }
    pub(super) fn is_map(&self) -> bool {
        self.value.is_object()
    }

    /// A member that is there and not null.
    pub(super) fn get(&self, name: &str) -> Option<Self> {
        let value = self.value.get(name).filter(|v| !v.is_null())?;
        Some(self.below(name, value))
    }

    /// The members of a map; null is an empty one.
    pub(super) fn map(&self) -> Result<Vec<(String, Self)>> {
        let empty = Map::new();
        let all = match &self.value {
            Value::Object(all) => all,
            Value::Null => &empty,
            _ => return Err(self.error(format!("{} is not a map", self.name()))),
        };
        Ok(all
            .iter()
            .map(|(k, v)| (k.clone(), self.below(k, v)))
            .collect())
    }

    pub(super) fn list(&self) -> Result<Vec<Self>> {
        match &self.value {
            Value::Array(all) => Ok(all
                .iter()
                .map(|v| Self {
                    text: self.text,
                    path: self.path.clone(),
                    value: v.clone(),
                })
                .collect()),
            Value::Null => Ok(Vec::new()),
            _ => Err(self.error(format!("{} is not a list", self.name()))),
        }
    }

    /// A list of texts; a map gives `key=value`.
    pub(super) fn texts(&self) -> Result<Vec<String>> {
        if self.is_map() {
            let all = self.map()?.into_iter();
            return all.map(|(k, v)| Ok(format!("{k}={}", v.text()?))).collect();
        }
        self.list()?.iter().map(Self::text).collect()
    }

    /// A text; numbers and flags as they are written.
    pub(super) fn text(&self) -> Result<String> {
        match &self.value {
            Value::String(s) => Ok(s.clone()),
            Value::Number(n) => Ok(n.to_string()),
            Value::Bool(b) => Ok(b.to_string()),
            Value::Null => Ok(String::new()),
            _ => Err(self.error(format!("{} is not a text", self.name()))),
        }
    }

    pub(super) fn number(&self) -> Result<u32> {
        let text = self.text()?;
        text.trim()
            .parse()
            .map_err(|_| self.error(format!("{}: {text:?} is not a whole number", self.name())))
    }

    pub(super) fn as_flag(&self) -> Option<bool> {
        self.value.as_bool()
    }

    pub(super) fn flag(&self) -> Result<bool> {
        match &self.value {
            Value::Bool(b) => Ok(*b),
            Value::String(s) if s == "true" || s == "false" => Ok(s == "true"),
            _ => Err(self.error(format!("{} is not true or false", self.name()))),
        }
    }

    fn name(&self) -> String {
        match self.path.is_empty() {
            true => "the manifest".into(),
            false => self.path.join("."),
        }
    }
}

/// The line of a member: the keys of its path, each deeper than the one before.
fn line_of(text: &str, path: &[String]) -> Option<usize> {
    let mut lines = text.lines().enumerate();
    let (mut found, mut depth) = (None, None);
    for key in path {
        let at = lines.by_ref().find_map(|(n, line)| {
            let indent = line.len() - line.trim_start().len();
            let body = line.trim_start().trim_start_matches(['"', '\'']);
            let rest = body.strip_prefix(key.as_str())?;
            let rest = rest.trim_start_matches(['"', '\'']).trim_start();
            (rest.starts_with(':') && depth.is_none_or(|d| indent > d)).then_some((n, indent))
        });
        match at {
            Some((n, indent)) => (found, depth) = (Some(n + 1), Some(indent)),
            // Written on one line with the last key found.
            None => break,
        }
    }
    found
}
