//! Image servers that speak simplestreams: read-only lists of images in two JSON documents.

use std::collections::BTreeMap;
use std::sync::Arc;

use boxrig_transport::Http;
use boxrig_wire::{BaseUrl, Caller, Error, Kind, RawRequest, Result, Transport};
use http::Method;
use serde::Deserialize;

use crate::Incus;

/// An image server.
#[derive(Clone, Debug)]
pub struct Simplestreams {
    caller: Caller,
}

/// An image of an image server: the newest of its product, unless asked otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamImage {
    /// Its product, such as `debian:12:amd64:default`.
    pub product: String,
    /// The names it is known by.
    pub aliases: Vec<String>,
    /// The operating system.
    pub os: String,
    /// Its release.
    pub release: String,
    /// Its variant, `default` by habit.
    pub variant: String,
    /// The architecture, in the server's words.
    pub architecture: String,
    /// The version: by habit a date.
    pub version: String,
    /// The fingerprint that it has as a container, where there is one.
    pub container: Option<String>,
    /// The fingerprint that it has as a virtual machine, where there is one.
    pub virtual_machine: Option<String>,
    /// Its files.
    pub files: Vec<StreamFile>,
}

/// A file of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamFile {
    /// What it is, such as `incus.tar.xz`, `squashfs` or `disk-kvm.img`.
    pub kind: String,
    /// Where it is on the server.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256 in hex.
    pub sha256: String,
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    index: BTreeMap<String, IndexEntry>,
}
#[derive(Deserialize)]
struct IndexEntry {
    #[serde(default)]
    datatype: String,
    #[serde(default)]
    path: String,
}
#[derive(Deserialize)]
struct Products {
    #[serde(default)]
    products: BTreeMap<String, Product>,
}
#[derive(Deserialize, Default)]
#[serde(default)]
struct Product {
    aliases: String,
    os: String,
    release: String,
    variant: String,
    arch: String,
    versions: BTreeMap<String, Version>,
}
#[derive(Deserialize, Default)]
#[serde(default)]
struct Version {
    items: BTreeMap<String, Item>,
}
#[derive(Deserialize, Default)]
#[serde(default)]
struct Item {
    ftype: String,
    path: String,
    size: u64,
    sha256: String,
    #[serde(rename = "combined_squashfs_sha256")]
    squashfs: String,
    #[serde(rename = "combined_rootxz_sha256")]
    rootxz: String,
    #[serde(rename = "combined_disk-kvm-img_sha256")]
    disk_kvm: String,
    #[serde(rename = "combined_disk1-img_sha256")]
    disk1: String,
}

impl Simplestreams {
    /// An image server by its address.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] for an address that is none.
    pub fn new(url: &str) -> Result<Self> {
        Self::through(url, Arc::new(Http::new()?))
    }

    /// An image server behind a transport.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn through(url: &str, transport: Arc<dyn Transport>) -> Result<Self> {
        Ok(Self {
            caller: Caller::new(transport, BaseUrl::parse(url)?),
        })
    }

    async fn document<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T> {
        let request = RawRequest::new(Method::GET, format!("/{path}"));
        let reply = self.caller.raw::<Incus>(request).await?;
        serde_json::from_slice(reply.body()).map_err(|e| {
            Error::new(Kind::Protocol, "this is no simplestreams document")
                .with_source(e)
                .with_hint("is the address that of an image server?")
        })
    }

    /// All images, each in its newest version.
    ///
    /// # Errors
    ///
    /// Those of the way to the server, [`Kind::Protocol`] for documents that are none.
    pub async fn images(&self) -> Result<Vec<StreamImage>> {
        let index: Index = self.document("streams/v1/index.json").await?;
        let mut out = Vec::new();
        for entry in index.index.values() {
            if entry.datatype != "image-downloads" {
                continue;
            }
            // A path of the server's choosing stays on the server, below its root.
            if entry
                .path
                .split('/')
                .any(|step| step == ".." || step.is_empty())
            {
                return Err(Error::new(Kind::Protocol, "the index names a path outside"));
            }
            let products: Products = self.document(&entry.path).await?;
            out.extend(products.products.into_iter().filter_map(newest));
        }
        Ok(out)
    }

    /// The image of this name (`debian/12`, `debian/12/cloud`) for this architecture in the server's words (`amd64`).
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] without such an image.
    pub async fn image(&self, alias: &str, architecture: &str) -> Result<StreamImage> {
        let images = self.images().await?;
        let fits = |image: &StreamImage| {
            image.architecture == architecture && image.aliases.iter().any(|a| a == alias)
        };
        images.into_iter().find(fits).ok_or_else(|| {
            let alias = boxrig_wire::escape_line(alias).into_owned();
            Error::new(Kind::NotFound, format!("the image server has no {alias}"))
        })
    }
}

fn newest((name, product): (String, Product)) -> Option<StreamImage> {
    let (version, items) = product.versions.into_iter().next_back()?;
    let first = |of: &dyn Fn(&Item) -> [&String; 2]| {
        let found = items.items.values().flat_map(of).find(|s| !s.is_empty());
        found.cloned()
    };
    Some(StreamImage {
        container: first(&|i| [&i.squashfs, &i.rootxz]),
        virtual_machine: first(&|i| [&i.disk_kvm, &i.disk1]),
        files: items
            .items
            .values()
            .map(|item| StreamFile {
                kind: item.ftype.clone(),
                path: item.path.clone(),
                size: item.size,
                sha256: item.sha256.clone(),
            })
            .collect(),
        aliases: product
            .aliases
            .split(',')
            .map(|a| a.trim().to_owned())
            .filter(|a| !a.is_empty())
            .collect(),
        product: name,
        os: product.os,
        release: product.release,
        variant: product.variant,
        architecture: product.arch,
        version,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use boxrig_transport::InProcess;
    use boxrig_wire::WireBody;

    fn server(path: &'static str) -> Simplestreams {
        let index = format!(
            r#"{{"format":"index:1.0","index":{{"images":{{"datatype":"image-downloads","path":"{path}"}},"x":{{"datatype":"other","path":"no"}}}}}}"#
        );
        let transport = InProcess::new(move |request: http::Request<WireBody>| {
            let text = match request.uri().path() {
                "/streams/v1/index.json" => index.clone(),
                "/streams/v1/images.json" => r#"{"products":{"debian:12:amd64:default":{"aliases":"debian/12/default, debian/12","os":"Debian","release":"bookworm","variant":"default","arch":"amd64","versions":{
                    "20260101":{"items":{"incus.tar.xz":{"ftype":"incus.tar.xz","path":"a","size":1,"sha256":"s","combined_squashfs_sha256":"old"}}},
                    "20260202":{"items":{"incus.tar.xz":{"ftype":"incus.tar.xz","path":"b","size":2,"sha256":"t","combined_squashfs_sha256":"c0","combined_disk-kvm-img_sha256":"d0"},
                                         "root.squashfs":{"ftype":"squashfs","path":"c","size":3,"sha256":"u"}}}}}}}"#.to_owned(),
                _ => "<html>".to_owned(),
            };
            async move { http::Response::new(WireBody::full(text)) }
        });
        Simplestreams::through("https://images.example", Arc::new(transport)).unwrap()
    }

    #[tokio::test]
    async fn the_newest_of_each_product() {
        let images = server("streams/v1/images.json");
        let image = images.image("debian/12", "amd64").await.unwrap();
        assert_eq!(
            (&*image.version, image.container.as_deref()),
            ("20260202", Some("c0"))
        );
        assert_eq!(image.virtual_machine.as_deref(), Some("d0"));
        assert_eq!(image.files.len(), 2);
        let e = images.image("debian/12", "arm64").await.unwrap_err();
        assert_eq!(e.kind(), Kind::NotFound);
        for bad in ["../x", "//evil/x"] {
            let e = server(bad).images().await.unwrap_err();
            assert_eq!(e.kind(), Kind::Protocol, "{bad}");
        }
    }
}
