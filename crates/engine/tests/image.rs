//! Importing root file systems: what good archives become, and that bad ones do no harm.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use boxrig_engine::Kind;
use boxrig_engine::image::{ImageStore, ImportLimits, LayerKind, unpack};

const LIMITS: ImportLimits = ImportLimits {
    bytes: 1 << 20,
    entries: 200,
};

/// Writes archives byte by byte, so that they can be wrong in every way.
#[derive(Default, Clone)]
struct Tar(Vec<u8>);

impl Tar {
    fn header(name: &[u8], flag: u8, size: u64, link: &[u8], mode: u32) -> [u8; 512] {
        let mut header = [0; 512];
        header[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        header[100..108].copy_from_slice(format!("{mode:07o}\0").as_bytes());
        header[108..116].copy_from_slice(b"0000000\0");
        header[116..124].copy_from_slice(b"0000000\0");
        header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        header[136..148].copy_from_slice(b"00000001750\0");
        header[156] = flag;
        header[157..157 + link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
        header[257..265].copy_from_slice(b"ustar\x0000");
        Self::sum(&mut header);
        header
    }

    fn sum(header: &mut [u8; 512]) {
        header[148..156].fill(b' ');
        let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn entry(self, name: impl AsRef<[u8]>, flag: u8, link: &str, content: &[u8]) -> Self {
        self.with_mode(name, flag, link, content, 0o644)
    }

    fn with_mode(
        mut self,
        name: impl AsRef<[u8]>,
        flag: u8,
        link: &str,
        content: &[u8],
        mode: u32,
    ) -> Self {
        let header = Self::header(
            name.as_ref(),
            flag,
            content.len() as u64,
            link.as_bytes(),
            mode,
        );
        self.0.extend_from_slice(&header);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: impl AsRef<[u8]>) -> Self {
        self.entry(name, b'0', "", b"hostile")
    }

    fn dir(self, name: impl AsRef<[u8]>) -> Self {
        self.with_mode(name, b'5', "", b"", 0o755)
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.entry(name, b'2', target, b"")
    }

    fn hard(self, name: &str, target: &str) -> Self {
        self.entry(name, b'1', target, b"")
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut content = Vec::new();
        for (key, value) in records {
            let body = key.len() + value.len() + 3;
            let mut length = body + 1;
            while length.to_string().len() + body != length {
                length += 1;
            }
            content.extend_from_slice(format!("{length} {key}=").as_bytes());
            content.extend_from_slice(value);
            content.push(b'\n');
        }
        self.entry("pax", b'x', "", &content)
    }

    /// A header that says what it likes about its size.
    fn claim(mut self, name: &str, size: &[u8; 12]) -> Self {
        let mut header = Self::header(name.as_bytes(), b'0', 0, b"", 0o644);
        header[124..136].copy_from_slice(size);
        Self::sum(&mut header);
        self.0.extend_from_slice(&header);
        self
    }

    fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).0
    }
}

fn tar() -> Tar {
    Tar::default()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// What must become of an archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// `Invalid`, with a part of the words.
    Refused(&'static str),
    /// Imported; nothing of it is outside.
    Tamed,
}

/// The corpus: at least sixty ways to do harm.
fn hostile(outside: &Path) -> Vec<(String, Vec<u8>, Fate)> {
    use Fate::{Refused, Tamed};
    let outside = outside.to_str().unwrap();
    let canary = format!("{outside}/canary");
    let leads_out = Refused("leads out");
    let through = Refused("which is not a directory");
    let no_file = Refused("no file of the archive");
    let mut cases: Vec<(String, Vec<u8>, Fate)> = Vec::new();
    let mut add = |name: &str, bytes: Vec<u8>, fate| cases.push((name.to_owned(), bytes, fate));

    // Names that lead out, and absolute ones, which mean the root of the archive.
    for name in [
        "..",
        "../x",
        "../../../../x",
        "a/../../x",
        "a/b/../../../x",
        "./../x",
        "a/./../../x",
        "/../x",
        "//../x",
        "a//..//..//x",
        "../outside/canary",
        "a/..",
    ] {
        add(&format!("file {name}"), tar().file(name).end(), leads_out);
    }
    add("dir ..", tar().dir("../new").end(), leads_out);
    add("symlink ..", tar().link("../new", "x").end(), leads_out);
    add("absolute file", tar().file(&canary).end(), Tamed);
    add(
        "absolute, many slashes",
        tar().file(format!("////{canary}")).end(),
        Tamed,
    );
    add(
        "absolute by pax",
        tar().pax(&[("path", canary.as_bytes())]).file("x").end(),
        Tamed,
    );
    add(
        "pax ..",
        tar().pax(&[("path", b"../x")]).file("x").end(),
        leads_out,
    );
    add(
        "pax with NUL",
        tar().pax(&[("path", b"x\0/../y")]).file("x").end(),
        Refused("NUL"),
    );
    add(
        "gnu ..",
        tar().entry("l", b'L', "", b"../../x\0").file("x").end(),
        leads_out,
    );
    let mut prefixed = Tar::header(b"x", b'0', 0, b"", 0o644);
    prefixed[345..353].copy_from_slice(b"../../aa");
    Tar::sum(&mut prefixed);
    add("prefix ..", tar().raw(&prefixed).end(), leads_out);
    add(
        "empty name",
        tar().file("").end(),
        Refused("without a name"),
    );
    add(
        "file named .",
        tar().file(".").end(),
        Refused("without a name"),
    );
    add("file named /", tar().file("///").end(), Tamed);
    add("backslashes", tar().file("..\\..\\x").end(), Tamed);
    add("control bytes", tar().file("a\x1b[2J\nb").end(), Tamed);
    add("not unicode", tar().file(b"a\xff\xfe").end(), Tamed);

    // Through symbolic links.
    add(
        "link, then through it",
        tar().link("l", outside).file("l/canary").end(),
        through,
    );
    add(
        "relative link, then through it",
        tar().link("l", "../../..").file("l/x").end(),
        through,
    );
    add(
        "link inside, then through it",
        tar().dir("d").link("l", "d").file("l/x").end(),
        through,
    );
    add(
        "link to itself",
        tar().link("l", "l").file("l/x").end(),
        through,
    );
    add(
        "link chain",
        tar()
            .link("a", "b")
            .link("b", outside)
            .file("a/canary")
            .end(),
        through,
    );
    add(
        "link, dir below",
        tar().link("l", outside).dir("l/new").end(),
        through,
    );
    add(
        "link, link below",
        tar().link("l", outside).link("l/new", "x").end(),
        through,
    );
    add(
        "link, hard link below",
        tar().file("f").link("l", outside).hard("l/new", "f").end(),
        through,
    );
    add(
        "link, then file of its name",
        tar().link("l", &canary).file("l").end(),
        Tamed,
    );
    add(
        "link, then dir of its name",
        tar().link("l", outside).dir("l").file("l/canary").end(),
        Tamed,
    );
    add(
        "dir, then link of its name, then file",
        tar().dir("d").link("d", outside).file("d/canary").end(),
        through,
    );
    add(
        "full dir replaced by link",
        tar().file("d/x").link("d", outside).end(),
        Refused("not empty"),
    );
    add(
        "link to nowhere",
        tar().link("l", "").end(),
        Refused("leads nowhere"),
    );
    add(
        "link left alone",
        tar().link("l", "/etc/passwd").end(),
        Tamed,
    );
    add(
        "file, then below it",
        tar().file("f").file("f/x").end(),
        through,
    );
    add(
        "dir mode through link",
        tar()
            .link("l", outside)
            .with_mode("l/.", b'5', "", b"", 0)
            .end(),
        Tamed,
    );
    add(
        "dir, replaced by link, with mode",
        tar()
            .with_mode("d", b'5', "", b"", 0o000)
            .link("d", outside)
            .end(),
        Tamed,
    );

    // Hard links.
    add(
        "hard link out",
        tar().hard("h", "../outside/canary").end(),
        leads_out,
    );
    add(
        "hard link absolute",
        tar().hard("h", &canary).end(),
        no_file,
    );
    add(
        "hard link to passwd",
        tar().hard("h", "/etc/passwd").end(),
        no_file,
    );
    add(
        "hard link through link",
        tar().link("l", outside).hard("h", "l/canary").end(),
        no_file,
    );
    add(
        "hard link to link",
        tar().link("l", &canary).hard("h", "l").file("h").end(),
        Tamed,
    );
    add(
        "hard link to dir",
        tar().dir("d").hard("h", "d").end(),
        no_file,
    );
    add("hard link to root", tar().hard("h", "/").end(), no_file);
    add(
        "hard link to itself",
        tar().file("h").hard("h", "h").end(),
        no_file,
    );
    add(
        "hard link forward",
        tar().hard("h", "later").file("later").end(),
        no_file,
    );
    add(
        "hard link to device",
        tar().entry("dev", b'3', "", b"").hard("h", "dev").end(),
        no_file,
    );
    add(
        "hard link with size",
        tar().file("f").entry("h", b'1', "f", b"").file("f").end(),
        Tamed,
    );

    // Devices and fifos.
    for (name, flag) in [
        ("character device", b'3'),
        ("block device", b'4'),
        ("fifo", b'6'),
    ] {
        add(
            name,
            tar().entry("dev/sda", flag, "", b"").file("x").end(),
            Tamed,
        );
    }
    add(
        "device, then through it",
        tar().entry("d", b'4', "", b"").file("d/x").end(),
        Tamed,
    );

    // Sizes.
    add(
        "claims 8 GiB",
        tar().claim("f", b"77777777777\0").end(),
        Refused("bytes of files"),
    );
    add(
        "claims 8 EiB",
        tar()
            .claim(
                "f",
                &[
                    0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                ],
            )
            .end(),
        Refused("bytes of files"),
    );
    add(
        "claims more than there is",
        tar().claim("f", &[0xff; 12]).end(),
        Refused("negative"),
    );
    add(
        "claims too much",
        tar().claim("f", b"00000177777\0").end(),
        Refused("ends within"),
    );
    add(
        "pax size",
        tar().pax(&[("size", b"99999999999999")]).file("f").end(),
        Refused("bytes of files"),
    );
    add(
        "pax size overflow",
        tar()
            .pax(&[("size", b"99999999999999999999")])
            .file("f")
            .end(),
        Refused("malformed"),
    );
    let part = vec![0; 1 << 19];
    let three = tar()
        .entry("a", b'0', "", &part)
        .entry("b", b'0', "", &part)
        .entry("c", b'0', "", b"x")
        .end();
    add("adds up", three.clone(), Refused("bytes of files"));
    add(
        "adds up, compressed",
        gzip(&three),
        Refused("bytes of files"),
    );
    add(
        "bomb behind the end",
        gzip(&[tar().file("f").end(), vec![0; 8 << 20]].concat()),
        Refused("larger than"),
    );
    add(
        "bomb in a long name",
        tar().claim("f", b"77777777777\0").0,
        Refused("bytes of files"),
    );
    let mut long = Tar::header(b"l", b'L', 1 << 30, b"", 0);
    Tar::sum(&mut long);
    add(
        "huge long name",
        tar().raw(&long).end(),
        Refused("long name of"),
    );
    let mut wide = Tar::header(b"p", b'x', 1 << 30, b"", 0);
    Tar::sum(&mut wide);
    add(
        "huge extended header",
        tar().raw(&wide).end(),
        Refused("extended header of"),
    );
    let name = [b"n".repeat(300), vec![0]].concat();
    add(
        "long step",
        tar().entry("l", b'L', "", &name).file("x").end(),
        Refused("too deep or too long"),
    );
    let deep = [b"d/".repeat(500), vec![0]].concat();
    add(
        "deep name",
        tar().entry("l", b'L', "", &deep).file("x").end(),
        Refused("too deep or too long"),
    );
    let name = [b"d/".repeat(3000), vec![0]].concat();
    add(
        "longer than a path",
        tar().entry("l", b'L', "", &name).file("x").end(),
        Refused("too long"),
    );
    let many = (0..300).fold(tar(), |tar, number| {
        tar.entry(format!("f{number}"), b'0', "", b"")
    });
    add("many entries", many.end(), Refused("more than 200 entries"));
    let implied = (0..50).fold(tar(), |tar, number| {
        tar.file(format!("{number}/a/b/c/d/e/f"))
    });
    add(
        "many implied directories",
        implied.end(),
        Refused("more than 200 entries"),
    );
    let headers = (0..300).fold(tar(), |tar, _| tar.pax(&[("path", b"x")]));
    add(
        "headers without end",
        headers.end(),
        Refused("more than 200 entries"),
    );
    let same = (0..150).fold(tar(), |tar, _| tar.file("same"));
    add("the same name again and again", same.end(), Tamed);

    // Formats.
    add(
        "sparse",
        tar().entry("s", b'S', "", b"").end(),
        Refused("sparse"),
    );
    add(
        "pax sparse",
        tar().pax(&[("GNU.sparse.major", b"1")]).file("s").end(),
        Refused("sparse"),
    );
    add(
        "unknown type",
        tar().entry("s", b'Q', "", b"").end(),
        Refused("unknown type"),
    );
    add(
        "multi-volume",
        tar().entry("s", b'M', "", b"").end(),
        Refused("unknown type"),
    );
    add("no end", tar().file("f").0, Refused("end mark"));
    add(
        "cut in a header",
        tar().file("f").0[..700].to_vec(),
        Refused("ends within"),
    );
    add(
        "cut in content",
        tar().file("f").0[..514].to_vec(),
        Refused("ends within"),
    );
    add("empty", Vec::new(), Refused("empty"));
    add("text", b"hello".repeat(200), Refused("not a tar"));
    add("html", b"<!doctype html>".repeat(100), Refused("not a tar"));
    let mut damaged = tar().file("f").end();
    damaged[0] ^= 1;
    add("wrong sum", damaged, Refused("check sum"));
    let mut cut = gzip(&tar().file("f").end());
    cut.truncate(cut.len() / 2);
    add("cut gzip", cut, Refused(""));
    add("rubbish in gzip", gzip(b"rubbish"), Refused(""));
    add("zstd", vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0], Refused("zstd"));
    add(
        "gzip in gzip",
        gzip(&gzip(&tar().file("f").end())),
        Refused(""),
    );
    add(
        "bad pax",
        tar().entry("p", b'x', "", b"99999 a=b\n").file("f").end(),
        Refused("malformed"),
    );

    // Attributes and whiteouts.
    add(
        "overlay attributes",
        tar()
            .pax(&[
                ("SCHILY.xattr.user.overlay.redirect", b"/../../etc"),
                ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
                ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ])
            .dir("d")
            .end(),
        Tamed,
    );
    add(
        "whiteout of ..",
        tar().entry(".wh...", b'0', "", b"").end(),
        Refused("not a whiteout"),
    );
    add(
        "whiteout of .",
        tar().entry(".wh..", b'0', "", b"").end(),
        Refused("not a whiteout"),
    );
    add(
        "whiteout of nothing",
        tar().entry(".wh.", b'0', "", b"").end(),
        Refused("not a whiteout"),
    );
    add(
        "whiteout with content",
        tar().file(".wh.x").end(),
        Refused("not a whiteout"),
    );
    add(
        "whiteout as link",
        tar().link(".wh.x", &canary).end(),
        Refused("not a whiteout"),
    );
    add(
        "below a whiteout",
        tar().file(".wh.x/y").end(),
        Refused("below a whiteout"),
    );
    add(
        "mode with extra bits",
        tar().with_mode("f", b'0', "", b"", 0o777_7777).end(),
        Tamed,
    );
    cases
}

/// Everything below a directory, with what it is.
fn census(dir: &Path) -> BTreeSet<(PathBuf, String)> {
    let mut found = BTreeSet::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        // Archives bring directories that deny access to an ordinary user.
        let Ok(entries) = fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_file() {
                fs::read(&path).unwrap_or_default()
            } else {
                Vec::new()
            };
            let what = format!("{:o} {} {content:?}", meta.mode(), meta.nlink());
            if meta.is_dir() {
                open.push(path.clone());
            }
            found.insert((path, what));
        }
    }
    found
}

#[tokio::test]
async fn hostile_archives_do_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("canary"), "untouched").unwrap();
    let passwd = fs::metadata("/etc/passwd").unwrap();
    let before = census(&outside);
    let data = dir.path().join("data");
    let store = ImageStore::open(&data, LIMITS).unwrap();
    let cases = hostile(&outside);
    assert!(cases.len() >= 60, "{}", cases.len());
    for (name, bytes, fate) in &cases {
        let imported = store
            .import("hostile", Box::new(std::io::Cursor::new(bytes.clone())))
            .await;
        match (fate, imported) {
            (Fate::Refused(words), Err(error)) => {
                assert_eq!(error.kind(), Kind::Invalid, "{name}: {error}");
                assert!(error.to_string().contains(words), "{name}: {error}");
                assert!(
                    !error.to_string().contains(['\x1b', '\n', '\0']),
                    "{name}: {error:?}"
                );
                assert!(store.list().is_empty(), "{name}");
            }
            (Fate::Tamed, Ok(_)) => {
                let files = &store.get("hostile").unwrap().lowers[0];
                for (path, _) in census(files) {
                    let kind = fs::symlink_metadata(&path).unwrap().file_type();
                    let special = kind.is_block_device() || kind.is_char_device() || kind.is_fifo();
                    assert!(!special, "{name}: {}", path.display());
                }
                store.delete("hostile").unwrap();
            }
            (fate, imported) => panic!("{name}: {fate:?}, but {imported:?}"),
        }
        assert_eq!(census(&outside), before, "{name}");
        assert_eq!(
            fs::read_dir(data.join("work")).unwrap().count(),
            0,
            "{name}"
        );
        let parts: BTreeSet<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(parts.len(), 2, "{name}: {parts:?}");
        let parts: BTreeSet<_> = fs::read_dir(&data)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(parts.len(), 3, "{name}: {parts:?}");
    }
    store.collect(&BTreeSet::new()).unwrap();
    assert_eq!(fs::read_dir(data.join("layers")).unwrap().count(), 0);
    let after = fs::metadata("/etc/passwd").unwrap();
    assert_eq!((passwd.nlink(), passwd.len()), (after.nlink(), after.len()));
    println!("{} hostile archives", cases.len());
}

#[tokio::test]
async fn a_good_archive_is_kept_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path(), LIMITS).unwrap();
    let long = format!("{}/{}", "l".repeat(120), "m".repeat(130));
    let mut owned = Tar::header(b"owned", b'0', 0, b"", 0o4755);
    owned[108..116].copy_from_slice(b"0001750\0");
    owned[116..124].copy_from_slice(b"7777777\0");
    Tar::sum(&mut owned);
    let bytes = tar()
        .raw(&Tar::header(b"pax_global_header", b'g', 0, b"", 0))
        .with_mode("./", b'5', "", b"", 0o755)
        .with_mode("locked/", b'5', "", b"", 0o500)
        .entry("locked/file", b'0', "", b"inside")
        .with_mode("./bin/tool", b'0', "", b"#!/bin/sh\n", 0o755)
        .link("link", "bin/tool")
        .hard("hard", "bin/tool")
        .raw(&owned)
        .pax(&[
            ("path", long.as_bytes()),
            ("mtime", b"1000000000.5"),
            ("SCHILY.xattr.user.note", b"kept"),
        ])
        .entry("short", b'0', "", b"long")
        .entry("twice", b'0', "", b"first")
        .entry("twice", b'0', "", b"second")
        .entry(".wh.nothing", b'0', "", b"")
        .end();
    let plain = store
        .import("mine:1", Box::new(std::io::Cursor::new(bytes.clone())))
        .await
        .unwrap();
    let zipped = store
        .import("mine:2", Box::new(std::io::Cursor::new(gzip(&bytes))))
        .await
        .unwrap();
    // The digest is that of the archive, however it was compressed; the layer is there once.
    assert_eq!(plain.digest, zipped.digest);
    assert_eq!(fs::read_dir(dir.path().join("layers")).unwrap().count(), 1);
    assert!(plain.digest.unwrap().starts_with("sha256:"));

    let image = store.get("mine:1").unwrap();
    assert_eq!((image.lowers.len(), image.layers.len()), (1, 1));
    let root = &image.lowers[0];
    assert_eq!(*root, store.layer_dir(&image.layers[0]));
    let mode = |name: &str| fs::symlink_metadata(root.join(name)).unwrap().mode();
    assert_eq!(mode("") & 0o7777, 0o755);
    assert_eq!(mode("locked") & 0o7777, 0o500);
    assert_eq!(mode("bin") & 0o7777, 0o755);
    assert_eq!(mode("bin/tool") & 0o7777, 0o755);
    assert_eq!(fs::read(root.join("locked/file")).unwrap(), b"inside");
    assert_eq!(
        fs::read_link(root.join("link")).unwrap(),
        Path::new("bin/tool")
    );
    let inode = |name: &str| fs::metadata(root.join(name)).unwrap().ino();
    assert_eq!(inode("hard"), inode("bin/tool"));
    assert_eq!(fs::read(root.join("twice")).unwrap(), b"second");
    let meta = fs::metadata(root.join(&long)).unwrap();
    assert_eq!(
        (meta.mtime(), meta.mtime_nsec()),
        (1_000_000_000, 500_000_000)
    );
    assert_eq!(fs::metadata(root.join("twice")).unwrap().mtime(), 0o1750);
    assert_eq!(fs::metadata(root.join("locked")).unwrap().mtime(), 0o1750);
    assert!(!root.join("nothing").exists() && !root.join(".wh.nothing").exists());
    let owned = fs::metadata(root.join("owned")).unwrap();
    assert_eq!(owned.mode() & 0o7777, 0o4755);
    if rustix::process::geteuid().is_root() {
        // An id that no instance has becomes nobody's.
        assert_eq!((owned.uid(), owned.gid()), (0o1750, 65_534));
    }
    let mut note = [0; 16];
    let got = rustix::fs::getxattr(root.join(&long), "user.note", &mut note);
    if let Ok(got) = got {
        assert_eq!(&note[..got], b"kept");
    }
    let private = fs::metadata(dir.path().join("layers"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(private & 0o077, 0);
}

#[tokio::test]
async fn names_layers_and_what_remains() {
    let dir = tempfile::tempdir().unwrap();
    let one = || Box::new(std::io::Cursor::new(tar().file("one").end()));
    let two = || Box::new(std::io::Cursor::new(tar().file("two").end()));
    let store = ImageStore::open(dir.path(), LIMITS).unwrap();
    for bad in [
        "",
        "a b",
        "a/../b",
        "/a",
        "a//b",
        "boxrig/base",
        "boxrig/x",
        "ä",
        &"x".repeat(256),
    ] {
        let error = store.import(bad, one()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{bad}");
    }
    store.import("ubuntu/22.04", one()).await.unwrap();
    let first = store.get("ubuntu/22.04").unwrap();
    store.import("ubuntu/22.04", two()).await.unwrap();
    let second = store.get("ubuntu/22.04").unwrap();
    assert_ne!(first.layers, second.layers);
    // An instance of the old one goes on until it is told that nobody has it.
    let in_use = first.layers.iter().cloned().collect();
    assert_eq!(store.collect(&in_use).unwrap(), 0);
    assert!(first.lowers[0].join("one").exists());
    drop(store);

    // A process that was killed in an import, and in a removal.
    let work = dir.path().join("work/7/fs/deep");
    fs::create_dir_all(&work).unwrap();
    fs::set_permissions(&work, fs::Permissions::from_mode(0o000)).unwrap();
    symlink("/etc", dir.path().join("work/7/link")).unwrap();
    let store = ImageStore::open(dir.path(), LIMITS).unwrap();
    assert_eq!(fs::read_dir(dir.path().join("work")).unwrap().count(), 0);
    assert_eq!(store.get("ubuntu/22.04").unwrap(), second);
    assert_eq!(store.collect(&BTreeSet::new()).unwrap(), 1);
    assert!(!first.lowers[0].exists() && second.lowers[0].join("two").exists());
    store.delete("ubuntu/22.04").unwrap();
    assert_eq!(
        store.delete("ubuntu/22.04").unwrap_err().kind(),
        Kind::NotFound
    );
    assert_eq!(
        store.get("ubuntu/22.04").unwrap_err().kind(),
        Kind::NotFound
    );
    assert_eq!(store.collect(&BTreeSet::new()).unwrap(), 1);
    assert_eq!(fs::read_dir(dir.path().join("layers")).unwrap().count(), 0);
}

#[tokio::test]
async fn an_import_that_is_given_up_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path(), LIMITS).unwrap();
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let import = store.import("half", Box::new(server));
    let feed = async {
        use tokio::io::AsyncWriteExt;
        client.write_all(&tar().file("f").0).await.unwrap();
        std::future::pending::<()>().await;
    };
    let both = async { tokio::join!(import, feed) };
    assert!(
        tokio::time::timeout(std::time::Duration::from_millis(100), both)
            .await
            .is_err()
    );
    drop(client);
    let started = std::time::Instant::now();
    while fs::read_dir(dir.path().join("work")).unwrap().count() > 0 {
        assert!(started.elapsed().as_secs() < 5);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert!(store.list().is_empty());
    assert_eq!(fs::read_dir(dir.path().join("layers")).unwrap().count(), 0);
}

#[test]
fn whiteouts_of_upper_layers() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = tar()
        .entry("etc/.wh.motd", b'0', "", b"")
        .file("var/new")
        .entry("var/.wh..wh..opq", b'0', "", b"")
        .file("kept")
        .entry(".wh.kept", b'0', "", b"")
        .end();
    let done = unpack(&bytes[..], dir.path(), LayerKind::Upper, &LIMITS).unwrap();
    assert_eq!(done.skipped, 0);
    let meta = fs::symlink_metadata(dir.path().join("etc/motd")).unwrap();
    assert!(meta.file_type().is_char_device());
    assert_eq!(meta.rdev(), 0);
    let mut value = [0; 4];
    let got =
        rustix::fs::getxattr(dir.path().join("var"), "user.overlay.opaque", &mut value).unwrap();
    assert_eq!(&value[..got], b"y");
    assert!(dir.path().join("kept").is_file());
    assert!(!dir.path().join("var/.wh..wh..opq").exists());
}

#[test]
fn entries_without_end_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    // Links to one file: as many entries as the limit allows, at little cost; then one more.
    let limits = ImportLimits {
        bytes: 1 << 20,
        entries: 20_000,
    };
    let mut archive = tar().file("f");
    for number in 0..limits.entries {
        archive = archive.hard(&format!("{}/{number}", number % 100), "f");
    }
    let error = unpack(&archive.end()[..], dir.path(), LayerKind::Base, &limits).unwrap_err();
    assert!(error.to_string().contains("more than 20000 entries"));
}
