//! Fault scripts: rules that alter what matched requests meet.

use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};
use std::time::Duration;

use boxrig_wire::{BodyError, BoxFuture, Meta, WireBody};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, Sleep};

use crate::router::{Around, RequestInfo};
use crate::state::lock;

/// A list of rules.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// The rules; the first that matches and is due decides, for each request.
    #[serde(default)]
    pub fault: Vec<Rule>,
}

/// When, and what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawRule", into = "RawRule")]
pub struct Rule {
    /// `platform.operation` or `platform`; any when absent.
    pub operation: Option<String>,
    /// The HTTP method; any when absent.
    pub method: Option<String>,
    /// The first matching request that meets the fault, from 1.
    pub nth: u64,
    /// How many matching requests meet it from there on: 1 when `nth` is over 1, else all.
    pub times: Option<u64>,
    /// What happens.
    pub action: Action,
}

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Carried out; the reply is lost.
    DropReply,
    /// Lost before anything is done.
    Drop,
    /// Not done; answered with a status.
    Status {
        /// The HTTP status.
        status: u16,
        /// Seconds in `Retry-After`.
        retry_after: Option<u64>,
    },
    /// The reply's body breaks off.
    Cut {
        /// After this many bytes.
        bytes: u64,
    },
    /// Starts later.
    Delay {
        /// Milliseconds, real time.
        delay_ms: u64,
    },
    /// A state lasts longer.
    SlowState {
        /// The platform's word for the state.
        state: String,
        /// Milliseconds, on the server's clock.
        delay_ms: u64,
    },
}

/// A rule as it is written: flat, and no unknown member is passed over (a misspelt one would never fire).
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawRule {
    action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nth: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    times: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<String>,
}

impl TryFrom<RawRule> for Rule {
    type Error = String;

    fn try_from(raw: RawRule) -> Result<Self, String> {
        let action = match raw.action.as_str() {
            "drop_reply" => Action::DropReply,
            "drop" => Action::Drop,
            "status" => Action::Status {
                status: raw
                    .status
                    .filter(|s| (200..=599).contains(s))
                    .ok_or("status: a number from 200 to 599 is needed")?,
                retry_after: raw.retry_after,
            },
            "cut" => Action::Cut {
                bytes: raw.bytes.ok_or("cut: bytes is needed")?,
            },
            "delay" => Action::Delay {
                delay_ms: raw.delay_ms.ok_or("delay: delay_ms is needed")?,
            },
            "slow_state" => Action::SlowState {
                state: raw.state.ok_or("slow_state: state is needed")?,
                delay_ms: raw.delay_ms.ok_or("slow_state: delay_ms is needed")?,
            },
            other => {
                return Err(format!(
                    "no action {other:?}: drop_reply, drop, status, cut, delay or slow_state"
                ));
            }
        };
        let nth = raw.nth.unwrap_or(1);
        if nth == 0 {
            return Err("nth counts from 1".to_owned());
        }
        Ok(Self {
            operation: raw.operation,
            method: raw.method,
            nth,
            times: raw.times,
            action,
        })
    }
}

impl From<Rule> for RawRule {
    fn from(rule: Rule) -> Self {
        let mut raw = Self {
            operation: rule.operation,
            method: rule.method,
            nth: (rule.nth != 1).then_some(rule.nth),
            times: rule.times,
            ..Self::default()
        };
        let name = match rule.action {
            Action::DropReply => "drop_reply",
            Action::Drop => "drop",
            Action::Status {
                status,
                retry_after,
            } => {
                raw.status = Some(status);
                raw.retry_after = retry_after;
                "status"
            }
            Action::Cut { bytes } => {
                raw.bytes = Some(bytes);
                "cut"
            }
            Action::Delay { delay_ms } => {
                raw.delay_ms = Some(delay_ms);
                "delay"
            }
            Action::SlowState { state, delay_ms } => {
                raw.state = Some(state);
                raw.delay_ms = Some(delay_ms);
                "slow_state"
            }
        };
        raw.action = name.to_owned();
        raw
    }
}

impl Script {
    /// Reads TOML, or JSON if it starts with `{`.
    ///
    /// # Errors
    ///
    /// Says where, and what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.trim_start().starts_with('{') {
            serde_json::from_str(text).map_err(|e| e.to_string())
        } else {
            toml::from_str(text).map_err(|e| e.to_string())
        }
    }
}

/// Put on a response whose connection is to be closed instead.
#[derive(Clone, Copy, Debug)]
pub struct DropConnection;

/// The rules in force, with their counts.
#[derive(Debug, Default)]
pub struct Faults(Mutex<Vec<(Rule, u64)>>);

impl Faults {
    /// Replaces the rules; counts start anew.
    pub fn set(&self, script: Script) {
        *lock(&self.0) = script.fault.into_iter().map(|rule| (rule, 0)).collect();
    }

    /// The rules in force.
    pub fn script(&self) -> Script {
        Script {
            fault: lock(&self.0).iter().map(|(rule, _)| rule.clone()).collect(),
        }
    }

    /// How long an instance is to stay in a state beyond what it takes. A protocol asks once for each instance
    /// that enters the state in an operation, and waits on the server's clock.
    pub fn slow_state(&self, meta: &Meta, state: &str) -> Option<Duration> {
        self.due(
            meta,
            |action| matches!(action, Action::SlowState { state: s, .. } if s == state),
        )
        .and_then(|action| match action {
            Action::SlowState { delay_ms, .. } => Some(Duration::from_millis(delay_ms)),
            _ => None,
        })
    }

    /// The first rule for this request that is due; all that match are counted.
    fn due(&self, meta: &Meta, wanted: impl Fn(&Action) -> bool) -> Option<Action> {
        let mut due = None;
        for (rule, count) in lock(&self.0).iter_mut() {
            if !wanted(&rule.action) || !matches(rule, meta) {
                continue;
            }
            *count += 1;
            let times = rule
                .times
                .unwrap_or(if rule.nth > 1 { 1 } else { u64::MAX });
            if *count >= rule.nth && *count - rule.nth < times && due.is_none() {
                due = Some(rule.action.clone());
            }
        }
        due
    }
}

fn matches(rule: &Rule, meta: &Meta) -> bool {
    let operation = rule.operation.as_deref().is_none_or(|text| {
        text.split_once('.')
            .map_or(text == meta.platform, |(platform, id)| {
                platform == meta.platform && id == meta.id
            })
    });
    let method = rule.method.as_deref();
    operation && method.is_none_or(|m| m.eq_ignore_ascii_case(meta.method.as_str()))
}

impl Around for Faults {
    fn around<'a>(
        &'a self,
        _: &'a RequestInfo,
        meta: &'static Meta,
        next: BoxFuture<'a, Response<WireBody>>,
    ) -> BoxFuture<'a, Response<WireBody>> {
        let action = self.due(meta, |a| !matches!(a, Action::SlowState { .. }));
        let Some(action) = action else { return next };
        Box::pin(async move {
            match action {
                Action::Drop => dropped(),
                Action::DropReply => {
                    next.await;
                    dropped()
                }
                Action::Status {
                    status,
                    retry_after,
                } => answered(status, retry_after),
                Action::Cut { bytes } => next
                    .await
                    .map(|body| WireBody::stream(Cut::new(body, bytes))),
                Action::Delay { delay_ms } => {
                    tokio::time::sleep(Duration::from_millis(delay_ms)).await;
                    next.await
                }
                Action::SlowState { .. } => next.await,
            }
        })
    }
}

fn dropped() -> Response<WireBody> {
    let mut response = Response::new(WireBody::empty());
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response.extensions_mut().insert(DropConnection);
    response
}

fn answered(status: u16, retry_after: Option<u64>) -> Response<WireBody> {
    let words = r#"{"error":"a fault script answers this"}"#;
    let mut response = Response::new(WireBody::full(words));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A body that breaks off.
struct Cut {
    body: WireBody,
    left: u64,
    /// What was sent before must be on its way: hyper throws away what it holds when a body fails.
    pause: Pin<Box<Sleep>>,
}

impl Cut {
    fn new(body: WireBody, bytes: u64) -> Self {
        Self {
            body,
            left: bytes,
            pause: Box::pin(tokio::time::sleep(FLUSH)),
        }
    }
}

/// Between the last byte and the break.
const FLUSH: Duration = Duration::from_millis(50);

impl Body for Cut {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.left == 0 {
            std::task::ready!(self.pause.as_mut().poll(cx));
            return Poll::Ready(Some(Err("cut by a fault script".into())));
        }
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            frame.map(|frame| match frame.into_data() {
                Ok(data) => {
                    let keep = usize::try_from(self.left).map_or(data.len(), |n| n.min(data.len()));
                    self.left -= keep as u64;
                    self.pause.as_mut().reset(Instant::now() + FLUSH);
                    Frame::data(data.slice(..keep))
                }
                Err(frame) => frame,
            })
        }))
    }

    /// The whole length, so that the client can see that something is missing.
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use boxrig_wire::{Idempotency, PathTemplate, ReplyShape};

    static LAUNCH: Meta = Meta {
        platform: "fastvm",
        id: "launchVm",
        method: &http::Method::POST,
        path: PathTemplate::new("/v1/vms"),
        doc: "",
        idempotency: Idempotency::Never,
        max_retries: None,
        reply: ReplyShape::Whole,
    };

    fn met(faults: &Faults) -> Option<Action> {
        faults.due(&LAUNCH, |_| true)
    }

    #[test]
    fn rules_count_their_requests() {
        let faults = Faults::default();
        let script = r#"
            [[fault]]
            operation = "fastvm.launchVm"
            nth = 3
            action = "drop_reply"
            [[fault]]
            operation = "incus"
            action = "drop"
            [[fault]]
            method = "post"
            times = 4
            action = "status"
            status = 429
            retry_after = 2
        "#;
        faults.set(Script::parse(script).unwrap());
        let status = Action::Status {
            status: 429,
            retry_after: Some(2),
        };
        for _ in 0..2 {
            assert_eq!(met(&faults), Some(status.clone()));
        }
        assert_eq!(met(&faults), Some(Action::DropReply));
        assert_eq!(met(&faults), Some(status));
        assert_eq!(met(&faults), None);
        let json = serde_json::to_string(&faults.script()).unwrap();
        assert_eq!(Script::parse(&json), Ok(faults.script()));
    }

    #[test]
    fn a_slow_state_is_asked_for_by_name() {
        let faults = Faults::default();
        let text = "[[fault]]\naction = 'slow_state'\nstate = 'provisioning'\ndelay_ms = 5";
        faults.set(Script::parse(text).unwrap());
        assert_eq!(faults.slow_state(&LAUNCH, "paused"), None);
        assert_eq!(
            faults.slow_state(&LAUNCH, "provisioning"),
            Some(Duration::from_millis(5))
        );
    }

    #[test]
    fn wrong_scripts_are_refused_in_words() {
        for (text, words) in [
            ("[[fault]]\naction = 'explode'", "explode"),
            ("[[fault]]\naction = 'drop'\nnth = 0", "nth counts"),
            (
                "[[fault]]\naction = 'status'\nstatus = 7",
                "status: a number",
            ),
            ("[[falt]]\naction = 'drop'", "falt"),
            ("[[fault]]\naction = 'drop'\ntime = 2", "time"),
            ("{", "EOF"),
        ] {
            let e = Script::parse(text).unwrap_err();
            assert!(e.contains(words), "{text}: {e}");
        }
    }

    #[tokio::test]
    async fn a_cut_body_breaks() {
        let body = WireBody::stream(Cut::new(WireBody::full("0123456789"), 4));
        assert_eq!(body.size_hint().exact(), Some(10));
        let e = body.collect(100).await.unwrap_err();
        assert!(e.to_string().contains("cut"));
    }
}
