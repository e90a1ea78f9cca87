//! Contexts: add, list, choose, forget, try.

use std::io;
use std::path::PathBuf;
use std::time::Instant;

use boxrig::Target;
use boxrig_compute::{Capability, ListOptions};
use boxrig_incus::{Identity, TrustToken};
use boxrig_wire::{Error, Kind, Untrusted};
use clap::ArgMatches;
use futures_util::StreamExt;
use serde_json::{Map, Value, json};

use super::{option, text};
use crate::cli::contexts::{Config, Entry, LOCAL, check_name};
use crate::cli::exit::{Failure, Outcome};
use crate::cli::import::{self, Found, ImportEnv};
use crate::cli::output::{self, Column, column};
use crate::cli::secret::SecretRef;
use crate::cli::session::Session;

const COLUMNS: &[Column] = &[
    column("CURRENT", "current"),
    column("NAME", "name"),
    column("PLATFORM", "platform"),
    column("URL", "url"),
    column("USER", "user").wide(),
    column("SECRET", "secret_from").wide(),
    column("PROJECT", "project").wide(),
    column("READ-ONLY", "read_only").wide(),
];

const TEST_COLUMNS: &[Column] = &[
    column("CONTEXT", "context"),
    column("PLATFORM", "platform"),
    column("REACHED", "reached"),
    column("TOOK", "milliseconds"),
    column("CAN", "can"),
    column("CANNOT", "cannot"),
];

const IMPORT_COLUMNS: &[Column] = &[
    column("NAME", "name"),
    column("PLATFORM", "platform"),
    column("URL", "url"),
    column("PROJECT", "project").wide(),
    column("SECRET", "secret_from").wide(),
    column("SOURCE", "source"),
    column("VERDICT", "verdict"),
    column("WHY", "why"),
];

/// One of the `ctx` commands.
pub(crate) async fn run(s: &Session, m: &ArgMatches) -> Outcome {
    match m.subcommand() {
        Some(("add", m)) => add(s, m),
        Some(("ls", _)) => ls(s),
        Some(("use", m)) => choose(s, m),
        Some(("rm", m)) => rm(s, m),
        Some(("test", m)) => test(s, m).await,
        Some(("import", m)) => import(s, m),
        Some(("trust", m)) => trust(s, m).await,
        _ => Err(Failure::Code(2)),
    }
}

fn add(s: &Session, m: &ArgMatches) -> Outcome {
    let name = text(m, "context");
    check_name(name)?;
    let target: Target = text(m, "url").parse()?;
    if target == Target::local() {
        return Err(Error::new(Kind::Invalid, "the context local is there already").into());
    }
    let secret_from = option(m, "secret-from");
    if let Some(reference) = &secret_from {
        SecretRef::parse(reference)?;
    }
    if target.is_plain() {
        s.say(&format!(
            "warning: {} is not encrypted: secrets are sent in the clear",
            Untrusted::new(target.to_string())
        ));
    }
    Config::update(&s.paths, |config| {
        let extra = config
            .contexts
            .remove(name)
            .map_or_else(toml::Table::new, |old| old.extra);
        let file = |id: &str| m.get_one::<PathBuf>(id).cloned();
        let entry = Entry {
            user: option(m, "user"),
            secret_from,
            ca_file: file("ca-file"),
            pin: option(m, "pin"),
            cert_file: file("cert-file"),
            key_file: file("key-file"),
            project: option(m, "project"),
            image: option(m, "image"),
            read_only: m.get_flag("only-read"),
            extra,
            ..Entry::new(target.to_string())
        };
        config.contexts.insert(name.to_owned(), entry);
        Ok(())
    })?;
    Ok(())
}

fn ls(s: &Session) -> Outcome {
    let current = s.config.current();
    let row = |name: &str, url: &str, entry: Option<&Entry>| {
        let platform = url
            .parse::<Target>()
            .map_or_else(|_| "?".to_owned(), |t| t.platform().as_str().to_owned());
        json!({
            "current": if name == current { "*" } else { "" },
            "name": name,
            "platform": platform,
            "url": url,
            "user": entry.and_then(|e| e.user.clone()),
            "secret_from": entry.and_then(|e| e.secret_from.clone()),
            "project": entry.and_then(|e| e.project.clone()),
            "read_only": entry.is_some_and(|e| e.read_only),
        })
    };
    let mut rows = vec![row(LOCAL, LOCAL, None)];
    for (name, entry) in &s.config.contexts {
        rows.push(row(name, &entry.url, Some(entry)));
    }
    Ok(output::list(
        &mut io::stdout().lock(),
        &s.style,
        COLUMNS,
        rows,
    )?)
}

fn choose(s: &Session, m: &ArgMatches) -> Outcome {
    let name = text(m, "context");
    if name.starts_with("env:") {
        return Err(Error::new(
            Kind::Invalid,
            "a context of the vendor's variables is used by --on only",
        )
        .into());
    }
    s.config.context(name)?;
    Config::update(&s.paths, |config| {
        config.current = (name != LOCAL).then(|| name.to_owned());
        Ok(())
    })?;
    Ok(())
}

fn rm(s: &Session, m: &ArgMatches) -> Outcome {
    let name = text(m, "context");
    if name == LOCAL {
        return Err(Error::new(Kind::Invalid, "the context local is always there").into());
    }
    Config::update(&s.paths, |config| {
        if config.contexts.remove(name).is_none() {
            return config.context(name).map(drop);
        }
        if config.current.as_deref() == Some(name) {
            config.current = None;
        }
        Ok(())
    })?;
    Ok(())
}

/// Has an Incus server trust us by its token, and keeps it as a context. The server's certificate is compared with the
/// token's before the token is sent; ours is made when there is none.
async fn trust(s: &Session, m: &ArgMatches) -> Outcome {
    let name = text(m, "context");
    check_name(name)?;
    let token = SecretRef::parse(text(m, "token"))?.read()?;
    let token = TrustToken::parse(token.expose())?;
    if s.dry_run() {
        let server = Untrusted::new(token.addresses.join(", "));
        s.say(&format!("would send the token to {server}"));
        return Ok(());
    }
    let folder = s.paths.config.join("incus");
    let client_name = token.client_name.clone();
    let identity = Identity::load_or_make(&folder, &client_name)?;
    let trusted = token.redeem(&identity).await?;
    let url = trusted.address.replacen("https://", "incus://", 1);
    let url = if url.contains("://") {
        url
    } else {
        format!("incus://{url}")
    };
    let target: Target = url.parse()?;
    Config::update(&s.paths, |config| {
        let entry = Entry {
            pin: Some(trusted.fingerprint.clone()),
            cert_file: Some(folder.join("client.crt")),
            key_file: Some(folder.join("client.key")),
            project: option(m, "project"),
            image: option(m, "image"),
            ..Entry::new(target.to_string())
        };
        config.contexts.insert(name.to_owned(), entry);
        Ok(())
    })?;
    Ok(())
}

/// Takes over what the vendors' own tools know.
fn import(s: &Session, m: &ArgMatches) -> Outcome {
    let from: Vec<&String> = m.get_many("from").into_iter().flatten().collect();
    let mut found = import::find(&ImportEnv::of_process());
    found.retain(|f| from.is_empty() || from.iter().any(|p| *p == f.platform));
    let replace = m.get_flag("replace");
    let taken = |config: &Config| -> Vec<(Found, &'static str)> {
        let of = |f: Found| {
            let verdict = import::verdict(&f, config, replace);
            (f, verdict)
        };
        found.iter().cloned().map(of).collect()
    };
    let done = if s.dry_run() {
        taken(&s.config)
    } else {
        Config::update(&s.paths, |config| {
            let done = taken(config);
            for (f, verdict) in &done {
                if let (Ok(entry), "added" | "replaced") = (&f.entry, *verdict) {
                    config.contexts.insert(f.name.clone(), entry.clone());
                }
            }
            Ok(done)
        })?
    };
    let rows = done
        .into_iter()
        .map(|(f, verdict)| {
            let entry = f.entry.as_ref().ok();
            json!({
                "name": f.name,
                "platform": f.platform,
                "url": entry.map(|e| e.url.clone()),
                "project": entry.and_then(|e| e.project.clone()),
                "secret_from": entry.and_then(|e| e.secret_from.clone()),
                "source": f.source,
                "verdict": verdict,
                "why": f.entry.as_ref().err(),
            })
        })
        .collect();
    Ok(output::list(
        &mut io::stdout().lock(),
        &s.style,
        IMPORT_COLUMNS,
        rows,
    )?)
}

/// Reaches the context with its credentials, and says what it can do.
async fn test(s: &Session, m: &ArgMatches) -> Outcome {
    let context = s.config.context(text(m, "context"))?;
    let begin = Instant::now();
    let connection = s.connect(&context).await?;
    let first = connection.compute.list(ListOptions::new()).next().await;
    if let Some(Err(e)) = first {
        return Err(e.into());
    }
    let can = connection.compute.capabilities();
    let (has, lacks): (Vec<Capability>, Vec<Capability>) =
        Capability::ALL.iter().partition(|c| can.has(**c));
    let ways: Map<String, Value> = lacks
        .iter()
        .filter_map(|c| Some((c.as_str().to_owned(), can.native(*c)?.into())))
        .collect();
    let row = json!({
        "context": context.name,
        "platform": context.target.platform().as_str(),
        "reached": true,
        "milliseconds": u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX),
        "can": has,
        "cannot": lacks,
        "native": ways,
    });
    Ok(output::one(
        &mut io::stdout().lock(),
        &s.style,
        TEST_COLUMNS,
        row,
    )?)
}
