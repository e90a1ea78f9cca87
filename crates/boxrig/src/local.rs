//! The local server of this machine, as a client sees it.

use std::path::{Path, PathBuf};

use boxrig_server::control::ControlClient;
#[cfg(unix)]
use boxrig_transport::{Http, Proxy};
#[cfg(unix)]
use boxrig_wire::{BaseUrl, Caller};
use boxrig_wire::{Error, Kind, Result};

/// A client of the server behind a unix socket. Nothing is sent yet.
///
/// # Errors
///
/// [`Kind::Unsupported`] on systems without unix sockets: instances need Linux.
#[cfg(unix)]
pub fn control_client(socket: &Path) -> Result<ControlClient> {
    let transport = Http::builder()
        .unix_socket(socket)
        .proxy(Proxy::None)
        .connect_timeout(std::time::Duration::from_secs(5))
        .build()?;
    // The host of the URL is not looked at: everything goes to the socket.
    let base = BaseUrl::parse("http://localhost")?;
    Ok(ControlClient::new(Caller::new(
        std::sync::Arc::new(transport),
        base,
    )))
}

/// A client of the server behind a unix socket: there are none on this system.
///
/// # Errors
///
/// [`Kind::Unsupported`]: instances need Linux.
#[cfg(not(unix))]
pub fn control_client(_: &Path) -> Result<ControlClient> {
    Err(Error::new(Kind::Unsupported, "instances need Linux")
        .with_hint("use instances elsewhere: boxrig ctx add NAME URL, then --on NAME"))
}

/// Where the background server of this user has its socket: `BOXRIG_HOME/data/run`, else `XDG_RUNTIME_DIR/boxrig`, else
/// a folder under `XDG_DATA_HOME`.
///
/// # Errors
///
/// [`Kind::Unavailable`] when there is none: no server runs.
pub fn default_socket() -> Result<PathBuf> {
    const NAME: &str = "server.socket";
    let dir = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let candidates = match dir("BOXRIG_HOME") {
        Some(home) => vec![home.join("data/run")],
        None => {
            let data = dir("XDG_DATA_HOME").or_else(|| Some(dir("HOME")?.join(".local/share")));
            [
                dir("XDG_RUNTIME_DIR").map(|d| d.join("boxrig")),
                data.map(|d| d.join("boxrig/run")),
            ]
            .into_iter()
            .flatten()
            .collect()
        }
    };
    candidates
        .into_iter()
        .map(|dir| dir.join(NAME))
        .find(|socket| socket.exists())
        .ok_or_else(|| {
            Error::new(Kind::Unavailable, "no local server runs").with_hint("`boxrig up` starts it")
        })
}
