//! Logs: what processes, builds and the rack itself wrote, with the time it was seen.
//!
//! A file for each source under `logs/<app>/`, two of them when it has grown: a source keeps at most the last
//! 2 × [`FILE_LIMIT`] bytes. Followers get lines as they are written; one that is too slow reads on from the files.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use boxrig_engine::Clock;
use bytes::Bytes;
use tokio::sync::broadcast;

use super::time::log_stamp;
use crate::state::lock;

/// A file of a source is put aside when it has this many bytes.
const FILE_LIMIT: u64 = 1024 * 1024;
/// The longest line; what is longer is cut in pieces.
pub(super) const LINE_LIMIT: usize = 64 * 1024;
/// Lines that a follower may be behind before it reads from the files.
const BEHIND: usize = 1024;
/// Logs of processes that are gone are kept for this many of them, by app.
const GONE_KEPT: usize = 40;

/// Where a line came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// `service`, `timer`, `process`, `build`, `resource` or `system`.
    pub(super) kind: String,
    /// The service's name.
    pub(super) service: String,
    /// The process or build.
    pub(super) id: String,
}

impl Source {
    pub(super) fn new(kind: &str, service: &str, id: &str) -> Self {
        Self {
            kind: kind.into(),
            service: service.into(),
            id: id.into(),
        }
    }
    /// A name for its file: ids and names are checked when they are made, and hold no dot.
    fn file(&self) -> String {
        format!("{}.{}.{}", self.kind, self.service, self.id)
    }
    fn of_file(name: &str) -> Option<Self> {
        let mut parts = name.splitn(3, '.');
        Some(Self::new(parts.next()?, parts.next()?, parts.next()?))
    }
    /// As it stands in a line with a prefix: `service/web/web-1`.
    fn words(&self) -> String {
        format!("{}/{}/{}", self.kind, self.service, self.id)
    }
}

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// When it was seen, in nanoseconds since 1970; no two lines of an app have the same.
    pub(super) at: u64,
    pub(super) source: Arc<Source>,
    /// Where the source's stream stood after it, and which of its streams: for reading on after a restart.
    pub(super) place: Place,
    /// Any bytes but a newline.
    pub(super) text: Bytes,
}

/// A place in a process' output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The process' restarts when it was written.
    pub(super) run: u64,
    /// Bytes of its output up to here.
    pub(super) offset: u64,
}

impl Line {
    /// As it goes to a client.
    pub(super) fn render(&self, prefix: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.text.len() + 64);
        if prefix {
            out.extend_from_slice(log_stamp(self.at).as_bytes());
            out.push(b' ');
            out.extend_from_slice(self.source.words().as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(&self.text);
        out.push(b'\n');
        out
    }
}

/// What is asked for of an app's log.
#[derive(Clone, Debug, Default)]
pub(super) struct Ask {
    /// Only of this kind, service or id.
    pub(super) kind: Option<String>,
    pub(super) service: Option<String>,
    pub(super) id: Option<String>,
    /// Only lines that hold this.
    pub(super) filter: Option<String>,
    /// Only lines of the last while.
    pub(super) since: Option<Duration>,
    /// Only the last so many.
    pub(super) tail: Option<usize>,
}

impl Ask {
    fn wants(&self, source: &Source) -> bool {
        let is = |want: &Option<String>, is: &str| want.as_ref().is_none_or(|w| w == is);
        is(&self.kind, &source.kind)
            && is(&self.service, &source.service)
            && is(&self.id, &source.id)
    }
    fn takes(&self, line: &Line) -> bool {
        let holds = |f: &String| {
            let f = f.as_bytes();
            f.is_empty() || line.text.windows(f.len()).any(|w| w == f)
        };
        self.wants(&line.source) && self.filter.as_ref().is_none_or(holds)
    }
}

struct AppLog {
    last: u64,
    files: BTreeMap<String, (File, u64)>,
    followers: broadcast::Sender<Arc<Line>>,
}

/// The logs of all apps.
pub(super) struct Logs {
    folder: PathBuf,
    clock: Arc<dyn Clock>,
    apps: Mutex<BTreeMap<String, Arc<Mutex<AppLog>>>>,
}

impl std::fmt::Debug for Logs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Logs")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

impl Logs {
    pub(super) fn open(folder: PathBuf, clock: Arc<dyn Clock>) -> Self {
        Self {
            folder,
            clock,
            apps: Mutex::default(),
        }
    }

    fn app(&self, app: &str) -> Arc<Mutex<AppLog>> {
        let new = || {
            Arc::new(Mutex::new(AppLog {
                last: 0,
                files: BTreeMap::new(),
                followers: broadcast::Sender::new(BEHIND),
            }))
        };
        lock(&self.apps)
            .entry(app.to_owned())
            .or_insert_with(new)
            .clone()
    }

    /// Writes lines of a source: text, and where its stream stands after it.
    pub(super) fn write(
        &self,
        app: &str,
        source: &Arc<Source>,
        texts: &[(Bytes, Place)],
    ) -> io::Result<()> {
        let log = self.app(app);
        let mut log = lock(&log);
        let now = self.clock.now().duration_since(SystemTime::UNIX_EPOCH);
        let now = u64::try_from(now.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX);
        let (mut lines, mut bytes) = (Vec::new(), Vec::new());
        for (text, place) in texts {
            log.last = now.max(log.last + 1);
            let line = Line {
                at: log.last,
                source: source.clone(),
                place: *place,
                text: text.clone(),
            };
            write!(bytes, "{} {} {} ", line.at, place.run, place.offset)?;
            bytes.extend_from_slice(text);
            bytes.push(b'\n');
            lines.push(Arc::new(line));
        }
        let name = source.file();
        let dir = self.folder.join(app);
        if log
            .files
            .get(&name)
            .is_some_and(|(_, size)| *size > FILE_LIMIT)
        {
            log.files.remove(&name);
            fs::rename(dir.join(&name), dir.join(format!("{name}~")))?;
        }
        if !log.files.contains_key(&name) {
            crate::files::private_dir(&dir)?;
            let file = OpenOptions::new()
                .create(true)
                .append(true)
                .open(dir.join(&name))?;
            let size = file.metadata()?.len();
            log.files.insert(name.clone(), (file, size));
        }
        if let Some((file, size)) = log.files.get_mut(&name) {
            file.write_all(&bytes)?;
            *size += bytes.len() as u64;
        }
        for line in lines {
            // Nobody listens: nobody misses it.
            let _ = log.followers.send(line);
        }
        Ok(())
    }

    /// Writes one line; a failure is only told.
    pub(super) fn say(&self, app: &str, source: &Arc<Source>, text: impl Into<Bytes>) {
        if let Err(e) = self.write(app, source, &[(text.into(), Place::default())]) {
            tracing::warn!(app, error = %e, "a log line was lost");
        }
    }

    /// The place up to which a process' output has been taken.
    pub(super) fn place(&self, app: &str, source: &Source) -> Place {
        let dir = self.folder.join(app);
        let mut lines = Vec::new();
        for name in [format!("{}~", source.file()), source.file()] {
            read_file(&dir.join(name), &Arc::new(source.clone()), &mut lines);
        }
        lines.last().map_or_else(Place::default, |l| l.place)
    }

    /// The lines there are, and those to come.
    pub(super) fn read(&self, app: &str, ask: &Ask) -> Tail {
        let log = self.app(app);
        let (last, follow) = {
            let log = lock(&log);
            (log.last, log.followers.subscribe())
        };
        let mut lines = self.between(app, ask, 0, u64::MAX);
        // What was written since is in the files and comes to the follower too.
        let end = lines.last().map_or(last, |l| l.at.max(last));
        if let Some(since) = ask.since {
            let from = self.clock.now().checked_sub(since);
            let from = from.and_then(|t| t.duration_since(SystemTime::UNIX_EPOCH).ok());
            let from = from.map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX));
            lines.retain(|l| l.at >= from);
        }
        if let Some(tail) = ask.tail {
            lines.drain(..lines.len().saturating_sub(tail));
        }
        Tail {
            lines,
            follow,
            end,
            ask: ask.clone(),
        }
    }

    fn between(&self, app: &str, ask: &Ask, after: u64, upto: u64) -> Vec<Line> {
        let mut lines = Vec::new();
        let dir = self.folder.join(app);
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(source) = Source::of_file(name.trim_end_matches('~')) else {
                continue;
            };
            if ask.wants(&source) {
                read_file(&entry.path(), &Arc::new(source), &mut lines);
            }
        }
        lines.retain(|l| l.at > after && l.at <= upto && ask.takes(l));
        lines.sort_by_key(|l| l.at);
        lines
    }

    /// The next lines of a follower. `None`: the log is gone.
    pub(super) async fn next(&self, app: &str, tail: &mut Tail) -> Option<Vec<Line>> {
        loop {
            match tail.follow.recv().await {
                Ok(line) if line.at <= tail.end => {}
                Ok(line) => {
                    tail.end = line.at;
                    if tail.ask.takes(&line) {
                        return Some(vec![Line::clone(&line)]);
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    let lines = self.between(app, &tail.ask, tail.end, u64::MAX);
                    if let Some(last) = lines.last() {
                        tail.end = last.at;
                        return Some(lines);
                    }
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// Closes the files of a source; the log stays readable, up to a number of gone sources by app.
    pub(super) fn ended(&self, app: &str, source: &Source) {
        let log = self.app(app);
        let mut log = lock(&log);
        log.files.remove(&source.file());
        let dir = self.folder.join(app);
        let mut closed: Vec<(SystemTime, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !log.files.contains_key(name.trim_end_matches('~'))
                && !name.starts_with("build.")
                && let Ok(at) = entry.metadata().and_then(|m| m.modified())
            {
                closed.push((at, entry.path()));
            }
        }
        closed.sort();
        for (_, path) in closed.iter().rev().skip(GONE_KEPT) {
            let _ = fs::remove_file(path);
        }
    }

    /// Removes an app's log.
    pub(super) fn forget(&self, app: &str) {
        lock(&self.apps).remove(app);
        let _ = fs::remove_dir_all(self.folder.join(app));
    }
}

impl Logs {
    /// Removes all logs.
    pub(super) fn forget_all(&self) {
        lock(&self.apps).clear();
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The lines there were, and the place to go on from.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) lines: Vec<Line>,
    follow: broadcast::Receiver<Arc<Line>>,
    end: u64,
    ask: Ask,
}

fn read_file(path: &Path, source: &Arc<Source>, lines: &mut Vec<Line>) {
    let Ok(bytes) = fs::read(path) else {
        return;
    };
    let bytes = Bytes::from(bytes);
    let mut at = 0;
    while let Some(len) = bytes[at..].iter().position(|b| *b == b'\n') {
        let line = bytes.slice(at..at + len);
        at += len + 1;
        let mut parts = line.splitn(4, |b| *b == b' ');
        let mut number = || {
            let text = std::str::from_utf8(parts.next()?).ok()?;
            text.parse::<u64>().ok()
        };
        // A line that was half written when the machine went down says nothing.
        let (Some(time), Some(run), Some(offset)) = (number(), number(), number()) else {
            continue;
        };
        let Some(text) = parts.next() else { continue };
        lines.push(Line {
            at: time,
            source: source.clone(),
            place: Place { run, offset },
            text: line.slice_ref(text),
        });
    }
}

/// Cuts a stream into lines.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    held: Vec<u8>,
    place: Place,
}

impl Cutter {
    pub(super) fn new(place: Place) -> Self {
        Self {
            held: Vec::new(),
            place,
        }
    }

    /// Takes what was read and gives the lines that are whole.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<(Bytes, Place)> {
        let mut lines = Vec::new();
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            self.held.extend_from_slice(part);
            if self.held.ends_with(b"\n") || self.held.len() >= LINE_LIMIT {
                lines.extend(self.finish());
            }
        }
        lines
    }

    /// The last line, when it has no newline.
    pub(super) fn finish(&mut self) -> Option<(Bytes, Place)> {
        if self.held.is_empty() {
            return None;
        }
        let mut line = std::mem::take(&mut self.held);
        self.place.offset += line.len() as u64;
        if line.ends_with(b"\n") {
            line.pop();
        }
        if line.ends_with(b"\r") {
            line.pop();
        }
        Some((line.into(), self.place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use boxrig_engine::RealClock;

    fn logs(dir: &Path) -> Logs {
        Logs::open(dir.to_owned(), Arc::new(RealClock))
    }

    #[tokio::test]
    async fn lines_are_kept_followed_and_not_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let logs = logs(dir.path());
        let web = Arc::new(Source::new("service", "web", "web-1"));
        let db = Arc::new(Source::new("service", "db", "db-1"));
        logs.say("a", &web, "one");
        logs.say("a", &db, "two");
        logs.say("b", &web, "of another app");
        let ask = Ask {
            service: Some("web".into()),
            ..Ask::default()
        };
        let mut tail = logs.read("a", &ask);
        let texts = |lines: &[Line]| {
            lines
                .iter()
                .map(|l| String::from_utf8_lossy(&l.text).into_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(texts(&tail.lines), ["one"]);
        logs.say("a", &db, "not asked for");
        for n in 0..BEHIND + 100 {
            logs.say("a", &web, format!("line {n}"));
        }
        let mut seen = Vec::new();
        while seen.len() < BEHIND + 100 {
            seen.extend(texts(&logs.next("a", &mut tail).await.unwrap()));
        }
        let expected: Vec<_> = (0..BEHIND + 100).map(|n| format!("line {n}")).collect();
        assert_eq!(seen, expected, "a slow follower misses nothing");
        let ask = Ask {
            filter: Some("line 9".into()),
            tail: Some(2),
            ..Ask::default()
        };
        assert_eq!(texts(&logs.read("a", &ask).lines), ["line 998", "line 999"]);
        let text = String::from_utf8(tail.lines[0].render(true)).unwrap();
        assert!(text.ends_with("Z service/web/web-1 one\n"), "{text}");
    }

    #[test]
    fn a_source_is_bounded_and_its_place_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let web = Arc::new(Source::new("service", "web", "web-1"));
        let first = logs(dir.path());
        let text = Bytes::from(vec![b'x'; 32 * 1024]);
        for n in 1..=200 {
            let place = Place {
                run: 3,
                offset: n * 32 * 1024,
            };
            first.write("a", &web, &[(text.clone(), place)]).unwrap();
        }
        let bytes: u64 = fs::read_dir(dir.path().join("a"))
            .unwrap()
            .map(|e| e.unwrap().metadata().unwrap().len())
            .sum();
        assert!(bytes <= 2 * FILE_LIMIT + 128 * 1024, "{bytes}");
        let again = logs(dir.path());
        assert_eq!(
            again.place("a", &web),
            Place {
                run: 3,
                offset: 200 * 32 * 1024
            }
        );
    }

    #[test]
    fn streams_are_cut_into_lines() {
        let mut cutter = Cutter::new(Place { run: 1, offset: 10 });
        assert_eq!(cutter.push(b"a"), []);
        let lines = cutter.push(b"b\nc\r\n\xff");
        assert_eq!(
            lines
                .iter()
                .map(|(t, p)| (&t[..], p.offset))
                .collect::<Vec<_>>(),
            [(&b"ab"[..], 13), (&b"c"[..], 16)]
        );
        assert_eq!(
            cutter.finish().map(|(t, p)| (t, p.offset)),
            Some((Bytes::from_static(b"\xff"), 17))
        );
        let long = vec![b'y'; LINE_LIMIT + 5];
        assert_eq!(cutter.push(&long).len(), 1);
    }
}
