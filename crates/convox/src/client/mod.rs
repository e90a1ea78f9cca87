//! The client: one [`Client`], and a group of calls for each kind of resource.

mod api;
#[cfg(feature = "transport")]
mod builder;
mod deploy;
mod environment;
mod exec;
mod files;
mod groups;
mod logs;
#[cfg(feature = "transport")]
mod session;
mod socket;
mod waiting;
mod why;

pub use api::{Api, ApiCall};
#[cfg(feature = "transport")]
pub use builder::{ClientBuilder, RetryConfig};
pub use deploy::{Deploy, DeployEvent, Deployed};
pub use environment::{EnvChange, Environment, Variables};
pub use exec::{AttachedRun, ExecEvent, ExecEvents, ExecOutput, ExecSession, OneOff, RunAttached};
pub use files::{CliConfig, Known, Login};
pub use groups::*;
pub use logs::{LogLine, LogOptions, LogStream};
pub use socket::{Pipe, PipeEnds, SocketInput};
pub use waiting::Wait;
pub use why::{Finding, Why};

use std::time::Duration;

use boxrig_wire::{
    ByteReply, CallOptions, Caller, Endpoint, Error, Kind, RawRequest, Request, Result,
    RetryPolicy, Socket, WebSocket, WireBody,
};
use bytes::Bytes;
use http::Response;

use crate::protocol::Convox;
use crate::reply::{Done, Reply, Text};

/// A client of one rack. Cheap to clone, shared by tasks.
///
/// Its calls are grouped by what they are about, as in the vendor's SDK:
///
/// | group | about |
/// | --- | --- |
/// | [`apps`](Self::apps), [`configs`](Self::configs), [`budgets`](Self::budgets) | apps: parameters, lock, metrics, diagnosis, configs, budgets and cost |
/// | [`builds`](Self::builds), [`objects`](Self::objects) | builds, their logs, exports; uploaded sources |
/// | [`releases`](Self::releases), [`environment`](Self::environment) | releases, promotion, true rollback; variables |
/// | [`services`](Self::services) | scale, restart, triggers, metrics |
/// | [`processes`](Self::processes), [`files`](Self::files) | processes, one-off runs, commands, logs; their files |
/// | [`resources`](Self::resources) | resources of an app and of the rack |
/// | [`system`](Self::system), [`instances`](Self::instances), [`registries`](Self::registries), [`certificates`](Self::certificates) | the rack |
/// | [`console`](Self::console) | what only a console has |
/// | [`classic`](Self::classic) | the shapes of generation 1 |
/// | [`api`](Self::api), [`raw`](Self::raw), [`raw_stream`](Self::raw_stream) | everything else |
///
/// Every group takes the settings of its calls: `client.apps().with(CallOptions::new().retries(0)).get("web")`.
#[derive(Clone, Debug)]
pub struct Client {
    caller: Caller,
}

macro_rules! group {
    ($($(#[$attr:meta])* $name:ident by $method:ident),* $(,)?) => {
        $(
            $(#[$attr])*
            #[derive(Clone, Debug)]
            pub struct $name<'a> {
                pub(crate) client: &'a $crate::Client,
                pub(crate) options: ::boxrig_wire::CallOptions,
            }

            impl $name<'_> {
                /// With these settings (deadline, retries, headers) for the calls made through it.
                pub fn with(mut self, options: ::boxrig_wire::CallOptions) -> Self {
                    self.options = options;
                    self
                }
            }

            impl $crate::Client {
                $(#[$attr])*
                pub fn $method(&self) -> $name<'_> {
                    $name { client: self, options: ::boxrig_wire::CallOptions::new() }
                }
            }
        )*
    };
}
pub(crate) use group;

/// Methods that are one operation each: name, parameters, result, operation and the parts of its request.
macro_rules! calls {
    ($group:ident { $(
        $(#[$doc:meta])+
        $name:ident ( $($arg:ident : $ty:ty),* ) -> $ret:ty = $op:path { $($part:ident : $value:expr),* $(,)? };
    )* }) => {
        impl $group<'_> {$(
            $(#[$doc])+
            ///
            /// # Errors
            ///
            /// The rack's, by meaning, and those of the way to it.
            pub async fn $name(&self, $($arg: $ty),*) -> ::boxrig_wire::Result<$ret> {
                let parts = $crate::client::Parts::<$op> { $($part: $value,)* ..Default::default() };
                self.client.send(parts, &self.options).await
            }
        )*}
    };
}
pub(crate) use calls;

/// The parts of a request; those that are not named are empty.
pub(crate) struct Parts<E: Endpoint> {
    pub(crate) path: E::Path,
    pub(crate) query: E::Query,
    pub(crate) headers: E::Headers,
    pub(crate) body: E::Body,
}

impl<E: Endpoint> Default for Parts<E>
where
    E::Path: Default,
    E::Query: Default,
    E::Headers: Default,
    E::Body: Default,
{
    fn default() -> Self {
        Self {
            path: Default::default(),
            query: Default::default(),
            headers: Default::default(),
            body: Default::default(),
        }
    }
}

/// What a method gives of a reply.
pub(crate) trait Answer {
    type Value;
    fn value(self) -> Result<Self::Value>;
}

impl<T> Answer for Reply<T> {
    type Value = T;
    fn value(self) -> Result<T> {
        Ok(self.0)
    }
}
impl Answer for Done {
    type Value = ();
    fn value(self) -> Result<()> {
        Ok(())
    }
}
impl Answer for Text {
    type Value = Self;
    fn value(self) -> Result<Self> {
        Ok(self)
    }
}
impl Answer for ByteReply {
    type Value = Self;
    fn value(self) -> Result<Self> {
        Ok(self)
    }
}
impl Answer for Socket {
    type Value = WebSocket;
    fn value(self) -> Result<WebSocket> {
        self.connected()
    }
}

/// The deadline of a call, as the vendor's SDK documents it.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// The deadline of a build import, which answers when every image has been stored.
pub const IMPORT_TIMEOUT: Duration = Duration::from_secs(1800);

impl Client {
    /// A client that sends through `caller`, which has the address, the credentials, the deadlines and the retries.
    pub fn new(caller: Caller) -> Self {
        Self { caller }
    }

    /// The retries that the vendor's SDK documents: three, on 429, 502, 503 and 504, a second doubling to thirty.
    /// Unlike there, what may have happened is never sent again.
    pub fn default_retries() -> RetryPolicy {
        RetryPolicy {
            max_retries: 3,
            base: Duration::from_secs(1),
            cap: Duration::from_secs(30),
            statuses: vec![429, 502, 503, 504],
            ..RetryPolicy::default()
        }
    }

    /// The caller underneath: settings, transport.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Sends anything: the way out for what the typed calls do not cover. The status is checked, the body read whole.
    ///
    /// # Errors
    ///
    /// The rack's error, or that of the way to it.
    pub async fn raw(&self, request: RawRequest) -> Result<Response<Bytes>> {
        self.caller.raw::<Convox>(request).await
    }

    /// Sends anything and gives status, headers and the body as a stream, unchecked: part of an answer can come before
    /// an error. Dropping the body closes it.
    ///
    /// # Errors
    ///
    /// Only those of the way to the rack.
    pub async fn raw_stream(&self, request: RawRequest) -> Result<Response<WireBody>> {
        self.caller.raw_stream(request).await
    }

    pub(crate) async fn send<E: Endpoint>(
        &self,
        parts: Parts<E>,
        options: &CallOptions,
    ) -> Result<<E::Reply as Answer>::Value>
    where
        E::Reply: Answer,
    {
        let request = Request::<E> {
            path: parts.path,
            query: parts.query,
            headers: parts.headers,
            body: parts.body,
        };
        let reply = self.caller.call(request, options).await?;
        reply.value().map_err(|e| e.with_operation(E::META.id))
    }
}

/// 120 random bits as hex, the size of the rack's own names of uploads.
pub(crate) fn random_hex() -> Result<String> {
    let mut bytes = [0; 15];
    getrandom::fill(&mut bytes).map_err(|e| {
        Error::new(Kind::Failed, "the system gives no random numbers").with_source(e)
    })?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
