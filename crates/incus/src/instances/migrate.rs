//! Copies between servers: pulled by the target, pushed by the source, or relayed through us.

use std::collections::BTreeMap;

use boxrig_wire::ws::{Frame, Reader, WebSocket, Writer};
use boxrig_wire::{Error, Json, Kind, Operation, Result};

use super::Instances;
use super::exec::socket;
use crate::client::{Client, Parts};
use crate::models::{
    self, InstanceFull, InstancePost, InstancePostTarget, InstanceSnapshotPost, InstanceSource,
    InstancesPost,
};
use crate::ops::{instance_snapshots, instances};

/// Who carries a copy between two servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CopyMode {
    /// The target fetches it from the source.
    #[default]
    Pull,
    /// The source sends it to the target.
    Push,
    /// It goes through us: for servers that do not reach each other.
    Relay,
}

/// How a copy is made.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct InstanceCopy {
    /// Who carries it.
    pub mode: CopyMode,
    /// The name of the copy; that of the source when empty.
    pub name: String,
    /// Without snapshots.
    pub instance_only: bool,
    /// With the memory of what runs.
    pub live: bool,
    /// Brings an existing copy up to date.
    pub refresh: bool,
    /// The pool of its root disk; as at the source when `None`.
    pub pool: Option<String>,
    /// Though it changes while it is copied.
    pub allow_inconsistent: bool,
}

impl InstanceCopy {
    /// A copy of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }
    /// Carried like this.
    pub fn mode(mut self, mode: CopyMode) -> Self {
        self.mode = mode;
        self
    }
    /// Without snapshots.
    pub fn instance_only(mut self) -> Self {
        self.instance_only = true;
        self
    }
    /// With the root disk in this pool.
    pub fn pool(mut self, pool: impl Into<String>) -> Self {
        self.pool = Some(pool.into());
        self
    }
}

/// Keys of the server's own that a copy needs: what image it is of, and how its files' owners are shifted.
const KEPT: [&str; 2] = ["volatile.base_image", "volatile.last_state.idmap"];

impl Instances<'_> {
    /// Copies an instance, or a snapshot of one (`c1/snap`), to another server. The operation is the target's.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] when a server that must be reached by the other listens nowhere; else those of either server.
    pub async fn copy_to(
        &self,
        source: &str,
        target: &Client,
        copy: InstanceCopy,
    ) -> Result<Operation<InstanceFull>> {
        Ok(self.copying(source, target, copy).await?.0)
    }

    /// Moves an instance that is stopped to another server: copied with all its snapshots, and deleted here once the copy is whole.
    ///
    /// # Errors
    ///
    /// As [`copy_to`](Self::copy_to), and then the source is as it was; [`Kind::Invalid`] for a snapshot, and for a copy that would leave
    /// something behind.
    pub async fn move_to(
        &self,
        source: &str,
        target: &Client,
        copy: InstanceCopy,
    ) -> Result<InstanceFull> {
        if source.contains('/') || copy.instance_only {
            let words = "an instance is moved with its snapshots, and a snapshot not at all";
            return Err(Error::new(Kind::Invalid, words));
        }
        let (operation, sending) = self.copying(source, target, copy).await?;
        let made = operation.wait().await?;
        // The target has it; the source may still be putting its end in order, and is busy until then.
        match self.client().wait_for(&sending).await {
            Ok(end) => _ = end.succeeded()?,
            // It has ended and is forgotten.
            Err(e) if e.kind() == Kind::OutcomeUnknown => {}
            Err(e) => return Err(e),
        }
        self.delete(source).await?.wait().await?;
        Ok(made)
    }

    /// The target's operation, and the id of the source's.
    async fn copying(
        &self,
        source: &str,
        target: &Client,
        copy: InstanceCopy,
    ) -> Result<(Operation<InstanceFull>, String)> {
        let (instance, snapshot) = match source.split_once('/') {
            Some((instance, snapshot)) => (instance, Some(snapshot)),
            None => (source, None),
        };
        let post = self.description(instance, &copy).await?;
        match copy.mode {
            CopyMode::Pull => {
                let (client, address) = (self.client(), None);
                let sending = self.send_out(instance, snapshot, &copy, address).await?;
                let place = Place::of(client).await?;
                let operation = self.pulled(target, post, &sending, place).await?;
                Ok((operation, sending.id))
            }
            CopyMode::Push => {
                let place = Place::of(target).await?;
                let (receiving, hub) = receive(target, post).await?;
                let address = InstancePostTarget {
                    certificate: place.certificate.clone(),
                    operation: place.operation(&receiving.id),
                    secrets: secrets(&receiving),
                    ..InstancePostTarget::default()
                };
                let sending = self
                    .send_out(instance, snapshot, &copy, Some(address))
                    .await?;
                let operation = finished(target, receiving, hub, &copy, instance);
                Ok((operation, sending.id))
            }
            CopyMode::Relay => {
                let sending = self.send_out(instance, snapshot, &copy, None).await?;
                let (receiving, hub) = receive(target, post).await?;
                relay(self.client(), &sending, target, &receiving).await?;
                let operation = finished(target, receiving, hub, &copy, instance);
                Ok((operation, sending.id))
            }
        }
    }

    /// The copy as the target will be asked to make it.
    async fn description(&self, instance: &str, copy: &InstanceCopy) -> Result<InstancesPost> {
        let from = self.get(instance).await?;
        let mut devices = from.devices;
        if let Some(pool) = &copy.pool {
            let root = from.expanded_devices.iter().find(|(_, keys)| {
                keys.get("type").is_some_and(|t| t == "disk")
                    && keys.get("path").is_some_and(|p| p == "/")
            });
            if let Some((name, keys)) = root {
                let mut keys = keys.clone();
                keys.insert("pool".to_owned(), pool.clone());
                devices.insert(name.clone(), keys);
            }
        }
        let base_image = from.config.get("volatile.base_image").cloned();
        Ok(InstancesPost {
            name: match copy.name.is_empty() {
                true => instance.to_owned(),
                false => copy.name.clone(),
            },
            architecture: from.architecture,
            config: from
                .config
                .into_iter()
                .filter(|(key, _)| !key.starts_with("volatile.") || KEPT.contains(&&**key))
                .collect(),
            description: from.description,
            devices,
            ephemeral: from.ephemeral,
            profiles: from.profiles,
            r#type: from.r#type,
            stateful: from.stateful,
            source: InstanceSource {
                r#type: "migration".to_owned(),
                base_image: base_image.unwrap_or_default(),
                instance_only: copy.instance_only,
                live: copy.live,
                refresh: copy.refresh,
                allow_inconsistent: copy.allow_inconsistent,
                ..InstanceSource::default()
            },
            ..InstancesPost::default()
        })
    }

    /// Makes the source ready to send, to `target` when it is to go there itself.
    async fn send_out(
        &self,
        instance: &str,
        snapshot: Option<&str>,
        copy: &InstanceCopy,
        target: Option<InstancePostTarget>,
    ) -> Result<models::Operation> {
        let target = target.unwrap_or_default();
        if let Some(snapshot) = snapshot {
            let post = InstanceSnapshotPost {
                name: snapshot.to_owned(),
                migration: true,
                live: copy.live,
                target,
                ..InstanceSnapshotPost::default()
            };
            let parts = Parts::new(&[instance, snapshot]);
            let reply = self
                .client()
                .send::<instance_snapshots::InstanceSnapshotPost>(parts, Json(post));
            return Ok(reply.await?.0);
        }
        let post = InstancePost {
            name: instance.to_owned(),
            migration: true,
            live: copy.live,
            instance_only: copy.instance_only,
            allow_inconsistent: copy.allow_inconsistent,
            target,
            ..InstancePost::default()
        };
        let parts = Parts::new(&[instance]);
        let reply = self
            .client()
            .send::<instances::InstancePost>(parts, Json(post));
        Ok(reply.await?.0)
    }

    async fn pulled(
        &self,
        target: &Client,
        mut post: InstancesPost,
        sending: &models::Operation,
        place: Place,
    ) -> Result<Operation<InstanceFull>> {
        // The target is told one address; which of them it reaches only it knows, so a failed connection is not our
        // choice to repeat: the secrets are good once.
        post.source.mode = "pull".to_owned();
        post.source.operation = place.operation(&sending.id);
        post.source.secrets = secrets(sending);
        post.source.certificate = place.certificate;
        let (client, name) = (target.clone(), post.name.clone());
        target
            .begin::<instances::InstancesPost, _>(Parts::default(), Json(post), move |_| {
                let (client, name) = (client.clone(), name.clone());
                Box::pin(async move { client.instances().get(&name).await })
            })
            .await
    }
}

type Hub = Option<std::sync::Arc<crate::client::hub::Hub>>;

/// Makes the target ready to receive.
async fn receive(target: &Client, mut post: InstancesPost) -> Result<(models::Operation, Hub)> {
    post.source.mode = "push".to_owned();
    let hub = target.shared().hub.get(target).await;
    let reply = target
        .send::<instances::InstancesPost>(Parts::default(), Json(post))
        .await?;
    Ok((reply.0, hub))
}

fn finished(
    target: &Client,
    receiving: models::Operation,
    hub: Hub,
    copy: &InstanceCopy,
    instance: &str,
) -> Operation<InstanceFull> {
    let client = target.clone();
    let name = match copy.name.is_empty() {
        true => instance.to_owned(),
        false => copy.name.clone(),
    };
    target.follow(Some(receiving), hub, move |_| {
        let (client, name) = (client.clone(), name.clone());
        Box::pin(async move { client.instances().get(&name).await })
    })
}

/// Where a server is reached by another one.
pub(crate) struct Place {
    addresses: Vec<String>,
    certificate: String,
}

impl Place {
    pub(crate) async fn of(client: &Client) -> Result<Self> {
        let info = client.info().await?;
        let base = client.caller().base();
        let mut addresses = Vec::new();
        if base.is_https() {
            addresses.push(base.to_string());
        }
        let listens = info.environment.addresses.iter();
        addresses.extend(listens.map(|a| format!("https://{a}")));
        if addresses.is_empty() {
            return Err(Error::new(
                Kind::Invalid,
                "the server listens on no address that another server could reach",
            )
            .with_hint("set core.https_address there, or let the copy be relayed"));
        }
        Ok(Self {
            addresses,
            certificate: info.environment.certificate,
        })
    }

    /// The first: which of them another server reaches, only that one knows.
    pub(crate) fn address(&self) -> &str {
        &self.addresses[0]
    }

    pub(crate) fn certificate(&self) -> &str {
        &self.certificate
    }

    fn operation(&self, id: &str) -> String {
        let address = self.address();
        format!("{address}/1.0/operations/{id}")
    }
}

/// The secrets of an operation's sockets: every text in its metadata is one.
fn secrets(operation: &models::Operation) -> BTreeMap<String, String> {
    operation
        .metadata
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// Connects the sockets that both have, and carries everything between them in the background.
async fn relay(
    source: &Client,
    sending: &models::Operation,
    target: &Client,
    receiving: &models::Operation,
) -> Result<()> {
    let (from, to) = (secrets(sending), secrets(receiving));
    let pairs = to
        .iter()
        .filter_map(|(name, secret)| Some((from.get(name)?, secret)));
    let connect = pairs.map(|(from, to)| async move {
        futures_util::future::try_join(
            socket(source, &sending.id, from),
            socket(target, &receiving.id, to),
        )
        .await
    });
    for (a, b) in futures_util::future::try_join_all(connect).await? {
        tokio::spawn(between(a, b));
    }
    Ok(())
}

async fn between(a: WebSocket, b: WebSocket) {
    let (from_a, to_a) = a.split();
    let (from_b, to_b) = b.split();
    futures_util::future::join(carry(from_a, to_b), carry(from_b, to_a)).await;
}

async fn carry(mut from: Reader, to: Writer) {
    while let Ok(Some(frame)) = from.next().await {
        // Each side's pings are answered by its own reader.
        if matches!(frame, Frame::Ping(_) | Frame::Pong(_)) {
            continue;
        }
        let last = matches!(frame, Frame::Close { .. });
        if to.send(frame).await.is_err() || last {
            break;
        }
    }
    let _ = to.shutdown().await;
}
