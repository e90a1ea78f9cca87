//! Power of VMs, networks and nodes: a change is shown as a passing state, carried out after the answer, and told in
//! the machine's log, the system's log and a task.

use std::sync::{Arc, Weak};

use boxrig_engine::{EngineEvent, EventKind, InstanceState};
use boxrig_wire::{ApiError, BoxFuture};
use serde_json::{Value, json};

use super::kit::{self, Done, answer, cells, conflict, key};
use super::{Act, Behaviour, instances, machines};
use crate::vergeos::db::Read;
use crate::vergeos::row::Row;
use crate::vergeos::state::{Cx, State};
use crate::vergeos::tx::Tx;
use boxrig_vergeos::Written;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// See the module.
pub(super) struct Power;

/// What is to become of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It starts.
    On,
    /// Its guest is asked to shut down.
    Off,
    /// It ends at once.
    Kill,
    /// It ends and starts again.
    Reset,
    /// It ends, its memory kept.
    Hibernate,
}

impl Change {
    fn of(action: &str) -> Option<Self> {
        Some(match action {
            "poweron" => Self::On,
            "poweroff" => Self::Off,
            "kill" => Self::Kill,
            "reset" => Self::Reset,
            "hibernate" => Self::Hibernate,
            _ => return None,
        })
    }
    fn words(self) -> &'static str {
        match self {
            Self::On => "Power on",
            Self::Off => "Power off",
            Self::Kill => "Kill power",
            Self::Reset => "Reset",
            Self::Hibernate => "Hibernate",
        }
    }
    fn event(self) -> &'static str {
        match self {
            Self::On => "poweron",
            Self::Off => "poweroff",
            Self::Kill => "kill",
            Self::Reset => "reset",
            Self::Hibernate => "hibernate",
        }
    }
    /// The state that is shown until it is done.
    fn meanwhile(self) -> &'static str {
        match self {
            Self::On => "starting",
            Self::Off | Self::Kill => "stopping",
            Self::Reset => "running",
            Self::Hibernate => "hibernating",
        }
    }
}

/// What a machine belongs to.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    /// `vms`, `vnets` or `tenant_nodes`.
    pub(super) table: &'static str,
    /// Its key.
    pub(super) key: String,
    /// Its name.
    pub(super) name: String,
    /// Its machine.
    pub(super) machine: String,
}

impl Owner {
    /// The owner that a row is.
    pub(super) fn of(table: &'static str, row: &Row) -> Result<Self, ApiError> {
        let machine = row
            .reference("machine")
            .ok_or_else(|| conflict(format!("{table} without a machine")))?;
        Ok(Self {
            table,
            key: row.key(),
            name: row.text("name").to_owned(),
            machine,
        })
    }
    fn kind(&self) -> &'static str {
        if self.table == "vnets" { "vnet" } else { "vm" }
    }
}

/// Begins a change of power inside a transaction; what takes time happens after the commit.
pub(super) fn begin(
    tx: &mut Tx<'_>,
    owner: &Owner,
    change: Change,
    node: Option<String>,
) -> Result<String, ApiError> {
    let Owner {
        table,
        name,
        machine,
        ..
    } = owner.clone();
    let status = kit::satellite(&*tx, "machine_status", "machine", &machine);
    let running = status.as_ref().is_some_and(|s| s.flag("running"));
    let state = status
        .as_ref()
        .map_or("stopped", |s| s.text("status"))
        .to_owned();
    if running && state == "hibernated" {
        return Err(conflict(format!("'{name}' is in an unknown state")));
    }
    match change {
        _ if kit::mutated("power_state") => {}
        Change::On if running || state == "starting" => {
            return Err(conflict(format!("'{name}' is already running")));
        }
        Change::Off | Change::Reset | Change::Hibernate if !running => {
            return Err(conflict(format!("'{name}' is not running")));
        }
        Change::Kill if !running && state != "starting" => {
            return Err(conflict(format!("'{name}' is not running")));
        }
        _ => {}
    }
    let node = match change {
        Change::On => Some(node.map_or_else(|| pick_node(&*tx, &machine), Ok)?),
        _ => None,
    };
    let who = kit::who(&*tx);
    kit::set_satellite(
        tx,
        "machine_status",
        "machine",
        &machine,
        json!({"status": change.meanwhile(), "last_update": tx.now()}),
    )?;
    kit::own_log(
        tx,
        "machine_logs",
        "machine",
        &machine,
        "audit",
        &format!("{} requested by {who}", change.words()),
    )?;
    kit::log(
        tx,
        "audit",
        owner.kind(),
        &name,
        &format!("{} requested", change.words()),
    )?;
    let task = kit::begin_task(
        tx,
        &format!("{} '{name}'", change.words()),
        change.event(),
        &format!("{table}/{}", owner.key),
    )?;
    let (after, job) = (owner.clone(), task.clone());
    tx.then(move |cx| async move {
        let done = carry_out(&cx, &after, change).await;
        let write = cx.write(|tx| finish(tx, &after, change, node.as_deref(), &job, done.as_ref().err()));
        if let Err(e) = write.await {
            tracing::warn!(error = %e, machine = after.machine, "a change of power could not be told");
        }
    });
    Ok(task)
}

/// An online node of the machine's cluster that is not in maintenance.
fn pick_node(db: &dyn Read, machine: &str) -> Result<String, ApiError> {
    let row = kit::need(db, "machines", machine)?;
    let fit = |node: &Row| {
        !node.flag("maintenance")
            && row
                .reference("cluster")
                .is_none_or(|c| node.reference("cluster") == Some(c))
    };
    if let Some(wish) = row.reference("preferred_node")
        && db
            .get("nodes", &wish)
            .is_some_and(|n| !n.flag("maintenance"))
    {
        return Ok(wish);
    }
    let all = db.all("nodes");
    if all.is_empty() {
        return Ok(String::new());
    }
    let fits = all.into_iter().find(|n| fit(n));
    fits.map(|n| n.key()).ok_or_else(|| {
        ApiError::new(
            boxrig_wire::Kind::Quota,
            "No node of the cluster can take the machine",
        )
    })
}

async fn carry_out(cx: &Cx, owner: &Owner, change: Change) -> Done {
    if owner.table != "vms" {
        return Ok(());
    }
    match change {
        Change::On => instances::run(cx, &owner.machine).await,
        Change::Off => instances::halt(cx, &owner.machine, true).await,
        Change::Kill => instances::halt(cx, &owner.machine, false).await,
        Change::Reset => {
            instances::halt(cx, &owner.machine, false).await?;
            instances::run(cx, &owner.machine).await
        }
        Change::Hibernate => instances::freeze(cx, &owner.machine).await,
    }
}

/// Shows the outcome of a change of power.
fn finish(
    tx: &mut Tx<'_>,
    owner: &Owner,
    change: Change,
    node: Option<&str>,
    task: &str,
    failed: Option<&ApiError>,
) -> Done {
    if tx.get("machines", &owner.machine).is_none() {
        return Ok(());
    }
    if let Some(e) = failed {
        let words = e.to_string();
        show(tx, &owner.machine, "stopped", None)?;
        kit::own_log(
            tx,
            "machine_logs",
            "machine",
            &owner.machine,
            "error",
            &format!("{} failed: {words}", change.words()),
        )?;
        return kit::end_task(tx, task, Some(&words));
    }
    match change {
        Change::On => show(tx, &owner.machine, "running", node)?,
        Change::Reset => {
            let node = kit::satellite(&*tx, "machine_status", "machine", &owner.machine)
                .and_then(|s| s.reference("node"));
            show(tx, &owner.machine, "running", node.as_deref())?;
        }
        Change::Off | Change::Kill => show(tx, &owner.machine, "stopped", None)?,
        Change::Hibernate => show(tx, &owner.machine, "hibernated", None)?,
    }
    if !kit::mutated("power_log") {
        kit::own_log(
            tx,
            "machine_logs",
            "machine",
            &owner.machine,
            "message",
            &format!("{} finished", change.words()),
        )?;
    }
    kit::log(
        tx,
        "message",
        owner.kind(),
        &owner.name,
        &format!("{} finished", change.words()),
    )?;
    if matches!(change, Change::On | Change::Reset) {
        let flags = if owner.table == "vnets" {
            json!({"need_restart": false, "need_fw_apply": false, "need_dns_apply": false, "need_proxy_apply": false})
        } else {
            json!({"need_restart": false})
        };
        if matches!(owner.table, "vms" | "vnets") {
            tx.set(owner.table, &owner.key, cells(flags))?;
        }
    }
    if !kit::mutated("power_task") {
        kit::end_task(tx, task, None)?;
    }
    super::tasks::raise(tx, owner.table, &owner.key, change.event())
}

/// Sets the status of a machine, and of its drives and NICs with it.
pub(super) fn show(tx: &mut Tx<'_>, machine: &str, status: &str, node: Option<&str>) -> Done {
    let row = kit::need(&*tx, "machines", machine)?;
    let running = status == "running" && !kit::mutated("power_status");
    let changes = if running {
        json!({"running": true, "status": "running", "state": "online", "powerstate": true, "started": tx.now(),
            "node": node.filter(|n| !n.is_empty()).map(key), "running_cores": row.int("cores"),
            "running_ram": row.int("ram"), "last_update": tx.now()})
    } else {
        let mut stopped = machines::stopped(machine, tx.now());
        if let Some(cell) = stopped.get_mut("status") {
            *cell = Value::from(if status == "running" {
                "stopped"
            } else {
                status
            });
        }
        stopped
    };
    kit::set_satellite(tx, "machine_status", "machine", machine, changes)?;
    // Networks have a column of their own that says so, which filters can name.
    if let Some(network) = row.text("owner").strip_prefix("vnets/") {
        tx.set("vnets", network, Row::new().with("running", running))?;
    }
    let state = if running { "online" } else { "offline" };
    for drive in tx.children("machine_drives", "machine", machine) {
        kit::set_satellite(
            tx,
            "machine_drive_status",
            "parent_drive",
            &drive.key(),
            json!({"status": state, "state": state}),
        )?;
    }
    let link = if running { ("up", 10_000) } else { ("down", 0) };
    for nic in tx.children("machine_nics", "machine", machine) {
        let shown =
            json!({"status": link.0, "state": state, "speed": link.1, "last_update": tx.now()});
        kit::set_satellite(tx, "machine_nic_status", "parent_nic", &nic.key(), shown)?;
    }
    if !running {
        let zero = json!({"total_cpu": 0, "user_cpu": 0, "system_cpu": 0, "vmusage_cpu": 0, "ram_used": 0, "ram_pct": 0, "core_peak": 0});
        kit::set_satellite(tx, "machine_stats", "machine", machine, zero)?;
    }
    Ok(())
}

/// Moves a running machine to another node.
fn migrate(tx: &mut Tx<'_>, owner: &Owner, wish: Option<String>) -> Result<String, ApiError> {
    let status = kit::satellite(&*tx, "machine_status", "machine", &owner.machine);
    let Some(status) = status.filter(|s| s.flag("running")) else {
        return Err(conflict(format!(
            "'{}' must be running to migrate",
            owner.name
        )));
    };
    let now_on = status.reference("node");
    let machine = kit::need(&*tx, "machines", &owner.machine)?;
    let cluster = machine.reference("cluster");
    let fit = |n: &Row| {
        Some(n.key()) != now_on && !n.flag("maintenance") && n.reference("cluster") == cluster
    };
    let target = match wish {
        Some(node) => kit::need(&*tx, "nodes", &node)?.key(),
        None => tx
            .find("nodes", &fit)
            .map(|n| n.key())
            .ok_or_else(|| conflict("No other node can take the machine: cannot migrate"))?,
    };
    let task = kit::begin_task(
        tx,
        &format!("Migrate '{}'", owner.name),
        "migrate",
        &format!("{}/{}", owner.table, owner.key),
    )?;
    kit::set_satellite(
        tx,
        "machine_status",
        "machine",
        &owner.machine,
        json!({"node": key(&target), "migrated_node": now_on.as_deref().map(key), "last_update": tx.now()}),
    )?;
    kit::own_log(
        tx,
        "machine_logs",
        "machine",
        &owner.machine,
        "message",
        "Migration finished",
    )?;
    kit::end_task(tx, &task, None)?;
    Ok(task)
}

impl Behaviour for Power {
    fn actions(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("vm_actions", "poweron"),
            ("vm_actions", "poweroff"),
            ("vm_actions", "kill"),
            ("vm_actions", "reset"),
            ("vm_actions", "hibernate"),
            ("vm_actions", "migrate"),
            ("vm_actions", "move"),
            ("vnet_actions", "poweron"),
            ("vnet_actions", "poweroff"),
            ("vnet_actions", "kill"),
            ("vnet_actions", "reset"),
            ("nodes", "enable_maintenance"),
            ("nodes", "disable_maintenance"),
            ("nodes", "maintenance_reboot"),
        ]
    }

    fn act<'a>(&'a self, cx: &'a Cx, act: Act) -> BoxFuture<'a, Result<Written, ApiError>> {
        Box::pin(async move {
            let row = act.target()?.clone();
            let (verb, params) = (act.verb.clone(), act.params.clone());
            let reply = match act.table.as_str() {
                "nodes" => cx.write(|tx| maintenance(tx, &row, &verb)).await?,
                table => {
                    let table = if table == "vnet_actions" {
                        "vnets"
                    } else {
                        "vms"
                    };
                    if row.flag("is_snapshot") {
                        return Err(conflict(format!("'{}' is a snapshot", row.text("name"))));
                    }
                    let owner = Owner::of(table, &row)?;
                    let node = params
                        .reference("preferred_node")
                        .or_else(|| params.reference("node"));
                    let task = cx.write(|tx| match Change::of(&verb) {
                        Some(change) => begin(tx, &owner, change, node),
                        None if verb == "move" && params.reference("cluster").is_some() => {
                            let cluster = kit::need(
                                &*tx,
                                "clusters",
                                &params.reference("cluster").unwrap_or_default(),
                            )?;
                            tx.set(
                                "machines",
                                &owner.machine,
                                cells(json!({"cluster": key(&cluster.key())})),
                            )?;
                            Ok(String::new())
                        }
                        None => migrate(tx, &owner, node),
                    });
                    let task = task.await?;
                    answer(None, Some(task.as_str()).filter(|t| !t.is_empty()))
                }
            };
            Ok(kit::reply(reply))
        })
    }

    fn start<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            // Weak: what follows the engine must not keep a server that has ended.
            let (state, events) = (Arc::downgrade(cx.state()), cx.core.engine.events());
            tokio::spawn(follow(state, events));
            let running = cx.clone();
            // One after the other and behind the first requests: a stocked laboratory is ready at once.
            tokio::spawn(async move { run_again(running).await });
            let armed = cx.write(machines::arm_samples);
            if let Err(e) = armed.await {
                tracing::warn!(error = %e, "statistics are not taken");
            }
        })
    }

    fn timer<'a>(
        &'a self,
        cx: &'a Cx,
        name: &'a str,
        _: &'a Value,
    ) -> BoxFuture<'a, Result<bool, ApiError>> {
        Box::pin(async move {
            if name != "machines.sample" {
                return Ok(false);
            }
            for vm in cx.db.all("vms") {
                if let Some(machine) = vm
                    .reference("machine")
                    .filter(|m| machines::is_running(&cx.db, m))
                {
                    let measured = machines::measure(cx, &machine).await?;
                    cx.write(|tx| {
                        kit::set_satellite(tx, "machine_stats", "machine", &machine, measured)
                    })
                    .await?;
                }
            }
            cx.write(machines::sample).await?;
            Ok(true)
        })
    }
}

fn maintenance(tx: &mut Tx<'_>, node: &Row, verb: &str) -> Result<Row, ApiError> {
    let own = node.key();
    let on = verb == "enable_maintenance";
    let machine = node.reference("machine").unwrap_or_default();
    if verb == "maintenance_reboot" {
        kit::set_satellite(
            tx,
            "machine_status",
            "machine",
            &machine,
            json!({"started": tx.now()}),
        )?;
        tx.set(
            "nodes",
            &own,
            cells(json!({"need_restart": false, "restart_reason": "", "maintenance": false})),
        )?;
        let task = kit::begin_task(
            tx,
            &format!("Reboot '{}'", node.text("name")),
            "maintenance_reboot",
            &format!("nodes/{own}"),
        )?;
        kit::end_task(tx, &task, None)?;
        return Ok(answer(None, Some(&task)));
    }
    tx.set("nodes", &own, cells(json!({"maintenance": on})))?;
    kit::set_satellite(
        tx,
        "machine_status",
        "machine",
        &machine,
        json!({"status": if on { "maintenance" } else { "running" }}),
    )?;
    let words = if on {
        "Maintenance began"
    } else {
        "Maintenance ended"
    };
    kit::log(tx, "audit", "node", node.text("name"), words)?;
    if on {
        // What runs here moves away; what cannot move stays and is told.
        for status in tx.all("machine_status") {
            let Some(machine) = status.reference("machine").filter(|_| {
                status.flag("running") && status.reference("node").as_deref() == Some(&own)
            }) else {
                continue;
            };
            if let Some(vm) = tx.find("vms", &|vm| {
                vm.reference("machine").as_deref() == Some(&machine)
            }) {
                let owner = Owner::of("vms", &vm)?;
                if let Err(e) = migrate(tx, &owner, None) {
                    kit::log(tx, "warning", "node", node.text("name"), &e.to_string())?;
                }
            }
        }
    }
    Ok(Row::new())
}

/// Ends everything that runs in a system.
pub(in crate::vergeos) async fn stop_machines(cx: &Cx) -> Done {
    for vm in cx.db.all("vms") {
        let machine = vm.reference("machine");
        let Some(machine) = machine.filter(|m| machines::is_running(&cx.db, m)) else {
            continue;
        };
        cx.write(|tx| show(tx, &machine, "stopped", None)).await?;
        instances::halt(cx, &machine, false).await?;
    }
    Ok(())
}

/// Removes every instance of a system.
pub(in crate::vergeos) async fn delete_machines(cx: &Cx) {
    for machine in cx
        .db
        .all("vms")
        .iter()
        .filter_map(|vm| vm.reference("machine"))
    {
        instances::remove(cx, &machine).await;
    }
}

/// After a start of the server: what is shown as running runs, or is shown as what it is.
async fn run_again(cx: Cx) {
    for vm in cx.db.all("vms") {
        let Some(machine) = vm
            .reference("machine")
            .filter(|m| machines::is_running(&cx.db, m))
        else {
            continue;
        };
        if let Err(e) = instances::run(&cx, &machine).await {
            tracing::warn!(vm = vm.text("name"), error = %e, "it does not run again");
            let name = vm.text("name").to_owned();
            let told = cx.write(|tx| {
                show(tx, &machine, "stopped", None)?;
                kit::own_log(
                    tx,
                    "machine_logs",
                    "machine",
                    &machine,
                    "error",
                    &format!("It did not start again: {e}"),
                )?;
                kit::log(tx, "error", "vm", &name, "It did not start again")
            });
            if let Err(e) = told.await {
                tracing::warn!(error = %e, "the state of a VM is not known");
            }
        }
    }
}

/// Takes over what happens to instances without this API's doing.
async fn follow(state: Weak<State>, mut events: broadcast::Receiver<EngineEvent>) {
    loop {
        let event = match events.recv().await {
            Ok(event) => event,
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => return,
        };
        let reason = match &event.kind {
            EventKind::Failed(why) => format!("It ended: {why}"),
            EventKind::Stopped | EventKind::Deleted => "It was stopped".to_owned(),
            _ => continue,
        };
        let Some(state) = state.upgrade() else {
            return;
        };
        let Some(machine) = instances::machine_of(&state.scope, &event.id).map(str::to_owned)
        else {
            continue;
        };
        let cx = Cx::of(state, None);
        // A reset stops and starts: an event that is read late says nothing about now.
        let now = cx.core.engine.get(&event.id).await;
        if now.is_ok_and(|info| info.state == InstanceState::Running) {
            continue;
        }
        let told = cx.write(|tx| {
            // A change of power of our own says itself what becomes of the machine.
            let status = kit::satellite(&*tx, "machine_status", "machine", &machine);
            if status.is_none_or(|s| s.text("status") != "running") {
                return Ok(());
            }
            // A reset stops and starts: what counts is how it ends.
            if tx
                .find("tasks", &|t| {
                    t.text("status") == "running" && t.text("action") == "reset"
                })
                .is_some()
            {
                return Ok(());
            }
            show(tx, &machine, "stopped", None)?;
            kit::own_log(tx, "machine_logs", "machine", &machine, "warning", &reason)
        });
        if let Err(e) = told.await {
            tracing::warn!(machine, error = %e, "the state of a VM is not known");
        }
    }
}
