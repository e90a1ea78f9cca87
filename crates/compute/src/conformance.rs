//! What every backend must do, as checks over `&dyn Compute`, chosen by declared capability. Backends of others run
//! them too:
//!
//! ```no_run
//! # async fn example(compute: &dyn boxrig_compute::Compute) {
//! let report = boxrig_compute::conformance::run(compute).await;
//! println!("{report}");
//! assert!(report.passed());
//! # }
//! ```
//!
//! A declared ability that fails is a failure; an undeclared one is listed as not run, and its verb must fail with
//! [`Kind::Unsupported`] for any id. Commands use paths relative to their working directory, so that an engine without
//! isolation leaves nothing outside its folder. Instances that the checks make are labelled `boxrig.conformance` and removed,
//! also after a failure.

use std::fmt;
use std::time::Duration;

use boxrig_wire::{BoxFuture, Error, Kind};
use futures_util::{FutureExt, TryStreamExt};

use crate::{
    Capability, Command, Compute, ComputeExt, CopySpec, ExecEvent, ExecSpec, ForkSpec, Instance,
    LaunchSpec, ListOptions, LogOptions, Power, SnapshotSpec, State, Stdin, TtySize, WaitFor,
    Waiting,
};

/// The label of instances that the checks make.
pub const LABEL: &str = "boxrig.conformance";

/// Why a check failed, in words.
pub type Outcome = Result<(), String>;

/// One check.
#[derive(Clone, Copy)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// It is run when all of these are declared.
    pub needs: &'static [Capability],
    run: for<'a> fn(&'a dyn Compute, &'a Instance) -> BoxFuture<'a, Outcome>,
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check")
            .field("name", &self.name)
            .field("needs", &self.needs)
            .finish_non_exhaustive()
    }
}

macro_rules! checks {
    ($( $name:ident [$($need:ident)*] ),* $(,)?) => {
        /// All checks, in the order they are run in.
        pub const CHECKS: &[Check] = &[$(
            Check {
                name: stringify!($name),
                needs: &[Capability::Launch, Capability::Delete $(, Capability::$need)*],
                run: |c, i| $name(c, i).boxed(),
            }
        ),*];
    };
}

checks! {
    what_was_launched_is_listed [List],
    an_unknown_id_is_not_found [],
    a_token_launches_once [ExactlyOnce],
    output_and_status_are_told_apart [Exec],
    a_missing_command_is_127 [Exec],
    directory_and_variables_reach_the_command [Exec],
    input_reaches_the_command [Exec],
    much_output_is_whole [Exec],
    a_deadline_kills_the_command [Exec],
    a_dropped_session_kills_the_command [Exec],
    input_is_written_while_it_runs [ExecStdin],
    a_signal_ends_the_command [ExecSignal],
    a_terminal_has_its_size [ExecTty],
    a_file_survives_both_ways [Copy],
    a_directory_survives_both_ways [Copy],
    a_missing_file_is_not_found [Copy],
    paused_and_resumed [Pause Resume],
    stopped_and_started [Stop Start],
    a_snapshot_brings_files_back [Snapshot SnapshotFiles Restore Exec],
    an_instance_from_a_snapshot_has_its_files [Snapshot SnapshotFiles LaunchFromSnapshot Exec],
    a_fork_has_the_files_and_its_own_life [Fork Exec],
    logs_can_be_read [Logs],
    deleted_is_gone [],
}

/// How a check ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It holds.
    Passed,
    /// It does not; why.
    Failed(String),
    /// The backend does not declare this.
    NotDeclared(Capability),
}

/// How all checks ended.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Name and end of each.
    pub checks: Vec<(&'static str, Ended)>,
}

impl Report {
    /// Nothing failed and something was run.
    pub fn passed(&self) -> bool {
        self.checks.iter().any(|(_, e)| *e == Ended::Passed) && self.failures().next().is_none()
    }

    /// Those that failed, with the reason.
    pub fn failures(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.checks.iter().filter_map(|(name, ended)| match ended {
            Ended::Failed(why) => Some((*name, why.as_str())),
            _ => None,
        })
    }

    /// Whether a check was run and holds.
    pub fn holds(&self, name: &str) -> bool {
        self.checks
            .iter()
            .any(|(n, e)| *n == name && *e == Ended::Passed)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, ended) in &self.checks {
            match ended {
                Ended::Passed => writeln!(f, "ok      {name}")?,
                Ended::Failed(why) => writeln!(f, "FAILED  {name}: {why}")?,
                Ended::NotDeclared(what) => writeln!(f, "-       {name} (no {what})")?,
            }
        }
        Ok(())
    }
}

/// The longest that one check may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs all checks, each on an instance of its own.
pub async fn run(compute: &dyn Compute) -> Report {
    let mut report = Report::default();
    let outcome = within(undeclared_verbs_fail_at_once(compute)).await;
    report.add("undeclared_verbs_fail_at_once", outcome);
    let can = compute.capabilities();
    for check in CHECKS {
        if let Some(missing) = check.needs.iter().find(|c| !can.has(**c)) {
            report
                .checks
                .push((check.name, Ended::NotDeclared(*missing)));
            continue;
        }
        let outcome = match launch(compute, LaunchSpec::new()).await {
            Err(why) => Err(why),
            Ok(instance) => {
                let outcome = within((check.run)(compute, &instance)).await;
                let _ = compute.delete(&instance.id).await;
                outcome
            }
        };
        report.add(check.name, outcome);
    }
    report
}

impl Report {
    fn add(&mut self, name: &'static str, outcome: Outcome) {
        let ended = outcome.map_or_else(Ended::Failed, |()| Ended::Passed);
        self.checks.push((name, ended));
    }
}

async fn within(check: impl Future<Output = Outcome>) -> Outcome {
    tokio::time::timeout(LIMIT, check)
        .await
        .unwrap_or_else(|_| Err(format!("not done after {LIMIT:?}")))
}

async fn launch(compute: &dyn Compute, spec: LaunchSpec) -> Result<Instance, String> {
    let instance = compute
        .launch(spec.label(LABEL, "1"))
        .await
        .map_err(words)?
        .wait()
        .await
        .map_err(words)?;
    equal("state after launch", &instance.state, &State::Running)?;
    Ok(instance)
}

fn words(e: Error) -> String {
    format!("{}: {e}", e.kind())
}

fn equal<T: PartialEq + fmt::Debug>(what: &str, got: &T, wanted: &T) -> Outcome {
    if got == wanted {
        return Ok(());
    }
    Err(format!("{what}: got {got:?}, wanted {wanted:?}"))
}

fn refused<T>(what: &str, result: boxrig_wire::Result<T>, kind: Kind) -> Outcome {
    match result {
        Ok(_) => Err(format!("{what} succeeded, wanted {kind}")),
        Err(e) if e.kind() == kind => Ok(()),
        Err(e) => Err(format!("{what}: wanted {kind}, got {}", words(e))),
    }
}

async fn shell(c: &dyn Compute, i: &Instance, line: &str) -> Result<String, String> {
    let out = c.run(&i.id, ExecSpec::shell(line)).await.map_err(words)?;
    if !out.status.success() {
        return Err(format!(
            "{line:?} ended with {:?}: {}",
            out.status,
            String::from_utf8_lossy(&out.stderr)
        ));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// A call of a verb on an id that cannot exist.
async fn try_verb(compute: &dyn Compute, what: Capability) -> Option<boxrig_wire::Result<()>> {
    const ID: &str = "boxrig-conformance-no-such-id";
    let stop = Power::Stop {
        force: true,
        grace: None,
    };
    Some(match what {
        Capability::Launch => compute.launch(LaunchSpec::new()).await.map(drop),
        Capability::Delete => compute.delete(ID).await,
        Capability::Start => compute.power(ID, Power::Start).await.map(drop),
        Capability::Stop => compute.power(ID, stop).await.map(drop),
        Capability::Restart => {
            let restart = Power::Restart { force: true };
            compute.power(ID, restart).await.map(drop)
        }
        Capability::Pause => compute.power(ID, Power::Pause).await.map(drop),
        Capability::Resume => compute.power(ID, Power::Resume).await.map(drop),
        Capability::Exec => compute.exec(ID, ExecSpec::new(["true"])).await.map(drop),
        Capability::ExecTty => {
            let spec = ExecSpec::new(["true"]).tty(TtySize::default());
            compute.exec(ID, spec).await.map(drop)
        }
        Capability::ExecStdin => {
            let spec = ExecSpec::new(["true"]).stdin(Stdin::Stream);
            compute.exec(ID, spec).await.map(drop)
        }
        Capability::ExecDetach => {
            let spec = ExecSpec::new(["true"]).kill_on_drop(false);
            compute.exec(ID, spec).await.map(drop)
        }
        Capability::Copy => {
            let spec = CopySpec::out_of_instance("/etc/hostname", "/nonexistent/x");
            compute.copy(ID, spec).await.map(drop)
        }
        Capability::Logs => compute.logs(ID, LogOptions::new()).await.map(drop),
        Capability::LogsFollow => {
            let options = LogOptions::new().follow(true);
            compute.logs(ID, options).await.map(drop)
        }
        Capability::Snapshot => compute.snapshot(ID, SnapshotSpec::new()).await.map(drop),
        Capability::Restore => compute.restore(ID, "none").await.map(drop),
        Capability::Fork => compute.fork(ID, ForkSpec::new()).await.map(drop),
        _ => return None,
    })
}

/// Everything undeclared is [`Kind::Unsupported`], before the platform could say that the id is unknown.
pub async fn undeclared_verbs_fail_at_once(compute: &dyn Compute) -> Outcome {
    let can = compute.capabilities();
    for what in Capability::ALL.iter().filter(|c| !can.has(**c)) {
        if let Some(result) = try_verb(compute, *what).await {
            refused(what.as_str(), result, Kind::Unsupported)?;
        }
    }
    Ok(())
}

async fn what_was_launched_is_listed(c: &dyn Compute, i: &Instance) -> Outcome {
    let all: Vec<Instance> = c
        .list(ListOptions::new().label(LABEL, "1"))
        .try_collect()
        .await
        .map_err(words)?;
    let Some(listed) = all.iter().find(|x| x.id == i.id) else {
        return Err("it is not in the list".to_owned());
    };
    let got = c.get(&i.id).await.map_err(words)?;
    for (what, instance) in [("list", listed), ("get", &got)] {
        equal(&format!("{what}: name"), &instance.name, &i.name)?;
        equal(&format!("{what}: state"), &instance.state, &State::Running)?;
        equal(&format!("{what}: labels"), &instance.labels, &i.labels)?;
    }
    if let Some(odd) = all.iter().find(|x| !x.labels.contains_key(LABEL)) {
        return Err(format!("the list by label holds {}", odd.id));
    }
    let none = c
        .list(ListOptions::new().label(LABEL, "no such value"))
        .try_collect::<Vec<_>>()
        .await
        .map_err(words)?;
    equal("list by another value", &none.len(), &0)
}

async fn an_unknown_id_is_not_found(c: &dyn Compute, _: &Instance) -> Outcome {
    const ID: &str = "00000000-0000-4000-8000-000000000000";
    refused("get", c.get(ID).await, Kind::NotFound)?;
    refused("delete", c.delete(ID).await, Kind::NotFound)?;
    let can = c.capabilities();
    for what in [Capability::Exec, Capability::Pause, Capability::Fork] {
        if can.has(what)
            && let Some(result) = try_verb(c, what).await
        {
            refused(what.as_str(), result, Kind::NotFound)?;
        }
    }
    Ok(())
}

async fn a_token_launches_once(c: &dyn Compute, _: &Instance) -> Outcome {
    let spec = LaunchSpec::new().token(uuid::Uuid::new_v4().simple().to_string());
    let first = launch(c, spec.clone()).await?;
    let second = launch(c, spec).await;
    let _ = c.delete(&first.id).await;
    let second = second?;
    if second.id != first.id {
        let _ = c.delete(&second.id).await;
    }
    equal("the second launch's id", &second.id, &first.id)
}

async fn output_and_status_are_told_apart(c: &dyn Compute, i: &Instance) -> Outcome {
    let spec = ExecSpec::shell("printf out; printf err >&2; exit 7");
    let out = c.run(&i.id, spec).await.map_err(words)?;
    if c.capabilities().has(Capability::ExecStderr) {
        equal("stdout", &&out.stdout[..], &&b"out"[..])?;
        equal("stderr", &&out.stderr[..], &&b"err"[..])?;
    } else {
        equal("output", &&out.stdout[..], &&b"outerr"[..])?;
    }
    equal("code", &out.status.code, &7)?;
    let argv = ExecSpec::new(["printf", "%s|", "a b", "'\"", "$HOME", ""]);
    let out = c.run(&i.id, argv).await.map_err(words)?;
    equal("arguments", &&out.stdout[..], &&b"a b|'\"|$HOME||"[..])
}

async fn a_missing_command_is_127(c: &dyn Compute, i: &Instance) -> Outcome {
    let out = c
        .run(&i.id, ExecSpec::new(["/no/such/command"]))
        .await
        .map_err(words)?;
    equal("code", &out.status.code, &127)
}

async fn directory_and_variables_reach_the_command(c: &dyn Compute, i: &Instance) -> Outcome {
    let spec = ExecSpec::shell("pwd; printf '%s' \"$X\"")
        .cwd("/tmp")
        .env("X", "a b'\"$c");
    let out = c.run(&i.id, spec).await.map_err(words)?;
    // An engine without isolation shows where its /tmp really is.
    let text = String::from_utf8_lossy(&out.stdout);
    let (dir, variable) = text.split_once('\n').unwrap_or((&text, ""));
    equal(&format!("in {dir:?}"), &dir.ends_with("/tmp"), &true)?;
    equal("variable", &variable, &"a b'\"$c")
}

async fn input_reaches_the_command(c: &dyn Compute, i: &Instance) -> Outcome {
    let input: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let spec = ExecSpec::new(["cat"]).stdin(Stdin::Bytes(input.clone().into()));
    let out = c.run(&i.id, spec).await.map_err(words)?;
    equal("bytes", &out.stdout.len(), &input.len())?;
    equal("content", &(out.stdout == input), &true)?;
    // Without input there is an end of file, not a command that waits for ever.
    let out = c.run(&i.id, ExecSpec::new(["cat"])).await.map_err(words)?;
    equal("no input", &out.stdout.len(), &0)
}

async fn much_output_is_whole(c: &dyn Compute, i: &Instance) -> Outcome {
    let spec = ExecSpec::shell("head -c 9000000 /dev/zero; printf end >&2");
    let out = c.run(&i.id, spec).await.map_err(words)?;
    if !c.capabilities().has(Capability::ExecStderr) {
        return equal("output", &out.stdout.len(), &9_000_003);
    }
    equal("stdout", &out.stdout.len(), &9_000_000)?;
    equal("stderr", &&out.stderr[..], &&b"end"[..])
}

async fn a_deadline_kills_the_command(c: &dyn Compute, i: &Instance) -> Outcome {
    let mut spec = ExecSpec::shell("echo $$ >deadline; echo before; sleep 1000");
    spec.timeout = Some(Duration::from_secs(1));
    let out = c.run(&i.id, spec).await.map_err(words)?;
    equal("timed out", &out.status.timed_out, &true)?;
    equal("what came before", &&out.stdout[..], &&b"before\n"[..])?;
    is_dead(c, i, "deadline").await
}

/// The process whose number is in `file` ends within ten seconds.
async fn is_dead(c: &dyn Compute, i: &Instance, file: &str) -> Outcome {
    let line = format!(
        "n=0; while kill -0 $(cat {file}) 2>/dev/null; do n=$((n+1)); [ $n -lt 100 ] || exit 1; sleep 0.1; done"
    );
    shell(c, i, &line)
        .await
        .map(drop)
        .map_err(|e| format!("the process goes on: {e}"))
}

async fn a_dropped_session_kills_the_command(c: &dyn Compute, i: &Instance) -> Outcome {
    let spec = ExecSpec::shell("echo $$ >dropped; echo started; exec sleep 1000");
    let mut session = c.exec(&i.id, spec).await.map_err(words)?;
    match session.next().await {
        Some(Ok(ExecEvent::Stdout(_))) => {}
        other => return Err(format!("first event: {other:?}")),
    }
    drop(session);
    is_dead(c, i, "dropped").await
}

async fn input_is_written_while_it_runs(c: &dyn Compute, i: &Instance) -> Outcome {
    let spec = ExecSpec::new(["cat"]).stdin(Stdin::Stream);
    let mut session = c.exec(&i.id, spec).await.map_err(words)?;
    let control = session.control();
    let mut all = Vec::new();
    for part in ["one", "two"] {
        control.write(part.into()).await.map_err(words)?;
        let before = all.len();
        while all.len() < before + part.len() {
            match session.next().await {
                Some(Ok(ExecEvent::Stdout(data))) => all.extend_from_slice(&data),
                other => return Err(format!("after {part:?}: {other:?}")),
            }
        }
    }
    control.close().await.map_err(words)?;
    let rest = session.output(1 << 20).await.map_err(words)?;
    all.extend_from_slice(&rest.stdout);
    equal("echo", &&all[..], &&b"onetwo"[..])?;
    equal("code", &rest.status.code, &0)
}

async fn a_signal_ends_the_command(c: &dyn Compute, i: &Instance) -> Outcome {
    let spec = ExecSpec::shell("trap 'kill $!; exit 42' TERM; sleep 100 & echo ready; wait");
    let mut session = c.exec(&i.id, spec).await.map_err(words)?;
    match session.next().await {
        Some(Ok(ExecEvent::Stdout(_))) => {}
        other => return Err(format!("first event: {other:?}")),
    }
    session.control().signal(15).await.map_err(words)?;
    let status = session.wait().await.map_err(words)?;
    equal("code", &status.code, &42)
}

async fn a_terminal_has_its_size(c: &dyn Compute, i: &Instance) -> Outcome {
    // Sizes and input may travel on sockets of their own, and one overtake the other.
    let script = "stty size; read x; for i in 1 2 3 4 5 6 7 8 9; do \
                  [ \"$(stty size)\" = '33 77' ] && break; sleep 1; done; stty size; [ -t 1 ]";
    let spec = ExecSpec::shell(script)
        .tty(TtySize { cols: 91, rows: 17 })
        .stdin(Stdin::Stream);
    let mut session = c.exec(&i.id, spec).await.map_err(words)?;
    let control = session.control();
    let mut seen = String::new();
    let mut resized = false;
    while let Some(event) = session.next().await {
        match event.map_err(words)? {
            ExecEvent::Stdout(data) => seen.push_str(&String::from_utf8_lossy(&data)),
            ExecEvent::Stderr(_) => return Err("a terminal has one output".to_owned()),
            ExecEvent::Exit(status) => {
                equal("code", &status.code, &0)?;
                let sizes = seen.contains("17 91") && seen.contains("33 77");
                return equal(&format!("sizes in {seen:?}"), &sizes, &true);
            }
        }
        if !resized && seen.contains("17 91") {
            resized = true;
            let size = TtySize { cols: 77, rows: 33 };
            match control.resize(size).await {
                // A terminal that keeps its first size must say so.
                Err(e) if e.kind() == Kind::Unsupported => return Ok(()),
                resized => resized.map_err(words)?,
            }
            control.write("\n".into()).await.map_err(words)?;
        }
    }
    Err(format!("no exit status after {seen:?}"))
}

/// A scratch directory of this process, removed when dropped.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new() -> Result<Self, String> {
        let name = format!("boxrig-conformance-{}", uuid::Uuid::new_v4().simple());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir(&dir).map_err(|e| e.to_string())?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn a_file_survives_both_ways(c: &dyn Compute, i: &Instance) -> Outcome {
    let scratch = Scratch::new()?;
    for (n, size) in [0usize, 1, 3_000_000].into_iter().enumerate() {
        let content: Vec<u8> = (0..size).map(|k| (k * 31 + k / 251) as u8).collect();
        let (here, back) = (
            scratch.0.join(format!("{n}")),
            scratch.0.join(format!("{n}.back")),
        );
        std::fs::write(&here, &content).map_err(|e| e.to_string())?;
        let there = format!("/tmp/a 'b\" ü-{n}");
        let spec = CopySpec::into_instance(&here, &there);
        c.copy(&i.id, spec).await.map_err(words)?;
        let spec = CopySpec::out_of_instance(&there, &back);
        c.copy(&i.id, spec).await.map_err(words)?;
        let got = std::fs::read(&back).map_err(|e| e.to_string())?;
        equal(&format!("{size} bytes"), &(got == content), &true)?;
    }
    Ok(())
}

async fn a_directory_survives_both_ways(c: &dyn Compute, i: &Instance) -> Outcome {
    let scratch = Scratch::new()?;
    let io = |e: std::io::Error| e.to_string();
    let (here, back) = (scratch.0.join("d"), scratch.0.join("back"));
    std::fs::create_dir_all(here.join("sub/empty")).map_err(io)?;
    std::fs::write(here.join("sub/file"), "content").map_err(io)?;
    std::fs::write(here.join("empty file"), "").map_err(io)?;
    #[cfg(unix)]
    std::os::unix::fs::symlink("sub/file", here.join("link")).map_err(io)?;
    let spec = CopySpec::into_instance(&here, "/tmp/new dir");
    c.copy(&i.id, spec).await.map_err(words)?;
    let spec = CopySpec::out_of_instance("/tmp/new dir", &back);
    c.copy(&i.id, spec).await.map_err(words)?;
    let file = std::fs::read_to_string(back.join("sub/file")).map_err(io)?;
    equal("file", &file.as_str(), &"content")?;
    equal("empty directory", &back.join("sub/empty").is_dir(), &true)?;
    equal("empty file", &back.join("empty file").is_file(), &true)?;
    #[cfg(unix)]
    {
        let target = std::fs::read_link(back.join("link")).map_err(io)?;
        equal("link", &target.to_str(), &Some("sub/file"))?;
    }
    Ok(())
}

async fn a_missing_file_is_not_found(c: &dyn Compute, i: &Instance) -> Outcome {
    let scratch = Scratch::new()?;
    let spec = CopySpec::out_of_instance("/tmp/no such file", scratch.0.join("x"));
    refused("copy out", c.copy(&i.id, spec).await, Kind::NotFound)?;
    equal("a file was made", &scratch.0.join("x").exists(), &false)?;
    let spec = CopySpec::into_instance(scratch.0.join("none"), "/tmp/x");
    refused("copy in", c.copy(&i.id, spec).await, Kind::NotFound)
}

async fn paused_and_resumed(c: &dyn Compute, i: &Instance) -> Outcome {
    for _ in 0..2 {
        // Twice: asking for the state it is in is no error.
        let now = c.power(&i.id, Power::Pause).await.map_err(words)?;
        equal("state", &now.state, &State::Paused)?;
    }
    let waiting = Waiting::new(WaitFor::Paused);
    c.wait(&i.id, waiting).await.map_err(words)?;
    for _ in 0..2 {
        c.power(&i.id, Power::Resume).await.map_err(words)?;
    }
    let waiting = Waiting::new(WaitFor::Running);
    c.wait(&i.id, waiting).await.map_err(words).map(drop)
}

async fn stopped_and_started(c: &dyn Compute, i: &Instance) -> Outcome {
    let stop = Power::Stop {
        force: true,
        grace: None,
    };
    let now = c.power(&i.id, stop).await.map_err(words)?;
    equal("state", &now.state, &State::Stopped)?;
    let waiting = Waiting::new(WaitFor::Running).timeout(Duration::from_secs(5));
    refused("wait", c.wait(&i.id, waiting).await, Kind::Failed)?;
    let now = c.power(&i.id, Power::Start).await.map_err(words)?;
    equal("state", &now.state, &State::Running)
}

async fn a_snapshot_brings_files_back(c: &dyn Compute, i: &Instance) -> Outcome {
    shell(c, i, "echo old >f").await?;
    let made = c.snapshot(&i.id, SnapshotSpec::new().name("keep"));
    let snapshot = made.await.map_err(words)?.wait().await.map_err(words)?;
    shell(c, i, "echo new >f; echo x >g").await?;
    let restored = c.restore(&i.id, &snapshot.id).await.map_err(words)?;
    let now = restored.wait().await.map_err(words)?;
    equal("id", &now.id, &i.id)?;
    let files = shell(c, i, "cat f; [ ! -e g ] || echo g").await?;
    equal("files", &files.as_str(), &"old\n")
}

async fn an_instance_from_a_snapshot_has_its_files(c: &dyn Compute, i: &Instance) -> Outcome {
    shell(c, i, "echo kept >f").await?;
    let made = c
        .snapshot(&i.id, SnapshotSpec::new())
        .await
        .map_err(words)?;
    let snapshot = made.wait().await.map_err(words)?;
    let second = launch(c, LaunchSpec::new().snapshot(&snapshot.id)).await?;
    let file = shell(c, &second, "cat f").await;
    let _ = c.delete(&second.id).await;
    equal("file", &file?.as_str(), &"kept\n")
}

async fn a_fork_has_the_files_and_its_own_life(c: &dyn Compute, i: &Instance) -> Outcome {
    shell(c, i, "echo one >f").await?;
    let made = c.fork(&i.id, ForkSpec::new()).await.map_err(words)?;
    let fork = made.wait().await.map_err(words)?;
    let outcome = async {
        equal("the same instance", &(fork.id == i.id), &false)?;
        equal(
            "file",
            &shell(c, &fork, "cat f; echo two >f").await?.as_str(),
            &"one\n",
        )?;
        equal(
            "the original",
            &shell(c, i, "cat f").await?.as_str(),
            &"one\n",
        )
    }
    .await;
    let _ = c.delete(&fork.id).await;
    outcome
}

async fn logs_can_be_read(c: &dyn Compute, i: &Instance) -> Outcome {
    let logs = c.logs(&i.id, LogOptions::new()).await.map_err(words)?;
    logs.try_for_each(|_| async { Ok(()) }).await.map_err(words)
}

async fn deleted_is_gone(c: &dyn Compute, i: &Instance) -> Outcome {
    c.delete(&i.id).await.map_err(words)?;
    let waiting = Waiting::new(WaitFor::Gone).timeout(Duration::from_secs(30));
    c.wait(&i.id, waiting).await.map_err(words)?;
    refused("get", c.get(&i.id).await, Kind::NotFound)?;
    if c.capabilities().has(Capability::Exec) {
        let spec = ExecSpec {
            command: Command::Shell("true".to_owned()),
            ..ExecSpec::new(["true"])
        };
        refused("exec", c.exec(&i.id, spec).await, Kind::NotFound)?;
    }
    Ok(())
}
