//! The conformance suite finds what is wrong: a small backend that passes it, and one defect at a time.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use boxrig_compute::{
    Capabilities, Capability, Compute, ExecControl, ExecEvent, ExecSession, ExecSpec, ExitStatus,
    Instance, LaunchSpec, ListOptions, Platform, Power, State, TtySize, conformance, ready,
};
use boxrig_wire::{BoxFuture, BoxStream, Error, Kind, Operation, Result};
use bytes::Bytes;
use futures_util::{StreamExt, stream};

/// What the backend does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Defect {
    None,
    /// A deleted instance stays.
    KeepsDeleted,
    /// Every launch makes an instance.
    IgnoresTokens,
    /// An unknown id is an empty instance.
    InventsInstances,
    /// A list takes no notice of labels.
    ListsAll,
    /// What is not declared is tried all the same.
    TriesUndeclared,
    /// Standard error goes to standard output.
    MixesStreams,
    /// The events end without an exit status.
    EndsSilently,
    /// A launch answers before the instance runs.
    AnswersEarly,
}

#[derive(Debug)]
struct Fake {
    defect: Defect,
    instances: Mutex<BTreeMap<String, Instance>>,
}

impl Fake {
    fn new(defect: Defect) -> Self {
        Self {
            defect,
            instances: Mutex::default(),
        }
    }

    fn find(&self, id: &str) -> Result<Instance> {
        match self.instances.lock().unwrap().get(id) {
            Some(found) => Ok(found.clone()),
            None if self.defect == Defect::InventsInstances => {
                Ok(Instance::new(Platform::Local, "fake", id))
            }
            None => Err(Error::new(Kind::NotFound, "no such instance")),
        }
    }
}

impl Compute for Fake {
    fn platform(&self) -> Platform {
        Platform::Local
    }
    fn context(&self) -> &str {
        "fake"
    }
    fn capabilities(&self) -> Capabilities {
        use Capability as C;
        Capabilities::new(
            "fake",
            &[
                C::List,
                C::Launch,
                C::ExactlyOnce,
                C::Delete,
                C::Exec,
                C::ExecStderr,
            ],
        )
    }
    fn native(&self) -> &dyn Any {
        self
    }
    fn list(&self, options: ListOptions) -> BoxStream<'_, Result<Instance>> {
        let all: Vec<_> = self.instances.lock().unwrap().values().cloned().collect();
        let meant = |i: &Instance| self.defect == Defect::ListsAll || options.matches(i);
        let meant: Vec<_> = all.into_iter().filter(meant).map(Ok).collect();
        stream::iter(meant).boxed()
    }
    fn get<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Instance>> {
        Box::pin(async move { self.find(id) })
    }
    fn launch(&self, spec: LaunchSpec) -> BoxFuture<'_, Result<Operation<Instance>>> {
        Box::pin(async move {
            let mut all = self.instances.lock().unwrap();
            let id = if self.defect == Defect::IgnoresTokens {
                format!("i{}", all.len())
            } else {
                spec.token.clone()
            };
            let made = all.entry(id.clone()).or_insert_with(|| {
                let mut i = Instance::new(Platform::Local, "fake", &*id);
                i.labels = spec.labels;
                i.state = State::Running;
                i
            });
            let mut told = made.clone();
            if self.defect == Defect::AnswersEarly {
                told.state = State::Starting;
            }
            Ok(ready(id, told))
        })
    }
    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.find(id)?;
            if self.defect != Defect::KeepsDeleted {
                self.instances.lock().unwrap().remove(id);
            }
            Ok(())
        })
    }
    fn power<'a>(&'a self, id: &'a str, power: Power) -> BoxFuture<'a, Result<Instance>> {
        Box::pin(async move {
            if self.defect != Defect::TriesUndeclared {
                self.capabilities().require(power.capability())?;
            }
            self.find(id)
        })
    }
    /// Runs it here, in a folder of its own.
    fn exec<'a>(&'a self, id: &'a str, spec: ExecSpec) -> BoxFuture<'a, Result<ExecSession>> {
        Box::pin(async move {
            let can = self.capabilities();
            if spec.tty.is_some() {
                can.require(Capability::ExecTty)?;
            }
            if spec.stdin == boxrig_compute::Stdin::Stream {
                can.require(Capability::ExecStdin)?;
            }
            if !spec.kill_on_drop {
                can.require(Capability::ExecDetach)?;
            }
            self.find(id)?;
            let events = run(self.defect, &spec);
            Ok(ExecSession::new(
                stream::iter(events).boxed(),
                Arc::new(NoControl),
            ))
        })
    }
}

/// As much of a shell as the checks that these tests are about need.
fn run(defect: Defect, spec: &ExecSpec) -> Vec<Result<ExecEvent>> {
    let argv = spec.wrapped_argv();
    let err = |text: &'static str| match defect {
        Defect::MixesStreams => ExecEvent::Stdout(text.into()),
        _ => ExecEvent::Stderr(text.into()),
    };
    let mut events = match argv.last().map(String::as_str) {
        Some("printf out; printf err >&2; exit 7") => {
            vec![
                ExecEvent::Stdout("out".into()),
                err("err"),
                ExecEvent::Exit(ExitStatus::new(7)),
            ]
        }
        Some("/no/such/command") => vec![ExecEvent::Exit(ExitStatus::new(127))],
        _ => {
            let words: Vec<u8> = argv
                .get(2..)
                .unwrap_or_default()
                .iter()
                .flat_map(|w| format!("{w}|").into_bytes())
                .collect();
            vec![
                ExecEvent::Stdout(words.into()),
                ExecEvent::Exit(ExitStatus::new(0)),
            ]
        }
    };
    if defect == Defect::EndsSilently {
        events.pop();
    }
    events.into_iter().map(Ok).collect()
}

struct NoControl;

impl ExecControl for NoControl {
    fn write(&self, _: Bytes) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }
    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }
    fn resize(&self, _: TtySize) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }
    fn signal(&self, _: i32) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

/// The checks that say something about this backend; it runs no real commands.
const ABOUT: &[&str] = &[
    "undeclared_verbs_fail_at_once",
    "what_was_launched_is_listed",
    "an_unknown_id_is_not_found",
    "a_token_launches_once",
    "output_and_status_are_told_apart",
    "a_missing_command_is_127",
    "deleted_is_gone",
];

async fn failing(defect: Defect) -> Vec<&'static str> {
    let report = conformance::run(&Fake::new(defect)).await;
    let failed: Vec<_> = report.failures().map(|(name, _)| name).collect();
    ABOUT
        .iter()
        .copied()
        .filter(|name| failed.contains(name) || !report.holds(name))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_sound_backend_passes() {
    assert_eq!(failing(Defect::None).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn each_defect_is_found() {
    for (defect, check) in [
        (Defect::KeepsDeleted, "deleted_is_gone"),
        (Defect::IgnoresTokens, "a_token_launches_once"),
        (Defect::InventsInstances, "an_unknown_id_is_not_found"),
        (Defect::ListsAll, "what_was_launched_is_listed"),
        (Defect::TriesUndeclared, "undeclared_verbs_fail_at_once"),
        (Defect::MixesStreams, "output_and_status_are_told_apart"),
        (Defect::EndsSilently, "output_and_status_are_told_apart"),
        (Defect::AnswersEarly, "what_was_launched_is_listed"),
    ] {
        let failed = failing(defect).await;
        assert!(failed.contains(&check), "{defect:?}: {failed:?}");
    }
}
