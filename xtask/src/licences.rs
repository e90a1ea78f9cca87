//! Licences and bans over everything that is linked, from `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use crate::{Result, root, shell};

/// Licences that ask no more than a notice, plus the data licence of the Unicode tables and
/// MPL-2.0 (file by file, unmodified).
const ACCEPTED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// What a plain `cargo build` with Rust and a C linker must not need.
const BANNED: &[(&str, &str)] = &[
    ("aws-lc-rs", "needs cmake on some hosts; rustls uses ring"),
    ("aws-lc-sys", "needs cmake on some hosts; rustls uses ring"),
    ("bindgen", "needs libclang"),
    ("cmake", "needs cmake"),
    ("libgit2-sys", "needs system headers"),
    ("native-tls", "needs system headers"),
    ("openssl-sys", "needs system headers"),
    ("pkg-config", "looks for system libraries"),
    ("serde_yaml", "unmaintained"),
];

/// Checks all packages of the lock file that are built for some target.
pub(crate) fn check() -> Result<()> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["metadata", "--format-version=1", "--locked"])
        .current_dir(root());
    let metadata: Value = serde_json::from_str(&shell::read(&mut cargo)?)?;
    let mut problems = Vec::new();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let packages = metadata["packages"]
        .as_array()
        .ok_or("cargo metadata lists no packages")?;
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let version = package["version"].as_str().unwrap_or_default();
        versions.entry(name).or_default().insert(version);
        match package["license"].as_str() {
            Some(licence) if accepted(licence) => {}
            licence => problems.push(format!("{name} {version}: licence {licence:?}")),
        }
        if let Some((_, why)) = BANNED.iter().find(|(banned, _)| *banned == name) {
            problems.push(format!("{name} {version} is banned: {why}"));
        }
        let source = package["source"].as_str();
        if source.is_some_and(|s| !s.starts_with("registry+")) {
            problems.push(format!("{name} {version} does not come from the registry"));
        }
    }
    for (name, versions) in versions.iter().filter(|(_, v)| v.len() > 1) {
        println!("note: {} versions of {name}: {versions:?}", versions.len());
    }
    for problem in &problems {
        println!("{problem}");
    }
    println!(
        "licences: {} passed, {} failed",
        packages.len() - problems.len(),
        problems.len()
    );
    if problems.is_empty() {
        Ok(())
    } else {
        Err("licences or bans are broken".into())
    }
}

/// Whether an SPDX expression can be satisfied by accepted licences alone.
fn accepted(expression: &str) -> bool {
    let normal = expression.replace('/', " OR ").replace(['(', ')'], " ");
    // Parentheses in practice group alternatives inside a conjunction or the reverse; reading
    // every AND as binding all its neighbours is stricter than SPDX, never laxer.
    if expression.contains('(') && expression.contains(" AND ") {
        return normal
            .split(" AND ")
            .flat_map(|part| part.split(" OR "))
            .all(|licence| ACCEPTED.contains(&licence.trim()));
    }
    normal.split(" OR ").any(|choice| {
        choice
            .split(" AND ")
            .all(|licence| ACCEPTED.contains(&licence.trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::accepted;

    #[test]
    fn expressions() {
        for good in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-3.0 OR MIT",
            "MIT AND BSD-3-Clause",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT",
        ] {
            assert!(accepted(good), "{good}");
        }
        for bad in [
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "(MIT OR GPL-3.0) AND ISC",
            "",
            "LGPL-2.1 AND MIT",
        ] {
            assert!(!accepted(bad), "{bad}");
        }
    }
}
