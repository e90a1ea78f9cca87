//! The same operations with a raw body: what the API description lists only with their JSON one. They share the id of the
//! operation that they are.

use boxrig_wire::{ByteBody, ByteReply, Json, endpoint, params};
use serde_json::Value;

use crate::Incus;
use crate::envelope::{Answer, Async, Sync};
use crate::models;
use crate::ops::queries;

params! {
    /// What is said of an image that is uploaded; lists are query-encoded.
    pub struct ImageUploadHeaders {
        /// Names to give it, `alias=a&alias=b`.
        pub aliases: Option<String> = "X-Incus-aliases",
        /// The name of the file.
        pub filename: Option<String> = "X-Incus-filename",
        /// The fingerprint that it must have.
        pub fingerprint: Option<String> = "X-Incus-fingerprint",
        /// Profiles of instances made of it, `profile=a`.
        pub profiles: Option<String> = "X-Incus-profiles",
        /// Properties, `os=debian`.
        pub properties: Option<String> = "X-Incus-properties",
        /// Whether anybody may see it.
        pub public: Option<bool> = "X-Incus-public",
        /// The secret of a server-to-server push.
        pub secret: Option<String> = "X-Incus-secret",
    }
}

params! {
    /// What is said of something that is made from a backup.
    pub struct ImportHeaders {
        /// Its name.
        pub name: Option<String> = "X-Incus-name",
        /// The pool to put it in.
        pub pool: Option<String> = "X-Incus-pool",
        /// What the content is: `backup` or `iso`.
        pub r#type: Option<String> = "X-Incus-type",
        /// Configuration that wins over the backup's, query-encoded.
        pub config: Option<String> = "X-Incus-config",
        /// Devices that win over the backup's, query-encoded.
        pub devices: Option<String> = "X-Incus-devices",
    }
}

endpoint! {
    /// Uploads an image: a unified archive, or metadata and root file system as a multipart form.
    pub ImageUpload = "images_post": Incus, POST "/1.0/images" {
        query: queries::ProjectQuery,
        headers: ImageUploadHeaders,
        body: ByteBody,
        reply: Async,
    }
}

endpoint! {
    /// Makes an instance from a backup.
    pub InstanceUpload = "instances_post": Incus, POST "/1.0/instances" {
        query: queries::ProjectTargetQuery,
        headers: ImportHeaders,
        body: ByteBody,
        reply: Async,
    }
}

endpoint! {
    /// Makes a volume from a backup or an ISO image.
    pub VolumeUpload = "storage_pool_volumes_type_post": Incus, POST "/1.0/storage-pools/{poolName}/volumes/{type}" {
        path: (String, String,),
        query: queries::ProjectTargetQuery,
        headers: ImportHeaders,
        body: ByteBody,
        reply: Answer<Value>,
    }
}

endpoint! {
    /// Makes a bucket from a backup.
    pub BucketUpload = "storage_pool_bucket_post": Incus, POST "/1.0/storage-pools/{poolName}/buckets" {
        path: (String,),
        query: queries::ProjectTargetQuery,
        headers: ImportHeaders,
        body: ByteBody,
        reply: Answer<Value>,
    }
}

endpoint! {
    /// Streams a backup without keeping it on the server.
    pub DirectBackup = "instance_backups_post": Incus, POST "/1.0/instances/{name}/backups" {
        path: (String,),
        query: queries::ProjectQuery,
        body: Json<models::InstanceBackupsPost>,
        reply: ByteReply,
    }
}

endpoint! {
    /// The names of an instance's templates: without a path the answer is a list.
    pub Templates = "instance_metadata_templates_get": Incus, GET "/1.0/instances/{name}/metadata/templates" {
        path: (String,),
        query: queries::ProjectQuery,
        reply: Sync<Vec<String>>,
    }
}
