//! What belongs to the system itself: secrets it makes, certificates, licences, diagnostics, alarms, bills, updates.

use boxrig_vergeos::Written;
use boxrig_wire::{ApiError, BoxFuture};
use serde_json::{Value, json};

use super::kit::{self, Done, answer, cells, conflict, default, key};
use super::{Act, Behaviour, certificates};
use crate::vergeos::db::Read;
use crate::vergeos::row::Row;
use crate::vergeos::state::Cx;
use crate::vergeos::tx::Tx;

/// See the module.
pub(super) struct System;

/// What a licence request begins with, as on the platform.
const REQUEST_MARK: &[u8] = &[0x8a, 0x3a, 0, 0];

impl Behaviour for System {
    fn actions(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("license_actions", "generate"),
            ("billing_actions", "generate"),
            ("alarms", "resolve"),
            ("update_actions", "refresh"),
            ("update_actions", "download"),
            ("update_actions", "install"),
            ("update_actions", "apply"),
            ("update_actions", "all"),
            ("update_actions", "runpreinstallcheck"),
        ]
    }

    fn before_create(&self, tx: &mut Tx<'_>, table: &str, row: &mut Row) -> Done {
        match table {
            "oidc_applications" => {
                row.set("client_id", tx.ids().uuid().to_string());
                row.set("client_secret", crate::ids::secret());
                let base = tx.state.core.origin().to_owned();
                row.set(
                    "well_known_configuration",
                    format!(
                        "{base}/.well-known/openid-configuration?client_id={}",
                        row.text("client_id")
                    ),
                );
                for column in ["scope_profile", "scope_email", "scope_groups"] {
                    if row.get(column).is_null() {
                        row.set(column, true);
                    }
                }
            }
            "auth_sources" => inject_debug(row),
            "certificates" => certificates::fill(row, tx.now())?,
            "root_certificates" => certificates::read_root(row)?,
            "system_diagnostics" => {
                default(row, "name", format!("diagnostics-{}", tx.now()));
                row.set("status", "initializing");
                row.set("timestamp", tx.now());
            }
            "resource_groups" => default(row, "class", "pci"),
            "groups" | "users" => {
                let email = row.text("email").to_ascii_lowercase();
                row.set("email", email);
            }
            _ => {}
        }
        Ok(())
    }

    fn before_update(&self, tx: &mut Tx<'_>, table: &str, old: &Row, new: &mut Row) -> Done {
        match table {
            "auth_sources" => inject_debug(new),
            "certificates" if new.flag("renew") => {
                new.0.remove("renew");
                certificates::fill(new, tx.now())?;
            }
            "certificates" if old.text("domainlist") != new.text("domainlist") => {
                certificates::fill(new, tx.now())?
            }
            "groups" | "users" if old.text("email") != new.text("email") => {
                let email = new.text("email").to_ascii_lowercase();
                new.set("email", email);
            }
            "alarms" if old.int("snooze") != new.int("snooze") => {
                let who = kit::who(&*tx);
                new.set(
                    "snoozed_by",
                    if new.int("snooze") > 0 {
                        who
                    } else {
                        String::new()
                    },
                );
            }
            _ => {}
        }
        Ok(())
    }

    fn after_create(&self, tx: &mut Tx<'_>, table: &str, row: &Row, _: &mut Row) -> Done {
        let own = row.key();
        match table {
            "system_diagnostics" => tx.then(move |cx| async move {
                if let Err(e) = build_diagnostics(&cx, &own).await {
                    tracing::warn!(error = %e, "diagnostics were not built");
                    let words = e.to_string();
                    let told = cx.write(|tx| {
                        tx.set(
                            "system_diagnostics",
                            &own,
                            cells(json!({"status": "error", "status_info": words})),
                        )
                    });
                    if let Err(e) = told.await {
                        tracing::warn!(error = %e, "their state could not be told");
                    }
                }
            }),
            "oidc_applications" => {
                kit::own_log(
                    tx,
                    "oidc_application_logs",
                    "oidc_application",
                    &own,
                    "audit",
                    "Application created",
                )?;
            }
            "users" | "groups" | "permissions" => {
                let kind = table.trim_end_matches('s').to_owned();
                let name = if row.text("name").is_empty() {
                    row.text("table")
                } else {
                    row.text("name")
                }
                .to_owned();
                kit::log(tx, "audit", &kind, &name, "Created")?;
            }
            _ => {}
        }
        Ok(())
    }

    fn after_delete(&self, tx: &mut Tx<'_>, table: &str, row: &Row) -> Done {
        if table == "system_diagnostics"
            && let Some(file) = row
                .reference("file")
                .filter(|f| tx.get("files", f).is_some_and(|f| f.flag("$diagnostics")))
        {
            tx.delete("files", &file)?;
        }
        Ok(())
    }

    fn act<'a>(&'a self, cx: &'a Cx, act: Act) -> BoxFuture<'a, Result<Written, ApiError>> {
        Box::pin(async move {
            let reply = match (act.table.as_str(), act.verb.as_str()) {
                ("license_actions", _) => {
                    let (own, name, size) = request_licence(cx).await?;
                    answer(
                        Some(
                            json!({"filekey": format!("files/{own}"), "filename": name, "filesize": size, "email": "license@verge.io"}),
                        ),
                        None,
                    )
                }
                ("billing_actions", _) => {
                    cx.write(bill).await?;
                    Row::new()
                }
                ("alarms", _) => {
                    let alarm = act.target()?.clone();
                    if !alarm.flag("resolvable") {
                        return Err(kit::invalid("The alarm is not resolvable"));
                    }
                    cx.write(|tx| lower(tx, &alarm, "user")).await?;
                    Row::new()
                }
                (_, verb) => {
                    let source = act.row.as_ref().map(|(_, row)| row.key());
                    let verb = verb.to_owned();
                    let task = cx.write(|tx| update(tx, source.as_deref(), &verb)).await?;
                    answer(None, Some(&task))
                }
            };
            Ok(kit::reply(reply))
        })
    }
}

/// The platform adds a key of its own to the settings of an authentication source.
fn inject_debug(row: &mut Row) {
    let mut settings = match row.get("settings") {
        Value::String(text) => serde_json::from_str(text).unwrap_or_else(|_| json!({})),
        Value::Object(map) => Value::Object(map.clone()),
        _ => json!({}),
    };
    if let Some(map) = settings.as_object_mut() {
        map.entry("debug").or_insert(Value::Bool(false));
    }
    row.set("settings", settings);
}

/// Puts a file with this content into the catalogue.
async fn put_file(
    cx: &Cx,
    name: &str,
    content: &[u8],
    mark: Option<&str>,
) -> Result<String, ApiError> {
    let mut row = cells(
        json!({"name": name, "description": "", "allocated_bytes": content.len().to_string()}),
    );
    if let Some(mark) = mark {
        row.set(mark, true);
    }
    let own = cx.write(|tx| tx.create("files", row)).await?;
    cx.content.put("files", &own, content).await?;
    let size = content.len();
    cx.write(|tx| {
        tx.set(
            "files",
            &own,
            cells(json!({"filesize": size, "used_bytes": size, "allocated_bytes": size})),
        )
    })
    .await?;
    Ok(own)
}

/// Writes a licence request: what the system is made of, as the platform's own names it.
async fn request_licence(cx: &Cx) -> Result<(String, String, usize), ApiError> {
    let nodes: Vec<Value> = cx.db.all("nodes").iter().map(|n| json!({"name": n.text("name"), "model": n.text("model"), "cpu": n.text("cpu"), "cores": n.int("cores"), "ram": n.int("ram")})).collect();
    let system = cx.db.get("system", "1").map(|s| Value::Object(s.0.clone()));
    let tables: serde_json::Map<String, Value> = cx
        .db
        .schema()
        .tables()
        .iter()
        .map(|t| (t.name.to_owned(), Value::from(cx.db.len(t.name))))
        .collect();
    let body =
        json!({"made": cx.now(), "system": system, "nodes": nodes, "rows": tables}).to_string();
    let content = [REQUEST_MARK, body.as_bytes()].concat();
    let name = format!("license-request-{}.lrq", cx.core.ids.hex(8));
    let own = put_file(cx, &name, &content, None).await?;
    Ok((own, name, content.len()))
}

async fn build_diagnostics(cx: &Cx, own: &str) -> Result<(), ApiError> {
    let diagnostics = kit::need(&cx.db, "system_diagnostics", own)?;
    cx.write(|tx| {
        tx.set(
            "system_diagnostics",
            own,
            cells(json!({"status": "building"})),
        )
    })
    .await?;
    let mut text = String::new();
    for table in cx.db.schema().tables() {
        use std::fmt::Write as _;
        let _ = writeln!(text, "{} {}", table.name, cx.db.len(table.name));
    }
    for line in cx.db.all("logs").iter().rev().take(1000) {
        use std::fmt::Write as _;
        let _ = writeln!(
            text,
            "{} {} {} {}",
            line.int("timestamp"),
            line.text("level"),
            line.text("object_name"),
            line.text("text")
        );
    }
    let name = format!("diagnostics-{own}-{}.txt", cx.core.ids.hex(8));
    let file = put_file(cx, &name, text.as_bytes(), Some("$diagnostics")).await?;
    let status = if diagnostics.flag("send2support") {
        "The local server sends nothing to the vendor"
    } else {
        ""
    };
    cx.write(|tx| {
        tx.set(
            "system_diagnostics",
            own,
            cells(json!({"status": "complete", "status_info": status, "file": key(&file)})),
        )
    })
    .await
}

/// Takes an alarm down into the history.
fn lower(tx: &mut Tx<'_>, alarm: &Row, by: &str) -> Done {
    let kind = alarm
        .reference("alarm_type")
        .and_then(|t| tx.get("alarm_types", &t));
    let owner = tx.poly(alarm.text("owner")).map_or_else(
        || alarm.text("owner").to_owned(),
        |o| o.text("name").to_owned(),
    );
    if !kit::mutated("alarm_history") {
        tx.insert("alarm_history", cells(json!({"alarm_raised": alarm.int("created"), "alarm_lowered": tx.now(), "archived_by": by,
            "owner": owner, "alarm_type": kind.map_or(String::new(), |k| k.text("name").to_owned()), "level": alarm.text("level"),
            "status": alarm.text("status"), "alarm_id": alarm.text("alarm_id")})))?;
    }
    tx.delete("alarms", &alarm.key())
}

/// Writes a bill over what there is now.
fn bill(tx: &mut Tx<'_>) -> Done {
    let sum = |table: &str, column: &str| tx.all(table).iter().map(|r| r.int(column)).sum::<i64>();
    let last = tx
        .all("billing")
        .iter()
        .map(|b| b.int("to"))
        .max()
        .unwrap_or(0);
    let gpus = tx.all("node_gpu_stats");
    let of = |column: &str| gpus.iter().map(|g| g.int(column)).sum::<i64>();
    let mut row = cells(
        json!({"created": tx.now(), "from": last, "to": tx.now(), "sent": 0, "description": "Made by hand",
        "used_cores": sum("machine_status", "running_cores"), "total_cores": sum("nodes", "cores"), "online_cores": sum("nodes", "cores"),
        "total_nodes": tx.all("nodes").len(), "online_nodes": tx.all("nodes").iter().filter(|n| !n.flag("maintenance")).count(),
        "running_machines": tx.all("machine_status").iter().filter(|s| s.flag("running")).count(),
        "used_ram": sum("machine_status", "running_ram"), "total_ram": sum("nodes", "ram"), "online_ram": sum("nodes", "ram"),
        "gpus_total": of("gpus_total"), "gpus": of("gpus"), "gpus_idle": of("gpus_idle"), "vgpus_total": of("vgpus_total"),
        "vgpus": of("vgpus"), "vgpus_idle": of("vgpus_idle"), "workload_datapoints": 1, "storage_datapoints": 1}),
    );
    for tier in tx.all("storage_tiers") {
        row.set(&format!("tier_{}_used", tier.int("tier")), tier.int("used"));
        row.set(
            &format!("tier_{}_total", tier.int("tier")),
            tier.int("capacity"),
        );
    }
    // Nodes count themselves as machines; what they use is not used by guests.
    let (used, total) = (row.int("used_cores"), row.int("total_cores"));
    row.set("used_cores", used.min(total));
    let (used, total) = (row.int("used_ram"), row.int("total_ram"));
    row.set("used_ram", used.min(total));
    tx.insert("billing", row).map(drop)
}

/// A step of an update, as states: packages are downloaded, then installed, then applied by a restart.
fn update(tx: &mut Tx<'_>, source: Option<&str>, verb: &str) -> Result<String, ApiError> {
    let settings = tx
        .all("update_settings")
        .first()
        .cloned()
        .ok_or_else(|| conflict("There are no update settings"))?;
    let source = source
        .map(str::to_owned)
        .or_else(|| settings.reference("source"));
    let own = settings.key();
    let owner = format!("update_settings/{own}");
    let task = kit::begin_task(tx, &format!("Update: {verb}"), verb, &owner)?;
    let packages = source
        .as_deref()
        .map(|s| tx.children("update_source_packages", "source", s))
        .unwrap_or_default();
    let download = |tx: &mut Tx<'_>| -> Done {
        for package in &packages {
            tx.set(
                "update_source_packages",
                &package.key(),
                Row::new().with("downloaded", true),
            )?;
        }
        Ok(())
    };
    let words = match verb {
        "refresh" => {
            if let Some(source) = &source {
                tx.set(
                    "update_sources",
                    source,
                    cells(json!({"last_refreshed": tx.now()})),
                )?;
                kit::set_satellite(
                    tx,
                    "update_source_status",
                    "source",
                    source,
                    json!({"status": "idle", "last_update": tx.now()}),
                )?;
            }
            "Checked for updates"
        }
        "download" => {
            download(tx)?;
            "Packages downloaded"
        }
        "install" | "all" => {
            if verb == "all" {
                download(tx)?;
            } else if packages
                .iter()
                .any(|p| !p.flag("downloaded") && !p.flag("optional"))
            {
                return Err(conflict("Packages have not been downloaded"));
            }
            for package in &packages {
                if let Some(installed) = tx.get("update_packages", package.text("name")) {
                    tx.set(
                        "update_packages",
                        &installed.key(),
                        cells(json!({"version": package.text("version"), "modified": tx.now()})),
                    )?;
                }
            }
            tx.set(
                "update_settings",
                &own,
                cells(json!({"installed": true, "reboot_required": verb != "all"})),
            )?;
            "Packages installed"
        }
        "apply" => {
            tx.set(
                "update_settings",
                &own,
                cells(json!({"reboot_required": false, "applying_updates": false})),
            )?;
            "Updates applied"
        }
        _ => "The check before an installation found nothing",
    };
    tx.insert("update_logs", cells(json!({"level": "message", "text": words, "timestamp": kit::now_us(&*tx), "user": kit::who(&*tx), "object_name": "updates"})))?;
    kit::end_task(tx, &task, None)?;
    Ok(task)
}
