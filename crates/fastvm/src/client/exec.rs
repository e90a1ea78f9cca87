//! Commands: run to the end, or streamed.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use boxrig_wire::{
    BodyError, ByteReply, Decoding, Endpoint, Error, Json, Kind, Lines, Meta, NoParams, Protocol,
    Result, Timeout, WireBody,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::header::CONTENT_TYPE;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::vms::Vms;
use crate::ops::{self, ExecHeaders};
use crate::protocol::FastVm;
use crate::types::*;

/// How much longer than the command's own timeout a call may take before the client gives up on it.
const SLACK: Duration = Duration::from_secs(30);
/// What the service keeps of each stream in the buffered form, in bytes.
const CAP: usize = 4 * 1024 * 1024;
/// The exit code of a command that was ended by [`Exec::deadline`], as `timeout(1)` gives it.
const DEADLINE_EXIT: i32 = 124;

/// A command and how it is run. A string is a line for `sh -c`, a list goes as it is.
///
/// ```
/// use boxrig_fastvm::Exec;
/// use std::time::Duration;
/// let exec = Exec::new(["cat"]).stdin("hello").timeout(Duration::from_secs(5));
/// ```
#[derive(Clone, Default)]
pub struct Exec {
    command: Command,
    stdin: Option<Bytes>,
    timeout: Option<Duration>,
    deadline: Option<Duration>,
    idle: Option<Duration>,
    outlive: bool,
}

impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What a command reads and its arguments may be secret.
        f.debug_struct("Exec")
            .field("program", &self.command.argv().first())
            .field("timeout", &self.timeout)
            .field("deadline", &self.deadline)
            .field("idle", &self.idle)
            .finish_non_exhaustive()
    }
}

impl<T: Into<Command>> From<T> for Exec {
    fn from(command: T) -> Self {
        Self::new(command)
    }
}

impl Exec {
    /// A command.
    pub fn new(command: impl Into<Command>) -> Self {
        Self {
            command: command.into(),
            ..Self::default()
        }
    }
    /// With this on its standard input, which is closed after it. The API has no input that is written while the command
    /// runs; the console has.
    pub fn stdin(mut self, bytes: impl Into<Bytes>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }
    /// The service ends the command after this time (rounded up to seconds): a result with `timed_out`.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
    /// The client ends the command after this time, whatever the service does: it closes the connection, on which boxrig's
    /// server kills the command's process group (what the hosted service does is not documented). What came until then is
    /// given. 30 s after `timeout` when that is set, else none.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }
    /// A stream on which nothing came for this time is given up. Boxrig's server is asked for heartbeats, so that a quiet
    /// command is told from a dead connection; other services send none, and quiet commands then end here too.
    pub fn idle_timeout(mut self, idle: Duration) -> Self {
        self.idle = Some(idle);
        self
    }
    /// Lets the command go on when its stream is dropped, as long as this process lives: its output is read and thrown away. By
    /// default dropping the stream closes the connection, which ends the command. The protocol has no way to leave
    /// a command running and come back to it.
    pub fn outlive_stream(mut self) -> Self {
        self.outlive = true;
        self
    }

    fn request(&self) -> Result<ExecRequest> {
        if self.command.argv().first().is_none_or(String::is_empty) {
            return Err(Error::new(Kind::Invalid, "the command is empty").with_operation("execVm"));
        }
        Ok(ExecRequest {
            command: self.command.clone(),
            stdin: self.stdin.clone().map(Base64),
            timeout_sec: self.timeout.map(whole_seconds),
            ..ExecRequest::default()
        })
    }
}

/// Whole seconds, rounded up, at least one: 0 must never read as "no limit".
pub(super) fn whole_seconds(d: Duration) -> u64 {
    (d.as_secs() + u64::from(d.subsec_nanos() > 0)).max(1)
}

pub(super) async fn run(vms: &Vms<'_>, id: &str, exec: Exec) -> Result<ExecResponse> {
    if exec.deadline.is_some() {
        // The buffered form gives nothing until the end, so what came until a deadline must be collected here.
        return stream(vms, id, exec).await?.collect_capped().await;
    }
    let request = exec.request()?;
    let mut options = vms.options.clone();
    let limit = match options.timeout {
        Timeout::After(d) => Some(d),
        Timeout::Never => None,
        Timeout::Default => vms
            .client
            .caller()
            .timeout()
            .map(|d| exec.timeout.map_or(d, |t| d.max(t + SLACK))),
    };
    options.timeout = limit.map_or(Timeout::Never, Timeout::After);
    let headers = ExecHeaders {
        accept: Some("application/json".to_owned()),
        heartbeat: None,
    };
    let call = vms.client.call::<ops::ExecVm>(
        (id.to_owned(),),
        NoParams,
        headers,
        Json(request),
        &options,
    );
    // The transport's limit is for the headers; the body of the buffered form is under the same.
    let reply = match limit {
        None => call.await?,
        Some(limit) => tokio::time::timeout(limit + Duration::from_millis(100), call)
            .await
            .map_err(|_| {
                Error::new(
                    Kind::OutcomeUnknown,
                    "the answer did not come to its end in time",
                )
                .with_operation("execVm")
            })??,
    };
    match reply {
        ExecReply::Whole(whole) => Ok(whole),
        // A server that knows only the other form.
        ExecReply::Events(events) => {
            let stream = ExecStream::new(Box::pin(events), None, false, None);
            stream.collect_capped().await
        }
    }
}

/// Exec with its reply unread: the stream is parsed here, under its own clocks.
struct StreamExec;

impl Endpoint for StreamExec {
    type Protocol = FastVm;
    type Path = (String,);
    type Query = NoParams;
    type Headers = ExecHeaders;
    type Body = Json<ExecRequest>;
    type Reply = ByteReply;
    const META: &'static Meta = ops::ExecVm::META;
}

pub(super) async fn stream(vms: &Vms<'_>, id: &str, exec: Exec) -> Result<ExecStream> {
    let request = exec.request()?;
    let headers = ExecHeaders {
        accept: Some(NDJSON.to_owned()),
        heartbeat: exec
            .idle
            .map(|d| u32::try_from(whole_seconds(d / 3)).unwrap_or(u32::MAX)),
    };
    let deadline = exec
        .deadline
        .or_else(|| exec.timeout.map(|t| t.saturating_add(SLACK)))
        .and_then(|d| Instant::now().checked_add(d));
    let options = vms.options.clone();
    let call =
        vms.client
            .call::<StreamExec>((id.to_owned(),), NoParams, headers, Json(request), &options);
    let reply = match deadline {
        None => call.await?,
        Some(at) => tokio::time::timeout_at(at, call)
            .await
            .map_err(|_| deadline_passed())??,
    };
    let idle = Arc::new(AtomicBool::new(false));
    let body = match exec.idle {
        None => reply.body,
        Some(period) => WireBody::stream(IdleBody {
            body: reply.body,
            period,
            timer: Box::pin(sleep(period)),
            tripped: idle.clone(),
        }),
    };
    let cx = Decoding {
        meta: ops::ExecVm::META,
        decode_error: <FastVm as Protocol>::decode_error,
        limit: 64 * 1024 * 1024,
    };
    let is_events = reply
        .headers
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|t| t.trim_start().starts_with(NDJSON));
    let events: Events = if is_events {
        Box::pin(Lines::<ExecEvent>::read(body, cx))
    } else {
        // A server that knows only the buffered form: the same events, all at once.
        let whole: ExecResponse = cx.json(&cx.bytes(body).await?)?;
        Box::pin(futures_util::stream::iter(events_of(whole)))
    };
    Ok(ExecStream::new(events, deadline, exec.outlive, Some(idle)))
}

fn events_of(whole: ExecResponse) -> Vec<Result<ExecEvent>> {
    let mut events = Vec::with_capacity(3);
    if !whole.stdout.is_empty() {
        events.push(Ok(ExecEvent::Stdout(whole.stdout.into())));
    }
    if !whole.stderr.is_empty() {
        events.push(Ok(ExecEvent::Stderr(whole.stderr.into())));
    }
    events.push(Ok(ExecEvent::Exit(ExecExit {
        code: whole.exit_code,
        timed_out: whole.timed_out,
        duration_ms: whole.duration_ms,
        ..ExecExit::default()
    })));
    events
}

fn deadline_passed() -> Error {
    Error::new(
        Kind::Timeout,
        "the deadline passed; the connection was closed, which ends the command",
    )
    .with_operation("execVm")
    .with_code("deadline")
}

type Events = Pin<Box<dyn Stream<Item = Result<ExecEvent>> + Send>>;

/// The events of a command that runs: chunks of output, then its exit, or an error. A stream that ends without either does
/// not exist: where the connection just ends, that is an error.
///
/// Dropping it ends the command, unless [`Exec::outlive_stream`] was said.
pub struct ExecStream {
    events: Option<Events>,
    deadline: Option<Pin<Box<Sleep>>>,
    outlive: bool,
    idle: Option<Arc<AtomicBool>>,
}

impl fmt::Debug for ExecStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecStream")
            .field("ended", &self.events.is_none())
            .finish_non_exhaustive()
    }
}

/// What a command wrote, and how it ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct ExecOutput {
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// Its exit, or why there is none. What was written until then is in the other two.
    pub end: Result<ExecExit>,
}

impl ExecStream {
    fn new(
        events: Events,
        deadline: Option<Instant>,
        outlive: bool,
        idle: Option<Arc<AtomicBool>>,
    ) -> Self {
        Self {
            events: Some(events),
            deadline: deadline.map(|at| Box::pin(sleep_until(at))),
            outlive,
            idle,
        }
    }

    /// Reads it to its end. Everything is held in memory.
    pub async fn output(mut self) -> ExecOutput {
        let mut out = ExecOutput {
            stdout: Vec::new(),
            stderr: Vec::new(),
            end: Err(no_exit()),
        };
        while let Some(event) = self.next().await {
            match event {
                Ok(ExecEvent::Stdout(bytes)) => out.stdout.extend_from_slice(&bytes),
                Ok(ExecEvent::Stderr(bytes)) => out.stderr.extend_from_slice(&bytes),
                Ok(ExecEvent::Exit(exit)) => out.end = Ok(exit),
                Ok(ExecEvent::Other(_)) => {}
                Err(e) => out.end = Err(e),
            }
        }
        out
    }

    /// Reads it to its end, in the form and with the limits of the buffered answer.
    async fn collect_capped(mut self) -> Result<ExecResponse> {
        let begin = Instant::now();
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut response = ExecResponse::default();
        let keep = |kept: &mut Vec<u8>, bytes: &Bytes| {
            let room = CAP - kept.len();
            kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
            bytes.len() > room
        };
        while let Some(event) = self.next().await {
            match event {
                Ok(ExecEvent::Stdout(bytes)) => {
                    response.stdout_truncated |= keep(&mut stdout, &bytes);
                }
                Ok(ExecEvent::Stderr(bytes)) => {
                    response.stderr_truncated |= keep(&mut stderr, &bytes);
                }
                Ok(ExecEvent::Exit(exit)) => {
                    response.exit_code = exit.code;
                    response.timed_out = exit.timed_out;
                    response.duration_ms = exit.duration_ms;
                    if let Some(text) = exit.diagnostic {
                        keep(&mut stderr, &Bytes::from(text.raw().to_owned()));
                    }
                }
                Ok(ExecEvent::Other(_)) => {}
                Err(e) if e.kind() == Kind::Timeout => {
                    response.exit_code = DEADLINE_EXIT;
                    response.timed_out = true;
                    response.duration_ms =
                        u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
                }
                Err(e) => return Err(e),
            }
        }
        response.stdout = lossy(stdout);
        response.stderr = lossy(stderr);
        Ok(response)
    }
}

fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

fn no_exit() -> Error {
    Error::new(
        Kind::OutcomeUnknown,
        "the stream ended without the command's exit status",
    )
    .with_operation("execVm")
    .with_hint("the service or the machine went away; the command may or may not have ended")
}

impl Stream for ExecStream {
    type Item = Result<ExecEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let me = &mut *self;
        let Some(events) = &mut me.events else {
            return Poll::Ready(None);
        };
        let item = match events.as_mut().poll_next(cx) {
            Poll::Ready(item) => item,
            Poll::Pending => {
                let late = me
                    .deadline
                    .as_mut()
                    .is_some_and(|d| d.as_mut().poll(cx).is_ready());
                if !late {
                    return Poll::Pending;
                }
                me.events = None;
                return Poll::Ready(Some(Err(deadline_passed())));
            }
        };
        let ended = match item {
            Some(Ok(ExecEvent::Exit(exit))) => {
                // The end of the body is at hand as a rule; read, it lets the connection be used again.
                let _ = events.as_mut().poll_next(cx);
                Ok(ExecEvent::Exit(exit))
            }
            Some(Ok(event)) => {
                // A command that never pauses must not outrun its deadline.
                let late = me
                    .deadline
                    .as_ref()
                    .is_some_and(|d| d.deadline() <= Instant::now());
                if !late {
                    return Poll::Ready(Some(Ok(event)));
                }
                Err(deadline_passed())
            }
            Some(Err(e)) => Err(broken(e, me.idle.as_deref())),
            None => Err(no_exit()),
        };
        me.events = None;
        Poll::Ready(Some(ended))
    }
}

/// A stream that broke: the command may go on without us.
fn broken(error: Error, idle: Option<&AtomicBool>) -> Error {
    if idle.is_some_and(|i| i.load(Ordering::Relaxed)) {
        return Error::new(Kind::OutcomeUnknown, "nothing came for the idle timeout")
            .with_operation("execVm")
            .with_code("idle_timeout");
    }
    match error.kind() {
        Kind::Transport | Kind::Timeout | Kind::Unavailable => error
            .with_kind(Kind::OutcomeUnknown)
            .with_hint("the command may or may not have ended"),
        _ => error,
    }
}

impl Drop for ExecStream {
    fn drop(&mut self) {
        if !self.outlive {
            return;
        }
        if let (Some(mut events), Ok(runtime)) =
            (self.events.take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(async move { while let Some(Ok(_)) = events.next().await {} });
        }
    }
}

/// A body on which silence is an error.
struct IdleBody {
    body: WireBody,
    period: Duration,
    timer: Pin<Box<Sleep>>,
    tripped: Arc<AtomicBool>,
}

impl Body for IdleBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let me = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut me.body).poll_frame(cx) {
            me.timer.as_mut().reset(Instant::now() + me.period);
            return Poll::Ready(frame);
        }
        if me.timer.as_mut().poll(cx).is_ready() {
            me.tripped.store(true, Ordering::Relaxed);
            return Poll::Ready(Some(Err("idle".into())));
        }
        Poll::Pending
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
