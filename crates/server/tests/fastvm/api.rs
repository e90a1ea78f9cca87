//! A small client: typed calls over connections of their own, and raw exchanges.

use std::sync::Arc;
use std::time::Duration;

use boxrig_engine::Selection;
use boxrig_fastvm::{
    Command, CreateVmRequest, ExecEvent, ExecReply, ExecRequest, ExecResponse, LaunchedVm,
    MachineType, Vm, Waitable, ops,
};
use boxrig_server::config::ServerConfig;
use boxrig_server::testing::Server;
use boxrig_wire::{
    Authorize, BaseUrl, BoxFuture, CallOptions, Caller, Endpoint, Error, Json, Kind, NoBody,
    NoParams, Outgoing, ReplyShape, Request, Result, Transport, UpgradeSlot, WireBody, ws,
};
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A server and a client of it.
pub struct Api {
    pub server: Server,
    pub caller: Caller,
}

/// One connection for each request.
#[derive(Debug)]
struct Tcp;

impl Transport for Tcp {
    fn send(&self, out: Outgoing) -> BoxFuture<'_, Result<Response<WireBody>>> {
        Box::pin(async move {
            let lost = |e: &dyn std::fmt::Display| Error::new(Kind::Transport, e.to_string());
            let (mut parts, body) = out.request.into_parts();
            let authority = parts.uri.authority().unwrap().to_string();
            let stream = TcpStream::connect(&authority).await.map_err(|e| lost(&e))?;
            stream.set_nodelay(true).unwrap();
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream))
                    .await
                    .map_err(|e| lost(&e))?;
            tokio::spawn(connection.with_upgrades());
            let target = parts.uri.path_and_query().unwrap().to_string();
            parts.uri = target.parse().unwrap();
            let host = HeaderValue::from_str(&authority).unwrap();
            parts.headers.insert(header::HOST, host);
            if out.reply == ReplyShape::Socket {
                ws::client_handshake(&mut parts.headers);
            }
            let request = http::Request::from_parts(parts, body);
            let mut response = sender.send_request(request).await.map_err(|e| lost(&e))?;
            let upgrade = (response.status() == StatusCode::SWITCHING_PROTOCOLS)
                .then(|| hyper::upgrade::on(&mut response));
            let mut response = response.map(WireBody::stream);
            if let Some(upgrade) = upgrade {
                let io = upgrade.await.map_err(|e| lost(&e))?;
                let slot = UpgradeSlot::connection(Box::new(TokioIo::new(io)));
                response.extensions_mut().insert(slot);
            }
            Ok(response)
        })
    }
}

#[derive(Debug)]
struct Key(String);

impl Authorize for Key {
    fn headers(&self) -> BoxFuture<'_, Result<HeaderMap>> {
        let value = HeaderValue::from_str(&self.0).unwrap();
        Box::pin(async {
            Ok(HeaderMap::from_iter([(
                "x-api-key".parse().unwrap(),
                value,
            )]))
        })
    }
}

fn client(server: &Server) -> Caller {
    let base = BaseUrl::parse(&server.url()).unwrap();
    Caller::new(Arc::new(Tcp), base).with_auth(Arc::new(Key(server.api_key())))
}

impl Api {
    /// On the simulation.
    pub async fn memory() -> Self {
        Self::with(|config| config).await
    }

    /// On the simulation, with settings.
    pub async fn with(configure: impl FnOnce(ServerConfig) -> ServerConfig) -> Self {
        let server = Server::with(|config| configure(config.engine(Selection::Memory))).await;
        let server = server.unwrap();
        let caller = client(&server);
        Self { server, caller }
    }

    /// On the sandbox, or `None` where it does not work and is not required.
    pub async fn sandbox() -> Option<Self> {
        match Server::on(Selection::Sandbox).await {
            Ok(server) => {
                let caller = client(&server);
                Some(Self { server, caller })
            }
            Err(e) if e.kind == Kind::Unsupported => {
                let required = std::env::var("BOXRIG_REQUIRE").unwrap_or_default();
                assert_ne!(required, "sandbox", "{e}");
                println!("skipped: {e}");
                None
            }
            Err(e) => panic!("{e}"),
        }
    }

    /// Ends the server and starts one on the same data.
    pub async fn restart(&mut self, configure: impl FnOnce(ServerConfig) -> ServerConfig) {
        self.server.restart(configure).await.unwrap();
        self.caller = client(&self.server);
    }

    /// Without the key.
    pub fn nobody(&self) -> Caller {
        let base = BaseUrl::parse(&self.server.url()).unwrap();
        Caller::new(Arc::new(Tcp), base)
    }

    pub async fn call<E: Endpoint>(&self, request: Request<E>) -> Result<E::Reply> {
        self.caller.call(request, &CallOptions::default()).await
    }

    pub async fn launch_with(&self, request: CreateVmRequest) -> Result<Waitable<LaunchedVm>> {
        self.call::<ops::LaunchVm>(Request {
            path: (),
            query: NoParams,
            headers: Default::default(),
            body: Json(request),
        })
        .await
    }

    /// A running machine.
    pub async fn launch(&self) -> Vm {
        let launched = self.launch_with(machine()).await.unwrap();
        assert_eq!(launched.status, StatusCode::CREATED);
        launched.value.vm
    }

    pub async fn get(&self, id: &str) -> Result<Vm> {
        self.call(by_id::<ops::GetVm>(id)).await.map(|r| r.value)
    }

    pub async fn list(&self, query: ops::ListVmsQuery) -> Vec<Vm> {
        self.call::<ops::ListVms>(Request {
            path: (),
            query,
            headers: NoParams,
            body: NoBody,
        })
        .await
        .unwrap()
        .value
    }

    pub async fn delete(&self, id: &str) -> Result<()> {
        self.call(by_id::<ops::DeleteVm>(id)).await.map(|r| {
            assert_eq!((r.value.id.as_str(), r.value.deleted), (id, true));
        })
    }

    pub async fn exec_with(&self, id: &str, request: ExecRequest) -> Result<ExecResponse> {
        match self.call(exec(id, request, None)).await? {
            ExecReply::Whole(whole) => Ok(whole),
            ExecReply::Events(_) => panic!("events were not asked for"),
        }
    }

    /// A line for the shell.
    pub async fn sh(&self, id: &str, line: &str) -> ExecResponse {
        self.exec_with(id, command(line)).await.unwrap()
    }

    pub async fn stream(
        &self,
        id: &str,
        request: ExecRequest,
    ) -> Result<boxrig_wire::Lines<ExecEvent>> {
        match self
            .call(exec(id, request, Some("application/x-ndjson")))
            .await?
        {
            ExecReply::Events(events) => Ok(events),
            ExecReply::Whole(_) => panic!("events were asked for"),
        }
    }

    /// Sends bytes as they are and reads until the server closes.
    pub async fn raw(&self, request: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        let _ = tokio::time::timeout(Duration::from_secs(10), read).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub async fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.server.url().replace("http://", "")).await;
        stream.unwrap()
    }

    /// A request by hand, with the key; closes afterwards.
    pub async fn plain(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let key = self.server.api_key();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        split(&self.raw(request.as_bytes()).await)
    }
}

/// Status and body of an answer.
pub fn split(answer: &str) -> (u16, String) {
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok());
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    (status.unwrap_or_default(), body.to_owned())
}

/// A small machine.
pub fn machine() -> CreateVmRequest {
    CreateVmRequest {
        machine_type: Some(MachineType::from("c1m1")),
        ..Default::default()
    }
}

pub fn command(line: &str) -> ExecRequest {
    ExecRequest {
        command: Command::from(line),
        ..Default::default()
    }
}

fn exec(id: &str, request: ExecRequest, accept: Option<&str>) -> Request<ops::ExecVm> {
    Request {
        path: (id.to_owned(),),
        query: NoParams,
        headers: ops::ExecHeaders {
            accept: accept.map(str::to_owned),
            ..Default::default()
        },
        body: Json(request),
    }
}

/// A request that has nothing but an id.
pub fn by_id<E>(id: &str) -> Request<E>
where
    E: Endpoint<Path = (String,)>,
    E::Query: Default,
    E::Headers: Default,
    E::Body: Default,
{
    Request {
        path: (id.to_owned(),),
        query: Default::default(),
        headers: Default::default(),
        body: Default::default(),
    }
}

/// A request with an id and a JSON body.
pub fn post<E, B>(id: &str, body: B) -> Request<E>
where
    E: Endpoint<Path = (String,), Body = Json<B>>,
    E::Query: Default,
    E::Headers: Default,
{
    Request {
        path: (id.to_owned(),),
        query: Default::default(),
        headers: Default::default(),
        body: Json(body),
    }
}

/// All events of a stream, put together: output, errors, the exit.
pub async fn gather(
    mut events: boxrig_wire::Lines<ExecEvent>,
) -> (Vec<u8>, Vec<u8>, Vec<boxrig_fastvm::ExecExit>) {
    let (mut out, mut err, mut exits) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(event) = events.next().await {
        assert!(exits.is_empty(), "the exit is the last event");
        match event.unwrap() {
            ExecEvent::Stdout(bytes) => out.extend_from_slice(&bytes),
            ExecEvent::Stderr(bytes) => err.extend_from_slice(&bytes),
            ExecEvent::Exit(exit) => exits.push(exit),
            other => panic!("{other:?}"),
        }
    }
    (out, err, exits)
}

/// Waits until the test is true.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut test: impl FnMut() -> F) {
    for _ in 0..500 {
        if test().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what}: not within 10 s");
}
