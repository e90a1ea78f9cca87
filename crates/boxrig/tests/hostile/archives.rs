//! `boxrig cp` out of an instance whose tools are not what they seem: its `tar` sends what an attacker wrote.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::support::Home;
use crate::terminal::clean;

/// Writes archives byte by byte, so that they can be wrong in every way.
#[derive(Default, Clone)]
struct Tar(Vec<u8>);

fn tar() -> Tar {
    Tar::default()
}

impl Tar {
    fn header(name: &[u8], flag: u8, size: &[u8], link: &[u8], mode: u32) -> [u8; 512] {
        let mut header = [0; 512];
        let put = |header: &mut [u8; 512], at: usize, text: &[u8], most: usize| {
            let n = text.len().min(most);
            header[at..at + n].copy_from_slice(&text[..n]);
        };
        put(&mut header, 0, name, 100);
        put(&mut header, 100, format!("{mode:07o}\0").as_bytes(), 8);
        put(&mut header, 108, b"0000000\x000000000\0", 16);
        put(&mut header, 124, size, 12);
        put(&mut header, 136, b"00000001750\0", 12);
        header[156] = flag;
        put(&mut header, 157, link, 100);
        put(&mut header, 257, b"ustar\x0000", 8);
        header[148..156].fill(b' ');
        let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
        put(&mut header, 148, format!("{sum:06o}\0 ").as_bytes(), 8);
        header
    }

    fn entry(
        self,
        name: impl AsRef<[u8]>,
        flag: u8,
        link: impl AsRef<[u8]>,
        content: &[u8],
    ) -> Self {
        self.with_mode(name, flag, link, content, 0o644)
    }

    fn with_mode(
        mut self,
        name: impl AsRef<[u8]>,
        flag: u8,
        link: impl AsRef<[u8]>,
        content: &[u8],
        mode: u32,
    ) -> Self {
        let size = format!("{:011o}\0", content.len());
        self.0.extend_from_slice(&Self::header(
            name.as_ref(),
            flag,
            size.as_bytes(),
            link.as_ref(),
            mode,
        ));
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

    fn link(self, name: &str, target: impl AsRef<[u8]>) -> Self {
        self.entry(name, b'2', target, b"")
    }

    fn hard(self, name: &str, target: impl AsRef<[u8]>) -> Self {
        self.entry(name, b'1', target, b"")
    }

    fn pax(self, key: &str, value: &[u8]) -> Self {
        let body = key.len() + value.len() + 3;
        let mut length = body + 1;
        while length.to_string().len() + body != length {
            length += 1;
        }
        let mut content = format!("{length} {key}=").into_bytes();
        content.extend_from_slice(value);
        content.push(b'\n');
        self.entry("pax", b'x', "", &content)
    }

    /// A header that says what it likes about its size.
    fn claim(mut self, name: &str, size: &[u8; 12]) -> Self {
        self.0
            .extend_from_slice(&Self::header(name.as_bytes(), b'0', size, b"", 0o644));
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).0
    }
}

/// What must become of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The copy fails.
    Refused,
    /// The copy is done, and what could do harm is left out.
    Tamed,
}

use Fate::{Refused, Tamed};

/// The corpus. `outside` is a directory beside the copy that must stay as it is; its path as it is on this machine.
fn corpus(outside: &Path) -> Vec<(&'static str, Vec<u8>, Fate)> {
    let absolute = outside.to_str().unwrap().to_owned();
    let within = format!("{absolute}/canary");
    let deep = "d/".repeat(3000);
    let steps = "d/".repeat(300);
    let long = "n".repeat(300);
    let broken_sum = {
        let mut bytes = tar().file("a").end();
        bytes[150] ^= 1;
        bytes
    };
    let huge: [u8; 12] = *b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff";
    let negative: [u8; 12] = *b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff";
    vec![
        // Paths that lead out.
        ("up", tar().file("../outside/x").end(), Refused),
        (
            "far up",
            tar()
                .file("../../../../../../../../tmp/boxrig-hostile")
                .end(),
            Refused,
        ),
        (
            "up in the middle",
            tar().dir("a").file("a/../../outside/x").end(),
            Refused,
        ),
        ("up and back", tar().file("a/../b").end(), Refused),
        ("up at the end", tar().dir("a/..").end(), Refused),
        ("only up", tar().dir("..").end(), Refused),
        ("a file that is up", tar().file("..").end(), Refused),
        ("dots and up", tar().file("././../outside/x").end(), Refused),
        (
            "slashes and up",
            tar().file("a//..//..//outside/x").end(),
            Refused,
        ),
        ("absolute", tar().file(&within).end(), Refused),
        (
            "absolute with slashes",
            tar().file(format!("//{within}")).end(),
            Refused,
        ),
        ("absolute directory", tar().dir(&absolute).end(), Refused),
        (
            "absolute etc",
            tar().file("/etc/boxrig-hostile").end(),
            Refused,
        ),
        (
            "long name up",
            tar()
                .entry("././@LongLink", b'L', "", b"../outside/x\0")
                .file("ok")
                .end(),
            Refused,
        ),
        (
            "long name absolute",
            tar()
                .entry("././@LongLink", b'L', "", format!("{within}\0").as_bytes())
                .file("ok")
                .end(),
            Refused,
        ),
        (
            "pax path up",
            tar().pax("path", b"../outside/x").file("ok").end(),
            Refused,
        ),
        (
            "pax path absolute",
            tar().pax("path", within.as_bytes()).file("ok").end(),
            Refused,
        ),
        (
            "pax path with a zero byte",
            tar().pax("path", b"a\0b").file("ok").end(),
            Refused,
        ),
        (
            "ustar prefix up",
            {
                let mut h = Tar::header(b"x", b'0', b"00000000000\0", b"", 0o644);
                h[345..355].copy_from_slice(b"../outside");
                sum(&mut h);
                tar().raw(&h).end()
            },
            Refused,
        ),
        (
            "as deep as a header allows",
            tar().dir(format!("{steps}x")).end(),
            Tamed,
        ),
        (
            "too deep by pax",
            tar()
                .pax("path", format!("{steps}x").as_bytes())
                .file("ok")
                .end(),
            Refused,
        ),
        (
            "very long path",
            tar().pax("path", deep.as_bytes()).file("ok").end(),
            Refused,
        ),
        (
            "very long name",
            tar().pax("path", long.as_bytes()).file("ok").end(),
            Refused,
        ),
        // Links, and writing through them.
        ("link up", tar().link("l", "../outside").end(), Tamed),
        ("link to the root", tar().link("l", "/").end(), Tamed),
        ("link to etc", tar().link("l", "/etc").end(), Tamed),
        ("link absolute", tar().link("l", &absolute).end(), Tamed),
        (
            "link up after a name",
            tar().dir("a").link("a/l", "b/../../../outside").end(),
            Tamed,
        ),
        (
            "write through a link up",
            tar().link("l", "../outside").file("l/x").end(),
            Tamed,
        ),
        (
            "write through an absolute link",
            tar().link("l", &absolute).file("l/x").end(),
            Tamed,
        ),
        (
            "write through a link within",
            tar().dir("a").link("l", "a").file("l/x").end(),
            Refused,
        ),
        (
            "write through two links",
            tar()
                .link("a", "b")
                .link("b", "../outside")
                .file("a/x")
                .end(),
            Refused,
        ),
        (
            "write onto a link",
            tar().link("l", &within).file("l").end(),
            Tamed,
        ),
        (
            "write onto a link within",
            tar().file("a").link("l", "a").file("l").end(),
            Tamed,
        ),
        (
            "directory onto a link",
            tar().link("l", "a").dir("a").dir("l").file("l/x").end(),
            Refused,
        ),
        (
            "a link takes a directory's place",
            tar()
                .dir("d")
                .file("d/a")
                .link("d", "../outside")
                .file("d/x")
                .end(),
            Tamed,
        ),
        (
            "the root becomes a link",
            tar().link(".", "../outside").file("x").end(),
            Tamed,
        ),
        (
            "the root becomes a file",
            tar().file(".").file("x").end(),
            Tamed,
        ),
        ("link to nothing", tar().link("l", "").end(), Refused),
        (
            "pax link up",
            tar()
                .pax("linkpath", b"../outside")
                .link("l", "ok")
                .file("l/x")
                .end(),
            Tamed,
        ),
        (
            "long link up",
            tar()
                .entry("././@LongLink", b'K', "", b"../outside\0")
                .link("l", "ok")
                .file("l/x")
                .end(),
            Tamed,
        ),
        (
            "link loop",
            tar().link("a", "b").link("b", "a").file("a/x").end(),
            Refused,
        ),
        (
            "link to itself",
            tar().link("a", "a").file("a/x").end(),
            Refused,
        ),
        // Hard links.
        (
            "hard link up",
            tar().hard("h", "../outside/canary").end(),
            Refused,
        ),
        (
            "hard link absolute",
            tar().hard("h", &within).end(),
            Refused,
        ),
        (
            "hard link to a password file",
            tar().hard("h", "/etc/passwd").end(),
            Refused,
        ),
        (
            "hard link through a link",
            tar().link("l", "../outside").hard("h", "l/canary").end(),
            Refused,
        ),
        (
            "hard link to a link",
            tar().link("l", "a").hard("h", "l").end(),
            Refused,
        ),
        (
            "hard link to nothing",
            tar().hard("h", "none").end(),
            Refused,
        ),
        ("hard link to itself", tar().hard("h", "h").end(), Refused),
        (
            "hard link to a directory",
            tar().dir("d").hard("h", "d").end(),
            Refused,
        ),
        ("hard link to the root", tar().hard("h", ".").end(), Refused),
        (
            "write through a hard link",
            tar().hard("h", &within).file("h").end(),
            Refused,
        ),
        // Kinds and modes.
        (
            "character device",
            tar().entry("c", b'3', "", b"").end(),
            Tamed,
        ),
        ("block device", tar().entry("b", b'4', "", b"").end(), Tamed),
        ("pipe", tar().entry("p", b'6', "", b"").end(), Tamed),
        (
            "unknown kind",
            tar().entry("u", b'Z', "", b"content").end(),
            Tamed,
        ),
        (
            "volume header",
            tar().entry("v", b'V', "", b"").end(),
            Tamed,
        ),
        (
            "continued file",
            tar().entry("m", b'M', "", b"content").end(),
            Tamed,
        ),
        (
            "setuid",
            tar().with_mode("s", b'0', "", b"#!/bin/sh", 0o4755).end(),
            Tamed,
        ),
        (
            "setgid",
            tar().with_mode("s", b'0', "", b"#!/bin/sh", 0o2755).end(),
            Tamed,
        ),
        (
            "sticky and everything",
            tar().with_mode("s", b'0', "", b"x", 0o7777).end(),
            Tamed,
        ),
        (
            "setgid directory",
            tar().with_mode("d", b'5', "", b"", 0o2777).end(),
            Tamed,
        ),
        (
            "setuid by a hard link",
            tar()
                .with_mode("s", b'0', "", b"x", 0o4755)
                .with_mode("h", b'1', "s", b"", 0o4755)
                .end(),
            Tamed,
        ),
        // Twice.
        (
            "a file twice",
            tar().file("a").entry("a", b'0', "", b"second").end(),
            Tamed,
        ),
        (
            "file then directory",
            tar().file("a").dir("a").file("a/b").end(),
            Refused,
        ),
        (
            "directory then file",
            tar().dir("a").file("a/b").file("a").end(),
            Refused,
        ),
        ("same but for case", tar().file("A").file("a").end(), Tamed),
        // Lies about sizes.
        ("huge", tar().claim("a", &huge).end(), Refused),
        ("negative", tar().claim("a", &negative).end(), Refused),
        (
            "no number",
            tar().claim("a", b"zzzzzzzzzzz\0").end(),
            Refused,
        ),
        (
            "more than there is",
            tar().claim("a", b"00000100000\0").raw(b"short").0,
            Refused,
        ),
        (
            "terabytes",
            tar().claim("a", b"77777777777\0").raw(&[0; 2048]).0,
            Refused,
        ),
        (
            "a long name of gigabytes",
            tar()
                .raw(&Tar::header(
                    b"././@LongLink",
                    b'L',
                    b"17777777777\0",
                    b"",
                    0o644,
                ))
                .end(),
            Refused,
        ),
        (
            "pax of gigabytes",
            tar()
                .raw(&Tar::header(b"pax", b'x', b"17777777777\0", b"", 0o644))
                .end(),
            Refused,
        ),
        (
            "pax size",
            tar().pax("size", b"99999999999999999999").file("a").end(),
            Refused,
        ),
        (
            "pax without a length",
            tar().entry("pax", b'x', "", b"path=../x\n").file("a").end(),
            Refused,
        ),
        (
            "pax with a wrong length",
            tar()
                .entry("pax", b'x', "", b"9999 path=x\n")
                .file("a")
                .end(),
            Refused,
        ),
        ("sparse", tar().entry("s", b'S', "", b"").end(), Refused),
        (
            "sparse by pax",
            tar().pax("GNU.sparse.major", b"1").file("a").end(),
            Refused,
        ),
        // Broken.
        ("empty", Vec::new(), Refused),
        ("only zeros", vec![0; 10240], Tamed),
        (
            "random",
            (0..4096u32)
                .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
                .collect(),
            Refused,
        ),
        (
            "cut in a header",
            tar().file("a").0[..100].to_vec(),
            Refused,
        ),
        (
            "cut in content",
            tar().entry("a", b'0', "", &[7; 4096]).0[..2000].to_vec(),
            Refused,
        ),
        ("no end", tar().file("a").0, Refused),
        ("wrong sum", broken_sum, Refused),
        (
            "gzip that is none",
            b"\x1f\x8b\x08\0garbage garbage garbage".to_vec(),
            Refused,
        ),
        ("a zip", b"PK\x03\x04 no tar at all".repeat(100), Refused),
        ("a page", b"<html>502 Bad Gateway</html>".to_vec(), Refused),
        // Names.
        (
            "terminal",
            tar()
                .file("\u{1b}]0;owned\u{7}\u{1b}[2J")
                .link("\u{1b}[31ml", "/etc")
                .end(),
            Tamed,
        ),
        (
            "terminal in a refusal",
            tar().file("../\u{1b}]0;owned\u{7}").end(),
            Refused,
        ),
        ("no text", tar().file(b"\xff\xfe\x80").end(), Tamed),
        ("newline", tar().file("a\nb").end(), Tamed),
        ("backslashes", tar().file("..\\..\\outside\\x").end(), Tamed),
        ("drive letter", tar().file("C:\\x").end(), Tamed),
        (
            "our temporary name",
            tar().file(".boxrig-000000000000-1.part").file("a").end(),
            Tamed,
        ),
    ]
}

fn sum(header: &mut [u8; 512]) {
    header[148..156].fill(b' ');
    let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Everything under a directory: its kind, mode, size and content or target. Links are not followed.
fn census(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let Ok(meta) = path.symlink_metadata() else {
            continue;
        };
        let what = if meta.is_symlink() {
            format!("link {:?}", std::fs::read_link(&path).unwrap())
        } else if meta.is_dir() {
            todo.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
            format!("directory {:o}", meta.mode())
        } else {
            format!(
                "{:o} {:?}",
                meta.mode(),
                std::fs::read(&path).unwrap_or_default()
            )
        };
        found.insert(path, what);
    }
    found
}

/// What must hold of a directory that something was unpacked into.
fn check_inside(what: &str, dir: &Path) {
    for path in census(dir).keys() {
        let meta = path.symlink_metadata().unwrap();
        let kind = meta.file_type();
        assert!(
            kind.is_file() || kind.is_dir() || kind.is_symlink(),
            "{what}: {path:?} is special"
        );
        assert!(!kind.is_block_device() && !kind.is_char_device() && !kind.is_fifo());
        if !kind.is_symlink() {
            assert_eq!(meta.permissions().mode() & 0o7000, 0, "{what}: {path:?}");
        } else {
            let depth = path.strip_prefix(dir).unwrap().components().count() - 1;
            let target = std::fs::read_link(path).unwrap();
            let up = target
                .components()
                .filter(|c| *c == std::path::Component::ParentDir)
                .count();
            assert!(
                target.is_relative() && up <= depth,
                "{what}: {path:?} leads to {target:?}"
            );
        }
    }
}

/// The guest's `tar`: the last part of the directory's name says which archive it sends.
const TAR: &str = r#"#!/bin/sh
p=
while [ $# -gt 0 ]; do [ "$1" = -C ] && p=$2; shift; done
printf '\033]0;owned\007 from tar\n' >&2
cat "/root/evil/${p##*/}"
"#;

/// An instance whose `tar` sends what is in `/root/evil`.
fn evil_instance(home: &Home, archives: &[(&'static str, Vec<u8>, Fate)]) {
    let evil = home.path().join("evil");
    std::fs::create_dir(&evil).unwrap();
    for (n, (_, bytes, _)) in archives.iter().enumerate() {
        std::fs::write(evil.join(n.to_string()), bytes).unwrap();
    }
    std::fs::write(home.path().join("tar"), TAR).unwrap();
    home.ok(&["launch", "--name", "evil"]);
    home.ok(&["cp", "evil", "evil:/root/evil"]);
    home.ok(&["cp", "tar", "evil:/usr/local/bin/tar"]);
    let numbers = archives.len();
    home.ok(&[
        "exec",
        "evil",
        "--",
        "sh",
        "-c",
        &format!("chmod 755 /usr/local/bin/tar; mkdir /root/d; for n in $(seq 0 {numbers}); do mkdir /root/d/$n; done; command -v tar"),
    ]);
}

fn words(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

#[test]
fn hostile_archives_from_a_guest_do_no_harm() {
    let Some(home) = Home::with_sandbox() else {
        return;
    };
    let outside = home.path().join("to/outside");
    std::fs::create_dir_all(&outside).unwrap();
    std::fs::write(outside.join("canary"), "canary").unwrap();
    let corpus = corpus(&outside);
    assert!(corpus.len() >= 90, "{}", corpus.len());
    evil_instance(&home, &corpus);
    let before = census(&outside);
    let mut wrong = Vec::new();
    for (n, (what, _, fate)) in corpus.iter().enumerate() {
        let to = format!("to/{n}");
        let out = home.run(&["cp", &format!("evil:/root/d/{n}"), &to]);
        clean(what, &out.stderr);
        clean(what, &out.stdout);
        assert_eq!(census(&outside), before, "{what} wrote outside");
        let to = home.path().join(&to);
        check_inside(what, &to);
        let left = census(&to)
            .into_keys()
            .filter(|p| p.to_string_lossy().ends_with(".part"))
            .count();
        assert!(
            left <= usize::from(*what == "our temporary name"),
            "{what} left something behind"
        );
        let got = if out.status.success() { Tamed } else { Refused };
        if got != *fate || !matches!(out.status.code(), Some(0 | 1 | 6)) {
            wrong.push(format!(
                "{what}: {got:?}, {:?}: {}",
                out.status.code(),
                words(&out)
            ));
        }
        if out.status.success() {
            continue;
        }
        assert!(
            words(&out).starts_with("error: "),
            "{what}: {}",
            words(&out)
        );
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(
        !Path::new("/etc/boxrig-hostile").exists() && !Path::new("/tmp/boxrig-hostile").exists()
    );
    // Everything went on the way it should: an honest archive of the same tool arrives.
    let honest = tar().dir("./").dir("a").file("a/b").link("l", "a/b").end();
    std::fs::write(home.path().join("honest"), honest).unwrap();
    home.ok(&["cp", "honest", "evil:/root/evil/0"]);
    home.ok(&["cp", "evil:/root/d/0", "honest-copy"]);
    let got = std::fs::read_to_string(home.path().join("honest-copy/l")).unwrap();
    assert_eq!(got, "hostile");
}

/// What a guest's other tools may do, and a part of what the user gets to read.
const TOOLS: &[(&str, &str, &str)] = &[
    ("curl", "exit 0", "error"),
    ("curl", "exit 22", "curl ended with 22"),
    (
        "curl",
        "cat >/dev/null; echo kind=directory; exit 0",
        "error",
    ),
    ("curl", "kill -9 $$", "curl ended with 137"),
    ("wc", "echo 99999999999999999999", "error"),
    ("wc", "echo 1000000000000", "error"),
    ("wc", "echo -5", "error"),
    ("wc", "echo '$(touch /tmp/x)'", "error"),
    ("wc", "printf '\\033[2J'", "error"),
    ("sha256sum", "printf '%064d -\\n' 0", "checksum"),
    ("head", "echo other", "error"),
    ("head", "exit 1", "head ended with 1"),
    ("head", "yes", "error"),
];

#[test]
fn a_guest_whose_tools_lie_is_found_out() {
    let Some(home) = Home::with_sandbox() else {
        return;
    };
    for (n, (tool, script, wanted)) in TOOLS.iter().enumerate() {
        let name = format!("liar{n}");
        home.ok(&["launch", "--name", &name]);
        let setup = format!(
            "printf content >/root/f; mkdir -p /usr/local/bin; printf '#!/bin/sh\\n%s\\n' \"$1\" >/usr/local/bin/{tool}; \
             chmod 755 /usr/local/bin/{tool}"
        );
        home.ok(&["exec", &name, "--", "/bin/sh", "-c", &setup, "x", script]);
        std::fs::write(home.path().join("old"), "old").unwrap();
        let out = home.run(&["cp", &format!("{name}:/root/f"), "old", "--timeout", "20s"]);
        clean(script, &out.stderr);
        assert!(!out.status.success(), "{tool}: {script}: {out:?}");
        assert!(
            words(&out).contains(wanted),
            "{tool}: {script}: {}",
            words(&out)
        );
        let kept = std::fs::read_to_string(home.path().join("old")).unwrap();
        assert_eq!(kept, "old", "{tool}: {script}: what was there is kept");
        home.ok(&["rm", "--yes", &name]);
    }
    let left: Vec<_> = std::fs::read_dir(home.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|n| n.ends_with(".part"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    // A mode that would make a program run as its owner is not taken over.
    home.ok(&[
        "run",
        "--keep",
        "--name",
        "mode",
        "--",
        "sh",
        "-c",
        "echo x >/root/s; chmod 6755 /root/s",
    ]);
    home.ok(&["cp", "mode:/root/s", "s"]);
    let mode = std::fs::metadata(home.path().join("s")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o755);
}
