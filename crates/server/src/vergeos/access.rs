//! What a user may do: permissions given to the user or to a group the user is in, on the whole (`/`), a table or a row.

use std::collections::BTreeSet;
use std::sync::Arc;

use boxrig_wire::{ApiError, Kind};

use super::behaviour::ADMIN;
use super::db::Read;
use super::mutate::mutated;
use super::row::Row;

/// What is to be done, as the column of `permissions` that allows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    List,
    Read,
    Create,
    Modify,
    Delete,
}

impl Right {
    fn column(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Read => "read",
            Self::Create => "create",
            Self::Modify => "modify",
            Self::Delete => "delete",
        }
    }
}

/// Which rows of a table.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// All.
    All,
    /// These, by key; perhaps none.
    Rows(BTreeSet<String>),
}

impl Reach {
    /// Whether a row is among them.
    pub(super) fn holds(&self, key: &str) -> bool {
        match self {
            Self::All => true,
            Self::Rows(keys) => keys.contains(key),
        }
    }
}

/// What every user may read: a client's first request asks for it.
const OPEN: [&str; 1] = ["system"];

/// The rows of a table for which a user has a right.
pub(super) fn reach(read: &dyn Read, user: i64, right: Right, table: &str) -> Reach {
    if mutated("access")
        || user == ADMIN
        || (OPEN.contains(&table) && matches!(right, Right::List | Right::Read))
    {
        return Reach::All;
    }
    let mut rows = BTreeSet::new();
    for permission in permissions(read, user) {
        let of = permission.text("table").trim_start_matches('/');
        let whole = of.is_empty();
        // Who may list may see what is listed.
        let allows =
            permission.flag(right.column()) || (right == Right::List && permission.flag("read"));
        if !allows || !(whole || of == table) {
            continue;
        }
        match permission.reference("row") {
            // Row 0 is all rows.
            None => return Reach::All,
            Some(row) if row == "0" || whole => return Reach::All,
            Some(row) => {
                rows.insert(row);
            }
        }
    }
    Reach::Rows(rows)
}

/// The 403.
pub(super) fn denied(right: Right, table: &str) -> ApiError {
    let words = format!("Permission denied: no right to {} {table}", right.column());
    ApiError::new(Kind::Denied, words)
}

/// Whether a user has a right, for a row or for the table.
///
/// # Errors
///
/// A 403.
pub(super) fn require(
    read: &dyn Read,
    user: i64,
    right: Right,
    table: &str,
    key: Option<&str>,
) -> Result<(), ApiError> {
    let has = match (reach(read, user, right, table), key) {
        (Reach::All, _) => true,
        (Reach::Rows(keys), Some(key)) => keys.contains(key),
        (Reach::Rows(_), None) => false,
    };
    match has || mutated("access") {
        true => Ok(()),
        false => Err(denied(right, table)),
    }
}

/// The permissions of a user and of the groups the user is in, directly or by other groups.
fn permissions(read: &dyn Read, user: i64) -> Vec<Arc<Row>> {
    let mut members = vec![format!("users/{user}")];
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    while let Some(member) = members.pop() {
        if !seen.insert(member.clone()) {
            continue;
        }
        let Some((table, key)) = member.split_once('/') else {
            continue;
        };
        let Some(row) = read.get(table, key) else {
            continue;
        };
        if !row.flag("enabled") {
            continue;
        }
        if let Some(identity) = row.reference("identity") {
            found.extend(read.children("permissions", "identity", &identity));
        }
        for membership in read.children("members", "member", &member) {
            if let Some(group) = membership
                .reference("parent_group")
                .filter(|_| !mutated("group_rights"))
            {
                members.push(format!("groups/{group}"));
            }
        }
    }
    found
}
