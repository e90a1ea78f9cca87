//! The console of an instance: attached, and as the text it has said.

use std::sync::Arc;

use boxrig_wire::ws::{Frame, Reader, WebSocket, Writer};
use boxrig_wire::{ByteReply, Error, Json, Kind, NoBody, Result};
use bytes::Bytes;
use futures_util::Stream;

use super::Instances;
use super::exec::{Bound, ExecControl, ExecSockets, WindowSize, frames, send, silent, socket};
use crate::client::{Client, Parts};
use crate::models::InstanceConsolePost;
use crate::ops::instances;

/// An attached console. Dropping it detaches.
pub struct Console {
    client: Client,
    operation: String,
    secret: String,
    writer: Option<Writer>,
    reader: std::sync::Mutex<Option<Reader>>,
    control: ExecControl,
    _side: Bound<()>,
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console")
            .field("operation", &self.operation)
            .finish_non_exhaustive()
    }
}

impl Instances<'_> {
    /// Attaches to the text console. One at a time, unless `force` takes it over.
    ///
    /// # Errors
    ///
    /// [`Kind::Conflict`] while somebody else is attached or the instance does not run.
    pub async fn console(&self, instance: &str, size: WindowSize, force: bool) -> Result<Console> {
        let mut console = self.attach(instance, "console", size, force).await?;
        let (reader, writer) = console.channel().await?.split();
        console.reader = std::sync::Mutex::new(Some(reader));
        console.writer = Some(writer);
        Ok(console)
    }

    /// Attaches to the graphical console of a virtual machine: each SPICE channel is a [`Console::channel`].
    ///
    /// # Errors
    ///
    /// As [`console`](Self::console); [`Kind::Invalid`] for a container.
    pub async fn vga(&self, instance: &str, force: bool) -> Result<Console> {
        let size = WindowSize {
            width: 0,
            height: 0,
        };
        self.attach(instance, "vga", size, force).await
    }

    async fn attach(
        &self,
        instance: &str,
        r#type: &str,
        size: WindowSize,
        force: bool,
    ) -> Result<Console> {
        let post = InstanceConsolePost {
            force,
            height: size.height.into(),
            r#type: r#type.to_owned(),
            width: size.width.into(),
            ..InstanceConsolePost::default()
        };
        let operation = self
            .client()
            .send::<instances::InstanceConsolePost>(Parts::new(&[instance]), Json(post))
            .await?
            .0;
        let sockets = ExecSockets::of(&operation).unwrap_or_default().fds;
        let named = |name: &str| {
            sockets.get(name).cloned().ok_or_else(|| {
                Error::new(
                    Kind::Protocol,
                    "the console answer does not name its sockets",
                )
            })
        };
        let secret = named("0")?;
        let control = socket(self.client(), &operation.id, &named("control")?).await?;
        let (reader, writer) = control.split();
        Ok(Console {
            client: self.client().clone(),
            operation: operation.id,
            secret,
            writer: None,
            reader: std::sync::Mutex::default(),
            control: ExecControl {
                writer: Some(writer),
                interactive: true,
            },
            _side: Bound(tokio::spawn(silent(reader))),
        })
    }

    /// What the text console has said lately, as kept by the server.
    ///
    /// # Errors
    ///
    /// Those of the server; older ones keep it only while the instance runs.
    pub async fn console_log(&self, instance: &str) -> Result<ByteReply> {
        self.client()
            .get::<instances::InstanceConsoleGet>(&[instance])
            .await
    }

    /// A picture of the graphical console of a virtual machine (PNG).
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] for a container.
    pub async fn screenshot(&self, instance: &str) -> Result<ByteReply> {
        let parts = Parts::new(&[instance]).query("type", "vga");
        self.client()
            .send::<instances::InstanceConsoleGet>(parts, NoBody)
            .await
    }

    /// Forgets what the console has said.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn clear_console_log(&self, instance: &str) -> Result<()> {
        self.client()
            .get::<instances::InstanceConsoleDelete>(&[instance])
            .await?;
        Ok(())
    }
}

impl Console {
    /// A further connection: a SPICE channel of a graphical console.
    ///
    /// # Errors
    ///
    /// Those of the server and of the way to it.
    pub async fn channel(&self) -> Result<WebSocket> {
        socket(&self.client, &self.operation, &self.secret).await
    }

    /// What it says, once.
    pub fn output(&mut self) -> impl Stream<Item = Result<Bytes>> + Send + use<> {
        let reader = self
            .reader
            .get_mut()
            .unwrap_or_else(|e| e.into_inner())
            .take();
        use futures_util::StreamExt;
        let streams = reader.map(|r| Box::pin(frames(r, Arc::default())));
        futures_util::stream::iter(streams).flatten()
    }

    /// Types something.
    ///
    /// # Errors
    ///
    /// [`Kind::Transport`] when the connection is broken.
    pub async fn write(&self, bytes: impl Into<Bytes>) -> Result<()> {
        send(self.writer.as_ref(), Frame::binary(bytes)).await
    }

    /// Tells the terminal's new size.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub async fn resize(&self, size: WindowSize) -> Result<()> {
        self.control.resize(size).await
    }
}
