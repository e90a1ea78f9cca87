//! Closing a connection so that the last words arrive.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

/// How long a client may take to see that the connection has ended.
const LINGER: Duration = Duration::from_secs(1);

/// Bytes that are thrown away; a client that sends more is cut off.
const MOST: usize = 8 * 1024 * 1024;

/// A connection that is not torn down when it is dropped: closing a socket that still has bytes of the client in it
/// resets the connection, and what was sent last (an exit code, the refusal of a long upload) can be lost with it. So the writing side is
/// ended, and what the client still sends is read and thrown away until it has closed too.
pub(super) struct Linger<I: AsyncRead + AsyncWrite + Send + Unpin + 'static>(Option<I>);

impl<I: AsyncRead + AsyncWrite + Send + Unpin + 'static> Linger<I> {
    pub(super) fn new(io: I) -> Self {
        Self(Some(io))
    }

    fn io(&mut self) -> io::Result<Pin<&mut I>> {
        // It is taken out by `drop` only.
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        self.0.as_mut().map(Pin::new).ok_or_else(gone)
    }
}

impl<I: AsyncRead + AsyncWrite + Send + Unpin + 'static> Drop for Linger<I> {
    fn drop(&mut self) {
        let (Some(mut io), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        runtime.spawn(async move {
            let end = async {
                io.shutdown().await?;
                let (mut rest, mut left) = (vec![0; 16 * 1024], MOST);
                while left > 0 {
                    match io.read(&mut rest).await? {
                        0 => break,
                        n => left = left.saturating_sub(n),
                    }
                }
                Ok::<_, io::Error>(())
            };
            let _ = tokio::time::timeout(LINGER, end).await;
        });
    }
}

impl<I: AsyncRead + AsyncWrite + Send + Unpin + 'static> AsyncRead for Linger<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.io()?.poll_read(cx, buf)
    }
}

impl<I: AsyncRead + AsyncWrite + Send + Unpin + 'static> AsyncWrite for Linger<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.io()?.poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io()?.poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io()?.poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io()?.poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.0.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn the_last_words_arrive_though_the_client_was_still_talking() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for _ in 0..50 {
            let mut client = TcpStream::connect(address).await.unwrap();
            let (io, _) = listener.accept().await.unwrap();
            client.write_all(&[1; 100_000]).await.unwrap();
            let mut server = Linger::new(io);
            server.write_all(b"last words").await.unwrap();
            drop(server);
            // The client goes on for a while before it listens.
            for _ in 0..5 {
                client.write_all(&[1; 1000]).await.unwrap();
                tokio::task::yield_now().await;
            }
            client.shutdown().await.unwrap();
            let mut words = Vec::new();
            client.read_to_end(&mut words).await.unwrap();
            assert_eq!(words, b"last words");
        }
    }
}
