//! Removing directory trees that others have built.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Removes a file or a whole tree, however deep, with a handful of descriptors, without following
/// symbolic links, and without being stopped by directories that deny access to their owner. What
/// is not there is no error.
///
/// Nobody else may change the tree meanwhile.
///
/// # Errors
/// What the kernel refuses; part of the tree can be gone then. Call it again.
pub(crate) fn remove_all(path: &Path) -> io::Result<()> {
    let meta = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !meta.is_dir() {
        return fs::remove_file(path);
    }
    open_up(path, &meta)?;
    // A directory deep down is moved up here before its own turn comes: no path grows longer than
    // the kernel allows, and no descriptor is held per level. The names are those that a removal
    // that was cut short left behind, too; a number in use is skipped.
    let mut number = 0u64;
    loop {
        let mut clean = true;
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let inner = entry.path();
            let meta = fs::symlink_metadata(&inner)?;
            if !meta.is_dir() {
                fs::remove_file(&inner)?;
                continue;
            }
            open_up(&inner, &meta)?;
            empty_into(&inner, path, &mut number)?;
            fs::remove_dir(&inner)?;
            clean = false;
        }
        if clean {
            return fs::remove_dir(path);
        }
    }
}

/// Lets the owner in.
fn open_up(path: &Path, meta: &fs::Metadata) -> io::Result<()> {
    if meta.permissions().mode() & 0o700 == 0o700 {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Removes the files of `directory` and moves its directories to `top`.
fn empty_into(directory: &Path, top: &Path, number: &mut u64) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let inner = entry?.path();
        let meta = fs::symlink_metadata(&inner)?;
        if !meta.is_dir() {
            fs::remove_file(&inner)?;
            continue;
        }
        // Moving a directory changes its `..`, which takes the right to write to it.
        open_up(&inner, &meta)?;
        loop {
            *number += 1;
            let moved = top.join(format!(".removing-{number}"));
            match fs::symlink_metadata(&moved) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    fs::rename(&inner, &moved)?;
                    break;
                }
                found => {
                    found?;
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn removes_what_others_cannot() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("kept");
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "x").unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("wide/a/b")).unwrap();
        fs::create_dir(tree.join(".removing-1")).unwrap();
        fs::write(tree.join("wide/a/file"), "x").unwrap();
        symlink(&kept, tree.join("wide/link")).unwrap();
        symlink(&kept, tree.join("wide/a/link")).unwrap();
        fs::set_permissions(tree.join("wide/a/b"), fs::Permissions::from_mode(0o000)).unwrap();
        fs::set_permissions(tree.join("wide/a"), fs::Permissions::from_mode(0o400)).unwrap();
        // Deeper than a path can say: built from inside.
        let deep = tree.join("deep");
        fs::create_dir(&deep).unwrap();
        let name = "d".repeat(200);
        let mut at = rustix::fs::open(
            &deep,
            rustix::fs::OFlags::DIRECTORY,
            rustix::fs::Mode::empty(),
        )
        .unwrap();
        for _ in 0..100 {
            rustix::fs::mkdirat(&at, &name, 0o700.into()).unwrap();
            at = rustix::fs::openat(
                &at,
                &name,
                rustix::fs::OFlags::DIRECTORY,
                rustix::fs::Mode::empty(),
            )
            .unwrap();
        }
        drop(at);
        remove_all(&tree).unwrap();
        assert!(!tree.exists());
        assert!(kept.join("file").exists());
        remove_all(&tree).unwrap();
        let link = dir.path().join("link");
        symlink(&kept, &link).unwrap();
        remove_all(&link).unwrap();
        assert!(kept.join("file").exists());
    }
}
