//! Whether processes can serve.
//!
//! One with a port is asked by HTTP, every moment until it first answers well, then at its interval; three failures in a
//! row take it out of the routing until it answers again. One without a port, or whose check is off, is ready when it
//! has run for a moment.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::manifest;
use super::records::{Phase, Process, Purpose};
use super::state::{Shared, instance, key};

/// Time between the first two questions; it doubles until [`EAGER`].
const FIRST: Duration = Duration::from_millis(10);
/// The longest time between questions until the first good answer.
const EAGER: Duration = Duration::from_millis(100);
/// How long something without a check must have run.
const MOMENT: Duration = Duration::from_millis(1000);
/// So many failures in a row take a process out.
const FAILURES: u32 = 3;

/// Watches a process until it ends.
pub(super) async fn watch(state: Shared, id: &str) {
    let Some(process) = state.processes.get(id) else {
        return;
    };
    if process.purpose != Purpose::Service {
        return;
    }
    let release = state.releases.get(&key(&process.app, &process.release));
    let service = release.and_then(|r| manifest::of(&r).ok());
    let Some(service) = service.and_then(|m| m.named(&process.service).cloned()) else {
        return;
    };
    let asked = service.port.clone().filter(|p| {
        !service.health.disabled
            && state.core.engine.capabilities().ports
            && !p.scheme.eq_ignore_ascii_case("grpc")
    });
    let run = process.restarts;
    let same = |p: &Process| p.phase == Phase::Running && p.restarts == run;
    let Some(port) = asked else {
        tokio::time::sleep(MOMENT).await;
        settle(&state, id, run, true).await;
        return;
    };
    let timeout = Duration::from_secs(service.health.timeout.into());
    let interval = Duration::from_secs(service.health.interval.into());
    let (mut failures, mut eager) = (0, FIRST);
    loop {
        let asked = ask(&state, id, port.port, &service.health.path, &port.scheme);
        let answer = match tokio::time::timeout(timeout, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {} s", timeout.as_secs())),
        };
        let Some(now) = state.processes.get(id).filter(|p| same(p)) else {
            return;
        };
        match answer {
            Ok(()) => {
                failures = 0;
                if !now.ready {
                    settle(&state, id, run, true).await;
                }
            }
            Err(why) => {
                failures += 1;
                state.checks.note(id, why);
                if now.ready && failures >= FAILURES {
                    settle(&state, id, run, false).await;
                }
            }
        }
        let ready = state.processes.get(id).is_some_and(|p| p.ready);
        tokio::time::sleep(if ready { interval } else { eager }).await;
        eager = EAGER.min(eager * 2);
    }
}

async fn settle(state: &Shared, id: &str, run: u32, ready: bool) {
    let changed = state.change_process(id, |p| {
        if p.phase == Phase::Running && p.restarts == run {
            p.unhealthy = p.ready && !ready;
            p.ready = ready;
            p.reason.clear();
            return Some(p.app.clone());
        }
        None
    });
    match changed.await {
        Ok(Some(Some(app))) => {
            if !ready {
                let why = state.checks.last(id).unwrap_or_default();
                state.say(&app, "health", &format!("process {id} is unhealthy: {why}"));
            }
            super::routes::publish(state, &app);
            state.wake(&app);
        }
        Ok(_) => {}
        Err(e) => tracing::warn!(process = id, error = %e, "its health was not recorded"),
    }
}

/// Asks once. A service that speaks TLS itself is asked only whether it takes a connection.
async fn ask(state: &Shared, id: &str, port: u16, path: &str, scheme: &str) -> Result<(), String> {
    let key = instance(id).map_err(|e| e.message)?;
    let connected = state.core.engine.connect(&key, port).await;
    let mut io = connected.map_err(|e| match e.kind() {
        boxrig_engine::Kind::NotFound => format!("nothing listens on port {port}"),
        _ => e.to_string(),
    })?;
    if scheme != "http" {
        return Ok(());
    }
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: boxrig-health\r\nConnection: close\r\n\r\n"
    );
    let talk = async {
        io.write_all(request.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.contains(&b'\n') && head.len() < 1024 {
            let mut bytes = [0; 256];
            let n = io.read(&mut bytes).await?;
            if n == 0 {
                break;
            }
            head.extend_from_slice(&bytes[..n]);
        }
        Ok::<_, std::io::Error>(head)
    };
    let head = talk.await.map_err(|e| e.to_string())?;
    let line = String::from_utf8_lossy(&head);
    let line = line.lines().next().unwrap_or("");
    let status = line.split(' ').nth(1).and_then(|s| s.parse::<u16>().ok());
    match status {
        Some(200..=399) if line.starts_with("HTTP/") => Ok(()),
        Some(status) => Err(format!("GET {path} on port {port} answers {status}")),
        None => Err(format!("what listens on port {port} does not speak HTTP")),
    }
}
