//! The console: a token that opens one websocket, and the terminal behind it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;

use boxrig_engine::{Exec, WinSize};
use boxrig_fastvm::{ConsoleTokenResponse, ops};
use boxrig_wire::ws::Frame;
use boxrig_wire::{ApiError, JsonReply, Kind, Request, Secret, Socket, WebSocket};
use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Cx;
use super::once::digest;
use super::state::{engine_error, instance};
use crate::ids;
use crate::state::lock;

/// How long a token is good for.
const LIFETIME_SECONDS: u64 = 60;
/// The most tokens that wait to be used.
const MOST: usize = 10_000;
/// The longest message of a client.
const LONGEST: usize = 1024 * 1024;
/// The most bytes of one frame to the client.
const CHUNK: usize = 16 * 1024;
/// Close code: the shell has ended (RFC 6455, 7.4.1).
const NORMAL: u16 = 1000;

/// Tokens that have been given out and not used, by their SHA-256. Not durable: a restart makes them void.
#[derive(Default)]
pub(super) struct Tokens(Mutex<HashMap<String, (String, u64)>>);

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", lock(&self.0).len())
    }
}

impl Tokens {
    /// A token for a machine; `None` when too many wait.
    fn issue(&self, vm_id: &str, now_ms: u64) -> Option<String> {
        let token = ids::secret();
        let mut waiting = lock(&self.0);
        waiting.retain(|_, (_, expires)| *expires > now_ms);
        if waiting.len() >= MOST {
            return None;
        }
        let expires = now_ms + LIFETIME_SECONDS * 1000;
        waiting.insert(digest(token.as_bytes()), (vm_id.to_owned(), expires));
        Some(token)
    }

    /// Uses a token up. Tells whether it was good for this machine.
    fn redeem(&self, token: &str, vm_id: &str, now_ms: u64) -> bool {
        let found = lock(&self.0).remove(&digest(token.as_bytes()));
        found.is_some_and(|(vm, expires)| vm == vm_id && expires > now_ms)
    }
}

pub(super) async fn token(
    cx: Cx,
    rq: Request<ops::CreateConsoleToken>,
) -> Result<JsonReply<ConsoleTokenResponse>, ApiError> {
    let (id,) = rq.path;
    cx.state.running(&id)?;
    if !cx.state.core.engine.capabilities().pty {
        let words = format!("the engine {} has no consoles", cx.state.core.engine.name());
        return Err(ApiError::new(Kind::Unsupported, words));
    }
    let token = cx.state.consoles.issue(&id, cx.state.core.now_ms());
    let token = token.ok_or_else(|| {
        ApiError::new(Kind::RateLimited, "too many console tokens wait to be used")
    })?;
    Ok(JsonReply::ok(ConsoleTokenResponse {
        token: Secret::new(token),
        expires_in_sec: LIFETIME_SECONDS,
        websocket_path: format!("/v1/vms/{id}/console"),
        ..ConsoleTokenResponse::default()
    }))
}

pub(super) async fn open(cx: Cx, rq: Request<ops::OpenConsole>) -> Result<Socket, ApiError> {
    let (id,) = rq.path;
    let session = rq.query.session.unwrap_or_default();
    if !cx
        .state
        .consoles
        .redeem(&session, &id, cx.state.core.now_ms())
    {
        return Err(ApiError::new(
            Kind::Unauthenticated,
            "session: the token is wrong, used or expired",
        ));
    }
    cx.state.running(&id)?;
    let size = WinSize::default();
    let shell = cx.state.core.engine.console(&instance(&id)?, size).await;
    let shell = shell.map_err(|e| engine_error(&e))?;
    Ok(Socket::serve(move |socket| serve(shell, socket)))
}

/// What a client says in a text message that is no keystrokes.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Control {
    Resize { cols: u16, rows: u16 },
}

fn control(message: &[u8]) -> Option<WinSize> {
    // Keystrokes are hardly ever an object; those that are no known message are keystrokes too.
    if message.first() != Some(&b'{') {
        return None;
    }
    let Control::Resize { cols, rows } = serde_json::from_slice(message).ok()?;
    Some(WinSize { rows, cols })
}

/// Carries bytes both ways until the shell or the connection ends. The shell ends with this function.
async fn serve(mut shell: Exec, socket: WebSocket) {
    let (mut reader, writer) = socket.split();
    let Some(mut keys) = shell.stdin.take() else {
        return;
    };
    let show = async {
        let mut screen = BytesMut::new();
        loop {
            screen.reserve(CHUNK);
            match shell.stdout.read_buf(&mut screen).await {
                Ok(n) if n > 0 => {
                    let frame = Frame::binary(screen.split().freeze());
                    if writer.send(frame).await.is_err() {
                        return;
                    }
                }
                _ => break,
            }
        }
        let close = Frame::Close {
            code: Some(NORMAL),
            reason: "the shell has ended".into(),
        };
        let _ = writer.send(close).await;
    };
    let control_of = &shell.control;
    let type_in = async {
        let mut message = BytesMut::new();
        while let Ok(Some(frame)) = reader.next().await {
            let Frame::Data { text, fin, payload } = frame else {
                if matches!(frame, Frame::Close { .. }) {
                    return;
                }
                continue;
            };
            if message.len() + payload.len() > LONGEST {
                return;
            }
            message.extend_from_slice(&payload);
            if !fin {
                continue;
            }
            let whole: Bytes = message.split().freeze();
            let sent = match control(&whole).filter(|_| text) {
                Some(size) => {
                    let _ = control_of.resize(size).await;
                    Ok(())
                }
                None => write(&mut keys, &whole).await,
            };
            if sent.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = show => {}
        () = type_in => {}
    }
    let _ = writer.shutdown().await;
}

async fn write(keys: &mut boxrig_engine::BoxWriter, bytes: &[u8]) -> std::io::Result<()> {
    keys.write_all(bytes).await?;
    keys.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_once_and_in_time() {
        let tokens = Tokens::default();
        let token = tokens.issue("a", 0).unwrap();
        assert!(!tokens.redeem("no", "a", 1));
        assert!(tokens.redeem(&token, "a", 1));
        assert!(!tokens.redeem(&token, "a", 1), "used");
        let token = tokens.issue("a", 0).unwrap();
        assert!(!tokens.redeem(&token, "b", 1), "another machine's");
        let token = tokens.issue("a", 0).unwrap();
        assert!(!tokens.redeem(&token, "a", 60_000), "late");
        tokens.issue("a", 0).unwrap();
        tokens.issue("a", 60_000).unwrap();
        assert_eq!(lock(&tokens.0).len(), 1, "late ones are swept out");
    }

    #[test]
    fn resizes_are_told_from_keystrokes() {
        let size = control(br#"{"type":"resize","cols":91,"rows":33}"#).unwrap();
        assert_eq!((size.cols, size.rows), (91, 33));
        for keys in [
            &b"{"[..],
            b"",
            b"{}",
            br#"{"type":"other"}"#,
            b"ls\r",
            br#"{"type":"resize"}"#,
        ] {
            assert_eq!(control(keys), None);
        }
    }
}
