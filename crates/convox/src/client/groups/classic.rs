//! The shapes of generation 1, for racks of version 2.

use std::collections::BTreeMap;

use boxrig_wire::{ByteBody, Form, Params as _, Result, Secret, WebSocket, WireBody};

use super::{one, two};
use crate::client::{Parts, calls, group, random_hex};
use crate::models::{Build, Certificate, ProcessFormation, Resource};
use crate::ops::v2_classic as ops;
use crate::ops::v2_classic::{
    BuildCreateUploadForm, BuildImportUrlForm, CertificateCreateClassicForm, FormationUpdateForm,
    InstanceShellClassicHeaders, ProcessRunAttachedHeaders, ProcessRunDetachedForm,
    ProcessRunDetachedHeaders, RegistryRemoveClassicQuery,
};
use crate::reply::Text;
use crate::types::{SslEntry, Started};
use crate::values::Pairs;

group! {
    /// The shapes of generation 1, which racks of version 2 take.
    Classic by classic,
}

calls! { Classic {
    /// An app's parameters.
    parameters(app: &str) -> BTreeMap<String, String> = ops::AppParametersGet { path: one(app) };
    /// Sets parameters of an app. Never sent twice.
    set_parameters(app: &str, parameters: Pairs) -> () = ops::AppParametersSet { path: one(app), body: Form(parameters) };
    /// Makes a build of an exported one that was uploaded. Never sent twice.
    import_build_url(app: &str, url: &str) -> Build = ops::BuildImportUrl { path: one(app), body: Form(BuildImportUrlForm { url: Some(url.to_owned()) }) };
    /// Adds a certificate with its key (PEM both). Never sent twice.
    create_certificate(public: &str, private: Secret, chain: Option<&str>) -> Certificate = ops::CertificateCreateClassic { body: Form(CertificateCreateClassicForm { public: Some(public.to_owned()), private: Some(private), chain: chain.map(str::to_owned) }) };
    /// Takes a variable away; the header `Release-Id` names the release it made.
    unset_environment(app: &str, key: &str) -> Text = ops::EnvironmentUnset { path: two(app, key) };
    /// The scale of all services.
    formation(app: &str) -> Vec<ProcessFormation> = ops::FormationGet { path: one(app) };
    /// Changes the scale of a service. Never sent twice.
    update_formation(app: &str, service: &str, form: FormationUpdateForm) -> () = ops::FormationUpdate { path: two(app, service), body: Form(form) };
    /// The certificates at an app's ports.
    ssl(app: &str) -> Vec<SslEntry> = ops::SslList { path: one(app) };
    /// A shell on a machine: frames of bytes and an exit trailer. (Racks of version 2 read height and width the wrong
    /// way round.)
    shell(instance: &str, settings: InstanceShellClassicHeaders) -> WebSocket = ops::InstanceShellClassic { path: one(instance), headers: settings };
    /// Runs a command attached: frames of bytes and an exit trailer.
    run_attached(app: &str, service: &str, settings: ProcessRunAttachedHeaders) -> WebSocket = ops::ProcessRunAttached { path: two(app, service), headers: settings };
    /// Runs a command and leaves it alone. Never sent twice.
    run_detached(app: &str, service: &str, settings: ProcessRunDetachedHeaders, form: ProcessRunDetachedForm) -> Started = ops::ProcessRunDetached { path: two(app, service), headers: settings, body: Form(form) };
    /// Removes a registry.
    remove_registry(server: &str) -> () = ops::RegistryRemoveClassic { query: RegistryRemoveClassicQuery { server: Some(server.to_owned()) } };
    /// Changes parameters of a resource.
    update_resource(name: &str, parameters: Pairs) -> Resource = ops::ResourceUpdateClassic { path: one(name), body: Form(parameters) };
} }

impl Classic<'_> {
    /// Replaces the environment by lines `KEY=value`; the header `Release-Id` names the release it made. Never sent twice.
    ///
    /// # Errors
    ///
    /// The rack's.
    pub async fn set_environment(&self, app: &str, lines: &Secret) -> Result<Text> {
        let body = ByteBody {
            body: WireBody::full(lines.expose().to_owned()),
            content_type: Some("text/plain".to_owned()),
        };
        let request = Parts::<ops::EnvironmentSet> {
            path: one(app),
            body,
            ..Default::default()
        };
        self.client.send(request, &self.options).await
    }

    /// Makes a resource; its parameters stand beside type and name. Never sent twice.
    ///
    /// # Errors
    ///
    /// The rack's.
    pub async fn create_resource(
        &self,
        kind: &str,
        name: &str,
        parameters: Pairs,
    ) -> Result<Resource> {
        let mut pairs = vec![
            ("type".to_owned(), kind.to_owned()),
            ("name".to_owned(), name.to_owned()),
        ];
        pairs.extend(parameters.0);
        let request = Parts::<ops::ResourceCreateClassic> {
            body: Form(Pairs(pairs)),
            ..Default::default()
        };
        self.client.send(request, &self.options).await
    }

    /// Builds a source (a gzip tar) that is sent along. Never sent twice.
    ///
    /// # Errors
    ///
    /// The rack's.
    pub async fn build_source(
        &self,
        app: &str,
        source: &[u8],
        form: BuildCreateUploadForm,
    ) -> Result<Build> {
        form.build_args.check()?;
        let body = multipart(&form.to_pairs(), "source", source)?;
        let request = Parts::<ops::BuildCreateUpload> {
            path: one(app),
            body,
            ..Default::default()
        };
        self.client.send(request, &self.options).await
    }

    /// Makes a build of an image (a gzip tar) that is sent along. Never sent twice.
    ///
    /// # Errors
    ///
    /// The rack's.
    pub async fn import_build_image(&self, app: &str, image: &[u8]) -> Result<Build> {
        let body = multipart(&[], "image", image)?;
        let request = Parts::<ops::BuildImportMultipart> {
            path: one(app),
            body,
            ..Default::default()
        };
        self.client.send(request, &self.options).await
    }
}

/// `multipart/form-data` of fields and a file. The names are the API's own and need no quoting.
fn multipart(fields: &[(String, String)], file: &str, content: &[u8]) -> Result<ByteBody> {
    let boundary = format!("boxrig{}", random_hex()?);
    let mut out = Vec::with_capacity(content.len() + 1024);
    for (name, value) in fields {
        out.extend_from_slice(
            format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
            )
            .as_bytes(),
        );
    }
    out.extend_from_slice(
        format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{file}\"; filename=\"{file}.tgz\"\r\nContent-Type: application/octet-stream\r\n\r\n").as_bytes(),
    );
    out.extend_from_slice(content);
    out.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    Ok(ByteBody {
        body: WireBody::full(out),
        content_type: Some(format!("multipart/form-data; boundary={boundary}")),
    })
}
