//! What every system has from its first start on.

use boxrig_wire::ApiError;
use serde_json::{Value, json};

use super::behaviour::ADMIN;
use super::row::Row;
use super::state::Cx;
use super::write::{HASH, password_hash};

/// The version the server says it is of, which its behaviour was compared with.
const VERSION: &str = "26.1.8";

/// Makes what a system of this name has when it is new. Without a password, its admin's is the server's own. Does nothing to
/// a system that has an admin.
pub(super) async fn first(cx: &Cx, name: &str, password: Option<&str>) -> Result<(), ApiError> {
    if cx.db.len("users") > 0 {
        return Ok(());
    }
    let rows = [
        (
            "system",
            json!({"$key": 1, "name": name, "yb_version": VERSION, "os_version": VERSION, "cloud_name": name}),
        ),
        ("settings", json!({"key": "cloud_name", "value": name})),
        (
            "identities",
            json!({"$key": 1, "owner": format!("users/{ADMIN}")}),
        ),
        (
            "users",
            json!({"$key": ADMIN, "name": "admin", "displayname": "Administrator", "type": "normal", "identity": 1}),
        ),
        (
            "permissions",
            json!({
                "$key": 1, "identity": 1, "table": "/", "row": 0,
                "list": true, "read": true, "create": true, "modify": true, "delete": true,
            }),
        ),
        ("clusters", json!({"$key": 1, "name": "cluster1"})),
        (
            "cluster_status",
            json!({"$key": 1, "cluster": 1, "status": "online", "state": "online"}),
        ),
        ("update_settings", json!({"$key": 1})),
    ];
    cx.write(|tx| {
        for (table, row) in rows {
            let Value::Object(row) = row else { continue };
            tx.insert(table, Row(row))?;
        }
        if let Some(password) = password {
            let hash = Row::new().with(HASH, password_hash(password));
            tx.set("users", &ADMIN.to_string(), hash)?;
        }
        Ok(())
    })
    .await
}
