//! Logs as they come: followed, and taken up again where the connection broke.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use boxrig_wire::{BoxFuture, BoxStream, Error, Result, Untrusted, WebSocket};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use jiff::Timestamp;

use super::groups::{Apps, Builds, Processes, Services, System, one, two};
use super::socket::{Opening, Said, Talk, broken, open};
use super::{Client, Parts};
use crate::ops;
use crate::values::format_duration;

/// Which lines of a log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogOptions {
    follow: bool,
    since: Option<Duration>,
    tail: Option<u32>,
    filter: Option<String>,
    previous: bool,
    reconnect: Option<u32>,
}

impl LogOptions {
    /// The lines of the time that the rack takes when nothing is said (two minutes), and then the end.
    pub fn new() -> Self {
        Self::default()
    }
    /// Goes on with new lines as they come.
    pub fn follow(mut self, follow: bool) -> Self {
        self.follow = follow;
        self
    }
    /// From this long ago.
    pub fn since(mut self, span: Duration) -> Self {
        self.since = Some(span);
        self
    }
    /// At most this many of the lines that are there already.
    pub fn tail(mut self, lines: u32) -> Self {
        self.tail = Some(lines);
        self
    }
    /// Only lines that hold this text.
    pub fn filter(mut self, text: impl Into<String>) -> Self {
        self.filter = Some(text.into());
        self
    }
    /// Of the process before the present one, when that crashed.
    pub fn previous(mut self, previous: bool) -> Self {
        self.previous = previous;
        self
    }
    /// How often a broken connection is made again without a single line in between, 10 by default; 0: never. Only
    /// followed logs are taken up again.
    pub fn reconnect(mut self, times: u32) -> Self {
        self.reconnect = Some(times);
        self
    }
}

/// The settings as they travel.
#[derive(Clone, Debug, Default)]
struct Headers {
    filter: Option<String>,
    follow: Option<bool>,
    since: Option<String>,
    previous: Option<bool>,
    tail: Option<i64>,
}

/// A line of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    raw: Bytes,
    time: Option<Timestamp>,
    /// Where the source begins and ends, and where the text begins.
    at: (usize, usize, usize),
}

impl LogLine {
    /// Reads a line as racks write it with a prefix: time, source, text. Without one, all of it is text.
    pub(crate) fn read(raw: Bytes) -> Self {
        let parts = || {
            let first = raw.iter().position(|b| *b == b' ')?;
            let time: Timestamp = std::str::from_utf8(&raw[..first]).ok()?.parse().ok()?;
            let rest = &raw[first + 1..];
            let end = rest.iter().position(|b| *b == b' ').unwrap_or(rest.len());
            let text = (first + 1 + end + 1).min(raw.len());
            Some((time, (first + 1, first + 1 + end, text)))
        };
        match parts() {
            Some((time, at)) => Self {
                raw,
                time: Some(time),
                at,
            },
            None => Self {
                raw,
                time: None,
                at: (0, 0, 0),
            },
        }
    }

    /// When it was written, where the rack says.
    pub fn time(&self) -> Option<Timestamp> {
        self.time
    }
    /// What wrote it, such as `service/web/POD`; empty where the rack does not say.
    pub fn source(&self) -> Untrusted {
        Untrusted::new(String::from_utf8_lossy(&self.raw[self.at.0..self.at.1]))
    }
    /// What was written: any bytes, without the end of the line.
    pub fn text(&self) -> Bytes {
        self.raw.slice(self.at.2..)
    }
    /// The whole line as it came, without its end.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }
}

type Opener = Arc<dyn Fn(Headers) -> BoxFuture<'static, Result<WebSocket>> + Send + Sync>;

/// A log as it comes. A line is at most 1 MiB; the rest of a longer one is a line of its own.
pub struct LogStream(BoxStream<'static, Result<LogLine>>);

impl std::fmt::Debug for LogStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogStream")
    }
}

impl Stream for LogStream {
    type Item = Result<LogLine>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(cx)
    }
}

macro_rules! logs {
    ($(#[$doc:meta])* $group:ident ($($arg:ident),*) = $op:path, $headers:path, $path:expr) => {
        impl $group<'_> {
            $(#[$doc])*
            ///
            /// # Errors
            ///
            /// Those before the upgrade; the rack's own come from the stream.
            pub async fn logs(&self, $($arg: &str,)* which: LogOptions) -> Result<LogStream> {
                let (client, options, path) = (self.client.clone(), self.options.clone(), $path);
                let opener: Opener = Arc::new(move |h: Headers| {
                    let (client, options, path) = (client.clone(), options.clone(), path.clone());
                    Box::pin(async move {
                        // The prefix is always asked for: by its time a broken log is taken up again.
                        type H = $headers;
                        let headers = H {
                            filter: h.filter,
                            follow: h.follow,
                            maxlogrequests: None,
                            prefix: Some(true),
                            since: h.since,
                            previous: h.previous,
                            tail: h.tail,
                        };
                        client.send(Parts::<$op> { path, headers, ..Default::default() }, &options).await
                    })
                });
                follow(opener, self.client, which, <$op as boxrig_wire::Endpoint>::META.id).await
            }
        }
    };
}

logs! {
    /// The log of an app: all its services and its system's notices.
    Apps(app) = ops::apps::AppLogs, ops::apps::AppLogsHeaders, one(app)
}
logs! {
    /// The log of a service.
    Services(app, service) = ops::services::ServiceLogs, ops::services::ServiceLogsHeaders, two(app, service)
}
logs! {
    /// The log of a process.
    Processes(app, process) = ops::processes::ProcessLogs, ops::processes::ProcessLogsHeaders, two(app, process)
}
logs! {
    /// The log of a build.
    Builds(app, build) = ops::builds::BuildLogs, ops::builds::BuildLogsHeaders, two(app, build)
}
logs! {
    /// The log of the rack.
    System() = ops::system::SystemLogs, ops::system::SystemLogsHeaders, ()
}

/// The longest line.
const LONGEST: usize = 1024 * 1024;
/// How far a log is taken up again before its last line: lines of several processes do not come in order.
const OVERLAP: Duration = Duration::from_secs(10);
/// How many lines are remembered to tell repeats.
const REMEMBERED: usize = 64 * 1024;

async fn follow(
    opener: Opener,
    client: &Client,
    which: LogOptions,
    operation: &'static str,
) -> Result<LogStream> {
    let headers = Headers {
        filter: which.filter.clone(),
        // Racks follow unless they are told not to.
        follow: Some(which.follow),
        since: which.since.map(format_duration),
        previous: which.previous.then_some(true),
        tail: which.tail.map(i64::from),
    };
    let talk = open(opener(headers).await?, operation).1;
    let retry = client.caller().retry();
    let log = Log {
        opener,
        operation,
        again: if which.follow {
            which.reconnect.unwrap_or(10)
        } else {
            0
        },
        which,
        waits: (retry.base, retry.cap),
        talk,
        opening: Opening::default(),
        buffer: BytesMut::new(),
        searched: 0,
        ready: VecDeque::new(),
        memory: Memory::new(),
        failures: 0,
        done: false,
        cut: None,
    };
    let lines = stream::unfold(log, |mut log| async move {
        log.next().await.map(|item| (item, log))
    });
    Ok(LogStream(lines.boxed()))
}

/// A log that is being read.
struct Log {
    opener: Opener,
    operation: &'static str,
    which: LogOptions,
    again: u32,
    waits: (Duration, Duration),
    talk: Talk,
    opening: Opening,
    buffer: BytesMut,
    searched: usize,
    ready: VecDeque<LogLine>,
    memory: Memory,
    failures: u32,
    done: bool,
    /// Why it is over, when the rack did not say that it is; told after the last line.
    cut: Option<Error>,
}

impl Log {
    async fn next(&mut self) -> Option<Result<LogLine>> {
        loop {
            while let Some(line) = self.ready.pop_front() {
                if self.again == 0 || self.memory.is_new(&line) {
                    self.failures = 0;
                    return Some(Ok(line));
                }
            }
            if self.done {
                return self.cut.take().map(Err);
            }
            match self.talk.next().await {
                Said::Data(bytes) => {
                    let data = self.opening.push(bytes);
                    self.push(&data);
                }
                Said::End => {
                    self.done = true;
                    if let Err(e) = self.rest() {
                        return Some(Err(e));
                    }
                }
                Said::Cut(source) => {
                    // What the rack had said of an error counts, a line cut in two does not: it comes again.
                    if self.again == 0 {
                        self.done = true;
                        if let Err(e) = self.rest() {
                            return Some(Err(e));
                        }
                        self.cut = Some(broken(self.operation, source));
                        continue;
                    }
                    if let Err(e) = self.opening.finish(self.operation) {
                        self.done = true;
                        return Some(Err(e));
                    }
                    self.buffer.clear();
                    self.searched = 0;
                    if let Err(e) = self.take_up().await {
                        self.done = true;
                        return Some(Err(e));
                    }
                }
            }
        }
    }

    /// Cuts data into lines.
    fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
        while let Some(at) = self.buffer[self.searched..]
            .iter()
            .position(|b| *b == b'\n')
        {
            let mut line = self.buffer.split_to(self.searched + at).freeze();
            self.buffer.advance(1);
            self.searched = 0;
            if line.last() == Some(&b'\r') {
                line.truncate(line.len() - 1);
            }
            self.ready.push_back(LogLine::read(line));
        }
        self.searched = self.buffer.len();
        if self.buffer.len() >= LONGEST {
            let line = self.buffer.split().freeze();
            self.searched = 0;
            self.ready.push_back(LogLine::read(line));
        }
    }

    /// The end of the stream: the rack's error, or the last line.
    fn rest(&mut self) -> Result<()> {
        let data = self.opening.finish(self.operation)?;
        self.push(&data);
        if !self.buffer.is_empty() {
            let line = self.buffer.split().freeze();
            self.searched = 0;
            self.ready.push_back(LogLine::read(line));
        }
        Ok(())
    }

    /// Makes the connection again, from a little before the last line.
    async fn take_up(&mut self) -> Result<()> {
        self.memory.expect_repeats();
        loop {
            if self.failures >= self.again {
                let e = broken(self.operation, None).with_attempts(self.failures + 1);
                return Err(e.context("the log could not be taken up again"));
            }
            let (base, cap) = self.waits;
            let wait = base.saturating_mul(1 << self.failures.min(16)).min(cap);
            self.failures += 1;
            tokio::time::sleep(wait).await;
            let headers = Headers {
                filter: self.which.filter.clone(),
                follow: Some(true),
                since: Some(format_duration(self.memory.since(self.which.since))),
                previous: None,
                tail: None,
            };
            match (self.opener)(headers).await {
                Ok(socket) => {
                    self.talk = open(socket, self.operation).1;
                    self.opening = Opening::default();
                    return Ok(());
                }
                Err(e) if e.is_retryable() => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// What was read of late, to tell what is said again after a new connection.
struct Memory {
    hasher: RandomState,
    recent: VecDeque<(u64, Option<Timestamp>)>,
    /// How often each line may come again.
    repeats: HashMap<u64, u32>,
    /// Lines up to this time were remembered and are not any more.
    forgotten: Option<Timestamp>,
    first: Option<Timestamp>,
    newest: Option<Timestamp>,
    /// When a line came last, or the log was begun.
    heard: Instant,
    taken_up: bool,
}

impl Memory {
    fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            recent: VecDeque::new(),
            repeats: HashMap::new(),
            forgotten: None,
            first: None,
            newest: None,
            heard: Instant::now(),
            taken_up: false,
        }
    }

    /// Whether a line has not come before; remembers it.
    fn is_new(&mut self, line: &LogLine) -> bool {
        let hash = self.hasher.hash_one(line.raw());
        if self.taken_up {
            if let Some(left) = self.repeats.get_mut(&hash).filter(|n| **n > 0) {
                *left -= 1;
                return false;
            }
            match line.time() {
                // Older than where the log was begun, or than what is remembered: it was there before.
                Some(at)
                    if self.first.is_some_and(|f| at < f)
                        || self.forgotten.is_some_and(|f| at <= f) =>
                {
                    return false;
                }
                Some(_) => {}
                // A line without a time can only be told while what was said is repeated in order.
                None => self.repeats.clear(),
            }
        }
        self.heard = Instant::now();
        self.first = self.first.or(line.time());
        self.newest = self.newest.max(line.time());
        if self.recent.len() == REMEMBERED
            && let Some((_, time)) = self.recent.pop_front()
        {
            self.forgotten = self.forgotten.max(time);
        }
        self.recent.push_back((hash, line.time()));
        true
    }

    /// From here on, what is remembered may come again.
    fn expect_repeats(&mut self) {
        self.taken_up = true;
        self.repeats.clear();
        for (hash, _) in &self.recent {
            *self.repeats.entry(*hash).or_default() += 1;
        }
    }

    /// How far back to ask: to a little before the last line, by the later of two clocks.
    fn since(&self, begun: Option<Duration>) -> Duration {
        let silent = self.heard.elapsed();
        let Some(newest) = self.newest else {
            // Nothing was heard: what was asked for at first, and the time since.
            return begun.unwrap_or(Duration::from_secs(120)) + silent;
        };
        let old = Timestamp::now().duration_since(newest);
        let old = Duration::try_from(old).unwrap_or_default();
        old.max(silent) + OVERLAP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixed_lines_are_told_apart() {
        let line = LogLine::read(Bytes::from_static(
            b"2026-01-02T03:04:05.6Z service/web/abc-1 GET / 200\xff",
        ));
        assert_eq!(line.time().unwrap().to_string(), "2026-01-02T03:04:05.6Z");
        assert_eq!(line.source().raw(), "service/web/abc-1");
        assert_eq!(line.text(), &b"GET / 200\xff"[..]);
        for bare in ["plain text here", "", "2026-01-02 x y", "x"] {
            let line = LogLine::read(Bytes::from_static(bare.as_bytes()));
            assert_eq!(
                (line.time(), line.text()),
                (None, Bytes::from_static(bare.as_bytes()))
            );
            assert!(line.source().is_empty());
        }
        let empty = LogLine::read(Bytes::from_static(b"2026-01-02T03:04:05Z service/web/p"));
        assert_eq!(
            (empty.source().raw(), empty.text().len()),
            ("service/web/p", 0)
        );
    }

    fn line(second: u32, text: &str) -> LogLine {
        LogLine::read(format!("2026-01-01T00:00:{second:02}Z s/w/p {text}").into())
    }

    #[test]
    fn repeats_are_told_by_what_was_heard() {
        let mut memory = Memory::new();
        for l in [line(1, "a"), line(2, "b"), line(2, "b"), line(3, "c")] {
            assert!(memory.is_new(&l), "before a break nothing is a repeat");
        }
        memory.expect_repeats();
        // Older than the beginning, said again, said once more often than before, new.
        for (l, new) in [
            (line(0, "older"), false),
            (line(2, "b"), false),
            (line(2, "b"), false),
            (line(2, "b"), true),
            (line(3, "c"), false),
            (line(2, "late"), true),
            (line(4, "d"), true),
        ] {
            assert_eq!(memory.is_new(&l), new, "{l:?}");
        }
        assert!(memory.since(None) > OVERLAP);
    }

    #[test]
    fn what_was_forgotten_is_not_said_again() {
        let mut memory = Memory::new();
        let at = |n: usize| LogLine::read(format!("2026-01-01T00:00:00.{n:09}Z s/w/p x").into());
        for n in 0..REMEMBERED + 10 {
            assert!(memory.is_new(&at(n)));
        }
        assert_eq!(memory.recent.len(), REMEMBERED);
        memory.expect_repeats();
        assert!((0..REMEMBERED + 10).all(|n| !memory.is_new(&at(n))));
        assert!(memory.is_new(&at(REMEMBERED + 10)));
    }
}
