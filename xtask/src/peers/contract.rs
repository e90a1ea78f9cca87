//! A listener between a suite made from an API description and the real server.
//!
//! The steps of a request are told in `docs/peers-fastvm.md`. Everything goes through boxrig's
//! router and the descriptions; this module adds only the ids that the suite presumes, the
//! judgement by the OpenAPI file and the list of expected refusals.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use boxrig_fastvm::{FastVm, ops};
use boxrig_server::router::{Call, Peer, RequestInfo, Router};
use boxrig_wire::{ApiError, Decoding, Endpoint, Protocol, ReplyCodec, Request, WireBody};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{Method, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};

use crate::openapi::Document;
use crate::{Result, root};

/// Bodies are held in memory up to this size; the suites send a few hundred bytes.
const LIMIT: usize = 16 * 1024 * 1024;

/// A refusal that is right, or right for now.
struct Refusal {
    operation: String,
    status: u16,
    words: String,
    seen: u32,
}

/// What became of the requests.
#[derive(Default)]
struct Tally {
    answered: u32,
    refused: u32,
    wrong: Vec<String>,
    refusals: Vec<Refusal>,
    /// Requests that the OpenAPI file would not let a client send, by operation.
    outside: BTreeMap<String, u32>,
}

/// The state of the handlers.
struct Bench {
    upstream: String,
    key: HeaderValue,
    document: Document,
    client: Client<HttpConnector, WireBody>,
    tally: Mutex<Tally>,
}

/// A running listener.
pub(crate) struct Contract {
    /// Where it listens.
    pub(crate) url: String,
    bench: Arc<Bench>,
    /// Ends the tasks when dropped.
    runtime: tokio::runtime::Runtime,
}

/// One request on its way.
struct Visit {
    bench: Arc<Bench>,
    /// Whether it was decoded: else the router has refused it.
    decoded: AtomicBool,
}

type FastVmRouter = Router<FastVm, Arc<Visit>>;

/// A whole answer of the server.
struct Answer {
    parts: http::response::Parts,
    body: Bytes,
}

impl Contract {
    /// Listens in front of the server at `upstream`, whose API key is `key`.
    pub(crate) fn listen(upstream: &str, key: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let bench = Arc::new(Bench {
            upstream: upstream.trim_end_matches('/').to_owned(),
            key: HeaderValue::from_str(key)?,
            document: Document::load(&root().join("api/fastvm.openapi.yaml"))?,
            client: Client::builder(TokioExecutor::new()).build_http(),
            tally: Mutex::new(Tally {
                refusals: refusals()?,
                ..Tally::default()
            }),
        });
        let router = Arc::new(router());
        router.check(ops::CATALOG, "")?;
        for meta in ops::CATALOG {
            let described = format!("{} {}", meta.method.as_str().to_lowercase(), meta.path);
            let filed = bench.document.operation(meta.id);
            if filed.is_none_or(|filed| format!("{} {}", filed.method, filed.path) != described) {
                return Err(format!("{meta}: the OpenAPI file says {filed:?}").into());
            }
        }
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
        let url = format!("http://{}", listener.local_addr()?);
        runtime.spawn(accept(listener, router, bench.clone()));
        Ok(Self {
            url,
            bench,
            runtime,
        })
    }

    /// Prints what became of the requests; fails when an answer was wrong, or a listed refusal
    /// never happened.
    pub(crate) fn finish(self) -> Result<()> {
        self.runtime.shutdown_background();
        let tally = self.bench.tally();
        for (operation, count) in &tally.outside {
            println!("note: {count} requests of {operation} are not what the OpenAPI file allows");
        }
        let mut wrong = tally.wrong.clone();
        wrong.sort();
        wrong.dedup();
        let idle = tally.refusals.iter().filter(|r| r.seen == 0);
        wrong.extend(idle.map(|r| {
            format!(
                "{} {} {:?}: listed as refused, never was",
                r.operation, r.status, r.words
            )
        }));
        for problem in &wrong {
            println!("contract: {problem}");
        }
        println!(
            "contract: {} requests answered as the OpenAPI file says, {} refused as listed, {} wrong",
            tally.answered,
            tally.refused,
            wrong.len()
        );
        if wrong.is_empty() {
            Ok(())
        } else {
            Err("the contract is broken".into())
        }
    }
}

impl Bench {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn wrong(&self, what: String) -> ApiError {
        self.tally().wrong.push(what.clone());
        // 400: the SDK would resend after a 5xx.
        ApiError::invalid(what)
    }

    /// Sends a request to the server and reads the answer whole.
    async fn ask(&self, mut request: http::Request<WireBody>) -> Result<Answer, String> {
        let target = request.uri().path_and_query().map_or("/", |p| p.as_str());
        let uri: Uri = format!("{}{target}", self.upstream)
            .parse()
            .map_err(|e| format!("{target}: {e}"))?;
        *request.uri_mut() = uri;
        request.headers_mut().insert("x-api-key", self.key.clone());
        let response = self
            .client
            .request(request)
            .await
            .map_err(|e| e.to_string())?;
        let (parts, body) = response.into_parts();
        let body = WireBody::stream(body)
            .collect(LIMIT)
            .await
            .map_err(|e| e.to_string())?;
        Ok(Answer { parts, body })
    }

    /// A request that prepares or clears away, past the descriptions.
    async fn plain(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, String> {
        let mut request = http::Request::new(
            body.map_or_else(WireBody::empty, |body| WireBody::full(body.to_string())),
        );
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(|e| format!("{path}: {e}"))?;
        request
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let answer = self.ask(request).await?;
        if !answer.parts.status.is_success() {
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            return Err(format!("preparing {path}: {} {text}", answer.parts.status));
        }
        serde_json::from_slice(&answer.body).map_err(|e| format!("preparing {path}: {e}"))
    }

    /// Judges an answer; a success is given on, a listed refusal becomes the file's example.
    fn judge(&self, id: &str, answer: Answer) -> Result<Response<WireBody>, ApiError> {
        let Answer { parts, body } = answer;
        let Some(operation) = self.document.operation(id) else {
            return Err(self.wrong(format!("{id}: not in the OpenAPI file")));
        };
        let status = parts.status.as_u16();
        let media = parts
            .headers
            .get(CONTENT_TYPE)
            .and_then(|v| v.to_str().ok());
        let problems = self.document.check_answer(&operation, status, media, &body);
        if !problems.is_empty() {
            return Err(self.wrong(format!("{id}: {status}: {}", problems.join("; "))));
        }
        if parts.status.is_success() {
            self.tally().answered += 1;
            return Ok(Response::from_parts(parts, WireBody::full(body)));
        }
        let text = String::from_utf8_lossy(&body);
        let listed = {
            let mut tally = self.tally();
            let found = tally.refusals.iter_mut().find(|r| {
                r.operation == id && r.status == status && text.contains(r.words.as_str())
            });
            let listed = found.map(|refusal| refusal.seen += 1).is_some();
            tally.refused += u32::from(listed);
            listed
        };
        if !listed {
            return Err(self.wrong(format!("{id}: refused and not listed: {status} {text}")));
        }
        let Some((status, example)) = self.document.example(&operation) else {
            return Err(self.wrong(format!("{id}: no success in the OpenAPI file")));
        };
        let body = example.map_or_else(WireBody::empty, |e| WireBody::full(e.to_string()));
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(response)
    }
}

/// The handler of every operation: encode again, ask the server, judge, decode, answer.
async fn pass<E: Endpoint<Protocol = FastVm>>(
    call: Call<Arc<Visit>>,
    request: Request<E>,
) -> Result<E::Reply, ApiError> {
    call.decoded.store(true, Ordering::Relaxed);
    let bench = &call.bench;
    let id = E::META.id;
    let request = request
        .encode("")
        .map_err(|e| bench.wrong(format!("{id}: encoding: {e}")))?;
    let answer = bench
        .ask(request)
        .await
        .map_err(|e| bench.wrong(format!("{id}: {e}")))?;
    let response = bench.judge(id, answer)?;
    let decoding = Decoding {
        meta: E::META,
        decode_error: FastVm::decode_error,
        limit: LIMIT,
    };
    E::Reply::decode(response, decoding)
        .await
        .map_err(|e| bench.wrong(format!("{id}: reading the answer: {e}")))
}

/// All described operations, each with [`pass`].
fn router() -> FastVmRouter {
    macro_rules! mount {
        ($($operation:ident)+) => {
            FastVmRouter::new()$(.mount(ops::$operation, pass::<ops::$operation>))+
        };
    }
    mount! {
        Health ListVms LaunchVm GetVm UpdateVm DeleteVm PauseVm ResumeVm RefreshVmTtl
        SetVmFirewall PatchVmFirewall CreateConsoleToken ExecVm
        ListServices RegisterService UpdateService DeleteService
        PresignFile FetchFile AttachVolume DetachVolume
        ListBucketMounts AttachBucketMount GetBucketMount RotateBucketMount DeleteBucketMount
        ListSshKeys AddSshKey DeleteSshKey
        ListSnapshots CreateSnapshot GetSnapshot UpdateSnapshot DeleteSnapshot
        ListSnapshotImports CreateSnapshotImport PresignImportContext GetSnapshotImport
        DeleteSnapshotImport CancelSnapshotImport
        GetOrgQuotas CreateVolume GetVolume UpdateVolume DeleteVolume ListVolumeAttachments
        CreateBuild GetBuild PresignBuildContext
    }
}

async fn accept(listener: tokio::net::TcpListener, router: Arc<FastVmRouter>, bench: Arc<Bench>) {
    while let Ok((socket, peer)) = listener.accept().await {
        let (router, bench) = (router.clone(), bench.clone());
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let (router, bench) = (router.clone(), bench.clone());
                async move {
                    Ok::<_, std::convert::Infallible>(serve(&router, bench, peer, request).await)
                }
            });
            let server = auto::Builder::new(TokioExecutor::new());
            // A connection that the suite breaks off is the suite's affair.
            let _ = server.serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

/// A machine or a snapshot that exists for one request.
#[derive(Default)]
struct Fixture {
    made: Vec<String>,
}

async fn serve(
    router: &FastVmRouter,
    bench: Arc<Bench>,
    peer: SocketAddr,
    request: http::Request<hyper::body::Incoming>,
) -> Response<WireBody> {
    let mut fixture = Fixture::default();
    let response = match prepare(router, &bench, &mut fixture, request).await {
        Ok(request) => {
            let (parts, body) = request.into_parts();
            let operation = router.operation(&parts.method, parts.uri.path());
            let info = RequestInfo::new(Peer::Tcp(peer), &parts);
            let request = http::Request::from_parts(parts, body);
            let visit = Arc::new(Visit {
                bench: bench.clone(),
                decoded: AtomicBool::new(false),
            });
            let response = router.route(visit.clone(), info, request).await;
            match operation {
                Some(meta) if !visit.decoded.load(Ordering::Relaxed) => {
                    refused(&bench, meta.id, response).await
                }
                _ => response,
            }
        }
        Err(e) => FastVm::encode_error(&bench.wrong(e)),
    };
    for path in fixture.made.iter().rev() {
        // The request itself may have deleted it.
        let _ = bench.plain(Method::DELETE, path, None).await;
    }
    response
}

/// What the suite gets when the router itself refused: judged as the server's answers are.
async fn refused(bench: &Bench, id: &str, response: Response<WireBody>) -> Response<WireBody> {
    let (parts, body) = response.into_parts();
    let judged = match body.collect(LIMIT).await {
        Ok(body) => bench.judge(id, Answer { parts, body }),
        Err(e) => Err(bench.wrong(format!("{id}: {e}"))),
    };
    judged.unwrap_or_else(|e| FastVm::encode_error(&e))
}

/// Reads the request whole and puts real ids where the suite wrote words.
async fn prepare(
    router: &FastVmRouter,
    bench: &Bench,
    fixture: &mut Fixture,
    request: http::Request<hyper::body::Incoming>,
) -> Result<http::Request<WireBody>, String> {
    let (mut parts, body) = request.into_parts();
    let body = WireBody::stream(body)
        .collect(LIMIT)
        .await
        .map_err(|e| e.to_string())?;
    let mut text = body.to_vec();
    let path = parts.uri.path().to_owned();
    let operation = router.operation(&parts.method, &path);
    if let Some(operation) = operation.and_then(|m| bench.document.operation(m.id))
        && !bench.document.check_request(&operation, &text).is_empty()
    {
        *bench
            .tally()
            .outside
            .entry(operation.id.to_owned())
            .or_default() += 1;
    }
    let mut target = parts.uri.to_string();
    if path.starts_with("/v1/vms/id") {
        let id = machine(bench, fixture).await?;
        target = target.replacen("/v1/vms/id", &format!("/v1/vms/{id}"), 1);
    } else if path == "/v1/snapshots/id" {
        let vm = machine(bench, fixture).await?;
        let body = json!({ "vmId": vm });
        let made = bench
            .plain(Method::POST, "/v1/snapshots", Some(body))
            .await?;
        let id = made["id"]
            .as_str()
            .ok_or("a snapshot without id")?
            .to_owned();
        fixture.made.push(format!("/v1/snapshots/{id}"));
        target = target.replacen("/v1/snapshots/id", &format!("/v1/snapshots/{id}"), 1);
    } else if path == "/v1/snapshots"
        && let Ok(mut body) = serde_json::from_slice::<Value>(&text)
        && body["vmId"] == "vmId"
    {
        body["vmId"] = machine(bench, fixture).await?.into();
        text = body.to_string().into_bytes();
    }
    parts.uri = target.parse().map_err(|e| format!("{target}: {e}"))?;
    parts.headers.remove(CONTENT_LENGTH);
    Ok(http::Request::from_parts(parts, WireBody::full(text)))
}

/// A running machine with a TTL, so that every operation on it can succeed.
async fn machine(bench: &Bench, fixture: &mut Fixture) -> Result<String, String> {
    let body = json!({ "machineType": "c1m2", "ttl": { "seconds": 3600, "action": "delete" } });
    let made = bench.plain(Method::POST, "/v1/vms", Some(body)).await?;
    let id = made["id"].as_str().ok_or("a machine without id")?;
    fixture.made.push(format!("/v1/vms/{id}"));
    Ok(id.to_owned())
}

/// Reads `api/fastvm-refusals.tsv`: operation, status, words of the answer, reason.
fn refusals() -> Result<Vec<Refusal>> {
    let text = fs::read_to_string(root().join("api/fastvm-refusals.tsv"))?;
    text.lines()
        .skip(1)
        .map(|line| match line.split('\t').collect::<Vec<_>>()[..] {
            [operation, status, words, reason] if !reason.is_empty() => Ok(Refusal {
                operation: operation.to_owned(),
                status: status.parse()?,
                words: words.to_owned(),
                seen: 0,
            }),
            _ => Err(format!("fastvm-refusals.tsv: not four columns: {line:?}").into()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers every operation with the OpenAPI file's example.
    async fn examples(listener: tokio::net::TcpListener, broken: Option<&'static str>) {
        let document = Document::load(&root().join("api/fastvm.openapi.yaml")).unwrap();
        let (document, router) = (Arc::new(document), Arc::new(router()));
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let (document, router) = (document.clone(), router.clone());
            let service =
                hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let meta = router
                        .operation(request.method(), request.uri().path())
                        .unwrap();
                    let operation = document.operation(meta.id).unwrap();
                    let (status, body) = document.example(&operation).unwrap();
                    let body = if broken == Some(meta.id) {
                        Some(json!({}))
                    } else {
                        body
                    };
                    let mut response = Response::new(
                        body.map_or_else(WireBody::empty, |b| WireBody::full(b.to_string())),
                    );
                    *response.status_mut() = StatusCode::from_u16(status).unwrap();
                    if status != 204 {
                        let json = HeaderValue::from_static("application/json");
                        response.headers_mut().insert(CONTENT_TYPE, json);
                    }
                    async move { Ok::<_, std::convert::Infallible>(response) }
                });
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(socket), service).await;
            });
        }
    }

    /// Sends every operation's example request through a contract in front of `examples`.
    fn statuses(broken: Option<&'static str>) -> (BTreeMap<String, u16>, Contract) {
        let upstream = tokio::runtime::Runtime::new().unwrap();
        let listener = upstream
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        upstream.spawn(examples(listener, broken));
        let contract = Contract::listen(&address, "key").unwrap();
        let asking = Bench {
            upstream: contract.url.clone(),
            key: HeaderValue::from_static("the suite's own"),
            document: Document::load(&root().join("api/fastvm.openapi.yaml")).unwrap(),
            client: Client::builder(TokioExecutor::new()).build_http(),
            tally: Mutex::default(),
        };
        let mut statuses = BTreeMap::new();
        upstream.block_on(async {
            for operation in asking.document.operations() {
                let path = operation.path.replace("{id}", "id");
                let path = path.replace(['{', '}'], "");
                let body = asking.document.example_request(&operation);
                let mut request = http::Request::new(
                    body.map_or_else(WireBody::empty, |b| WireBody::full(b.to_string())),
                );
                *request.uri_mut() = path.parse().unwrap();
                *request.method_mut() = operation.method.to_uppercase().parse().unwrap();
                let json = HeaderValue::from_static("application/json");
                request.headers_mut().insert(CONTENT_TYPE, json);
                let answer = asking.ask(request).await.unwrap();
                statuses.insert(operation.id.to_owned(), answer.parts.status.as_u16());
            }
        });
        (statuses, contract)
    }

    /// 49 requests that the file allows decode, and 49 answers that it allows are read and written.
    #[test]
    fn every_operation_passes_through() {
        let (statuses, contract) = statuses(None);
        assert_eq!(statuses.len(), 49);
        assert_eq!(contract.bench.tally().wrong, Vec::<String>::new());
        assert!(
            statuses.values().all(|s| (200..300).contains(s)),
            "{statuses:?}"
        );
        // No refusal happened, so those that are listed are told.
        assert!(contract.finish().is_err());
    }

    #[test]
    fn a_wrong_answer_is_found() {
        let (statuses, contract) = statuses(Some("getOrgQuotas"));
        assert_eq!(statuses["getOrgQuotas"], 400);
        let wrong = contract.bench.tally().wrong.join("; ");
        assert!(
            wrong.contains("getOrgQuotas") && wrong.contains("lacks"),
            "{wrong}"
        );
    }
}
