//! Commands about instances as such: list, show, launch, power, remove, wait, snapshots.

use std::io;
use std::time::Duration;

use boxrig_compute::{
    Capability, Condition, ForkSpec, Instance, LaunchSpec, ListOptions, Power, SnapshotSpec,
    WaitFor, Waiting,
};
use boxrig_wire::{Error, Kind, Result};
use clap::ArgMatches;
use futures_util::future::join_all;
use futures_util::{StreamExt, TryStreamExt};
use serde_json::{Value, json};

use super::{option, pairs, text, texts};
use crate::cli::exit::Outcome;
use crate::cli::output::{self, Column, Show, column};
use crate::cli::progress;
use crate::cli::session::{Found, Session, shown, worst};

/// The columns of instances.
pub(crate) const COLUMNS: &[Column] = &[
    column("CONTEXT", "context").wide(),
    column("NAME", "name"),
    column("ID", "id").wide(),
    column("STATE", "state"),
    column("ENGINE", "engine"),
    column("CPUS", "cpus"),
    column("MEMORY", "memory").show(Show::Bytes),
    column("DISK", "disk").show(Show::Bytes).wide(),
    column("IPS", "ips").wide(),
    column("ISOLATION", "raw.boxrig.isolation").wide(),
    column("NOT-ENFORCED", "raw.boxrig.notEnforced").wide(),
    column("LABELS", "labels").wide(),
    column("AGE", "created").show(Show::Age),
];

/// With several contexts, the context is a column too.
const COLUMNS_OF_SEVERAL: &[Column] = &[
    column("CONTEXT", "context"),
    column("NAME", "name"),
    column("ID", "id").wide(),
    column("STATE", "state"),
    column("ENGINE", "engine"),
    column("CPUS", "cpus"),
    column("MEMORY", "memory").show(Show::Bytes),
    column("DISK", "disk").show(Show::Bytes).wide(),
    column("IPS", "ips").wide(),
    column("ISOLATION", "raw.boxrig.isolation").wide(),
    column("NOT-ENFORCED", "raw.boxrig.notEnforced").wide(),
    column("LABELS", "labels").wide(),
    column("AGE", "created").show(Show::Age),
];

const SNAPSHOT_COLUMNS: &[Column] = &[
    column("NAME", "name"),
    column("ID", "id"),
    column("STATE", "state"),
    column("INSTANCE", "instance"),
];

/// How long a context may take to list before it is shown as unreachable; `--timeout` says otherwise.
const LIST_LIMIT: Duration = Duration::from_secs(10);

/// How long `wait` waits when no `--timeout` is given.
const WAIT_LIMIT: Duration = Duration::from_secs(300);

/// An instance as a row; the members are those of `docs/json-schema.json`.
pub(crate) fn row(i: &Instance) -> Value {
    json!({
        "context": i.context,
        "platform": i.platform.as_str(),
        "id": i.id,
        "name": i.name.raw(),
        "ref": format!("{}:{}", i.context, if i.name.is_empty() { &i.id } else { i.name.raw() }),
        "state": i.state.as_str(),
        "native_state": i.native_state.raw(),
        "engine": i.engine.as_ref().map(|e| e.raw()),
        "created": i.created.map(output::time),
        "cpus": i.cpus.map(number),
        "memory": i.memory,
        "disk": i.disk,
        "ips": i.ips.iter().map(|ip| ip.raw()).collect::<Vec<_>>(),
        "labels": i.labels,
        "raw": i.raw,
    })
}

/// A whole number without a decimal point.
fn number(n: f64) -> Value {
    if n.fract() == 0.0 && n.abs() < 1e15 {
        json!(n as i64)
    } else {
        json!(n)
    }
}

/// Lists the instances of all contexts that are asked for. A context that does not answer is an error line and a row, and
/// holds nothing up.
pub(crate) async fn ls(s: &Session, m: &ArgMatches) -> Outcome {
    let contexts = s.contexts();
    let several = contexts.len() > 1;
    let mut options = ListOptions::new().addresses(shows_addresses(s));
    for (name, value) in pairs(m, "label") {
        options = options.label(name, value);
    }
    let limit = s.timeout.unwrap_or(LIST_LIMIT).mul_f64(0.9);
    let answers = join_all(contexts.into_iter().map(|(name, context)| {
        let options = options.clone();
        async move {
            let listing = async {
                let connection = s.connect(&context?).await?;
                let list = connection.compute.list(options);
                list.map(|r| r.map(|i| row(&i))).try_collect().await
            };
            let rows: Result<Vec<Value>> = tokio::time::timeout(limit, listing)
                .await
                .unwrap_or_else(|_| {
                    Err(Error::new(
                        Kind::Timeout,
                        format!("no answer within {limit:?}"),
                    ))
                });
            (name, rows)
        }
    }))
    .await;
    let mut rows = Vec::new();
    let mut code = 0;
    for (name, answer) in answers {
        match answer {
            Ok(mut of_context) => rows.append(&mut of_context),
            Err(e) => {
                if several {
                    if !is_data(s) {
                        rows.push(json!({"context": name, "state": "unreachable"}));
                    }
                    s.report(e.context(format!("context {name}")), &mut code);
                } else {
                    return Err(e.into());
                }
            }
        }
    }
    if !several {
        for row in &mut rows {
            // A name alone is enough where there is one context.
            if s.style.format == output::Format::Name
                && let Some(row) = row.as_object_mut()
            {
                row.remove("ref");
            }
        }
    }
    let columns = if several { COLUMNS_OF_SEVERAL } else { COLUMNS };
    output::list(&mut io::stdout().lock(), &s.style, columns, rows)?;
    worst(code)
}

/// Whether anything of the output needs the addresses: then they are asked for.
fn shows_addresses(s: &Session) -> bool {
    let style = &s.style;
    let named = |name: &str| ["ips", "raw"].contains(&name.split('.').next().unwrap_or(""));
    match style.format {
        output::Format::Name => false,
        _ if !style.columns.is_empty() => style.columns.iter().any(|c| named(c)),
        output::Format::Table | output::Format::Csv => {
            let sorted = style.sort.iter().any(|c| named(c.trim_start_matches('-')));
            sorted || style.filters.iter().any(|f| named(f.field()))
        }
        _ => true,
    }
}

/// Whether the output is read by programs, in which there are no rows for errors.
fn is_data(s: &Session) -> bool {
    !matches!(s.style.format, output::Format::Table | output::Format::Wide)
}

/// Shows an instance.
pub(crate) async fn show(s: &Session, m: &ArgMatches) -> Outcome {
    let found = s.find(text(m, "name")).await?;
    if found.compute.names_are_ids() {
        // It was only looked at so far.
        return print(s, &found.compute.get(&found.instance.id).await?);
    }
    print(s, &found.instance)
}

fn print(s: &Session, instance: &Instance) -> Outcome {
    Ok(output::one(
        &mut io::stdout().lock(),
        &s.style,
        COLUMNS,
        row(instance),
    )?)
}

/// What a command did to an instance: its row for programs, its reference for people.
fn done(s: &Session, instance: &Instance) -> Outcome {
    use std::io::Write;
    match s.style.format {
        output::Format::Table => {
            writeln!(io::stdout().lock(), "{}", shown(instance))?;
            Ok(())
        }
        _ => print(s, instance),
    }
}

/// The specification that `launch` and `run` give.
pub(crate) fn launch_spec(m: &ArgMatches, s: &Session) -> LaunchSpec {
    let mut spec = LaunchSpec::new();
    spec.name = option(m, "as");
    if let Some(image) = option(m, "image") {
        spec = spec.image(image);
    }
    if let Some(cpus) = m.get_one::<f64>("cpus") {
        spec = spec.cpus(*cpus);
    }
    if let Some(memory) = m.get_one::<u64>("memory") {
        spec = spec.memory(*memory);
    }
    for (name, value) in pairs(m, "env") {
        spec = spec.env(name, value);
    }
    if let Some(limit) = s.timeout {
        spec.wait_timeout = limit;
    }
    spec
}

/// Launches an instance.
pub(crate) async fn launch(s: &Session, m: &ArgMatches) -> Outcome {
    let context = s.context()?;
    let mut spec = launch_spec(m, s);
    if let Some(snapshot) = option(m, "snapshot") {
        spec = spec.snapshot(snapshot);
    }
    for (name, value) in pairs(m, "label") {
        spec = spec.label(name, value);
    }
    if let Some(ttl) = m.get_one::<Duration>("ttl") {
        spec = spec.ttl(*ttl);
    }
    if let Some(token) = option(m, "token") {
        spec = spec.token(token);
    }
    let name = spec
        .name
        .clone()
        .unwrap_or_else(|| "an instance".to_owned());
    let what = format!(
        "launch {} on {}",
        boxrig_wire::escape_line(&name),
        context.name
    );
    if !s.may_change(&context, &what)? {
        return Ok(());
    }
    let connection = s.connect(&context).await?;
    let operation = connection.compute.launch(spec).await?;
    let instance = progress::wait(s, &what, &operation).await?;
    done(s, &instance)
}

/// Does something to each of the named instances; one that fails holds the others up no more than its own time.
async fn each(
    s: &Session,
    m: &ArgMatches,
    what: &str,
    act: impl AsyncFn(Found) -> Result<Option<Instance>>,
) -> Outcome {
    let mut code = 0;
    for name in texts(m, "name") {
        let outcome = async {
            let (context, plain) = s.place(&name)?;
            let question = format!(
                "{what} {}:{}",
                context.name,
                boxrig_wire::escape_line(plain)
            );
            // Refused before anything is asked of a server.
            if s.may_change_quietly(&context) {
                let found = s.find(&name).await?;
                let question = format!("{what} {}", found.shown());
                if s.may_change(&found.context, &question)? {
                    return act(found).await;
                }
                return Ok(None);
            }
            s.may_change(&context, &question)?;
            Ok(None)
        }
        .await;
        match outcome {
            Ok(Some(instance)) => done(s, &instance)?,
            Ok(None) => {}
            Err(e) => s.report(e, &mut code),
        }
    }
    worst(code)
}

/// Starts, stops, restarts, pauses or resumes.
pub(crate) async fn power(s: &Session, m: &ArgMatches, power: Power, what: &str) -> Outcome {
    each(s, m, what, async |found: Found| {
        let instance = found.compute.power(&found.instance.id, power).await?;
        Ok(Some(instance))
    })
    .await
}

/// Removes.
pub(crate) async fn rm(s: &Session, m: &ArgMatches) -> Outcome {
    each(s, m, "remove", async |found: Found| {
        s.confirm(&format!("remove {}?", found.shown()))?;
        found.compute.delete(&found.instance.id).await?;
        Ok(Some(found.instance))
    })
    .await
}

/// What is waited for.
enum Wanted {
    State(WaitFor),
    Condition(Condition),
}

impl Wanted {
    fn parse(text: &str) -> Self {
        match text {
            "paused" => Self::State(WaitFor::Paused),
            "stopped" => Self::State(WaitFor::Stopped),
            "gone" => Self::State(WaitFor::Gone),
            "ip" => Self::Condition(Condition::Ip),
            "exec" => Self::Condition(Condition::Exec),
            "cloud-init" => Self::Condition(Condition::CloudInit),
            other => match other.strip_prefix("file:") {
                Some(path) => Self::Condition(Condition::File(path.to_owned())),
                None => Self::State(WaitFor::Running),
            },
        }
    }
}

/// Waits for a state or a condition.
pub(crate) async fn wait(s: &Session, m: &ArgMatches) -> Outcome {
    let what = text(m, "for");
    let wanted = Wanted::parse(what);
    // The command's own limit would end it without saying what the state is.
    let limit = s.timeout.map_or(WAIT_LIMIT, |limit| limit.mul_f64(0.95));
    let mut code = 0;
    for name in texts(m, "name") {
        let outcome = async {
            let gone = matches!(wanted, Wanted::State(WaitFor::Gone));
            let found = match s.find(&name).await {
                Err(e) if e.kind() == Kind::NotFound && gone => return Ok(None),
                other => other?,
            };
            let shown = boxrig_wire::escape_line(what);
            let _spinner = progress::spinner(s, &format!("waiting for {}: {shown}", found.shown()));
            let id = &found.instance.id;
            match &wanted {
                Wanted::State(state) => {
                    let waiting = Waiting::new(*state).timeout(limit);
                    found.compute.wait(id, waiting).await
                }
                Wanted::Condition(condition) => {
                    let now = boxrig_compute::until(&*found.compute, id, condition, limit);
                    now.await.map(Some)
                }
            }
        }
        .await;
        match outcome {
            Ok(Some(instance)) => done(s, &instance)?,
            Ok(None) => {}
            Err(e) => s.report(e, &mut code),
        }
    }
    worst(code)
}

/// Makes a snapshot.
pub(crate) async fn snapshot(s: &Session, m: &ArgMatches) -> Outcome {
    let found = s.find(text(m, "name")).await?;
    let what = format!("make a snapshot of {}", found.shown());
    if !s.may_change(&found.context, &what)? {
        return Ok(());
    }
    let mut spec = SnapshotSpec::new();
    if let Some(name) = option(m, "as") {
        spec = spec.name(name);
    }
    let operation = found.compute.snapshot(&found.instance.id, spec).await?;
    let snapshot = progress::wait(s, &what, &operation).await?;
    let row = json!({
        "context": found.context.name,
        "id": snapshot.id,
        "name": snapshot.name.raw(),
        "instance": snapshot.instance,
        "state": snapshot.state.raw(),
        "created": snapshot.created.map(output::time),
        "raw": snapshot.raw,
    });
    let mut out = io::stdout().lock();
    if s.style.format == output::Format::Table {
        use std::io::Write;
        writeln!(out, "{}", boxrig_wire::escape_line(&snapshot.id))?;
        return Ok(());
    }
    Ok(output::one(&mut out, &s.style, SNAPSHOT_COLUMNS, row)?)
}

/// Puts an instance back to a snapshot.
pub(crate) async fn restore(s: &Session, m: &ArgMatches) -> Outcome {
    let snapshot = text(m, "snapshot");
    let found = s.find(text(m, "name")).await?;
    found.compute.capabilities().require(Capability::Restore)?;
    let what = format!(
        "put {} back to the snapshot {}",
        found.shown(),
        boxrig_wire::escape_line(snapshot)
    );
    if !s.may_change(&found.context, &what)? {
        return Ok(());
    }
    s.confirm(&format!("{what}? What it holds now is lost."))?;
    let operation = found.compute.restore(&found.instance.id, snapshot).await?;
    let instance = progress::wait(s, &what, &operation).await?;
    done(s, &instance)
}

/// Makes a copy.
pub(crate) async fn fork(s: &Session, m: &ArgMatches) -> Outcome {
    let found = s.find(text(m, "name")).await?;
    let what = format!("copy {}", found.shown());
    if !s.may_change(&found.context, &what)? {
        return Ok(());
    }
    let mut spec = ForkSpec::new();
    if let Some(name) = option(m, "as") {
        spec = spec.name(name);
    }
    let operation = found.compute.fork(&found.instance.id, spec).await?;
    let instance = progress::wait(s, &what, &operation).await?;
    done(s, &instance)
}
