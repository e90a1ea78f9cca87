//! Builds and uploaded objects.

use boxrig_wire::{ByteReply, Form, Result, Secret, Timeout, WireBody};

use super::{one, two};
use crate::client::{IMPORT_TIMEOUT, Parts, calls, group, random_hex};
use crate::models::{Build, Object};
use crate::ops;
use crate::ops::builds::{BuildCreateForm, BuildImportImageForm, BuildListQuery, BuildUpdateForm};
use crate::ops::objects::ObjectListQuery;
use crate::reply::Text;

group! {
    /// Builds.
    Builds by builds,
    /// Objects of an app: uploaded sources, logs of builds.
    Objects by objects,
}

calls! { Builds {
    /// One build.
    get(app: &str, build: &str) -> Build = ops::builds::BuildGet { path: two(app, build) };
    /// Changes what is recorded of a build, as builders do.
    update(app: &str, build: &str, form: BuildUpdateForm) -> Build = ops::builds::BuildUpdate { path: two(app, build), body: Form(form) };
    /// Reads a build as a gzip tar, streamed.
    export(app: &str, build: &str) -> ByteReply = ops::builds::BuildExport { path: two(app, build) };
} }

impl Builds<'_> {
    /// The builds of an app, the newest first; ten when no limit is given.
    ///
    /// # Errors
    ///
    /// The rack's.
    pub async fn list(&self, app: &str, limit: Option<u32>) -> Result<Vec<Build>> {
        let query = BuildListQuery {
            limit: limit.map(i64::from),
        };
        self.client
            .send(
                super::apps::parts::<ops::builds::BuildList>(one(app), query),
                &self.options,
            )
            .await
    }

    /// Starts a build of a source: an object that was uploaded, or a URL that the rack can read. It answers when the
    /// build is handed on, not when it is done: see [`wait`](Self::wait). Never sent twice.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`](boxrig_wire::Kind::Invalid) for a build argument with a comma, which racks cannot be sent;
    /// else the rack's.
    pub async fn create(&self, app: &str, url: &str, options: BuildCreateForm) -> Result<Build> {
        options.build_args.check()?;
        let url = Some(url.to_owned());
        let body = Form(BuildCreateForm { url, ..options });
        let request = Parts::<ops::builds::BuildCreate> {
            path: one(app),
            body,
            ..Default::default()
        };
        self.client.send(request, &self.options).await
    }

    /// Makes a build of an exported one (a gzip tar). The rack answers when all images are stored, so the deadline is
    /// [`IMPORT_TIMEOUT`], half an hour, unless the group's settings say otherwise. Never sent twice.
    ///
    /// # Errors
    ///
    /// The rack's.
    pub async fn import_build(&self, app: &str, tarball: WireBody) -> Result<Build> {
        let mut options = self.options.clone();
        if options.timeout == Timeout::Default {
            options = options.timeout(IMPORT_TIMEOUT);
        }
        let request = Parts::<ops::builds::BuildImport> {
            path: one(app),
            body: tarball.into(),
            ..Default::default()
        };
        self.client.send(request, &options).await
    }

    /// Has an image of another registry taken as a build's. The rack does it in the background.
    ///
    /// # Errors
    ///
    /// [`Kind::Conflict`](boxrig_wire::Kind::Conflict) while it imports another; else the rack's.
    pub async fn import_image(
        &self,
        app: &str,
        build: &str,
        image: &str,
        credentials: Option<(&str, Secret)>,
    ) -> Result<()> {
        let (user, pass) = credentials.map(|(u, p)| (u.to_owned(), p)).unzip();
        let body = Form(BuildImportImageForm {
            image: image.to_owned(),
            src_creds_user: user,
            src_creds_pass: pass,
        });
        let request = Parts::<ops::builds::BuildImportImage> {
            path: two(app, build),
            body,
            ..Default::default()
        };
        self.client.send(request, &self.options).await
    }
}

calls! { Objects {
    /// An object's content, streamed.
    fetch(app: &str, key: &str) -> ByteReply = ops::objects::ObjectFetch { path: two(app, key) };
    /// Removes an object.
    delete(app: &str, key: &str) -> () = ops::objects::ObjectDelete { path: two(app, key) };
    /// Asks for an object. Racks of version 3 answer the same whether it is there or not.
    exists(app: &str, key: &str) -> Text = ops::objects::ObjectExists { path: two(app, key) };
} }

impl Objects<'_> {
    /// The keys that begin with `prefix`. Racks of version 3 do not offer it.
    ///
    /// # Errors
    ///
    /// The rack's.
    pub async fn list(&self, app: &str, prefix: &str) -> Result<Vec<String>> {
        let query = ObjectListQuery {
            prefix: Some(prefix.to_owned()).filter(|p| !p.is_empty()),
        };
        self.client
            .send(
                super::apps::parts::<ops::objects::ObjectList>(one(app), query),
                &self.options,
            )
            .await
    }

    /// Stores an object under a key, streamed. Sent again only when nothing had arrived.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`](boxrig_wire::Kind::Invalid) for a key with `.` or `..` steps, else the rack's.
    pub async fn store(&self, app: &str, key: &str, content: WireBody) -> Result<Object> {
        let request = Parts::<ops::objects::ObjectStore> {
            path: two(app, key),
            body: content.into(),
            ..Default::default()
        };
        self.client.send(request, &self.options).await
    }

    /// Stores an object under a new key of its own, `tmp/…`, as sources of builds are.
    ///
    /// # Errors
    ///
    /// The rack's.
    pub async fn upload(&self, app: &str, content: WireBody) -> Result<Object> {
        let key = format!("tmp/{}.tgz", random_hex()?);
        self.store(app, &key, content).await
    }
}
