//! The unpacker against archives that mean harm.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::thread;

use bytes::Bytes;
use proptest::prelude::*;

use super::channel::{CHUNK, Message, channel};
use super::tar::{END, Entry, Kind, padding, write_header};
use super::unpack::{Limits, OutsideLinks, Unpacked, unpack};

const LIMITS: Limits = Limits {
    bytes: 64 << 20,
    entries: 2_000_000,
    outside_links: OutsideLinks::Keep,
};

fn entry(path: &[u8], kind: Kind, link: &[u8], size: u64) -> Entry {
    Entry {
        path: path.to_vec(),
        kind,
        mode: 0o644,
        mtime: 1_600_000_000,
        size,
        link: link.to_vec(),
    }
}

#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn add(mut self, path: &str, kind: Kind, link: &str, content: &[u8]) -> Self {
        let e = entry(path.as_bytes(), kind, link.as_bytes(), content.len() as u64);
        // Devices cannot be written; their flag is put in afterwards.
        let other = kind == Kind::Other;
        let start = self.0.len();
        let e = if other {
            Entry {
                kind: Kind::File,
                ..e
            }
        } else {
            e
        };
        write_header(&mut self.0, &e).unwrap();
        if other {
            self.0[start + 156] = b'3';
            self.0[start + 148..start + 156].fill(b' ');
            let sum: u32 = self.0[start..start + 512]
                .iter()
                .map(|b| u32::from(*b))
                .sum();
            self.0[start + 148..start + 154].copy_from_slice(format!("{sum:06o}").as_bytes());
        }
        self.0.extend_from_slice(content);
        self.0
            .resize(self.0.len() + padding(content.len() as u64), 0);
        self
    }
    fn file(self, path: &str, content: &[u8]) -> Self {
        self.add(path, Kind::File, "", content)
    }
    fn link(self, path: &str, to: &str) -> Self {
        self.add(path, Kind::Symlink, to, b"")
    }
    fn hard(self, path: &str, to: &str) -> Self {
        self.add(path, Kind::HardLink, to, b"")
    }
    fn dir(self, path: &str) -> Self {
        self.add(path, Kind::Directory, "", b"")
    }
    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&END);
        self.0
    }
}

fn run(root: &Path, bytes: Vec<u8>, limits: Limits) -> Result<Unpacked, String> {
    let (tx, rx) = channel();
    let feeder = thread::spawn(move || {
        for chunk in bytes.chunks(CHUNK) {
            if tx
                .blocking_send(Message::Data(Bytes::copy_from_slice(chunk)))
                .is_err()
            {
                return;
            }
        }
        let _ = tx.blocking_send(Message::End);
    });
    let result = unpack(root, rx, limits, &mut |_, _| {});
    feeder.join().unwrap();
    result.map_err(|e| format!("{e} {e:?}"))
}

/// A place with a file outside of the directory, which must stay as it is.
struct Place {
    outer: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let outer = tempfile::tempdir().unwrap();
        fs::write(outer.path().join("canary"), "alive").unwrap();
        fs::create_dir(outer.path().join("victim")).unwrap();
        Self { outer }
    }
    fn root(&self) -> std::path::PathBuf {
        self.outer.path().join("root")
    }
    fn assert_unharmed(&self, what: &str) {
        let at = |name: &str| self.outer.path().join(name);
        assert_eq!(fs::read_to_string(at("canary")).unwrap(), "alive", "{what}");
        let touched = fs::metadata(at("canary")).unwrap().modified().unwrap();
        let archived = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
        assert!(touched > archived, "{what}");
        assert_eq!(fs::read_dir(at("victim")).unwrap().count(), 0, "{what}");
        let mut names: Vec<_> = fs::read_dir(self.outer.path())
            .unwrap()
            .map(|f| f.unwrap().file_name().into_string().unwrap())
            .collect();
        names.retain(|n| n != "root");
        names.sort();
        assert_eq!(names, ["canary", "victim"], "{what}");
    }
}

#[test]
fn nothing_is_written_outside() {
    let outer = Place::new();
    let victim = outer.outer.path().join("victim");
    let canary = outer.outer.path().join("canary");
    let (victim, canary) = (victim.to_str().unwrap(), canary.to_str().unwrap());
    let a = Archive::default;
    let refused: Vec<(&str, Archive)> = vec![
        ("up", a().file("../canary", b"dead")),
        ("up within", a().file("a/../../canary", b"dead")),
        ("up as a directory", a().dir("../victim2")),
        ("absolute", a().file(canary, b"dead")),
        ("absolute directory", a().dir(&format!("{victim}/x/"))),
        (
            "through an absolute link",
            a().link("l", victim).file("l/x", b"dead"),
        ),
        (
            "through a relative link",
            a().link("l", "../victim").file("l/x", b"dead"),
        ),
        (
            "through a link in a directory",
            a().dir("d/")
                .link("d/l", "../../victim")
                .file("d/l/x", b"dead"),
        ),
        (
            "through two links",
            a().link("a", "..")
                .link("b", "a/victim")
                .file("b/x", b"dead"),
        ),
        ("a directory over a link", a().link("l", victim).dir("l/")),
        (
            "a directory's mode through a link",
            a().link("l", victim).dir("l/x/"),
        ),
        (
            "a hard link out",
            a().hard("h", "../canary").file("h", b"dead"),
        ),
        (
            "an absolute hard link",
            a().hard("h", canary).file("h", b"dead"),
        ),
        (
            "a hard link through a link",
            a().link("l", "..").hard("h", "l/canary"),
        ),
        (
            "a hard link to a link",
            a().link("l", canary).hard("h", "l"),
        ),
        ("a hard link to nothing", a().hard("h", "nothing")),
        ("a hard link to the root", a().hard("h", ".")),
        ("a symlink to nothing", a().link("l", "")),
        (
            "a file over a directory",
            a().dir("d/").file("d/x", b"").file("d", b""),
        ),
        ("a directory over a file", a().file("f", b"").dir("f/")),
        ("below a file", a().file("f", b"").file("f/x", b"")),
        (
            "a deep path",
            a().file(&"d/".repeat(300), b"")
                .file(&format!("{}f", "d/".repeat(300)), b""),
        ),
    ];
    for (what, archive) in refused {
        let place = &outer;
        let _ = fs::remove_dir_all(place.root());
        let result = run(&place.root(), archive.end(), LIMITS);
        assert!(result.is_err(), "{what}: {result:?}");
        place.assert_unharmed(what);
    }
}

#[test]
fn what_is_not_refused_stays_inside() {
    let place = Place::new();
    let canary = place.outer.path().join("canary");
    let archive = Archive::default()
        // A file in the place of a link replaces the link, not what it leads to.
        .link("f", canary.to_str().unwrap())
        .file("f", b"own")
        .link("g", "../canary")
        .hard("g", "f")
        // Twice the same.
        .file("twice", b"1")
        .file("twice", b"2")
        .hard("self", "self0")
        .end();
    assert!(
        run(&place.root(), archive, LIMITS).is_err(),
        "a hard link to itself"
    );
    place.assert_unharmed("kinds of replacement");
    let at = |name: &str| place.root().join(name);
    assert_eq!(fs::read(at("f")).unwrap(), b"own");
    assert_eq!(fs::read(at("g")).unwrap(), b"own");
    assert_eq!(fs::read(at("twice")).unwrap(), b"2");
    let devices = Archive::default()
        .add("null", Kind::Other, "", b"")
        .file("x", b"")
        .end();
    let out = run(&place.root(), devices, LIMITS).unwrap();
    assert_eq!((out.entries, out.left_out.count), (2, 1));
    assert!(!at("null").exists());
}

#[cfg(unix)]
#[test]
fn links_and_modes_of_the_local_directory_are_respected() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    // A link that was there before and leads out is not written through either.
    let place = Place::new();
    fs::create_dir(place.root()).unwrap();
    symlink(place.outer.path().join("victim"), place.root().join("mine")).unwrap();
    let archive = Archive::default().file("mine/x", b"dead").end();
    assert!(run(&place.root(), archive, LIMITS).is_err());
    place.assert_unharmed("a link of our own");
    // Another name of a file of ours is not written through.
    fs::hard_link(place.outer.path().join("canary"), place.root().join("h")).unwrap();
    run(
        &place.root(),
        Archive::default().file("h", b"new").end(),
        LIMITS,
    )
    .unwrap();
    place.assert_unharmed("a hard link of our own");
    // No setuid, and a directory without permissions can be filled before it gets them.
    let mut bytes = Vec::new();
    let mut e = entry(b"locked/", Kind::Directory, b"", 0);
    e.mode = 0;
    write_header(&mut bytes, &e).unwrap();
    let mut e = entry(b"locked/su", Kind::File, b"", 0);
    e.mode = 0o6755;
    write_header(&mut bytes, &e).unwrap();
    bytes.extend_from_slice(&END);
    run(&place.root(), bytes, LIMITS).unwrap();
    let mode = |name: &str| {
        fs::symlink_metadata(place.root().join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777
    };
    assert_eq!(mode("locked"), 0);
    fs::set_permissions(
        place.root().join("locked"),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    assert_eq!(mode("locked/su"), 0o755);
}

#[test]
fn links_that_lead_out_are_found() {
    let limits = |outside_links| Limits {
        outside_links,
        ..LIMITS
    };
    for (path, to, out) in [
        ("l", "a/b", false),
        ("l", "..", true),
        ("d/l", "..", false),
        ("d/l", "../..", true),
        ("d/l", "../x/y", false),
        ("l", "/", true),
        ("l", "a/..", true),
        ("l", "./././a", false),
    ] {
        let place = Place::new();
        let archive = || Archive::default().dir("d/").link(path, to).end();
        let skipped = run(&place.root(), archive(), limits(OutsideLinks::Skip)).unwrap();
        assert_eq!(skipped.left_out.count == 1, out, "{path} -> {to}");
        let refused = run(&place.root(), archive(), limits(OutsideLinks::Refuse));
        assert_eq!(refused.is_err(), out, "{path} -> {to}");
        place.assert_unharmed(to);
    }
}

#[test]
fn bombs_are_defused() {
    let place = Place::new();
    // 256 MiB of zeros in a few MiB of gzip.
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let e = entry(b"zeros", Kind::File, b"", 256 << 20);
    let mut header = Vec::new();
    write_header(&mut header, &e).unwrap();
    gz.write_all(&header).unwrap();
    for _ in 0..256 {
        gz.write_all(&[0; 1 << 20]).unwrap();
    }
    gz.write_all(&END).unwrap();
    let bomb = gz.finish().unwrap();
    assert!(bomb.len() < 8 << 20);
    let e = run(&place.root(), bomb, LIMITS).unwrap_err();
    assert!(e.contains("larger than what it may"), "{e}");
    assert_eq!(
        fs::read_dir(place.root()).unwrap().count(),
        0,
        "nothing is left of it"
    );
    // After the end mark, too.
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    for _ in 0..70 {
        gz.write_all(&[0; 1 << 20]).unwrap();
    }
    let e = run(&place.root(), gz.finish().unwrap(), LIMITS).unwrap_err();
    assert!(e.contains("larger than what it may"), "{e}");
    // Too many entries.
    let mut many = Archive::default();
    for i in 0..50 {
        many = many.file(&format!("f{i}"), b"");
    }
    let few = Limits {
        entries: 49,
        ..LIMITS
    };
    assert!(run(&place.root(), many.end(), few).is_err());
    // Cut, and with a wrong checksum.
    let whole = {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&Archive::default().file("a", &[7; 5000]).end())
            .unwrap();
        gz.finish().unwrap()
    };
    run(&place.root(), whole.clone(), LIMITS).unwrap();
    for n in 0..whole.len() {
        assert!(
            run(&place.root(), whole[..n].to_vec(), LIMITS).is_err(),
            "cut at {n}"
        );
    }
    let mut wrong = whole.clone();
    let at = wrong.len() - 6;
    wrong[at] ^= 1;
    assert!(run(&place.root(), wrong, LIMITS).is_err());
    place.assert_unharmed("bombs");
}

#[test]
fn many_entries_leave_nothing_behind() {
    // Twenty thousand that are made, and a million that are left out and named up to a limit only.
    let place = Place::new();
    let one = Archive::default().hard("l", "f").0;
    let left = Archive::default().add("null", Kind::Other, "", b"").0;
    let (tx, rx) = channel();
    let feeder = thread::spawn(move || {
        let first = Archive::default().file("f", b"x").0;
        let _ = tx.blocking_send(Message::Data(first.into()));
        for (entry, times) in [(one, 20), (left, 1000)] {
            let thousand = Bytes::from(entry.repeat(1000));
            for _ in 0..times {
                if tx.blocking_send(Message::Data(thousand.clone())).is_err() {
                    return;
                }
            }
        }
        let _ = tx.blocking_send(Message::Data(Bytes::from_static(&END)));
        let _ = tx.blocking_send(Message::End);
    });
    let limits = Limits {
        bytes: 1 << 30,
        ..LIMITS
    };
    let out = unpack(&place.root(), rx, limits, &mut |_, _| {}).unwrap();
    feeder.join().unwrap();
    assert_eq!((out.entries, out.left_out.count), (1_020_001, 1_000_000));
    assert_eq!(out.left_out.named.len(), super::NAMED);
    assert_eq!(fs::read_dir(place.root()).unwrap().count(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_archive_gets_out(entries in proptest::collection::vec(
        (r"(\.\./|/|\./|[ab]/){0,3}[ab]?", 0u8..5, r"(\.\./|/|[ab]/){0,3}(canary|victim|[ab])"), 0..12)) {
        let place = Place::new();
        let mut archive = Archive::default();
        for (path, kind, link) in &entries {
            archive = match kind {
                0 => archive.file(path, b"dead"),
                1 => archive.dir(path),
                2 => archive.link(path, link),
                3 => archive.hard(path, link),
                _ => archive.add(path, Kind::Other, "", b""),
            };
        }
        let _ = run(&place.root(), archive.end(), LIMITS);
        place.assert_unharmed(&format!("{entries:?}"));
    }
}
