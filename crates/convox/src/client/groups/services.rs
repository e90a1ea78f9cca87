//! Services.

use boxrig_wire::{Error, Form, Kind, Result};

use super::{one, two};
use crate::client::groups::Metrics;
use crate::client::{Parts, calls, group};
use crate::models::{Metric, Service, ServiceTriggersOptions};
use crate::ops;
use crate::ops::services::{
    ServiceScaleOverrideSetForm, ServiceTriggersDisableForm, ServiceTriggersEnableForm,
    ServiceTriggersThresholdSetForm, ServiceUpdateForm,
};

group! {
    /// Services: what of an app runs in how many processes.
    Services by services,
}

calls! { Services {
    /// The services of an app.
    list(app: &str) -> Vec<Service> = ops::services::ServiceList { path: one(app) };
    /// Changes the scale of a service: processes, cpu (thousandths), memory (MB), limits.
    update(app: &str, service: &str, form: ServiceUpdateForm) -> () = ops::services::ServiceUpdate { path: two(app, service), body: Form(form) };
    /// Restarts the processes of a service, one after the other. Never sent twice.
    restart(app: &str, service: &str) -> () = ops::services::ServiceRestart { path: two(app, service) };
    /// Holds the scale as it is, or lets it go again.
    override_scale(app: &str, service: &str, active: bool) -> () = ops::services::ServiceScaleOverrideSet { path: two(app, service), body: Form(ServiceScaleOverrideSetForm { active: Some(active), ack_by: None }) };
    /// Switches the triggers of a service off.
    disable_triggers(app: &str, service: &str) -> () = ops::services::ServiceTriggersDisable { path: two(app, service), body: Form(ServiceTriggersDisableForm::default()) };
    /// Changes the threshold of a trigger.
    trigger_threshold(app: &str, service: &str, kind: &str, threshold: f64) -> () = ops::services::ServiceTriggersThresholdSet { path: two(app, service), body: Form(ServiceTriggersThresholdSetForm { r#type: kind.to_owned(), threshold: Some(threshold), ack_by: None }) };
} }

impl Services<'_> {
    /// Sets how many processes a service has.
    ///
    /// # Errors
    ///
    /// The rack's.
    pub async fn scale(&self, app: &str, service: &str, count: u32) -> Result<()> {
        let count = Some(i64::from(count));
        self.update(
            app,
            service,
            ServiceUpdateForm {
                count,
                ..Default::default()
            },
        )
        .await
    }

    /// Scales by triggers.
    ///
    /// # Errors
    ///
    /// The rack's.
    pub async fn enable_triggers(
        &self,
        app: &str,
        service: &str,
        triggers: &ServiceTriggersOptions,
    ) -> Result<()> {
        let opts = serde_json::to_string(triggers).map_err(|e| {
            Error::new(Kind::Invalid, "the triggers cannot be written").with_source(e)
        })?;
        let body = Form(ServiceTriggersEnableForm {
            opts: Some(opts),
            ack_by: None,
        });
        let request = Parts::<ops::services::ServiceTriggersEnable> {
            path: two(app, service),
            body,
            ..Default::default()
        };
        self.client.send(request, &self.options).await
    }

    /// A service's figures.
    ///
    /// # Errors
    ///
    /// [`Kind::Unsupported`] where the rack keeps none.
    pub async fn metrics(&self, app: &str, service: &str, which: Metrics) -> Result<Vec<Metric>> {
        let query = which.of_service()?;
        self.client
            .send(
                super::apps::parts::<ops::services::ServiceMetrics>(two(app, service), query),
                &self.options,
            )
            .await
    }
}
