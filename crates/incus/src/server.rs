//! The server itself: configuration, resources, metrics, cluster.

use boxrig_wire::{ByteReply, Json, NoBody, Result};

use crate::client::{Client, Parts};
use crate::envelope::Sync;
use crate::model::Merge;
use crate::models;
use crate::ops::{cluster, network_allocations, server};

/// The server itself.
#[derive(Clone, Debug)]
pub struct ServerHandle<'a> {
    client: &'a Client,
}

/// The cluster that the server is part of.
#[derive(Clone, Debug)]
pub struct ClusterHandle<'a> {
    client: &'a Client,
}

impl Client {
    /// The server itself: configuration, resources, metrics.
    pub fn server(&self) -> ServerHandle<'_> {
        ServerHandle { client: self }
    }
    /// The cluster; its members and groups are [`cluster_members`](Self::cluster_members) and
    /// [`cluster_groups`](Self::cluster_groups).
    pub fn cluster(&self) -> ClusterHandle<'_> {
        ClusterHandle { client: self }
    }
}

impl ServerHandle<'_> {
    /// The versions of the API that there are, as paths.
    ///
    /// # Errors
    ///
    /// Those of the way to it.
    pub async fn versions(&self) -> Result<Vec<String>> {
        Ok(self.client.get::<server::ApiGet>(&[]).await?.metadata)
    }

    /// Environment and configuration, with their version.
    ///
    /// # Errors
    ///
    /// Those of the way to it.
    pub async fn get(&self) -> Result<Sync<models::Server>> {
        self.client.get::<server::ServerGet>(&[]).await
    }

    /// Sets configuration keys and leaves the rest; an empty value unsets.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`](boxrig_wire::Kind::Invalid) for keys and values that the server refuses.
    pub async fn set<K, V>(&self, keys: impl IntoIterator<Item = (K, V)>) -> Result<()>
    where
        K: Into<String>,
        V: Into<String>,
    {
        let keys: std::collections::BTreeMap<String, String> = keys
            .into_iter()
            .map(|(k, v)| (k.into(), v.into()))
            .collect();
        let patch = Merge::new().set("config", serde_json::json!(keys));
        self.client
            .send::<server::ServerPatch>(Parts::default(), Json(patch))
            .await?;
        Ok(())
    }

    /// Replaces the configuration: what is left out is unset. With the version that was read the server refuses when it has
    /// changed since.
    ///
    /// # Errors
    ///
    /// [`Kind::Precondition`](boxrig_wire::Kind::Precondition) when it has changed since.
    pub async fn replace(&self, put: models::ServerPut, version: Option<&str>) -> Result<()> {
        let parts = Parts::default().if_match(version)?;
        self.client
            .send::<server::ServerPut>(parts, Json(put))
            .await?;
        Ok(())
    }

    /// The hardware.
    ///
    /// # Errors
    ///
    /// [`Kind::Denied`](boxrig_wire::Kind::Denied) for callers that may not see it.
    pub async fn resources(&self) -> Result<models::Resources> {
        Ok(self.client.get::<server::ResourcesGet>(&[]).await?.metadata)
    }

    /// Metrics of the instances, in the OpenMetrics text format, streamed.
    ///
    /// # Errors
    ///
    /// As [`resources`](Self::resources).
    pub async fn metrics(&self) -> Result<ByteReply> {
        self.client.get::<server::MetricsGet>(&[]).await
    }

    /// All configuration keys that there are, with their types and defaults.
    ///
    /// # Errors
    ///
    /// Those of the way to it.
    pub async fn configuration_metadata(&self) -> Result<models::MetadataConfiguration> {
        let reply = self.client.get::<server::MetadataConfigurationGet>(&[]);
        Ok(reply.await?.metadata)
    }

    /// The addresses in use, and by what.
    ///
    /// # Errors
    ///
    /// As [`resources`](Self::resources).
    pub async fn network_allocations(&self) -> Result<Vec<models::NetworkAllocations>> {
        let reply = self
            .client
            .get::<network_allocations::NetworkAllocationsGet>(&[]);
        Ok(reply.await?.metadata)
    }
}

impl ClusterHandle<'_> {
    /// The cluster as this server sees it.
    ///
    /// # Errors
    ///
    /// Those of the way to it.
    pub async fn get(&self) -> Result<Sync<models::Cluster>> {
        self.client.get::<cluster::ClusterGet>(&[]).await
    }

    /// Makes a cluster, joins one, or leaves it, as `put` says; waits until it is done.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn put(&self, put: models::ClusterPut) -> Result<()> {
        self.client
            .finish::<cluster::ClusterPut>(Parts::default(), Json(put))
            .await?;
        Ok(())
    }

    /// Replaces the certificate of all members.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn replace_certificate(&self, put: models::ClusterCertificatePut) -> Result<()> {
        self.client
            .send::<cluster::ClusteringUpdateCert>(Parts::default(), Json(put))
            .await?;
        Ok(())
    }

    /// The names of the members; empty on a server that is in no cluster.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn members(&self) -> Result<Vec<String>> {
        let reply = self
            .client
            .send::<cluster::ClusterMembersGet>(Parts::default().query("recursion", 0), NoBody)
            .await?;
        let names = reply.metadata.urls();
        Ok(names
            .iter()
            .map(|url| crate::collection::name_of_url(url))
            .collect())
    }
}
