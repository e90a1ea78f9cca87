//! Images: from files, from instances, from other servers; and out again.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use boxrig_wire::{
    ByteBody, ByteReply, Error, Json, Kind, NoBody, Operation, Result, Timeout, WireBody,
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use sha2::{Digest, Sha256};

use crate::collection::{Collection, Images};
use crate::files::{Saving, save};
use crate::models::{self, Image, ImageAlias, ImageExportPost, ImagesPost, ImagesPostSource};
use crate::ops::images;
use crate::uploads::{self, ImageUploadHeaders};

/// What is said of an image that is uploaded.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ImageUpload {
    /// Names to give it.
    pub aliases: Vec<String>,
    /// Properties beside those in its metadata.
    pub properties: std::collections::BTreeMap<String, String>,
    /// Whether anybody may see it.
    pub public: bool,
    /// Profiles of instances made of it.
    pub profiles: Vec<String>,
    /// The name of the file.
    pub filename: Option<String>,
}

impl ImageUpload {
    /// Private, without names.
    pub fn new() -> Self {
        Self::default()
    }
    /// With this name.
    pub fn alias(mut self, name: impl Into<String>) -> Self {
        self.aliases.push(name.into());
        self
    }
    /// With this property.
    pub fn property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.insert(name.into(), value.into());
        self
    }
    /// Seen by anybody.
    pub fn public(mut self) -> Self {
        self.public = true;
        self
    }

    fn headers(&self) -> ImageUploadHeaders {
        let list = |name: &str, values: &[String]| {
            let pairs: Vec<_> = values
                .iter()
                .map(|v| (name.to_owned(), v.clone()))
                .collect();
            (!pairs.is_empty()).then(|| encode(&pairs))
        };
        let properties: Vec<_> = self
            .properties
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        ImageUploadHeaders {
            aliases: list("alias", &self.aliases),
            filename: self.filename.clone(),
            fingerprint: None,
            profiles: list("profile", &self.profiles),
            properties: (!properties.is_empty()).then(|| encode(&properties)),
            public: self.public.then_some(true),
            secret: None,
        }
    }
}

/// Query encoding: everything but unreserved characters is escaped.
fn encode(pairs: &[(String, String)]) -> String {
    let escape = |text: &str| {
        text.bytes().fold(String::new(), |mut out, b| {
            if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
                out.push(char::from(b));
            } else {
                out.push_str(&format!("%{b:02X}"));
            }
            out
        })
    };
    let pairs: Vec<_> = pairs
        .iter()
        .map(|(k, v)| format!("{}={}", escape(k), escape(v)))
        .collect();
    pairs.join("&")
}

/// The root file system of a split image.
#[derive(Debug)]
pub enum Rootfs {
    /// Of a container: an archive or squashfs.
    Container(WireBody),
    /// Of a virtual machine: a disk image.
    VirtualMachine(WireBody),
}

/// The files that an export has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFiles {
    /// The unified archive, or the metadata of a split image.
    pub metadata: PathBuf,
    /// The root file system of a split image.
    pub rootfs: Option<PathBuf>,
}

pub(crate) type Hash = Arc<Mutex<Sha256>>;

/// The body, and the checksum of what has gone through it.
pub(crate) fn hashed(body: WireBody, hash: &Hash) -> WireBody {
    let hash = hash.clone();
    WireBody::from_stream(chunks(body).map(move |chunk| {
        if let Ok(bytes) = &chunk {
            hash.lock().unwrap_or_else(|e| e.into_inner()).update(bytes);
        }
        chunk
    }))
}

pub(crate) fn chunks(
    body: WireBody,
) -> impl futures_util::Stream<Item = Result<Bytes, boxrig_wire::BodyError>> + Send {
    stream::unfold(Some(body), |body| async move {
        use http_body_util::BodyExt;
        let mut body = body?;
        loop {
            match body.frame().await? {
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Some((Ok(data), Some(body)));
                    }
                }
                Err(e) => return Some((Err(e), None)),
            }
        }
    })
}

impl Collection<'_, Images> {
    /// The image that an alias names.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] without such an alias.
    pub async fn by_alias(&self, alias: &str) -> Result<Image> {
        let entry = self.client().image_aliases().get(alias).await?;
        self.get(&entry.target).await
    }

    /// Uploads a unified image: one archive with metadata and root file system. What the server has is checked against what was sent.
    ///
    /// # Errors
    ///
    /// [`Kind::Conflict`] when the server has it already, [`Kind::Protocol`] when it has got something else.
    pub async fn upload(&self, content: WireBody, about: &ImageUpload) -> Result<Operation<Image>> {
        let hash = Hash::default();
        let body = ByteBody::from(hashed(content, &hash));
        self.uploaded(body, about, hash).await
    }

    /// Uploads a split image: an archive with the metadata, and the root file system.
    ///
    /// # Errors
    ///
    /// As [`upload`](Self::upload).
    pub async fn upload_split(
        &self,
        metadata: WireBody,
        rootfs: Rootfs,
        about: &ImageUpload,
    ) -> Result<Operation<Image>> {
        let hash = Hash::default();
        let (name, rootfs) = match rootfs {
            Rootfs::Container(body) => ("rootfs", body),
            Rootfs::VirtualMachine(body) => ("rootfs.img", body),
        };
        let boundary = format!("boxrig-{:032x}", rand_u128()?);
        let part = |name: &str, first: bool| {
            let start = if first { "" } else { "\r\n" };
            Bytes::from(format!(
                "{start}--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{name}\"\r\nContent-Type: application/octet-stream\r\n\r\n"
            ))
        };
        let one = |bytes: Bytes| stream::iter([Ok(bytes)]);
        let all = one(part("metadata", true))
            .chain(chunks(hashed(metadata, &hash)))
            .chain(one(part(name, false)))
            .chain(chunks(hashed(rootfs, &hash)))
            .chain(one(Bytes::from(format!("\r\n--{boundary}--\r\n"))));
        let body = ByteBody {
            body: WireBody::from_stream(all),
            content_type: Some(format!("multipart/form-data; boundary={boundary}")),
        };
        self.uploaded(body, about, hash).await
    }

    async fn uploaded(
        &self,
        body: ByteBody,
        about: &ImageUpload,
        hash: Hash,
    ) -> Result<Operation<Image>> {
        use boxrig_wire::Params;
        let mut parts = self.parts().timeout(Timeout::Never);
        parts.headers = about.headers().to_pairs();
        let client = self.client().clone();
        self.client()
            .begin::<uploads::ImageUpload, _>(parts, body, move |end| {
                let client = client.clone();
                let sent = hash.lock().unwrap_or_else(|e| e.into_inner()).clone();
                let sent = crate::files::hex(&sent.finalize());
                Box::pin(async move {
                    let got = fingerprint(&end)?;
                    if got != sent {
                        return Err(Error::new(
                            Kind::Protocol,
                            "the image on the server is not what was sent: its fingerprint differs",
                        ));
                    }
                    client.images().get(&got).await
                })
            })
            .await
    }

    /// Makes an image as `post` says: of an instance, a snapshot, another server's image, a URL.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn make(&self, post: ImagesPost) -> Result<Operation<Image>> {
        let client = self.client().clone();
        self.client()
            .begin::<images::ImagesPost, _>(self.parts(), Json(post), move |end| {
                let client = client.clone();
                Box::pin(async move { client.images().get(&fingerprint(&end)?).await })
            })
            .await
    }

    /// Makes an image of an instance that is stopped, or of a snapshot (`c1/snap`).
    ///
    /// # Errors
    ///
    /// [`Kind::Conflict`] while the instance runs.
    pub async fn publish(&self, source: &str, alias: Option<&str>) -> Result<Operation<Image>> {
        let r#type = if source.contains('/') {
            "snapshot"
        } else {
            "instance"
        };
        let post = ImagesPost {
            aliases: named(alias),
            source: ImagesPostSource {
                r#type: r#type.to_owned(),
                name: source.to_owned(),
                ..ImagesPostSource::default()
            },
            ..ImagesPost::default()
        };
        self.make(post).await
    }

    /// Fetches an image from another server, which the server does itself; `protocol` is `incus`, `simplestreams` or `oci`.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] without such an image there.
    pub async fn pull(
        &self,
        server: &str,
        protocol: &str,
        image: &str,
        certificate: Option<&str>,
        alias: Option<&str>,
    ) -> Result<Operation<Image>> {
        let post = ImagesPost {
            aliases: named(alias),
            source: ImagesPostSource {
                r#type: "image".to_owned(),
                mode: "pull".to_owned(),
                server: server.to_owned(),
                protocol: protocol.to_owned(),
                alias: image.to_owned(),
                certificate: certificate.unwrap_or_default().to_owned(),
                ..ImagesPostSource::default()
            },
            ..ImagesPost::default()
        };
        self.make(post).await
    }

    /// The image's content, streamed: an archive, or a multipart form of two files; see [`export_to`](Self::export_to).
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] without such an image.
    pub async fn export(&self, fingerprint: &str) -> Result<ByteReply> {
        self.client()
            .send::<images::ImageExportGet>(self.one(fingerprint), NoBody)
            .await
    }

    /// Writes the image's files into a folder, named for its fingerprint, and checks them against it.
    ///
    /// # Errors
    ///
    /// As [`export`](Self::export); [`Kind::Protocol`] when what came is not the image.
    pub async fn export_to(&self, fingerprint: &str, folder: &Path) -> Result<ImageFiles> {
        let full = self.get(fingerprint).await?.fingerprint;
        if !full.bytes().all(|b| b.is_ascii_hexdigit()) || full.is_empty() {
            return Err(Error::new(
                Kind::Protocol,
                "the image's fingerprint is none",
            ));
        }
        let reply = self.export(&full).await?;
        let content_type = reply
            .headers
            .get(http::header::CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        let boundary = content_type
            .split_once("boundary=")
            .map(|(_, b)| b.trim_matches('"').to_owned());
        let Some(boundary) = boundary else {
            let file = folder.join(&full);
            let hash = Hash::default();
            let reply = ByteReply {
                body: hashed(reply.body, &hash),
                ..reply
            };
            save(reply, &file).await?;
            return Ok(ImageFiles {
                metadata: check(file, &hash, &full)?,
                rootfs: None,
            });
        };
        let hash = Hash::default();
        let mut parts = crate::multipart::Parts::new(chunks(reply.body), &boundary);
        let (mut files, mut names) = (Vec::new(), ["metadata", "rootfs"].into_iter());
        while let Some(part) = parts.next_part().await? {
            let end = names
                .next()
                .ok_or_else(|| Error::new(Kind::Protocol, "the image has more than two files"))?;
            // A disk image is told apart by the part's name.
            let end = match &*part {
                "rootfs.img" => "rootfs.img",
                _ => end,
            };
            let file = folder.join(format!("{full}.{end}"));
            let mut saving = Saving::begin(&file).await?;
            while let Some(chunk) = parts.next_chunk().await? {
                hash.lock()
                    .unwrap_or_else(|e| e.into_inner())
                    .update(&chunk);
                saving.write(chunk).await?;
            }
            saving.finish().await?;
            files.push(file);
        }
        let mut files = files.into_iter();
        let (Some(metadata), rootfs) = (files.next(), files.next()) else {
            return Err(Error::new(Kind::Protocol, "the image has no files"));
        };
        Ok(ImageFiles {
            metadata: check(metadata, &hash, &full)?,
            rootfs,
        })
    }

    /// Makes the server look for a newer version of the image where it came from; `true` when it has found one.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] for an image that came from nowhere.
    pub async fn refresh(&self, fingerprint: &str) -> Result<Operation<bool>> {
        self.client()
            .begin::<images::ImagesRefreshPost, _>(self.one(fingerprint), NoBody, |end| {
                Box::pin(async move {
                    let refreshed = end.metadata.get("refreshed");
                    Ok(refreshed
                        .and_then(serde_json::Value::as_bool)
                        .unwrap_or(false))
                })
            })
            .await
    }

    /// A one-time secret by which a stranger may fetch the image.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] without such an image.
    pub async fn secret(&self, fingerprint: &str) -> Result<boxrig_wire::Secret> {
        let reply = self
            .client()
            .send::<images::ImagesSecretPost>(self.one(fingerprint), NoBody)
            .await?;
        let secret = reply.0.metadata.get("secret").and_then(|s| s.as_str());
        let secret =
            secret.ok_or_else(|| Error::new(Kind::Protocol, "the operation has no secret"))?;
        Ok(boxrig_wire::Secret::new(secret))
    }

    /// Makes the server send the image to `target`, which need not reach it; gives the image there, under these aliases.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] when the target listens on no address; else those of either server.
    pub async fn push_to(
        &self,
        fingerprint: &str,
        target: &crate::Client,
        aliases: &[&str],
    ) -> Result<Image> {
        let image = self.get(fingerprint).await?;
        let place = crate::instances::Place::of(target).await?;
        let expected = ImagesPost {
            source: ImagesPostSource {
                r#type: "image".to_owned(),
                mode: "push".to_owned(),
                fingerprint: image.fingerprint.clone(),
                ..ImagesPostSource::default()
            },
            ..ImagesPost::default()
        };
        // The target waits for it with a token, which is an operation of its own and ends when it is used.
        let token = target
            .send::<images::ImagesPost>(target.images().parts(), Json(expected))
            .await?;
        let token = crate::Outcome::operation(token)
            .ok_or_else(|| Error::new(Kind::Protocol, "the target gives no token for the image"))?;
        let secret = token.metadata.get("secret").and_then(|s| s.as_str());
        let post = ImageExportPost {
            target: place.address().to_owned(),
            certificate: place.certificate().to_owned(),
            secret: secret.unwrap_or_default().to_owned(),
            project: target.project_name().unwrap_or_default().to_owned(),
            ..ImageExportPost::default()
        };
        let pushed = match self.push(&image.fingerprint, post).await {
            Ok(operation) => operation.wait().await,
            Err(e) => Err(e),
        };
        if let Err(e) = pushed {
            let _ = target.operations().cancel(&token.id).await;
            return Err(e);
        }
        // Servers of the 6.0 line pass over the aliases of such a request.
        for alias in aliases {
            let post = models::ImageAliasesPost {
                name: (*alias).to_owned(),
                target: image.fingerprint.clone(),
                ..models::ImageAliasesPost::default()
            };
            target.image_aliases().create(post).await?;
        }
        target.images().get(&image.fingerprint).await
    }

    /// Makes the server push the image to another one, as `post` says.
    ///
    /// # Errors
    ///
    /// Those of either server.
    pub async fn push(&self, fingerprint: &str, post: ImageExportPost) -> Result<Operation<()>> {
        self.client()
            .begin_unit::<images::ImagesExportPost>(self.one(fingerprint), Json(post))
            .await
    }
}

fn rand_u128() -> Result<u128> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| {
        Error::new(Kind::Failed, "the system gives no random numbers").with_source(e)
    })?;
    Ok(u128::from_be_bytes(bytes))
}

fn named(alias: Option<&str>) -> Vec<ImageAlias> {
    alias
        .map(|name| ImageAlias {
            name: name.to_owned(),
            ..ImageAlias::default()
        })
        .into_iter()
        .collect()
}

fn fingerprint(operation: &models::Operation) -> Result<String> {
    let found = operation
        .metadata
        .get("fingerprint")
        .and_then(|f| f.as_str());
    found
        .map(str::to_owned)
        .ok_or_else(|| Error::new(Kind::Protocol, "the operation names no image"))
}

/// The checksum of what has gone through so far.
pub(crate) fn sum(hash: &Hash) -> [u8; 32] {
    let sum = hash.lock().unwrap_or_else(|e| e.into_inner()).clone();
    sum.finalize().into()
}

fn check(file: PathBuf, hash: &Hash, fingerprint: &str) -> Result<PathBuf> {
    if crate::files::hex(&sum(hash)) == fingerprint {
        return Ok(file);
    }
    let _ = std::fs::remove_file(&file);
    Err(Error::new(
        Kind::Protocol,
        "what came is not the image: its checksum differs",
    ))
}
