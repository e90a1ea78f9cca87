//! One call: tries, waits, redirects, all under one deadline.

use std::time::{Duration, SystemTime};

use boxrig_wire::{
    Decision, Delivery, Error, HasRead, Idempotency, Kind, Outgoing, Phase, ReadReply, ReplyShape,
    Result, RetryPolicy, WireBody,
};
use http::header::LOCATION;
use http::{Method, Response, StatusCode};
use tokio::time::Instant;

use crate::after::{should_retry, told_wait};
use crate::attempt::{Answer, Broken, Plan, Trail, attempt};
use crate::body::Payload;
use crate::http::Shared;
use crate::redirect;

/// An error's body is read up to this size; it is a message, not content.
const ERROR_BODY: usize = 1024 * 1024;
/// What is read of an answer that is dropped, to keep its connection.
const LEFTOVER: usize = 64 * 1024;

/// A call on its way.
pub(crate) struct Call<'a> {
    shared: &'a Shared,
    plan: Plan,
    operation: &'static str,
    idempotency: Idempotency,
    retry: RetryPolicy,
    reply_limit: usize,
    read: Option<ReadReply>,
    timeout: Option<Duration>,
    deadline: Option<Instant>,
    attempts: u32,
    hops: u8,
    /// An earlier try may have taken effect.
    perhaps_done: bool,
    trail: Trail,
}

/// What is next after a try.
enum Next {
    Done(Result<Response<WireBody>>),
    Again { wait: Duration },
    Elsewhere,
}

impl<'a> Call<'a> {
    pub(crate) fn new(shared: &'a Shared, out: Outgoing) -> Self {
        let (parts, body) = out.request.into_parts();
        Self {
            shared,
            plan: Plan {
                method: parts.method,
                uri: parts.uri,
                headers: parts.headers,
                payload: Payload::new(body),
                reply: out.reply,
            },
            operation: out.operation,
            idempotency: out.idempotency,
            retry: out.retry,
            reply_limit: out.reply_limit,
            read: parts.extensions.get().copied(),
            timeout: out.timeout,
            deadline: out.timeout.and_then(|t| Instant::now().checked_add(t)),
            attempts: 1,
            hops: 0,
            perhaps_done: false,
            trail: Trail::default(),
        }
    }

    pub(crate) async fn run(mut self) -> Result<Response<WireBody>> {
        let result = loop {
            let next = match self.deadline {
                None => self.once().await,
                Some(at) => match tokio::time::timeout_at(at, self.once()).await {
                    Ok(next) => next,
                    Err(_) => break Err(self.too_late()),
                },
            };
            match next {
                Next::Done(result) => break result,
                Next::Elsewhere => {}
                Next::Again { wait } => {
                    tracing::debug!(
                        attempt = self.attempts,
                        wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                        "sending again"
                    );
                    // Known to be within the deadline.
                    tokio::time::sleep(wait).await;
                    self.attempts += 1;
                }
            }
        };
        result.map_err(|e| {
            e.with_operation(self.operation)
                .with_attempts(self.attempts)
        })
    }

    async fn once(&mut self) -> Next {
        match attempt(&self.shared.pool, &self.plan, &mut self.trail).await {
            Ok(answer) => self.answered(answer).await,
            Err(broken) => self.broken(broken),
        }
    }

    /// A try ended without a whole answer.
    fn broken(&mut self, b: Broken) -> Next {
        let phase = self.trail.phase();
        let decision = self.retry.on_broken(self.idempotency, phase);
        self.perhaps_done |= phase != Phase::BeforeSend;
        if decision == Decision::Retry
            && !b.permanent
            && let Some(wait) = self.may_retry(None)
        {
            tracing::debug!(error = %b.error, ?phase, "a try failed");
            return Next::Again { wait };
        }
        Next::Done(Err(self.judged(b.error)))
    }

    /// An error of the way to the server, by what may have happened.
    fn judged(&self, error: Error) -> Error {
        if !self.perhaps_done || self.idempotency == Idempotency::Safe {
            return error;
        }
        let retryable = self.idempotency != Idempotency::Never;
        error
            .with_kind(Kind::OutcomeUnknown)
            .with_retryable(retryable)
            .with_hint(match self.idempotency {
                Idempotency::Token => {
                    "it may have happened: look for its token before doing it again"
                }
                Idempotency::Idempotent => {
                    "it may have happened; doing it again does no harm"
                }
                Idempotency::Never | Idempotency::Safe => {
                    "it may have happened: look (list or show what it acts on) before doing it again"
                }
            })
    }

    fn too_late(&mut self) -> Error {
        self.perhaps_done |= self.trail.phase() != Phase::BeforeSend;
        let limit = self.timeout.unwrap_or_default();
        self.judged(Error::new(
            Kind::Timeout,
            format!("no whole answer within {limit:?}"),
        ))
    }

    /// The wait before another try, when there may be one: tries left, body still there, time left, budget.
    fn may_retry(&self, told: Option<Duration>) -> Option<Duration> {
        let retry = self.attempts - 1;
        if retry >= self.retry.max_retries || !self.plan.payload.is_untouched() {
            return None;
        }
        let own = self.retry.backoff(retry, rand::random());
        let wait = match told {
            Some(told) if told > self.retry.longest_retry_after => return None,
            // Never earlier than told; a little later, so that not all come at once.
            Some(told) if !told.is_zero() => told + own.min(told / 10),
            _ => own,
        };
        if let Some(deadline) = self.deadline
            && Instant::now()
                .checked_add(wait)
                .is_none_or(|at| at >= deadline)
        {
            return None;
        }
        self.shared.budget.take().then_some(wait)
    }

    /// The head of an answer is there.
    async fn answered(&mut self, answer: Answer) -> Next {
        let status = answer.response.status();
        if redirect::is_redirect(status)
            && self.shared.redirects > 0
            && matches!(self.plan.method, Method::GET | Method::HEAD)
            && matches!(self.plan.reply, ReplyShape::Whole | ReplyShape::Stream)
            && let Some(location) = answer.response.headers().get(LOCATION).cloned()
        {
            drain(answer).await;
            return match self.redirected(location.as_bytes()) {
                Ok(()) => Next::Elsewhere,
                Err(e) => Next::Done(Err(e)),
            };
        }
        if status.is_client_error() || status.is_server_error() {
            return self.refused(answer).await;
        }
        self.shared.budget.refill();
        match self.plan.reply {
            ReplyShape::Stream => Next::Done(Ok(answer.into_response())),
            _ if answer.upgraded.is_some() => Next::Done(Ok(answer.into_response())),
            _ => self.whole(answer).await,
        }
    }

    async fn whole(&mut self, answer: Answer) -> Next {
        let (mut parts, mut body) = answer.response.into_parts();
        let read = match self.read.filter(|_| parts.status.is_success()) {
            None => body.collect(self.reply_limit).await.map(WireBody::full),
            Some(read) => {
                let mut reader = read.begin();
                let read = body.each(self.reply_limit, |piece| reader.read(&piece));
                read.await.map(|()| {
                    parts.extensions.insert(HasRead::new(reader));
                    WireBody::empty()
                })
            }
        };
        match read {
            Ok(body) => Next::Done(Ok(Response::from_parts(parts, body))),
            // What is too large, or wrong, stays so.
            Err(error) => {
                let permanent = error.kind() == Kind::Protocol;
                if permanent {
                    return Next::Done(Err(error));
                }
                self.broken(Broken { error, permanent })
            }
        }
    }

    /// The server answered with an error status.
    async fn refused(&mut self, answer: Answer) -> Next {
        let (status, headers) = (answer.response.status(), answer.response.headers());
        let told = told_wait(headers, SystemTime::now());
        let mut decision = self
            .retry
            .on_status(self.idempotency, status, self.trail.phase());
        match should_retry(headers) {
            // The platform's word widens the list of statuses, never what may be sent twice.
            Some(true) if decision == Decision::Fail && !self.retry.names_status(status) => {
                let mut asked = self.retry.clone();
                asked.statuses.push(status.as_u16());
                decision = asked.on_status(self.idempotency, status, self.trail.phase());
            }
            Some(false) if decision == Decision::Retry => decision = Decision::Fail,
            _ => {}
        }
        if decision == Decision::Retry
            && let Some(wait) = self.may_retry(told)
        {
            // A gateway may have lost an upstream that goes on with it.
            self.perhaps_done |= matches!(status.as_u16(), 408 | 502 | 504);
            tracing::debug!(status = status.as_u16(), "a try was refused");
            drain(answer).await;
            return Next::Again { wait };
        }
        let unknown = decision == Decision::OutcomeUnknown || self.still_unknown(status);
        let delivery = Delivery {
            attempts: self.attempts,
            outcome_unknown: unknown,
            retry_after: told,
        };
        let mut response = if self.plan.reply == ReplyShape::Stream {
            answer.into_response()
        } else {
            self.error_body(answer).await
        };
        response.extensions_mut().insert(delivery);
        Next::Done(Ok(response))
    }

    /// A refusal that says nothing about an earlier try which may have taken effect.
    fn still_unknown(&self, status: StatusCode) -> bool {
        self.perhaps_done
            && self.idempotency == Idempotency::Token
            && matches!(status.as_u16(), 425 | 429 | 500..)
    }

    /// The body of an error, as far as it comes in time: the status is what counts.
    async fn error_body(&self, answer: Answer) -> Response<WireBody> {
        let (parts, body) = answer.response.into_parts();
        let limit = self.reply_limit.min(ERROR_BODY);
        let read = match self.deadline {
            None => body.collect(limit).await,
            Some(at) => {
                // Shortly before the deadline, which would otherwise cut off all that is known.
                let at = at.checked_sub(Duration::from_millis(10)).unwrap_or(at);
                tokio::time::timeout_at(at, body.collect(limit))
                    .await
                    .unwrap_or_else(|_| Err(Error::new(Kind::Timeout, "it did not come in time")))
            }
        };
        let body = match read {
            Ok(bytes) => WireBody::full(bytes),
            Err(e) => WireBody::from_stream(futures_util::stream::iter([Err::<_, Error>(e)])),
        };
        Response::from_parts(parts, body)
    }

    fn redirected(&mut self, location: &[u8]) -> Result<()> {
        if self.hops >= self.shared.redirects {
            return Err(Error::new(
                Kind::Protocol,
                format!("more than {} redirects", self.shared.redirects),
            ));
        }
        self.hops += 1;
        let to = redirect::target(&self.plan.uri, location)?;
        if !redirect::same_origin(&self.plan.uri, &to) {
            if self.shared.pool.dialer.unix.is_some() {
                return Err(Error::new(
                    Kind::Protocol,
                    "a redirect was not followed: it leads away from the unix socket",
                ));
            }
            redirect::strip_credentials(&mut self.plan.headers);
        }
        self.plan.uri = to;
        Ok(())
    }
}

/// Reads a little of an answer that nobody wants, so that its connection can be used again.
async fn drain(answer: Answer) {
    const MOMENT: Duration = Duration::from_millis(100);
    // Whatever happens, the connection is either clean or closed.
    let _ = tokio::time::timeout(MOMENT, answer.response.into_body().collect(LEFTOVER)).await;
}
