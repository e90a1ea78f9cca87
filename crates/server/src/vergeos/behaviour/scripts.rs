//! Task scripts: the few calls of the platform's script language that can be understood without it.
//!
//! `log`, `sleep`, `return_success` and `return_error` with literal arguments are carried out; a line with anything
//! else ends the run with an error that names it, so nothing is said to have been done that was not.

use serde_json::Value;
use std::time::Duration;

use super::kit::{self, Done};
use crate::vergeos::row::Row;
use crate::vergeos::state::Cx;

/// Longest sleep of a script in all, in seconds.
const MAX_SLEEP_S: u64 = 60;

/// One understood statement.
#[derive(Debug, PartialEq)]
enum Step {
    Log(String),
    Sleep(u64),
    Success,
    Failure(String),
}

/// Reads a script whole before anything of it is done.
fn read(script: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    for (n, line) in script.lines().enumerate() {
        for part in line.split(';') {
            let part = part.trim();
            if part.starts_with('#') || part.starts_with("//") {
                break;
            }
            if part.is_empty() {
                continue;
            }
            let step = statement(part);
            steps.push(step.ok_or_else(|| {
                format!(
                    "line {}: the local server does not understand '{part}'",
                    n + 1
                )
            })?);
        }
    }
    Ok(steps)
}

fn statement(text: &str) -> Option<Step> {
    let (name, rest) = text.split_once('(')?;
    let inner = rest.strip_suffix(')')?.trim();
    let quoted = || -> Option<String> {
        let quote = inner.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        let body = inner.strip_prefix(quote)?.strip_suffix(quote)?;
        (!body.contains(quote)).then(|| body.to_owned())
    };
    match name.trim() {
        "log" => quoted().map(Step::Log),
        "sleep" => inner.parse().ok().map(Step::Sleep),
        "return_success" if inner.is_empty() => Some(Step::Success),
        "return_error" => quoted().map(Step::Failure),
        _ => None,
    }
}

/// Runs a script.
pub(super) async fn run(cx: &Cx, script: &Row) -> Done {
    let steps = read(script.text("script")).map_err(kit::invalid)?;
    let mut slept = 0;
    for step in steps {
        match step {
            Step::Log(text) => {
                let name = script.text("name").to_owned();
                cx.write(|tx| kit::log(tx, "message", "task", &name, &text))
                    .await?;
            }
            Step::Sleep(seconds) => {
                slept += seconds;
                if slept > MAX_SLEEP_S {
                    return Err(kit::invalid(format!(
                        "a script may sleep {MAX_SLEEP_S} s in all"
                    )));
                }
                let until = cx.core.now() + Duration::from_secs(seconds);
                cx.core.clock.sleep_until(until).await;
            }
            Step::Success => break,
            Step::Failure(words) => return Err(kit::conflict(words)),
        }
    }
    cx.write(|tx| {
        tx.set(
            "task_scripts",
            &script.key(),
            Row::new().with("last_run", Value::from(tx.now())),
        )
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_understood_and_what_is_not() {
        let steps = read("# a script\nlog('hello'); sleep(2)\nreturn_success();").unwrap();
        assert_eq!(
            steps,
            [Step::Log("hello".into()), Step::Sleep(2), Step::Success]
        );
        assert!(read("delete_everything()").unwrap_err().contains("line 1"));
        assert!(read("log(name)").is_err(), "a variable is no literal");
    }
}
