//! The server's background operations as a list of their own.

use boxrig_wire::{Error, Kind, NoBody, Operation, Result};

use crate::client::{Client, Parts};
use crate::models;
use crate::ops::server;

/// Background operations, whoever started them.
#[derive(Clone, Debug)]
pub struct Operations<'a> {
    client: &'a Client,
}

impl Client {
    /// The server's background operations.
    pub fn operations(&self) -> Operations<'_> {
        Operations { client: self }
    }
}

impl Operations<'_> {
    /// All that the server still knows, running or just ended.
    ///
    /// # Errors
    ///
    /// Those of the server and of the way to it.
    pub async fn list(&self) -> Result<Vec<models::Operation>> {
        let parts = Parts::default().query("recursion", 1);
        let reply = self
            .client
            .send::<server::OperationsGet>(parts, NoBody)
            .await?;
        // By status on the wire; each operation says its status itself.
        let lists = reply.metadata.into_values();
        Ok(lists.flat_map(|list| list.items()).collect())
    }

    /// One.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] when the server does not know it (any more).
    pub async fn get(&self, id: &str) -> Result<models::Operation> {
        Ok(self
            .client
            .get::<server::OperationGet>(&[id])
            .await?
            .metadata)
    }

    /// A handle of one that was started elsewhere: to wait for it, watch it, cancel it.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn attach(&self, id: &str) -> Result<Operation<models::Operation>> {
        let hub = self.client.shared().hub.get(self.client).await;
        let first = self.get(id).await?;
        Ok(self
            .client
            .follow(Some(first), hub, |end| Box::pin(async move { Ok(end) })))
    }

    /// Cancels one, where it can be cancelled.
    ///
    /// # Errors
    ///
    /// [`Kind::Unsupported`] for one that cannot be cancelled, [`Kind::Conflict`] for one that has ended, [`Kind::NotFound`] for one that is not
    /// known.
    pub async fn cancel(&self, id: &str) -> Result<()> {
        let now = self.get(id).await?;
        if now.is_final() {
            return Err(Error::new(Kind::Conflict, "the operation has ended"));
        }
        // A token's operation says that it cannot be cancelled, and is: that is how a token is taken back.
        if !now.may_cancel && now.class != "token" {
            return Err(Error::new(
                Kind::Unsupported,
                "this operation cannot be cancelled",
            ));
        }
        self.client.get::<server::OperationDelete>(&[id]).await?;
        Ok(())
    }
}
