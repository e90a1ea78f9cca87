//! Between the engine's byte streams and HTTP bodies.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use boxrig_wire::WireBody;
use bytes::{Buf, Bytes, BytesMut};
use futures_util::stream;
use http_body::Body;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;

/// A body that gives what a reader gives; reads no faster than it is sent.
pub fn reader_body<R>(reader: R) -> WireBody
where
    R: AsyncRead + Send + Unpin + 'static,
{
    WireBody::from_stream(stream::try_unfold(
        (reader, BytesMut::new()),
        |(mut reader, mut buffer)| async move {
            buffer.reserve(CHUNK);
            let n = reader.read_buf(&mut buffer).await?;
            let chunk = buffer.split().freeze();
            Ok::<_, io::Error>((n > 0).then_some((chunk, (reader, buffer))))
        },
    ))
}

/// A reader that gives what a body gives.
#[derive(Debug)]
pub struct BodyReader {
    body: WireBody,
    chunk: Bytes,
}

impl BodyReader {
    /// Reads `body`.
    pub fn new(body: WireBody) -> Self {
        Self {
            body,
            chunk: Bytes::new(),
        }
    }
}

impl AsyncRead for BodyReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.chunk.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    // Trailers say nothing here.
                    if let Ok(data) = frame.into_data() {
                        self.chunk = data;
                    }
                }
                Some(Err(e)) => return Poll::Ready(Err(io::Error::other(e))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let n = self.chunk.len().min(buf.remaining());
        buf.put_slice(&self.chunk[..n]);
        self.chunk.advance(n);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn there_and_back() {
        let bytes: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
        let body = reader_body(io::Cursor::new(bytes.clone()));
        let mut back = Vec::new();
        BodyReader::new(body).read_to_end(&mut back).await.unwrap();
        assert_eq!(back, bytes);
    }

    #[tokio::test]
    async fn a_broken_body_is_an_error() {
        let chunks = stream::iter([Ok(Bytes::from_static(b"ab")), Err("gone")]);
        let mut reader = BodyReader::new(WireBody::from_stream(chunks));
        let mut back = Vec::new();
        let e = reader.read_to_end(&mut back).await.unwrap_err();
        assert_eq!(
            (back.as_slice(), e.to_string().as_str()),
            (&b"ab"[..], "gone")
        );
    }
}
