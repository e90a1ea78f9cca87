//! Calls and the operations they start.

use std::time::Duration;

use boxrig_incus::models::Operation;
use boxrig_incus::ops::queries::ProjectQuery;
use boxrig_incus::{Async, ops};
use boxrig_wire::{CallOptions, Endpoint, Error, Kind, Request, Result, Timeout};

use super::Incus;

/// The project that is worked in.
#[derive(Clone, Debug, Default)]
pub(super) struct Place(Option<String>);

impl Place {
    pub(super) fn project(name: impl Into<String>) -> Self {
        Self(Some(name.into()))
    }

    pub(super) fn name(&self) -> Option<String> {
        self.0.clone()
    }

    pub(super) fn query(&self) -> ProjectQuery {
        ProjectQuery {
            project: self.name(),
        }
    }
}

impl Incus {
    /// One call.
    pub(super) async fn call<E: Endpoint>(
        &self,
        path: E::Path,
        query: E::Query,
        body: E::Body,
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
        let caller = self.client.caller();
        caller.call(request, &CallOptions::new()).await
    }

    /// Waits for what a call has started.
    ///
    /// # Errors
    ///
    /// The operation's own failure; [`Kind::Timeout`] when it goes on after `limit`.
    pub(super) async fn ended(&self, started: Async, limit: Duration) -> Result<Operation> {
        let Async(operation) = started;
        if operation.is_final() {
            return operation.succeeded();
        }
        let request = Request::<ops::server::OperationWaitGet> {
            path: (operation.id.clone(),),
            query: ops::queries::SecretTimeoutQuery {
                timeout: Some(-1),
                secret: None,
            },
            headers: Default::default(),
            body: Default::default(),
        };
        let options = CallOptions::new().timeout(Timeout::Never);
        let waiting = self.client.caller().call(request, &options);
        match tokio::time::timeout(limit, waiting).await {
            Ok(answer) => answer?.metadata.succeeded(),
            Err(_) => Err(Error::new(
                Kind::Timeout,
                format!("the server has not done it after {limit:?}"),
            )
            .with_hint("it goes on: `boxrig incus operations-get` lists what does")),
        }
    }
}
