//! Websockets at the level of frames (RFC 6455).
//!
//! The platforms need more freedom than message libraries give: Convox puts raw bytes in text
//! frames, Incus ends a stream with an empty frame and pings during it, and both may end a
//! connection without a close frame. So text is not checked for UTF-8, a frame is given as it
//! came, and an abrupt end is told apart from a close.

use std::io;
use std::sync::{Arc, Mutex as StdMutex};

use base64::Engine as _;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::lock::Mutex;
use http::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use sha1::{Digest, Sha1};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use crate::{Duplex, Untrusted};

/// A frame as it came or goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Content. A message is one frame with `fin`, or several of which the last has it.
    Data {
        /// Whether the message was declared text. The bytes are not checked.
        text: bool,
        /// Whether the message ends here.
        fin: bool,
        /// The content; may be empty.
        payload: Bytes,
    },
    /// A ping; answered by the reader itself unless told otherwise.
    Ping(Bytes),
    /// A pong.
    Pong(Bytes),
    /// The peer closes.
    Close {
        /// The status code, when one was given.
        code: Option<u16>,
        /// The peer's words.
        reason: Untrusted,
    },
}

impl Frame {
    /// A whole binary message.
    pub fn binary(payload: impl Into<Bytes>) -> Self {
        Self::Data {
            text: false,
            fin: true,
            payload: payload.into(),
        }
    }
    /// A whole text message.
    pub fn text(payload: impl Into<Bytes>) -> Self {
        Self::Data {
            text: true,
            fin: true,
            payload: payload.into(),
        }
    }
    /// A close with a status code.
    pub fn close(code: u16) -> Self {
        Self::Close {
            code: Some(code),
            reason: Untrusted::default(),
        }
    }
}

/// Frames with a larger payload are refused (the largest seen in use is 1 MiB).
pub const MAX_PAYLOAD: usize = 16 * 1024 * 1024;

/// How much is read from a connection at a time: at first, and at most once reads have filled their room.
const ROOM: (usize, usize) = (8 * 1024, 128 * 1024);

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// The frame reader's state: turns bytes into frames, without IO.
#[derive(Debug, Default)]
pub struct Decoder {
    text: bool,
    within: bool,
}

impl Decoder {
    /// Takes one frame from the front of `buf`; `None` when it is not all there.
    ///
    /// # Errors
    ///
    /// What the peer did against the protocol.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Frame>, &'static str> {
        if buf.len() < 2 {
            return Ok(None);
        }
        let (first, second) = (buf[0], buf[1]);
        if first & 0x70 != 0 {
            return Err("a reserved bit is set in a websocket frame");
        }
        let (fin, opcode) = (first & 0x80 != 0, first & 0x0f);
        let masked = second & 0x80 != 0;
        let (len, mut at) = match second & 0x7f {
            126 if buf.len() < 4 => return Ok(None),
            126 => (u64::from(u16::from_be_bytes([buf[2], buf[3]])), 4),
            127 if buf.len() < 10 => return Ok(None),
            127 => {
                let mut n = [0; 8];
                n.copy_from_slice(&buf[2..10]);
                (u64::from_be_bytes(n), 10)
            }
            n => (u64::from(n), 2),
        };
        let len = usize::try_from(len).ok().filter(|n| *n <= MAX_PAYLOAD);
        let len = len.ok_or("a websocket frame is too large")?;
        if opcode >= 8 && (len > 125 || !fin) {
            return Err("a websocket control frame is too large or fragmented");
        }
        let key_at = at;
        if masked {
            at += 4;
        }
        if buf.len() < at + len {
            return Ok(None);
        }
        let mut key = [0; 4];
        if masked {
            key.copy_from_slice(&buf[key_at..at]);
        }
        buf.advance(at);
        let mut payload = buf.split_to(len);
        if masked {
            mask(&mut payload, key);
        }
        let payload = payload.freeze();
        Ok(Some(match opcode {
            0 if !self.within => return Err("a websocket continuation without a start"),
            0 => {
                self.within = !fin;
                Frame::Data {
                    text: self.text,
                    fin,
                    payload,
                }
            }
            TEXT | BINARY => {
                if self.within {
                    return Err("a websocket message starts within another");
                }
                self.text = opcode == TEXT;
                self.within = !fin;
                Frame::Data {
                    text: self.text,
                    fin,
                    payload,
                }
            }
            CLOSE => {
                let code = (len >= 2).then(|| u16::from_be_bytes([payload[0], payload[1]]));
                let reason = payload
                    .get(2..)
                    .map(String::from_utf8_lossy)
                    .unwrap_or_default();
                Frame::Close {
                    code,
                    reason: Untrusted::new(reason),
                }
            }
            PING => Frame::Ping(payload),
            PONG => Frame::Pong(payload),
            _ => return Err("an unknown websocket opcode"),
        }))
    }
}

/// Writes frames, without IO.
#[derive(Debug)]
pub struct Encoder {
    masked: bool,
    within: bool,
}

impl Encoder {
    /// A client masks its frames, a server does not.
    pub fn new(client: bool) -> Self {
        Self {
            masked: client,
            within: false,
        }
    }

    /// Appends the frame to `out`.
    pub fn encode(&mut self, frame: &Frame, out: &mut BytesMut) {
        let close;
        let (opcode, fin, payload): (u8, bool, &[u8]) = match frame {
            Frame::Data { text, fin, payload } => {
                let start = if *text { TEXT } else { BINARY };
                let opcode = if self.within { 0 } else { start };
                self.within = !fin;
                (opcode, *fin, payload)
            }
            Frame::Ping(p) => (PING, true, control(p)),
            Frame::Pong(p) => (PONG, true, control(p)),
            Frame::Close { code, reason } => {
                let mut text = Vec::new();
                if let Some(code) = code {
                    text.put_u16(*code);
                    text.extend_from_slice(reason.raw().as_bytes());
                    text.truncate(125);
                }
                close = text;
                (CLOSE, true, &close)
            }
        };
        out.reserve(14 + payload.len());
        out.put_u8(opcode | if fin { 0x80 } else { 0 });
        let bit = if self.masked { 0x80 } else { 0 };
        match payload.len() {
            n if n < 126 => out.put_u8(bit | n as u8),
            n if n <= 0xffff => {
                out.put_u8(bit | 126);
                out.put_u16(n as u16);
            }
            n => {
                out.put_u8(bit | 127);
                out.put_u64(n as u64);
            }
        }
        if self.masked {
            let key: [u8; 4] = rand::random();
            out.put_slice(&key);
            let at = out.len();
            out.put_slice(payload);
            mask(&mut out[at..], key);
        } else {
            out.put_slice(payload);
        }
    }
}

fn control(payload: &[u8]) -> &[u8] {
    &payload[..payload.len().min(125)]
}

fn mask(data: &mut [u8], key: [u8; 4]) {
    let wide = u64::from_ne_bytes([
        key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3],
    ]);
    let (chunks, rest) = data.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

struct Outlet {
    io: WriteHalf<Box<dyn Duplex>>,
    encoder: Encoder,
    buffer: BytesMut,
}

impl Outlet {
    async fn write(&mut self, frame: &Frame) -> io::Result<()> {
        // The buffer is filled and written in two steps, so that a dropped future leaves either
        // nothing or a whole frame to be written by the next one.
        self.encoder.encode(frame, &mut self.buffer);
        self.flush().await
    }

    async fn flush(&mut self) -> io::Result<()> {
        while self.buffer.has_remaining() {
            self.io.write_buf(&mut self.buffer).await?;
        }
        self.io.flush().await
    }
}

/// A websocket connection.
pub struct WebSocket {
    reader: Reader,
    writer: Writer,
}

/// The reading half.
pub struct Reader {
    io: ReadHalf<Box<dyn Duplex>>,
    decoder: Decoder,
    buffer: BytesMut,
    room: usize,
    writer: Writer,
    answer_pings: bool,
}

/// The writing half; clones write to the same connection, a frame at a time.
#[derive(Clone)]
pub struct Writer {
    outlet: Arc<Mutex<Outlet>>,
    /// The pong that is owed, when the outlet was busy. Only the last ping needs an answer
    /// (RFC 6455, 5.5.3).
    owed: Arc<StdMutex<Option<Bytes>>>,
}

impl WebSocket {
    /// The client's end of an upgraded connection.
    pub fn client(io: Box<dyn Duplex>) -> Self {
        Self::new(io, true)
    }
    /// The server's end of an upgraded connection.
    pub fn server(io: Box<dyn Duplex>) -> Self {
        Self::new(io, false)
    }
    fn new(io: Box<dyn Duplex>, client: bool) -> Self {
        let (read, write) = tokio::io::split(io);
        let outlet = Outlet {
            io: write,
            encoder: Encoder::new(client),
            buffer: BytesMut::new(),
        };
        let writer = Writer {
            outlet: Arc::new(Mutex::new(outlet)),
            owed: Arc::new(StdMutex::new(None)),
        };
        let reader = Reader {
            io: read,
            decoder: Decoder::default(),
            buffer: BytesMut::new(),
            room: ROOM.0,
            writer: writer.clone(),
            answer_pings: true,
        };
        Self { reader, writer }
    }
    /// Both halves, to be used by two tasks.
    pub fn split(self) -> (Reader, Writer) {
        (self.reader, self.writer)
    }
    /// The next frame; see [`Reader::next`].
    ///
    /// # Errors
    ///
    /// When the connection breaks or the peer breaks the protocol.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        self.reader.next().await
    }
    /// Sends a frame.
    ///
    /// # Errors
    ///
    /// When the connection is broken.
    pub async fn send(&mut self, frame: Frame) -> io::Result<()> {
        self.writer.send(frame).await
    }
}

impl std::fmt::Debug for WebSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WebSocket")
    }
}

impl Reader {
    /// Whether pings are answered by the reader (they are, unless switched off).
    pub fn answer_pings(&mut self, answer: bool) {
        self.answer_pings = answer;
    }

    /// The next frame. `Ok(None)` is an end of the connection without a close frame. Safe to drop
    /// and call again.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidData`] when the peer breaks the protocol, else the connection's error;
    /// [`io::ErrorKind::UnexpectedEof`] when it ends within a frame.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            let frame = self
                .decoder
                .decode(&mut self.buffer)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            if let Some(frame) = frame {
                if let (true, Frame::Ping(payload)) = (self.answer_pings, &frame) {
                    // A peer that has sent all and gone takes no pong: what it sent is still to be read, and
                    // reading tells the end.
                    let _ = self.writer.pong(payload.clone()).await;
                }
                return Ok(Some(frame));
            }
            // Without room for more than a frame each takes two reads, one for its head and one for the rest.
            if self.buffer.capacity() - self.buffer.len() < self.room / 2 {
                self.buffer.reserve(self.room);
            }
            let spare = self.buffer.capacity() - self.buffer.len();
            let read = self.io.read_buf(&mut self.buffer).await?;
            if read == spare {
                self.room = (self.room * 2).min(ROOM.1);
            }
            if read == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }
}

impl Writer {
    /// Sends a frame. Waits while the peer does not take it.
    ///
    /// # Errors
    ///
    /// When the connection is broken.
    pub async fn send(&self, frame: Frame) -> io::Result<()> {
        self.outlet.lock().await.write(&frame).await?;
        self.pay().await
    }

    /// Ends the writing side of the connection, after everything was sent.
    ///
    /// # Errors
    ///
    /// When the connection is broken.
    pub async fn shutdown(&self) -> io::Result<()> {
        let mut outlet = self.outlet.lock().await;
        outlet.flush().await?;
        outlet.io.shutdown().await
    }

    async fn pong(&self, payload: Bytes) -> io::Result<()> {
        *self.owed.lock().unwrap_or_else(|e| e.into_inner()) = Some(payload);
        self.pay().await
    }

    /// Sends the owed pong, unless another task is writing: that one will, when it is done. Reading
    /// never waits for a writer that the peer keeps waiting.
    async fn pay(&self) -> io::Result<()> {
        let owed = || self.owed.lock().unwrap_or_else(|e| e.into_inner()).take();
        let is_owed = || {
            self.owed
                .lock()
                .unwrap_or_else(|e| e.into_inner())
                .is_some()
        };
        while is_owed() {
            let Some(mut outlet) = self.outlet.try_lock() else {
                return Ok(());
            };
            if let Some(payload) = owed() {
                outlet.write(&Frame::Pong(payload)).await?;
            }
        }
        Ok(())
    }
}

/// The `Sec-WebSocket-Accept` value for a key (RFC 6455, 4.2.2).
pub fn accept_key(key: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    base64::engine::general_purpose::STANDARD.encode(hash.finalize())
}

/// Adds a client's handshake headers and gives the accept value to expect.
pub fn client_handshake(headers: &mut HeaderMap) -> String {
    let key = base64::engine::general_purpose::STANDARD.encode(rand::random::<[u8; 16]>());
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    if let Ok(value) = HeaderValue::from_str(&key) {
        headers.insert(SEC_WEBSOCKET_KEY, value);
    }
    accept_key(key.as_bytes())
}

/// Checks a server's request headers; gives the headers of the `101`.
///
/// # Errors
///
/// What is missing, in words, for a 400.
pub fn server_handshake(request: &HeaderMap) -> Result<HeaderMap, &'static str> {
    let has = |name, token: &str| {
        request
            .get_all(name)
            .iter()
            .filter_map(|v: &HeaderValue| v.to_str().ok())
            .any(|v| {
                v.split(',')
                    .any(|part| part.trim().eq_ignore_ascii_case(token))
            })
    };
    if !has(UPGRADE, "websocket") || !has(CONNECTION, "upgrade") {
        return Err("this path takes a websocket: the Upgrade headers are missing");
    }
    if request.get(SEC_WEBSOCKET_VERSION).is_none_or(|v| v != "13") {
        return Err("only websocket version 13 is spoken");
    }
    let key = request
        .get(SEC_WEBSOCKET_KEY)
        .ok_or("Sec-WebSocket-Key is missing")?;
    let mut headers = HeaderMap::new();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    let accept = HeaderValue::from_str(&accept_key(key.as_bytes()))
        .map_err(|_| "Sec-WebSocket-Key is not usable")?;
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn accept_key_of_the_rfc() {
        assert_eq!(
            accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[test]
    fn violations_are_errors() {
        for bytes in [
            &[0xf1, 0][..],                       // reserved bits
            &[0x80, 0],                           // continuation without a start
            &[0x09, 0],                           // fragmented ping
            &[0x89, 126, 0, 200],                 // long ping
            &[0x83, 0],                           // unknown opcode
            &[0x82, 127, 0, 0, 0, 1, 0, 0, 0, 0], // 4 GiB
        ] {
            assert!(
                Decoder::default()
                    .decode(&mut BytesMut::from(bytes))
                    .is_err(),
                "{bytes:?}"
            );
        }
    }

    #[tokio::test]
    async fn frames_pings_and_abrupt_ends() {
        let (a, b) = tokio::io::duplex(64);
        let mut client = WebSocket::client(Box::new(a));
        let server = tokio::spawn(async move {
            let mut server = WebSocket::server(Box::new(b));
            let mut seen = Vec::new();
            server
                .send(Frame::Ping(Bytes::from_static(b"hi")))
                .await
                .unwrap();
            while let Some(f) = server.next().await.unwrap() {
                seen.push(f);
            }
            seen
        });
        assert_eq!(
            client.next().await.unwrap(),
            Some(Frame::Ping(Bytes::from_static(b"hi")))
        );
        client.send(Frame::text(&b"\xff\x00raw"[..])).await.unwrap();
        client.send(Frame::binary(Bytes::new())).await.unwrap();
        client.send(Frame::binary(vec![7; 70_000])).await.unwrap();
        drop(client);
        let seen = server.await.unwrap();
        assert_eq!(seen[0], Frame::Pong(Bytes::from_static(b"hi")));
        assert_eq!(seen[1], Frame::text(&b"\xff\x00raw"[..]));
        assert_eq!(seen[2], Frame::binary(Bytes::new()));
        assert_eq!(seen[3], Frame::binary(vec![7; 70_000]));
        assert_eq!(seen.len(), 4, "an abrupt end is no frame");
    }

    /// The peer pings, says the last word and is gone: the pong fails, the word is not lost.
    #[tokio::test]
    async fn what_was_sent_before_the_end_is_read() {
        let (a, b) = tokio::io::duplex(1024);
        let mut client = WebSocket::client(Box::new(a));
        let mut server = WebSocket::server(Box::new(b));
        let ping = Frame::Ping(Bytes::from_static(b"?"));
        server.send(ping.clone()).await.unwrap();
        server.send(Frame::text("last")).await.unwrap();
        drop(server);
        assert_eq!(client.next().await.unwrap(), Some(ping));
        assert_eq!(client.next().await.unwrap(), Some(Frame::text("last")));
        assert_eq!(client.next().await.unwrap(), None);
    }

    /// Frames that come fast are not read one by one: a read of a head, a read of a rest, and memory for each.
    #[tokio::test]
    async fn many_frames_take_few_reads() {
        struct Counted(tokio::io::DuplexStream, Arc<std::sync::atomic::AtomicUsize>);
        impl tokio::io::AsyncRead for Counted {
            fn poll_read(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                buf: &mut tokio::io::ReadBuf<'_>,
            ) -> std::task::Poll<io::Result<()>> {
                self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                std::pin::Pin::new(&mut self.0).poll_read(cx, buf)
            }
        }
        const FRAMES: usize = 400;
        let (near, far) = tokio::io::duplex(16 << 20);
        let mut server = WebSocket::server(Box::new(far));
        for _ in 0..FRAMES {
            server
                .send(Frame::binary(vec![1; 32 * 1024]))
                .await
                .unwrap();
        }
        drop(server);
        let reads = Arc::default();
        let near = Counted(near, Arc::clone(&reads));
        let near = tokio::io::join(near, tokio::io::sink());
        let mut client = WebSocket::client(Box::new(near));
        let mut frames = 0;
        while let Some(frame) = client.next().await.unwrap() {
            assert_eq!(frame, Frame::binary(vec![1; 32 * 1024]));
            frames += 1;
        }
        let reads = reads.load(std::sync::atomic::Ordering::Relaxed);
        assert!(
            frames == FRAMES && reads < FRAMES / 2,
            "{frames} frames in {reads} reads"
        );
    }

    fn frame() -> impl Strategy<Value = Frame> {
        let payload = proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
        prop_oneof![
            (any::<bool>(), payload).prop_map(|(text, payload)| Frame::Data {
                text,
                fin: true,
                payload
            }),
            proptest::collection::vec(any::<u8>(), 0..125).prop_map(|p| Frame::Ping(p.into())),
            (any::<u16>(), "[a-z]{0,20}").prop_map(|(c, r)| Frame::Close {
                code: Some(c),
                reason: r.into()
            }),
        ]
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(frames in proptest::collection::vec(frame(), 0..6), client in any::<bool>(),
                                  step in 1usize..50) {
            let mut wire = BytesMut::new();
            let mut encoder = Encoder::new(client);
            for f in &frames { encoder.encode(f, &mut wire); }
            let (mut decoder, mut buf, mut got) = (Decoder::default(), BytesMut::new(), Vec::new());
            for chunk in wire.chunks(step) {
                buf.extend_from_slice(chunk);
                while let Some(f) = decoder.decode(&mut buf).unwrap() { got.push(f); }
            }
            prop_assert_eq!(got, frames);
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let (mut d, mut buf) = (Decoder::default(), BytesMut::from(&bytes[..]));
            while let Ok(Some(_)) = d.decode(&mut buf) {}
        }
    }
}
