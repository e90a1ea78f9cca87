//! Running commands: one answer at the end, or events as they happen.
//!
//! A command lives as long as somebody listens: when the connection ends, its process group is killed.

use std::collections::VecDeque;
use std::time::Duration;

use boxrig_engine::{Exec, ExecSpec, ExitStatus};
use boxrig_fastvm::{ExecEvent, ExecExit, ExecReply, ExecResponse, Extra, ops};
use boxrig_wire::{ApiError, Lines, Request};
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Cx;
use super::state::{engine_error, instance, not_running};
use super::view::millis;

/// What is kept of each stream in the buffered form: 4 MiB, as documented.
const CAP: usize = 4 * 1024 * 1024;
/// The most bytes of one event.
const CHUNK: usize = 32 * 1024;
/// Events that may be ready before the connection takes them; a command that writes faster waits.
const AHEAD: usize = 4;
/// When the command has ended, output counts as complete after this long without any: a process left in the
/// background may hold the pipe for ever.
const QUIET: Duration = Duration::from_millis(100);
/// And after this much: all that a pipe can have held at the command's end.
const LEFT_IN_PIPE: usize = 1024 * 1024;
/// How long a killed command may take to be gone before it is reported all the same.
const KILL_PATIENCE: Duration = Duration::from_secs(5);
/// The longest time limit: a year. Larger ones are the same as none.
const LONGEST: u64 = 31_536_000;
const SIGKILL: i32 = 9;

pub(super) async fn exec(cx: Cx, rq: Request<ops::ExecVm>) -> Result<ExecReply, ApiError> {
    let (id,) = rq.path;
    let request = rq.body.0;
    let argv = request.command.into_argv();
    if argv.first().is_none_or(String::is_empty) {
        return Err(ApiError::invalid(
            "command: its first element must not be empty",
        ));
    }
    if argv.iter().any(|part| part.contains('\0')) {
        return Err(ApiError::invalid("command: must not hold a NUL"));
    }
    let limit = time_limit(request.timeout_sec)?;
    cx.state.running(&id)?;
    let mut spec = ExecSpec::new(argv);
    spec.stdin = request.stdin.as_ref().is_some_and(|s| !s.0.is_empty());
    let started = Instant::now();
    let outcome = match cx.state.core.engine.exec(&instance(&id)?, spec).await {
        Ok(exec) => Output::new(exec, request.stdin.map(|s| s.0), started, limit),
        Err(e) => not_started(&e, started)?,
    };
    if wants_events(rq.headers.accept.as_deref()) {
        let heartbeat = rq.headers.heartbeat.filter(|s| *s > 0);
        let heartbeat = heartbeat.map(|s| Duration::from_secs(s.into()));
        Ok(ExecReply::Events(events(outcome, heartbeat)))
    } else {
        Ok(ExecReply::Whole(whole(outcome).await))
    }
}

/// Reads `timeoutSec`.
pub(super) fn time_limit(seconds: Option<u64>) -> Result<Option<Duration>, ApiError> {
    match seconds {
        Some(0) => Err(ApiError::invalid("timeoutSec: 1 or more is wanted")),
        Some(seconds) if seconds < LONGEST => Ok(Some(Duration::from_secs(seconds))),
        _ => Ok(None),
    }
}

/// Whether `Accept` names the streaming form before the buffered one.
fn wants_events(accept: Option<&str>) -> bool {
    accept
        .unwrap_or_default()
        .split(',')
        .filter_map(|item| item.split(';').next())
        .find_map(|media| match media.trim() {
            m if m.eq_ignore_ascii_case("application/x-ndjson") => Some(true),
            m if m.eq_ignore_ascii_case("application/json") || m == "*/*" => Some(false),
            _ => None,
        })
        .unwrap_or(false)
}

/// A command that could not be started is one that ended as a shell says (126, 127), with the reason on standard
/// error. Everything else is an error of the call.
fn not_started(e: &boxrig_engine::Error, started: Instant) -> Result<Output, ApiError> {
    use boxrig_engine::Kind;
    let code = match e.kind() {
        Kind::InvalidState | Kind::NotFound | Kind::Gone => return Err(not_running("not ready")),
        // No process left to be had: the command cannot be executed.
        Kind::Limit => 126,
        _ => e.shell_code().ok_or_else(|| engine_error(e))?,
    };
    Ok(Output {
        exec: None,
        input: JoinSet::new(),
        started,
        deadline: None,
        timed_out: false,
        status: Some(ExitStatus::Code(code)),
        quiet_at: None,
        left: LEFT_IN_PIPE,
        stdout: Pipe::default(),
        stderr: Pipe::default(),
        ready: VecDeque::from([Event::Stderr(format!("{e}\n").into())]),
    })
}

/// What a command does.
enum Event {
    Stdout(Bytes),
    Stderr(Bytes),
    Exit(ExecExit),
}

/// One of a command's output streams.
#[derive(Default)]
struct Pipe {
    buffer: BytesMut,
    /// No more is read.
    done: bool,
}

impl Pipe {
    /// The next chunk; empty at the end. Safe to drop and call again.
    async fn read(&mut self, from: Option<&mut boxrig_engine::BoxReader>) -> Bytes {
        let Some(from) = from else {
            return Bytes::new();
        };
        self.buffer.reserve(CHUNK);
        let mut limited = AsyncReadExt::take(from, CHUNK as u64);
        // A stream that breaks is one that ends.
        let _ = limited.read_buf(&mut self.buffer).await;
        self.buffer.split().freeze()
    }
}

/// The output of a command and its end.
struct Output {
    /// `None`: it was never started.
    exec: Option<Exec>,
    /// The task that writes standard input; ends with this value.
    input: JoinSet<()>,
    started: Instant,
    deadline: Option<Instant>,
    timed_out: bool,
    status: Option<ExitStatus>,
    /// When nobody is expected to write any more.
    quiet_at: Option<Instant>,
    left: usize,
    stdout: Pipe,
    stderr: Pipe,
    ready: VecDeque<Event>,
}

impl Output {
    fn new(
        mut exec: Exec,
        input: Option<Bytes>,
        started: Instant,
        limit: Option<Duration>,
    ) -> Self {
        let mut writing = JoinSet::new();
        if let Some(mut stdin) = exec.stdin.take() {
            let input = input.unwrap_or_default();
            writing.spawn(async move {
                // A command need not read what it is given.
                let _ = stdin.write_all(&input).await;
                let _ = stdin.shutdown().await;
            });
        }
        Self {
            stderr: Pipe {
                done: exec.stderr.is_none(),
                ..Pipe::default()
            },
            exec: Some(exec),
            input: writing,
            started,
            deadline: limit.map(|limit| started + limit),
            timed_out: false,
            status: None,
            quiet_at: None,
            left: LEFT_IN_PIPE,
            stdout: Pipe::default(),
            ready: VecDeque::new(),
        }
    }

    /// The next event; the exit is the last. Safe to drop and call again.
    async fn next(&mut self) -> Event {
        if let Some(event) = self.ready.pop_front() {
            return event;
        }
        loop {
            let Some(exec) = &mut self.exec else {
                return self.exit();
            };
            let over = self.stdout.done && self.stderr.done;
            if self.status.is_some() && (over || self.left == 0) {
                return self.exit();
            }
            let timer = match self.status {
                Some(_) => self.quiet_at,
                None => self.deadline,
            };
            tokio::select! {
                chunk = self.stdout.read(Some(&mut exec.stdout)), if !self.stdout.done => {
                    if chunk.is_empty() {
                        self.stdout.done = true;
                        continue;
                    }
                    self.seen(&chunk);
                    return Event::Stdout(chunk);
                }
                chunk = self.stderr.read(exec.stderr.as_mut()), if !self.stderr.done => {
                    if chunk.is_empty() {
                        self.stderr.done = true;
                        continue;
                    }
                    self.seen(&chunk);
                    return Event::Stderr(chunk);
                }
                status = exec.control.wait(), if self.status.is_none() => {
                    // The machine ended under the command: nothing else is known than that it was killed.
                    self.status = Some(status.unwrap_or(ExitStatus::Signal(SIGKILL)));
                    self.quiet_at = Some(Instant::now() + QUIET);
                }
                () = sleep_until(timer), if timer.is_some() => {
                    if self.status.is_some() {
                        return self.exit();
                    }
                    if self.timed_out {
                        self.status = Some(ExitStatus::Signal(SIGKILL));
                        self.quiet_at = Some(Instant::now());
                        continue;
                    }
                    self.timed_out = true;
                    self.deadline = Some(Instant::now() + KILL_PATIENCE);
                    let _ = exec.control.signal(SIGKILL).await;
                }
            }
        }
    }

    fn seen(&mut self, chunk: &Bytes) {
        if self.status.is_some() {
            self.quiet_at = Some(Instant::now() + QUIET);
            self.left = self.left.saturating_sub(chunk.len());
        }
    }

    fn exit(&mut self) -> Event {
        self.exec = None;
        self.input.abort_all();
        let status = self.status.unwrap_or(ExitStatus::Signal(SIGKILL));
        Event::Exit(ExecExit {
            code: status.shell_code(),
            timed_out: self.timed_out,
            duration_ms: millis(self.started.elapsed()),
            ..ExecExit::default()
        })
    }
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at).await;
    }
}

/// One stream of the buffered form.
#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    truncated: bool,
}

impl Kept {
    fn add(&mut self, chunk: &[u8]) {
        let room = CAP - self.bytes.len();
        self.bytes
            .extend_from_slice(&chunk[..chunk.len().min(room)]);
        self.truncated |= chunk.len() > room;
    }

    /// As text; a character that the cap cut in two is left out.
    fn text(mut self) -> (String, bool) {
        if self.truncated
            && let Err(e) = std::str::from_utf8(&self.bytes)
            && e.error_len().is_none()
        {
            self.bytes.truncate(e.valid_up_to());
        }
        let text = match String::from_utf8(self.bytes) {
            Ok(text) => text,
            Err(e) => String::from_utf8_lossy(e.as_bytes()).into_owned(),
        };
        (text, self.truncated)
    }
}

async fn whole(mut output: Output) -> ExecResponse {
    let (mut out, mut err) = (Kept::default(), Kept::default());
    loop {
        match output.next().await {
            Event::Stdout(chunk) => out.add(&chunk),
            Event::Stderr(chunk) => err.add(&chunk),
            Event::Exit(exit) => {
                let (stdout, stdout_truncated) = out.text();
                let (stderr, stderr_truncated) = err.text();
                return ExecResponse {
                    exit_code: exit.code,
                    stdout,
                    stderr,
                    timed_out: exit.timed_out,
                    stdout_truncated,
                    stderr_truncated,
                    duration_ms: exit.duration_ms,
                    ..ExecResponse::default()
                };
            }
        }
    }
}

/// The events as lines. The command waits while the connection does not take them, and ends with it.
fn events(mut output: Output, heartbeat: Option<Duration>) -> Lines<ExecEvent> {
    let (sender, mut receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        loop {
            let event = tokio::select! {
                biased;
                () = sender.closed() => return,
                event = output.next() => event,
                () = tokio::time::sleep(heartbeat.unwrap_or_default()), if heartbeat.is_some() => {
                    // An event without members: readers pass over it.
                    if sender.send(Ok(ExecEvent::Other(Extra::new()))).await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            let (event, last) = match event {
                Event::Stdout(chunk) => (ExecEvent::Stdout(chunk), false),
                Event::Stderr(chunk) => (ExecEvent::Stderr(chunk), false),
                Event::Exit(exit) => (ExecEvent::Exit(exit), true),
            };
            if sender.send(Ok(event)).await.is_err() || last {
                return;
            }
        }
    });
    Lines::new(stream::poll_fn(move |cx| receiver.poll_recv(cx)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_chosen_by_accept() {
        for (accept, events) in [
            (None, false),
            (Some("*/*"), false),
            (Some("application/json"), false),
            (Some("application/x-ndjson"), true),
            (Some("Application/X-NDJSON; q=0.9"), true),
            (Some("application/x-ndjson, application/json"), true),
            (Some("application/json, application/x-ndjson"), false),
            (Some("text/plain"), false),
        ] {
            assert_eq!(wants_events(accept), events, "{accept:?}");
        }
    }

    #[test]
    fn the_cap_cuts_no_character() {
        let mut kept = Kept::default();
        kept.add(&vec![b'x'; CAP - 1]);
        kept.add("ü!".as_bytes());
        kept.add(b"more");
        let (text, truncated) = kept.text();
        assert!(truncated);
        assert_eq!(text.len(), CAP - 1);
        let mut kept = Kept::default();
        kept.add(&vec![b'x'; CAP]);
        assert!(!kept.truncated, "exactly full is not cut");
        kept.add(b"y");
        assert!(kept.truncated);
        let mut kept = Kept::default();
        kept.add(b"a\xffb");
        assert_eq!(kept.text().0, "a\u{fffd}b");
    }

    #[test]
    fn time_limits() {
        assert!(time_limit(Some(0)).is_err());
        assert_eq!(time_limit(None).unwrap(), None);
        assert_eq!(
            time_limit(Some(600)).unwrap(),
            Some(Duration::from_secs(600))
        );
        assert_eq!(time_limit(Some(u64::MAX)).unwrap(), None);
    }
}
