//! Commands in instances: `run`, `exec` and `shell`. They end with the command's own code; every failure of boxrig itself
//! is 125.

use std::io::IsTerminal;
use std::time::Duration;

use boxrig_compute::{
    Capabilities, Capability, Compute, ExecEvent, ExecSession, ExecSpec, ExitStatus, Stdin,
};
use boxrig_wire::{Error, Kind, Result};
use bytes::Bytes;
use clap::ArgMatches;
use tokio::io::AsyncReadExt;

use super::{option, pairs, text, texts};
use crate::cli::exit::{Failure, Outcome};
use crate::cli::progress;
use crate::cli::pump::{Piece, Pump};
use crate::cli::session::Session;
use crate::cli::terminal::{self, Asked, Raw, Signals};

/// Input is read whole where the platform takes no stream, up to this size.
const WHOLE_INPUT: u64 = 64 << 20;

/// How a command in an instance came to its end.
enum Ended {
    /// By itself, or by a signal that was passed on.
    Exit(ExitStatus),
    /// We were asked to go before it ended; the code that says so.
    Left(u8),
}

/// Launches an instance, runs a command in it and removes it.
pub(crate) async fn run(s: &Session, m: &ArgMatches) -> Outcome {
    let context = s.context()?;
    let what = format!(
        "launch an instance on {} and run a command in it",
        context.name
    );
    if !s.may_change(&context, &what)? {
        return Ok(());
    }
    let mut signals = Signals::new()?;
    let connection = s.connect(&context).await?;
    let compute = connection.compute;
    let can = compute.capabilities();
    can.require(Capability::Exec)?;
    let spec = exec_spec(s, m, &can, &[]).await?;
    let launch = super::instances::launch_spec(m, s).label("boxrig.run", "1");
    let token = launch.token.clone();
    let launching = async {
        let operation = compute.launch(launch).await?;
        progress::wait(s, "launching", &operation).await
    };
    let instance = tokio::select! {
        made = launching => made?,
        code = asked_to_leave(&mut signals) => {
            remove_by_token(&*compute, &token).await;
            return Err(Failure::Code(code));
        }
    };
    let ended = async {
        let session = compute.exec(&instance.id, spec.clone()).await?;
        interact(session, &spec, &can, &mut signals).await
    }
    .await;
    if m.get_flag("keep") {
        s.say(&format!("kept {}", crate::cli::session::shown(&instance)));
    } else {
        let removed = compute.delete(&instance.id).await;
        if let Err(e) = removed
            && e.kind() != Kind::NotFound
        {
            // The command's code stays; what is left behind is said.
            s.say(&format!(
                "warning: {} is still there: {e}",
                crate::cli::session::shown(&instance)
            ));
        }
    }
    finish(ended?, spec.timeout)
}

/// Waits until we are asked to go, and gives the code that says so.
async fn asked_to_leave(signals: &mut Signals) -> u8 {
    loop {
        match signals.next().await {
            Asked::Interrupt => return 130,
            Asked::End(n) => return 128 + u8::try_from(n).unwrap_or(0),
            Asked::Resized => {}
        }
    }
}

/// Removes what a launch that was not waited for has made.
async fn remove_by_token(compute: &dyn Compute, token: &str) {
    let search = boxrig_compute::ListOptions::new()
        .label(boxrig_compute::backend::fastvm::TOKEN_LABEL, token);
    use futures_util::TryStreamExt;
    let found: Vec<_> = compute.list(search).try_collect().await.unwrap_or_default();
    for instance in found {
        let _ = compute.delete(&instance.id).await;
    }
}

/// Runs a command in an instance.
pub(crate) async fn exec(s: &Session, m: &ArgMatches) -> Outcome {
    in_instance(s, m, None).await
}

/// Opens a shell in an instance: bash where there is one, on a terminal if we have one.
pub(crate) async fn shell(s: &Session, m: &ArgMatches) -> Outcome {
    const SHELL: [&str; 3] = [
        "sh",
        "-c",
        "command -v bash >/dev/null 2>&1 && exec bash -l; exec sh -l",
    ];
    in_instance(s, m, Some(&SHELL)).await
}

async fn in_instance(s: &Session, m: &ArgMatches, argv: Option<&[&str]>) -> Outcome {
    let (context, _) = s.place(text(m, "name"))?;
    let what = format!("run a command on {}", context.name);
    if !s.may_change(&context, &what)? {
        return Ok(());
    }
    let mut signals = Signals::new()?;
    let found = s.find(text(m, "name")).await?;
    let can = found.compute.capabilities();
    can.require(Capability::Exec)?;
    let spec = exec_spec(s, m, &can, argv.unwrap_or(&[])).await?;
    let session = found.compute.exec(&found.instance.id, spec.clone()).await?;
    let ended = interact(session, &spec, &can, &mut signals).await?;
    finish(ended, spec.timeout)
}

fn finish(ended: Ended, limit: Option<Duration>) -> Outcome {
    match ended {
        Ended::Left(code) => Err(Failure::Code(code)),
        Ended::Exit(status) if status.timed_out => {
            let limit = limit.unwrap_or_default();
            let words = format!("the command was killed after {limit:?}");
            Err(Failure::Own(Error::new(Kind::Timeout, words)))
        }
        Ended::Exit(status) if status.code == 0 => Ok(()),
        // A code that does not fit is a failure all the same.
        Ended::Exit(status) => Err(Failure::Code(
            u8::try_from(status.code & 0xff).unwrap_or(1).max(1),
        )),
    }
}

/// What to run, from the flags of `run`, `exec` and `shell` (which gives `argv`).
async fn exec_spec(
    s: &Session,
    m: &ArgMatches,
    can: &Capabilities,
    argv: &[&str],
) -> Result<ExecSpec> {
    let flag = |id: &str| m.try_get_one::<bool>(id).ok().flatten() == Some(&true);
    let is_shell = !argv.is_empty();
    let mut spec = if is_shell {
        ExecSpec::new(argv.iter().copied())
    } else {
        ExecSpec::new(texts(m, "command"))
    };
    // `run` gives its variables to the instance, so that they are there later too.
    if m.try_contains_id("keep").is_err() && !is_shell {
        for (name, value) in pairs(m, "env") {
            spec = spec.env(name, value);
        }
    }
    if !is_shell && let Some(dir) = option(m, "cwd") {
        spec = spec.cwd(dir);
    }
    spec.timeout = s.timeout;
    let tty = flag("tty") || (is_shell && std::io::stdin().is_terminal());
    if tty {
        can.require(Capability::ExecTty)?;
        spec = spec.tty(terminal::size().unwrap_or_default());
        if let Ok(term) = std::env::var("TERM") {
            spec = spec.env("TERM", term);
        }
    }
    if flag("interactive") || tty || is_shell {
        spec.stdin = if can.has(Capability::ExecStdin) {
            Stdin::Stream
        } else {
            Stdin::Bytes(whole_input().await?)
        };
    }
    Ok(spec)
}

/// Standard input to its end, for platforms that take no stream.
async fn whole_input() -> Result<Bytes> {
    let mut input = Vec::new();
    let failed = |e: std::io::Error| Error::new(Kind::Failed, format!("standard input: {e}"));
    tokio::io::stdin()
        .take(WHOLE_INPUT + 1)
        .read_to_end(&mut input)
        .await
        .map_err(failed)?;
    if input.len() as u64 > WHOLE_INPUT {
        return Err(Error::new(
            Kind::Unsupported,
            "this platform takes standard input whole, and it is larger than 64 MiB",
        )
        .with_hint("copy it in with `boxrig cp` first"));
    }
    Ok(input.into())
}

/// Carries bytes, signals and sizes between our terminal and the command, until it ends.
async fn interact(
    mut session: ExecSession,
    spec: &ExecSpec,
    can: &Capabilities,
    signals: &mut Signals,
) -> Result<Ended> {
    let control = session.control();
    let raw = spec.tty.and_then(|_| Raw::enter());
    let input = (spec.stdin == Stdin::Stream).then(|| {
        let control = session.control();
        tokio::spawn(async move {
            let mut stdin = tokio::io::stdin();
            let mut buffer = vec![0; 32 * 1024];
            loop {
                match stdin.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(n) => {
                        let data = Bytes::copy_from_slice(&buffer[..n]);
                        if control.write(data).await.is_err() {
                            return;
                        }
                    }
                }
            }
            let _ = control.close().await;
        })
    });
    let pump = Pump::start();
    let mut interrupts = 0;
    // What has come and finds no room yet: until then nothing more is asked for, and we can still be told to go.
    let mut held = None;
    let ended = loop {
        tokio::select! {
            room = pump.room(), if held.is_some() => match (room, held.take()) {
                (Some(room), Some(piece)) => room.send(piece),
                // Nobody reads any more; dropping the session ends the command. The pump says more below.
                _ => break Ok(Ended::Left(141)),
            },
            event = session.next(), if held.is_none() => match event {
                Some(Ok(ExecEvent::Stdout(data))) => held = Some(Piece::Stdout(data)),
                Some(Ok(ExecEvent::Stderr(data))) => held = Some(Piece::Stderr(data)),
                Some(Ok(ExecEvent::Exit(status))) => break Ok(Ended::Exit(status)),
                Some(Ok(_)) => {}
                Some(Err(e)) => break Err(e),
                None => break Err(Error::new(Kind::Protocol, "the command's output ended without an exit status")),
            },
            asked = signals.next() => match asked {
                Asked::Resized => {
                    if let (Some(_), Some(size)) = (spec.tty, terminal::size()) {
                        let _ = control.resize(size).await;
                    }
                }
                Asked::Interrupt | Asked::End(_) if !can.has(Capability::ExecSignal) => {
                    break Ok(Ended::Left(leave_code(asked)));
                }
                Asked::Interrupt => {
                    interrupts += 1;
                    // The first is the command's to treat; one that goes on regardless is killed. What it has said may find
                    // no reader even then.
                    let signal = match interrupts {
                        1 => 2,
                        2 => 15,
                        3 => 9,
                        _ => break Ok(Ended::Left(130)),
                    };
                    if control.signal(signal).await.is_err() {
                        break Ok(Ended::Left(130));
                    }
                }
                Asked::End(_) => {
                    let _ = control.signal(15).await;
                    break Ok(Ended::Left(leave_code(asked)));
                }
            },
        }
    };
    if let Some(input) = input {
        input.abort();
    }
    drop(raw);
    match last_words(pump, &ended, signals).await {
        Err(asked) => Ok(Ended::Left(leave_code(asked))),
        Ok(Err(e)) if ended.is_ok() && e.kind() == std::io::ErrorKind::BrokenPipe => {
            Ok(Ended::Left(141))
        }
        Ok(Err(e)) if ended.is_ok() => {
            let words = format!("the command's output could not be written: {e}");
            Err(Error::new(Kind::Failed, words).with_source(e))
        }
        Ok(_) => ended,
    }
}

/// Waits for what is still to be written, also when whoever reads it takes his time; an error when we are asked to go meanwhile. Who was
/// asked to go already waits only a moment.
async fn last_words(
    pump: Pump,
    ended: &Result<Ended>,
    signals: &mut Signals,
) -> std::result::Result<std::io::Result<()>, Asked> {
    const MOMENT: Duration = Duration::from_secs(1);
    let left = matches!(ended, Ok(Ended::Left(_)));
    let mut written = std::pin::pin!(pump.finish());
    loop {
        tokio::select! {
            written = &mut written => return Ok(written),
            asked = signals.next() => match asked {
                Asked::Resized => {}
                asked => return Err(asked),
            },
            () = tokio::time::sleep(MOMENT), if left => return Ok(Ok(())),
        }
    }
}

fn leave_code(asked: Asked) -> u8 {
    match asked {
        Asked::End(n) => 128 + u8::try_from(n).unwrap_or(0),
        _ => 130,
    }
}
