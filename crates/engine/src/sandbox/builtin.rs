//! The built-in image: the host's programs, and nothing else of the host.
//!
//! The host's `/usr` is shown read-only, without devices and set-uid programs, with `/usr/local` and `/usr/src`
//! hidden behind the instance's own. Everything else is made up in one small layer: accounts, name service,
//! and the few public files that programs under `/usr` need (the linker's cache, alternatives, certificates).

use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::net::NAMESERVER;
use crate::{Error, Kind, Result};

/// Changes whenever the layer's content does, so that an old one is made anew.
const VERSION: u32 = 1;

/// A folder of the host that instances see.
#[derive(Debug, Clone)]
pub(super) struct HostFolder {
    /// Where, on both sides.
    pub(super) path: PathBuf,
    /// Other mounts lie below it.
    pub(super) has_mounts: bool,
    /// Folders below it that are the instance's own instead; they exist on the host.
    pub(super) own: Vec<String>,
}

/// Entries of `/` that are links into `/usr` on most systems, and folders of their own on others.
const USR_LINKS: [&str; 7] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32", "libexec"];
/// Folders of the host that are shown where they exist: `/nix/store` holds the programs on NixOS.
const STORES: [&str; 2] = ["/nix/store", "/gnu/store"];
/// Folders of the instance's own, with their modes.
const FOLDERS: [(&str, u32); 34] = [
    ("usr", 0o755),
    ("usr/local", 0o755),
    ("usr/local/bin", 0o755),
    ("usr/local/etc", 0o755),
    ("usr/local/include", 0o755),
    ("usr/local/lib", 0o755),
    ("usr/local/sbin", 0o755),
    ("usr/local/share", 0o755),
    ("usr/src", 0o755),
    ("etc", 0o755),
    ("etc/alternatives", 0o755),
    ("etc/ssl", 0o755),
    ("etc/ssl/certs", 0o755),
    ("root", 0o700),
    ("home", 0o755),
    ("opt", 0o755),
    ("srv", 0o755),
    ("mnt", 0o755),
    ("media", 0o755),
    ("run", 0o755),
    ("tmp", 0o1777),
    ("var", 0o755),
    ("var/cache", 0o755),
    ("var/lib", 0o755),
    ("var/log", 0o755),
    ("var/mail", 0o755),
    ("var/opt", 0o755),
    ("var/spool", 0o755),
    ("var/tmp", 0o1777),
    ("proc", 0o755),
    ("sys", 0o755),
    ("dev", 0o755),
    ("etc/profile.d", 0o755),
    ("etc/skel", 0o755),
];

/// Public files of the host that programs under `/usr` need, copied when they exist.
const COPIED: [&str; 14] = [
    "etc/ld.so.cache",
    "etc/ld.so.conf",
    "etc/services",
    "etc/protocols",
    "etc/mime.types",
    "etc/localtime",
    "etc/ssl/openssl.cnf",
    "etc/ssl/certs/ca-certificates.crt",
    "etc/ssl/cert.pem",
    "etc/ssl/ca-bundle.pem",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/pki/tls/openssl.cnf",
    "etc/ca-certificates/extracted/tls-ca-bundle.pem",
    "etc/inputrc",
];
/// Largest file that is copied, in bytes.
const MAX_COPY: u64 = 4 << 20;

/// The host's folders to show, for a server with this data folder.
///
/// # Errors
/// [`Kind::Unsupported`] when the host has no usable `/usr`, or when one of the folders contains the data folder.
pub(super) fn host_folders(data: &Path) -> Result<Vec<HostFolder>> {
    let mounts = mount_points();
    let mut folders = Vec::new();
    if !Path::new("/usr/bin").is_dir() {
        return Err(Error::new(
            Kind::Unsupported,
            "the built-in image needs the host's programs in /usr/bin, and there is no such folder: import an image instead",
        ));
    }
    let top = USR_LINKS.iter().map(|name| format!("/{name}"));
    let paths = std::iter::once("/usr".to_owned())
        .chain(top)
        .chain(STORES.map(str::to_owned));
    for path in paths {
        let real_folder = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir());
        if !real_folder {
            continue;
        }
        let own = ["local", "src"]
            .map(|name| format!("{path}/{name}"))
            .into_iter()
            .filter(|own| {
                path == "/usr" && fs::symlink_metadata(own).is_ok_and(|meta| meta.is_dir())
            })
            .collect();
        let path = PathBuf::from(path);
        let has_mounts = mounts
            .iter()
            .any(|mount| mount != &path && mount.starts_with(&path));
        folders.push(HostFolder {
            path,
            has_mounts,
            own,
        });
    }
    let data = fs::canonicalize(data).map_err(|e| Error::io("look up the data folder", e))?;
    for folder in &folders {
        let hidden = folder.own.iter().any(|own| data.starts_with(own));
        if data.starts_with(&folder.path) && !hidden {
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "the data folder {} lies inside {}, which the built-in image shows to instances: choose another data folder",
                    data.display(),
                    folder.path.display()
                ),
            ));
        }
    }
    Ok(folders)
}

/// The mount points of this process.
fn mount_points() -> Vec<PathBuf> {
    let text = fs::read("/proc/self/mountinfo").unwrap_or_default();
    text.split(|&b| b == b'\n')
        .filter_map(|line| line.split(|&b| b == b' ').nth(4))
        .map(|field| PathBuf::from(OsStr::from_bytes(&unescape(field))))
        .collect()
}

/// Undoes the octal escapes of /proc/self/mountinfo.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        if let (
            b'\\',
            [
                a @ b'0'..=b'3',
                b @ b'0'..=b'7',
                c @ b'0'..=b'7',
                after @ ..,
            ],
        ) = (first, tail)
        {
            out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = after;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    out
}

/// Makes the layer under `parent` unless it is there, and returns its folder.
///
/// # Errors
/// `Io`.
pub(super) fn layer(parent: &Path) -> Result<PathBuf> {
    let name = format!("base-{VERSION}");
    let done = parent.join(&name);
    if done.is_dir() {
        return Ok(done);
    }
    let failed = |e: io::Error| Error::io("make the built-in image", e);
    let new = parent.join(format!(".new-{name}"));
    super::tree::remove(&new).map_err(failed)?;
    write_layer(&new).map_err(failed)?;
    fs::rename(&new, &done).map_err(failed)?;
    Ok(done)
}

fn write_layer(root: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(root)?;
    fs::set_permissions(root, fs::Permissions::from_mode(0o755))?;
    for (name, mode) in FOLDERS {
        make_folder(&root.join(name), mode)?;
    }
    symlink("/run", root.join("var/run"))?;
    symlink("/run/lock", root.join("var/lock"))?;
    for name in USR_LINKS {
        let host = Path::new("/").join(name);
        match fs::symlink_metadata(&host) {
            Ok(meta) if meta.is_symlink() => symlink(fs::read_link(&host)?, root.join(name))?,
            Ok(meta) if meta.is_dir() => make_folder(&root.join(name), 0o755)?,
            _ => {}
        }
    }
    for store in STORES {
        if Path::new(store).is_dir() {
            make_folder(&root.join(&store[1..]), 0o755)?;
        }
    }
    for (name, content) in made_up_files() {
        write_file(&root.join(name), content.as_bytes(), 0o644)?;
    }
    write_file(
        &root.join("etc/shadow"),
        b"root:*:19000:0:99999:7:::\n",
        0o640,
    )?;
    if Path::new("/usr/lib/os-release").exists() {
        symlink("../usr/lib/os-release", root.join("etc/os-release"))?;
    } else {
        write_file(
            &root.join("etc/os-release"),
            b"NAME=\"boxrig base\"\nID=boxrig\n",
            0o644,
        )?;
    }
    symlink("/proc/self/mounts", root.join("etc/mtab"))?;
    for name in COPIED {
        copy_public(&Path::new("/").join(name), &root.join(name))?;
    }
    for folder in ["etc/alternatives", "etc/ssl/certs"] {
        copy_links(&Path::new("/").join(folder), &root.join(folder))?;
    }
    copy_config_snippets(root)
}

fn made_up_files() -> [(&'static str, String); 9] {
    let shell = if Path::new("/usr/bin/bash").exists() {
        "/bin/bash"
    } else {
        "/bin/sh"
    };
    [
        (
            "etc/passwd",
            format!(
                "root:x:0:0:root:/root:{shell}\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
            ),
        ),
        (
            "etc/group",
            "root:x:0:\ndaemon:x:1:\nadm:x:4:\ntty:x:5:\nstaff:x:50:\nusers:x:100:\nnogroup:x:65534:\n".to_owned(),
        ),
        (
            "etc/hosts",
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned(),
        ),
        ("etc/resolv.conf", format!("nameserver {NAMESERVER}\n")),
        (
            "etc/nsswitch.conf",
            "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\n".to_owned(),
        ),
        ("etc/host.conf", "multi on\n".to_owned()),
        (
            "etc/profile",
            "PS1='\\u@\\h:\\w\\$ '\nexport PS1\nfor script in /etc/profile.d/*.sh; do\n  [ -r \"$script\" ] && . \"$script\"\ndone\nunset script\n".to_owned(),
        ),
        ("etc/shells", "/bin/sh\n/bin/bash\n".to_owned()),
        ("etc/machine-id", String::new()),
    ]
}

fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    fs::create_dir_all(path)?;
    // Apart from making it, because of the file mask.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn write_file(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Copies a regular file that everybody on the host may read; anything else is passed over.
fn copy_public(from: &Path, to: &Path) -> io::Result<()> {
    let public = fs::metadata(from).is_ok_and(|meta| {
        meta.is_file() && meta.len() <= MAX_COPY && meta.permissions().mode() & 0o004 != 0
    });
    if !public {
        return Ok(());
    }
    match fs::read(from) {
        Ok(content) => write_file(to, &content, 0o644),
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Ok(()),
        Err(e) => Err(e),
    }
}

/// Copies symbolic links that lead into `/usr` or beside themselves.
fn copy_links(from: &Path, to: &Path) -> io::Result<()> {
    let Ok(entries) = fs::read_dir(from) else {
        return Ok(());
    };
    for entry in entries {
        let entry = entry?;
        let Ok(target) = fs::read_link(entry.path()) else {
            continue;
        };
        if target.starts_with("/usr") || target.components().count() == 1 {
            let link = to.join(entry.file_name());
            match symlink(&target, &link) {
                Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Folders of small public settings that programs under `/usr` point to from there.
fn copy_config_snippets(root: &Path) -> io::Result<()> {
    let mut folders = vec![PathBuf::from("etc/ld.so.conf.d"), PathBuf::from("etc/perl")];
    // /usr/lib/jvm/…/conf and its like are links to /etc/java-….
    if let Ok(entries) = fs::read_dir("/etc") {
        let java = entries.flatten().map(|entry| entry.file_name());
        folders.extend(
            java.filter(|name| name.as_bytes().starts_with(b"java-"))
                .map(|name| Path::new("etc").join(name)),
        );
    }
    for folder in folders {
        copy_folder(&Path::new("/").join(&folder), &root.join(&folder), 4)?;
    }
    Ok(())
}

fn copy_folder(from: &Path, to: &Path, depth: u32) -> io::Result<()> {
    let Ok(entries) = fs::read_dir(from) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth > 0 => copy_folder(&source, &target, depth - 1)?,
            Ok(kind) if kind.is_file() => copy_public(&source, &target)?,
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_escapes() {
        assert_eq!(unescape(b"/a\\040b\\134c"), b"/a b\\c");
        assert_eq!(unescape(b"/a\\04"), b"/a\\04");
    }

    #[test]
    fn a_data_folder_inside_the_base_is_refused() {
        let error = host_folders(Path::new("/usr/share")).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.message().contains("/usr"), "{error}");
        let dir = tempfile::tempdir().unwrap();
        let folders = host_folders(dir.path()).unwrap();
        assert_eq!(folders[0].path, Path::new("/usr"));
    }

    #[test]
    fn the_layer_is_made_once_and_holds_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let first = layer(dir.path()).unwrap();
        assert_eq!(layer(dir.path()).unwrap(), first);
        let shadow = fs::read_to_string(first.join("etc/shadow")).unwrap();
        assert_eq!(shadow.lines().count(), 1);
        assert!(!first.join("etc/ssl/private").exists());
        assert!(!first.join("etc/ssh").exists());
    }
}
