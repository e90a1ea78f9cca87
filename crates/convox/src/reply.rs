//! The rack's replies.

use boxrig_wire::{BoxFuture, Decoding, ReplyCodec, ReplyShape, Result, WireBody};
use http::Response;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A JSON document; `null` is read as the type's empty value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reply<T>(pub T);

impl<T: Serialize + DeserializeOwned + Default + Send> ReplyCodec for Reply<T> {
    const SHAPE: ReplyShape = ReplyShape::Whole;
    fn decode(response: Response<WireBody>, cx: Decoding) -> BoxFuture<'static, Result<Self>> {
        Box::pin(async move {
            let (parts, body) = cx.success(response).await?.into_parts();
            let bytes = cx.bytes(body).await?;
            refuse_page(&parts.headers, &bytes, &cx)?;
            Ok(Self(cx.json::<Option<T>>(&bytes)?.unwrap_or_default()))
        })
    }
    /// Indented by two spaces and ended by a newline, as racks write it.
    fn encode(self) -> Result<Response<WireBody>, String> {
        let mut text = serde_json::to_vec_pretty(&self.0).map_err(|e| e.to_string())?;
        text.push(b'\n');
        let mut r = Response::new(WireBody::full(text));
        r.headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(r)
    }
}

/// An action without a result: racks answer the text `ok`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done;

impl ReplyCodec for Done {
    const SHAPE: ReplyShape = ReplyShape::Whole;
    fn decode(response: Response<WireBody>, cx: Decoding) -> BoxFuture<'static, Result<Self>> {
        Box::pin(async move {
            let (parts, body) = cx.success(response).await?.into_parts();
            // A console that is not told the rack answers any path with a web page and status 200.
            let bytes = cx.bytes(body).await?;
            refuse_page(&parts.headers, &bytes, &cx)?;
            Ok(Self)
        })
    }
    fn encode(self) -> Result<Response<WireBody>, String> {
        let text = Text {
            text: "ok\n".to_owned(),
            headers: HeaderMap::new(),
        };
        text.encode()
    }
}

/// What can be done about a web page where the rack's answer should be.
pub(crate) const PAGE_HINT: &str = "the address answers with a web page: a console must be told the rack (ORG/RACK), \
     and a rack has an address of its own";

/// Whether an answer is a web page.
pub(crate) fn is_page(headers: &HeaderMap, body: &[u8]) -> bool {
    let html = |v: &HeaderValue| v.as_bytes().starts_with(b"text/html");
    headers.get(CONTENT_TYPE).is_some_and(html) || body.trim_ascii_start().first() == Some(&b'<')
}

fn refuse_page(headers: &HeaderMap, body: &[u8], cx: &Decoding) -> Result<()> {
    if is_page(headers, body) {
        let e = cx.protocol("the answer is a web page and not the rack's");
        return Err(e.with_body(body).with_hint(PAGE_HINT));
    }
    Ok(())
}

/// A text, with the headers it came with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Text {
    /// The text.
    pub text: String,
    /// The headers.
    pub headers: HeaderMap,
}

impl ReplyCodec for Text {
    const SHAPE: ReplyShape = ReplyShape::Whole;
    fn decode(response: Response<WireBody>, cx: Decoding) -> BoxFuture<'static, Result<Self>> {
        Box::pin(async move {
            let (parts, body) = cx.success(response).await?.into_parts();
            let bytes = cx.bytes(body).await?;
            refuse_page(&parts.headers, &bytes, &cx)?;
            Ok(Self {
                text: String::from_utf8_lossy(&bytes).into_owned(),
                headers: parts.headers,
            })
        })
    }
    fn encode(self) -> Result<Response<WireBody>, String> {
        let mut r = Response::new(WireBody::full(self.text));
        *r.headers_mut() = self.headers;
        r.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        Ok(r)
    }
}
