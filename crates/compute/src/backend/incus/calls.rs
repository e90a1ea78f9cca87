//! Calls and the operations they start.

use std::time::Duration;

use boxrig_incus::models::Operation;
use boxrig_incus::{Async, ops};
use boxrig_wire::{CallOptions, Endpoint, Error, Kind, NoBody, Request, Result, Timeout};

use super::Incus;

impl Incus {
    /// One call. The client knows the project.
    pub(super) async fn call<E: Endpoint>(
        &self,
        path: E::Path,
        query: E::Query,
        body: E::Body,
    ) -> Result<E::Reply>
    where
        E::Headers: Default,
    {
        self.call_with::<E>(path, query, body, &CallOptions::new())
            .await
    }

    async fn call_with<E: Endpoint>(
        &self,
        path: E::Path,
        query: E::Query,
        body: E::Body,
        options: &CallOptions,
    ) -> Result<E::Reply>
    where
        E::Headers: Default,
    {
        let request = Request::<E> {
            path,
            query,
            headers: Default::default(),
            body,
        };
        self.client.call(request, options).await
    }

    /// Waits for what a call has started.
    ///
    /// # Errors
    ///
    /// The operation's own failure; [`Kind::Timeout`] when it goes on after `limit`; [`Kind::OutcomeUnknown`] when the
    /// server does not know it any more.
    pub(super) async fn ended(&self, started: Async, limit: Duration) -> Result<Operation> {
        let Async(operation) = started;
        if operation.is_final() {
            return operation.succeeded();
        }
        let query = ops::queries::SecretTimeoutQuery {
            timeout: Some(-1),
            secret: None,
        };
        let path = (operation.id.clone(),);
        let options = CallOptions::new().timeout(Timeout::Never);
        let waiting =
            self.call_with::<ops::server::OperationWaitGet>(path, query, NoBody, &options);
        match tokio::time::timeout(limit, waiting).await {
            Ok(Ok(answer)) => answer.metadata.succeeded(),
            Ok(Err(e)) if e.kind() == Kind::NotFound && e.status().is_some() => {
                Err(e.with_kind(Kind::OutcomeUnknown).with_hint(
                    "the server forgets operations when it is started anew: look at the instance",
                ))
            }
            Ok(Err(e)) => Err(e),
            Err(_) => Err(Error::new(
                Kind::Timeout,
                format!("the server has not done it after {limit:?}"),
            )
            .with_hint("it goes on: `boxrig incus operations-get` lists what does")),
        }
    }
}
