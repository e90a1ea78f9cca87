//! Apps, their configs and budgets.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boxrig_wire::{Form, Result, Secret};
use jiff::Timestamp;

use super::{one, two};
use crate::client::{calls, group};
use crate::models::{
    App, AppBudgetDismissRecoveryResult, AppBudgetShutdownState, AppBudgetSimulationResult,
    AppConfig, AppCost, AppDiagnosticReport, Balancer, ManifestService, Metric, ServiceMetricsRow,
};
use crate::ops;
use crate::ops::apps::{AppCreateForm, AppMetricsQuery, AppUpdateForm};
use crate::ops::budget::{
    AppBudgetClearForm, AppBudgetDismissRecoveryForm, AppBudgetResetForm, AppBudgetSetForm,
};
use crate::ops::configs::AppConfigSetForm;
use crate::ops::diagnose::AppDiagnoseQuery;
use crate::ops::metrics::MetricsByServiceQuery;
use crate::ops::services::ServiceMetricsQuery;
use crate::ops::system::SystemMetricsQuery;
use crate::types::AppBudgetReport;
use crate::values::{Csv, FieldMap, format_time};

group! {
    /// Apps.
    Apps by apps,
    /// Configs of an app: named files of a few kilobytes.
    Configs by configs,
    /// What an app may cost, and what it does cost.
    Budgets by budgets,
}

/// Which figures, of what time, how fine.
///
/// ```
/// use boxrig_convox::Metrics;
/// use std::time::Duration;
/// let last_hour = Metrics::new().start(jiff::Timestamp::UNIX_EPOCH).period(Duration::from_secs(60)).names(["cpu"]);
/// # let _ = last_hour;
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    start: Option<Timestamp>,
    end: Option<Timestamp>,
    period: Option<Duration>,
    names: Vec<String>,
}

impl Metrics {
    /// All figures of the time that the rack takes when nothing is said.
    pub fn new() -> Self {
        Self::default()
    }
    /// From this moment.
    pub fn start(mut self, at: Timestamp) -> Self {
        self.start = Some(at);
        self
    }
    /// To this moment.
    pub fn end(mut self, at: Timestamp) -> Self {
        self.end = Some(at);
        self
    }
    /// A figure for each span of this length, in whole seconds.
    pub fn period(mut self, span: Duration) -> Self {
        self.period = Some(span);
        self
    }
    /// Only these figures.
    pub fn names<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.names = names.into_iter().map(Into::into).collect();
        self
    }

    /// The fields as racks read them.
    fn fields(self) -> Result<AppMetricsQuery> {
        Ok(AppMetricsQuery {
            end: self.end.map(format_time),
            metrics: Csv::new(self.names)?,
            start: self.start.map(format_time),
            period: self
                .period
                .map(|p| i64::try_from(p.as_secs()).unwrap_or(i64::MAX)),
        })
    }
    pub(crate) fn of_service(self) -> Result<ServiceMetricsQuery> {
        let AppMetricsQuery {
            end,
            metrics,
            start,
            period,
        } = self.fields()?;
        Ok(ServiceMetricsQuery {
            end,
            metrics,
            start,
            period,
        })
    }
    pub(crate) fn of_system(self) -> Result<SystemMetricsQuery> {
        let AppMetricsQuery {
            end,
            metrics,
            start,
            period,
        } = self.fields()?;
        Ok(SystemMetricsQuery {
            end,
            metrics,
            start,
            period,
        })
    }
}

calls! { Apps {
    /// All apps, by name.
    list() -> Vec<App> = ops::apps::AppList {};
    /// One app.
    get(app: &str) -> App = ops::apps::AppGet { path: one(app) };
    /// Creates an app with settings; its status says when it is done. Never sent twice.
    create_with(form: AppCreateForm) -> App = ops::apps::AppCreate { body: Form(form) };
    /// Begins to delete an app; its status turns to `deleting`.
    delete(app: &str) -> () = ops::apps::AppDelete { path: one(app) };
    /// Changes lock and parameters.
    update(app: &str, form: AppUpdateForm) -> () = ops::apps::AppUpdate { path: one(app), body: Form(form) };
    /// Cancels the promotion that is under way.
    cancel(app: &str) -> () = ops::apps::AppCancel { path: one(app) };
    /// What is wrong with an app, as the rack finds it.
    diagnose(app: &str, which: AppDiagnoseQuery) -> AppDiagnosticReport = ops::diagnose::AppDiagnose { path: one(app), query: which };
    /// Where an app is reached.
    balancers(app: &str) -> Vec<Balancer> = ops::balancers::BalancerList { path: one(app) };
    /// A service as the manifest of the active release has it.
    manifest_service(app: &str, service: &str) -> ManifestService = ops::manifest::AppManifestService { path: two(app, service) };
} }

impl Apps<'_> {
    /// Creates an app. It has nothing to run yet; its status says when it is done. Never sent twice.
    ///
    /// # Errors
    ///
    /// [`Kind::Conflict`](boxrig_wire::Kind::Conflict) when the name is taken, else the rack's.
    pub async fn create(&self, app: &str) -> Result<App> {
        let name = app.to_owned();
        self.create_with(AppCreateForm {
            name,
            ..Default::default()
        })
        .await
    }

    /// Locks an app against deletion, or takes the lock away.
    ///
    /// # Errors
    ///
    /// The rack's.
    pub async fn lock(&self, app: &str, locked: bool) -> Result<()> {
        let lock = Some(locked);
        self.update(
            app,
            AppUpdateForm {
                lock,
                ..Default::default()
            },
        )
        .await
    }

    /// Sets parameters; others stay as they are.
    ///
    /// # Errors
    ///
    /// The rack's, for a parameter that it does not know among others.
    pub async fn set_parameters<K: Into<String>, V: Into<String>>(
        &self,
        app: &str,
        parameters: impl IntoIterator<Item = (K, V)>,
    ) -> Result<()> {
        let parameters: FieldMap = parameters.into_iter().collect();
        self.update(
            app,
            AppUpdateForm {
                parameters,
                ..Default::default()
            },
        )
        .await
    }

    /// An app's figures.
    ///
    /// # Errors
    ///
    /// [`Kind::Unsupported`](boxrig_wire::Kind::Unsupported) where the rack keeps none.
    pub async fn metrics(&self, app: &str, which: Metrics) -> Result<Vec<Metric>> {
        let query = which.fields()?;
        self.client
            .send(
                parts::<ops::apps::AppMetrics>(one(app), query),
                &self.options,
            )
            .await
    }

    /// The figures of an app's services; all of them, or those named.
    ///
    /// # Errors
    ///
    /// [`Kind::Unsupported`](boxrig_wire::Kind::Unsupported) where the rack keeps none.
    pub async fn metrics_by_service(
        &self,
        app: &str,
        services: &[&str],
        which: Metrics,
    ) -> Result<Vec<ServiceMetricsRow>> {
        let AppMetricsQuery {
            end,
            metrics,
            start,
            period,
        } = which.fields()?;
        let services = Csv::new(services.iter().copied())?;
        let query = MetricsByServiceQuery {
            services,
            end,
            metrics,
            start,
            period,
        };
        self.client
            .send(
                parts::<ops::metrics::MetricsByService>(one(app), query),
                &self.options,
            )
            .await
    }
}

/// A request of a path and a query.
pub(crate) fn parts<E: boxrig_wire::Endpoint>(
    path: E::Path,
    query: E::Query,
) -> crate::client::Parts<E>
where
    E::Headers: Default,
    E::Body: Default,
{
    crate::client::Parts {
        path,
        query,
        headers: Default::default(),
        body: Default::default(),
    }
}

calls! { Configs {
    /// The configs of an app. Their values are base64.
    list(app: &str) -> Vec<AppConfig> = ops::configs::AppConfigList { path: one(app) };
    /// One config.
    get(app: &str, name: &str) -> AppConfig = ops::configs::AppConfigGet { path: two(app, name) };
} }

impl Configs<'_> {
    /// Writes a config. Values of several lines are no matter here, as they are in the environment.
    ///
    /// # Errors
    ///
    /// The rack's.
    pub async fn set(&self, app: &str, name: &str, value: &[u8]) -> Result<()> {
        let value = Secret::new(STANDARD.encode(value));
        let mut request = parts::<ops::configs::AppConfigSet>(two(app, name), Default::default());
        request.body = Form(AppConfigSetForm { value });
        self.client.send(request, &self.options).await
    }
}

calls! { Budgets {
    /// An app's budget, and how far it is used up.
    get(app: &str) -> AppBudgetReport = ops::budget::AppBudgetGet { path: one(app) };
    /// Sets an app's budget.
    set(app: &str, form: AppBudgetSetForm) -> () = ops::budget::AppBudgetSet { path: one(app), body: Form(form) };
    /// Takes the budget away.
    clear(app: &str) -> () = ops::budget::AppBudgetClear { path: one(app), body: Form(AppBudgetClearForm::default()) };
    /// Closes the breaker that a used-up budget has opened.
    reset(app: &str, form: AppBudgetResetForm) -> () = ops::budget::AppBudgetReset { path: one(app), body: Form(form) };
    /// What was shut down for the budget's sake, and when it comes back.
    shutdown_state(app: &str) -> Option<AppBudgetShutdownState> = ops::budget::AppBudgetShutdownStateGet { path: one(app) };
    /// What would be shut down.
    simulate_shutdown(app: &str) -> AppBudgetSimulationResult = ops::budget::AppBudgetSimulate { path: one(app) };
    /// Takes the notice of a recovery away.
    dismiss_recovery(app: &str) -> AppBudgetDismissRecoveryResult = ops::budget::AppBudgetDismissRecovery { path: one(app), body: Form(AppBudgetDismissRecoveryForm::default()) };
    /// What an app has cost this month.
    cost(app: &str) -> AppCost = ops::cost::AppCost { path: one(app) };
} }
