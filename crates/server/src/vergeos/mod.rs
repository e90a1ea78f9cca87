//! VergeOS: a table engine, and what its rows do.
//!
//! Every table of the platform is described in `api/vergeos-schema.txt`; the same few operations read and write all of
//! them. What rows do besides being rows – machines that start, tasks that run – is in [`behaviour`]. Actions that
//! nobody does answer a 501 that names them (`not_implemented.txt`).
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`schema`] | tables, columns, actions |
//! | [`db`], [`tx`], [`row`] | rows in memory, durable before they are told |
//! | `select`, `value`, `ere`, `project` | filters, orders, projections |
//! | `write` | types, lists of values, references, uniqueness |
//! | `auth`, `access` | who asks, and what they may |
//! | `rows`, `acts`, `files` | the handlers |
//! | `tenancy` | tenants as systems of their own, each at an address of its own |

mod access;
mod acts;
mod auth;
pub mod behaviour;
pub mod content;
pub mod db;
pub mod ere;
mod files;
mod lab;
mod mutate;
mod project;
pub mod row;
mod rows;
pub mod schema;
mod seed;
mod select;
pub mod state;
mod tenancy;
mod timers;
pub mod tx;
mod value;
mod write;

use std::fmt;
use std::sync::{Arc, Mutex};

use boxrig_vergeos::{VergeOs, ops};
use boxrig_wire::{ApiError, BoxFuture, Kind, WireBody};
use http::Response;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use tokio::task::JoinSet;

pub use lab::Lab;
pub use state::Shared as VergeOsState;

use state::{Cx, State};

use crate::core::{Core, Platform};
use crate::router::{RequestInfo, Router};
use crate::state::lock;

/// The actions that answer 501, one a line, as `table.action`.
pub const NOT_IMPLEMENTED: &str = include_str!("not_implemented.txt");

/// Everything that is described, mounted.
pub fn router() -> Router<VergeOs, VergeOsState> {
    Router::new()
        .guard(auth::admit)
        .mount(ops::TableList, rows::list)
        .mount(ops::TableGet, rows::get)
        .mount(ops::TableCreate, rows::create)
        .mount(ops::TableUpdate, rows::update)
        .mount(ops::RowAction, acts::by_query_route)
        .mount(ops::TableDelete, rows::delete)
        .mount(ops::TableAction, acts::by_table)
        .mount(ops::RowVerb, acts::by_row_path)
        .mount(ops::RowApply, acts::apply)
        .mount(ops::TableVerb, acts::by_table_path)
        .mount(ops::TableSchema, rows::describe_table)
        .mount(ops::FileGet, files::get)
        .mount(ops::FilePut, files::put)
        .mount(ops::CloudInitGet, files::get_cloudinit)
        .mount(ops::TokenCreate, files::begin_session)
        .mount(ops::TokenDelete, files::end_session)
}

/// VergeOS as a part of the server.
pub struct Vergeos {
    cx: Cx,
    lab: Option<Lab>,
    router: Router<VergeOs, VergeOsState>,
    tasks: Mutex<JoinSet<()>>,
}

impl fmt::Debug for Vergeos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vergeos").field("cx", &self.cx).finish()
    }
}

impl Vergeos {
    /// Loads the rows; at the first start, makes those that every system has, and those of a laboratory.
    ///
    /// # Errors
    ///
    /// When the state cannot be read or written.
    pub async fn open(core: Arc<Core>, lab: Option<Lab>) -> Result<Self, ApiError> {
        let vergeos = Self::load(core, String::new())?;
        seed::first(&vergeos.cx, "boxrig", None).await?;
        if let Some(lab) = &lab {
            lab::stock(&vergeos.cx, lab).await?;
        }
        Ok(Self { lab, ..vergeos })
    }

    /// A system with what is kept of it.
    fn load(core: Arc<Core>, scope: String) -> Result<Self, ApiError> {
        let state = Arc::new(State::load(core, behaviour::all(), scope)?);
        let around = state.core.around.clone();
        Ok(Self {
            lab: None,
            cx: Cx::of(state, None),
            router: around.into_iter().fold(router(), Router::around),
            tasks: Mutex::default(),
        })
    }

    /// The state, on the server's own behalf.
    pub fn cx(&self) -> &Cx {
        &self.cx
    }

    async fn start(&self) {
        for behaviour in &self.cx.behaviours {
            behaviour.start(&self.cx).await;
        }
        self.cx.wake_timers();
    }
}

/// The same answer for human eyes, as `X-JSON-Non-Compact: 1` asks for it.
fn spread_out(response: Response<WireBody>) -> Response<WireBody> {
    let (mut parts, body) = response.into_parts();
    let json = parts.headers.get(CONTENT_TYPE);
    let json = json.is_some_and(|t| t.as_bytes().starts_with(b"application/json"));
    // Content of files is a stream, and is never in hand.
    let text = body
        .as_bytes()
        .filter(|bytes| json && !bytes.is_empty())
        .and_then(|bytes| serde_json::from_slice::<serde_json::Value>(bytes).ok())
        .and_then(|value| serde_json::to_string_pretty(&value).ok());
    match text {
        Some(text) => {
            parts.headers.remove(CONTENT_LENGTH);
            Response::from_parts(parts, WireBody::full(text))
        }
        None => Response::from_parts(parts, body),
    }
}

impl Platform for Vergeos {
    fn route(
        &self,
        info: RequestInfo,
        request: http::Request<WireBody>,
    ) -> BoxFuture<'_, Response<WireBody>> {
        Box::pin(async move {
            let spread = info.header("x-json-non-compact") == Some("1");
            let state = self.cx.state().clone();
            let response = self.router.route(state, info, request).await;
            if spread {
                spread_out(response)
            } else {
                response
            }
        })
    }

    fn ready(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            lock(&self.tasks).spawn(timers::run(self.cx.clone()));
            self.start().await;
        })
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.cx.systems.close();
            lock(&self.tasks).abort_all();
        })
    }

    fn reset(&self) -> BoxFuture<'_, Result<(), ApiError>> {
        Box::pin(async {
            self.cx.forget();
            let cleared = self.cx.content.clear().await;
            let cleared = match cleared {
                Ok(()) => self.cx.systems.clear(&self.cx).await,
                Err(e) => Err(e),
            };
            cleared.map_err(|e| ApiError::new(Kind::Failed, format!("the content of files: {e}")))
        })
    }

    fn reload(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.cx.forget();
            if let Err(e) = seed::first(&self.cx, "boxrig", None).await {
                tracing::error!(error = %e, "what a new system has could not be made");
            }
            if let Some(lab) = &self.lab
                && let Err(e) = lab::stock(&self.cx, lab).await
            {
                tracing::error!(error = %e, "the laboratory could not be made");
            }
            self.start().await;
        })
    }

    fn holdings(&self) -> usize {
        self.cx.db.len("vms")
    }
}

#[cfg(test)]
mod tests;
