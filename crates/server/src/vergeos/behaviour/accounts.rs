//! Users, groups and their keys: identities, secrets that are shown once.

use boxrig_wire::ApiError;
use serde_json::{Value, json};

use super::Behaviour;
use crate::ids;
use crate::vergeos::auth::KEY_HASH;
use crate::vergeos::db::Read;
use crate::vergeos::row::Row;
use crate::vergeos::tx::Tx;
use crate::vergeos::write::token_hash;

/// Users, groups and their keys.
pub(super) struct Accounts;

/// The user that is made at the first start; it can always do everything.
pub(in crate::vergeos) const ADMIN: i64 = 1;

impl Behaviour for Accounts {
    fn before_create(&self, tx: &mut Tx<'_>, table: &str, row: &mut Row) -> Result<(), ApiError> {
        match table {
            "user_api_keys" => {
                if row.text("expires_type") == "date" && row.int("expires") == 0 {
                    return Err(ApiError::invalid("Expires is a required parameter"));
                }
                if row.int("expires") != 0 && row.get("expires_type").is_null() {
                    row.set("expires_type", "date");
                }
            }
            "members" => {
                let member = row.text("member");
                if tx.poly(member).is_none() {
                    return Err(ApiError::not_found(
                        "error setting field 'member': No such file or directory",
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn after_create(
        &self,
        tx: &mut Tx<'_>,
        table: &str,
        row: &Row,
        receipt: &mut Row,
    ) -> Result<(), ApiError> {
        match table {
            // What permissions are given to.
            "users" | "groups" => {
                let key = row.key();
                if row.get("identity").is_null() {
                    let owner = Row::new().with("owner", format!("{table}/{key}"));
                    let identity = tx.insert("identities", owner)?;
                    let identity = identity.parse::<i64>().map_or(Value::Null, Value::from);
                    let of = identity.clone();
                    tx.set(table, &key, Row::new().with("identity", identity))?;
                    if table == "users" {
                        // Everybody may see and change the own account, and nothing else at first.
                        tx.insert(
                            "permissions",
                            Row::from([
                                ("identity", of),
                                ("table", table.into()),
                                ("row", row.get("$key").clone()),
                                ("list", true.into()),
                                ("read", true.into()),
                                ("modify", true.into()),
                            ]),
                        )?;
                    }
                }
            }
            "user_api_keys" => {
                let secret = ids::secret();
                let hash = Row::new().with(KEY_HASH, token_hash(&secret));
                tx.set(table, &row.key(), hash)?;
                receipt.set("response", json!({ "private_key": secret }));
            }
            _ => {}
        }
        Ok(())
    }

    fn before_update(
        &self,
        _: &mut Tx<'_>,
        table: &str,
        old: &Row,
        new: &mut Row,
    ) -> Result<(), ApiError> {
        if table == "users" && old.key() == ADMIN.to_string() && !new.flag("enabled") {
            return Err(ApiError::conflict("the admin user cannot be disabled"));
        }
        Ok(())
    }

    fn before_delete(&self, tx: &mut Tx<'_>, table: &str, row: &Row) -> Result<(), ApiError> {
        let key = row.key();
        match table {
            "users" if key == ADMIN.to_string() => {
                Err(ApiError::conflict("the admin user cannot be deleted"))
            }
            "groups" if row.flag("system_group") => {
                Err(ApiError::conflict("a system group cannot be deleted"))
            }
            "users" | "groups" => {
                // Permissions go with the identity they were given to.
                let identities = tx.children("identities", "owner", &format!("{table}/{key}"));
                for identity in identities {
                    tx.delete("identities", &identity.key())?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
