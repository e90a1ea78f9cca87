//! What processes used, as it was measured while the server ran.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use boxrig_convox::{Csv, Reply, models, ops};
use boxrig_wire::{ApiError, Request};

use super::Cx;
use super::records::Phase;
use super::state::{Shared, instance};
use super::time::{parse_sortable, stamp};
use crate::state::lock;

/// Time between two measurements.
const EVERY: Duration = Duration::from_secs(5);
/// They are kept this long.
const KEPT_MS: u64 = 2 * 3600 * 1000;
/// The longest range, the shortest step and the most points that may be asked for.
const RANGE_MS: u64 = 24 * 3600 * 1000;
const STEP_S: i64 = 5;
const POINTS: u64 = 5000;
const SERVICES: usize = 100;
/// What is measured.
const NAMES: [&str; 3] = ["cpu", "memory", "processes"];

/// One measurement of all processes: of each service its processors' thousandths, MiB and number.
#[derive(Debug)]
struct Sample {
    at_ms: u64,
    services: BTreeMap<(String, String), [f64; 3]>,
}

/// The measurements of the last while.
#[derive(Debug, Default)]
pub(super) struct Samples(Mutex<VecDeque<Sample>>);

/// Measures for as long as the server runs.
pub(super) async fn run(state: Shared) {
    loop {
        let running = state.processes.list();
        let running = running.iter().filter(|p| p.phase == Phase::Running);
        let mut services: BTreeMap<(String, String), [f64; 3]> = BTreeMap::new();
        for process in running {
            let Ok(id) = instance(&process.id) else {
                continue;
            };
            let Ok(stats) = state.core.engine.stats(&id).await else {
                continue;
            };
            let sum = services
                .entry((process.app.clone(), process.service.clone()))
                .or_default();
            sum[0] += state.usage.cpu(&process.id, stats.cpu_time);
            sum[1] += stats.memory_bytes.unwrap_or(0) as f64 / (1024.0 * 1024.0);
            sum[2] += 1.0;
        }
        let at_ms = state.core.now_ms();
        {
            let mut all = lock(&state.samples.0);
            all.push_back(Sample { at_ms, services });
            while all.front().is_some_and(|s| s.at_ms + KEPT_MS < at_ms) {
                all.pop_front();
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// What is asked for.
struct Ask {
    from: u64,
    to: u64,
    step: u64,
    names: Vec<&'static str>,
}

fn ask(
    cx: &Cx,
    start: Option<String>,
    end: Option<String>,
    period: Option<i64>,
    metrics: &Csv,
) -> Result<Ask, ApiError> {
    let time = |t: Option<String>| t.as_deref().and_then(parse_sortable);
    let to = time(end).unwrap_or_else(|| cx.core.now_ms());
    let from = time(start).unwrap_or_else(|| to.saturating_sub(30 * 60 * 1000));
    if to <= from {
        return Err(ApiError::invalid("metrics: end must be after start"));
    }
    if to - from > RANGE_MS {
        return Err(ApiError::invalid("metrics: end-start must be at most 24h"));
    }
    let period = period.filter(|p| *p > 0).unwrap_or(30);
    if period < STEP_S {
        return Err(ApiError::invalid(format!(
            "metrics: period must be at least 5s (got {period}s)"
        )));
    }
    let step = u64::try_from(period).unwrap_or(30) * 1000;
    let points = (to - from) / step;
    if points > POINTS {
        return Err(ApiError::invalid(format!(
            "metrics: too many points per series ({points} > {POINTS}); widen period or shrink range"
        )));
    }
    let wanted = |name: &&str| metrics.0.is_empty() || metrics.0.iter().any(|m| m == name);
    Ok(Ask {
        from,
        to,
        step,
        names: NAMES.into_iter().filter(wanted).collect(),
    })
}

/// The series of what `of` picks, summed at each measurement; a point for each step that has measurements.
fn series(cx: &Cx, ask: &Ask, of: impl Fn(&str, &str) -> bool) -> Vec<models::Metric> {
    let all = lock(&cx.samples.0);
    let mut steps: BTreeMap<u64, Vec<[f64; 3]>> = BTreeMap::new();
    for sample in all
        .iter()
        .filter(|s| s.at_ms >= ask.from && s.at_ms <= ask.to)
    {
        let mut sum = [0.0; 3];
        for ((app, service), values) in &sample.services {
            if of(app, service) {
                for (sum, value) in sum.iter_mut().zip(values) {
                    *sum += value;
                }
            }
        }
        let step = ask.from + (sample.at_ms - ask.from) / ask.step * ask.step;
        steps.entry(step).or_default().push(sum);
    }
    let metric = |name: &&'static str| {
        let at = NAMES.iter().position(|n| n == name).unwrap_or(0);
        let mut m = models::Metric::default();
        m.name = (*name).to_owned();
        m.values = steps
            .iter()
            .map(|(time, values)| {
                let values = values.iter().map(|v| v[at]);
                let mut v = models::MetricValue::default();
                v.count = values.clone().count() as f64;
                v.sum = values.clone().sum();
                v.avg = v.sum / v.count;
                v.max = values.clone().fold(f64::MIN, f64::max);
                v.min = values.fold(f64::MAX, f64::min);
                v.time = stamp(*time);
                v
            })
            .collect();
        m
    };
    ask.names.iter().map(metric).collect()
}

pub(super) async fn system(
    cx: Cx,
    rq: Request<ops::system::SystemMetrics>,
) -> Result<Reply<Vec<models::Metric>>, ApiError> {
    let q = rq.query;
    let ask = ask(&cx, q.start, q.end, q.period, &q.metrics)?;
    Ok(Reply(series(&cx, &ask, |_, _| true)))
}

pub(super) async fn app(
    cx: Cx,
    rq: Request<ops::apps::AppMetrics>,
) -> Result<Reply<Vec<models::Metric>>, ApiError> {
    let (name,) = rq.path;
    cx.app(&name)?;
    let q = rq.query;
    let ask = ask(&cx, q.start, q.end, q.period, &q.metrics)?;
    Ok(Reply(series(&cx, &ask, |app, _| app == name)))
}

pub(super) async fn service(
    cx: Cx,
    rq: Request<ops::services::ServiceMetrics>,
) -> Result<Reply<Vec<models::Metric>>, ApiError> {
    let (name, of) = rq.path;
    cx.app(&name)?;
    let q = rq.query;
    let ask = ask(&cx, q.start, q.end, q.period, &q.metrics)?;
    Ok(Reply(series(&cx, &ask, |app, service| {
        app == name && service == of
    })))
}

pub(super) async fn by_service(
    cx: Cx,
    rq: Request<ops::metrics::MetricsByService>,
) -> Result<Reply<Vec<models::ServiceMetricsRow>>, ApiError> {
    let (name,) = rq.path;
    cx.app(&name)?;
    let q = rq.query;
    let ask = ask(&cx, q.start, q.end, q.period, &q.metrics)?;
    if q.services.0.len() > SERVICES {
        return Err(ApiError::invalid(format!(
            "metrics: at most {SERVICES} services"
        )));
    }
    let row = |of: &String| {
        let mut m = models::ServiceMetricsRow::default();
        m.name = of.clone();
        m.metrics = series(&cx, &ask, |app, service| app == name && service == of);
        m
    };
    Ok(Reply(q.services.0.iter().map(row).collect()))
}
