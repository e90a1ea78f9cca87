//! A small client: any request, any status.

use std::sync::Arc;

use base64::Engine as _;
use boxrig_server::testing::Server;
use boxrig_wire::{BaseUrl, CallOptions, Caller, RawBody, RawRequest};
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use http::{HeaderMap, Method};
use serde_json::{Map, Value, json};

/// A server and how it is asked.
pub(crate) struct Api {
    pub(crate) server: Server,
    pub(crate) caller: Caller,
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// Null when there was no JSON.
    pub(crate) body: Value,
}

impl Answer {
    /// The words of an error.
    pub(crate) fn err(&self) -> &str {
        self.body["err"].as_str().unwrap_or("")
    }
    pub(crate) fn warning(&self) -> &str {
        let warning = self.headers.get("x-boxrig-warning");
        warning.map_or("", |w| w.to_str().unwrap())
    }
    pub(crate) fn rows(&self) -> &[Value] {
        assert_eq!(self.status, 200, "{}", self.body);
        self.body.as_array().unwrap()
    }
    /// One column of all rows.
    pub(crate) fn column(&self, name: &str) -> Vec<Value> {
        self.rows().iter().map(|row| row[name].clone()).collect()
    }
}

/// `Authorization: Basic`.
pub(crate) fn basic(user: &str, password: &str) -> (HeaderName, String) {
    let text = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    (AUTHORIZATION, format!("Basic {text}"))
}

impl Api {
    pub(crate) async fn start() -> Self {
        Self::of(Server::start().await.unwrap())
    }

    pub(crate) fn of(server: Server) -> Self {
        let transport = boxrig_transport::Http::builder().build().unwrap();
        let base = BaseUrl::parse(&server.url()).unwrap();
        Self {
            caller: Caller::new(Arc::new(transport), base),
            server,
        }
    }

    pub(crate) fn admin(&self) -> (HeaderName, String) {
        let env = self.server.running().unwrap().env();
        basic("admin", env.get("VERGE_PASSWORD").unwrap())
    }

    /// As somebody.
    pub(crate) async fn ask_as(
        &self,
        who: &(HeaderName, String),
        method: Method,
        path: &str,
        body: RawBody,
    ) -> Answer {
        self.ask_at(&self.caller, who, method, path, body).await
    }

    /// At another address.
    pub(crate) async fn ask_at(
        &self,
        caller: &Caller,
        who: &(HeaderName, String),
        method: Method,
        path: &str,
        body: RawBody,
    ) -> Answer {
        let options = CallOptions::new()
            .retries(0)
            .header(who.0.clone(), HeaderValue::from_str(&who.1).unwrap());
        let request = RawRequest::new(method, path).body(body).options(options);
        let response = caller.raw_stream(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect(64 << 20).await.unwrap();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        }
    }

    /// As the admin.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: RawBody) -> Answer {
        let path = format!("/api/v4/{path}");
        self.ask_as(&self.admin(), method, &path, body).await
    }
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, RawBody::Empty).await
    }
    /// With query values, encoded.
    pub(crate) async fn query(&self, table: &str, values: &[(&str, &str)]) -> Answer {
        let mut request = RawRequest::new(Method::GET, format!("/api/v4/{table}"));
        for (name, value) in values {
            request = request.query(*name, *value);
        }
        let (name, value) = self.admin();
        let options = CallOptions::new().header(name, HeaderValue::from_str(&value).unwrap());
        let response = self.caller.raw_stream(request.options(options)).await;
        let (parts, body) = response.unwrap().into_parts();
        let bytes = body.collect(64 << 20).await.unwrap();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        }
    }
    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.ask(Method::POST, path, RawBody::Json(body)).await
    }
    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.ask(Method::PUT, path, RawBody::Json(body)).await
    }
    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.ask(Method::DELETE, path, RawBody::Empty).await
    }
    /// Makes a row that must be accepted; gives its key as it is in rows.
    pub(crate) async fn make(&self, table: &str, body: Value) -> Value {
        let answer = self.post(table, body).await;
        assert_eq!(answer.status, 201, "{table}: {}", answer.body);
        answer.body["$row"].clone()
    }
    pub(crate) async fn row(&self, table: &str, key: &Value) -> Map<String, Value> {
        let key = key.as_str().map_or_else(|| key.to_string(), str::to_owned);
        let answer = self.get(&format!("{table}/{key}?fields=all")).await;
        assert_eq!(answer.status, 200, "{table}/{key}: {}", answer.body);
        answer.body.as_object().unwrap().clone()
    }
    /// A user with no rights; how it asks, and its identity.
    pub(crate) async fn user(&self, name: &str) -> ((HeaderName, String), Value) {
        let user = json!({ "name": name, "password": "a password" });
        let key = self.make("users", user).await;
        let identity = self.row("users", &key).await["identity"].clone();
        (basic(name, "a password"), identity)
    }
}
