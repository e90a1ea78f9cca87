//! The background server of this user: found, started when it is needed, never two at a time.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use boxrig::local::control_client;
use boxrig_server::control::{ControlClient, Info};
use boxrig_wire::{Error, Kind, Result, Untrusted};
use serde::{Deserialize, Serialize};

use super::paths::{Paths, private_dir};

/// After this time without a request and without instances the background server ends by itself.
const IDLE_EXIT: &str = "30m";

/// A server that has not come up by then is given up.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The variables that the server is started with; nothing else of the caller's environment gets into it.
const KEPT: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "XDG_DATA_HOME",
    "XDG_CONFIG_HOME",
    "BOXRIG_HOME",
    "BOXRIG_RECORD",
    "BOXRIG_LOG",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// What a server that is being started tells the one who started it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// `None`: it is ready.
    pub(crate) kind: Option<Kind>,
    pub(crate) message: String,
}

/// The control client of the running server, if one runs.
pub(crate) async fn running(paths: &Paths) -> Option<(ControlClient, Info)> {
    let socket = paths.socket();
    if !socket.exists() {
        return None;
    }
    let client = control_client(&socket).ok()?;
    let info = tokio::time::timeout(Duration::from_secs(5), client.info()).await;
    Some((client, info.ok()?.ok()?))
}

/// A running server of our version; starts one when there is none.
///
/// # Errors
///
/// Why it cannot run, with the ways on.
pub(crate) async fn ensure(paths: &Paths) -> Result<Info> {
    match running(paths).await {
        Some((_, info)) if fits(&info) => Ok(info),
        _ => up(paths, None).await,
    }
}

fn fits(info: &Info) -> bool {
    info.version == env!("CARGO_PKG_VERSION") && info.api == boxrig_server::serve::API_VERSION
}

/// Starts the server unless it runs. One of another version is replaced; its instances go on and are taken over.
pub(crate) async fn up(paths: &Paths, engine: Option<&str>) -> Result<Info> {
    if !cfg!(unix) {
        let why = Error::new(Kind::Unsupported, "instances need Linux");
        return Err(elsewhere(why));
    }
    let failed = |e: io::Error| Error::new(Kind::Failed, format!("the background server: {e}"));
    private_dir(&paths.data).map_err(failed)?;
    private_dir(&paths.runtime).map_err(failed)?;
    let lock = lock(paths).await.map_err(failed)?;
    if let Some((client, info)) = running(paths).await {
        if fits(&info) && engine.is_none_or(|e| e == "auto" || e == info.engine) {
            return Ok(info);
        }
        if fits(&info) && info.instances > 0 {
            return Err(Error::new(
                Kind::Conflict,
                format!(
                    "the background server runs the engine {} and holds {} instances",
                    info.engine, info.instances
                ),
            )
            .with_hint(
                "`boxrig down` ends it; instances of another engine are not seen by the new one",
            ));
        }
        client.shutdown().await?;
        gone(paths).await?;
    }
    let report = start(paths, engine).map_err(failed)?;
    let result = ready(paths, report).await;
    drop(lock);
    result
}

/// Ends the server; whether one ran.
pub(crate) async fn down(paths: &Paths) -> Result<Option<Info>> {
    let Some((client, info)) = running(paths).await else {
        return Ok(None);
    };
    client.shutdown().await?;
    gone(paths).await?;
    Ok(Some(info))
}

/// Waits until the server that was told to end has ended: its data is free then.
async fn gone(paths: &Paths) -> Result<()> {
    let begin = Instant::now();
    let lock = paths.server_data().join("server.lock");
    while begin.elapsed() < Duration::from_secs(10) {
        let free = match File::open(&lock) {
            Err(_) => true,
            Ok(file) => file.try_lock().is_ok(),
        };
        if free {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Err(Error::new(
        Kind::Timeout,
        "the background server does not end",
    ))
}

/// Only one starts a server at a time; the others wait and find it running.
async fn lock(paths: &Paths) -> io::Result<File> {
    let path = paths.data.join("up.lock");
    let file = private(&path)?;
    let begin = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::Error(e)) => return Err(e),
            Err(fs::TryLockError::WouldBlock) if begin.elapsed() > START_LIMIT => {
                return Err(io::Error::other(
                    "another one is starting it and does not finish",
                ));
            }
            Err(fs::TryLockError::WouldBlock) => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

fn private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).create(true).append(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options
        .open(path)
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

struct Started {
    child: std::process::Child,
    report: PathBuf,
    log: File,
    log_start: u64,
}

fn start(paths: &Paths, engine: Option<&str>) -> io::Result<Started> {
    let program = std::env::current_exe()?;
    let mut log = private(&paths.log())?;
    let log_start = log.seek(SeekFrom::End(0))?;
    let report = paths
        .runtime
        .join(format!("start-{}.json", std::process::id()));
    let _ = fs::remove_file(&report);
    let mut command = Command::new(program);
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(paths.server_data())
        .arg("--socket")
        .arg(paths.socket())
        .args(["--engine", engine.unwrap_or("auto")])
        .args(["--idle-exit", IDLE_EXIT, "--background"])
        .arg(&report)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?)
        .env_clear();
    for name in KEPT {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    let child = command.spawn()?;
    Ok(Started {
        child,
        report,
        log,
        log_start,
    })
}

/// Waits for the server's own word that it is ready, or why not.
async fn ready(paths: &Paths, mut started: Started) -> Result<Info> {
    let begin = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Ok(text) = fs::read(&started.report) {
            let _ = fs::remove_file(&started.report);
            let report: Report = serde_json::from_slice(&text).map_err(|e| {
                Error::new(
                    Kind::Protocol,
                    format!("the background server's report: {e}"),
                )
            })?;
            if let Some(kind) = report.kind {
                let _ = started.child.wait();
                return Err(elsewhere(refusal(kind, &report.message)));
            }
            return match running(paths).await {
                Some((_, info)) => Ok(info),
                None => Err(Error::new(
                    Kind::Unavailable,
                    "the background server started and does not answer",
                )
                .with_hint(format!("its log is {}", paths.log().display()))),
            };
        }
        let ended = started.child.try_wait().ok().flatten();
        if ended.is_some() && !started.report.exists() || begin.elapsed() > START_LIMIT {
            let how = ended.map_or_else(
                || format!("is not ready after {START_LIMIT:?}"),
                |status| format!("ended with {status}"),
            );
            let e = Error::new(Kind::Unavailable, format!("the background server {how}"));
            return Err(match tail(&mut started) {
                Some(words) => e.with_server_message(words),
                None => e,
            }
            .with_hint(format!("its log is {}", paths.log().display())));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

/// A refusal in the server's own words: the first line says what, the others are the ways on.
pub(crate) fn refusal(kind: Kind, message: &str) -> Error {
    let (first, rest) = message.split_once('\n').unwrap_or((message, ""));
    let e = Error::new(kind, Untrusted::new(first).to_string());
    let ways: Vec<String> = rest
        .lines()
        .map(|l| Untrusted::new(l.trim().trim_start_matches("- ")).to_string())
        .filter(|l| !l.is_empty())
        .collect();
    if ways.is_empty() {
        e
    } else {
        e.with_hint(ways.join("\n"))
    }
}

/// Where this machine cannot run instances, another may.
fn elsewhere(e: Error) -> Error {
    const WAY: &str = "see each step: boxrig doctor\n\
        use instances elsewhere: boxrig ctx add NAME URL, then --on NAME";
    if e.kind() != Kind::Unsupported {
        return e;
    }
    let hint = match e.hint() {
        Some(ways) => format!("{ways}\n{WAY}"),
        None => WAY.to_owned(),
    };
    e.with_hint(hint)
}

/// The last line that the server wrote.
fn tail(started: &mut Started) -> Option<String> {
    let mut text = String::new();
    started.log.seek(SeekFrom::Start(started.log_start)).ok()?;
    (&started.log)
        .take(64 * 1024)
        .read_to_string(&mut text)
        .ok()?;
    text.lines().last().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_its_ways_on() {
        let e = refusal(
            Kind::Unsupported,
            "instances cannot run here: x\n  - do this: sudo y\n  - or that",
        );
        assert_eq!(e.message(), "instances cannot run here: x");
        assert_eq!(e.hint(), Some("do this: sudo y\nor that"));
        assert_eq!(refusal(Kind::Failed, "one").hint(), None);
    }
}
