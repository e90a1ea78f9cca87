//! A server made wrong on purpose, so that a check can show that it notices.
//!
//! `BOXRIG_MUTATE=NAME` is read by builds with debug assertions only; a release knows no mutation. `cargo xtask peers
//! vergeos --suite scenarios` runs every scenario once against the server as it is and once against its mutation.
//!
//! | name | what is wrong |
//! | --- | --- |
//! | `act:TABLE.ACTION` | the action answers as if done, and does nothing |
//! | `hook:TABLE.HOOK` | what rows of the table do is left out (`before_create`, `after_update`, …) |
//! | `cell:TABLE.COLUMN` | the cell is never stored |
//! | `timer:PREFIX` | what is due is forgotten |
//! | other names | stand where they are asked for |

/// Whether the server has this mutation.
pub(super) fn mutated(name: &str) -> bool {
    mutation().is_some_and(|is| is == name)
}

/// Whether the server has the mutation `kind:of`.
pub(super) fn is(kind: &str, of: impl FnOnce() -> String) -> bool {
    let named = mutation().and_then(|is| is.strip_prefix(kind)?.strip_prefix(':'));
    named.is_some_and(|named| named == of())
}

/// The column of a table that a mutation keeps from being stored.
pub(super) fn lost_cell(table: &str) -> Option<&'static str> {
    let named = mutation()?.strip_prefix("cell:")?;
    named.strip_prefix(table)?.strip_prefix('.')
}

/// The beginning of the names of timers that a mutation forgets.
pub(super) fn lost_timer(name: &str) -> bool {
    let named = mutation().and_then(|is| is.strip_prefix("timer:"));
    named.is_some_and(|prefix| name.starts_with(prefix))
}

#[cfg(debug_assertions)]
fn mutation() -> Option<&'static str> {
    static MUTATION: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    MUTATION
        .get_or_init(|| std::env::var("BOXRIG_MUTATE").ok())
        .as_deref()
}

#[cfg(not(debug_assertions))]
fn mutation() -> Option<&'static str> {
    None
}
