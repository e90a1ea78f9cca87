//! Replies that are read piece by piece while they come, so that they are never in memory as text besides what is made of them.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex};

use http::Extensions;

use crate::{Decoding, Result};

/// Reads the body of a successful reply piece by piece. One that breaks off is begun again with another reader, by the same
/// rules as a reply that is read whole.
pub trait ReplyReader: Any + Send {
    /// Reads the next piece.
    ///
    /// # Errors
    ///
    /// When the reply is not what it should be; it is then not asked for again.
    fn read(&mut self, piece: &[u8]) -> Result<()>;
}

/// Makes a reader for one try of a call.
pub type MakeReader = fn(Decoding) -> Box<dyn ReplyReader>;

/// How the reply of a request is read, in the extensions of the request. A transport that knows nothing of it gives the body as
/// ever.
#[derive(Clone, Copy)]
pub struct ReadReply {
    make: MakeReader,
    cx: Decoding,
}

impl ReadReply {
    pub(crate) fn new(make: MakeReader, cx: Decoding) -> Self {
        Self { make, cx }
    }
    /// A reader for one try.
    pub fn begin(&self) -> Box<dyn ReplyReader> {
        (self.make)(self.cx)
    }
}

impl fmt::Debug for ReadReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadReply({})", self.cx.meta.id)
    }
}

type Slot = Arc<Mutex<Option<Box<dyn ReplyReader>>>>;

/// A reader that has read the whole body, in the extensions of the response, whose body is then empty.
#[derive(Clone)]
pub struct HasRead(Slot);

impl HasRead {
    /// Hands the reader over.
    pub fn new(reader: Box<dyn ReplyReader>) -> Self {
        Self(Arc::new(Mutex::new(Some(reader))))
    }
    /// Takes the reader from a response, once.
    pub fn take<T: ReplyReader>(extensions: &Extensions) -> Option<Box<T>> {
        let Self(slot) = extensions.get()?;
        let reader: Box<dyn Any> = slot.lock().unwrap_or_else(|e| e.into_inner()).take()?;
        reader.downcast().ok()
    }
}

impl fmt::Debug for HasRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HasRead")
    }
}
