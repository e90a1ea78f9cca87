//! Waiting for background operations: by the event socket that was opened before the request, and by long polls.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use boxrig_wire::{
    BoxFuture, BoxStream, Endpoint, Error, Kind, NoBody, Operation, Progress, Result, Timeout, Work,
};
use futures_util::StreamExt;

use crate::client::hub::Hub;
use crate::client::{Client, Outcome, Parts};
use crate::models;
use crate::ops::server;

/// How long one poll stays open on the server; idle requests are cut by proxies after a minute.
const POLL: i64 = 30;
/// How long a poll may take on the client: longer than on the server.
const POLL_LIMIT: Duration = Duration::from_secs(POLL as u64 + 25);
/// How often progress is asked for without an event socket.
const PROGRESS: Duration = Duration::from_millis(300);

type Finish<T> = Box<dyn Fn(models::Operation) -> BoxFuture<'static, Result<T>> + Send + Sync>;

/// One operation of the server.
struct Task<T> {
    client: Client,
    first: models::Operation,
    hub: Option<Arc<Hub>>,
    /// The end, kept: the server forgets it after seconds.
    end: OnceLock<models::Operation>,
    finish: Finish<T>,
}

impl<T: Send + 'static> Task<T> {
    fn id(&self) -> &str {
        &self.first.id
    }

    async fn ended(&self) -> Result<models::Operation> {
        if let Some(end) = self.end.get() {
            return Ok(end.clone());
        }
        let end = if self.first.is_final() {
            self.first.clone()
        } else {
            match &self.hub {
                Some(hub) => self.ended_either_way(hub).await?,
                None => poll(&self.client, self.id()).await?,
            }
        };
        Ok(self.end.get_or_init(|| end).clone())
    }

    /// Whichever tells first. Events survive proxies that cut idle requests and tell the end of an operation that the server has forgotten since; the poll
    /// survives a lost event.
    async fn ended_either_way(&self, hub: &Hub) -> Result<models::Operation> {
        let poll = std::pin::pin!(poll(&self.client, self.id()));
        let event = std::pin::pin!(hub.finished(self.id()));
        use futures_util::future::Either;
        match futures_util::future::select(event, poll).await {
            Either::Left((Some(end), _)) => Ok(end),
            Either::Left((None, poll)) => poll.await,
            Either::Right((Err(e), _)) => match hub.peek(self.id()) {
                Some(end) if end.is_final() => Ok(end),
                _ => Err(e),
            },
            Either::Right((end, _)) => end,
        }
    }
}

impl<T: Send + 'static> Work<T> for Task<T> {
    fn id(&self) -> &str {
        self.id()
    }

    fn poll(&self) -> BoxFuture<'_, Result<Option<T>>> {
        Box::pin(async move {
            if self.end.get().is_none() && !self.first.is_final() {
                let seen = self.hub.as_ref().and_then(|hub| hub.peek(self.id()));
                let now = match seen.filter(models::Operation::is_final) {
                    Some(end) => end,
                    None => look(&self.client, self.id()).await?,
                };
                if !now.is_final() {
                    return Ok(None);
                }
                let _ = self.end.set(now);
            }
            let end = self.ended().await?.succeeded()?;
            (self.finish)(end).await.map(Some)
        })
    }

    fn wait(&self) -> BoxFuture<'_, Result<T>> {
        Box::pin(async move {
            let end = self.ended().await?.succeeded()?;
            (self.finish)(end).await
        })
    }

    fn cancel(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.client.operations().cancel(self.id()).await })
    }

    fn progress(&self) -> BoxStream<'_, Result<Progress>> {
        let states = futures_util::stream::unfold(
            (None::<models::Operation>, false),
            move |(last, over)| async move {
                if over {
                    return None;
                }
                let next = match self.next_state(last.as_ref()).await {
                    Ok(next) => next,
                    Err(e) if last.is_some() && e.kind() == Kind::OutcomeUnknown => return None,
                    Err(e) => return Some((Err(e), (last, true))),
                };
                let over = next.is_final();
                if over {
                    let _ = self.end.set(next.clone());
                }
                Some((Ok(progress(&next)), (Some(next), over)))
            },
        );
        states.boxed()
    }
}

impl<T: Send + 'static> Task<T> {
    async fn next_state(&self, last: Option<&models::Operation>) -> Result<models::Operation> {
        if let Some(end) = self.end.get() {
            return Ok(end.clone());
        }
        if self.first.is_final() {
            return Ok(self.first.clone());
        }
        if let Some(hub) = &self.hub
            && let Some(next) = hub.next(self.id(), last).await
        {
            return Ok(next);
        }
        loop {
            let next = look(&self.client, self.id()).await?;
            if Some(&next) != last {
                return Ok(next);
            }
            tokio::time::sleep(PROGRESS).await;
        }
    }
}

/// The state of an operation now; gone is gone.
async fn look(client: &Client, id: &str) -> Result<models::Operation> {
    let reply = client.get::<server::OperationGet>(&[id]).await;
    Ok(reply.map_err(vanished)?.metadata)
}

/// The server has forgotten the operation, or was started again meanwhile.
fn vanished(e: Error) -> Error {
    match e.kind() {
        Kind::NotFound => e
            .with_kind(Kind::OutcomeUnknown)
            .context("the operation is not known to the server any more")
            .with_hint("the server forgets operations when it restarts: look at the thing itself"),
        _ => e,
    }
}

/// Long polls until it ends. A poll that ran out of time is asked again: it is no failure of the operation.
async fn poll(client: &Client, id: &str) -> Result<models::Operation> {
    loop {
        let parts = Parts::new(&[id])
            .query("timeout", POLL)
            .timeout(Timeout::After(POLL_LIMIT));
        let e = match client.send::<server::OperationWaitGet>(parts, NoBody).await {
            Ok(reply) if reply.metadata.is_final() => return Ok(reply.metadata),
            Ok(_) => continue,
            Err(e) => e,
        };
        // An error within a 200 is the operation's own, or the end of the poll's time; the words are the same kind of
        // text, so the operation itself is asked.
        let own = e.status().is_none() && e.server_message().is_some();
        if own || e.kind() == Kind::Timeout {
            match look(client, id).await {
                Ok(now) if now.is_final() => return Ok(now),
                Ok(_) => continue,
                Err(_) if own && !ran_out(&e) => return Err(e),
                Err(e) => return Err(e),
            }
        }
        return Err(vanished(e));
    }
}

fn ran_out(e: &Error) -> bool {
    e.server_message()
        .is_some_and(|text| text.raw().contains("deadline exceeded"))
}

/// The part done that a line of the server's names, such as `rootfs: 42% (3.10MB/s)`.
fn fraction(text: &str) -> Option<f64> {
    let (before, _) = text.split_once('%')?;
    let digits = before.len()
        - before
            .trim_end_matches(|c: char| c.is_ascii_digit() || c == '.')
            .len();
    let percent: f64 = before[before.len() - digits..].parse().ok()?;
    Some((percent / 100.0).clamp(0.0, 1.0))
}

fn progress(operation: &models::Operation) -> Progress {
    let mut out = Progress::phase(&*operation.description);
    let line = operation
        .metadata
        .iter()
        .find(|(name, _)| name.ends_with("_progress"))
        .and_then(|(_, value)| value.as_str());
    if let Some(line) = line {
        out.message = Some(line.into());
        out.fraction = fraction(line);
    }
    if operation.status_code == crate::StatusCode::SUCCESS {
        out.fraction = Some(1.0);
    }
    out
}

/// Waits at most this long. The operation goes on: running out of time is not its failure.
///
/// # Errors
///
/// [`Kind::Timeout`] while it still runs; else as [`Operation::wait`].
pub async fn wait_at_most<T>(operation: &Operation<T>, limit: Duration) -> Result<T> {
    match tokio::time::timeout(limit, operation.wait()).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(
            Kind::Timeout,
            format!("the operation still runs after {limit:?}"),
        )
        .with_retryable(false)
        .with_hint("it was not stopped: wait again, or cancel it")),
    }
}

impl Client {
    /// Begins what may go on in the background. The event socket is there before the request goes.
    pub(crate) async fn begin<E, T>(
        &self,
        parts: Parts,
        body: E::Body,
        finish: impl Fn(models::Operation) -> BoxFuture<'static, Result<T>> + Send + Sync + 'static,
    ) -> Result<Operation<T>>
    where
        E: Endpoint,
        E::Reply: Outcome,
        T: Send + 'static,
    {
        let hub = self.shared().hub.get(self).await;
        let reply = self.send::<E>(parts, body).await?;
        Ok(self.follow(reply.operation(), hub, finish))
    }

    pub(crate) fn follow<T: Send + 'static>(
        &self,
        operation: Option<models::Operation>,
        hub: Option<Arc<Hub>>,
        finish: impl Fn(models::Operation) -> BoxFuture<'static, Result<T>> + Send + Sync + 'static,
    ) -> Operation<T> {
        // What was done at once is an operation that has ended.
        let first = operation.unwrap_or_else(|| models::Operation {
            status_code: crate::StatusCode::SUCCESS,
            ..models::Operation::default()
        });
        Operation::new(Task {
            client: self.clone(),
            first,
            hub,
            end: OnceLock::new(),
            finish: Box::new(finish),
        })
    }

    /// Begins what ends without a result.
    pub(crate) async fn begin_unit<E>(&self, parts: Parts, body: E::Body) -> Result<Operation<()>>
    where
        E: Endpoint,
        E::Reply: Outcome,
    {
        self.begin::<E, ()>(parts, body, |_| Box::pin(async { Ok(()) }))
            .await
    }

    /// Does it and waits for its end without an event socket: for what is over in no time.
    pub(crate) async fn finish<E>(&self, parts: Parts, body: E::Body) -> Result<models::Operation>
    where
        E: Endpoint,
        E::Reply: Outcome,
    {
        match self.send::<E>(parts, body).await?.operation() {
            None => Ok(models::Operation::default()),
            Some(operation) if operation.is_final() => operation.succeeded(),
            Some(operation) => poll(self, &operation.id).await?.succeeded(),
        }
    }

    /// Whether an operation has ended, as far as the server still knows it.
    pub(crate) async fn is_over(&self, id: &str) -> bool {
        match look(self, id).await {
            Ok(now) => now.is_final(),
            Err(e) => e.kind() == Kind::OutcomeUnknown,
        }
    }

    /// Waits for a known operation by long polls.
    pub(crate) async fn wait_for(&self, id: &str) -> Result<models::Operation> {
        poll(self, id).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages() {
        assert_eq!(fraction("rootfs: 42% (3.10MB/s)"), Some(0.42));
        assert_eq!(fraction("100%"), Some(1.0));
        assert_eq!(fraction("Unpack: 10.01MB"), None);
        assert_eq!(fraction("%"), None);
    }

    /// A server that answers each request with the next of these.
    #[cfg(feature = "transport")]
    fn server(answers: Vec<String>) -> Client {
        use boxrig_wire::{BaseUrl, Caller, WireBody};
        let answers = Arc::new(std::sync::Mutex::new(answers.into_iter()));
        let transport = boxrig_transport::InProcess::new(move |_: http::Request<WireBody>| {
            let next = answers.lock().unwrap().next().expect("one more answer");
            async move { http::Response::new(WireBody::full(next)) }
        });
        let base = BaseUrl::parse("http://unix.socket").unwrap();
        Client::new(Caller::new(Arc::new(transport), base)).without_events()
    }

    #[cfg(feature = "transport")]
    fn sync(code: u16, err: &str) -> String {
        format!(
            r#"{{"type":"sync","status_code":200,"operation":"","metadata":{{"id":"o","status_code":{code},"err":"{err}","metadata":{{"return":4}}}}}}"#
        )
    }

    #[cfg(feature = "transport")]
    fn error(code: u16, text: &str) -> String {
        format!(r#"{{"type":"error","error_code":{code},"error":"{text}","metadata":null}}"#)
    }

    /// All of these come with HTTP 200: what they are is in the body.
    #[cfg(feature = "transport")]
    #[tokio::test]
    async fn the_end_of_a_poll_is_not_the_end_of_the_operation() {
        let timed_out = error(500, "context deadline exceeded");
        let client = server(vec![timed_out.clone(), sync(103, ""), sync(200, "")]);
        let end = client.wait_for("o").await.unwrap();
        assert_eq!(end.metadata["return"], 4);
        // Failed, and still known.
        let client = server(vec![
            error(400, "The instance is already running"),
            sync(400, "is already running"),
        ]);
        let e = client.wait_for("o").await.unwrap().succeeded().unwrap_err();
        assert_eq!(e.kind(), Kind::Conflict);
        // Failed, and forgotten since: the failure is what was told.
        let client = server(vec![
            error(400, "The instance is already running"),
            error(404, "not found"),
        ]);
        let e = client.wait_for("o").await.unwrap_err();
        assert_eq!(e.kind(), Kind::Conflict, "{e}");
        // Out of time, and forgotten since: nobody knows.
        let client = server(vec![timed_out, error(404, "not found")]);
        let e = client.wait_for("o").await.unwrap_err();
        assert_eq!(e.kind(), Kind::OutcomeUnknown, "{e}");
    }
}
