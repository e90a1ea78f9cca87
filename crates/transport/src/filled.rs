//! A TLS connection that is read as far as there is something to be read.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use boxrig_wire::Duplex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// TLS gives a record at a time, at most 16 KiB. Each piece of a body goes from one task to another, so a long body is cheaper in
/// larger ones: reads fill the buffer with all the records that are there.
pub(crate) struct Filled<T> {
    io: T,
    /// What went wrong after something had been read.
    error: Option<io::Error>,
}

impl<T> Filled<T> {
    pub(crate) fn new(io: T) -> Self {
        Self { io, error: None }
    }
}

impl<T: Duplex> AsyncRead for Filled<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(error) = self.error.take() {
            return Poll::Ready(Err(error));
        }
        let start = buf.filled().len();
        loop {
            let before = buf.filled().len();
            let read = Pin::new(&mut self.io).poll_read(cx, buf);
            let none = before == start;
            match read {
                Poll::Ready(Ok(())) if buf.filled().len() > before && buf.remaining() > 0 => {}
                Poll::Ready(Err(e)) if !none => {
                    self.error = Some(e);
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending if !none => return Poll::Ready(Ok(())),
                read => return read,
            }
        }
    }
}

impl<T: Duplex> AsyncWrite for Filled<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, data)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    /// Gives what it is told to, a piece at a time.
    struct Told(Vec<Poll<io::Result<&'static [u8]>>>);

    impl AsyncRead for Told {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            cx.waker().wake_by_ref();
            if self.0.is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.0.remove(0).map_ok(|piece| buf.put_slice(piece))
        }
    }

    #[tokio::test]
    async fn a_read_takes_all_that_is_there_and_loses_nothing() {
        let pieces = vec![
            Poll::Ready(Ok(&b"ab"[..])),
            Poll::Ready(Ok(&b"c"[..])),
            Poll::Pending,
            Poll::Ready(Ok(&b"d"[..])),
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        ];
        let mut io = Filled::new(tokio::io::join(Told(pieces), tokio::io::sink()));
        let mut buf = [0; 16];
        assert_eq!(io.read(&mut buf).await.unwrap(), 3);
        assert_eq!(&buf[..3], b"abc");
        assert_eq!(io.read(&mut buf).await.unwrap(), 1);
        let e = io.read(&mut buf).await.unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(io.read(&mut buf).await.unwrap(), 0, "the end");
    }
}
