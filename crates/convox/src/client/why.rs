//! Why an app is not as it should be, put together from what a rack says in several places.

use std::fmt;
use std::time::Duration;

use boxrig_wire::{Kind, Result, Untrusted};
use futures_util::{StreamExt, future};
use serde::Serialize;

use super::{Apps, LogOptions};
use crate::models::{App, AppDiagnosticReport, Build, Process, Release, Service};
use crate::ops::diagnose::AppDiagnoseQuery;

/// What was found about an app.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Why {
    /// The app's name.
    pub app: Untrusted,
    /// Its status, in the rack's word.
    pub status: Untrusted,
    /// Its active release; empty when none was promoted yet.
    pub release: Untrusted,
    /// What was found, the gravest first.
    pub findings: Vec<Finding>,
    /// The last lines of its log.
    pub log: Vec<Untrusted>,
}

/// One thing that was found.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// Whether it keeps the app from running as it should.
    pub problem: bool,
    /// What it is about: `app`, `build B…`, `service web`, `process …`.
    pub about: Untrusted,
    /// What is so.
    pub what: Untrusted,
    /// What can be done.
    pub hint: Option<Untrusted>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.about, self.what)
    }
}

impl Why {
    /// What keeps the app from running as it should.
    pub fn problems(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|f| f.problem)
    }

    fn add(
        &mut self,
        problem: bool,
        about: impl Into<Untrusted>,
        what: impl Into<Untrusted>,
        hint: &str,
    ) {
        self.findings.push(Finding {
            problem,
            about: about.into(),
            what: what.into(),
            hint: Some(hint).filter(|h| !h.is_empty()).map(Untrusted::new),
        });
    }
}

/// The lines of the log that are shown.
const LINES: u32 = 20;

impl Apps<'_> {
    /// Looks for the reason why an app is not as it should be: status, services, processes, the last build, the rack's own
    /// diagnosis, the end of the log.
    ///
    /// # Errors
    ///
    /// When the app itself cannot be read. What else a rack does not offer is left out.
    pub async fn why(&self, app: &str) -> Result<Why> {
        let of = self.get(app).await?;
        let client = self.client;
        let (services, processes, builds) =
            (client.services(), client.processes(), client.builds());
        let (services, processes, builds) = (
            services.with(self.options.clone()),
            processes.with(self.options.clone()),
            builds.with(self.options.clone()),
        );
        let releases = client.releases().with(self.options.clone());
        let which = AppDiagnoseQuery {
            lines: Some(5),
            ..Default::default()
        };
        let ((services, processes, builds), (newest, diagnosis, log)) = future::join(
            future::join3(
                services.list(app),
                processes.list(app),
                builds.list(app, Some(1)),
            ),
            future::join3(
                releases.newest(app),
                self.diagnose(app, which),
                self.last_lines(app),
            ),
        )
        .await;
        let mut why = Why {
            app: Untrusted::new(&*of.name),
            status: Untrusted::new(&*of.status),
            release: Untrusted::new(&*of.release),
            ..Why::default()
        };
        of_app(&mut why, &of, newest.ok().flatten().as_ref());
        of_builds(&mut why, &builds.unwrap_or_default());
        of_services(
            &mut why,
            &services.unwrap_or_default(),
            &processes.unwrap_or_default(),
        );
        match diagnosis {
            Ok(report) => of_diagnosis(&mut why, &report),
            Err(e) if e.kind() == Kind::Unsupported => {}
            Err(e) => why.add(false, "diagnosis", e.to_string(), ""),
        }
        why.log = log;
        why.findings.sort_by_key(|f| !f.problem);
        Ok(why)
    }

    /// The end of the log, if it can be had soon.
    async fn last_lines(&self, app: &str) -> Vec<Untrusted> {
        let mut out = Vec::new();
        let reading = async {
            let Ok(mut log) = self.logs(app, LogOptions::new().tail(LINES)).await else {
                return;
            };
            while let Some(Ok(line)) = log.next().await {
                out.push(Untrusted::new(String::from_utf8_lossy(line.raw())));
                if out.len() > LINES as usize {
                    out.remove(0);
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(3), reading).await;
        out
    }
}

fn of_app(why: &mut Why, app: &App, newest: Option<&Release>) {
    match &*app.status {
        "running" => {}
        "updating" | "creating" => why.add(false, "app", format!("it is {}", app.status), ""),
        "rollback" => why.add(
            true,
            "app",
            "the last promotion failed and is being taken back",
            "the log and the processes tell why",
        ),
        other => why.add(true, "app", format!("it is {other}"), ""),
    }
    match newest {
        None if app.release.is_empty() => {
            why.add(
                true,
                "app",
                "nothing was released yet",
                "`boxrig deploy DIR --app NAME --promote`",
            );
        }
        Some(newest) if app.release.is_empty() => {
            let hint = format!("`boxrig convox release-promote {} {}`", app.name, newest.id);
            why.add(
                true,
                "app",
                format!("no release is active; the newest is {}", newest.id),
                &hint,
            );
        }
        Some(newest) if newest.id != app.release => {
            let hint = format!("`boxrig convox release-promote {} {}`", app.name, newest.id);
            why.add(
                false,
                format!("release {}", newest.id),
                "it is newer than the active one and not promoted",
                &hint,
            );
        }
        _ => {}
    }
    if app.locked {
        why.add(false, "app", "it is locked against deletion", "");
    }
}

fn of_builds(why: &mut Why, builds: &[Build]) {
    let Some(build) = builds.first() else { return };
    let about = format!("build {}", build.id);
    match &*build.status {
        "failed" => {
            let reason = match build.reason.is_empty() {
                true => "the last build failed".to_owned(),
                false => format!("the last build failed: {}", build.reason),
            };
            why.add(
                true,
                about,
                reason,
                &format!("`boxrig convox build-logs {} {}`", build.app, build.id),
            );
        }
        "running" | "created" => why.add(false, about, "it is being built", ""),
        _ => {}
    }
}

fn of_services(why: &mut Why, services: &[Service], processes: &[Process]) {
    for service in services {
        let mine = processes
            .iter()
            .filter(|p| p.service == service.name || p.name == service.name);
        let running = mine.filter(|p| p.status == "running").count();
        let wanted = usize::try_from(service.count).unwrap_or(0);
        if running < wanted {
            let about = format!("service {}", service.name);
            why.add(
                true,
                about,
                format!("{running} of {wanted} processes run"),
                "",
            );
        }
    }
    for process in processes
        .iter()
        .filter(|p| !matches!(&*p.status, "running" | "complete"))
    {
        // One that has just been started is no problem yet.
        let problem = !matches!(&*process.status, "pending" | "starting" | "");
        let name = if process.service.is_empty() {
            &process.name
        } else {
            &process.service
        };
        let about = format!("process {} of {name}", process.id);
        why.add(problem, about, format!("it is {}", process.status), "");
    }
}

fn of_diagnosis(why: &mut Why, report: &AppDiagnosticReport) {
    let overview = report.overview.clone().unwrap_or_default();
    for service in overview
        .services
        .iter()
        .filter(|s| !s.stall_reason.is_empty())
    {
        why.add(
            true,
            format!("service {}", service.name),
            service.stall_reason.clone(),
            "",
        );
    }
    for pod in report
        .pods
        .iter()
        .filter(|p| !matches!(&*p.classification, "healthy" | ""))
    {
        let mut what = pod.classification.clone();
        if !pod.state_detail.is_empty() {
            what.push_str(&format!(", {}", pod.state_detail));
        }
        if pod.restarts > 0 {
            what.push_str(&format!(", restarted {} times", pod.restarts));
        }
        why.add(
            pod.classification != "new",
            format!("process {}", pod.name),
            what,
            &pod.hint,
        );
    }
    for event in overview.events.iter().filter(|e| e.r#type == "Warning") {
        why.add(
            false,
            event.object.clone(),
            format!("{}: {}", event.reason, event.message),
            &event.hint,
        );
    }
}
