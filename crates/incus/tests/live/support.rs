//! A client that records what it does, and the official one that is asked whether it is so.

use std::io::Write;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use boxrig_incus::{Client, ClientBuilder, Identity, NewInstance};
use boxrig_wire::{BoxFuture, Outgoing, Result, Transport, WireBody};
use http::Response;
use serde_json::Value;

/// Projects come and go under a read guard. The daemon looks for the users of an access control list in all projects, and
/// says that there is no such project when one goes just then: the test of the lists has the write guard.
pub(crate) static PROJECTS: tokio::sync::RwLock<()> = tokio::sync::RwLock::const_new(());

/// One test's view of the daemon.
pub(crate) struct Live {
    pub(crate) client: Client,
    test: &'static str,
    way: &'static str,
    serial: AtomicU32,
}

/// Where operations are recorded.
#[derive(Clone, Debug)]
struct Recorder {
    test: &'static str,
    way: &'static str,
}

impl Recorder {
    fn put(&self, operation: &str, what: &str) {
        let Ok(file) = std::env::var("BOXRIG_RECORD") else {
            return;
        };
        let line = format!(
            "incus\t{operation}\t{what}\tcrates/incus/tests/live/{}\t{}\n",
            self.test, self.way
        );
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(file)
            .unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }
}

#[derive(Debug)]
struct Recording {
    inner: Arc<dyn Transport>,
    recorder: Recorder,
}

impl Transport for Recording {
    fn send(&self, out: Outgoing) -> BoxFuture<'_, Result<Response<WireBody>>> {
        Box::pin(async move {
            let operation = out.operation;
            let response = self.inner.send(out).await?;
            // An error may come within a 200.
            let error = response.body().as_bytes().is_some_and(|b| {
                serde_json::from_slice::<Value>(b).is_ok_and(|v| v["type"] == "error")
            });
            let fine = (response.status().is_success()
                || response.status() == http::StatusCode::SWITCHING_PROTOCOLS)
                && !error;
            self.recorder
                .put(operation, if fine { "ok" } else { "refused" });
            Ok(response)
        })
    }
}

fn var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

/// The settings of a client of the daemon under test, and by which way it goes.
pub(crate) fn builder() -> Option<(ClientBuilder, &'static str)> {
    if let Some(socket) = var("BOXRIG_INCUS_SOCKET") {
        let address = boxrig_incus::Address::Unix(socket.into());
        return Some((ClientBuilder::new(address), "unix"));
    }
    if let Some(url) = var("BOXRIG_INCUS_HTTPS") {
        let file = |name: &str| std::fs::read(var(name).expect(name)).unwrap();
        let identity = Identity::from_pem(file("BOXRIG_INCUS_CERT"), file("BOXRIG_INCUS_KEY"));
        let builder = Client::https(&url)
            .unwrap()
            .pin_certificate(&file("BOXRIG_INCUS_SERVER_CERT"))
            .identity(&identity.unwrap());
        return Some((builder, "https"));
    }
    let required = var("BOXRIG_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|r| r == "incus"),
        "BOXRIG_REQUIRE=incus, but no daemon is named"
    );
    println!("skipped: no Incus daemon is named (BOXRIG_INCUS_SOCKET or BOXRIG_INCUS_HTTPS)");
    None
}

impl Live {
    /// `test` is `FILE.rs::FUNCTION`. `None`: there is no daemon, the test is skipped.
    pub(crate) async fn start(test: &'static str) -> Option<Self> {
        let (settings, way) = builder()?;
        let (again, _) = builder()?;
        let recorder = Recorder { test, way };
        let inner: Arc<dyn Transport> = Arc::new(settings.build_transport().unwrap());
        let transport = Arc::new(Recording { inner, recorder });
        let client = again.transport(transport).build().unwrap();
        Some(Self {
            client,
            test,
            way,
            serial: AtomicU32::new(0),
        })
    }

    /// A name that nothing else has.
    pub(crate) fn name(&self, what: &str) -> String {
        let n = self.serial.fetch_add(1, Ordering::Relaxed);
        let nanos = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .subsec_nanos();
        format!("cl-{what}-{}-{:x}{n}", std::process::id(), nanos / 1000)
    }

    /// The official client saw that these operations have done what they say.
    pub(crate) fn confirmed(&self, operations: &[&str]) {
        let way = if var("BOXRIG_INCUS_SOCKET").is_some() {
            "unix"
        } else {
            "https"
        };
        let recorder = Recorder {
            test: self.test,
            way,
        };
        for operation in operations {
            assert!(
                boxrig_incus::CATALOG.iter().any(|m| m.id == *operation),
                "{operation} is no operation"
            );
            recorder.put(operation, "confirmed");
        }
    }

    /// A running busybox container without a network.
    pub(crate) async fn running(&self, what: &str) -> Guest<'_> {
        self.guest(what, true).await
    }
    /// A stopped one.
    pub(crate) async fn stopped(&self, what: &str) -> Guest<'_> {
        self.guest(what, false).await
    }

    async fn guest(&self, what: &str, start: bool) -> Guest<'_> {
        let name = self.name(what);
        let mut new = NewInstance::from_image(&name, "busybox").device("eth0", [("type", "none")]);
        if start {
            new = new.start();
        }
        let made = self.client.instances().create(new).await.unwrap();
        made.wait().await.unwrap();
        Guest { live: self, name }
    }
}

/// An instance that goes with the test.
pub(crate) struct Guest<'a> {
    live: &'a Live,
    pub(crate) name: String,
}

impl Guest<'_> {
    pub(crate) async fn remove(self) {
        let deleted = self
            .live
            .client
            .instances()
            .delete_running(&self.name)
            .await;
        deleted.unwrap().wait().await.unwrap();
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        // A test that failed leaves nothing behind; one that went well has removed it already.
        if std::thread::panicking() {
            let _ = std::process::Command::new("incus")
                .args(["delete", "--force", &self.name])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                // Not waited for: it may wait for a connection that this thread holds.
                .spawn();
        }
    }
}

/// Runs the official client; its standard output, or what it said when it failed.
pub(crate) async fn incus_try(args: &[&str]) -> Result<String, String> {
    let mut command = tokio::process::Command::new("incus");
    if let Some(socket) = var("BOXRIG_INCUS_OFFICIAL_SOCKET").or_else(|| var("BOXRIG_INCUS_SOCKET"))
    {
        command.env("INCUS_SOCKET", socket);
    }
    let out = command
        .args(args)
        .stdin(Stdio::null())
        .output()
        .await
        .expect("the official client `incus` is there");
    match out.status.success() {
        true => Ok(String::from_utf8_lossy(&out.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&out.stderr).into_owned()),
    }
}

/// Runs the official client.
pub(crate) async fn incus(args: &[&str]) -> String {
    incus_try(args)
        .await
        .unwrap_or_else(|e| panic!("incus {args:?}: {e}"))
}

/// What a command in a guest says by the official client, which answers pings on the sockets of the output and so loses what short
/// commands say now and then: asked again until it says something. For commands that may be repeated.
pub(crate) async fn said(args: &[&str]) -> String {
    for _ in 0..20 {
        let said = incus(args).await;
        if !said.is_empty() {
            return said;
        }
    }
    String::new()
}

/// What the official client gets from a path of the API.
pub(crate) async fn query(path: &str) -> Value {
    serde_json::from_str(&incus(&["query", path]).await).unwrap_or(Value::Null)
}

/// Whether the official client finds nothing there.
pub(crate) async fn gone(path: &str) -> bool {
    incus_try(&["query", path])
        .await
        .is_err_and(|e| e.to_lowercase().contains("not found"))
}

/// A daemon of a test's own: it can be killed. Ended with the test.
pub(crate) struct Daemon {
    folder: tempfile::TempDir,
    child: std::process::Child,
    /// Where it may listen for HTTPS.
    pub(crate) https: String,
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

impl Daemon {
    /// Starts one, empty; `None` where there is no program for it, or on the second way round: what such a daemon is for
    /// (its death, its cluster) goes over its own socket either time.
    pub(crate) async fn start(live: &Live) -> Option<Self> {
        match live.way {
            "unix" => Self::start_always().await,
            _ => None,
        }
    }

    /// [`start`](Self::start), whichever way the test goes.
    pub(crate) async fn start_always() -> Option<Self> {
        let places = [
            "/usr/libexec/incus/incusd",
            "/usr/lib/incus/incusd",
            "/opt/incus/bin/incusd",
        ];
        let program = places.iter().find(|p| std::path::Path::new(p).exists());
        let Some(program) = program else {
            let required = var("BOXRIG_REQUIRE").unwrap_or_default();
            assert!(
                !required.contains("incus"),
                "there is no incusd to start one of our own"
            );
            println!("skipped: there is no incusd to start one of our own");
            return None;
        };
        let folder = tempfile::Builder::new()
            .prefix("cl-incus-")
            .tempdir()
            .unwrap();
        let child = spawn(program, folder.path());
        let daemon = Self {
            folder,
            child,
            https: format!("127.0.0.1:{}", free_port()),
        };
        daemon.ready().await;
        Some(daemon)
    }

    fn socket(&self) -> std::path::PathBuf {
        self.folder.path().join("unix.socket")
    }

    /// Where it keeps what it has.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Lets it listen for HTTPS.
    pub(crate) async fn listen(&self) {
        let client = self.client();
        let address = [("core.https_address", &*self.https)];
        client.server().set(address).await.unwrap();
    }

    /// Runs the official client on it.
    pub(crate) async fn incus(&self, args: &[&str]) -> String {
        let mut command = tokio::process::Command::new("incus");
        command.env("INCUS_SOCKET", self.socket()).args(args);
        let out = command.stdin(Stdio::null()).output().await.unwrap();
        let words = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "incus {args:?}: {words}");
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    async fn ready(&self) {
        let begun = std::time::Instant::now();
        loop {
            let client = Client::unix(self.socket()).unwrap();
            if client.info().await.is_ok_and(|i| i.auth == "trusted")
                && client.instances().list().await.is_ok()
            {
                return;
            }
            assert!(
                begun.elapsed().as_secs() < 90,
                "the daemon does not come up"
            );
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::unix(self.socket()).unwrap()
    }

    /// A client of it that records for this test.
    pub(crate) fn client_of(&self, live: &Live) -> Client {
        let settings = || ClientBuilder::new(boxrig_incus::Address::Unix(self.socket()));
        let inner: Arc<dyn Transport> = Arc::new(settings().build_transport().unwrap());
        let recorder = Recorder {
            test: live.test,
            way: live.way,
        };
        settings()
            .transport(Arc::new(Recording { inner, recorder }))
            .build()
            .unwrap()
    }

    /// Gives it a pool, and the default profile a disk in it.
    pub(crate) async fn with_pool(&self) {
        let client = self.client();
        let pool = model(serde_json::json!({"name": "default", "driver": "dir"}));
        client.storage_pools().create(pool).await.unwrap();
        let root = serde_json::json!({"root": {"type": "disk", "path": "/", "pool": "default"}});
        let merge = boxrig_incus::Merge::new().set("devices", root);
        client
            .profiles()
            .patch("default", merge, None)
            .await
            .unwrap();
    }

    /// Gives it a pool and the image `busybox` of the daemon under test.
    pub(crate) async fn with_image(&self, live: &Live) {
        self.with_pool().await;
        let images = live.client.images();
        let busybox = images.by_alias("busybox").await.unwrap();
        let files = images
            .export_to(&busybox.fingerprint, self.folder.path())
            .await
            .unwrap();
        let client = self.client();
        let about = boxrig_incus::ImageUpload::new().alias("busybox");
        let body = |path: &std::path::Path| WireBody::full(std::fs::read(path).unwrap());
        let operation = match &files.rootfs {
            None => client.images().upload(body(&files.metadata), &about).await,
            Some(rootfs) => {
                let rootfs = boxrig_incus::Rootfs::Container(body(rootfs));
                client
                    .images()
                    .upload_split(body(&files.metadata), rootfs, &about)
                    .await
            }
        };
        operation.unwrap().wait().await.unwrap();
    }

    /// What the official client gets from it.
    pub(crate) async fn query(&self, path: &str) -> Value {
        let out = tokio::process::Command::new("incus")
            .env("INCUS_SOCKET", self.socket())
            .args(["query", path])
            .output()
            .await
            .unwrap();
        serde_json::from_slice(&out.stdout).unwrap_or(Value::Null)
    }

    /// At once, without a word.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) async fn restart(&mut self) {
        let places = [
            "/usr/libexec/incus/incusd",
            "/usr/lib/incus/incusd",
            "/opt/incus/bin/incusd",
        ];
        let program = places
            .iter()
            .find(|p| std::path::Path::new(p).exists())
            .unwrap();
        self.child = spawn(program, self.folder.path());
        self.ready().await;
    }
}

fn spawn(program: &str, folder: &std::path::Path) -> std::process::Child {
    // A test that is killed takes its daemon with it.
    std::process::Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", program, "--group", "root"])
        .env("INCUS_DIR", folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What runs in it would outlive it.
            let _ = std::process::Command::new("timeout")
                .args(["20", "incus", "stop", "--all", "--force"])
                .env("INCUS_SOCKET", self.socket())
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .status();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        // What it has mounted in its folder would keep the folder.
        for name in ["devices", "shmounts", "guestapi"] {
            let _ = std::process::Command::new("umount")
                .args(["-l"])
                .arg(self.folder.path().join(name))
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// A model from JSON: they can grow, so they are not written out member by member.
pub(crate) fn model<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// Begins a test, or skips it.
macro_rules! live {
    ($test:literal) => {
        match $crate::support::Live::start($test).await {
            Some(live) => live,
            None => return,
        }
    };
}
pub(crate) use live;
