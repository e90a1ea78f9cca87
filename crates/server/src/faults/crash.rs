//! Crash points; the table of them is in the documentation of the module above.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

use crate::state::lock;

/// Every point that [`crash_point`] knows.
pub const CRASH_POINTS: &[&str] = &[
    "state.begin",
    "state.write",
    "state.sync",
    "state.before_commit",
    "state.after_commit",
    "engine.create",
    "engine.snapshot",
    "upload.chunk",
    "delete.engine",
    "delete.state",
];

static ARMED: AtomicBool = AtomicBool::new(false);
static PASSES: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());
static TARGET: OnceLock<Option<(String, u64)>> = OnceLock::new();

/// Reads a `<point>:<n>` text.
fn parse_target(text: &str) -> Result<(String, u64), String> {
    let (point, n) = text
        .split_once(':')
        .ok_or_else(|| format!("BOXRIG_CRASH_AT={text:?}: expected <point>:<n>"))?;
    if !CRASH_POINTS.contains(&point) {
        return Err(format!(
            "BOXRIG_CRASH_AT: no point {point:?}; there are {}",
            CRASH_POINTS.join(", ")
        ));
    }
    match n.parse() {
        Ok(n) if n > 0 => Ok((point.to_owned(), n)),
        _ => Err(format!("BOXRIG_CRASH_AT: {n:?} is not a count from 1")),
    }
}

/// Starts the counting, when the server is ready.
///
/// # Errors
///
/// When `BOXRIG_CRASH_AT` is set to something that names no point.
pub fn arm() -> Result<(), String> {
    let target = match std::env::var("BOXRIG_CRASH_AT") {
        Ok(text) if !text.is_empty() => Some(parse_target(&text)?),
        _ => None,
    };
    TARGET.get_or_init(|| target);
    ARMED.store(true, Ordering::SeqCst);
    Ok(())
}

/// Passes a crash point: ends the process if it is the one that was asked for.
pub fn crash_point(name: &'static str) {
    debug_assert!(CRASH_POINTS.contains(&name), "{name} is not in the list");
    if !ARMED.load(Ordering::Relaxed) {
        return;
    }
    let passes = {
        let mut all = lock(&PASSES);
        let n = all.entry(name).or_default();
        *n += 1;
        *n
    };
    if let Some(Some((point, n))) = TARGET.get()
        && point == name
        && *n == passes
    {
        die();
    }
}

/// How often each point was passed since the server was ready.
pub fn passes() -> BTreeMap<&'static str, u64> {
    lock(&PASSES).clone()
}

fn die() -> ! {
    #[cfg(unix)]
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_name_a_point_and_a_count() {
        assert_eq!(
            parse_target("state.write:7"),
            Ok(("state.write".to_owned(), 7))
        );
        for bad in ["", "state.write", "state.write:0", "state.write:x", "x:1"] {
            assert!(parse_target(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_documentation_lists_every_point() {
        let text = include_str!("mod.rs");
        for point in CRASH_POINTS {
            assert!(text.contains(&format!("//! | `{point}` |")), "{point}");
        }
    }
}
