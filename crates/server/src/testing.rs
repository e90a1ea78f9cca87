//! A server for tests: a data directory of its own, a free port, ended with everything it holds.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), boxrig_server::serve::StartError> {
//! let server = boxrig_server::testing::Server::start().await?;
//! assert!(server.url().starts_with("http://127.0.0.1:"));
//! server.stop().await;
//! # Ok(()) }
//! ```

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use boxrig_engine::Selection;

use crate::config::ServerConfig;
use crate::core::Core;
use crate::ids;
use crate::serve::{Running, StartError};

/// A server that lives as long as this value. Instances are deleted with it.
#[derive(Debug)]
pub struct Server {
    running: Option<Running>,
    dir: TempDir,
}

impl Server {
    /// A server on the memory engine: nothing runs, everything else is real.
    ///
    /// # Errors
    ///
    /// When it cannot start.
    pub async fn start() -> Result<Self, StartError> {
        Self::with(|config| config.engine(Selection::Memory)).await
    }

    /// A server on an engine that runs commands.
    ///
    /// # Errors
    ///
    /// [`boxrig_wire::Kind::Unsupported`] when the engine does not work here.
    pub async fn on(engine: Selection) -> Result<Self, StartError> {
        Self::with(|config| config.engine(engine)).await
    }

    /// A server with settings of one's own; the data directory and a free port are set already.
    ///
    /// # Errors
    ///
    /// When it cannot start.
    pub async fn with(
        configure: impl FnOnce(ServerConfig) -> ServerConfig,
    ) -> Result<Self, StartError> {
        let dir = TempDir::new()?;
        let config =
            ServerConfig::new(dir.0.join("data")).listen(SocketAddr::from(([127, 0, 0, 1], 0)));
        let mut config = configure(config);
        // A test must hear at the start, not at its first launch, that the sandbox cannot run here.
        config.probe = config.engine == boxrig_engine::Selection::Sandbox;
        let running = crate::serve::Server::start(config).await?;
        Ok(Self {
            running: Some(running),
            dir,
        })
    }

    fn env(&self, name: &str) -> String {
        let env = self.running.as_ref().map(Running::env);
        env.and_then(|e| e.get(name)).unwrap_or_default().to_owned()
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        self.env("FASTVM_BASE_URL")
    }
    /// The API key of FastVM.
    pub fn api_key(&self) -> String {
        self.env("FASTVM_API_KEY")
    }
    /// The unix socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.0.join("data/unix.socket")
    }
    /// A folder for the test's own files, removed with the server.
    pub fn dir(&self) -> &Path {
        &self.dir.0
    }
    /// The server itself.
    pub fn running(&self) -> Option<&Running> {
        self.running.as_ref()
    }

    /// Ends the server as a program would, and starts another on the same data. Instances of an engine that outlives
    /// it go on.
    ///
    /// # Errors
    ///
    /// When it cannot start again.
    pub async fn restart(
        &mut self,
        configure: impl FnOnce(ServerConfig) -> ServerConfig,
    ) -> Result<(), StartError> {
        if let Some(running) = self.running.take() {
            running.shutdown().await;
        }
        let config = ServerConfig::new(self.dir.0.join("data"))
            .listen(SocketAddr::from(([127, 0, 0, 1], 0)));
        let mut config = configure(config);
        config.probe = false;
        self.running = Some(crate::serve::Server::start(config).await?);
        Ok(())
    }

    /// Deletes every instance and ends the server.
    pub async fn stop(mut self) {
        if let Some(running) = self.running.take() {
            delete_all(running.core()).await;
            running.shutdown().await;
        }
    }
}

async fn delete_all(core: &Core) {
    for info in core.engine.list().await.unwrap_or_default() {
        if let Err(e) = core.engine.delete(info.id()).await {
            tracing::warn!(error = %e, "an instance of a test stays behind");
        }
    }
}

impl Drop for Server {
    /// For tests that fail: instances that outlive a server must not outlive its test.
    fn drop(&mut self) {
        let Some(running) = self.running.take() else {
            return;
        };
        let core = running.core().clone();
        if !core.engine.capabilities().survives_restart {
            return;
        }
        let clean = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            if let Ok(runtime) = runtime {
                runtime.block_on(async {
                    let _ = tokio::time::timeout(Duration::from_secs(5), delete_all(&core)).await;
                });
            }
        });
        let _ = clean.join();
    }
}

/// A directory that is removed in the end.
#[derive(Debug)]
struct TempDir(PathBuf);

impl TempDir {
    fn new() -> std::io::Result<Self> {
        // Short: a unix socket's path has a limit.
        let dir = std::env::temp_dir().join(format!("boxrig-{}", ids::Ids::random().hex(12)));
        crate::files::private_dir(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
