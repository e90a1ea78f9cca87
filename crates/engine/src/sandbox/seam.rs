//! The sandbox behind the engine trait.

use std::fs;
use std::io::{self, Seek};
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::sync::broadcast;

use super::life::Instance;
use super::ring::Ring;
use super::{Sandbox, guest, logs, to_the_end};
use crate::{
    Attributes, BASE_IMAGE, BoxDuplex, BoxFuture, BoxReader, Capabilities, DirEntry, Engine,
    EngineEvent, Error, Exec, ExecSpec, FileMeta, FileRead, GuestAccept, GuestListener,
    ImageConfig, ImageInfo, InstanceId, InstanceInfo, InstanceSpec, Isolation, Limits, LogOptions,
    LogSource, LogStream, NetworkPolicy, Result, SnapshotId, SnapshotInfo, SnapshotSpec, Stats,
    StopMode, WinSize, WriteOptions,
};

/// Starts an operation on an instance that runs to its end.
macro_rules! operation {
    ($self:ident, $id:ident, |$inner:ident, $instance:ident| $work:expr) => {{
        let found = $self
            .0
            .find($id)
            .map(|instance| (Arc::clone(&$self.0), instance));
        Box::pin(async move {
            let ($inner, $instance) = found?;
            to_the_end(async move { $work.await }).await
        })
    }};
}

impl Engine for Sandbox {
    fn name(&self) -> &'static str {
        "sandbox"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            exec: true,
            pty: true,
            files: true,
            pause: true,
            snapshot: true,
            egress: true,
            ports: true,
            images: true,
            survives_restart: true,
            limits: self.0.cgroups.enforced(),
            ..Capabilities::none(Isolation::Namespaces)
        }
    }

    fn create(&self, spec: InstanceSpec) -> BoxFuture<'_, Result<InstanceInfo>> {
        let inner = Arc::clone(&self.0);
        Box::pin(to_the_end(async move { inner.create(spec).await }))
    }

    fn start<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<InstanceInfo>> {
        operation!(self, id, |inner, instance| inner.start(&instance))
    }

    fn stop<'a>(
        &'a self,
        id: &'a InstanceId,
        mode: StopMode,
    ) -> BoxFuture<'a, Result<InstanceInfo>> {
        operation!(self, id, |inner, instance| inner.stop(&instance, mode))
    }

    fn pause<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<InstanceInfo>> {
        operation!(self, id, |inner, instance| inner.pause(&instance))
    }

    fn resume<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<InstanceInfo>> {
        operation!(self, id, |inner, instance| inner.resume(&instance))
    }

    fn delete<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<()>> {
        operation!(self, id, |inner, instance| inner.delete(&instance))
    }

    fn get<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<InstanceInfo>> {
        Box::pin(async move { Ok(self.0.find(id)?.info()) })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<InstanceInfo>>> {
        Box::pin(async move {
            Ok(self
                .0
                .all()
                .iter()
                .map(|instance| instance.info())
                .collect())
        })
    }

    fn update_limits<'a>(
        &'a self,
        id: &'a InstanceId,
        limits: Limits,
    ) -> BoxFuture<'a, Result<InstanceInfo>> {
        operation!(self, id, |inner, instance| inner
            .update_limits(&instance, limits))
    }

    fn set_network<'a>(
        &'a self,
        id: &'a InstanceId,
        network: NetworkPolicy,
    ) -> BoxFuture<'a, Result<InstanceInfo>> {
        operation!(self, id, |inner, instance| inner
            .set_network(&instance, network))
    }

    fn stats<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<Stats>> {
        Box::pin(async move { self.0.stats(&self.0.find(id)?).await })
    }

    fn exec<'a>(&'a self, id: &'a InstanceId, spec: ExecSpec) -> BoxFuture<'a, Result<Exec>> {
        Box::pin(async move { self.0.exec(&*self.0.find(id)?, spec, None).await })
    }

    fn console<'a>(&'a self, id: &'a InstanceId, size: WinSize) -> BoxFuture<'a, Result<Exec>> {
        Box::pin(async move { self.0.console(&*self.0.find(id)?, size).await })
    }

    fn read_file<'a>(
        &'a self,
        id: &'a InstanceId,
        path: &'a [u8],
        offset: u64,
    ) -> BoxFuture<'a, Result<FileRead>> {
        Box::pin(async move {
            let guest = self.0.find(id)?.running()?;
            let (meta, mut file) = guest.read_file(path).await?;
            file.seek(io::SeekFrom::Start(offset))
                .map_err(|e| Error::io("read a file", e))?;
            Ok(FileRead {
                meta,
                content: Box::new(tokio::fs::File::from_std(file)),
            })
        })
    }

    fn write_file<'a>(
        &'a self,
        id: &'a InstanceId,
        path: &'a [u8],
        options: WriteOptions,
        mut content: BoxReader,
    ) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let guest = self.0.find(id)?.running()?;
            let (channel, file) = guest.write_file(path, &options).await?;
            let mut file = tokio::fs::File::from_std(file);
            file.set_max_buf_size(1 << 20);
            let failed =
                |e: io::Error| Error::io(format!("write {}", String::from_utf8_lossy(path)), e);
            let n = tokio::io::copy_buf(
                &mut tokio::io::BufReader::with_capacity(256 * 1024, &mut content),
                &mut file,
            )
            .await
            .map_err(failed)?;
            file.flush().await.map_err(failed)?;
            guest.commit(&channel, path).await?;
            Ok(n)
        })
    }

    fn stat<'a>(
        &'a self,
        id: &'a InstanceId,
        path: &'a [u8],
        follow: bool,
    ) -> BoxFuture<'a, Result<FileMeta>> {
        Box::pin(async move { self.0.find(id)?.running()?.stat(path, follow).await })
    }

    fn list_dir<'a>(
        &'a self,
        id: &'a InstanceId,
        path: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<DirEntry>>> {
        Box::pin(async move { self.0.find(id)?.running()?.list_dir(path).await })
    }

    fn make_dir<'a>(
        &'a self,
        id: &'a InstanceId,
        path: &'a [u8],
        mode: u32,
        parents: bool,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.0
                .find(id)?
                .running()?
                .make_dir(path, mode, parents)
                .await
        })
    }

    fn symlink<'a>(
        &'a self,
        id: &'a InstanceId,
        path: &'a [u8],
        target: &'a [u8],
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.0.find(id)?.running()?.symlink(path, target).await })
    }

    fn set_attributes<'a>(
        &'a self,
        id: &'a InstanceId,
        path: &'a [u8],
        attributes: Attributes,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let guest = self.0.find(id)?.running()?;
            guest.set_attributes(path, attributes).await
        })
    }

    fn remove<'a>(
        &'a self,
        id: &'a InstanceId,
        path: &'a [u8],
        recursive: bool,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.0.find(id)?.running()?.remove(path, recursive).await })
    }

    fn connect<'a>(&'a self, id: &'a InstanceId, port: u16) -> BoxFuture<'a, Result<BoxDuplex>> {
        Box::pin(async move {
            let stream = self.0.find(id)?.running()?.connect_port(port).await?;
            Ok(Box::new(stream) as BoxDuplex)
        })
    }

    fn listen<'a>(&'a self, id: &'a InstanceId, port: u16) -> BoxFuture<'a, Result<GuestListener>> {
        Box::pin(async move {
            let instance = self.0.find(id)?;
            let (listener, port, asked) = instance.running()?.listen(port).await?;
            Ok(GuestListener::new(
                port,
                Box::new(Accept {
                    listener,
                    asked,
                    instance,
                }),
            ))
        })
    }

    fn snapshot<'a>(
        &'a self,
        id: &'a InstanceId,
        spec: SnapshotSpec,
    ) -> BoxFuture<'a, Result<SnapshotInfo>> {
        operation!(self, id, |inner, instance| inner.snapshot(&instance, spec))
    }

    fn restore<'a>(
        &'a self,
        id: &'a InstanceId,
        snapshot: &'a SnapshotId,
    ) -> BoxFuture<'a, Result<InstanceInfo>> {
        let snapshot = snapshot.clone();
        operation!(self, id, |inner, instance| inner
            .restore(&instance, &snapshot))
    }

    fn list_snapshots(&self) -> BoxFuture<'_, Result<Vec<SnapshotInfo>>> {
        Box::pin(async move {
            Ok(self
                .0
                .snapshots()
                .values()
                .map(|record| record.info.clone())
                .collect())
        })
    }

    fn delete_snapshot<'a>(&'a self, id: &'a SnapshotId) -> BoxFuture<'a, Result<()>> {
        let (inner, id) = (Arc::clone(&self.0), id.clone());
        Box::pin(to_the_end(async move { inner.delete_snapshot(&id).await }))
    }

    fn logs<'a>(
        &'a self,
        id: &'a InstanceId,
        options: LogOptions,
    ) -> BoxFuture<'a, Result<LogStream>> {
        Box::pin(async move {
            let instance = self.0.find(id)?;
            let name = match options.source {
                LogSource::Main => "main.log",
                LogSource::Console => "console.log",
            };
            let ring = Ring::open(&instance.dir.join(name), self.0.options.log_bytes)
                .map_err(|e| Error::io("open the log", e))?;
            logs::stream(ring, instance, &options)
        })
    }

    fn import_image<'a>(
        &'a self,
        name: &'a str,
        tar: BoxReader,
    ) -> BoxFuture<'a, Result<ImageInfo>> {
        Box::pin(async move {
            let info = self.0.images.import(name, tar).await?;
            // One made here has lost its name.
            if self.0.forget_built(name)? {
                self.0.collect_layers().await?;
            }
            Ok(info)
        })
    }

    fn commit_image<'a>(
        &'a self,
        name: &'a str,
        snapshot: &'a SnapshotId,
        config: ImageConfig,
    ) -> BoxFuture<'a, Result<ImageInfo>> {
        let (inner, name, snapshot) = (Arc::clone(&self.0), name.to_owned(), snapshot.clone());
        Box::pin(to_the_end(async move {
            inner.commit_image(&name, &snapshot, config).await
        }))
    }

    fn save_image<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<BoxReader>> {
        Box::pin(async move { self.0.save_image(name).await })
    }

    fn load_image<'a>(&'a self, name: &'a str, tar: BoxReader) -> BoxFuture<'a, Result<ImageInfo>> {
        Box::pin(async move { self.0.load_image(name, tar).await })
    }

    fn list_images(&self) -> BoxFuture<'_, Result<Vec<ImageInfo>>> {
        Box::pin(async move {
            let mut images = self.0.images.list();
            let made =
                fs::metadata(self.0.dirs.layer(&self.0.base)).and_then(|meta| meta.modified());
            let created = made.unwrap_or(std::time::SystemTime::UNIX_EPOCH);
            images.push(ImageInfo::new(BASE_IMAGE, None, 0, created));
            let built = super::lock(&self.0.built);
            images.extend(built.values().map(|record| record.info.clone()));
            images.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(images)
        })
    }

    fn delete_image<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if !self.0.forget_built(name)? {
                self.0.images.delete(name)?;
            }
            self.0.collect_layers().await
        })
    }

    fn set_neighbours(&self, neighbours: Arc<dyn crate::Neighbours>) -> bool {
        if self.0.neighbours.set(neighbours).is_err() {
            tracing::warn!("the instances' names for each other were told a second time");
        }
        true
    }

    fn events(&self) -> broadcast::Receiver<EngineEvent> {
        self.0.events.subscribe()
    }
}

/// A port of the server's in an instance.
struct Accept {
    listener: tokio::net::TcpListener,
    asked: u32,
    instance: Arc<Instance>,
}

impl GuestAccept for Accept {
    fn accept(&mut self) -> BoxFuture<'_, Result<BoxDuplex>> {
        Box::pin(async move {
            loop {
                let live = self.instance.live().ok_or_else(guest::gone)?;
                tokio::select! {
                    accepted = self.listener.accept() => match accepted {
                        Ok((stream, _)) => return Ok(Box::new(stream) as BoxDuplex),
                        // The other side gave up already, or descriptors are short for now.
                        Err(error) => {
                            tracing::debug!(%error, "a connection from an instance was not accepted");
                            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                        }
                    },
                    () = live.gone() => return Err(guest::gone()),
                }
            }
        })
    }
}

impl Drop for Accept {
    fn drop(&mut self) {
        let Ok(address) = self.listener.local_addr() else {
            return;
        };
        let (guest, asked) = (self.instance.guest(), self.asked);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // Best effort: an instance that has ended has no port any more.
            runtime.spawn(async move { guest.unlisten(address.port(), asked).await });
        }
    }
}
