//! Copying bytes between the two ends of a connection.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

/// Size of each direction's buffer. Bounds what one connection costs the server.
const BUFFER: usize = 32 * 1024;

/// Copies both ways until both have ended, or one fails, or nothing moved for `idle`. The end of one
/// direction is passed on while the other goes on. Adds the bytes to the counters as they move.
pub(super) async fn both_ways<A, B>(
    a: A,
    b: B,
    idle: Duration,
    a_to_b: &AtomicU64,
    b_to_a: &AtomicU64,
) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Send,
    B: AsyncRead + AsyncWrite + Send,
{
    let started = Instant::now();
    // Milliseconds since `started` at which something last moved.
    let moved = AtomicU64::new(0);
    let (mut a_read, mut a_write) = tokio::io::split(a);
    let (mut b_read, mut b_write) = tokio::io::split(b);
    let there = one_way(&mut a_read, &mut b_write, started, &moved, a_to_b);
    let back = one_way(&mut b_read, &mut a_write, started, &moved, b_to_a);
    let watch = async {
        loop {
            let last = started + Duration::from_millis(moved.load(Ordering::Relaxed));
            if last.elapsed() >= idle {
                return;
            }
            tokio::time::sleep_until(last + idle).await;
        }
    };
    tokio::select! {
        done = async { tokio::try_join!(there, back) } => done.map(|_| ()),
        () = watch => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn one_way(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    started: Instant,
    moved: &AtomicU64,
    counter: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let got = from.read(&mut buffer).await?;
        if got == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..got]).await?;
        counter.fetch_add(got as u64, Ordering::Relaxed);
        let now = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        moved.store(now, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn half_closes_are_passed_on() {
        let (mut left, a) = tokio::io::duplex(64);
        let (mut right, b) = tokio::io::duplex(64);
        let (up, down) = (AtomicU64::new(0), AtomicU64::new(0));
        let copy = both_ways(a, b, Duration::from_secs(5), &up, &down);
        let talk = async {
            left.write_all(b"question").await.unwrap();
            left.shutdown().await.unwrap();
            let mut heard = Vec::new();
            right.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, b"question");
            right.write_all(b"answer!").await.unwrap();
            right.shutdown().await.unwrap();
            heard.clear();
            left.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, b"answer!");
        };
        let (done, ()) = tokio::join!(copy, talk);
        done.unwrap();
        assert_eq!((up.into_inner(), down.into_inner()), (8, 7));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_connection() {
        let (mut left, a) = tokio::io::duplex(64);
        let (_right, b) = tokio::io::duplex(64);
        let (up, down) = (AtomicU64::new(0), AtomicU64::new(0));
        let started = Instant::now();
        let copy = both_ways(a, b, Duration::from_secs(10), &up, &down);
        let talk = async {
            tokio::time::sleep(Duration::from_secs(7)).await;
            left.write_all(b"x").await.unwrap();
        };
        let (done, ()) = tokio::join!(copy, talk);
        assert_eq!(done.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), 17);
    }
}
