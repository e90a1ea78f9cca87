//! Calls by path, for what has no method.

use std::future::IntoFuture;

use boxrig_wire::{BoxFuture, CallOptions, RawBody, RawRequest, Result, Timeout, WireBody};
use http::Method;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde_json::Value;

use crate::Client;

/// Calls by path: `client.api().get("/apps").await`, as the vendor's tool has them with `convox api get /apps`.
#[derive(Clone, Debug)]
pub struct Api<'a> {
    client: &'a Client,
}

impl Client {
    /// Calls by path, for what has no method.
    pub fn api(&self) -> Api<'_> {
        Api { client: self }
    }
}

impl<'a> Api<'a> {
    /// Reads a path.
    pub fn get(&self, path: impl Into<String>) -> ApiCall<'a> {
        self.call(Method::GET, path)
    }
    /// Posts to a path.
    pub fn post(&self, path: impl Into<String>) -> ApiCall<'a> {
        self.call(Method::POST, path)
    }
    /// Puts to a path.
    pub fn put(&self, path: impl Into<String>) -> ApiCall<'a> {
        self.call(Method::PUT, path)
    }
    /// Deletes a path.
    pub fn delete(&self, path: impl Into<String>) -> ApiCall<'a> {
        self.call(Method::DELETE, path)
    }
    /// Any other method.
    pub fn call(&self, method: Method, path: impl Into<String>) -> ApiCall<'a> {
        ApiCall {
            client: self.client,
            request: RawRequest::new(method, path),
            options: CallOptions::new(),
        }
    }
}

/// One call by path. Awaited, it gives what the rack answered: the JSON document, a text as a string, nothing as `null`.
#[derive(Debug)]
pub struct ApiCall<'a> {
    client: &'a Client,
    request: RawRequest,
    options: CallOptions,
}

impl ApiCall<'_> {
    /// With fields of a form.
    pub fn data<K: Into<String>, V: Into<String>>(
        mut self,
        fields: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let fields = fields.into_iter().map(|(k, v)| (k.into(), v.into()));
        self.request = self.request.body(RawBody::Form(fields.collect()));
        self
    }
    /// With a body of bytes, in hand or streamed. It goes as `application/octet-stream`: racks store nothing of a body
    /// that is called a form.
    pub fn content(mut self, body: WireBody) -> Self {
        let bytes = HeaderValue::from_static("application/octet-stream");
        if !self.options.headers.contains_key(CONTENT_TYPE) {
            self.options = self.options.header(CONTENT_TYPE, bytes);
        }
        self.request = self.request.body(RawBody::Bytes(body));
        self
    }
    /// With a JSON document.
    pub fn json(mut self, document: Value) -> Self {
        self.request = self.request.body(RawBody::Json(document));
        self
    }
    /// With one more value in the query.
    pub fn param(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.request = self.request.query(name, value);
        self
    }
    /// With this deadline instead of the client's.
    pub fn timeout(mut self, timeout: impl Into<Timeout>) -> Self {
        self.options = self.options.timeout(timeout);
        self
    }
}

impl<'a> IntoFuture for ApiCall<'a> {
    type Output = Result<Value>;
    type IntoFuture = BoxFuture<'a, Result<Value>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let answer = self.client.raw(self.request.options(self.options)).await?;
            let text = String::from_utf8_lossy(answer.body());
            let text = text.trim();
            Ok(match text {
                "" => Value::Null,
                text => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
            })
        })
    }
}
