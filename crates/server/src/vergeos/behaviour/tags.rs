//! Tags: a category says which things can carry its tags, and whether one thing can carry several of them.

use super::Behaviour;
use super::kit::{self, Done, conflict, invalid};
use crate::vergeos::db::Read;
use crate::vergeos::row::{Row, split_poly};
use crate::vergeos::tx::Tx;

/// See the module.
pub(super) struct Tags;

fn allowed(tx: &Tx<'_>, row: &Row) -> Done {
    // What is missing or is not there is refused by the checks of the row.
    let tag = row.reference("tag").and_then(|key| tx.get("tags", &key));
    let category = tag.as_ref().and_then(|tag| tag.reference("category"));
    let category = category.and_then(|key| tx.get("tag_categories", &key));
    let (Some(tag), Some(category)) = (tag, category) else {
        return Ok(());
    };
    let member = row.text("member");
    let table = split_poly(member).map_or("", |(table, _)| table);
    let name = category.text("name");
    if !category.flag(&format!("taggable_{table}")) && !kit::mutated("taggable") {
        return Err(invalid(format!(
            "Tags of the category '{name}' are not for {table}"
        )));
    }
    if !category.flag("single_tag_selection") || kit::mutated("single_tag") {
        return Ok(());
    }
    let others = tx.children("tag_members", "member", member);
    let others = others.iter().filter(|m| m.key() != row.key());
    let mut others = others.filter_map(|m| m.reference("tag"));
    let of_category = |key: &String| {
        let other = tx.get("tags", key);
        other.is_some_and(|other| {
            other.key() != tag.key() && other.reference("category") == tag.reference("category")
        })
    };
    match others.any(|key| of_category(&key)) {
        true => Err(conflict(format!(
            "'{member}' has a tag of the category '{name}', which allows one"
        ))),
        false => Ok(()),
    }
}

impl Behaviour for Tags {
    fn before_create(&self, tx: &mut Tx<'_>, table: &str, row: &mut Row) -> Done {
        match table {
            "tag_members" => allowed(tx, row),
            _ => Ok(()),
        }
    }

    fn before_update(&self, tx: &mut Tx<'_>, table: &str, old: &Row, new: &mut Row) -> Done {
        match table {
            "tag_members" if new != old => allowed(tx, new),
            _ => Ok(()),
        }
    }
}
