//! Where files are: the XDG folders, and `BOXRIG_HOME` to have everything in one place.

use std::io;
use std::path::{Path, PathBuf};

use boxrig_wire::{Error, Kind, Result};

/// The folders of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Paths {
    /// `config.toml` is here.
    pub(crate) config: PathBuf,
    /// The background server's data.
    pub(crate) data: PathBuf,
    /// The background server's socket.
    pub(crate) runtime: PathBuf,
}

impl Paths {
    /// Reads the environment.
    pub(crate) fn new() -> Result<Self> {
        let dir = |name: &str| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|p| p.is_absolute())
        };
        if let Some(home) = dir("BOXRIG_HOME") {
            return Ok(Self {
                config: home.join("config"),
                data: home.join("data"),
                runtime: home.join("data/run"),
            });
        }
        let home = dir("HOME");
        let under = |variable: &str, below: &str| {
            dir(variable)
                .or_else(|| home.as_ref().map(|h| h.join(below)))
                .map(|d| d.join("boxrig"))
                .ok_or_else(|| {
                    Error::new(Kind::Failed, format!("neither {variable} nor HOME is set"))
                })
        };
        let data = under("XDG_DATA_HOME", ".local/share")?;
        Ok(Self {
            config: under("XDG_CONFIG_HOME", ".config")?,
            runtime: match dir("XDG_RUNTIME_DIR").filter(|d| is_ours(d)) {
                Some(d) => d.join("boxrig"),
                None => data.join("run"),
            },
            data,
        })
    }

    /// The configuration file.
    pub(crate) fn config_file(&self) -> PathBuf {
        self.config.join("config.toml")
    }

    /// The background server's data folder.
    pub(crate) fn server_data(&self) -> PathBuf {
        self.data.join("server")
    }

    /// The background server's control socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.runtime.join("server.socket")
    }

    /// The background server's output.
    pub(crate) fn log(&self) -> PathBuf {
        self.data.join("server.log")
    }
}

/// Whether a folder is there, ours, and closed to others.
fn is_ours(dir: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(dir).is_ok_and(|m| {
            m.is_dir() && m.uid() == rustix::process::geteuid().as_raw() && m.mode() & 0o022 == 0
        })
    }
    #[cfg(not(unix))]
    {
        dir.is_dir()
    }
}

/// Makes a folder for its owner only.
///
/// # Errors
///
/// The system's, with the path; and when the folder is somebody else's.
pub(crate) fn private_dir(dir: &Path) -> io::Result<()> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", dir.display()));
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder.create(dir).map_err(named)?;
    if is_ours(dir) {
        return Ok(());
    }
    Err(named(io::Error::new(
        io::ErrorKind::PermissionDenied,
        "the folder is somebody else's, or others can write to it",
    )))
}
