//! What every system has from its first start on.

use boxrig_wire::ApiError;
use serde_json::{Value, json};

use super::behaviour::ADMIN;
use super::row::Row;
use super::state::Cx;

/// The version the server says it is of, which its behaviour was compared with.
const VERSION: &str = "26.1.8";

/// Makes what a system has when it is new. Does nothing to one that has an admin.
pub(super) async fn first(cx: &Cx) -> Result<(), ApiError> {
    if cx.db.len("users") > 0 {
        return Ok(());
    }
    let rows = [
        (
            "system",
            json!({"$key": 1, "name": "boxrig", "yb_version": VERSION, "os_version": VERSION, "cloud_name": "boxrig"}),
        ),
        ("settings", json!({"key": "cloud_name", "value": "boxrig"})),
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
        Ok(())
    })
    .await
}
