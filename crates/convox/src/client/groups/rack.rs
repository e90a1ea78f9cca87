//! The rack itself: system, instances, registries, certificates, events.

use boxrig_wire::{Form, Json, Result, Secret};

use super::{one, three};
use crate::client::groups::Metrics;
use crate::client::{Parts, Pipe, calls, group};
use crate::models::{
    Capacity, Certificate, Instance, KeyPair, LetsEncryptConfig, Metric, Process, Registry,
    Release, System as Rack, SystemJwt,
};
use crate::ops;
use crate::ops::certificates::{
    CertificateApplyForm, CertificateCreateForm, CertificateGenerateForm, CertificateListQuery,
};
use crate::ops::events::EventSendForm;
use crate::ops::registries::RegistryAddForm;
use crate::ops::system::{SystemJwtTokenForm, SystemProcessesQuery, SystemUpdateForm};
use crate::reply::Text;
use crate::values::{Csv, FieldMap, format_duration};

group! {
    /// The rack.
    System by system,
    /// The machines under the rack.
    Instances by instances,
    /// Registries that images are taken from.
    Registries by registries,
    /// Certificates.
    Certificates by certificates,
    /// The settings of Let's Encrypt.
    LetsEncrypt by letsencrypt,
    /// Notices to whoever has subscribed to the rack's.
    Events by events,
}

calls! { System {
    /// The rack: name, version, provider, parameters.
    get() -> Rack = ops::system::SystemGet {};
    /// Changes the rack. A rack of version 3 that is addressed directly does not offer it.
    update(form: SystemUpdateForm) -> () = ops::system::SystemUpdate { body: Form(form) };
    /// What the rack has, and what is taken of it.
    capacity() -> Capacity = ops::system::CapacityGet {};
    /// The rack's own processes, or those of all apps.
    processes(all: bool) -> Vec<Process> = ops::system::SystemProcesses { query: SystemProcessesQuery { all: all.then_some(true) } };
    /// The versions that the rack had. Racks of version 3 do not offer it.
    releases() -> Vec<Release> = ops::system::SystemReleases {};
    /// Makes all tokens void.
    jwt_rotate() -> () = ops::system::SystemJwtSignKeyRotate {};
    /// Removes machines that nothing runs on (AWS).
    karpenter_cleanup() -> () = ops::system::KarpenterCleanup {};
    /// Asks who is calling: a text from a rack, a document from a console.
    auth() -> Text = ops::auth::Auth {};
} }

impl System<'_> {
    /// A connection to a port that the rack reaches: bytes both ways.
    ///
    /// # Errors
    ///
    /// Those before the upgrade; the rack's own come from the stream.
    pub async fn proxy(&self, host: &str, port: u16) -> Result<Pipe> {
        let path = (host.to_owned(), port.to_string());
        let request = Parts::<ops::proxy::Proxy> {
            path,
            ..Default::default()
        };
        let socket = self.client.send(request, &self.options).await?;
        Ok(Pipe::new(socket, "Proxy"))
    }

    /// Makes a token: `read`, `write` or `admin`, for 1 to 8,760 hours. It opens a client by
    /// [`ClientBuilder::jwt`](crate::ClientBuilder::jwt).
    ///
    /// # Errors
    ///
    /// [`Kind::Denied`](boxrig_wire::Kind::Denied) for an admin token without that role, else the rack's.
    pub async fn jwt_token(&self, role: &str, hours: u32) -> Result<SystemJwt> {
        let body = Form(SystemJwtTokenForm {
            role: Some(role.to_owned()),
            duration_in_hour: Some(i64::from(hours)),
        });
        let request = Parts::<ops::system::SystemJwtToken> {
            body,
            ..Default::default()
        };
        self.client.send(request, &self.options).await
    }

    /// The rack's figures.
    ///
    /// # Errors
    ///
    /// [`Kind::Unsupported`](boxrig_wire::Kind::Unsupported) where the rack keeps none.
    pub async fn metrics(&self, which: Metrics) -> Result<Vec<Metric>> {
        let query = which.of_system()?;
        self.client
            .send(
                super::apps::parts::<ops::system::SystemMetrics>((), query),
                &self.options,
            )
            .await
    }
}

calls! { Instances {
    /// The machines under the rack.
    list() -> Vec<Instance> = ops::instances::InstanceList {};
    /// Ends a machine.
    terminate(instance: &str) -> () = ops::instances::InstanceTerminate { path: one(instance) };
    /// Makes new keys for the machines. Most racks of version 3 do not offer it. Never sent twice.
    keyroll() -> KeyPair = ops::instances::InstanceKeyroll {};
} }

calls! { Registries {
    /// The registries.
    list() -> Vec<Registry> = ops::registries::RegistryList {};
    /// Adds a registry. Never sent twice.
    add(server: &str, username: &str, password: Secret) -> Registry = ops::registries::RegistryAdd { body: Form(RegistryAddForm { server: server.to_owned(), username: username.to_owned(), password }) };
    /// Removes a registry; its name may hold slashes.
    remove(server: &str) -> () = ops::registries::RegistryRemove { path: one(server) };
} }

calls! { Certificates {
    /// The certificates.
    list() -> Vec<Certificate> = ops::certificates::CertificateList {};
    /// Those that the rack made itself, or those that it did not.
    list_generated(generated: bool) -> Vec<Certificate> = ops::certificates::CertificateList { query: CertificateListQuery { generated: Some(generated) } };
    /// Adds a certificate with its key (PEM both), and the chain above it. Never sent twice.
    create(certificate: &str, key: Secret, chain: Option<&str>) -> Certificate = ops::certificates::CertificateCreate { body: Form(CertificateCreateForm { r#pub: certificate.to_owned(), key, chain: chain.map(str::to_owned) }) };
    /// Removes a certificate.
    delete(id: &str) -> () = ops::certificates::CertificateDelete { path: one(id) };
    /// Renews a certificate that the rack made. Never sent twice.
    renew(id: &str) -> () = ops::certificates::CertificateRenew { path: one(id) };
    /// Has a port of a service use a certificate. Racks of version 3 do not offer it.
    apply(app: &str, service: &str, port: u16, id: &str) -> () = ops::certificates::CertificateApply { path: three(app, service, &port.to_string()), body: Form(CertificateApplyForm { id: id.to_owned() }) };
} }

impl Certificates<'_> {
    /// Has the rack make a certificate for one to ten names. Never sent twice.
    ///
    /// # Errors
    ///
    /// The rack's.
    pub async fn generate(
        &self,
        domains: &[&str],
        issuer: Option<&str>,
        lifetime: Option<std::time::Duration>,
    ) -> Result<Certificate> {
        let body = Form(CertificateGenerateForm {
            domains: Csv::new(domains.iter().copied())?,
            issuer: issuer.map(str::to_owned),
            duration: lifetime.map(format_duration),
        });
        let request = Parts::<ops::certificates::CertificateGenerate> {
            body,
            ..Default::default()
        };
        self.client.send(request, &self.options).await
    }
}

calls! { LetsEncrypt {
    /// The settings.
    get() -> LetsEncryptConfig = ops::letsencrypt::LetsEncryptConfigGet {};
    /// Replaces the settings.
    apply(config: LetsEncryptConfig) -> () = ops::letsencrypt::LetsEncryptConfigApply { body: Json(config) };
} }

impl Events<'_> {
    /// Sends a notice. Never sent twice.
    ///
    /// # Errors
    ///
    /// The rack's.
    pub async fn send(
        &self,
        action: &str,
        data: FieldMap,
        status: Option<&str>,
        error: Option<&str>,
    ) -> Result<()> {
        let body = Form(EventSendForm {
            action: action.to_owned(),
            data,
            error: error.map(str::to_owned),
            status: status.map(str::to_owned),
        });
        let request = Parts::<ops::events::EventSend> {
            body,
            ..Default::default()
        };
        self.client.send(request, &self.options).await
    }
}
