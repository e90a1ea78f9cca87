//! The sockets that give logs.

use std::time::Duration;

use boxrig_convox::ops;
use boxrig_wire::{ApiError, Request, Socket};

use super::logs::Ask;
use super::state::Shared;
use super::{Cx, sockets};

/// What is shown of the past unless the caller says a time.
const SINCE: Duration = Duration::from_secs(120);
/// The name under which the rack's own log is kept: no app can have it.
pub(super) const SYSTEM: &str = "_system";

/// The options that all logs take.
struct Options {
    filter: Option<String>,
    follow: Option<bool>,
    prefix: Option<bool>,
    since: Option<String>,
    tail: Option<i64>,
}

macro_rules! options {
    ($headers:expr) => {{
        let h = $headers;
        Options {
            filter: h.filter,
            follow: h.follow,
            prefix: h.prefix,
            since: h.since,
            tail: h.tail,
        }
    }};
}

/// Serves a log. `ended` says whether what writes it has ended, which ends a follower too.
fn stream(
    state: Shared,
    log: String,
    mut ask: Ask,
    options: Options,
    prefix: bool,
    ended: impl Fn(&Shared) -> bool + Send + Sync + 'static,
) -> Result<Socket, ApiError> {
    ask.filter = options.filter.filter(|f| !f.is_empty());
    ask.tail = options.tail.and_then(|n| usize::try_from(n).ok());
    ask.since = match options.since.as_deref().filter(|s| !s.is_empty()) {
        None => Some(SINCE),
        Some(text) => Some(
            boxrig_convox::parse_duration(text)
                .ok_or_else(|| super::params::failed(format!("time: invalid duration {text:?}")))?,
        ),
    };
    let prefix = options.prefix.unwrap_or(prefix);
    let follow = options.follow != Some(false);
    Ok(sockets::serve(move |input, out| async move {
        let send = async {
            let mut tail = state.logs.read(&log, &ask);
            for line in std::mem::take(&mut tail.lines) {
                if sockets::send(&out, line.render(prefix)).await.is_err() {
                    return;
                }
            }
            if !follow {
                return sockets::end(&out).await;
            }
            loop {
                let over = ended(&state);
                let next = state.logs.next(&log, &mut tail);
                // What has ended says no more, but what it said last may still be on its way.
                let patience = Duration::from_millis(if over { 300 } else { 1000 });
                match tokio::time::timeout(patience, next).await {
                    Ok(Some(lines)) => {
                        for line in lines {
                            if sockets::send(&out, line.render(prefix)).await.is_err() {
                                return;
                            }
                        }
                    }
                    Ok(None) => break,
                    Err(_) if over => break,
                    Err(_) => {}
                }
            }
            sockets::end(&out).await;
        };
        tokio::select! {
            () = send => {}
            () = input.hang_up() => {}
        }
    }))
}

pub(super) async fn app(cx: Cx, rq: Request<ops::apps::AppLogs>) -> Result<Socket, ApiError> {
    let (app,) = rq.path;
    cx.app(&app)?;
    let name = app.clone();
    let gone = move |state: &Shared| state.apps.get(&name).is_none();
    stream(
        cx.state.state.clone(),
        app,
        Ask::default(),
        options!(rq.headers),
        true,
        gone,
    )
}

pub(super) async fn service(
    cx: Cx,
    rq: Request<ops::services::ServiceLogs>,
) -> Result<Socket, ApiError> {
    let (app, service) = rq.path;
    cx.app(&app)?;
    let name = app.clone();
    let ask = Ask {
        service: Some(service),
        ..Ask::default()
    };
    let gone = move |state: &Shared| state.apps.get(&name).is_none();
    stream(
        cx.state.state.clone(),
        app,
        ask,
        options!(rq.headers),
        true,
        gone,
    )
}

pub(super) async fn process(
    cx: Cx,
    rq: Request<ops::processes::ProcessLogs>,
) -> Result<Socket, ApiError> {
    let (app, id) = rq.path;
    cx.process(&app, &id)?;
    let ask = Ask {
        id: Some(id.clone()),
        ..Ask::default()
    };
    let ended = move |state: &Shared| state.processes.get(&id).is_none_or(|p| !p.lives());
    stream(
        cx.state.state.clone(),
        app,
        ask,
        options!(rq.headers),
        false,
        ended,
    )
}

pub(super) async fn build(cx: Cx, rq: Request<ops::builds::BuildLogs>) -> Result<Socket, ApiError> {
    let (app, id) = rq.path;
    let build = cx.build(&app, &id)?;
    let ask = Ask {
        kind: Some("build".into()),
        id: Some(id.clone()),
        ..Ask::default()
    };
    let mut options = options!(rq.headers);
    // A build's log is read from its beginning, whenever that was.
    let age = cx.core.now_ms().saturating_sub(build.started_ms);
    options.since.get_or_insert(format!("{}ms", age + 60_000));
    let (name, key) = (app.clone(), super::state::key(&app, &id));
    let _ = name;
    let ended = move |state: &Shared| {
        let running = |b: &super::records::Build| matches!(&*b.status, "created" | "running");
        !state.builds.get(&key).is_some_and(|b| running(&b))
    };
    stream(cx.state.state.clone(), app, ask, options, false, ended)
}

pub(super) async fn system(
    cx: Cx,
    rq: Request<ops::system::SystemLogs>,
) -> Result<Socket, ApiError> {
    stream(
        cx.state.state.clone(),
        SYSTEM.to_owned(),
        Ask::default(),
        options!(rq.headers),
        true,
        |_| false,
    )
}
