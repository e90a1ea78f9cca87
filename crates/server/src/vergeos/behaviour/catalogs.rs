//! Catalogues and recipes as states; instances of recipes as VMs and tenants; imports.

use boxrig_vergeos::Written;
use boxrig_wire::{ApiError, BoxFuture};
use http::StatusCode;
use serde_json::{Value, json};

use super::kit::{self, Done, answer, cells, conflict, default, key};
use super::{Act, Behaviour, vms};
use crate::vergeos::db::Read;
use crate::vergeos::row::Row;
use crate::vergeos::state::Cx;
use crate::vergeos::tx::Tx;

/// See the module.
pub(super) struct Catalogs;

impl Behaviour for Catalogs {
    fn actions(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("catalog_repository_actions", "refresh"),
            ("vm_recipes", "download"),
            ("tenant_recipes", "download"),
            ("vm_imports", "import"),
            ("vm_imports", "abort"),
        ]
    }

    fn before_create(&self, tx: &mut Tx<'_>, table: &str, row: &mut Row) -> Done {
        match table {
            "catalog_repositories" => default(row, "type", "local"),
            "catalogs" => default(row, "publishing_scope", "private"),
            "vm_recipes" | "tenant_recipes" => {
                default(row, "version", "1.0.0");
                row.set("downloaded", true);
                row.set("build", row.int("build").max(1));
            }
            "vm_recipe_instances" => return vm_instance(tx, row),
            "tenant_recipe_instances" => return tenant_instance(tx, row),
            "vm_imports" => {
                default(row, "uuid", tx.ids().uuid().to_string());
                default(row, "preferred_tier", "1");
                row.set("status", "initializing");
                row.set("timestamp", tx.now());
                let sources = ["file", "volume", "shared_object"];
                if !sources.iter().any(|c| row.reference(c).is_some()) {
                    return Err(kit::invalid("File is a required parameter"));
                }
                if let Some(file) = row.reference("file") {
                    let file = kit::need(&*tx, "files", &file)?;
                    default(
                        row,
                        "name",
                        file.text("name")
                            .rsplit_once('.')
                            .map_or(file.text("name"), |(stem, _)| stem)
                            .to_owned(),
                    );
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn after_create(&self, tx: &mut Tx<'_>, table: &str, row: &Row, receipt: &mut Row) -> Done {
        let own = row.key();
        match table {
            "catalog_repositories" => {
                tx.insert("catalog_repository_status", cells(json!({"repository": key(&own), "status": "online", "state": "online", "last_update": tx.now()})))?;
            }
            "vm_recipes" | "tenant_recipes" => {
                let status = format!("{}_status", table.trim_end_matches('s'));
                tx.insert(
                    &status,
                    cells(json!({"recipe": own, "status": "online", "state": "online"})),
                )?;
                let (log, column) = if table == "vm_recipes" {
                    ("vm_recipe_logs", "vm_recipe")
                } else {
                    ("tenant_recipe_logs", "tenant_recipe")
                };
                kit::own_log(tx, log, column, &own, "audit", "Recipe made")?;
            }
            "vm_recipe_instances" => receipt.set("response", json!({"vmkey": row.get("vm")})),
            "tenant_recipe_instances" => {
                receipt.set("response", json!({"tenantkey": row.get("tenant")}))
            }
            "vm_imports" => {
                kit::own_log(
                    tx,
                    "vm_import_logs",
                    "vm_import",
                    &own,
                    "message",
                    "Import made",
                )?;
                if row.flag("importing") {
                    begin_import(tx, &own);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn after_delete(&self, tx: &mut Tx<'_>, table: &str, row: &Row) -> Done {
        if table == "vm_imports"
            && row.flag("cleanup_on_delete")
            && let Some(vm) = row.reference("vm").filter(|v| tx.get("vms", v).is_some())
        {
            tx.delete("vms", &vm)?;
        }
        Ok(())
    }

    fn act<'a>(&'a self, cx: &'a Cx, act: Act) -> BoxFuture<'a, Result<Written, ApiError>> {
        Box::pin(async move {
            let row = act.target()?.clone();
            let own = row.key();
            match (act.table.as_str(), act.verb.as_str()) {
                ("catalog_repository_actions", _) => {
                    let task = cx
                        .write(|tx| {
                            tx.set("catalog_repositories", &own, cells(json!({"last_refreshed": tx.now()})))?;
                            kit::set_satellite(tx, "catalog_repository_status", "repository", &own, json!({"last_update": tx.now(), "info": "What is published elsewhere is not fetched here"}))?;
                            kit::own_log(tx, "catalog_repository_logs", "catalog_repository", &own, "message", "Refreshed")?;
                            let task = kit::begin_task(tx, &format!("Refresh '{}'", row.text("name")), "refresh", &format!("catalog_repositories/{own}"))?;
                            kit::end_task(tx, &task, None)?;
                            Ok(task)
                        })
                        .await?;
                    return Ok(kit::reply(answer(None, Some(&task))));
                }
                ("vm_imports", "import") => {
                    if row.text("status") == "complete" {
                        return Err(conflict("The import is complete"));
                    }
                    cx.write(|tx| {
                        begin_import(tx, &own);
                        Ok(())
                    })
                    .await?;
                }
                ("vm_imports", _) => {
                    cx.write(|tx| {
                        if matches!(
                            tx.row("vm_imports", &own)?.text("status"),
                            "complete" | "aborted"
                        ) {
                            return Err(conflict("The import is not running"));
                        }
                        tx.set(
                            "vm_imports",
                            &own,
                            cells(
                                json!({"status": "aborted", "aborted": true, "importing": false}),
                            ),
                        )?;
                        kit::own_log(
                            tx,
                            "vm_import_logs",
                            "vm_import",
                            &own,
                            "warning",
                            "Aborted",
                        )
                    })
                    .await?;
                }
                (table, _) => {
                    let table = table.to_owned();
                    cx.write(|tx| {
                        tx.set(
                            &table,
                            &own,
                            cells(json!({"downloaded": true, "update_available": false})),
                        )
                    })
                    .await?;
                }
            }
            Ok(Written {
                value: None,
                status: StatusCode::OK,
            })
        })
    }
}

/// A value of a recipe's answers.
fn given(answers: &Value, name: &str) -> Option<String> {
    let value = answers.get(name)?;
    value
        .as_str()
        .map(str::to_owned)
        .or_else(|| (!value.is_null()).then(|| value.to_string()))
        .filter(|t| !t.is_empty())
}

fn answers_of(row: &Row) -> Value {
    match row.get("answers") {
        Value::String(text) => serde_json::from_str(text).unwrap_or_default(),
        other => other.clone(),
    }
}

/// Deploys a VM from a recipe: a copy of the recipe's VM, or a new one, with what was answered.
fn vm_instance(tx: &mut Tx<'_>, row: &mut Row) -> Done {
    let recipe = row
        .reference("recipe")
        .ok_or_else(|| kit::invalid("Recipe is a required parameter"))?;
    let recipe = kit::need(&*tx, "vm_recipes", &recipe)?;
    let answers = answers_of(row);
    for question in tx.children(
        "recipe_questions",
        "recipe",
        &format!("vm_recipes/{}", recipe.key()),
    ) {
        if question.flag("required")
            && given(&answers, question.text("name")).is_none()
            && question.text("default").is_empty()
        {
            return Err(kit::invalid(format!(
                "{} is a required parameter",
                question.text("display")
            )));
        }
    }
    let name = row.text("name").to_owned();
    if name.is_empty() {
        return Err(kit::invalid("Name is a required parameter"));
    }
    if row.flag("simulate") {
        // A simulation is done for real and undone: its success is an error (405).
        let report = json!({"cloudinit_files": [], "logs": [format!("'{name}' would be made from '{}'", recipe.text("name"))], "answers": answers});
        return Err(
            ApiError::new(boxrig_wire::Kind::Unsupported, "Simulation complete")
                .with_status(StatusCode::METHOD_NOT_ALLOWED)
                .with_detail("response", report),
        );
    }
    let number = |name: &str| given(&answers, name).and_then(|t| t.parse::<i64>().ok());
    let vm = match recipe.reference("vm").and_then(|v| tx.get("vms", &v)) {
        Some(vm) => vms::copy(tx, &vm, &name, false, false, None)?,
        None => {
            let vm = tx.create(
                "vms",
                cells(json!({"name": name, "description": recipe.text("description")})),
            )?;
            let machine = tx.row("vms", &vm)?.get("machine").clone();
            tx.create(
                "machine_drives",
                cells(json!({"machine": machine, "name": "System", "disksize": 10_i64 << 30})),
            )?;
            if let Some(network) =
                given(&answers, "YB_NIC_1").filter(|n| tx.get("vnets", n).is_some())
            {
                tx.create(
                    "machine_nics",
                    cells(json!({"machine": machine, "vnet": key(&network)})),
                )?;
            }
            vm
        }
    };
    let mut changes = Row::new();
    if let Some(cores) = number("YB_CPU_CORES") {
        changes.set("cpu_cores", cores);
    }
    if let Some(ram) = number("YB_RAM") {
        changes.set("ram", ram);
    }
    if !changes.0.is_empty() {
        tx.update("vms", &vm, changes)?;
    }
    if recipe.key().contains("-nas") || recipe.text("name").to_lowercase().contains("nas") {
        tx.create("vm_services", cells(json!({"name": name, "vm": key(&vm), "max_imports": 2, "max_syncs": 2, "read_ahead_kb_default": 4096})))?;
    }
    row.set("vm", key(&vm));
    row.set("version", recipe.text("version"));
    row.set("build", recipe.int("build"));
    kit::own_log(
        tx,
        "vm_recipe_logs",
        "vm_recipe",
        &recipe.key(),
        "message",
        &format!("'{name}' was made"),
    )
}

fn tenant_instance(tx: &mut Tx<'_>, row: &mut Row) -> Done {
    let recipe = row
        .reference("recipe")
        .ok_or_else(|| kit::invalid("Recipe is a required parameter"))?;
    let recipe = kit::need(&*tx, "tenant_recipes", &recipe)?;
    let name = row.text("name").to_owned();
    if name.is_empty() {
        return Err(kit::invalid("Name is a required parameter"));
    }
    let tenant = tx.create(
        "tenants",
        cells(json!({"name": name, "description": recipe.text("description")})),
    )?;
    tx.create(
        "tenant_nodes",
        cells(json!({"tenant": key(&tenant), "cpu_cores": 4, "ram": 16384})),
    )?;
    row.set("tenant", key(&tenant));
    row.set("version", recipe.text("version"));
    row.set("build", recipe.int("build"));
    kit::own_log(
        tx,
        "tenant_recipe_logs",
        "tenant_recipe",
        &recipe.key(),
        "message",
        &format!("'{name}' was made"),
    )
}

/// Imports after the commit: a VM whose disk is as large as the file it came from.
fn begin_import(tx: &mut Tx<'_>, own: &str) {
    let own = own.to_owned();
    tx.then(move |cx| async move {
        let begun = cx
            .write(|tx| {
                tx.set(
                    "vm_imports",
                    &own,
                    cells(json!({"status": "importing", "importing": true, "status_info": ""})),
                )
            })
            .await;
        let done = match begun {
            Ok(()) => cx.write(|tx| import(tx, &own)).await,
            Err(e) => Err(e),
        };
        if let Err(e) = done {
            let words = e.to_string();
            let told = cx.write(|tx| {
                tx.set(
                    "vm_imports",
                    &own,
                    cells(json!({"status": "error", "importing": false, "status_info": words})),
                )?;
                kit::own_log(tx, "vm_import_logs", "vm_import", &own, "error", &words)
            });
            if let Err(e) = told.await {
                tracing::warn!(error = %e, "the state of an import is lost");
            }
        }
    });
}

fn import(tx: &mut Tx<'_>, own: &str) -> Done {
    let Some(row) = tx
        .get("vm_imports", own)
        .filter(|r| r.text("status") == "importing")
    else {
        return Ok(());
    };
    let free = |tx: &Tx<'_>, name: &str| {
        tx.find("vms", &|v| v.text("name") == name && !v.flag("is_snapshot"))
            .is_none()
    };
    let wish = if row.text("name").is_empty() {
        "imported"
    } else {
        row.text("name")
    };
    let name = (1..)
        .map(|n| {
            if n == 1 {
                wish.to_owned()
            } else {
                format!("{wish} {n}")
            }
        })
        .find(|n| free(tx, n))
        .unwrap_or_else(|| wish.to_owned());
    let vm = tx.create(
        "vms",
        cells(json!({"name": name, "description": "Imported", "imported": true})),
    )?;
    let machine = tx.row("vms", &vm)?.get("machine").clone();
    if let Some(file) = row.reference("file") {
        let interface = if row.text("override_drive_interface").is_empty() {
            "virtio-scsi"
        } else {
            row.text("override_drive_interface")
        };
        tx.create("machine_drives", cells(json!({"machine": machine, "name": "Disk 1", "media": "import", "media_source": key(&file),
            "interface": interface, "preferred_tier": row.text("preferred_tier")})))?;
    }
    tx.set(
        "vm_imports",
        own,
        cells(
            json!({"status": "complete", "importing": false, "vm": key(&vm), "modified": tx.now()}),
        ),
    )?;
    kit::own_log(
        tx,
        "vm_import_logs",
        "vm_import",
        own,
        "message",
        "Import finished",
    )?;
    kit::log(tx, "message", "vm", &name, "Imported")
}
