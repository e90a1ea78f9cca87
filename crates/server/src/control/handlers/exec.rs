//! The exec socket; its frames are described in the documentation of [`crate::control`].

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use boxrig_engine::{BoxReader, BoxWriter, ExecSpec, ExitStatus, InstanceId, WinSize};
use boxrig_wire::ws::{Frame, Reader, Writer};
use boxrig_wire::{ApiError, Request, Socket, WebSocket};
use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::super::exec::{
    CHANNEL_STDERR, CHANNEL_STDIN, CHANNEL_STDOUT, ExecControl, ExecEvent, ExecFailure, ExecStart,
    Size,
};
use super::super::ops::Exec;
use super::{Called, api, instance_id};
use crate::core::{Core, engine_error};

/// The client says what to run within this long.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// After the command's end, its output is read until it has been silent for this long.
const SILENCE: Duration = Duration::from_millis(100);
/// Frames of input that are held for a command that does not read them.
const HELD_FRAMES: usize = 16;
const CHUNK: usize = 64 * 1024;
/// What a terminal takes as end of file (`^D`).
const END_OF_FILE: u8 = 4;

pub(super) async fn exec(call: Called, request: Request<Exec>) -> Result<Socket, ApiError> {
    let id = instance_id(&request.path.0)?;
    // An unknown instance is an ordinary 404.
    call.core.engine.get(&id).await.map_err(api)?;
    let core = call.core.clone();
    Ok(Socket::serve(move |socket| async move {
        let (reader, writer) = socket_halves(socket);
        if let Err(e) = serve(&core, &id, reader, &writer).await {
            tracing::debug!(error = %e, "exec socket");
        }
        let _ = writer.shutdown().await;
    }))
}

fn socket_halves(socket: WebSocket) -> (Reader, Writer) {
    socket.split()
}

async fn serve(
    core: &Core,
    id: &InstanceId,
    mut reader: Reader,
    writer: &Writer,
) -> io::Result<()> {
    let start = match first_frame(&mut reader).await {
        Ok(start) => start,
        Err(why) => return fail(writer, &ApiError::invalid(why), None).await,
    };
    let tty = start.tty.is_some();
    let started = match (&start.tty, start.argv.is_empty()) {
        (Some(size), true) => core.engine.console(id, win(*size)).await,
        (None, true) => {
            let e = ApiError::invalid("argv is empty");
            return fail(writer, &e, None).await;
        }
        (_, false) => core.engine.exec(id, spec(start)).await,
    };
    let exec = match started {
        Ok(exec) => exec,
        Err(e) => return fail(writer, &engine_error(&e), e.shell_code()).await,
    };
    let boxrig_engine::Exec {
        stdin,
        stdout,
        stderr,
        control,
    } = exec;
    say(writer, &ExecEvent::Started { pid: control.pid() }).await?;

    let progress = Progress::default();
    let output = async {
        let err = async {
            match stderr {
                Some(stderr) => pump(stderr, CHANNEL_STDERR, writer, &progress).await,
                None => Ok(()),
            }
        };
        tokio::try_join!(pump(stdout, CHANNEL_STDOUT, writer, &progress), err).map(|_| ())
    };
    let run = async {
        let mut output = std::pin::pin!(output);
        let mut drained = false;
        let mut wait = std::pin::pin!(control.wait());
        let status = loop {
            tokio::select! {
                biased;
                result = &mut output, if !drained => { result?; drained = true; }
                status = &mut wait => break status,
            }
        };
        while !drained {
            let before = progress.chunks.load(Ordering::Relaxed);
            tokio::select! {
                result = &mut output => { result?; drained = true; }
                () = tokio::time::sleep(SILENCE) => {
                    let silent = before == progress.chunks.load(Ordering::Relaxed);
                    if silent && !progress.sending.load(Ordering::Relaxed) {
                        drained = true;
                    }
                }
            }
        }
        match status {
            Ok(status) => say(writer, &exit(status)).await?,
            Err(e) => fail(writer, &engine_error(&e), None).await?,
        }
        writer.send(Frame::close(1000)).await
    };
    let input = async {
        let (held, frames) = mpsc::channel(HELD_FRAMES);
        let write = write_input(stdin, frames, tty);
        let read = read_input(&mut reader, held, &*control);
        // The writer ends when the command closes its input; the reader goes on, for signals.
        tokio::join!(write, read).1
    };
    tokio::select! {
        result = run => result,
        // The client is gone: dropping the command's control kills it.
        result = input => result,
    }
}

async fn first_frame(reader: &mut Reader) -> Result<ExecStart, String> {
    let read = tokio::time::timeout(START_PATIENCE, async {
        loop {
            match reader.next().await {
                Ok(Some(Frame::Data { payload, .. })) => return Ok(payload),
                Ok(Some(Frame::Ping(_) | Frame::Pong(_))) => {}
                Ok(Some(Frame::Close { .. }) | None) => return Err("closed".to_owned()),
                Err(e) => return Err(e.to_string()),
            }
        }
    });
    let payload = read
        .await
        .map_err(|_| "the first frame did not come".to_owned())??;
    serde_json::from_slice(&payload).map_err(|e| format!("the first frame: {e}"))
}

fn spec(start: ExecStart) -> ExecSpec {
    let mut spec = ExecSpec::new(start.argv);
    spec.env = start.env;
    spec.cwd = start.cwd.map(String::into_bytes);
    spec.uid = start.uid;
    spec.gid = start.gid;
    spec.stdin = start.stdin || start.tty.is_some();
    spec.tty = start.tty.map(win);
    spec
}

fn win(size: Size) -> WinSize {
    WinSize {
        rows: size.rows,
        cols: size.cols,
    }
}

/// How the output comes along, so that its silence can be told from a slow client.
#[derive(Default)]
struct Progress {
    chunks: AtomicU64,
    sending: AtomicBool,
}

async fn pump(
    mut from: BoxReader,
    channel: u8,
    writer: &Writer,
    progress: &Progress,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(1 + CHUNK);
        buffer.put_u8(channel);
        // A terminal whose last process has ended reads as an error (EIO) on Linux: its end too.
        let n = from.read_buf(&mut buffer).await.unwrap_or(0);
        if n == 0 {
            return Ok(());
        }
        progress.chunks.fetch_add(1, Ordering::Relaxed);
        progress.sending.store(true, Ordering::Relaxed);
        writer.send(Frame::binary(buffer.split().freeze())).await?;
        progress.sending.store(false, Ordering::Relaxed);
    }
}

/// Reads the client's frames until it is gone.
async fn read_input(
    reader: &mut Reader,
    held: mpsc::Sender<Bytes>,
    control: &dyn boxrig_engine::ExecControl,
) -> io::Result<()> {
    loop {
        match reader.next().await? {
            Some(Frame::Data {
                text: false,
                fin: true,
                payload,
            }) if payload.first() == Some(&CHANNEL_STDIN) => {
                // Refused when the command takes no more input: like a closed pipe, for which a
                // command line tool has no use either.
                let _ = held.send(payload.slice(1..)).await;
            }
            Some(Frame::Data {
                text: true,
                fin: true,
                payload,
            }) => match serde_json::from_slice(&payload) {
                Ok(ExecControl::Resize(size)) => {
                    let _ = control.resize(win(size)).await;
                }
                Ok(ExecControl::Signal(signal)) => {
                    let _ = control.signal(signal).await;
                }
                Err(e) => return Err(io::Error::new(io::ErrorKind::InvalidData, e)),
            },
            Some(Frame::Data { .. }) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "an unknown frame on the exec socket",
                ));
            }
            Some(Frame::Ping(_) | Frame::Pong(_)) => {}
            Some(Frame::Close { .. }) | None => return Ok(()),
        }
    }
}

async fn write_input(stdin: Option<BoxWriter>, mut frames: mpsc::Receiver<Bytes>, tty: bool) {
    let Some(mut stdin) = stdin else { return };
    while let Some(data) = frames.recv().await {
        let result = match (data.is_empty(), tty) {
            (true, false) => return,
            (true, true) => stdin.write_all(&[END_OF_FILE]).await,
            (false, _) => stdin.write_all(&data).await,
        };
        if result.is_err() || stdin.flush().await.is_err() {
            return;
        }
    }
}

fn exit(status: ExitStatus) -> ExecEvent {
    match status {
        ExitStatus::Code(code) => ExecEvent::Exit {
            code: Some(code),
            signal: None,
        },
        ExitStatus::Signal(signal) => ExecEvent::Exit {
            code: None,
            signal: Some(signal),
        },
    }
}

async fn say(writer: &Writer, event: &ExecEvent) -> io::Result<()> {
    let text = serde_json::to_vec(event).map_err(io::Error::other)?;
    writer.send(Frame::text(text)).await
}

async fn fail(writer: &Writer, e: &ApiError, shell_code: Option<i32>) -> io::Result<()> {
    let failure = ExecFailure {
        kind: e.kind,
        message: e.message.clone(),
        shell_code,
    };
    say(writer, &ExecEvent::Error(failure)).await?;
    writer.send(Frame::close(1000)).await
}
