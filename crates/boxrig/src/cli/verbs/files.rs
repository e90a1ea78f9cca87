//! `cp` and `logs`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use boxrig_compute::{
    Capability, CopyReport, CopySpec, Direction, ExecEvent, ExecSpec, LogOptions,
};
use boxrig_wire::{Error, Kind, Result, Untrusted};
use clap::ArgMatches;
use futures_util::TryStreamExt;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::text;
use crate::cli::escaped::Escaped;
use crate::cli::exit::Outcome;
use crate::cli::output::{self, Column, Show, column};
use crate::cli::progress;
use crate::cli::pump::Pump;
use crate::cli::session::{Found, Session};

const COLUMNS: &[Column] = &[
    column("DIRECTION", "direction"),
    column("LOCAL", "local"),
    column("INSTANCE", "instance"),
    column("REMOTE", "remote"),
    column("BYTES", "bytes").show(Show::Bytes),
    column("CHECKED", "checked"),
];

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side<'a> {
    /// `-`: standard input or output.
    Standard,
    /// A path here.
    Here(&'a Path),
    /// `NAME:PATH` or `CONTEXT:NAME:PATH`.
    There { name: &'a str, path: &'a str },
}

/// Reads a side. What begins with `/`, `./` or `../` is a path here, whatever it holds.
fn side(text: &str) -> Result<Side<'_>> {
    if text == "-" {
        return Ok(Side::Standard);
    }
    let is_path = text.starts_with(['/', '.']) || !text.contains(':');
    if is_path {
        return Ok(Side::Here(Path::new(text)));
    }
    // The path is absolute, so the first ":/" is where the name ends.
    match text.find(":/") {
        Some(at) if at > 0 => Ok(Side::There {
            name: &text[..at],
            path: &text[at + 1..],
        }),
        _ => Err(Error::new(
            Kind::Invalid,
            format!(
                "{}: the path in the instance is not absolute",
                Untrusted::new(text)
            ),
        )
        .with_hint("NAME:/PATH; a local name with a colon is written ./NAME")),
    }
}

/// Copies a file or directory in or out.
pub(crate) async fn cp(s: &Session, m: &ArgMatches) -> Outcome {
    let (from, to) = (side(text(m, "from"))?, side(text(m, "to"))?);
    match (from, to) {
        (Side::There { name, path }, Side::Standard) => to_standard(s, name, path).await,
        (Side::There { name, path }, Side::Here(local)) => {
            let found = found(s, name).await?;
            let local = out_path(local, path);
            let what = format!("copy {}:{} here", found.shown(), Untrusted::new(path));
            let spec = CopySpec::out_of_instance(path, &local);
            copy(s, &found, spec, &what).await
        }
        (Side::Standard, Side::There { name, path }) => {
            let found = found_to_change(s, name, path).await?;
            let Some(found) = found else { return Ok(()) };
            let file = spooled().await?;
            let spec = CopySpec::into_instance(file.path(), path);
            copy(s, &found, spec, "copying in").await
        }
        (Side::Here(local), Side::There { name, path }) => {
            if std::fs::symlink_metadata(local).is_err() {
                let e = std::fs::metadata(local).err();
                let words = Untrusted::new(local.display().to_string());
                return Err(Error::new(
                    Kind::NotFound,
                    format!("{words}: {}", e.map_or_else(String::new, |e| e.to_string())),
                )
                .with_code("ENOENT")
                .into());
            }
            let Some(found) = found_to_change(s, name, path).await? else {
                return Ok(());
            };
            let path = in_path(local, path);
            let spec = CopySpec::into_instance(local, path);
            copy(s, &found, spec, "copying in").await
        }
        (Side::There { .. }, Side::There { .. }) => Err(Error::new(
            Kind::Unsupported,
            "between two instances: copy out first, then in",
        )
        .into()),
        _ => Err(Error::new(Kind::Invalid, "neither side is in an instance: NAME:/PATH").into()),
    }
}

/// A remote path that ends in `/` is a directory to copy into.
fn in_path(local: &Path, remote: &str) -> String {
    match local.file_name().and_then(|n| n.to_str()) {
        Some(name) if remote.ends_with('/') => format!("{remote}{name}"),
        _ => remote.to_owned(),
    }
}

/// A directory here is copied into.
fn out_path(local: &Path, remote: &str) -> PathBuf {
    let name = remote.trim_end_matches('/').rsplit('/').next();
    match name.filter(|n| !n.is_empty() && *n != "." && *n != "..") {
        Some(name) if local.is_dir() => local.join(name),
        _ => local.to_owned(),
    }
}

async fn found(s: &Session, name: &str) -> Result<Found> {
    let found = s.find(name).await?;
    found.compute.capabilities().require(Capability::Copy)?;
    Ok(found)
}

async fn found_to_change(s: &Session, name: &str, path: &str) -> Result<Option<Found>> {
    let (context, plain) = s.place(name)?;
    let what = format!(
        "write {}:{}:{}",
        context.name,
        Untrusted::new(plain),
        Untrusted::new(path)
    );
    if !s.may_change(&context, &what)? {
        return Ok(None);
    }
    found(s, name).await.map(Some)
}

async fn copy(s: &Session, found: &Found, spec: CopySpec, what: &str) -> Outcome {
    let bar = progress::Bytes::new(s, what);
    let spec = spec.progress(bar.callback());
    let (direction, local, remote) = (spec.direction, spec.local.clone(), spec.remote.clone());
    let report: CopyReport = found.compute.copy(&found.instance.id, spec).await?;
    drop(bar);
    for warning in &report.warnings {
        s.say(&format!("warning: {warning}"));
    }
    if s.style.format == output::Format::Table {
        let size = output::bytes(report.bytes);
        s.say(&format!(
            "{size} copied, checked by {}",
            Untrusted::new(&*report.checked)
        ));
        return Ok(());
    }
    let row = json!({
        "context": found.context.name,
        "instance": found.instance.id,
        "direction": match direction { Direction::In => "in", Direction::Out => "out" },
        "local": local.display().to_string(),
        "remote": remote,
        "bytes": report.bytes,
        "entries": report.entries,
        "checked": report.checked,
        "warnings": report.warnings.iter().map(|w| w.raw()).collect::<Vec<_>>(),
    });
    Ok(output::one(
        &mut std::io::stdout().lock(),
        &s.style,
        COLUMNS,
        row,
    )?)
}

/// Standard input in a file of our own: a copy needs its length beforehand.
async fn spooled() -> Result<tempfile::NamedTempFile> {
    let failed = |e: std::io::Error| Error::new(Kind::Failed, format!("standard input: {e}"));
    let file = tempfile::NamedTempFile::new().map_err(failed)?;
    let mut out = tokio::fs::File::from_std(file.reopen().map_err(failed)?);
    tokio::io::copy(&mut tokio::io::stdin(), &mut out)
        .await
        .map_err(failed)?;
    out.flush().await.map_err(failed)?;
    Ok(file)
}

/// A file to standard output, as it comes.
async fn to_standard(s: &Session, name: &str, path: &str) -> Outcome {
    let found = found(s, name).await?;
    found.compute.capabilities().require(Capability::Exec)?;
    let spec = ExecSpec::new(["cat", "--", path]);
    let mut session = found.compute.exec(&found.instance.id, spec).await?;
    let pump = Pump::start();
    let mut words = Vec::new();
    while let Some(event) = session.next().await {
        match event? {
            ExecEvent::Stdout(data) => {
                let taken = pump.stdout(data).await;
                if !taken {
                    return Ok(pump.finish().await?);
                }
            }
            ExecEvent::Stderr(data) => words.extend_from_slice(&data[..data.len().min(4096)]),
            ExecEvent::Exit(status) => {
                pump.finish().await?;
                if status.success() {
                    return Ok(());
                }
                let words = String::from_utf8_lossy(&words).trim().to_owned();
                let missing = words.contains("No such file");
                let kind = if missing {
                    Kind::NotFound
                } else {
                    Kind::Failed
                };
                let e = Error::new(kind, "the file cannot be read").with_server_message(words);
                return Err(e.into());
            }
            _ => {}
        }
    }
    Err(Error::new(Kind::Protocol, "the file ended without an exit status").into())
}

/// Prints a log. To a terminal no control character of it gets through, unless asked for.
pub(crate) async fn logs(s: &Session, m: &ArgMatches) -> Outcome {
    let found = s.find(text(m, "name")).await?;
    let options = LogOptions::new()
        .follow(m.get_flag("follow"))
        .tail(m.get_one::<u64>("tail").copied())
        .console(m.get_flag("console"));
    let escape = std::io::stdout().is_terminal() && !m.get_flag("raw");
    let mut log = found.compute.logs(&found.instance.id, options).await?;
    let mut text = Escaped::new(escape);
    while let Some(data) = log.try_next().await? {
        text.write(&mut std::io::stdout().lock(), &data)?;
    }
    Ok(text.finish(&mut std::io::stdout().lock())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart() {
        assert_eq!(side("-").unwrap(), Side::Standard);
        for here in ["a", "/a:/b", "./web:/x", "../x:y", "dir/file"] {
            assert_eq!(side(here).unwrap(), Side::Here(Path::new(here)));
        }
        let there = |name, path| Side::There { name, path };
        assert_eq!(side("web:/etc/x").unwrap(), there("web", "/etc/x"));
        assert_eq!(side("prod:web:/a:/b").unwrap(), there("prod:web", "/a:/b"));
        for bad in ["web:", "web:relative", ":/x"] {
            assert!(side(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn directories_are_copied_into() {
        assert_eq!(in_path(Path::new("a/b"), "/srv/"), "/srv/b");
        assert_eq!(in_path(Path::new("a/b"), "/srv"), "/srv");
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(out_path(dir.path(), "/x/y/"), dir.path().join("y"));
        assert_eq!(out_path(dir.path(), "/x/.."), dir.path());
        assert_eq!(out_path(Path::new("new"), "/x"), Path::new("new"));
    }
}
