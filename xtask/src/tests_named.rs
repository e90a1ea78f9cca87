//! Tests by name: `PATH::FUNCTION`, the way the checked-in tables name them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use crate::root;

/// Looks tests up in the sources, reading each file once.
#[derive(Debug, Default)]
pub(crate) struct Tests {
    files: BTreeMap<PathBuf, String>,
}

impl Tests {
    /// What is wrong with the name of a test; nothing when the test is there.
    ///
    /// A Rust function must carry a test attribute (`#[test]`, `#[tokio::test]`, …) and a Python
    /// function the `@check` or `@scenario` of our scripts: a helper of the same name is no test.
    pub(crate) fn problem(&mut self, name: &str) -> Option<String> {
        // A test of the vendor's own suite: `cargo xtask peers vergeos` compares them with what it saw.
        if name.starts_with("pyvergeos:tests/integration/") {
            return None;
        }
        let Some((path, function)) = name.rsplit_once("::") else {
            return Some(format!("{name}: not PATH::FUNCTION"));
        };
        let path = root().join(path);
        let text = self
            .files
            .entry(path)
            .or_insert_with_key(|path| fs::read_to_string(path).unwrap_or_default());
        if text.is_empty() {
            return Some(format!("{name}: no such file"));
        }
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let found = lines.iter().enumerate().any(|(index, line)| {
            let line = line.trim_start_matches("pub ").trim_start_matches("async ");
            let named = line
                .strip_prefix("fn ")
                .or_else(|| line.strip_prefix("def "));
            let named = named.and_then(|rest| rest.strip_prefix(function));
            named.is_some_and(|rest| rest.starts_with(['(', '<'])) && is_test(&lines[..index])
        });
        (!found).then(|| format!("{name}: no such test"))
    }
}

/// Whether the lines right above a function mark it as a test.
fn is_test(above: &[&str]) -> bool {
    above
        .iter()
        .rev()
        .take_while(|line| line.starts_with(['#', '@', '/']))
        .any(|line| {
            line.starts_with("@check")
                || line.starts_with("@scenario(")
                || (line.starts_with("#[") && line.contains("test"))
        })
}

#[cfg(test)]
mod tests {
    use super::Tests;

    #[test]
    fn names_are_looked_up() {
        let mut tests = Tests::default();
        assert_eq!(
            tests.problem("xtask/src/tests_named.rs::names_are_looked_up"),
            None
        );
        assert_eq!(tests.problem("ci/fastvm_sdk.py::console"), None);
        for (name, words) in [
            ("xtask/src/tests_named.rs::is_test", "no such test"),
            ("xtask/src/tests_named.rs::names_are", "no such test"),
            ("ci/fastvm_sdk.py::machine", "no such test"),
            ("nowhere.rs::x", "no such file"),
            ("words", "not PATH"),
        ] {
            assert!(tests.problem(name).unwrap().contains(words), "{name}");
        }
    }
}
