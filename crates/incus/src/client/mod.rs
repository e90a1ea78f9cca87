//! The client: one [`Client`], and a handle for each kind of thing.

mod call;
pub(crate) mod extensions;
pub(crate) mod hub;

#[cfg(feature = "transport")]
mod builder;

#[cfg(feature = "transport")]
pub use builder::{Address, ClientBuilder, DEFAULT_PORT};
pub use call::Outcome;
pub(crate) use call::Parts;
pub use extensions::OPERATIONS as OPERATION_EXTENSIONS;

use std::fmt;
use std::sync::Arc;

use boxrig_wire::{CallOptions, Caller, NoBody, NoParams, RawRequest, Request, Result, WireBody};
use bytes::Bytes;
use http::Response;

use crate::Incus;
use crate::models::Server;
use crate::ops::{self, queries::ProjectTargetQuery};

/// A client of one Incus server. Cheap to clone, shared by tasks; clones share connections, the server's list of
/// extensions and the events that waiting needs.
///
/// | handle | about |
/// | --- | --- |
/// | [`instances`](Self::instances) | containers and virtual machines: life, exec, files, snapshots, backups, logs |
/// | [`images`](Self::images) | images and their aliases |
/// | [`profiles`](Self::profiles), [`projects`](Self::projects), [`certificates`](Self::certificates), [`warnings`](Self::warnings) | one collection each |
/// | [`networks`](Self::networks) and its kin | networks, ACLs, forwards, load balancers, peers, zones, address sets, integrations |
/// | [`storage_pools`](Self::storage_pools), [`volumes`](Self::volumes), [`buckets`](Self::buckets) | storage |
/// | [`cluster`](Self::cluster) | members and groups |
/// | [`server`](Self::server), [`events`](Self::events), [`operations`](Self::operations) | the server itself |
///
/// Whatever has no verb by hand is reached, typed, by [`call`](Self::call), and untyped by [`raw`](Self::raw).
#[derive(Clone)]
pub struct Client {
    caller: Caller,
    scope: Scope,
    shared: Arc<Shared>,
}

/// What most paths take beside their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scope {
    /// The project; the server's default one when none.
    pub(crate) project: Option<String>,
    /// The cluster member.
    pub(crate) target: Option<String>,
    /// Lists show the things of all projects.
    pub(crate) all_projects: bool,
}

/// What clones of a client share.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) extensions: extensions::Cache,
    pub(crate) hub: hub::Slot,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("base", self.caller.base())
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client that sends through `caller`, which has credentials, deadlines and retries.
    pub fn new(caller: Caller) -> Self {
        Self {
            caller,
            scope: Scope::default(),
            shared: Arc::default(),
        }
    }

    /// The caller underneath: raw requests, settings.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The same client, in this project.
    pub fn project(&self, name: impl Into<String>) -> Self {
        let mut client = self.clone();
        client.scope.project = Some(name.into());
        client.scope.all_projects = false;
        client
    }

    /// The same client with lists over all projects.
    pub fn all_projects(&self) -> Self {
        let mut client = self.clone();
        client.scope.project = None;
        client.scope.all_projects = true;
        client
    }

    /// The same client, aimed at this member of a cluster (or `@group`, where instances are placed).
    pub fn target(&self, member: impl Into<String>) -> Self {
        let mut client = self.clone();
        client.scope.target = Some(member.into());
        client
    }

    /// The project that it works in; `None`: the server's default one.
    pub fn project_name(&self) -> Option<&str> {
        self.scope.project.as_deref()
    }

    /// Operations started from here on are not followed by the event socket but asked about by long polls. For
    /// short-lived programs and for proxies without websockets.
    pub fn without_events(&self) -> Self {
        let client = Self {
            caller: self.caller.clone(),
            scope: self.scope.clone(),
            shared: Arc::default(),
        };
        client.shared.hub.switch_off();
        client
    }

    /// Sends anything: the way out for what the typed calls do not cover. The status is checked, the body read whole.
    ///
    /// # Errors
    ///
    /// The server's error, or that of the way to it.
    pub async fn raw(&self, request: RawRequest) -> Result<Response<Bytes>> {
        self.caller.raw::<Incus>(request).await
    }

    /// Sends anything and gives status, headers and the body as a stream, unchecked.
    ///
    /// # Errors
    ///
    /// Only those of the way to the server.
    pub async fn raw_stream(&self, request: RawRequest) -> Result<Response<WireBody>> {
        self.caller.raw_stream(request).await
    }

    /// What the server says of itself: environment, configuration, extensions, whether it trusts the caller.
    ///
    /// # Errors
    ///
    /// Those of the way to it. Being untrusted is none: see [`Server::auth`].
    pub async fn info(&self) -> Result<Server> {
        // Straight to the caller: calls ask for the extensions that this answer brings.
        let request = Request::<ops::server::ServerGet> {
            path: (),
            query: ProjectTargetQuery {
                project: self.scope.project.clone(),
                target: self.scope.target.clone(),
            },
            headers: NoParams,
            body: NoBody,
        };
        let server = self
            .caller
            .call(request, &CallOptions::new())
            .await?
            .metadata;
        self.shared.extensions.fill(&server.api_extensions);
        Ok(server)
    }

    pub(crate) fn scope(&self) -> &Scope {
        &self.scope
    }
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}
