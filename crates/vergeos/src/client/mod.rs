//! The client: one [`Client`], its connection, and the uniform way to every table.

mod budget;
#[cfg(feature = "transport")]
mod builder;
mod connection;
mod credentials;
mod files;
mod query;
mod table;
mod wait;

pub use budget::RateBudget;
#[cfg(feature = "transport")]
pub use builder::ClientBuilder;
pub use connection::{AuthMethod, Connection};
pub use credentials::Credentials;
pub(crate) use files::{Entry, number};
pub use files::{Transfer, Transferred, Upload, UploadSource};
pub use query::Query;
pub(crate) use table::ambiguous;
pub use table::{Changes, Table};
pub(crate) use wait::Seen;
pub use wait::Wait;

use std::sync::{Arc, Mutex, MutexGuard};

use boxrig_wire::{
    CallOptions, Caller, Endpoint, Error, Json, Kind, RawRequest, Request, Result, RetryPolicy,
    WireBody,
};
use bytes::Bytes;
use http::Response;
use serde_json::Value;

use crate::ops::{
    self, Action, ActionPost, GetQuery, ListQuery, Receipt, RowsReply, TableAction, TableList,
};
use crate::reply::{Document, GetAs, ListAs, Typed};
use crate::{Key, Row, RowType, VergeOs};
use credentials::Session;

/// A client of one VergeOS system: cheap to clone, shared by tasks and threads.
#[derive(Clone, Debug)]
pub struct Client {
    caller: Caller,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    host: String,
    session: Option<Arc<Session>>,
    connection: Mutex<Connection>,
    budget: Option<RateBudget>,
}

impl Client {
    /// A client that sends through `caller`, which has the credentials, the deadlines and the retries.
    pub fn new(caller: Caller) -> Self {
        let host = caller.base().origin().to_owned();
        Self {
            caller,
            shared: Arc::new(Shared {
                host,
                session: None,
                connection: Mutex::new(Connection::default()),
                budget: None,
            }),
        }
    }

    #[cfg(feature = "transport")]
    fn with_session(
        caller: Caller,
        host: String,
        session: Arc<Session>,
        budget: Option<RateBudget>,
    ) -> Self {
        let connection = Connection::begun(session.method(), session.username());
        Self {
            caller,
            shared: Arc::new(Shared {
                host,
                session: Some(session),
                connection: Mutex::new(connection),
                budget,
            }),
        }
    }

    /// The retries of the vendor's SDK: three, on 429, 500, 502, 503 and 504, one second doubling; a `POST` is never among them.
    pub fn default_retries() -> RetryPolicy {
        RetryPolicy {
            max_retries: 3,
            base: std::time::Duration::from_secs(1),
            cap: std::time::Duration::from_secs(120),
            statuses: vec![429, 500, 502, 503, 504],
            ..RetryPolicy::default()
        }
    }

    /// The caller underneath: settings, transport.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }
    /// The system's address as it was given.
    pub fn host(&self) -> &str {
        &self.shared.host
    }
    /// The budget of calls, when one is set.
    pub fn budget(&self) -> Option<&RateBudget> {
        self.shared.budget.as_ref()
    }
    /// What is known of the connection.
    pub fn connection(&self) -> Connection {
        let mut connection = self.lock().clone();
        if let Some(session) = &self.shared.session {
            connection.token_expires_in = session.expires_in();
            connection.is_connected &= session.is_open();
        }
        connection
    }
    /// The platform's version, once connected.
    pub fn version(&self) -> Option<String> {
        self.lock().vergeos_version.clone()
    }
    /// The version of its operating system, once connected.
    pub fn os_version(&self) -> Option<String> {
        self.lock().os_version.clone()
    }
    /// The cloud's name, once connected.
    pub fn cloud_name(&self) -> Option<String> {
        self.lock().cloud_name.clone()
    }
    /// Whether it is connected.
    pub fn is_connected(&self) -> bool {
        self.connection().is_connected
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.shared
            .connection
            .lock()
            .unwrap_or_else(|e| e.into_inner())
    }

    /// Asks the system who it is, with the credentials: the one request that the vendor's SDK begins with. Also connects again
    /// after [`disconnect`](Self::disconnect).
    ///
    /// # Errors
    ///
    /// [`Kind::Unauthenticated`] or [`Kind::Denied`] when the credentials are refused; [`Kind::Protocol`] when the answer is
    /// not that of a VergeOS system.
    pub async fn connect(&self) -> Result<Connection> {
        if let Some(session) = &self.shared.session {
            session.open();
        }
        let query = ListQuery {
            fields: Some("$key,yb_version,os_version,cloud_name".to_owned()),
            ..ListQuery::default()
        };
        let rows = self
            .call::<TableList>(("system".to_owned(),), query, Default::default())
            .await;
        let rows = match rows {
            Ok(RowsReply { rows, .. }) => rows,
            Err(e) => {
                if let Some(session) = &self.shared.session {
                    session.close();
                }
                self.lock().is_connected = false;
                return Err(e.context("connecting"));
            }
        };
        let row = rows.first().filter(|r| !r.is_empty()).ok_or_else(|| {
            Error::new(Kind::Protocol, "the system says nothing about itself")
                .with_operation("list")
        })?;
        let text = |name: &str| row.get(name).and_then(Value::as_str).map(str::to_owned);
        let mut connection = self.lock();
        connection.vergeos_version = text("yb_version");
        connection.os_version = text("os_version");
        connection.cloud_name = text("cloud_name");
        connection.connected_at = Some(std::time::SystemTime::now());
        connection.is_connected = true;
        let connection = connection.clone();
        Ok(connection)
    }

    /// Ends the session, if one was begun, and refuses calls until [`connect`](Self::connect).
    ///
    /// # Errors
    ///
    /// When the session's end could not be told to the system; calls are refused all the same.
    pub async fn disconnect(&self) -> Result<()> {
        {
            let mut connection = self.lock();
            connection.is_connected = false;
            connection.connected_at = None;
        }
        match &self.shared.session {
            Some(session) => session.end().await,
            None => Ok(()),
        }
    }

    /// The uniform operations on the table of a row type.
    pub fn table<R: RowType>(&self) -> Table<R> {
        Table::new(self.clone(), R::TABLE.to_owned())
    }

    /// As [`table`](Self::table), of a table that has rows of the same form.
    pub fn table_named<R: RowType>(&self, name: impl Into<String>) -> Table<R> {
        Table::new(self.clone(), name.into())
    }

    /// Lists rows of any table as maps.
    ///
    /// # Errors
    ///
    /// The system's, by meaning.
    pub async fn list(&self, table: &str, query: ListQuery) -> Result<Vec<Row>> {
        let rows = self
            .call::<TableList>((table.to_owned(),), query, Default::default())
            .await?;
        Ok(rows.rows)
    }

    /// Does an action on a row. Never sent twice.
    ///
    /// # Errors
    ///
    /// The system's, by meaning.
    pub async fn act<A: Action>(&self, key: i64, action: A) -> Result<Receipt> {
        let body = Json(ActionPost::new(key, action));
        let path = (A::KIND.to_owned(),);
        let reply = self
            .call::<TableAction>(path, Default::default(), body)
            .await?;
        Ok(reply.receipt())
    }

    /// What the platform itself says of a table: its columns, their types and defaults. For administrators.
    ///
    /// # Errors
    ///
    /// The system's, by meaning.
    pub async fn schema(&self, table: &str) -> Result<Value> {
        let path = (table.to_owned(),);
        let reply = self
            .call::<ops::TableSchema>(path, Default::default(), Default::default())
            .await?;
        Ok(reply.value)
    }

    /// Sends anything: the way out for what the typed calls do not cover. The status is checked, the body read whole.
    ///
    /// # Errors
    ///
    /// The system's error, or that of the way to it.
    pub async fn raw(&self, request: RawRequest) -> Result<Response<Bytes>> {
        self.spend()?;
        self.caller.raw::<VergeOs>(request).await
    }

    /// Sends anything and gives status, headers and the body as a stream, unchecked.
    ///
    /// # Errors
    ///
    /// Only those of the way to the system.
    pub async fn raw_stream(&self, request: RawRequest) -> Result<Response<WireBody>> {
        self.spend()?;
        self.caller.raw_stream(request).await
    }

    /// Counts a call in the budget.
    fn spend(&self) -> Result<()> {
        match &self.shared.budget {
            Some(budget) => budget.spend(),
            None => Ok(()),
        }
    }

    pub(crate) async fn call<E: Endpoint>(
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

    pub(crate) async fn call_with<E: Endpoint>(
        &self,
        path: E::Path,
        query: E::Query,
        body: E::Body,
        options: &CallOptions,
    ) -> Result<E::Reply>
    where
        E::Headers: Default,
    {
        self.spend()?;
        let request = Request::<E> {
            path,
            query,
            headers: E::Headers::default(),
            body,
        };
        self.caller.call(request, options).await
    }

    pub(crate) async fn rows<R: RowType>(&self, table: &str, query: ListQuery) -> Result<Vec<R>> {
        let path = (table.to_owned(),);
        let reply = self
            .call::<ListAs<Typed<R>>>(path, query, Default::default())
            .await?;
        Ok(reply.0)
    }

    pub(crate) async fn row<R: RowType>(
        &self,
        table: &str,
        key: &Key,
        fields: Option<String>,
    ) -> Result<R> {
        let path = (table.to_owned(), key.to_string());
        let query = GetQuery {
            fields,
            ..GetQuery::default()
        };
        let reply = self
            .call::<GetAs<Typed<R>>>(path, query, Default::default())
            .await?;
        reply.0.into_iter().next().ok_or_else(|| none(table, key))
    }

    /// A reading request of any table whose reply is read later.
    pub(crate) async fn document(
        &self,
        table: String,
        key: Option<String>,
        list: ListQuery,
        get: GetQuery,
    ) -> Result<Bytes> {
        let reply = match key {
            None => {
                self.call::<ListAs<Document>>((table,), list, Default::default())
                    .await?
            }
            Some(key) => {
                self.call::<GetAs<Document>>((table, key), get, Default::default())
                    .await?
            }
        };
        Ok(reply.0)
    }
}

pub(crate) fn none(table: &str, what: impl std::fmt::Display) -> Error {
    let what = boxrig_wire::Untrusted::new(what.to_string());
    Error::new(Kind::NotFound, format!("{table} has no {what}"))
}
