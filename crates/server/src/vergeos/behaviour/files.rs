//! The file catalogue: what a file is by its name, and that its content goes with it.

use boxrig_wire::ApiError;

use super::Behaviour;
use crate::vergeos::row::Row;
use crate::vergeos::tx::Tx;

/// The file catalogue.
pub(super) struct Files;

/// The tables whose rows have content.
pub(in crate::vergeos) const WITH_CONTENT: [&str; 2] = ["files", "cloudinit_files"];

impl Behaviour for Files {
    fn before_create(&self, tx: &mut Tx<'_>, table: &str, row: &mut Row) -> Result<(), ApiError> {
        if table == "files" {
            let kind = type_of(row.text("name"));
            row.set("type", kind);
            row.set("filesize", 0);
            row.set("used_bytes", 0);
        }
        if table == "cloudinit_files" {
            measure(row, tx.now());
        }
        Ok(())
    }

    fn before_update(
        &self,
        tx: &mut Tx<'_>,
        table: &str,
        old: &Row,
        new: &mut Row,
    ) -> Result<(), ApiError> {
        if table == "files" && old.text("name") != new.text("name") {
            let kind = type_of(new.text("name"));
            new.set("type", kind);
        }
        if table == "cloudinit_files" && old.text("contents") != new.text("contents") {
            measure(new, tx.now());
        }
        Ok(())
    }

    fn after_delete(&self, tx: &mut Tx<'_>, table: &str, row: &Row) -> Result<(), ApiError> {
        if let Some(table) = WITH_CONTENT.into_iter().find(|t| *t == table) {
            let key = row.key();
            tx.then(move |cx| async move {
                cx.content.remove(table, &key).await;
            });
        }
        Ok(())
    }
}

/// The size of a cloud-init file, and whether it has variables.
fn measure(row: &mut Row, now: i64) {
    let text = row.text("contents").to_owned();
    for column in ["filesize", "allocated_bytes", "used_bytes"] {
        row.set(column, text.len());
    }
    row.set(
        "contains_variables",
        text.contains("${") || text.contains("{{"),
    );
    row.set("modified", now);
}

/// What the platform takes a file for, by the end of its name.
fn type_of(name: &str) -> &'static str {
    let end = name.rsplit_once('.').map_or("", |(_, end)| end);
    const TYPES: [(&str, &str); 16] = [
        ("iso", "iso"),
        ("img", "img"),
        ("qcow", "qcow"),
        ("qcow2", "qcow2"),
        ("qed", "qed"),
        ("raw", "raw"),
        ("vdi", "vdi"),
        ("vhd", "vhd"),
        ("vhdx", "vhdx"),
        ("vmdk", "vmdk"),
        ("ova", "ova"),
        ("ovf", "ovf"),
        ("vmx", "vmx"),
        ("ybvm", "ybvm"),
        ("nvram", "nvram"),
        ("zip", "zip"),
    ];
    let end = end.to_ascii_lowercase();
    TYPES
        .iter()
        .find(|(ending, _)| *ending == end)
        .map_or("unknown", |(_, kind)| kind)
}
