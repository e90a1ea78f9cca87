//! What a server can do beyond its version. A server without an extension drops the members it brings without a word,
//! so they are checked before they are sent.

use std::collections::HashSet;

use boxrig_wire::{Error, Kind, Result};
use serde_json::Value;

use super::Client;
use crate::ops;

/// Operations that the oldest supported line (6.0) may lack, and the extension that brings each. From the manual's list of
/// extensions; the API description names them for members only.
pub const OPERATIONS: &[(&str, &str)] = &[
    ("instance_bitmaps_post", "storage_volume_nbd"),
    ("instance_debug_memory_get", "instance_debug_memory"),
    ("instance_debug_repair_post", "instances_debug_repair"),
    ("instance_nbd_get", "instance_nbd"),
    ("instance_nvram_get", "instance_nvram"),
    ("instance_nvram_guid_get", "instance_nvram"),
    ("instance_nvram_guid_var_delete", "instance_nvram"),
    ("instance_nvram_guid_var_get", "instance_nvram"),
    ("instance_nvram_guid_var_put", "instance_nvram"),
    ("instance_nvram_patch", "instance_nvram_bulk_update"),
    ("instance_port_forward_post", "instance_port_forward"),
    ("network_address_set_delete", "network_address_set"),
    ("network_address_set_get", "network_address_set"),
    ("network_address_set_patch", "network_address_set"),
    ("network_address_set_post", "network_address_set"),
    ("network_address_set_put", "network_address_set"),
    ("network_address_sets_get", "network_address_set"),
    ("network_address_sets_post", "network_address_set"),
    ("network_integration_delete", "network_integrations"),
    ("network_integration_get", "network_integrations"),
    ("network_integration_patch", "network_integrations"),
    ("network_integration_post", "network_integrations"),
    ("network_integration_put", "network_integrations"),
    ("network_integrations_get", "network_integrations"),
    ("network_integrations_post", "network_integrations"),
    (
        "network_load_balancer_state_get",
        "network_load_balancer_state",
    ),
    ("project_access", "project_access"),
    ("storage_pool_volume_type_bitmap_get", "storage_volume_nbd"),
    ("storage_pool_volume_type_bitmaps_get", "storage_volume_nbd"),
    (
        "storage_pool_volumes_type_bitmap_delete",
        "storage_volume_nbd",
    ),
    (
        "storage_pool_volumes_type_bitmaps_post",
        "storage_volume_nbd",
    ),
    (
        "storage_pool_volume_type_files_delete",
        "file_storage_volume",
    ),
    ("storage_pool_volume_type_files_get", "file_storage_volume"),
    ("storage_pool_volume_type_files_head", "file_storage_volume"),
    ("storage_pool_volume_type_files_post", "file_storage_volume"),
    ("storage_pool_volume_type_nbd_get", "storage_volume_nbd"),
    (
        "storage_pool_volume_type_rebuild_post",
        "storage_volumes_rebuild",
    ),
    ("storage_pool_volume_type_sftp_get", "custom_volume_sftp"),
];

/// The extensions of a server, asked for once a client.
#[derive(Default)]
pub(crate) struct Cache(std::sync::OnceLock<HashSet<String>>);

impl Cache {
    pub(crate) fn fill(&self, list: &[String]) {
        let _ = self.0.set(list.iter().cloned().collect());
    }
    fn get(&self) -> Option<&HashSet<String>> {
        self.0.get()
    }
}

impl Client {
    /// Whether the server has an API extension. Asked for once, then remembered by the client and its clones.
    ///
    /// # Errors
    ///
    /// Those of the way to the server.
    pub async fn has_extension(&self, name: &str) -> Result<bool> {
        if self.shared().extensions.get().is_none() {
            self.info().await?;
        }
        Ok(self
            .shared()
            .extensions
            .get()
            .is_some_and(|set| set.contains(name)))
    }

    /// Refuses what the server would drop or does not know.
    ///
    /// # Errors
    ///
    /// [`Kind::Unsupported`] naming the extension.
    pub async fn require(&self, extension: &str, what: &str) -> Result<()> {
        if self.has_extension(extension).await? {
            return Ok(());
        }
        Err(Error::new(
            Kind::Unsupported,
            format!("{what} needs the API extension {extension}, which this server does not have"),
        )
        .with_hint("nothing was sent; a newer server is needed"))
    }
}

/// The extension that an operation as a whole needs.
pub(crate) fn of_operation(id: &str) -> Vec<(String, &'static str)> {
    OPERATIONS
        .iter()
        .filter(|(operation, _)| *operation == id)
        .map(|(_, extension)| ("this operation".to_owned(), *extension))
        .collect()
}

/// The rows of the generated table for an operation; it is sorted.
fn rows(id: &str) -> &'static [(&'static str, &'static str, &'static str)] {
    let table = ops::EXTENSIONS;
    let from = table.partition_point(|(operation, ..)| *operation < id);
    let to = from + table[from..].partition_point(|(operation, ..)| *operation == id);
    &table[from..to]
}

pub(crate) fn has_members(id: &str) -> bool {
    !rows(id).is_empty()
}

/// The members of a body that say something and need an extension. An empty value says nothing: a server that drops it
/// does what was meant.
pub(crate) fn of_body(id: &str, body: &Value) -> Vec<(String, &'static str)> {
    rows(id)
        .iter()
        .filter(|(_, member, _)| {
            let value = member
                .split('.')
                .try_fold(body, |value, name| value.get(name));
            value.is_some_and(|v| !is_empty(v))
        })
        .map(|(_, member, extension)| (format!("the member `{member}`"), *extension))
        .collect()
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty() || s.starts_with("0001-01-01T00:00:00"),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.values().all(is_empty),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_generated_table_is_sorted() {
        assert!(ops::EXTENSIONS.is_sorted());
        assert!(!rows("images_post").is_empty());
        assert!(rows("api_get").is_empty() && rows("zzz").is_empty());
    }

    /// A wrong name would refuse what every server can do.
    #[test]
    fn every_extension_is_one_that_servers_announce() {
        let known: HashSet<&str> = include_str!("../../../../api/incus-extensions.txt")
            .lines()
            .collect();
        assert!(known.len() > 500);
        let named = ops::EXTENSIONS.iter().map(|(.., extension)| *extension);
        for name in named.chain(OPERATIONS.iter().map(|(_, e)| *e)) {
            assert!(known.contains(name), "{name}");
        }
    }

    #[test]
    fn every_operation_named_is_in_the_catalogue() {
        for (id, _) in OPERATIONS {
            assert!(ops::CATALOG.iter().any(|m| m.id == *id), "{id}");
        }
    }

    #[test]
    fn empty_members_need_nothing() {
        let id = "images_post";
        let empty = json!({"format": "", "profiles": [], "expires_at": "0001-01-01T00:00:00Z"});
        assert!(of_body(id, &empty).is_empty());
        let found = of_body(id, &json!({"format": "split", "source": {"project": "p"}}));
        let extensions: Vec<_> = found.iter().map(|(_, e)| *e).collect();
        assert_eq!(
            extensions,
            ["instance_publish_split", "image_source_project"]
        );
        assert_eq!(found[1].0, "the member `source.project`");
    }
}
