//! Replies that also say whether the server offers the long poll.

use boxrig_wire::{BoxFuture, Decoding, JsonReply, ReplyCodec, ReplyShape, Result, WireBody};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The header by which a server says that `GET /v1/vms/{id}` takes `wait` and `timeout`. Boxrig's server sends `1`; the hosted
/// service does not know it.
pub const WAIT_HEADER: &str = "x-boxrig-wait";

/// A machine as answered by launch and get.
#[derive(Clone, Debug, PartialEq)]
pub struct Waitable<T> {
    /// The document.
    pub value: T,
    /// The status: 201 running, 202 queued; 200 for a get.
    pub status: StatusCode,
    /// Whether the server offers the long poll.
    pub can_wait: bool,
}

impl<T> Waitable<T> {
    /// An answer of a server that offers the long poll.
    pub fn new(status: StatusCode, value: T) -> Self {
        Self {
            value,
            status,
            can_wait: true,
        }
    }
}

impl<T: Serialize + DeserializeOwned + Send> ReplyCodec for Waitable<T> {
    const SHAPE: ReplyShape = ReplyShape::Whole;

    fn decode(response: Response<WireBody>, cx: Decoding) -> BoxFuture<'static, Result<Self>> {
        let can_wait = response
            .headers()
            .get(WAIT_HEADER)
            .is_some_and(|v| v == "1");
        Box::pin(async move {
            let JsonReply { value, status } = JsonReply::decode(response, cx).await?;
            Ok(Self {
                value,
                status,
                can_wait,
            })
        })
    }

    fn encode(self) -> Result<Response<WireBody>, String> {
        let mut r = JsonReply {
            value: self.value,
            status: self.status,
        }
        .encode()?;
        if self.can_wait {
            r.headers_mut()
                .insert(WAIT_HEADER, HeaderValue::from_static("1"));
        }
        Ok(r)
    }
}
