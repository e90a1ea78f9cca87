//! A call: tries under one deadline, by the retry table and within the budget.

use std::time::{Duration, SystemTime};

use boxrig_wire::{
    BoxFuture, Decision, Delivery, Error, Idempotency, Kind, Outgoing, Phase, ReplyShape, Result,
    RetryPolicy, Transport, WireBody,
};
use http::{Response, StatusCode};
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;

use crate::after::{should_retry, told_wait};
use crate::attempt::{Broken, Head, Track};
use crate::body::{Inbound, Payload};
use crate::builder::{Http, Inner};
use crate::connect::origin;

impl Transport for Http {
    fn send(&self, out: Outgoing) -> BoxFuture<'_, Result<Response<WireBody>>> {
        Box::pin(async move {
            let span = tracing::debug_span!(
                "call",
                operation = out.operation,
                method = %out.request.method(),
                host = %origin(out.request.uri()),
            );
            Call::new(&self.0, out)?.run().instrument(span).await
        })
    }
}

/// A call on its way.
struct Call<'a> {
    inner: &'a Inner,
    head: Head,
    payload: Payload,
    operation: &'static str,
    idempotency: Idempotency,
    reply: ReplyShape,
    retry: RetryPolicy,
    reply_limit: usize,
    timeout: Option<Duration>,
    deadline: Option<Instant>,
    attempts: u32,
    /// An earlier try may have taken effect.
    in_doubt: bool,
}

/// What a try came to.
enum Outcome {
    Answer(Response<WireBody>),
    /// Wait this long and try again; the error is given if that cannot be.
    Again {
        wait: Duration,
        otherwise: Box<Otherwise>,
    },
    Failed(Error),
}

enum Otherwise {
    Answer(Response<WireBody>),
    Failed(Error),
}

impl<'a> Call<'a> {
    fn new(inner: &'a Inner, out: Outgoing) -> Result<Self> {
        let (parts, body) = out.request.into_parts();
        let mut head = Head {
            method: parts.method,
            uri: parts.uri,
            headers: parts.headers,
        };
        inner.name_agent(&mut head.headers);
        // A policy without end would never give the error back.
        let deadline = out.timeout.map(|t| Instant::now() + t);
        Ok(Self {
            inner,
            head,
            payload: Payload::new(body),
            operation: out.operation,
            idempotency: out.idempotency,
            reply: out.reply,
            retry: out.retry,
            reply_limit: out.reply_limit,
            timeout: out.timeout,
            deadline,
            attempts: 0,
            in_doubt: false,
        })
    }

    async fn run(mut self) -> Result<Response<WireBody>> {
        loop {
            self.attempts += 1;
            let started = Instant::now();
            let outcome = self.attempt().await;
            let (wait, otherwise) = match outcome {
                Outcome::Answer(answer) => {
                    tracing::debug!(status = answer.status().as_u16(), attempt = self.attempts, elapsed = ?started.elapsed(), "answered");
                    return Ok(answer);
                }
                Outcome::Failed(e) => {
                    tracing::debug!(kind = %e.kind(), attempt = self.attempts, elapsed = ?started.elapsed(), "failed");
                    return Err(self.dress(e));
                }
                Outcome::Again { wait, otherwise } => (wait, otherwise),
            };
            let fits = self.deadline.is_none_or(|d| Instant::now() + wait < d);
            if !fits || !self.inner.budget.take() {
                return match *otherwise {
                    Otherwise::Answer(answer) => Ok(answer),
                    Otherwise::Failed(e) => Err(self.dress(e)),
                };
            }
            tracing::debug!(attempt = self.attempts, ?wait, "again");
            drop(otherwise);
            tokio::time::sleep(wait).await;
        }
    }

    fn dress(&self, e: Error) -> Error {
        e.with_operation(self.operation)
            .with_attempts(self.attempts)
    }

    /// One try with everything that belongs to it: the answer's body too, when it is to be read whole.
    async fn attempt(&mut self) -> Outcome {
        let track = Track::default();
        let tried = async {
            let shape = self.reply;
            if matches!(shape, ReplyShape::Socket | ReplyShape::Upgrade(_)) {
                return self
                    .inner
                    .upgrade(&self.head, &self.payload, shape, &track)
                    .await
                    .map(Reply::Ready);
            }
            let answer = self
                .inner
                .attempt(&self.head, &self.payload, &track)
                .await?;
            let answer = self.inner.redirected(&self.head, answer, &track).await?;
            match shape {
                ReplyShape::Whole => whole(answer, self.reply_limit).await.map(Reply::Ready),
                _ => Ok(Reply::Stream(answer)),
            }
        };
        let tried = match self.deadline {
            Some(deadline) => match timeout_at(deadline, tried).await {
                Ok(tried) => tried,
                Err(_) => return Outcome::Failed(self.late(track.phase())),
            },
            None => tried.await,
        };
        match tried {
            Ok(Reply::Ready(answer)) => self.judge(answer),
            Ok(Reply::Stream(answer)) => self.judge(answer.map(WireBody::stream)),
            Err(broken) => self.broken(broken),
        }
    }

    /// The deadline passed.
    fn late(&self, phase: Phase) -> Error {
        let words = format!("no answer within {:?}", self.timeout.unwrap_or_default());
        let certain = !self.in_doubt
            && (phase == Phase::BeforeSend
                || matches!(
                    self.idempotency,
                    Idempotency::Safe | Idempotency::Idempotent
                ));
        if certain || matches!(self.idempotency, Idempotency::Safe) {
            Error::new(Kind::Timeout, words)
        } else {
            unknown(Error::new(Kind::OutcomeUnknown, words))
        }
    }

    fn broken(&mut self, Broken { phase, error }: Broken) -> Outcome {
        // A refused certificate, a wrong setting: the next try would meet the same.
        if !error.is_retryable() && phase == Phase::BeforeSend {
            return Outcome::Failed(error);
        }
        match self.retry.on_broken(self.idempotency, phase) {
            Decision::Retry => {
                let doubt =
                    phase != Phase::BeforeSend && !matches!(self.idempotency, Idempotency::Safe);
                self.in_doubt |= doubt;
                let error = match doubt && self.idempotency == Idempotency::Token {
                    true => unknown(error.with_kind(Kind::OutcomeUnknown)),
                    false => error,
                };
                self.again(None, Otherwise::Failed(error))
            }
            Decision::OutcomeUnknown => {
                Outcome::Failed(unknown(error.with_kind(Kind::OutcomeUnknown)))
            }
            Decision::Fail => Outcome::Failed(error),
        }
    }

    fn judge(&mut self, mut answer: Response<WireBody>) -> Outcome {
        let status = answer.status();
        if !is_failure(status) {
            self.inner.budget.refill();
            return Outcome::Answer(answer);
        }
        let told = told_wait(answer.headers(), SystemTime::now());
        let phase = Phase::AfterSend;
        let mut decision = self.retry.on_status(self.idempotency, status, phase);
        match (should_retry(answer.headers()), self.idempotency) {
            // The platform's word counts for more than its status, but not for sending twice what must not be.
            (Some(true), Idempotency::Never) | (None, _) => {}
            (Some(true), _) => decision = Decision::Retry,
            (Some(false), _) if decision == Decision::Retry => decision = Decision::Fail,
            (Some(false), _) => {}
        }
        answer.extensions_mut().insert(Delivery {
            attempts: self.attempts,
            outcome_unknown: decision == Decision::OutcomeUnknown,
            retry_after: told,
        });
        match decision {
            Decision::Retry if told.is_none_or(|w| w <= self.retry.longest_retry_after) => {
                self.again(told, Otherwise::Answer(answer))
            }
            _ => Outcome::Answer(answer),
        }
    }

    fn again(&self, told: Option<Duration>, otherwise: Otherwise) -> Outcome {
        if self.attempts > self.retry.max_retries || !self.payload.is_untouched() {
            return match otherwise {
                Otherwise::Answer(answer) => Outcome::Answer(answer),
                Otherwise::Failed(e) => Outcome::Failed(e),
            };
        }
        let wait = told.unwrap_or_else(|| self.retry.backoff(self.attempts - 1, rand::random()));
        Outcome::Again {
            wait,
            otherwise: Box::new(otherwise),
        }
    }
}

enum Reply {
    Ready(Response<WireBody>),
    Stream(Response<Inbound>),
}

async fn whole(answer: Response<Inbound>, limit: usize) -> Result<Response<WireBody>, Broken> {
    let (parts, body) = answer.into_parts();
    match body.collect(limit).await {
        Ok(bytes) => Ok(Response::from_parts(parts, WireBody::full(bytes))),
        Err(error) => Err(Broken {
            phase: Phase::AfterSend,
            error,
        }),
    }
}

fn is_failure(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

fn unknown(e: Error) -> Error {
    match e.hint() {
        Some(_) => e,
        None => e.with_hint("it may have happened: look before doing it again"),
    }
}
