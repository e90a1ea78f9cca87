//! Streams of lines, each a JSON document.

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures_core::Stream;
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use http_body::Body;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{
    BodyError, BoxFuture, BoxStream, Decoding, Error, Kind, ReplyCodec, ReplyShape, Result,
    WireBody,
};

/// Splits a body at LF, and only there; the last line may lack it.
///
/// A line longer than the limit is an error: a peer cannot make the reader hold any amount of memory.
#[derive(Debug)]
pub struct LineStream {
    body: WireBody,
    buffer: BytesMut,
    searched: usize,
    limit: usize,
    done: bool,
}

impl LineStream {
    /// Reads `body` in lines of at most `limit` bytes.
    pub fn new(body: WireBody, limit: usize) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
            searched: 0,
            limit,
            done: false,
        }
    }
}

impl Stream for LineStream {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let me = &mut *self;
        loop {
            let found = memchr::memchr(b'\n', &me.buffer[me.searched..]);
            if let Some(at) = found.map(|i| me.searched + i) {
                me.searched = 0;
                let line = me.buffer.split_to(at).freeze();
                me.buffer.advance(1);
                return Poll::Ready(Some(Ok(line)));
            }
            me.searched = me.buffer.len();
            if me.buffer.len() > me.limit {
                me.done = true;
                me.buffer.clear();
                me.searched = 0;
                let text = format!("a line is longer than {} bytes", me.limit);
                return Poll::Ready(Some(Err(text.into())));
            }
            if me.done {
                if me.buffer.is_empty() {
                    return Poll::Ready(None);
                }
                me.searched = 0;
                return Poll::Ready(Some(Ok(me.buffer.split().freeze())));
            }
            match ready!(Pin::new(&mut me.body).poll_frame(cx)) {
                None => me.done = true,
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        me.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(e)) => {
                    me.done = true;
                    me.buffer.clear();
                    me.searched = 0;
                    return Poll::Ready(Some(Err(e)));
                }
            }
        }
    }
}

/// A reply of JSON documents, a line each (`application/x-ndjson`).
pub struct Lines<T>(BoxStream<'static, Result<T>>);

impl<T> std::fmt::Debug for Lines<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lines")
    }
}

/// The longest line that is read.
const LINE_LIMIT: usize = 16 * 1024 * 1024;

impl<T: Serialize + DeserializeOwned + Send + 'static> Lines<T> {
    /// The lines of a server's answer.
    pub fn new(stream: impl Stream<Item = Result<T>> + Send + 'static) -> Self {
        Self(Box::pin(stream))
    }

    /// Reads a response whose status was already found good.
    pub fn read(body: WireBody, cx: Decoding) -> Self {
        Self(Box::pin(Parsed {
            lines: LineStream::new(body, LINE_LIMIT),
            cx,
            item: PhantomData,
        }))
    }

    /// Writes a response.
    pub fn write(self) -> Response<WireBody> {
        use futures_util::StreamExt;
        let body = self.0.map(|item| {
            let mut text = serde_json::to_vec(&item?).map_err(|e| {
                Error::new(Kind::Protocol, "a line could not be written").with_source(e)
            })?;
            text.push(b'\n');
            Ok::<_, Error>(Bytes::from(text))
        });
        let mut r = Response::new(WireBody::from_stream(body));
        r.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-ndjson"),
        );
        r
    }
}

impl<T> Stream for Lines<T> {
    type Item = Result<T>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

struct Parsed<T> {
    lines: LineStream,
    cx: Decoding,
    item: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Stream for Parsed<T> {
    type Item = Result<T>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let line = match ready!(Pin::new(&mut self.lines).poll_next(cx)) {
                None => return Poll::Ready(None),
                Some(Ok(line)) => line,
                Some(Err(e)) => {
                    let e = Error::new(Kind::Transport, "the stream broke off")
                        .with_operation(self.cx.meta.id)
                        .with_source(e);
                    return Poll::Ready(Some(Err(e)));
                }
            };
            // Blank lines are heartbeats.
            if line.trim_ascii().is_empty() {
                continue;
            }
            return Poll::Ready(Some(self.cx.json(&line)));
        }
    }
}

impl<T: Serialize + DeserializeOwned + Send + 'static> ReplyCodec for Lines<T> {
    const SHAPE: ReplyShape = ReplyShape::Stream;
    fn decode(response: Response<WireBody>, cx: Decoding) -> BoxFuture<'static, Result<Self>> {
        Box::pin(async move { Ok(Self::read(cx.success(response).await?.into_body(), cx)) })
    }
    fn encode(self) -> Result<Response<WireBody>, String> {
        Ok(self.write())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{StreamExt, stream};
    use proptest::prelude::*;

    fn lines(chunks: &[&[u8]], limit: usize) -> Vec<Result<Bytes, String>> {
        let chunks: Vec<_> = chunks
            .iter()
            .map(|c| Ok::<_, BodyError>(Bytes::copy_from_slice(c)))
            .collect();
        let body = WireBody::from_stream(stream::iter(chunks));
        let stream = LineStream::new(body, limit).map(|r| r.map_err(|e| e.to_string()));
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(stream.collect())
    }

    #[test]
    fn only_lf_ends_a_line() {
        let got = lines(&[b"a\r\nb\xe2\x80\xa8", b"c\x0b\n", b"tail"], 100);
        let got: Vec<_> = got.into_iter().map(Result::unwrap).collect();
        assert_eq!(got, [&b"a\r"[..], b"b\xe2\x80\xa8c\x0b", b"tail"]);
    }

    #[test]
    fn a_long_line_is_refused() {
        let got = lines(&[b"ok\n", &[b'x'; 64], &[b'x'; 64]], 100);
        assert_eq!(got[0].as_deref(), Ok(&b"ok"[..]));
        assert!(got[1].as_ref().unwrap_err().contains("longer than 100"));
        assert_eq!(got.len(), 2);
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_lines(text in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..200),
                                        cuts in proptest::collection::vec(0usize..200, 0..6)) {
            let whole: Vec<_> = lines(&[&text], 1000).into_iter().map(Result::unwrap).collect();
            let mut cuts: Vec<_> = cuts.into_iter().map(|c| c.min(text.len())).collect();
            cuts.sort_unstable();
            let mut parts = Vec::new();
            let mut at = 0;
            for c in cuts { parts.push(&text[at..c]); at = c; }
            parts.push(&text[at..]);
            let cut: Vec<_> = lines(&parts, 1000).into_iter().map(Result::unwrap).collect();
            prop_assert_eq!(whole, cut);
        }
    }
}
