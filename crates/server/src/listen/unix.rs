//! The unix socket: full power, so only for the server's own user and root.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use tokio::net::UnixListener;

use super::{ACCEPT_PAUSE, Connections, Service, Stop, serve_connection};
use crate::files;
use crate::router::Peer;

/// The longest path of a unix socket: `sockaddr_un` holds 108 bytes on Linux and 104 on macOS and the BSDs, one of
/// them for the end.
const MAX_PATH: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// Binds the socket at `path` with mode 0600; its folder is made with mode 0700 if missing. A socket that is left
/// from an earlier server is replaced: the caller holds the data directory, so no other server uses it.
///
/// # Errors
///
/// In words: a path too long for a socket, something else in its place, a folder in which others could replace it.
pub fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
    // The socket is bound under another name first, which is this much longer.
    const SUFFIX: &str = ".new";
    let len = path.as_os_str().len();
    if len + SUFFIX.len() > MAX_PATH {
        return Err(invalid(format!(
            "the path of the unix socket is too long ({len} bytes, the system takes {}): {}; choose a shorter data \
             directory or socket path",
            MAX_PATH - SUFFIX.len(),
            path.display()
        )));
    }
    let folder = path
        .parent()
        .filter(|f| !f.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    if !folder.exists() {
        files::private_dir(folder)?;
    }
    let facts = fs::metadata(folder)?;
    if facts.mode() & 0o022 != 0 && facts.mode() & 0o1000 == 0 {
        return Err(invalid(format!(
            "others can write to {}, and so replace the socket: chmod go-w it, or choose another path",
            folder.display()
        )));
    }
    match fs::symlink_metadata(path) {
        Ok(found) => {
            use std::os::unix::fs::FileTypeExt;
            if !found.file_type().is_socket() {
                return Err(invalid(format!("{} is not a socket", path.display())));
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let mut new = path.as_os_str().to_owned();
    new.push(SUFFIX);
    let new = Path::new(&new);
    match fs::remove_file(new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(new)?;
    // Nobody finds it under its real name before it is private.
    fs::set_permissions(new, fs::Permissions::from_mode(0o600))?;
    fs::rename(new, path)?;
    Ok(listener)
}

/// Accepts connections of the server's own user and of root until the server ends.
pub async fn serve_unix(
    listener: UnixListener,
    service: Service,
    connections: Connections,
    stop: Stop,
) {
    let own = rustix::process::geteuid().as_raw();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.finishing() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::warn!(error = %e, "accept on the unix socket");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let peer = match stream.peer_cred() {
            Ok(cred) if cred.uid() == own || cred.uid() == 0 => Peer::Unix {
                uid: cred.uid(),
                pid: cred.pid(),
            },
            Ok(cred) => {
                tracing::warn!(uid = cred.uid(), "refused on the unix socket");
                continue;
            }
            Err(e) => {
                tracing::warn!(error = %e, "refused on the unix socket: peer unknown");
                continue;
            }
        };
        let Some(slot) = connections.slot().await else {
            return;
        };
        let (service, stop) = (service.clone(), stop.clone());
        let about = connections.about(peer);
        tokio::spawn(async move {
            let _slot = slot;
            serve_connection(stream, about, service, stop).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_private_and_replaces_an_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/unix.socket");
        let first = bind_unix(&path).unwrap();
        drop(first);
        let _second = bind_unix(&path).unwrap();
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
    }

    #[tokio::test]
    async fn wrong_places_are_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |path: &Path| bind_unix(path).unwrap_err().to_string();
        let long = dir.path().join("x".repeat(100));
        assert!(refused(&long).contains("too long"));
        let file = dir.path().join("file");
        fs::write(&file, "precious").unwrap();
        assert!(refused(&file).contains("not a socket"));
        assert_eq!(fs::read(&file).unwrap(), b"precious");
        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(refused(&open.join("s")).contains("others can write"));
    }
}
