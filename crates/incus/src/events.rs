//! The event socket.

use std::fmt;

use boxrig_wire::ws::{Frame, Reader, Writer};
use boxrig_wire::{Error, Kind, NoBody, Result};
use bytes::BytesMut;
use futures_util::Stream;

use crate::client::Client;
use crate::models::{Event, Operation};
use crate::ops::server::EventsGet;

/// Which events to see: those of some types, of the client's project or of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    types: Vec<&'static str>,
}

impl EventFilter {
    /// All types: `operation`, `lifecycle`, `logging` and `network-acl`. Logging wants an administrator.
    pub fn new() -> Self {
        Self::default()
    }
    /// Only what happens to background operations.
    pub fn operations() -> Self {
        Self::new().and("operation")
    }
    /// Only what happens to things: created, started, deleted and so on.
    pub fn lifecycle() -> Self {
        Self::new().and("lifecycle")
    }
    /// And this type.
    pub fn and(mut self, r#type: &'static str) -> Self {
        self.types.push(r#type);
        self
    }
}

impl Event {
    /// The operation of an event of type `operation`.
    pub fn operation(&self) -> Option<Operation> {
        (self.r#type == "operation")
            .then(|| serde_json::from_value(self.metadata.clone()).ok())
            .flatten()
    }
}

/// Events as they come. The server sends nothing again: a reader that is too slow is disconnected.
pub struct Events {
    reader: Reader,
    // Kept, so that the connection stays whole.
    _writer: Writer,
    message: BytesMut,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}

/// A message in pieces may have this many bytes in all.
const LARGEST: usize = 32 * 1024 * 1024;

impl Client {
    /// Connects to the event socket.
    ///
    /// # Errors
    ///
    /// [`Kind::Denied`] for types or projects that the caller may not see.
    pub async fn events(&self, filter: EventFilter) -> Result<Events> {
        let mut parts = crate::client::Parts::default();
        if !filter.types.is_empty() {
            parts = parts.query("type", filter.types.join(","));
        }
        let socket = self.send::<EventsGet>(parts, NoBody).await?;
        let (reader, writer) = socket.connected()?.split();
        Ok(Events {
            reader,
            _writer: writer,
            message: BytesMut::new(),
        })
    }
}

impl Events {
    /// The next event; `None` when the server has ended the connection. Safe to drop and call again. A message that is no event is an error, after which the next can be
    /// read.
    pub async fn next(&mut self) -> Option<Result<Event>> {
        loop {
            match self.reader.next().await {
                Ok(Some(Frame::Data { payload, fin, .. })) => {
                    if self.message.len() + payload.len() > LARGEST {
                        let e = Error::new(Kind::Protocol, "an event is too large");
                        return Some(Err(e));
                    }
                    self.message.extend_from_slice(&payload);
                    if !fin {
                        continue;
                    }
                    let message = self.message.split();
                    if message.is_empty() {
                        continue;
                    }
                    return Some(serde_json::from_slice(&message).map_err(|e| {
                        Error::new(Kind::Protocol, "a message on the event socket is no event")
                            .with_body(&message)
                            .with_source(e)
                    }));
                }
                Ok(Some(Frame::Ping(_) | Frame::Pong(_))) => {}
                Ok(None | Some(Frame::Close { .. })) => return None,
                Err(e) => {
                    return Some(Err(
                        Error::new(Kind::Transport, "the event socket broke").with_source(e)
                    ));
                }
            }
        }
    }

    /// The same as a stream; it ends after the first break.
    pub fn stream(self) -> impl Stream<Item = Result<Event>> + Send {
        futures_util::stream::unfold(Some(self), |events| async move {
            let mut events = events?;
            let item = events.next().await?;
            let over = item.as_ref().is_err_and(|e| e.kind() == Kind::Transport);
            Some((item, (!over).then_some(events)))
        })
    }
}
