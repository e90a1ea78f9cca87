//! Tasks that run and end, schedules on the server's clock, events that set tasks off.

use boxrig_vergeos::Written;
use boxrig_wire::{ApiError, BoxFuture};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan, Zoned};
use serde_json::{Value, json};

use super::kit::{self, Done, answer, cells, default};
use super::power::{self, Change, Owner};
use super::{Act, Behaviour};
use crate::vergeos::db::Read;
use crate::vergeos::row::{Row, split_poly};
use crate::vergeos::state::Cx;
use crate::vergeos::tx::Tx;

/// See the module.
pub(super) struct Tasks;

/// How far ahead a next time is looked for.
const HORIZON_STEPS: usize = 4_000;
/// Cells of a day of the week, Monday first.
const DAYS: [&str; 7] = [
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
    "sunday",
];

fn zoned(epoch: i64) -> Option<Zoned> {
    Timestamp::from_second(epoch)
        .ok()
        .map(|t| t.to_zoned(TimeZone::UTC))
}

/// Midnight of a moment's day.
fn midnight(at: &Zoned) -> Option<Zoned> {
    at.start_of_day().ok()
}

/// The first moment after `after` (epoch seconds) at which a schedule fires. Times are UTC.
pub(super) fn next_time(schedule: &Row, after: i64) -> Option<i64> {
    if schedule.get("enabled") == &Value::Bool(false) && !kit::mutated("disabled_schedules") {
        return None;
    }
    let every = schedule.int("repeat_iteration").max(1);
    let begin = schedule
        .int("start_date_epoch")
        .max(date(schedule.text("start_date")).unwrap_or(0));
    let end = date(schedule.text("end_date")).map(|d| d + 86_399);
    let of_day = schedule.int("start_time_of_day").clamp(0, 86_399);
    let until = match schedule.int("end_time_of_day") {
        0 => 86_400,
        n => n,
    };
    let day_wanted = |z: &Zoned| {
        let name = DAYS
            .get(usize::try_from(z.weekday().to_monday_zero_offset()).unwrap_or(0))
            .copied()
            .unwrap_or("monday");
        // Schedules that say nothing about days run on all of them.
        let says = DAYS.iter().any(|d| schedule.flag(d));
        !says || schedule.flag(name)
    };
    let fits = |epoch: i64| epoch > after && epoch >= begin && end.is_none_or(|e| epoch <= e);
    let first_day = midnight(&zoned(begin.max(1))?)?;
    let today = midnight(&zoned(after.max(begin))?)?;
    let repeat = schedule.text("repeat_every");
    let step = match repeat {
        "minute" => 60 * every,
        "hour" | "" => 3600 * every,
        _ => 0,
    };
    if step > 0 {
        // Counted within the day, from its first time to its last.
        let mut day = today;
        for _ in 0..400 {
            let base = day.timestamp().as_second();
            if day_wanted(&day) {
                let from = (after - base - of_day).max(-1);
                let n = if from < 0 { 0 } else { from / step + 1 };
                let at = base + of_day + n * step;
                if of_day + n * step <= until.min(86_399) && fits(at) {
                    return Some(at);
                }
            }
            day = day.checked_add(1.day()).ok()?;
        }
        return None;
    }
    let at_time = |day: &Zoned| {
        day.checked_add(SignedDuration::from_secs(of_day))
            .ok()
            .map(|z| z.timestamp().as_second())
    };
    let wanted_day = schedule.text("day_of_month");
    match repeat {
        "never" => at_time(&first_day).filter(|at| fits(*at)),
        "day" | "week" => {
            let mut day = today;
            for _ in 0..HORIZON_STEPS {
                let since = day.timestamp().as_second() - first_day.timestamp().as_second();
                let days = since / 86_400;
                let turn = match repeat {
                    "day" => days % every == 0,
                    _ => {
                        (days / 7) % every == 0
                            && (DAYS.iter().any(|d| schedule.flag(d)) || days % 7 == 0)
                    }
                };
                if turn
                    && day_wanted(&day)
                    && let Some(at) = at_time(&day).filter(|at| fits(*at))
                {
                    return Some(at);
                }
                day = day.checked_add(1.day()).ok()?;
            }
            None
        }
        _ => {
            let months = if repeat == "year" { 12 * every } else { every };
            for n in 0..600_i64 {
                let month = first_day
                    .first_of_month()
                    .ok()?
                    .checked_add((n * months).months())
                    .ok()?;
                let last = i64::from(month.days_in_month());
                let day = match wanted_day {
                    "last" => last,
                    "first" => 1,
                    text => text.parse().unwrap_or(i64::from(first_day.day())),
                };
                let day = month.checked_add((day.clamp(1, last) - 1).days()).ok()?;
                if let Some(at) = at_time(&day).filter(|at| fits(*at)) {
                    return Some(at);
                }
            }
            None
        }
    }
}

/// `2026-01-31` as the epoch of its midnight.
fn date(text: &str) -> Option<i64> {
    let date: jiff::civil::Date = text.get(..10)?.parse().ok()?;
    date.to_zoned(TimeZone::UTC)
        .ok()
        .map(|z| z.timestamp().as_second())
}

/// Arms the timer of a trigger, or forgets it.
fn arm(tx: &mut Tx<'_>, trigger: &Row) -> Done {
    let name = format!("schedule/{}", trigger.key());
    let schedule = trigger
        .reference("schedule")
        .and_then(|s| tx.get("task_schedules", &s));
    let next = schedule.and_then(|s| next_time(&s, tx.now()));
    match next.and_then(|at| u64::try_from(at).ok()) {
        Some(at) => tx.at(
            at.saturating_mul(1000),
            &name,
            json!({"trigger": trigger.key()}),
        ),
        _ => {
            tx.cancel(&name);
            Ok(())
        }
    }
}

/// Has the tasks run that wait for this event of this row.
pub(super) fn raise(tx: &mut Tx<'_>, table: &str, row: &str, event: &str) -> Done {
    let owner = format!("{table}/{row}");
    let waiting: Vec<_> = tx
        .all("task_events")
        .into_iter()
        .filter(|e| {
            e.text("event") == event
                && e.text("table") == table
                && (e.text("owner") == owner || e.text("owner").is_empty())
        })
        .collect();
    for event in waiting {
        if let Some(task) = event
            .reference("task")
            .filter(|_| !kit::mutated("event_fires"))
        {
            run_later(tx, &task);
        }
    }
    Ok(())
}

/// Runs a task after the commit.
fn run_later(tx: &mut Tx<'_>, task: &str) {
    let task = task.to_owned();
    tx.then(move |cx| async move {
        // A task that sets itself off by its own event would never end: it is run apart from what set it off.
        tokio::spawn(async move {
            if let Err(e) = run(&cx, &task, None).await {
                tracing::warn!(task, error = %e, "a task did not run");
            }
        });
    });
}

/// Runs a task: it is shown as running, does its action, and is idle again or shows its error.
async fn run(cx: &Cx, task: &str, params: Option<Value>) -> Done {
    let row = cx
        .write(|tx| {
            let row = kit::need(&*tx, "tasks", task)?;
            if row.text("status") == "running" {
                return Err(kit::conflict(format!(
                    "Task '{}' is already running",
                    row.text("name")
                )));
            }
            tx.set(
                "tasks",
                task,
                cells(
                    json!({"status": "running", "progress": 0, "error": "", "last_run": tx.now()}),
                ),
            )?;
            kit::log(tx, "message", "task", row.text("name"), "Task started")?;
            Ok(row)
        })
        .await?;
    let done = perform(cx, &row, params).await;
    cx.write(|tx| {
        let words = done.as_ref().err().map(ToString::to_string);
        kit::end_task(tx, task, words.as_deref())?;
        if row.flag("delete_after_run") && !row.flag("system_created") && words.is_none() {
            tx.delete("tasks", task)?;
        }
        Ok(())
    })
    .await
}

/// Does what a task is for.
async fn perform(cx: &Cx, task: &Row, params: Option<Value>) -> Done {
    let (owner, action) = (task.text("owner"), task.text("action"));
    let Some((table, own)) = split_poly(owner) else {
        return Err(kit::invalid(format!("The task has no owner: '{owner}'")));
    };
    let row = kit::need(&cx.db, table, own)?;
    let settings = match task.get("settings_args") {
        Value::String(text) => serde_json::from_str(text).unwrap_or(Value::Null),
        other => other.clone(),
    };
    let wish = |name: &str| {
        let of = |v: &Value| v.get(name).and_then(Value::as_str).map(str::to_owned);
        params.as_ref().and_then(of).or_else(|| of(&settings))
    };
    match (table, action) {
        ("vms", "poweron" | "poweroff" | "kill" | "reset" | "hibernate")
        | ("vnets", "poweron" | "poweroff" | "kill" | "reset") => {
            let change = match action {
                "poweron" => Change::On,
                "poweroff" => Change::Off,
                "kill" => Change::Kill,
                "reset" => Change::Reset,
                _ => Change::Hibernate,
            };
            let owner = Owner::of(if table == "vms" { "vms" } else { "vnets" }, &row)?;
            cx.write(|tx| power::begin(tx, &owner, change, None))
                .await
                .map(drop)
        }
        ("tenants", "poweron" | "poweroff" | "reset") => {
            let on = action != "poweroff";
            cx.write(|tx| super::tenants::power(tx, &row, on))
                .await
                .map(drop)
        }
        ("vms", "snapshot") => {
            let machine = row.get("machine").clone();
            let name =
                wish("name").unwrap_or_else(|| format!("{} {}", task.text("name"), cx.now()));
            let snapshot =
                cells(json!({"machine": machine, "name": name, "created_manually": false}));
            cx.write(|tx| tx.create("machine_snapshots", snapshot))
                .await
                .map(drop)
        }
        ("volumes", "snapshot") => {
            let name =
                wish("name").unwrap_or_else(|| format!("{} {}", task.text("name"), cx.now()));
            let snapshot = cells(json!({"volume": own, "name": name}));
            cx.write(|tx| tx.create("volume_snapshots", snapshot))
                .await
                .map(drop)
        }
        ("cloud_snapshots" | "system", "snapshot" | "cloud_snapshot") => {
            let name = wish("name").unwrap_or_else(|| format!("Snapshot_{}", cx.now()));
            cx.write(|tx| tx.create("cloud_snapshots", cells(json!({"name": name}))))
                .await
                .map(drop)
        }
        ("webhook_urls", "send") => {
            let message = wish("message").unwrap_or_else(|| "{}".to_owned());
            let own = own.to_owned();
            cx.write(|tx| super::webhooks::queue(tx, &own, &message))
                .await
                .map(drop)
        }
        ("task_scripts", "run") => super::scripts::run(cx, &row).await,
        ("volume_syncs", "start_sync") => cx.write(|tx| super::nas::start_sync(tx, &row)).await,
        _ => Err(ApiError::not_implemented(&format!(
            "task action {table}.{action}"
        ))),
    }
}

impl Behaviour for Tasks {
    fn actions(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("tasks", "execute"),
            ("tasks", "cancel"),
            ("task_scripts", "run"),
            ("task_events", "trigger"),
            ("task_schedule_triggers", "trigger"),
            ("task_schedules", "get_schedule"),
        ]
    }

    fn before_create(&self, tx: &mut Tx<'_>, table: &str, row: &mut Row) -> Done {
        match table {
            "tasks" => {
                default(row, "id", tx.ids().hex(40));
                let owner = row.text("owner").to_owned();
                if let Some((table, _)) = split_poly(&owner) {
                    default(row, "table", table.to_owned());
                }
                let shown = crate::vergeos::schema::label(row.text("action"));
                default(row, "action_display", shown);
                row.set("status", "idle");
            }
            "task_schedules" => {
                default(row, "repeat_every", "hour");
                if row.int("repeat_iteration") < 1 {
                    row.set("repeat_iteration", 1);
                }
                if row.int("start_date_epoch") == 0 {
                    let begin = date(row.text("start_date")).unwrap_or_else(|| tx.now());
                    row.set("start_date_epoch", begin);
                }
            }
            "task_events" => {
                // An event is one of what its task belongs to, unless it says otherwise.
                let task = row.reference("task").and_then(|t| tx.get("tasks", &t));
                if let Some(task) = task {
                    default(row, "owner", task.text("owner").to_owned());
                }
                let owner = row.text("owner").to_owned();
                if let Some((table, _)) = split_poly(&owner) {
                    default(row, "table", table.to_owned());
                }
                let shown = crate::vergeos::schema::label(row.text("event"));
                default(row, "event_name", shown);
            }
            _ => {}
        }
        Ok(())
    }

    fn after_create(&self, tx: &mut Tx<'_>, table: &str, row: &Row, _: &mut Row) -> Done {
        if table == "task_schedule_triggers" {
            arm(tx, row)?;
        }
        Ok(())
    }

    fn after_update(&self, tx: &mut Tx<'_>, table: &str, _: &Row, new: &Row) -> Done {
        match table {
            "task_schedules" => {
                for trigger in tx.children("task_schedule_triggers", "schedule", &new.key()) {
                    arm(tx, &trigger)?;
                }
            }
            "task_schedule_triggers" => arm(tx, new)?,
            _ => {}
        }
        Ok(())
    }

    fn before_delete(&self, tx: &mut Tx<'_>, table: &str, row: &Row) -> Done {
        if table == "task_scripts" {
            // A script takes its tasks with it.
            for task in tx.children("tasks", "owner", &format!("task_scripts/{}", row.key())) {
                tx.delete("tasks", &task.key())?;
            }
        }
        Ok(())
    }

    fn after_delete(&self, tx: &mut Tx<'_>, table: &str, row: &Row) -> Done {
        if table == "task_schedule_triggers" {
            tx.cancel(&format!("schedule/{}", row.key()));
        }
        Ok(())
    }

    fn timer<'a>(
        &'a self,
        cx: &'a Cx,
        name: &'a str,
        payload: &'a Value,
    ) -> BoxFuture<'a, Result<bool, ApiError>> {
        Box::pin(async move {
            let text = |field: &str| {
                payload
                    .get(field)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            };
            if name.starts_with("task.forget/") {
                let task = text("task");
                cx.write(|tx| {
                    let over = tx
                        .get("tasks", &task)
                        .is_some_and(|t| t.text("status") != "running");
                    if over {
                        tx.delete("tasks", &task)?;
                    }
                    Ok(())
                })
                .await?;
                return Ok(true);
            }
            if !name.starts_with("schedule/") {
                return Ok(false);
            }
            let own = text("trigger");
            cx.write(|tx| {
                let Some(trigger) = tx.get("task_schedule_triggers", &own) else {
                    return Ok(());
                };
                arm(tx, &trigger)?;
                let task = trigger.reference("task").and_then(|t| tx.get("tasks", &t));
                if let Some(task) = task.filter(|t| t.get("enabled") != &Value::Bool(false)) {
                    run_later(tx, &task.key());
                }
                Ok(())
            })
            .await?;
            Ok(true)
        })
    }

    fn start<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            // Triggers of a stocked laboratory were never armed; tasks that the last end cut off are told.
            let armed = cx.write(|tx| {
                let known = tx.timers();
                for trigger in tx.all("task_schedule_triggers") {
                    if !known.contains(&format!("schedule/{}", trigger.key())) {
                        arm(tx, &trigger)?;
                    }
                }
                for task in tx
                    .all("tasks")
                    .into_iter()
                    .filter(|t| t.text("status") == "running")
                {
                    kit::end_task(tx, &task.key(), Some("The server ended while the task ran"))?;
                }
                Ok(())
            });
            if let Err(e) = armed.await {
                tracing::warn!(error = %e, "schedules are not armed");
            }
        })
    }

    fn act<'a>(&'a self, cx: &'a Cx, act: Act) -> BoxFuture<'a, Result<Written, ApiError>> {
        Box::pin(async move {
            let row = act.target()?.clone();
            let own = row.key();
            match (act.table.as_str(), act.verb.as_str()) {
                ("tasks", "execute") => {
                    if row.text("status") == "running" {
                        return Err(kit::conflict(format!(
                            "Task '{}' is already running",
                            row.text("name")
                        )));
                    }
                    let params = Some(act.params.get("params").clone()).filter(|p| !p.is_null());
                    run(cx, &own, params).await?;
                }
                ("tasks", _) => {
                    cx.write(|tx| {
                        tx.set(
                            "tasks",
                            &own,
                            cells(json!({"status": "idle", "progress": 0})),
                        )
                    })
                    .await?;
                }
                ("task_scripts", _) => super::scripts::run(cx, &row).await?,
                ("task_events" | "task_schedule_triggers", _) => {
                    let task = row.reference("task").unwrap_or_default();
                    run(cx, &task, None).await?;
                }
                ("task_schedules", _) => {
                    let max = usize::try_from(act.params.int("max").clamp(1, 1440)).unwrap_or(100);
                    let from = if act.params.int("start_time") > 0 {
                        act.params.int("start_time") - 1
                    } else {
                        cx.now()
                    };
                    let end = Some(act.params.int("end_time")).filter(|e| *e > 0);
                    let mut times = Vec::new();
                    let mut at = from;
                    while times.len() < max {
                        match next_time(&row, at).filter(|t| end.is_none_or(|e| *t <= e)) {
                            Some(next) => {
                                times.push(json!({"time": next}));
                                at = next;
                            }
                            None => break,
                        }
                    }
                    return Ok(Written {
                        value: Some(json!({"times": times})),
                        status: http::StatusCode::OK,
                    });
                }
                _ => {}
            }
            let task = (act.table == "tasks").then_some(own.as_str());
            let mut written = kit::reply(answer(None, task));
            written.status = http::StatusCode::OK;
            Ok(written)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-01-01 00:00 UTC, a Thursday.
    const NEW_YEAR: i64 = 1_767_225_600;

    fn schedule(cells: Value) -> Row {
        kit::cells(cells)
    }

    #[test]
    fn the_next_times() {
        let hourly = schedule(
            json!({"repeat_every": "hour", "repeat_iteration": 2, "start_date_epoch": NEW_YEAR, "start_time_of_day": 3600}),
        );
        assert_eq!(next_time(&hourly, NEW_YEAR), Some(NEW_YEAR + 3600));
        assert_eq!(
            next_time(&hourly, NEW_YEAR + 3600),
            Some(NEW_YEAR + 3 * 3600)
        );
        assert_eq!(
            next_time(&hourly, NEW_YEAR + 23 * 3600),
            Some(NEW_YEAR + 25 * 3600),
            "the next day begins anew"
        );
        let daily = schedule(
            json!({"repeat_every": "day", "start_date_epoch": NEW_YEAR, "start_time_of_day": 7200}),
        );
        assert_eq!(
            next_time(&daily, NEW_YEAR + 7200),
            Some(NEW_YEAR + 86_400 + 7200)
        );
        let sundays =
            schedule(json!({"repeat_every": "week", "start_date_epoch": NEW_YEAR, "sunday": true}));
        assert_eq!(next_time(&sundays, NEW_YEAR), Some(NEW_YEAR + 3 * 86_400));
        let monthly = schedule(
            json!({"repeat_every": "month", "start_date_epoch": NEW_YEAR, "day_of_month": "last"}),
        );
        assert_eq!(next_time(&monthly, NEW_YEAR), Some(NEW_YEAR + 30 * 86_400));
        let once = schedule(
            json!({"repeat_every": "never", "start_date_epoch": NEW_YEAR, "start_time_of_day": 60}),
        );
        assert_eq!(
            (next_time(&once, NEW_YEAR), next_time(&once, NEW_YEAR + 60)),
            (Some(NEW_YEAR + 60), None)
        );
        let ended = schedule(
            json!({"repeat_every": "day", "start_date_epoch": NEW_YEAR, "end_date": "2026-01-02"}),
        );
        assert_eq!(next_time(&ended, NEW_YEAR + 86_400), None);
        assert_eq!(
            next_time(
                &schedule(json!({"enabled": false, "repeat_every": "minute"})),
                NEW_YEAR
            ),
            None
        );
    }
}
