//! A typed async client for VergeOS (API v4).
//!
//! What is here so far is the core: the uniform operations on any table, and the action operation of
//! virtual machines. The command `boxrig coverage` lists what is typed.

pub mod filter;
pub mod ops;
pub mod projection;
mod protocol;
pub mod sort;

pub use filter::Filter;
pub use projection::Projection;

pub use ops::{
    Action, ActionPost, CATALOG, ListQuery, Receipt, RowsReply, TableAction, TableList, Written,
};
pub use protocol::VergeOs;

use boxrig_wire::{CallOptions, Caller, Json, Request, Result};
use serde_json::{Map, Value};

/// A row of a table, as the server gave it.
pub type Row = Map<String, Value>;

/// A client of one VergeOS system. Cheap to clone, shared by tasks.
#[derive(Clone, Debug)]
pub struct Client {
    caller: Caller,
}

impl Client {
    /// A client that sends through `caller`.
    pub fn new(caller: Caller) -> Self {
        Self { caller }
    }
    /// The caller underneath: raw requests, settings.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Lists rows of a table.
    ///
    /// # Errors
    ///
    /// The system's, by meaning.
    pub async fn list(&self, table: &str, query: ListQuery) -> Result<Vec<Row>> {
        let request = Request::<TableList> {
            path: (table.to_owned(),),
            query,
            headers: Default::default(),
            body: Default::default(),
        };
        Ok(self.caller.call(request, &CallOptions::new()).await?.0)
    }

    /// Does an action on a row. Never sent twice.
    ///
    /// # Errors
    ///
    /// The system's, by meaning.
    pub async fn act<A: Action>(&self, key: i64, action: A) -> Result<Receipt> {
        let body = ActionPost::new(key, action);
        let request = Request::<TableAction> {
            path: (A::KIND.to_owned(),),
            query: Default::default(),
            headers: Default::default(),
            body: Json(body),
        };
        let written = self.caller.call(request, &CallOptions::new()).await?;
        Ok(written.receipt())
    }
}
