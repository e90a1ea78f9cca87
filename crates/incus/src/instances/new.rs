//! What a new instance is made of.

use crate::models::{InstanceSource, InstancesPost};

/// An instance to make: where from, and how it differs from its profiles.
///
/// ```
/// use boxrig_incus::NewInstance;
/// let new = NewInstance::from_image("web", "debian/12")
///     .config("limits.memory", "2GiB")
///     .device("root", [("type", "disk"), ("path", "/"), ("pool", "default")])
///     .start();
/// assert_eq!(new.name(), "web");
/// ```
#[derive(Clone, Debug)]
pub struct NewInstance {
    post: InstancesPost,
}

impl NewInstance {
    fn of(name: impl Into<String>, r#type: &str, source: InstanceSource) -> Self {
        Self {
            post: InstancesPost {
                name: name.into(),
                source: InstanceSource {
                    r#type: r#type.to_owned(),
                    ..source
                },
                ..InstancesPost::default()
            },
        }
    }

    /// From an image of the server, by alias. An empty name lets the server choose one.
    pub fn from_image(name: impl Into<String>, alias: impl Into<String>) -> Self {
        let source = InstanceSource {
            alias: alias.into(),
            ..InstanceSource::default()
        };
        Self::of(name, "image", source)
    }

    /// From an image of the server, by fingerprint or its beginning.
    pub fn from_fingerprint(name: impl Into<String>, fingerprint: impl Into<String>) -> Self {
        let source = InstanceSource {
            fingerprint: fingerprint.into(),
            ..InstanceSource::default()
        };
        Self::of(name, "image", source)
    }

    /// From an image of another server, which the server fetches itself; `protocol` is `incus`, `simplestreams` or `oci`.
    pub fn from_remote_image(
        name: impl Into<String>,
        server: impl Into<String>,
        protocol: impl Into<String>,
        alias: impl Into<String>,
    ) -> Self {
        let mut new = Self::from_image(name, alias);
        new.post.source.server = server.into();
        new.post.source.protocol = protocol.into();
        new.post.source.mode = "pull".to_owned();
        new
    }

    /// Empty: to be filled by the caller, or to boot from an ISO.
    pub fn empty(name: impl Into<String>) -> Self {
        Self::of(name, "none", InstanceSource::default())
    }

    /// A copy of an instance of the same server, or of a snapshot of one (`c1/snap`).
    pub fn copy_of(name: impl Into<String>, source: impl Into<String>) -> Self {
        let source = InstanceSource {
            source: source.into(),
            ..InstanceSource::default()
        };
        Self::of(name, "copy", source)
    }

    /// From any source, as the API has it.
    pub fn from_source(name: impl Into<String>, source: InstanceSource) -> Self {
        let r#type = source.r#type.clone();
        Self::of(name, &r#type, source)
    }

    /// Sets a configuration key.
    pub fn config(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.post.config.insert(key.into(), value.into());
        self
    }
    /// Adds a device.
    pub fn device<K, V>(
        mut self,
        name: impl Into<String>,
        keys: impl IntoIterator<Item = (K, V)>,
    ) -> Self
    where
        K: Into<String>,
        V: Into<String>,
    {
        let keys = keys
            .into_iter()
            .map(|(k, v)| (k.into(), v.into()))
            .collect();
        self.post.devices.insert(name.into(), keys);
        self
    }
    /// With these profiles instead of `default`.
    pub fn profiles<S: Into<String>>(mut self, profiles: impl IntoIterator<Item = S>) -> Self {
        self.post.profiles = profiles.into_iter().map(Into::into).collect();
        self
    }
    /// Deleted when it stops.
    pub fn ephemeral(mut self) -> Self {
        self.post.ephemeral = true;
        self
    }
    /// A virtual machine, not a container.
    pub fn virtual_machine(mut self) -> Self {
        self.post.r#type = "virtual-machine".to_owned();
        self
    }
    /// `container` or `virtual-machine`.
    pub fn kind(mut self, r#type: impl Into<String>) -> Self {
        self.post.r#type = r#type.into();
        self
    }
    /// Started once it is made.
    pub fn start(mut self) -> Self {
        self.post.start = true;
        self
    }
    /// With this description.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.post.description = text.into();
        self
    }
    /// Sized like a cloud's instance type, such as `t2.micro` or `c2-m4`.
    pub fn size(mut self, name: impl Into<String>) -> Self {
        self.post.instance_type = name.into();
        self
    }
    /// Without the snapshots of what it is a copy of.
    pub fn without_snapshots(mut self) -> Self {
        self.post.source.instance_only = true;
        self
    }
    /// From this project of the same server, where it is a copy.
    pub fn source_project(mut self, project: impl Into<String>) -> Self {
        self.post.source.project = project.into();
        self
    }
    /// Brings an existing copy up to date instead of making one.
    pub fn refresh(mut self) -> Self {
        self.post.source.refresh = true;
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.post.name
    }
    /// The request, to be changed in ways that have no method here.
    pub fn post_mut(&mut self) -> &mut InstancesPost {
        &mut self.post
    }
    pub(crate) fn into_post(self) -> InstancesPost {
        self.post
    }
}
