//! What rows do besides being rows: machines that start, tasks that run, keys that are made.
//!
//! A [`Behaviour`] is asked about every table, and answers for those that are its own.

mod accounts;
mod catalogs;
mod certificates;
mod cloud;
mod dashboards;
mod files;
mod instances;
mod kit;
mod machines;
mod nas;
mod networks;
mod power;
mod queries;
mod scripts;
mod sites;
mod system;
mod tags;
mod tasks;
mod tenants;
mod vms;
mod webhooks;
mod x25519;

use std::sync::Arc;

use boxrig_vergeos::Written;
use boxrig_wire::{ApiError, BoxFuture, Kind};
use serde_json::Value;

use super::row::Row;
use super::state::Cx;
use super::tx::Tx;

pub(super) use accounts::ADMIN;
pub(super) use power::{delete_machines, stop_machines};

/// All of them, in the order in which they are asked.
pub(super) fn all() -> Vec<Box<dyn Behaviour>> {
    vec![
        Box::new(accounts::Accounts),
        Box::new(files::Files),
        Box::new(machines::Machines),
        Box::new(power::Power),
        Box::new(vms::Vms),
        Box::new(networks::Networks),
        Box::new(tenants::Tenants),
        Box::new(tags::Tags),
        Box::new(tasks::Tasks),
        Box::new(cloud::Cloud),
        Box::new(nas::Nas),
        Box::new(queries::Queries),
        Box::new(dashboards::Dashboards),
        Box::new(webhooks::Webhooks),
        Box::new(system::System),
        Box::new(sites::Sites),
        Box::new(catalogs::Catalogs),
    ]
}

/// An action on a row or a table.
#[derive(Clone, Debug)]
pub struct Act {
    /// The table that was addressed: `vm_actions`, or that of the row.
    pub table: String,
    /// The action.
    pub verb: String,
    /// The row it is done to, and that row's table.
    pub row: Option<(&'static str, Arc<Row>)>,
    /// The member `params` of an action table's body; the whole body of the other forms.
    pub params: Row,
    /// The body as it was sent, without `action` and `params`.
    pub body: Row,
}

impl Act {
    /// The row it is done to.
    ///
    /// # Errors
    ///
    /// A 404 when the action names none.
    pub fn target(&self) -> Result<&Arc<Row>, ApiError> {
        let row = self.row.as_ref().map(|(_, row)| row);
        row.ok_or_else(|| ApiError::not_found("row does not exist"))
    }
}

/// What rows of some tables do. Every method has a default that does nothing.
///
/// The hooks run inside the one transaction of the write; an error undoes all of it. They are called for every table,
/// for rows of a cascade too.
pub trait Behaviour: Send + Sync + 'static {
    /// The actions it does, as table and action: `("vm_actions", "poweron")`, `("vm_imports", "import")`. An action of the
    /// schema that nobody does answers 501 and stands in `not_implemented.txt`.
    fn actions(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// The tables whose rows it makes on the spot.
    fn computed(&self) -> &'static [&'static str] {
        &[]
    }

    /// The rows of such a table, `$key` included.
    ///
    /// # Errors
    ///
    /// When they cannot be made.
    fn rows(&self, cx: &Cx, table: &str) -> Result<Vec<Row>, ApiError> {
        let _ = (cx, table);
        Ok(Vec::new())
    }

    /// Before a row is completed, checked and stored. May change it, read-only columns too.
    ///
    /// # Errors
    ///
    /// A refusal.
    fn before_create(&self, tx: &mut Tx<'_>, table: &str, row: &mut Row) -> Result<(), ApiError> {
        let _ = (tx, table, row);
        Ok(())
    }

    /// After a row was stored. May add `response` and `task` to the receipt.
    ///
    /// # Errors
    ///
    /// A refusal.
    fn after_create(
        &self,
        tx: &mut Tx<'_>,
        table: &str,
        row: &Row,
        receipt: &mut Row,
    ) -> Result<(), ApiError> {
        let _ = (tx, table, row, receipt);
        Ok(())
    }

    /// Before a change is checked and stored. `new` is the row as it is going to be.
    ///
    /// # Errors
    ///
    /// A refusal.
    fn before_update(
        &self,
        tx: &mut Tx<'_>,
        table: &str,
        old: &Row,
        new: &mut Row,
    ) -> Result<(), ApiError> {
        let _ = (tx, table, old, new);
        Ok(())
    }

    /// After a change was stored.
    ///
    /// # Errors
    ///
    /// A refusal.
    fn after_update(
        &self,
        tx: &mut Tx<'_>,
        table: &str,
        old: &Row,
        new: &Row,
    ) -> Result<(), ApiError> {
        let _ = (tx, table, old, new);
        Ok(())
    }

    /// Before a row and what belongs to it is deleted.
    ///
    /// # Errors
    ///
    /// A refusal.
    fn before_delete(&self, tx: &mut Tx<'_>, table: &str, row: &Row) -> Result<(), ApiError> {
        let _ = (tx, table, row);
        Ok(())
    }

    /// After a row was deleted.
    ///
    /// # Errors
    ///
    /// A refusal.
    fn after_delete(&self, tx: &mut Tx<'_>, table: &str, row: &Row) -> Result<(), ApiError> {
        let _ = (tx, table, row);
        Ok(())
    }

    /// Does one of its [`Behaviour::actions`].
    fn act<'a>(&'a self, cx: &'a Cx, act: Act) -> BoxFuture<'a, Result<Written, ApiError>> {
        let _ = cx;
        Box::pin(async move {
            let words = format!("{}.{} is claimed and not done", act.table, act.verb);
            Err(ApiError::new(Kind::Failed, words))
        })
    }

    /// Does what [`Tx::at`] was asked for; true when the name is its own. It may be called twice for one time.
    fn timer<'a>(
        &'a self,
        cx: &'a Cx,
        name: &'a str,
        payload: &'a Value,
    ) -> BoxFuture<'a, Result<bool, ApiError>> {
        let _ = (cx, name, payload);
        Box::pin(async { Ok(false) })
    }

    /// Called when the server listens, and when its state was replaced.
    fn start<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, ()> {
        let _ = cx;
        Box::pin(async {})
    }
}
