//! Builds by a real engine.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use boxrig_build::{BuildError, BuildSpec, Builder, Built, Cause, LogLine, Stream};
use boxrig_engine::{
    Engine, ExecSpec, InstanceId, InstanceSpec, MainProcess, Options, Selection, Source,
};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

struct Rig {
    engine: Arc<dyn Engine>,
    builder: Builder,
    dir: TempDir,
}

/// An engine with a folder of its own; `None`, with a printed reason, where the sandbox cannot run.
async fn rig() -> Option<Rig> {
    let dir = tempfile::Builder::new()
        .prefix("boxrig-test-")
        .tempdir()
        .unwrap();
    let folder = dir.path().join("e");
    let opened = boxrig_engine::open(Selection::Sandbox, &folder, Options::default());
    match opened.await {
        Ok(engine) => Some(Rig {
            builder: Builder::new(engine.clone()),
            engine,
            dir,
        }),
        Err(error) => {
            let required =
                std::env::var("BOXRIG_REQUIRE").is_ok_and(|what| what.contains("sandbox"));
            assert!(!required, "the sandbox is required: {error}");
            println!("skipped: {error}");
            None
        }
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| {
        use std::os::unix::fs::MetadataExt;
        meta.uid() == 0
    })
}

impl Rig {
    /// A context with these files.
    fn context(&self, name: &str, files: &[(&str, &str)]) -> std::path::PathBuf {
        let root = self.dir.path().join(name);
        for (path, content) in files {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        root
    }

    async fn build(&self, spec: BuildSpec) -> (Result<Built, BuildError>, Vec<LogLine>) {
        let (log, mut lines) = mpsc::channel(4);
        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            while let Some(line) = lines.recv().await {
                all.push(line);
            }
            all
        });
        let built = self.builder.build(spec, log).await;
        (built, reading.await.unwrap())
    }

    /// A build of a text in a context.
    async fn text(&self, context: &Path, text: &str) -> (Result<Built, BuildError>, Vec<LogLine>) {
        let mut spec = BuildSpec::new("test/image");
        spec.context = Some(context.to_owned());
        spec.text = Some(text.to_owned());
        self.build(spec).await
    }

    /// Runs a script in a new instance of an image.
    async fn sh(&self, image: &str, script: &str) -> String {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let id = InstanceId::new(format!("user-{n}")).unwrap();
        let mut spec = InstanceSpec::new(id.clone());
        spec.source = Source::Image(image.to_owned());
        self.engine.create(spec).await.unwrap();
        let spec = ExecSpec::new(["/bin/sh", "-c", script]);
        let mut exec = self.engine.exec(&id, spec).await.unwrap();
        let mut text = String::new();
        exec.stdout.read_to_string(&mut text).await.unwrap();
        let status = exec.wait().await.unwrap();
        self.engine.delete(&id).await.unwrap();
        assert!(status.success(), "{script}: {text}");
        text.trim_end().to_owned()
    }

    /// Nothing of a build is left but its cache.
    async fn nothing_runs(&self) {
        for _ in 0..100 {
            if self.engine.list().await.unwrap().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{:?}", self.engine.list().await.unwrap());
    }
}

fn texts(lines: &[LogLine], stream: Stream) -> Vec<&str> {
    let of_it = lines.iter().filter(|line| line.stream == stream);
    of_it.map(|line| line.text.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_built_run_and_cached() {
    let Some(rig) = rig().await else { return };
    let context = rig.context(
        "app",
        &[
            ("Dockerfile", "ARG BASE=boxrig/base\nFROM ${BASE}\nARG WHO=world\nENV GREETING=\"hello $WHO\"\nWORKDIR /srv/app\nCOPY . .\nRUN echo $GREETING from $(pwd) | tee greeting; echo careful >&2\nEXPOSE 8080\nLABEL made.by=test\nENTRYPOINT [\"/bin/cat\"]\nCMD [\"greeting\"]\n"),
            (".dockerignore", "*.log\nsecret\n"),
            ("src/main", "one"),
            ("noise.log", "x"),
            ("secret/key", "x"),
        ],
    );
    let spec = || {
        let mut spec = BuildSpec::new("test/app");
        spec.context = Some(context.clone());
        spec.args = BTreeMap::from([("WHO".into(), "you".into()), ("NONE".into(), "x".into())]);
        spec
    };
    let (built, lines) = rig.build(spec()).await;
    let built = built.unwrap();
    assert_eq!((built.steps, built.cached), (3, 0));
    assert_eq!(texts(&lines, Stream::Out), ["hello you from /srv/app"]);
    assert_eq!(texts(&lines, Stream::Err), ["careful"]);
    let steps = texts(&lines, Stream::Step);
    assert!(
        steps.iter().any(|s| s.starts_with("[0 5/9] RUN echo")),
        "{steps:?}"
    );
    assert!(steps.iter().any(|s| s.contains("NONE")), "{steps:?}");
    let config = &built.image.config;
    assert_eq!(
        config.env,
        [("GREETING".to_owned(), "hello you".to_owned())]
    );
    assert_eq!(config.workdir.as_deref(), Some("/srv/app"));
    assert_eq!(config.exposed, ["8080/tcp"]);
    assert_eq!(config.labels["made.by"], "test");
    assert_eq!(config.argv(None).unwrap(), ["/bin/cat", "greeting"]);
    let listed = rig
        .sh("test/app", "cd /srv/app && find . | sort | tr '\\n' ' '")
        .await;
    assert_eq!(
        listed,
        ". ./.dockerignore ./Dockerfile ./greeting ./src ./src/main"
    );

    // As it is meant to be run.
    let id = InstanceId::new("run").unwrap();
    let mut instance = InstanceSpec::new(id.clone());
    instance.source = Source::Image("test/app".into());
    instance.main = Some(MainProcess {
        argv: config
            .argv(None)
            .unwrap()
            .into_iter()
            .map(String::into_bytes)
            .collect(),
        env: config.env.iter().cloned().collect(),
        cwd: config.workdir.clone().map(String::into_bytes),
        ..MainProcess::default()
    });
    rig.engine.create(instance).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut log = rig.engine.logs(&id, Default::default()).await.unwrap();
    let mut text = String::new();
    log.content.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hello you from /srv/app\n");
    rig.engine.delete(&id).await.unwrap();

    // The same again: nothing is done.
    let (again, lines) = rig.build(spec()).await;
    let again = again.unwrap();
    assert_eq!((again.steps, again.cached), (3, 3));
    assert_eq!(again.image.digest, built.image.digest);
    assert!(texts(&lines, Stream::Out).is_empty());
    // What is left out does not count; what is copied does.
    std::fs::write(context.join("noise.log"), "y").unwrap();
    assert_eq!(rig.build(spec()).await.0.unwrap().cached, 3);
    std::fs::write(context.join("src/main"), "two").unwrap();
    let changed = rig.build(spec()).await.0.unwrap();
    assert_eq!(changed.cached, 1);
    assert_eq!(rig.sh("test/app", "cat /srv/app/src/main").await, "two");
    let mut fresh = spec();
    fresh.cache = false;
    assert_eq!(rig.build(fresh).await.0.unwrap().cached, 0);
    let mut other = spec();
    other.args.insert("WHO".into(), "them".into());
    let other = rig.build(other).await.0.unwrap();
    assert_eq!(other.cached, 2);

    assert!(rig.builder.clear_cache().await.unwrap() >= 5);
    assert!(rig.engine.list_snapshots().await.unwrap().is_empty());
    assert_eq!(
        rig.sh("test/app", "cat /srv/app/greeting").await,
        "hello them from /srv/app"
    );
    rig.nothing_runs().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stages_lead_to_each_other() {
    let Some(rig) = rig().await else { return };
    let context = rig.context(
        "stages",
        &[("a", "A"), ("etc/conf", "C"), ("bin/tool", "T")],
    );
    let text = "FROM boxrig/base AS tools\nRUN mkdir -p /opt/t/deep && echo made > /opt/t/deep/file && ln -s deep/file /opt/t/link && chmod 700 /opt/t/deep\nENV KEPT=1\n\nFROM tools AS never\nRUN exit 9\n\nFROM tools AS test\nRUN test \"$KEPT\" = 1 && test -e /opt/t/link\n\nFROM scratch\nCOPY --from=tools /opt/t /data\nCOPY --from=0 /opt/t/link /flat/\nCOPY a etc* /two/\nCOPY bin /bin\n";
    let mut spec = BuildSpec::new("test/last");
    spec.context = Some(context.clone());
    spec.text = Some(text.to_owned());
    let (built, lines) = rig.build(spec.clone()).await;
    let built = built.unwrap();
    // Only what leads there is built.
    let steps = texts(&lines, Stream::Step).join("\n");
    assert!(
        !steps.contains("never") && !steps.contains("test 1"),
        "{steps}"
    );
    assert!(built.image.config.env.is_empty());
    let id = InstanceId::new("last").unwrap();
    let mut instance = InstanceSpec::new(id.clone());
    instance.source = Source::Image("test/last".into());
    rig.engine.create(instance).await.unwrap();
    let read = async |path: &str| {
        let mut read = rig.engine.read_file(&id, path.as_bytes(), 0).await.unwrap();
        let mut text = String::new();
        read.content.read_to_string(&mut text).await.unwrap();
        text
    };
    assert_eq!(read("/data/deep/file").await, "made\n");
    assert_eq!(read("/data/link").await, "made\n");
    assert_eq!(read("/flat/link").await, "made\n");
    assert_eq!(read("/two/a").await, "A");
    // A folder's content, not the folder.
    assert_eq!(read("/two/conf").await, "C");
    assert_eq!(read("/bin/tool").await, "T");
    let stat = async |path: &str| rig.engine.stat(&id, path.as_bytes(), false).await.unwrap();
    assert_eq!(stat("/data/deep").await.mode, 0o700);
    assert_eq!(stat("/data/link").await.target.unwrap(), b"deep/file");
    assert!(stat("/flat/link").await.target.is_none());
    rig.engine.delete(&id).await.unwrap();

    spec.target = Some("TEST".into());
    let test = rig.build(spec.clone()).await.0.unwrap();
    assert_eq!(test.image.config.env, [("KEPT".to_owned(), "1".to_owned())]);
    spec.target = Some("never".into());
    let error = rig.build(spec.clone()).await.0.unwrap_err();
    assert_eq!((error.cause, error.line), (Cause::Command, Some(6)));
    spec.target = Some("nothing".into());
    assert_eq!(
        rig.build(spec).await.0.unwrap_err().cause,
        Cause::Dockerfile
    );

    // An image that was built is one to start from, with its settings.
    let (child, _) = rig
        .text(&context, "FROM test/last\nCMD [\"x\"]\nENTRYPOINT [\"e\"]")
        .await;
    assert_eq!(child.unwrap().image.config.argv(None).unwrap(), ["e", "x"]);
    let (grandchild, _) = rig
        .text(&context, "FROM test/image:latest\nENTRYPOINT [\"f\"]")
        .await;
    assert_eq!(grandchild.unwrap().image.config.argv(None).unwrap(), ["f"]);
    rig.nothing_runs().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_modes_and_users() {
    let Some(rig) = rig().await else { return };
    let context = rig.context("owners", &[("d/f", "1"), ("g", "2")]);
    let text = "FROM boxrig/base\nCOPY --chmod=640 g /g\nCOPY <<EOF <<'raw' /docs/\nme: $HOME_OF\nEOF\nliteral: $x\nraw\nENV HOME_OF=/h\nCOPY <<EOF /late\n$HOME_OF ${NONE:-none}\nEOF\nRUN <<EOF\nset -e\nid -u > /who\nEOF\n";
    let (built, _) = rig.text(&context, text).await;
    built.unwrap();
    assert_eq!(
        rig.sh(
            "test/image",
            "stat -c %a /g; cat /docs/EOF /docs/raw /late /who"
        )
        .await,
        "640\nme: \nliteral: $x\n/h none\n0"
    );
    let text = "FROM boxrig/base\nRUN echo app:x:1000:1001::/home/app:/bin/sh >> /etc/passwd && echo web:x:33: >> /etc/group\nCOPY --chown=app:web d /d\nCOPY --chown=7 g /new/g\nUSER app\nRUN id -u > /tmp/who; id -g >> /tmp/who; echo $HOME >> /tmp/who\nCMD id\n";
    let (built, _) = rig.text(&context, text).await;
    if !is_root() {
        // One id is mapped, and nobody else can own anything.
        let error = built.unwrap_err();
        assert_eq!(error.line, Some(3), "{error}");
        return;
    }
    let config = built.unwrap().image.config;
    assert_eq!((config.uid, config.gid), (Some(1000), Some(1001)));
    assert_eq!(config.user.as_deref(), Some("app"));
    assert_eq!(config.cmd.unwrap(), ["/bin/sh", "-c", "id"]);
    let owners = rig
        .sh(
            "test/image",
            "stat -c '%u %g' /d /d/f /new /new/g; cat /tmp/who",
        )
        .await;
    assert_eq!(owners, "1000 33\n1000 33\n7 7\n7 7\n1000\n1001\n/home/app");
    let (built, _) = rig.text(&context, "FROM test/image\nRUN id -u").await;
    built.unwrap();
    let (built, _) = rig
        .text(&context, "FROM boxrig/base\nUSER nobody-here")
        .await;
    assert_eq!(built.unwrap_err().line, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_are_unpacked_and_replaced_files_replaced() {
    let Some(rig) = rig().await else { return };
    let context = rig.context("archives", &[("in/x/file", "1"), ("plain", "2")]);
    for flag in ["-cf", "-czf"] {
        let name = if flag == "-cf" { "a.tar" } else { "a.tgz" };
        let made = std::process::Command::new("tar")
            .arg("-C")
            .arg(context.join("in"))
            .arg(flag)
            .arg(context.join(name))
            .arg("x")
            .status();
        assert!(made.unwrap().success());
    }
    std::fs::write(context.join("a.xz"), b"\xfd7zXZ\0...").unwrap();
    let text = "FROM boxrig/base\nADD a.tar a.tgz plain /out/\nCOPY a.tar /kept\nRUN ln -s /etc/passwd /out/link && mkdir /real && ln -s real /alias && mkdir /out/dir\nCOPY plain /out/link\nCOPY in /alias\n";
    let (built, _) = rig.text(&context, text).await;
    built.unwrap();
    let seen = rig
        .sh("test/image", "cat /out/x/file /out/plain /out/link /real/x/file; test ! -L /out/link && grep -c root /etc/passwd; head -c1 /kept | wc -c")
        .await;
    assert_eq!(seen, "1221\n1\n1".replace("1221\n", "1221"));
    let cases = [
        ("FROM boxrig/base\nADD a.xz /x/", "xz"),
        (
            "FROM boxrig/base\nRUN mkdir /d\nCOPY plain /d/x\nCOPY in/x /d/x",
            "no folder",
        ),
        (
            "FROM boxrig/base\nRUN mkdir -p /d/plain\nCOPY plain /d/",
            "is a folder",
        ),
        ("FROM boxrig/base\nCOPY plain in/x /d", "several sources"),
        ("FROM boxrig/base\nCOPY plain /usr/bin/x", "read-only"),
    ];
    for (text, words) in cases {
        let error = rig.text(&context, text).await.0.unwrap_err();
        assert_eq!(error.line, Some(text.lines().count() as u32), "{error}");
        assert!(error.message.contains(words), "{text}: {error}");
    }
    rig.nothing_runs().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_say_where_and_leave_nothing() {
    let Some(rig) = rig().await else { return };
    let context = rig.context("bad", &[("file", "x")]);
    std::os::unix::fs::symlink("/etc/passwd", context.join("out")).unwrap();
    std::os::unix::fs::symlink("../../../../etc", context.join("up")).unwrap();
    let cases = [
        ("FROM ubuntu:22.04", Cause::Image, "local store"),
        (
            "FROM boxrig/base\nRUN echo said; exit 3",
            Cause::Command,
            "exit code 3",
        ),
        (
            "FROM boxrig/base\nRUN kill -9 $$",
            Cause::Command,
            "signal 9",
        ),
        (
            "FROM boxrig/base\nRUN [\"/no/such\"]",
            Cause::Command,
            "not found",
        ),
        ("FROM scratch\nRUN x", Cause::Command, "not found"),
        (
            "FROM boxrig/base\nCOPY missing /x",
            Cause::Context,
            "not there",
        ),
        (
            "FROM boxrig/base\nCOPY ../bad/file /x",
            Cause::Context,
            "outside",
        ),
        ("FROM boxrig/base\nCOPY out /x", Cause::Context, "not there"),
        (
            "FROM boxrig/base\nCOPY up/passwd /x",
            Cause::Context,
            "not there",
        ),
        (
            "FROM boxrig/base\nCOPY no*thing /x",
            Cause::Context,
            "matches",
        ),
        (
            "FROM boxrig/base AS a\nCOPY --from=later /x /x\nFROM boxrig/base AS later\nFROM a",
            Cause::Dockerfile,
            "later",
        ),
        (
            "FROM boxrig/base\nCOPY --from=unknown /x /x",
            Cause::Image,
            "unknown",
        ),
        (
            "FROM boxrig/base\nCOPY --from=boxrig/base /no/such /x",
            Cause::Context,
            "not there",
        ),
        (
            "FROM --platform=linux/s390x boxrig/base",
            Cause::Dockerfile,
            "s390x",
        ),
        (
            "FROM boxrig/base\nENV A=\"${B:?is needed}\"",
            Cause::Dockerfile,
            "is needed",
        ),
        ("FROM boxrig/base\nEXPOSE none", Cause::Dockerfile, "EXPOSE"),
    ];
    for (text, cause, words) in cases {
        let (built, _) = rig.text(&context, text).await;
        let error = built.expect_err(text);
        assert_eq!(error.cause, cause, "{text}: {error}");
        assert!(error.message.contains(words), "{text}: {error}");
        assert!(error.line.is_some(), "{text}: {error}");
    }
    let (built, _) = rig.text(&context, "FROM boxrig/base\nCOPY out /x").await;
    assert_eq!(
        built.unwrap_err().to_string(),
        "Dockerfile:2: \"out\" is not there"
    );
    let spec = BuildSpec::new("test/none");
    assert_eq!(rig.build(spec).await.0.unwrap_err().cause, Cause::Context);
    let mut spec = BuildSpec::new("boxrig/mine");
    spec.text = Some("FROM boxrig/base".into());
    assert!(
        rig.build(spec)
            .await
            .0
            .unwrap_err()
            .message
            .contains("built in")
    );
    rig.nothing_runs().await;
    // The host's own link of the same name shows nothing either.
    assert!(rig.engine.get_image("test/image").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_build_ends() {
    let Some(rig) = rig().await else { return };
    let mut spec = BuildSpec::new("test/slow");
    spec.text = Some("FROM boxrig/base\nRUN echo started; sleep 600".into());
    let (log, mut lines) = mpsc::channel(4);
    let builder = rig.builder.clone();
    let build = tokio::spawn(async move { builder.build(spec, log).await });
    while let Some(line) = lines.recv().await {
        if line.text == "started" {
            break;
        }
    }
    assert_eq!(rig.engine.list().await.unwrap().len(), 1);
    build.abort();
    rig.nothing_runs().await;

    // A background process does not keep a step, and long output comes whole.
    let text = "FROM boxrig/base\nRUN sleep 600 & seq 1 20000\nRUN test -z \"$(pgrep sleep)\"";
    let context = rig.context("none", &[]);
    std::fs::create_dir_all(&context).unwrap();
    let started = std::time::Instant::now();
    let (built, lines) = rig.text(&context, text).await;
    built.unwrap();
    assert_eq!(texts(&lines, Stream::Out).len(), 20_000);
    assert!(started.elapsed() < Duration::from_secs(30));

    // What a killed server left is swept.
    let mut spec = InstanceSpec::new(InstanceId::new("build-left").unwrap());
    spec.labels.insert("platform".into(), "build".into());
    rig.engine.create(spec).await.unwrap();
    assert_eq!(rig.builder.sweep().await.unwrap(), 1);
    rig.nothing_runs().await;
}

#[tokio::test]
async fn engines_without_layers_refuse() {
    let dir = tempfile::tempdir().unwrap();
    for selection in [Selection::Process, Selection::Memory] {
        let folder = dir.path().join(format!("{selection:?}"));
        let engine = boxrig_engine::open(selection, &folder, Options::default())
            .await
            .unwrap();
        let builder = Builder::new(engine);
        let mut spec = BuildSpec::new("a");
        spec.text = Some("FROM scratch".into());
        let error = builder.build(spec, mpsc::channel(1).0).await.unwrap_err();
        assert_eq!(error.cause, Cause::Unsupported);
        assert!(error.message.contains("sandbox"), "{error}");
    }
}

/// Root runs everything once more as an ordinary user.
#[test]
fn everything_again_as_an_ordinary_user() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    const USER: u32 = 1000;
    if !is_root() {
        return; // This is that run.
    }
    let dir = tempfile::Builder::new()
        .prefix("boxrig-user-")
        .tempdir()
        .unwrap();
    std::os::unix::fs::chown(dir.path(), Some(USER), Some(USER)).unwrap();
    // The build folder may not be readable for everybody.
    let copy = dir.path().join("tests");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = std::process::Command::new(&copy)
        .args(["--nocapture", "--test-threads=2"])
        .uid(USER)
        .gid(USER)
        .current_dir(dir.path())
        .env("TMPDIR", dir.path())
        .env("HOME", dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}
