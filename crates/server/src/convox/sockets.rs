//! What all the rack's sockets share: frames, the mark of the end, errors after the upgrade.

use boxrig_wire::ws::{Frame, Reader, WebSocket, Writer};
use boxrig_wire::{ApiError, ReplyCodec, Socket, WireBody, ws};
use bytes::Bytes;
use http::{HeaderMap, Response};

/// How long the other side may take to hang up after the end mark.
const LINGER: std::time::Duration = std::time::Duration::from_secs(5);

/// Sends data: any bytes, in a text frame.
pub(super) async fn send(out: &Writer, bytes: impl Into<Bytes>) -> std::io::Result<()> {
    out.send(Frame::text(bytes)).await
}

/// Ends a stream: an empty binary frame, then no more is sent.
pub(super) async fn end(out: &Writer) {
    if out.send(Frame::binary(Bytes::new())).await.is_ok() {
        let _ = out.shutdown().await;
    }
}

/// Says an error as a rack does on a socket, and ends.
pub(super) async fn fail(out: &Writer, e: &ApiError) {
    if send(out, format!("ERROR: {}\n", e.message)).await.is_ok() {
        end(out).await;
    }
}

/// The answer to a socket request that is refused: the upgrade, then the error.
pub(super) fn refused(headers: &HeaderMap, e: ApiError) -> Response<WireBody> {
    let handshake = match ws::server_handshake(headers) {
        Ok(handshake) => handshake,
        Err(why) => return crate::router::error::<boxrig_convox::Convox>(&ApiError::invalid(why)),
    };
    let socket = serve(move |_, out| async move { fail(&out, &e).await });
    match socket.encode() {
        Ok(mut response) => {
            response.headers_mut().extend(handshake);
            response
        }
        Err(why) => crate::router::error::<boxrig_convox::Convox>(&super::params::failed(why)),
    }
}

/// A socket served by `work`; the other side is given a moment to take the end.
pub(super) fn serve<F, Fut>(work: F) -> Socket
where
    F: FnOnce(Input, Writer) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    Socket::serve(move |ws: WebSocket| async move {
        let (reader, out) = ws.split();
        let (input, rest) = Input::new(reader);
        work(input, out).await;
        // What was sent must arrive before the connection is gone: the peer hangs up, or its time is over.
        let _ = tokio::time::timeout(LINGER, rest).await;
    })
}

/// What the other side sends: data until its end mark, then only whether it is still there.
pub(super) struct Input {
    data: tokio::sync::mpsc::Receiver<Bytes>,
    gone: tokio::sync::watch::Receiver<bool>,
}

impl Input {
    fn new(mut reader: Reader) -> (Self, impl Future<Output = ()>) {
        let (to, data) = tokio::sync::mpsc::channel(4);
        let (gone, is_gone) = tokio::sync::watch::channel(false);
        let task = tokio::spawn(async move {
            let mut to = Some(to);
            loop {
                match reader.next().await {
                    Ok(Some(Frame::Data { text: false, .. })) => to = None,
                    Ok(Some(Frame::Data { payload, .. })) => {
                        if let Some(open) = &to
                            && !payload.is_empty()
                            && open.send(payload).await.is_err()
                        {
                            to = None;
                        }
                    }
                    Ok(Some(Frame::Ping(_) | Frame::Pong(_))) => {}
                    Ok(Some(Frame::Close { .. }) | None) | Err(_) => break,
                }
            }
            gone.send_replace(true);
        });
        let input = Self {
            data,
            gone: is_gone,
        };
        (input, async {
            let mut task = AbortOnDrop(task);
            let _ = (&mut task.0).await;
        })
    }

    /// The next data; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        self.data.recv().await
    }

    /// Ends when the other side has hung up.
    pub(super) fn hang_up(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut gone = self.gone.clone();
        async move {
            let _ = gone.wait_for(|gone| *gone).await;
        }
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
