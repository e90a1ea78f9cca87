//! When a timer fires: five fields, in UTC.

use jiff::ToSpan;
use jiff::tz::TimeZone;

/// A schedule as it was read: for each field the values at which it fires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Schedule {
    minutes: Vec<u8>,
    hours: Vec<u8>,
    days: Vec<u8>,
    months: Vec<u8>,
    weekdays: Vec<u8>,
    /// Whether the field was a star: then the other of the two days decides alone.
    any_day: bool,
    any_weekday: bool,
}

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// A schedule that does not fire within this many days never does (29 February comes every eight years at the latest).
const HORIZON_DAYS: i64 = 366 * 9;

impl Schedule {
    /// Reads `minute hour day month weekday`; `?` is a star, lists, ranges, steps and names are taken, `@daily` and its
    /// like too.
    ///
    /// # Errors
    ///
    /// Names the field that cannot be read.
    pub(in super::super) fn parse(text: &str) -> Result<Self, String> {
        let text = match text.trim() {
            "@hourly" => "0 * * * *",
            "@daily" | "@midnight" => "0 0 * * *",
            "@weekly" => "0 0 * * 0",
            "@monthly" => "0 0 1 * *",
            "@yearly" | "@annually" => "0 0 1 1 *",
            other => other,
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            return Err(format!(
                "schedule {text:?} has {} fields, not five",
                fields.len()
            ));
        };
        let star = |f: &str| f == "*" || f == "?";
        let mut weekdays = field("weekday", weekday, 0, 7, &WEEKDAYS, 0)?;
        // 7 is Sunday too.
        if weekdays.contains(&7) {
            weekdays.retain(|d| *d != 7 && *d != 0);
            weekdays.insert(0, 0);
        }
        let schedule = Self {
            minutes: field("minute", minute, 0, 59, &[], 0)?,
            hours: field("hour", hour, 0, 23, &[], 0)?,
            days: field("day", day, 1, 31, &[], 1)?,
            months: field("month", month, 1, 12, &MONTHS, 1)?,
            weekdays,
            any_day: star(day),
            any_weekday: star(weekday),
        };
        match schedule.next_after(0) {
            Some(_) => Ok(schedule),
            None => Err(format!("schedule {text:?} never fires")),
        }
    }

    /// The next time after `seconds` since 1970 at which it fires.
    pub(in super::super) fn next_after(&self, seconds: u64) -> Option<u64> {
        let seconds = i64::try_from(seconds).ok()?;
        let minute = jiff::Timestamp::from_second(seconds - seconds.rem_euclid(60) + 60).ok()?;
        let from = minute.to_zoned(TimeZone::UTC).datetime();
        let mut date = from.date();
        for n in 0..HORIZON_DAYS {
            if self.on(date) {
                let first = if n == 0 {
                    (from.hour(), from.minute())
                } else {
                    (0, 0)
                };
                let hours = self.hours.iter().filter_map(|h| i8::try_from(*h).ok());
                for hour in hours.filter(|h| *h >= first.0) {
                    let minutes = self.minutes.iter().filter_map(|m| i8::try_from(*m).ok());
                    let from = if hour == first.0 { first.1 } else { 0 };
                    if let Some(minute) = minutes.filter(|m| *m >= from).min() {
                        let at = date.at(hour, minute, 0, 0).to_zoned(TimeZone::UTC).ok()?;
                        return u64::try_from(at.timestamp().as_second()).ok();
                    }
                }
            }
            date = date.checked_add(1.day()).ok()?;
        }
        None
    }

    fn on(&self, date: jiff::civil::Date) -> bool {
        let has = |list: &[u8], n: i8| u8::try_from(n).is_ok_and(|n| list.contains(&n));
        let day = has(&self.days, date.day());
        let weekday = has(&self.weekdays, date.weekday().to_sunday_zero_offset());
        let right = match (self.any_day, self.any_weekday) {
            // As cron has it: two restrictions are two ways to fire.
            (false, false) => day || weekday,
            _ => day && weekday,
        };
        right && has(&self.months, date.month())
    }
}

fn field(
    name: &str,
    text: &str,
    from: u8,
    to: u8,
    names: &[&str],
    first: u8,
) -> Result<Vec<u8>, String> {
    let wrong = || format!("{name} {text:?} of a schedule cannot be read");
    let number = |s: &str| {
        let lower = s.to_ascii_lowercase();
        let by_name = names.iter().position(|n| *n == lower);
        let n = match by_name {
            Some(at) => u8::try_from(at).ok().map(|at| at + first),
            None => s.parse::<u8>().ok(),
        };
        n.filter(|n| (from..=to).contains(n)).ok_or_else(wrong)
    };
    let mut all = Vec::new();
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (
                range,
                step.parse::<u8>()
                    .ok()
                    .filter(|s| *s > 0)
                    .ok_or_else(wrong)?,
            ),
            None => (part, 1),
        };
        let (low, high) = match range {
            // 7 stands for Sunday, which 0 is already.
            "*" | "?" => (from, if name == "weekday" { 6 } else { to }),
            _ => match range.split_once('-') {
                Some((low, high)) => (number(low)?, number(high)?),
                None if part.contains('/') => (number(range)?, to),
                None => (number(range)?, number(range)?),
            },
        };
        if low > high {
            return Err(wrong());
        }
        all.extend((low..=high).step_by(step.into()));
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}
