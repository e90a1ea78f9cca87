//! Bodies on their way: what of a request was read by the connection, and the end of a reply.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use boxrig_wire::{BodyError, Error, Kind, WireBody};
use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::pool::Lease;

/// The body of a call, over all its tries.
pub(crate) enum Payload {
    /// In hand: each try gets a copy (of the handle, not of the bytes).
    InHand(Bytes),
    /// A stream: a later try gets it only if no earlier one has read of it.
    Stream(Arc<Mutex<Option<WireBody>>>, SizeHint),
}

impl Payload {
    pub(crate) fn new(body: WireBody) -> Self {
        match body.to_bytes() {
            Some(bytes) => Self::InHand(bytes),
            None => {
                let hint = body.size_hint();
                Self::Stream(Arc::new(Mutex::new(Some(body))), hint)
            }
        }
    }

    /// Whether another try can send it.
    pub(crate) fn is_untouched(&self) -> bool {
        match self {
            Self::InHand(_) => true,
            Self::Stream(slot, _) => slot
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_some(),
        }
    }

    /// The body for one try.
    pub(crate) fn outbound(&self) -> (Outbound, Arc<Reading>) {
        let (body, slot, hint) = match self {
            Self::InHand(bytes) => {
                let body = WireBody::full(bytes.clone());
                let hint = body.size_hint();
                (Some(body), None, hint)
            }
            Self::Stream(slot, hint) => (None, Some(slot.clone()), *hint),
        };
        let reading = Arc::new(Reading {
            ended: AtomicBool::new(hint.exact() == Some(0)),
            length: hint.exact(),
        });
        let outbound = Outbound {
            body,
            slot,
            hint,
            reading: reading.clone(),
        };
        (outbound, reading)
    }
}

/// What the connection has read of a request body.
#[derive(Debug)]
pub(crate) struct Reading {
    ended: AtomicBool,
    length: Option<u64>,
}

impl Reading {
    /// Whether it was read to its end.
    pub(crate) fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
    /// Its length, when it is known before.
    pub(crate) fn length(&self) -> Option<u64> {
        self.length
    }
}

/// A request body as the connection reads it.
pub(crate) struct Outbound {
    body: Option<WireBody>,
    slot: Option<Arc<Mutex<Option<WireBody>>>>,
    hint: SizeHint,
    reading: Arc<Reading>,
}

impl Body for Outbound {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(slot) = self.slot.take() {
            // From here on the stream is touched: no other try can have it.
            self.body = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            if self.body.is_none() {
                return Poll::Ready(Some(Err("the body was given to another try".into())));
            }
        }
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
        let ended = frame.is_none() || body.is_end_stream();
        self.hint = body.size_hint();
        if ended {
            self.reading.ended.store(true, Ordering::Release);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match (&self.slot, &self.body) {
            (Some(_), _) => self.hint.exact() == Some(0),
            (None, Some(body)) => body.is_end_stream(),
            (None, None) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

/// A reply body: gives the connection back when it has been read to its end.
pub(crate) struct Inbound {
    body: Incoming,
    lease: Option<Lease>,
    reading: Arc<Reading>,
    /// What the connection's counter showed before the request.
    start: u64,
}

impl Inbound {
    pub(crate) fn new(
        body: Incoming,
        lease: Option<Lease>,
        reading: Arc<Reading>,
        start: u64,
    ) -> Self {
        let mut inbound = Self {
            body,
            lease,
            reading,
            start,
        };
        if inbound.body.is_end_stream() {
            inbound.finish();
        }
        inbound
    }

    fn finish(&mut self) {
        let Some(lease) = self.lease.take() else {
            return;
        };
        // A server that answers early leaves the rest of the request unread: not to be used again.
        let written = lease.written().map_or(u64::MAX, |w| w.get() - self.start);
        if self.reading.ended() && self.reading.length().is_none_or(|n| written >= n) {
            lease.give_back();
        }
    }

    /// Hands on what comes, to its end.
    pub(crate) async fn each(
        &mut self,
        limit: usize,
        mut take: impl FnMut(Bytes) -> Result<(), Error>,
    ) -> Result<(), Error> {
        use http_body_util::BodyExt;
        let too_large = || {
            Error::new(
                Kind::Protocol,
                format!("the reply is larger than {limit} bytes"),
            )
        };
        if self.size_hint().lower() > limit as u64 {
            return Err(too_large());
        }
        let mut size = 0;
        while let Some(frame) = self.frame().await {
            let frame = frame.map_err(|e| match e.downcast::<Error>() {
                Ok(e) => *e,
                Err(e) => broken(e),
            })?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            size += data.len();
            if size > limit {
                return Err(too_large());
            }
            take(data)?;
        }
        Ok(())
    }

    /// Reads it whole.
    pub(crate) async fn collect(mut self, limit: usize) -> Result<Bytes, Error> {
        // What a server announces is believed only so far.
        let announced = usize::try_from(self.size_hint().lower()).unwrap_or(0);
        let known = announced.min(1 << 20);
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        self.each(limit, |data| {
            // One chunk, the usual case, is handed on without a copy.
            if first.is_empty() && rest.is_empty() {
                first = data;
                return Ok(());
            }
            if rest.is_empty() {
                rest.reserve(known.max(first.len() + data.len()));
                rest.extend_from_slice(&std::mem::take(&mut first));
            }
            rest.extend_from_slice(&data);
            Ok(())
        })
        .await?;
        Ok(if rest.is_empty() {
            first
        } else {
            rest.freeze()
        })
    }
}

fn broken(source: impl Into<BodyError>) -> Error {
    Error::new(Kind::Transport, "the reply broke off before its end").with_source(source)
}

impl Body for Inbound {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Err(_)) => self.lease = None,
            None => self.finish(),
            Some(Ok(_)) if self.body.is_end_stream() => self.finish(),
            Some(Ok(_)) => {}
        }
        Poll::Ready(frame.map(|f| f.map_err(|e| broken(e).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
