//! Other sites and what is synchronised with them. There is no other site here: connections fail in words, settings and
//! queues behave.

use boxrig_vergeos::Written;
use boxrig_wire::{ApiError, BoxFuture};
use serde_json::{Value, json};

use super::kit::{self, Done, answer, cells, conflict, default, key};
use super::{Act, Behaviour};
use crate::vergeos::row::Row;
use crate::vergeos::state::Cx;
use crate::vergeos::tx::Tx;

/// See the module.
pub(super) struct Sites;

/// Why a site cannot be reached.
const ALONE: &str = "No connection: the local server reaches no other site";

/// The key in the parameters of an action that its table names in the singular.
fn sync_log(tx: &mut Tx<'_>, table: &str, sync: &Row, level: &str, text: &str) -> Done {
    kit::own_log(
        tx,
        &format!("{table}_logs"),
        table,
        &sync.key(),
        level,
        text,
    )
}

impl Behaviour for Sites {
    fn actions(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("site_actions", "reauthenticate"),
            ("site_actions", "refresh"),
            ("site_actions", "refresh_settings"),
            ("site_syncs_outgoing_actions", "enable"),
            ("site_syncs_outgoing_actions", "disable"),
            ("site_syncs_outgoing_actions", "add_to_queue"),
            ("site_syncs_outgoing_actions", "throttle_sync"),
            ("site_syncs_outgoing_actions", "refresh"),
            ("site_syncs_incoming_actions", "enable"),
            ("site_syncs_incoming_actions", "disable"),
            ("site_syncs_incoming_verified_actions", "list_snaps"),
            ("site_syncs_incoming_verified_actions", "request"),
            ("site_syncs_incoming_verified_actions", "set_retention"),
            ("site_syncs_outgoing_remote_snap_actions", "request"),
            ("site_syncs_outgoing_remote_snap_actions", "set_retention"),
        ]
    }

    fn before_create(&self, tx: &mut Tx<'_>, table: &str, row: &mut Row) -> Done {
        match table {
            "sites" => {
                default(row, "authentication_status", "unauthenticated");
                for column in [
                    "config_cloud_snapshots",
                    "config_statistics",
                    "config_management",
                    "config_repair_server",
                ] {
                    default(row, column, "disabled");
                }
                row.set("status", "authenticating");
            }
            "site_syncs_incoming" => {
                default(row, "sync_id", tx.ids().hex(32));
                default(row, "registration_code", crate::ids::secret());
                default(row, "status", "offline");
                default(row, "state", "offline");
            }
            "site_syncs_outgoing" => {
                default(row, "status", "offline");
                default(row, "state", "offline");
                default(row, "destination_tier", "1");
            }
            _ => {}
        }
        Ok(())
    }

    fn after_create(&self, tx: &mut Tx<'_>, table: &str, row: &Row, _: &mut Row) -> Done {
        if table == "sites" {
            give_up(tx, &row.key());
        }
        Ok(())
    }

    fn act<'a>(&'a self, cx: &'a Cx, act: Act) -> BoxFuture<'a, Result<Written, ApiError>> {
        Box::pin(async move {
            let row = act.target()?.clone();
            let own = row.key();
            let params = if act.params.0.is_empty() {
                act.body.clone()
            } else {
                act.params.clone()
            };
            let verb = act.verb.clone();
            let reply = match act.table.as_str() {
                "site_actions" => {
                    cx.write(|tx| {
                        tx.set(
                            "sites",
                            &own,
                            cells(json!({"status": "authenticating", "status_info": ""})),
                        )?;
                        give_up(tx, &own);
                        Ok(())
                    })
                    .await?;
                    Row::new()
                }
                "site_syncs_outgoing_actions" => {
                    cx.write(|tx| outgoing(tx, &row, &verb, &params)).await?
                }
                "site_syncs_incoming_actions" => {
                    let on = verb == "enable";
                    cx.write(|tx| {
                        tx.set("site_syncs_incoming", &own, cells(json!({"enabled": on, "status": if on { "idle" } else { "offline" }, "state": if on { "online" } else { "offline" }})))?;
                        sync_log(tx, "site_syncs_incoming", &row, "audit", if on { "Enabled" } else { "Disabled" })
                    })
                    .await?;
                    Row::new()
                }
                "site_syncs_incoming_verified_actions" if verb == "list_snaps" => {
                    answer(Some(json!([])), None)
                }
                "site_syncs_outgoing_remote_snap_actions" if verb == "set_retention" => {
                    let expires = params.int("retention");
                    cx.write(|tx| {
                        tx.set(
                            "site_syncs_outgoing_remote_snaps",
                            &own,
                            cells(json!({"expires": expires})),
                        )
                    })
                    .await?;
                    Row::new()
                }
                // What would fetch from the other site, or change something there.
                _ => return Err(conflict(ALONE)),
            };
            Ok(kit::reply(reply))
        })
    }
}

/// Tells after the commit that a site cannot be reached.
fn give_up(tx: &mut Tx<'_>, site: &str) {
    let site = site.to_owned();
    tx.then(move |cx| async move {
        let told = cx.write(|tx| tx.set("sites", &site, cells(json!({"status": "error", "status_info": ALONE, "authentication_status": "unauthenticated"}))));
        if let Err(e) = told.await {
            tracing::warn!(error = %e, "the state of a site is not told");
        }
    });
}

fn outgoing(tx: &mut Tx<'_>, sync: &Row, verb: &str, params: &Row) -> Result<Row, ApiError> {
    let own = sync.key();
    match verb {
        "enable" | "disable" => {
            let on = verb == "enable";
            tx.set("site_syncs_outgoing", &own, cells(json!({"enabled": on, "status": if on { "idle" } else { "offline" }, "state": if on { "online" } else { "offline" }})))?;
            sync_log(
                tx,
                "site_syncs_outgoing",
                sync,
                "audit",
                if on { "Enabled" } else { "Disabled" },
            )?;
        }
        "throttle_sync" => {
            let rate = [params.get("throttle"), params.get("sendthrottle")]
                .into_iter()
                .find(|v| !v.is_null())
                .cloned()
                .unwrap_or(Value::from(0));
            tx.set(
                "site_syncs_outgoing",
                &own,
                Row::new().with("sendthrottle", kit::cells(json!({"n": rate})).int("n")),
            )?;
        }
        "add_to_queue" => {
            let snapshot = params
                .reference("cloud_snapshot")
                .ok_or_else(|| kit::invalid("Cloud Snapshot is a required parameter"))?;
            kit::need(&*tx, "cloud_snapshots", &snapshot)?;
            let retention = params.int("retention");
            let id = tx.ids().hex(40);
            tx.insert("site_syncs_outgoing_queue", cells(json!({"site_syncs_outgoing": key(&own), "cloud_snapshot": key(&snapshot), "id": id,
                "priority": params.int("priority"), "status": "queued", "retention": retention, "destination_prefix": params.text("destination_prefix"),
                "do_not_expire": params.flag("do_not_expire"), "remote_expiration": if retention > 0 { tx.now() + retention } else { 0 }, "timestamp": tx.now()})))?;
            sync_log(
                tx,
                "site_syncs_outgoing",
                sync,
                "message",
                "A snapshot was queued",
            )?;
        }
        _ => {
            tx.set(
                "site_syncs_outgoing",
                &own,
                cells(json!({"status_info": ALONE})),
            )?;
        }
    }
    Ok(Row::new())
}
