//! Resources: databases and the like, of an app or of the rack.

use boxrig_wire::{ByteReply, Form, Result, WireBody};

use super::{one, two};
use crate::client::{Parts, Pipe, calls, group};
use crate::models::{Resource, ResourceType};
use crate::ops;
use crate::ops::resources::ResourceConsoleHeaders;
use crate::ops::system_resources::{
    SystemResourceCreateForm, SystemResourceLinkForm, SystemResourceUpdateForm,
};
use crate::values::FieldMap;

group! {
    /// Resources of an app, and (`system_…`) those of the rack.
    Resources by resources,
}

calls! { Resources {
    /// The resources of an app.
    list(app: &str) -> Vec<Resource> = ops::resources::ResourceList { path: one(app) };
    /// One resource of an app. Its URL has its password in it.
    get(app: &str, resource: &str) -> Resource = ops::resources::ResourceGet { path: two(app, resource) };
    /// A dump of a resource, streamed.
    export(app: &str, resource: &str) -> ByteReply = ops::resources::ResourceExport { path: two(app, resource) };
    /// Reads a dump into a resource, streamed.
    import(app: &str, resource: &str, dump: WireBody) -> () = ops::resources::ResourceImport { path: two(app, resource), body: dump.into() };
    /// The resources of the rack.
    system_list() -> Vec<Resource> = ops::system_resources::SystemResourceList {};
    /// One resource of the rack.
    system_get(resource: &str) -> Resource = ops::system_resources::SystemResourceGet { path: one(resource) };
    /// Removes a resource of the rack.
    system_delete(resource: &str) -> () = ops::system_resources::SystemResourceDelete { path: one(resource) };
    /// The kinds of resources that the rack can make, with their parameters.
    system_types() -> Vec<ResourceType> = ops::system_resources::SystemResourceTypes {};
    /// Gives an app the URL of a resource. Never sent twice.
    system_link(resource: &str, app: &str) -> Resource = ops::system_resources::SystemResourceLink { path: one(resource), body: Form(SystemResourceLinkForm { app: app.to_owned() }) };
    /// Takes the URL of a resource away from an app.
    system_unlink(resource: &str, app: &str) -> Resource = ops::system_resources::SystemResourceUnlink { path: two(resource, app) };
} }

impl Resources<'_> {
    /// The console of a resource (`psql`, `redis-cli`, …): bytes both ways, no exit code. `size` is rows and columns.
    ///
    /// # Errors
    ///
    /// Those before the upgrade; the rack's own come from the stream.
    pub async fn console(
        &self,
        app: &str,
        resource: &str,
        size: Option<(u16, u16)>,
    ) -> Result<Pipe> {
        let headers = ResourceConsoleHeaders {
            height: size.map(|s| i64::from(s.0)),
            width: size.map(|s| i64::from(s.1)),
        };
        let request = Parts::<ops::resources::ResourceConsole> {
            path: two(app, resource),
            headers,
            ..Default::default()
        };
        let socket = self.client.send(request, &self.options).await?;
        Ok(Pipe::new(socket, "ResourceConsole"))
    }

    /// Makes a resource of the rack; the rack names it when no name is given. Never sent twice.
    ///
    /// # Errors
    ///
    /// The rack's.
    pub async fn system_create(
        &self,
        kind: &str,
        name: Option<&str>,
        parameters: FieldMap,
    ) -> Result<Resource> {
        let body = Form(SystemResourceCreateForm {
            kind: kind.to_owned(),
            name: name.map(str::to_owned),
            parameters,
        });
        let request = Parts::<ops::system_resources::SystemResourceCreate> {
            body,
            ..Default::default()
        };
        self.client.send(request, &self.options).await
    }

    /// Changes parameters of a resource of the rack.
    ///
    /// # Errors
    ///
    /// The rack's.
    pub async fn system_update(&self, resource: &str, parameters: FieldMap) -> Result<Resource> {
        let body = Form(SystemResourceUpdateForm { parameters });
        let request = Parts::<ops::system_resources::SystemResourceUpdate> {
            path: one(resource),
            body,
            ..Default::default()
        };
        self.client.send(request, &self.options).await
    }
}
