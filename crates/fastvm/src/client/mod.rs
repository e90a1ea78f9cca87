//! The client: one [`Client`], and a group of calls for each kind of resource.

mod build;
#[cfg(feature = "transport")]
mod builder;
mod console;
mod download;
mod exec;
mod launch;
mod resources;
mod storage;
mod transfer;
mod upload;
mod vms;

pub use build::Build;
#[cfg(feature = "transport")]
pub use builder::{ClientBuilder, LogLevel};
pub use console::{Console, ConsoleReader, ConsoleSize, ConsoleWriter};
pub use exec::{Exec, ExecOutput, ExecStream};
pub use launch::{Launch, TOKEN_KEY, Wait};
pub use resources::{
    BucketMounts, Builds, Files, Me, Quotas, Services, SnapshotImports, Snapshots, SshKeys,
    VmVolumes, Volumes,
};
pub use transfer::{Checked, TransferOptions, TransferProgress, TransferReport};
pub use vms::{ListVms, Vms};

use boxrig_wire::{
    CallOptions, Caller, Endpoint, Error, JsonReply, Kind, NoBody, NoParams, RawRequest, Request,
    Result, RetryPolicy, WireBody,
};
use bytes::Bytes;
use http::Response;

use crate::ops;
use crate::protocol::FastVm;
use crate::types::HealthResponse;

/// A client of FastVM. Cheap to clone, shared by tasks.
///
/// Its calls are grouped by what they are about, as in the vendor's SDK:
///
/// | group | about |
/// | --- | --- |
/// | [`vms`](Self::vms) | machines: launch, list, pause, run commands, firewall, time to live, console |
/// | `vms().services()`, `.files()`, `.volumes()`, `.bucket_mounts()` | what a machine has |
/// | [`snapshots`](Self::snapshots), [`snapshot_imports`](Self::snapshot_imports) | images |
/// | [`volumes`](Self::volumes) | managed volumes |
/// | [`me`](Self::me) | the calling user: SSH keys |
/// | [`quotas`](Self::quotas) | what the organisation may use |
/// | [`builds`](Self::builds) | the older build API |
///
/// Every group takes the settings of its calls: `client.vms().with(CallOptions::new().retries(0)).get(id)`.
#[derive(Clone, Debug)]
pub struct Client {
    caller: Caller,
}

macro_rules! group {
    ($(#[$attr:meta])* $name:ident) => {
        $(#[$attr])*
        #[derive(Clone, Debug)]
        pub struct $name<'a> {
            pub(crate) client: &'a $crate::Client,
            pub(crate) options: ::boxrig_wire::CallOptions,
        }

        impl<'a> $name<'a> {
            pub(crate) fn new(client: &'a $crate::Client, options: ::boxrig_wire::CallOptions) -> Self {
                Self { client, options }
            }
            /// With these settings (deadline, retries, headers) for the calls made through it.
            pub fn with(mut self, options: ::boxrig_wire::CallOptions) -> Self {
                self.options = options;
                self
            }
        }
    };
}
pub(crate) use group;

impl Client {
    /// A client that sends through `caller`, which has the credentials, the deadlines and the retries.
    pub fn new(caller: Caller) -> Self {
        Self { caller }
    }

    /// The retries of the vendor's SDKs: two, on 408, 409, 429 and server errors, half a second doubling to eight, a
    /// `Retry-After` of at most a minute. 501 and 505 are left out: the same request cannot fare better.
    pub fn default_retries() -> RetryPolicy {
        let mut statuses = vec![408, 409, 429, 500, 502, 503, 504, 507, 508, 509, 529];
        statuses.extend(520..=527);
        RetryPolicy {
            statuses,
            ..RetryPolicy::default()
        }
    }

    /// The caller underneath: settings, transport.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Machines.
    pub fn vms(&self) -> Vms<'_> {
        Vms::new(self, CallOptions::new())
    }
    /// Snapshots.
    pub fn snapshots(&self) -> Snapshots<'_> {
        Snapshots::new(self, CallOptions::new())
    }
    /// Snapshots made from images and Dockerfiles.
    pub fn snapshot_imports(&self) -> SnapshotImports<'_> {
        SnapshotImports::new(self, CallOptions::new())
    }
    /// Managed volumes.
    pub fn volumes(&self) -> Volumes<'_> {
        Volumes::new(self, CallOptions::new())
    }
    /// The calling user.
    pub fn me(&self) -> Me<'_> {
        Me::new(self, CallOptions::new())
    }
    /// The organisation's quotas.
    pub fn quotas(&self) -> Quotas<'_> {
        Quotas::new(self, CallOptions::new())
    }
    /// Builds of the older API.
    pub fn builds(&self) -> Builds<'_> {
        Builds::new(self, CallOptions::new())
    }

    /// Asks whether the service is there; also warms the connection up.
    ///
    /// # Errors
    ///
    /// Those of the way to it.
    pub async fn health(&self) -> Result<HealthResponse> {
        self.json::<ops::Health>((), NoParams, NoBody, &CallOptions::new())
            .await
    }

    /// Waits until a machine runs; see [`Vms::wait_ready`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn wait_for_vm_ready(&self, vm_id: &str, wait: Wait) -> Result<crate::Vm> {
        self.vms().wait_ready(vm_id, wait).await
    }

    /// Sends anything: the way out for what the typed calls do not cover. The status is checked, the body read whole.
    ///
    /// # Errors
    ///
    /// The service's error, or that of the way to it.
    pub async fn raw(&self, request: RawRequest) -> Result<Response<Bytes>> {
        self.caller.raw::<FastVm>(request).await
    }

    /// Sends anything and gives status, headers and the body as a stream, unchecked.
    ///
    /// # Errors
    ///
    /// Only those of the way to the service.
    pub async fn raw_stream(&self, request: RawRequest) -> Result<Response<WireBody>> {
        self.caller.raw_stream(request).await
    }

    pub(crate) async fn call<E: Endpoint>(
        &self,
        path: E::Path,
        query: E::Query,
        headers: E::Headers,
        body: E::Body,
        options: &CallOptions,
    ) -> Result<E::Reply> {
        let request = Request::<E> {
            path,
            query,
            headers,
            body,
        };
        self.caller.call(request, options).await
    }

    /// A call without options in headers that answers a document.
    pub(crate) async fn json<E>(
        &self,
        path: E::Path,
        query: E::Query,
        body: E::Body,
        options: &CallOptions,
    ) -> Result<<E::Reply as Document>::Value>
    where
        E: Endpoint<Headers = NoParams>,
        E::Reply: Document,
    {
        let reply = self.call::<E>(path, query, NoParams, body, options).await?;
        Ok(reply.into_value())
    }

    /// A call that carries a key naming the wish.
    pub(crate) async fn keyed<E>(
        &self,
        path: E::Path,
        body: E::Body,
        options: &CallOptions,
    ) -> Result<<E::Reply as Document>::Value>
    where
        E: Endpoint<Headers = ops::IdempotencyHeaders, Query = NoParams>,
        E::Reply: Document,
    {
        let headers = ops::IdempotencyHeaders {
            key: Some(random_hex()?),
        };
        let reply = self
            .call::<E>(path, NoParams, headers, body, options)
            .await?;
        Ok(reply.into_value())
    }
}

/// A reply that is a document.
pub(crate) trait Document {
    type Value;
    fn into_value(self) -> Self::Value;
}

impl<T> Document for JsonReply<T> {
    type Value = T;
    fn into_value(self) -> T {
        self.value
    }
}

/// 128 random bits as hex: names of wishes and of temporary files.
pub(crate) fn random_hex() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| {
        Error::new(Kind::Failed, "the system gives no random numbers").with_source(e)
    })?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
