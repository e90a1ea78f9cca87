//! Commands in processes, over sockets.

use std::time::Duration;

use boxrig_convox::{EXIT_MARK, ops};
use boxrig_engine::{Exec, ExecSpec, WinSize};
use boxrig_wire::ws::Writer;
use boxrig_wire::{ApiError, Kind, Request, Socket};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::records::{Phase, Process};
use super::sockets::{self, Input};
use super::state::{Shared, State, instance};
use super::{Cx, shell};
use crate::core::engine_error;

/// The most bytes of one frame.
const CHUNK: usize = 32 * 1024;
/// When the command has ended, output is complete after this long without any: what it left in the background may
/// hold the pipe for ever.
const QUIET: Duration = Duration::from_millis(150);

/// The process that an id means; a service's name means one of its running processes.
pub(super) fn target(
    state: &State,
    app: &str,
    id: &str,
) -> Result<std::sync::Arc<Process>, ApiError> {
    state.app(app)?;
    let all = state.processes_of(app);
    let mut running: Vec<_> = all
        .iter()
        .filter(|p| p.service == id && p.phase == Phase::Running)
        .collect();
    // A healthy one before one that is not.
    running.sort_by_key(|p| !p.ready);
    match running.first() {
        Some(process) => Ok((*process).clone()),
        None => state.process(app, id),
    }
}

pub(super) async fn exec(
    cx: Cx,
    rq: Request<ops::processes::ProcessExec>,
) -> Result<Socket, ApiError> {
    let (app, id) = rq.path;
    cx.app(&app)?;
    needs_write(&cx, "process exec")?;
    let h = rq.headers;
    let state = cx.state.state.clone();
    let tty = h.tty != Some(false);
    let size = size(h.height, h.width);
    let entrypoint = h.entrypoint == Some(true);
    let stdin = h.disable_stdin != Some(true);
    let command = h.command;
    Ok(sockets::serve(move |input, out| async move {
        let started = async {
            let process = target(&state, &app, &id)?;
            let mut argv = shell::split(&command).map_err(super::params::failed)?;
            if entrypoint {
                let mut whole = super::images::entrypoint(&state, &process).await?;
                whole.append(&mut argv);
                argv = whole;
            }
            if argv.first().is_none_or(String::is_empty) {
                return Err(super::params::failed("the command is empty"));
            }
            start(&state, &process, argv, tty.then_some(size), stdin).await
        };
        match started.await {
            Ok(exec) => attend(exec, input, &out, true).await,
            Err(e) => {
                // The trailer first, then the error, as a rack does.
                let _ = sockets::send(&out, format!("{EXIT_MARK}{}\n", code_of(&e))).await;
                sockets::fail(&out, &e).await;
            }
        }
    }))
}

/// What a shell would say of a command that did not start.
fn code_of(e: &ApiError) -> i32 {
    match e.kind {
        Kind::NotFound if e.details.contains_key("command") => 127,
        Kind::Denied if e.details.contains_key("command") => 126,
        _ => 1,
    }
}

/// # Errors
///
/// 403 when the caller may only read: sockets are GETs.
pub(super) fn needs_write(cx: &Cx, what: &str) -> Result<(), ApiError> {
    if cx.who.can('w') {
        return Ok(());
    }
    Err(ApiError::new(
        Kind::Denied,
        format!("{what} requires write access"),
    ))
}

pub(super) fn size(height: Option<i64>, width: Option<i64>) -> WinSize {
    let side = |n: Option<i64>, default: u16| {
        n.and_then(|n| u16::try_from(n).ok())
            .filter(|n| *n > 0)
            .unwrap_or(default)
    };
    let usual = WinSize::default();
    WinSize {
        rows: side(height, usual.rows),
        cols: side(width, usual.cols),
    }
}

/// Starts a command in a process' instance, as the user and in the folder its image says.
pub(super) async fn start(
    state: &Shared,
    process: &Process,
    argv: Vec<String>,
    tty: Option<WinSize>,
    stdin: bool,
) -> Result<Exec, ApiError> {
    let id = instance(&process.id)?;
    let info = state.core.engine.get(&id).await.map_err(|_| {
        ApiError::conflict(format!(
            "process {} is {}, not running",
            process.id,
            process.status()
        ))
    })?;
    let mut spec = ExecSpec::new(argv);
    if let Some(main) = &info.spec.main {
        spec.env = main.env.clone();
        spec.cwd = main.cwd.clone();
        spec.uid = main.uid;
        spec.gid = main.gid;
    }
    spec.tty = tty;
    spec.stdin = stdin;
    state
        .core
        .engine
        .exec(&id, spec)
        .await
        .map_err(|e| engine_error(&e).with_detail("command", true))
}

/// Carries bytes between a command and a socket until the command ends, then says its code if `trailer`.
pub(super) async fn attend(mut exec: Exec, mut input: Input, out: &Writer, trailer: bool) {
    let hang_up = input.hang_up();
    let stdin = exec.stdin.take();
    let feed = async move {
        let Some(mut stdin) = stdin else {
            while input.next().await.is_some() {}
            return;
        };
        while let Some(bytes) = input.next().await {
            let written = async {
                stdin.write_all(&bytes).await?;
                stdin.flush().await
            };
            if written.await.is_err() {
                // The command reads no more; what is sent to it goes nowhere.
                while input.next().await.is_some() {}
            }
        }
    };
    let mut stderr = exec.stderr.take();
    let control = &exec.control;
    let stdout = &mut exec.stdout;
    let run = async {
        let mut ended = std::pin::pin!(control.wait());
        let mut feed = std::pin::pin!(feed);
        let (mut code, mut fed) = (None, false);
        let (mut a, mut b) = (BytesMut::new(), BytesMut::new());
        let (mut out_open, mut err_open) = (true, stderr.is_some());
        while out_open || err_open || code.is_none() {
            a.reserve(CHUNK);
            b.reserve(CHUNK);
            let quiet = tokio::time::sleep(QUIET);
            tokio::select! {
                biased;
                n = stdout.read_buf(&mut a), if out_open => match n {
                    Ok(n) if n > 0 => {
                        if sockets::send(out, a.split().freeze()).await.is_err() {
                            return None;
                        }
                    }
                    // A terminal whose last process has gone is an error to read from.
                    _ => out_open = false,
                },
                n = read_some(&mut stderr, &mut b), if err_open => match n {
                    Ok(n) if n > 0 => {
                        if sockets::send(out, b.split().freeze()).await.is_err() {
                            return None;
                        }
                    }
                    _ => err_open = false,
                },
                status = &mut ended, if code.is_none() => {
                    code = Some(status.map_or(1, |s| s.shell_code()));
                }
                () = &mut feed, if !fed => fed = true,
                () = quiet, if code.is_some() => break,
            }
        }
        code
    };
    let code = tokio::select! {
        code = run => code,
        () = hang_up => None,
    };
    if let Some(code) = code {
        if trailer {
            let _ = sockets::send(out, format!("{EXIT_MARK}{code}\n")).await;
        }
        sockets::end(out).await;
    }
}

async fn read_some(
    from: &mut Option<boxrig_engine::BoxReader>,
    to: &mut BytesMut,
) -> std::io::Result<usize> {
    match from {
        Some(from) => from.read_buf(to).await,
        None => Ok(0),
    }
}

/// Carries bytes to a port of a process or resource of this rack; its host is the id, or a service's name as
/// `service.app`.
pub(super) async fn proxy(cx: Cx, rq: Request<ops::proxy::Proxy>) -> Result<Socket, ApiError> {
    needs_write(&cx, "proxy")?;
    let (host, port) = rq.path;
    let port = port.parse::<u16>().ok().filter(|p| *p > 0);
    let port = port.ok_or_else(|| ApiError::invalid("invalid proxy port"))?;
    let host = host
        .trim()
        .trim_end_matches(&format!(".{}.local", super::state::RACK))
        .to_owned();
    let resource = cx
        .resources
        .list()
        .into_iter()
        .find(|r| r.instance == host || format!("{}.{}", r.name, r.app) == host);
    let id = match resource {
        Some(resource) => resource.instance.clone(),
        None => match host.split_once('.') {
            // A service's name on the rack's own domain, as it is shown.
            Some((service, app)) => {
                let app = app.trim_end_matches(".localhost");
                target(&cx, app, service).map_err(|_| foreign())?.id.clone()
            }
            None => cx.processes.get(&host).ok_or_else(foreign)?.id.clone(),
        },
    };
    let state = cx.state.state.clone();
    Ok(sockets::serve(move |mut input, out| async move {
        let connected = async {
            state
                .core
                .engine
                .connect(&instance(&id)?, port)
                .await
                .map_err(|e| engine_error(&e))
        };
        let io = match connected.await {
            Ok(io) => io,
            Err(e) => return sockets::fail(&out, &e).await,
        };
        let hang_up = input.hang_up();
        let (mut near, mut far) = tokio::io::split(io);
        let send = async {
            while let Some(bytes) = input.next().await {
                far.write_all(&bytes).await?;
                far.flush().await?;
            }
            far.shutdown().await?;
            std::future::pending::<std::io::Result<()>>().await
        };
        let receive = async {
            let mut buffer = BytesMut::new();
            loop {
                buffer.reserve(CHUNK);
                match near.read_buf(&mut buffer).await {
                    Ok(n) if n > 0 => sockets::send(&out, buffer.split().freeze()).await?,
                    _ => return Ok::<_, std::io::Error>(()),
                }
            }
        };
        tokio::select! {
            _ = receive => {}
            _ = send => {}
            () = hang_up => return,
        }
        sockets::end(&out).await;
    }))
}

/// This rack's proxy reaches what runs on it, and nothing else.
fn foreign() -> ApiError {
    ApiError::invalid("invalid proxy host")
}
