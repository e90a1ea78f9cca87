//! A multipart form as it comes, part by part, without holding any whole.

use boxrig_wire::{BodyError, Error, Kind, Result};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};

/// Heads of parts are refused beyond this size.
const HEAD: usize = 16 * 1024;

/// The parts of a form.
pub(crate) struct Parts<S> {
    source: std::pin::Pin<Box<S>>,
    buffer: BytesMut,
    /// What ends a part: a line break and the boundary.
    mark: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// Before the first boundary.
    Start,
    /// In a part's content.
    Content,
    /// After a boundary.
    Between,
    End,
}

impl<S: Stream<Item = Result<Bytes, BodyError>>> Parts<S> {
    pub(crate) fn new(source: S, boundary: &str) -> Self {
        let mut mark = b"\r\n--".to_vec();
        mark.extend_from_slice(boundary.as_bytes());
        Self {
            source: Box::pin(source),
            // The first boundary has no line before it; one is lent to it.
            buffer: BytesMut::from(&b"\r\n"[..]),
            mark,
            state: State::Start,
        }
    }

    async fn more(&mut self) -> Result<()> {
        match self.source.next().await {
            Some(Ok(bytes)) => {
                self.buffer.extend_from_slice(&bytes);
                Ok(())
            }
            Some(Err(e)) => {
                Err(Error::new(Kind::Transport, "the download broke off").with_source(e))
            }
            None => Err(Error::new(
                Kind::Transport,
                "the download ended within a part",
            )),
        }
    }

    /// The next part's name; what is left of the one before is passed over.
    pub(crate) async fn next_part(&mut self) -> Result<Option<String>> {
        while matches!(self.state, State::Start | State::Content) {
            if self.next_chunk().await?.is_none() {
                break;
            }
        }
        if self.state == State::End {
            return Ok(None);
        }
        let end = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end;
            }
            if self.buffer.len() > HEAD {
                return Err(Error::new(Kind::Protocol, "a part's head is too large"));
            }
            self.more().await?;
        };
        let head = self.buffer.split_to(end + 4);
        let head = String::from_utf8_lossy(&head).into_owned();
        let name = head
            .split("name=\"")
            .nth(1)
            .and_then(|rest| rest.split('"').next())
            .unwrap_or_default();
        self.state = State::Content;
        Ok(Some(name.to_owned()))
    }

    /// The next piece of the part; `None` at its end.
    pub(crate) async fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        if !matches!(self.state, State::Start | State::Content) {
            return Ok(None);
        }
        loop {
            if let Some(at) = find(&self.buffer, &self.mark) {
                if at > 0 {
                    return Ok(Some(self.buffer.split_to(at).freeze()));
                }
                // Two bytes after the boundary tell whether it is the last.
                while self.buffer.len() < self.mark.len() + 2 {
                    self.more().await?;
                }
                let _ = self.buffer.split_to(self.mark.len());
                let last = self.buffer.starts_with(b"--");
                self.state = if last { State::End } else { State::Between };
                return Ok(None);
            }
            // All but what may be the beginning of a boundary can go.
            let sure = self.buffer.len().saturating_sub(self.mark.len() - 1);
            if sure > 0 {
                return Ok(Some(self.buffer.split_to(sure).freeze()));
            }
            self.more().await?;
        }
    }
}

fn find(within: &[u8], what: &[u8]) -> Option<usize> {
    memchr::memmem::find(within, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    async fn read(form: &[u8], step: usize) -> Result<Vec<(String, Vec<u8>)>> {
        let pieces: Vec<_> = form
            .chunks(step.max(1))
            .map(|c| Ok(Bytes::copy_from_slice(c)))
            .collect();
        let mut parts = Parts::new(futures_util::stream::iter(pieces), "B");
        let mut out = Vec::new();
        while let Some(name) = parts.next_part().await? {
            let mut content = Vec::new();
            while let Some(chunk) = parts.next_chunk().await? {
                content.extend_from_slice(&chunk);
            }
            out.push((name, content));
        }
        Ok(out)
    }

    fn form(parts: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, content) in parts {
            out.extend_from_slice(
                format!("--B\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n")
                    .as_bytes(),
            );
            out.extend_from_slice(content);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"--B--\r\n");
        out
    }

    proptest! {
        #[test]
        fn any_content_in_any_pieces(a in proptest::collection::vec(any::<u8>(), 0..200), b in "[\r\n-]{0,40}",
                                     step in 1usize..40) {
            // A boundary within a content is what a sender must avoid, not what a reader could know.
            prop_assume!(find(&a, b"\r\n--B").is_none());
            let form = form(&[("metadata", &a), ("rootfs", b.as_bytes())]);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let got = runtime.block_on(read(&form, step)).unwrap();
            prop_assert_eq!(got, vec![("metadata".to_owned(), a), ("rootfs".to_owned(), b.into_bytes())]);
            // Cut anywhere, it is an error and not a shorter image.
            let cut = form.len() - 6;
            prop_assert!(runtime.block_on(read(&form[..cut], step)).is_err());
        }
    }
}
