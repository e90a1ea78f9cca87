//! Tenants as systems of their own: with tables, files, users and a clock of timers that no other system has, each reached
//! at an address of its own while it is powered on.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use boxrig_wire::{ApiError, BoxFuture, Kind};
use serde_json::Value;

use super::behaviour::stop_machines;
use super::db::Read;
use super::row::Row;
use super::state::Cx;
use super::tx::Tx;
use super::{Vergeos, mutate, seed, timers};
use crate::beside::Opened;
use crate::core::Platform;
use crate::state::{StateError, lock};

/// The cell of a tenant that says that it has a system.
pub(super) const SYSTEM: &str = "$system";
/// The cell of a tenant with the key of the row that holds the address of its listener.
pub(super) const LISTENER: &str = "$listener";
/// The cell of a tenant with the address that it had when it was off.
pub(super) const BEFORE: &str = "$ui_address";
/// The cell of a tenant that lists the files it was given and has not got yet.
pub(super) const GIVEN: &str = "$given";

/// The tenants' systems that were used so far, by the tenant's key. One that is loaded stays so: a second handle of a table
/// would not see the first one's changes.
#[derive(Default)]
pub(super) struct Systems(Mutex<BTreeMap<String, Loaded>>);

struct Loaded {
    system: Arc<Vergeos>,
    opened: Option<Opened>,
    /// Its behaviours have been started.
    started: bool,
}

impl fmt::Debug for Systems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(lock(&self.0).keys()).finish()
    }
}

impl Systems {
    fn of(&self, cx: &Cx, tenant: &str) -> Result<Arc<Vergeos>, ApiError> {
        let mut all = lock(&self.0);
        if let Some(loaded) = all.get(tenant) {
            return Ok(loaded.system.clone());
        }
        let scope = format!("{}@{tenant}", cx.scope);
        let system = Arc::new(Vergeos::load(cx.core.clone(), scope)?);
        let loaded = Loaded {
            system: system.clone(),
            opened: None,
            started: false,
        };
        all.insert(tenant.to_owned(), loaded);
        Ok(system)
    }

    /// Ends every listener; what is kept of the systems stays.
    pub(super) fn close(&self) {
        for loaded in lock(&self.0).values_mut() {
            loaded.opened = None;
            loaded.started = false;
            lock(&loaded.system.tasks).abort_all();
            loaded.system.cx.forget();
        }
    }

    /// Removes the files of every tenant of the server's own system.
    pub(super) async fn clear(&self, cx: &Cx) -> std::io::Result<()> {
        remove(cx.core.data.join("vergeos").join("tenants")).await
    }
}

async fn remove(folder: std::path::PathBuf) -> std::io::Result<()> {
    match tokio::fs::remove_dir_all(folder).await {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn failed(what: &str, e: impl fmt::Display) -> ApiError {
    ApiError::new(Kind::Failed, format!("{what}: {e}"))
}

/// Brings a tenant's system up and gives its address.
///
/// # Errors
///
/// When it cannot be loaded, or no port can be had.
pub(super) fn up<'a>(cx: &'a Cx, tenant: &'a str) -> BoxFuture<'a, Result<SocketAddr, ApiError>> {
    Box::pin(async move {
        let row = cx.db.get("tenants", tenant);
        let row = row.ok_or_else(super::tx::no_row)?;
        let system = cx.systems.of(cx, tenant)?;
        let password = Some(row.text("password")).filter(|p| !p.is_empty());
        seed::first(&system.cx, row.text("name"), password).await?;
        deliver(cx, &row, &system).await?;
        let begun = {
            let mut all = lock(&cx.systems.0);
            let loaded = all.get_mut(tenant);
            loaded.is_some_and(|l| std::mem::replace(&mut l.started, true))
        };
        match begun {
            false => system.ready().await,
            true => {
                lock(&system.tasks).spawn(timers::run(system.cx.clone()));
                open_running(&system.cx).await;
            }
        }
        let beside = cx.core.beside.get();
        let beside = beside.ok_or_else(|| failed("the tenant's address", "no server listens"))?;
        let before = row.reference(LISTENER);
        let before = before.and_then(|key| cx.db.get("vnet_addresses", &key));
        let port = before.and_then(|row| Some(row.text("ip").parse::<SocketAddr>().ok()?.port()));
        // A server made wrong on purpose shows its own rows there.
        let shown: Arc<dyn Platform> = match mutate::mutated("tenant_tables") {
            true => Arc::new(Vergeos {
                lab: None,
                router: super::router(),
                cx: cx.clone(),
                tasks: Mutex::default(),
            }),
            false => system,
        };
        let opened = beside.open(port, shown).await;
        let opened = opened.map_err(|e| failed("the tenant's address", e))?;
        let addr = opened.addr;
        if let Some(loaded) = lock(&cx.systems.0).get_mut(tenant) {
            loaded.opened = Some(opened);
        }
        Ok(addr)
    })
}

/// Ends a tenant's listener, its sessions, and what runs in it.
pub(super) fn down<'a>(cx: &'a Cx, tenant: &'a str) -> BoxFuture<'a, Result<(), ApiError>> {
    Box::pin(async move {
        let loaded = {
            let mut all = lock(&cx.systems.0);
            all.get_mut(tenant)
                .map(|l| (l.system.clone(), l.opened.take()))
        };
        let Some((system, opened)) = loaded else {
            return Ok(());
        };
        if let Some(opened) = opened {
            opened.close().await;
        }
        lock(&system.tasks).abort_all();
        system.cx.forget();
        system.cx.sessions.end_all(&cx.core).await?;
        stop_machines(&system.cx).await
    })
}

/// Opens the tenants that are powered on, after a start of the server.
pub(super) async fn open_running(cx: &Cx) {
    for status in cx.db.all("tenant_status") {
        let tenant = status.reference("tenant").unwrap_or_default();
        let snapshot = cx.db.get("tenants", &tenant);
        let snapshot = snapshot.is_none_or(|t| t.flag("is_snapshot"));
        if snapshot || !status.flag("running") {
            continue;
        }
        let opened = async {
            let addr = up(cx, &tenant).await?;
            cx.write(|tx| show(tx, &tenant, Some(addr))).await
        };
        if let Err(e) = opened.await {
            tracing::warn!(tenant, error = %e, "the tenant cannot be reached");
        }
    }
}

/// Has a tenant's `ui_address` lead to its listener, or again to where it led before.
pub(super) fn show(
    tx: &mut Tx<'_>,
    tenant: &str,
    addr: Option<SocketAddr>,
) -> Result<(), ApiError> {
    let Some(row) = tx.get("tenants", tenant) else {
        return Ok(());
    };
    let listener = row.reference(LISTENER);
    let there = listener.filter(|key| tx.get("vnet_addresses", key).is_some());
    let Some(addr) = addr else {
        if row.get(LISTENER).is_null() || row.get(LISTENER) != row.get("ui_address") {
            return Ok(());
        }
        let before = row.get(BEFORE).clone();
        return tx.set("tenants", tenant, Row::new().with("ui_address", before));
    };
    let cells = Row::new().with("ip", addr.to_string());
    let key = match there {
        Some(key) => {
            tx.set("vnet_addresses", &key, cells)?;
            key
        }
        None if row.get("vnet").is_null() => return Ok(()),
        None => {
            // Of no type that a list of given addresses asks for.
            let cells = cells
                .with("vnet", row.get("vnet").clone())
                .with("type", "service")
                .with("hostname", "ui")
                .with("description", "Where the tenant's own system is reached");
            tx.insert("vnet_addresses", cells)?
        }
    };
    let number = key.parse::<i64>().map_or(Value::Null, Value::from);
    let mut cells = Row::new()
        .with(SYSTEM, true)
        .with(LISTENER, number.clone())
        .with("ui_address", number.clone())
        // It was taken over by the system's admin, who may change it there.
        .with("password", Value::Null);
    if *row.get("ui_address") != number {
        cells.set(BEFORE, row.get("ui_address").clone());
    }
    tx.set("tenants", tenant, cells)
}

/// Copies what a tenant was given into its own catalogue.
async fn deliver(cx: &Cx, tenant: &Row, system: &Vergeos) -> Result<(), ApiError> {
    let given = tenant.get(GIVEN).as_array().cloned().unwrap_or_default();
    for key in &given {
        let Some(file) = cx.db.get("files", &key.to_string()) else {
            continue;
        };
        let mut row = (*file).clone();
        row.0.remove("$key");
        row.0.remove("creator");
        let own = system.cx.write(|tx| tx.insert("files", row)).await?;
        let (body, size) = cx.content.body("files", &file.key()).await?;
        let content = &system.cx.content;
        content.write("files", &own, 0, body, size).await?;
    }
    if given.is_empty() {
        return Ok(());
    }
    let none = Row::new().with(GIVEN, Vec::<Value>::new());
    cx.write(|tx| tx.set("tenants", &tenant.key(), none)).await
}

/// Gives a file to a tenant: at once when its system is up, else with its next start.
///
/// # Errors
///
/// When it cannot be copied.
pub(super) async fn give(cx: &Cx, tenant: &str) -> Result<(), ApiError> {
    let row = cx.db.get("tenants", tenant).ok_or_else(super::tx::no_row)?;
    let system = {
        let all = lock(&cx.systems.0);
        let up = all.get(tenant).filter(|l| l.opened.is_some());
        up.map(|l| l.system.clone())
    };
    match system {
        Some(system) => deliver(cx, &row, &system).await,
        None => Ok(()),
    }
}

/// Removes what is kept of a deleted tenant's system.
pub(super) fn forget<'a>(cx: &'a Cx, tenant: &'a Row) -> BoxFuture<'a, ()> {
    Box::pin(async move {
        if !tenant.flag(SYSTEM) {
            return;
        }
        let key = tenant.key();
        if let Err(e) = wipe(cx, &key).await {
            tracing::warn!(tenant = key, error = %e, "something of a deleted tenant remains");
        }
    })
}

async fn wipe(cx: &Cx, tenant: &str) -> Result<(), ApiError> {
    let system = cx.systems.of(cx, tenant)?;
    for inner in system.cx.db.all("tenants") {
        forget(&system.cx, &inner).await;
    }
    super::behaviour::delete_machines(&system.cx).await;
    let db = &system.cx.db;
    let wiped = cx.core.store.write(|tx| {
        db.wipe(tx);
        Ok::<_, StateError>(())
    });
    wiped.await?;
    let folder = system.cx.content.folder().parent().map(ToOwned::to_owned);
    match folder {
        Some(folder) => remove(folder)
            .await
            .map_err(|e| failed("the files of the tenant", e)),
        None => Ok(()),
    }
}
