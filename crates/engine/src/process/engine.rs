//! The trait, as the process engine answers it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::broadcast;

use super::{Instance, Process, Store, blocking, files, lock, unsupported};
use crate::{
    BASE_IMAGE, BoxDuplex, BoxFuture, BoxReader, Capabilities, DirEntry, EnforcedLimits, Engine,
    EngineEvent, Error, EventKind, Exec, ExecSpec, FileMeta, FileRead, GuestAccept, GuestListener,
    ImageInfo, InstanceId, InstanceInfo, InstanceSpec, InstanceState, Isolation, Kind, Limits,
    LogOptions, LogSource, LogStream, Result, SnapshotId, SnapshotInfo, SnapshotSpec, Stats,
    StopMode, WinSize, WriteOptions, check,
};

impl Engine for Process {
    fn name(&self) -> &'static str {
        "process"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            exec: true,
            pty: true,
            files: true,
            pause: true,
            snapshot: true,
            ports: true,
            ..Capabilities::none(Isolation::None)
        }
    }

    fn create(&self, spec: InstanceSpec) -> BoxFuture<'_, Result<InstanceInfo>> {
        Box::pin(self.create_now(spec))
    }

    fn start<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<InstanceInfo>> {
        Box::pin(self.start_now(id))
    }

    fn stop<'a>(
        &'a self,
        id: &'a InstanceId,
        mode: StopMode,
    ) -> BoxFuture<'a, Result<InstanceInfo>> {
        Box::pin(self.stop_now(id, mode))
    }

    fn pause<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<InstanceInfo>> {
        Box::pin(self.freeze(id, true))
    }

    fn resume<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<InstanceInfo>> {
        Box::pin(self.freeze(id, false))
    }

    fn delete<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let instance = self.find(id)?;
            let _busy = instance.busy.lock().await;
            // Another deletion may have come first.
            self.find(id)?;
            self.remove(&instance).await?;
            self.emit(id, EventKind::Deleted);
            Ok(())
        })
    }

    fn get<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<InstanceInfo>> {
        Box::pin(async move { Ok(self.find(id)?.info().clone()) })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<InstanceInfo>>> {
        Box::pin(async move {
            Ok(lock(&self.0.instances)
                .values()
                .map(|instance| instance.info().clone())
                .collect())
        })
    }

    fn update_limits<'a>(
        &'a self,
        id: &'a InstanceId,
        limits: Limits,
    ) -> BoxFuture<'a, Result<InstanceInfo>> {
        Box::pin(async move {
            check::limits(&limits)?;
            let instance = self.find(id)?;
            self.change(&instance, |info| {
                info.spec.limits = limits;
                info.enforced = EnforcedLimits::default();
            })
        })
    }

    fn stats<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<Stats>> {
        Box::pin(async move {
            let instance = self.find(id)?;
            blocking(move || Ok(instance.group.stats())).await
        })
    }

    fn exec<'a>(&'a self, id: &'a InstanceId, spec: ExecSpec) -> BoxFuture<'a, Result<Exec>> {
        Box::pin(async move { self.start_exec(id, &spec, false) })
    }

    fn console<'a>(&'a self, id: &'a InstanceId, size: WinSize) -> BoxFuture<'a, Result<Exec>> {
        Box::pin(async move {
            let shell = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned());
            let spec = ExecSpec {
                tty: Some(size),
                ..ExecSpec::new([shell, "-l".to_owned()])
            };
            self.start_exec(id, &spec, true)
        })
    }

    fn read_file<'a>(
        &'a self,
        id: &'a InstanceId,
        path: &'a [u8],
        offset: u64,
    ) -> BoxFuture<'a, Result<FileRead>> {
        let path = path.to_vec();
        Box::pin(self.in_files(id, move |folder| folder.read(&path, offset)))
    }

    fn write_file<'a>(
        &'a self,
        id: &'a InstanceId,
        path: &'a [u8],
        options: WriteOptions,
        content: BoxReader,
    ) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let path = path.to_vec();
            let begun = self
                .in_files(id, move |folder| folder.begin_write(&path, options))
                .await?;
            files::Writing::run(begun, content).await
        })
    }

    fn stat<'a>(
        &'a self,
        id: &'a InstanceId,
        path: &'a [u8],
        follow: bool,
    ) -> BoxFuture<'a, Result<FileMeta>> {
        let path = path.to_vec();
        Box::pin(self.in_files(id, move |folder| folder.stat(&path, follow)))
    }

    fn list_dir<'a>(
        &'a self,
        id: &'a InstanceId,
        path: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<DirEntry>>> {
        let path = path.to_vec();
        Box::pin(self.in_files(id, move |folder| folder.list(&path)))
    }

    fn make_dir<'a>(
        &'a self,
        id: &'a InstanceId,
        path: &'a [u8],
        mode: u32,
        parents: bool,
    ) -> BoxFuture<'a, Result<()>> {
        let path = path.to_vec();
        Box::pin(self.in_files(id, move |folder| folder.make_dir(&path, mode, parents)))
    }

    fn symlink<'a>(
        &'a self,
        id: &'a InstanceId,
        path: &'a [u8],
        target: &'a [u8],
    ) -> BoxFuture<'a, Result<()>> {
        let (path, target) = (path.to_vec(), target.to_vec());
        Box::pin(self.in_files(id, move |folder| folder.symlink(&path, &target)))
    }

    fn remove<'a>(
        &'a self,
        id: &'a InstanceId,
        path: &'a [u8],
        recursive: bool,
    ) -> BoxFuture<'a, Result<()>> {
        let path = path.to_vec();
        Box::pin(self.in_files(id, move |folder| folder.remove(&path, recursive)))
    }

    fn connect<'a>(&'a self, id: &'a InstanceId, port: u16) -> BoxFuture<'a, Result<BoxDuplex>> {
        Box::pin(async move {
            self.running(id)?;
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            match tokio::net::TcpStream::connect(address).await {
                Ok(stream) => Ok(Box::new(stream) as BoxDuplex),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    Err(Error::with_source(
                        Kind::NotFound,
                        format!("nothing listens on port {port}"),
                        error,
                    ))
                }
                Err(error) => Err(Error::io(format!("connect to port {port}"), error)),
            }
        })
    }

    fn listen<'a>(&'a self, id: &'a InstanceId, port: u16) -> BoxFuture<'a, Result<GuestListener>> {
        Box::pin(async move {
            let instance = Arc::downgrade(&self.running(id)?);
            let failed = |error: io::Error| match error.kind() {
                io::ErrorKind::AddrInUse => {
                    Error::with_source(Kind::Exists, format!("port {port} is taken"), error)
                }
                _ => Error::io(format!("listen on port {port}"), error),
            };
            let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))
                .await
                .map_err(failed)?;
            let port = listener.local_addr().map_err(failed)?.port();
            Ok(GuestListener::new(
                port,
                Box::new(Accept { listener, instance }),
            ))
        })
    }

    fn snapshot<'a>(
        &'a self,
        id: &'a InstanceId,
        spec: SnapshotSpec,
    ) -> BoxFuture<'a, Result<SnapshotInfo>> {
        Box::pin(self.snapshot_now(id, spec))
    }

    fn restore<'a>(
        &'a self,
        id: &'a InstanceId,
        snapshot: &'a SnapshotId,
    ) -> BoxFuture<'a, Result<InstanceInfo>> {
        Box::pin(self.restore_now(id, snapshot))
    }

    fn list_snapshots(&self) -> BoxFuture<'_, Result<Vec<SnapshotInfo>>> {
        Box::pin(async move { Ok(lock(&self.0.snapshots).values().cloned().collect()) })
    }

    fn delete_snapshot<'a>(&'a self, id: &'a SnapshotId) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let away = {
                let mut snapshots = lock(&self.0.snapshots);
                if snapshots.remove(id).is_none() {
                    return Err(Error::new(Kind::NotFound, format!("no snapshot {id}")));
                }
                self.0.store.discard_snapshot(id)?
            };
            blocking(move || Store::remove(&away)).await
        })
    }

    fn logs<'a>(
        &'a self,
        id: &'a InstanceId,
        options: LogOptions,
    ) -> BoxFuture<'a, Result<LogStream>> {
        Box::pin(async move {
            let instance = self.find(id)?;
            let log = match options.source {
                LogSource::Main => instance.main_log.clone(),
                LogSource::Console => instance.console_log.clone(),
            };
            let weak = Arc::downgrade(&instance);
            let goes_on = move || {
                weak.upgrade().is_some_and(|instance| {
                    matches!(
                        instance.state(),
                        InstanceState::Running | InstanceState::Paused
                    )
                })
            };
            drop(instance);
            blocking(move || log.stream(&options, goes_on)).await
        })
    }

    fn import_image<'a>(&'a self, _: &'a str, _: BoxReader) -> BoxFuture<'a, Result<ImageInfo>> {
        Box::pin(async { Err(unsupported("import an image")) })
    }

    fn list_images(&self) -> BoxFuture<'_, Result<Vec<ImageInfo>>> {
        let base = ImageInfo::new(BASE_IMAGE, None, 0, std::time::SystemTime::UNIX_EPOCH);
        Box::pin(async { Ok(vec![base]) })
    }

    fn delete_image<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if name == BASE_IMAGE {
                return Err(Error::new(
                    Kind::Invalid,
                    "the built-in image cannot be removed",
                ));
            }
            Err(Error::new(Kind::NotFound, format!("no image {name:?}")))
        })
    }

    fn events(&self) -> broadcast::Receiver<EngineEvent> {
        self.0.events.subscribe()
    }
}

struct Accept {
    listener: tokio::net::TcpListener,
    instance: Weak<Instance>,
}

impl GuestAccept for Accept {
    fn accept(&mut self) -> BoxFuture<'_, Result<BoxDuplex>> {
        const LOOK: Duration = Duration::from_millis(500);
        Box::pin(async move {
            loop {
                let lives = self.instance.upgrade().is_some_and(|instance| {
                    matches!(
                        instance.state(),
                        InstanceState::Running | InstanceState::Paused
                    )
                });
                if !lives {
                    return Err(Error::new(Kind::Gone, "the instance has ended"));
                }
                match tokio::time::timeout(LOOK, self.listener.accept()).await {
                    Ok(Ok((stream, _))) => return Ok(Box::new(stream) as BoxDuplex),
                    Ok(Err(error)) => return Err(Error::io("accept a connection", error)),
                    Err(_) => {}
                }
            }
        })
    }
}
