//! Starting and ending a server.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use boxrig_engine::{Clock, RealClock, VirtualClock};
use boxrig_wire::Kind;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::auth::Credentials;
use crate::beside::Beside;
use crate::config::ServerConfig;
use crate::control::{Control, Facts, Info, ms};
use crate::convox::Rack;
use crate::core::{Core, Platform};
use crate::env::{Env, EnvFormat};
use crate::fastvm::Fastvm;
use crate::faults::{self, Faults};
use crate::files;
use crate::front::{AllowedHosts, Front};
use crate::ids::Ids;
use crate::listen::{self, Connections, Service, Stop, serve_tcp};
use crate::record::Recorder;
use crate::router::Around;
use crate::services::Services;
use crate::state::Store;
use crate::tls::{Authority, Names, Tls};
use crate::vergeos::Vergeos;

/// The version of the control API. A command line tool of another version starts a server of its own.
pub const API_VERSION: u32 = 1;

/// How long requests may go on after the server was told to end. With what comes after it, the end is within 5 s.
const FINISH: Duration = Duration::from_secs(3);
/// How long what was told to end may take to let go of the engine.
const LET_GO: Duration = Duration::from_millis(500);
/// The bundle of roots is written anew when it is older: the system's roots change with its updates.
const BUNDLE_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Acknowledges changes of the state without saving them; see [`crate::faults`].
const NO_COMMIT_ENV: &str = "BOXRIG_FAULT_NO_COMMIT";

/// Why a server does not start: the meaning and the words.
#[derive(Debug)]
pub struct StartError {
    /// The meaning: `Conflict` when another server has the data directory, `Unsupported` when instances cannot run
    /// here, `Invalid` for a setting.
    pub kind: Kind,
    message: String,
}

impl StartError {
    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StartError {}

impl From<io::Error> for StartError {
    fn from(e: io::Error) -> Self {
        let kind = match e.kind() {
            io::ErrorKind::PermissionDenied => Kind::Denied,
            io::ErrorKind::InvalidInput => Kind::Invalid,
            io::ErrorKind::AddrInUse => Kind::Conflict,
            _ => Kind::Failed,
        };
        Self::new(kind, e.to_string())
    }
}

impl From<crate::state::StateError> for StartError {
    fn from(e: crate::state::StateError) -> Self {
        Self::new(Kind::Failed, e.to_string())
    }
}

/// Starts servers.
#[derive(Clone, Copy, Debug)]
pub struct Server;

impl Server {
    /// Starts a server on the current tokio runtime. When it answers, requests are served and the env file is written.
    ///
    /// # Errors
    ///
    /// [`StartError`], and nothing is left running.
    pub async fn start(config: ServerConfig) -> Result<Running, StartError> {
        let started_at = SystemTime::now();
        check(&config)?;
        files::private_dir(&config.data)?;
        let data = std::fs::canonicalize(&config.data)?;
        let lock = lock(&data)?;
        if let Some(path) = &config.env_file {
            // One of an earlier server would say that this one is ready.
            match std::fs::remove_file(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
                _ => {}
            }
        }
        let commit = std::env::var_os(NO_COMMIT_ENV).is_none_or(|v| v.is_empty() || v == "0");
        if !commit {
            tracing::warn!("{NO_COMMIT_ENV} is set: changes are acknowledged and not saved");
        }
        let store = Store::open(&data.join("state.redb"), commit)?;
        let names = Names {
            public: config.public_url.iter().map(host_of).collect(),
        };
        let credentials = Credentials::open(&data.join("credentials"))?;
        let (authority, bundle) = authority(&data.join("tls"), &names).await?;
        let tls = Tls::new(&authority)?;

        let virtual_clock = config
            .virtual_clock
            .then(|| VirtualClock::new(SystemTime::now()));
        let clock: Arc<dyn Clock> = match &virtual_clock {
            Some(clock) => Arc::new(clock.clone()),
            None => Arc::new(RealClock),
        };
        let engine = open_engine(&config, &data, clock.clone()).await?;

        let faults = Arc::new(Faults::default());
        faults.set(config.faults.clone());
        let mut around: Vec<Arc<dyn Around>> = vec![faults.clone()];
        if let Some(recorder) = Recorder::from_env()? {
            around.push(Arc::new(recorder));
        }
        let core = Arc::new(Core {
            store,
            builder: boxrig_build::Builder::new(engine.clone()),
            services: Services::new(engine.clone()),
            engine,
            clock,
            virtual_clock,
            ids: config.seed_ids.map_or_else(Ids::random, Ids::seeded),
            credentials,
            faults,
            around,
            vergeos_rate: config.vergeos_rate,
            data,
            origin: OnceLock::new(),
            beside: OnceLock::new(),
        });
        if let Err(e) = core.builder.sweep().await {
            tracing::warn!(error = %e, "what builds left behind stays for now");
        }
        let control = Arc::new(Control::new(core.clone()));
        let fastvm = Fastvm::open(core.clone(), config.quotas).await;
        let fastvm = Arc::new(fastvm.map_err(|e| StartError::new(e.kind, e.message))?);
        let rack = Rack::open(core.clone()).await;
        let rack = Arc::new(rack.map_err(|e| StartError::new(e.kind, e.message))?);
        let hosts = AllowedHosts::new(config.allow_hosts.iter().cloned().chain(names.public));
        let vergeos = Vergeos::open(core.clone(), config.lab.clone()).await;
        let vergeos = Arc::new(vergeos.map_err(|e| StartError::new(e.kind, e.message))?);
        let front = Front::new(hosts.clone(), control.clone(), fastvm)
            .convox(rack)
            .vergeos(vergeos)
            .services(core.services.clone());
        let platforms: Vec<_> = front.platforms().cloned().collect();

        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|e| io::Error::new(e.kind(), format!("listen on {}: {e}", config.listen)))?;
        let addr = listener.local_addr()?;
        let urls = Urls::new(&config, addr);
        let _ = core.origin.set(urls.public.clone());
        let env = environment(&config, &core, &urls, &authority, &bundle);
        let info = Info {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            api: API_VERSION,
            pid: std::process::id(),
            data: core.data.display().to_string(),
            engine: core.engine.name().to_owned(),
            isolation: serde_json::to_value(core.engine.capabilities().isolation)
                .ok()
                .and_then(|v| v.as_str().map(str::to_owned))
                .unwrap_or_default(),
            capabilities: serde_json::to_value(core.engine.capabilities()).unwrap_or_default(),
            url: urls.http.clone(),
            tls_url: urls.https.clone(),
            socket: config.socket_path().display().to_string(),
            started_at_ms: ms(started_at),
            instances: 0,
            idle_exit_sec: config.idle_exit.map(|d| d.as_secs()),
        };
        control.complete(
            Facts {
                info,
                env: env.clone(),
            },
            platforms.clone(),
        );

        let activity = Arc::new(Activity::default());
        let service = service(Arc::new(front), activity.clone());
        let stop = Stop::default();
        let connections = Connections::as_allowed(config.patience);
        let mut tasks = JoinSet::new();
        let mut sockets = Vec::new();
        #[cfg(unix)]
        {
            let paths = [Some(config.socket_path()), config.incus_socket.clone()];
            for path in paths.into_iter().flatten() {
                let socket = listen::bind_unix(&path)?;
                tasks.spawn(listen::serve_unix(
                    socket,
                    service.clone(),
                    connections.clone(),
                    stop.clone(),
                ));
                sockets.push(path);
            }
        }
        let counted = activity.clone();
        let _ = core.beside.set(Beside {
            addr,
            hosts,
            tls: tls.clone(),
            connections: connections.clone(),
            stop: stop.clone(),
            service: Arc::new(move |front| self::service(Arc::new(front), counted.clone())),
        });
        tasks.spawn(serve_tcp(
            listener,
            Some(tls),
            service,
            connections.clone(),
            stop.clone(),
        ));
        tasks.spawn(renew(authority, stop.clone()));
        for platform in &platforms {
            platform.ready().await;
        }
        faults::arm().map_err(|e| StartError::new(Kind::Invalid, e))?;
        if let Some(path) = &config.env_file {
            let text = env.render(EnvFormat::Dotenv);
            files::write_private(path, |f| f.write_all(text.as_bytes()))?;
        }
        Ok(Running {
            addr,
            urls,
            env,
            core,
            control,
            platforms,
            activity,
            idle_exit: config.idle_exit,
            stop,
            connections,
            tasks,
            sockets,
            lock: Some(lock),
        })
    }
}

fn check(config: &ServerConfig) -> Result<(), StartError> {
    let loopback = config.listen.ip().is_loopback();
    if !loopback && config.allow_hosts.is_empty() && config.public_url.is_none() {
        return Err(StartError::new(
            Kind::Invalid,
            format!(
                "{} is reachable by others; say under which name with --allow-host or --public-url",
                config.listen
            ),
        ));
    }
    Ok(())
}

/// Holds the data directory; the kernel lets go of it however the process ends.
fn lock(data: &Path) -> Result<File, StartError> {
    let path = data.join("server.lock");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let mut file = options.open(&path)?;
    // A child that the last owner was starting holds it too, from `fork` until `exec`: a moment's patience.
    let mut taken = file.try_lock();
    for _ in 0..25 {
        if !matches!(taken, Err(TryLockError::WouldBlock)) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        taken = file.try_lock();
    }
    match taken {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let owner = std::fs::read_to_string(&path).unwrap_or_default();
            return Err(StartError::new(
                Kind::Conflict,
                format!(
                    "another server (process {}) uses {}",
                    owner.trim(),
                    data.display()
                ),
            ));
        }
        Err(TryLockError::Error(e)) => return Err(e.into()),
    }
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

async fn authority(dir: &Path, names: &Names) -> Result<(Authority, PathBuf), StartError> {
    let (dir, names) = (dir.to_owned(), names.clone());
    let made = tokio::task::spawn_blocking(move || {
        let authority = Authority::open(&dir, &names, SystemTime::now())?;
        let bundle = authority.bundle(BUNDLE_LIFE)?;
        Ok::<_, io::Error>((authority, bundle))
    });
    Ok(made.await.map_err(io::Error::other)??)
}

async fn open_engine(
    config: &ServerConfig,
    data: &Path,
    clock: Arc<dyn Clock>,
) -> Result<Arc<dyn boxrig_engine::Engine>, StartError> {
    let mut options = boxrig_engine::Options::default();
    options.probe = config.probe;
    options.clock = clock;
    boxrig_engine::open(config.engine, &data.join("engine"), options)
        .await
        .map_err(|e| {
            let kind = match e.kind() {
                boxrig_engine::Kind::NotPermittedHere | boxrig_engine::Kind::Unsupported => {
                    Kind::Unsupported
                }
                boxrig_engine::Kind::InvalidState => Kind::Conflict,
                _ => Kind::Failed,
            };
            StartError::new(kind, e.to_string())
        })
}

/// The addresses of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Urls {
    /// `http://HOST:PORT`, loopback when it listens on all addresses.
    pub http: String,
    /// `https://HOST:PORT`.
    pub https: String,
    /// What is told to clients and instances: `--public-url`, else `http`.
    pub public: String,
    authority: String,
}

impl Urls {
    fn new(config: &ServerConfig, addr: SocketAddr) -> Self {
        let mut near = addr;
        if addr.ip().is_unspecified() {
            near.set_ip(match addr {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        let http = format!("http://{near}");
        Self {
            https: format!("https://{near}"),
            public: config
                .public_url
                .as_ref()
                .map_or_else(|| http.clone(), |url| url.origin().to_owned()),
            http,
            authority: near.to_string(),
        }
    }
}

fn host_of(url: &boxrig_wire::BaseUrl) -> String {
    let origin = url.origin();
    let authority = origin.split_once("://").map_or(origin, |(_, a)| a);
    let uri: Option<http::uri::Authority> = authority.parse().ok();
    let host = uri.as_ref().map_or(authority, |a| a.host());
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned()
}

fn environment(
    config: &ServerConfig,
    core: &Core,
    urls: &Urls,
    authority: &Authority,
    bundle: &Path,
) -> Env {
    let text = |path: &Path| path.display().to_string();
    let password = core.credentials.password.expose();
    let socket = config
        .incus_socket
        .clone()
        .unwrap_or_else(|| config.socket_path());
    let mut env = Env::default();
    env.push("BOXRIG_URL", urls.public.as_str());
    env.push("BOXRIG_CA_FILE", text(&authority.ca_file()));
    env.push("SSL_CERT_FILE", text(bundle));
    env.push("REQUESTS_CA_BUNDLE", text(bundle));
    env.push("VERGE_HOST", urls.authority.as_str());
    env.push("VERGE_USERNAME", "admin");
    env.push("VERGE_PASSWORD", password);
    env.push("VERGE_VERIFY_SSL", "true");
    env.push("FASTVM_BASE_URL", urls.http.as_str());
    env.push("FASTVM_API_KEY", core.credentials.api_key.expose());
    env.push("CONVOX_HOST", urls.http.as_str());
    env.push("CONVOX_PASSWORD", password);
    env.push("CONVOX_RACK", "local/boxrig");
    env.push(
        "RACK_URL",
        format!("http://convox:{password}@{}", urls.authority),
    );
    env.push("INCUS_SOCKET", text(&socket));
    env.push("INCUS_ENDPOINT", format!("unix://{}", text(&socket)));
    env
}

/// When the last request was, and how many are under way.
#[derive(Debug)]
struct Activity {
    start: Instant,
    last_ms: AtomicU64,
    under_way: AtomicUsize,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            last_ms: AtomicU64::new(0),
            under_way: AtomicUsize::new(0),
        }
    }
}

impl Activity {
    fn touch(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now, Ordering::Relaxed);
    }
    fn idle_for(&self) -> Duration {
        if self.under_way.load(Ordering::Relaxed) > 0 {
            return Duration::ZERO;
        }
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        self.start.elapsed().saturating_sub(last)
    }
}

/// A request under way.
struct UnderWay(Arc<Activity>);

impl UnderWay {
    fn new(activity: &Arc<Activity>) -> Self {
        activity.under_way.fetch_add(1, Ordering::Relaxed);
        activity.touch();
        Self(activity.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.touch();
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

fn service(front: Arc<Front>, activity: Arc<Activity>) -> Service {
    listen::service(move |info, request| {
        let (front, under_way) = (front.clone(), UnderWay::new(&activity));
        async move {
            let _under_way = under_way;
            front.answer(info, request).await
        }
    })
}

/// Keeps the certificate from ending while the server runs.
async fn renew(mut authority: Authority, stop: Stop) {
    loop {
        let due = authority.renew_in(SystemTime::now());
        let wait = due.clamp(Duration::from_secs(3600), Duration::from_secs(24 * 3600));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.finishing() => return,
        }
        if authority.renew_in(SystemTime::now()).is_zero()
            && let Err(e) = authority.renew(SystemTime::now())
        {
            tracing::error!(error = %e, "the certificate could not be renewed");
        }
    }
}

/// A server that runs. Dropping it ends it abruptly (state stays whole); [`Running::shutdown`] ends it in order.
pub struct Running {
    addr: SocketAddr,
    urls: Urls,
    env: Env,
    core: Arc<Core>,
    control: Arc<Control>,
    platforms: Vec<Arc<dyn Platform>>,
    activity: Arc<Activity>,
    idle_exit: Option<Duration>,
    stop: Stop,
    connections: Connections,
    tasks: JoinSet<()>,
    sockets: Vec<PathBuf>,
    lock: Option<File>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running")
            .field("addr", &self.addr)
            .finish_non_exhaustive()
    }
}

impl Running {
    /// The TCP address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
    /// The addresses as URLs.
    pub fn urls(&self) -> &Urls {
        &self.urls
    }
    /// The environment that lets vendors' programs find it.
    pub fn env(&self) -> &Env {
        &self.env
    }
    /// What its protocols share.
    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Waits until the server is asked to end: over the control API, or because it has been idle and holds nothing.
    pub async fn end_asked(&self) {
        tokio::select! {
            () = self.control.shutdown_asked() => {}
            () = self.idle() => {}
        }
    }

    async fn idle(&self) {
        let Some(limit) = self.idle_exit else {
            return std::future::pending().await;
        };
        loop {
            let idle = self.activity.idle_for();
            if idle < limit {
                tokio::time::sleep(limit - idle).await;
                continue;
            }
            let holds = self.platforms.iter().map(|p| p.holdings()).sum::<usize>();
            let open = self.connections.open();
            // An engine that cannot say what it holds may hold something.
            let instances = self.core.engine.list().await.map_or(1, |all| all.len());
            if holds + open + instances == 0 {
                return;
            }
            tokio::time::sleep(limit.max(Duration::from_millis(50))).await;
        }
    }

    /// Ends the server within 5 s: nothing new is taken, requests are finished or cut, state is saved. Instances of an
    /// engine that outlives it go on.
    pub async fn shutdown(mut self) {
        self.stop.finish();
        if !self.connections.drained(FINISH).await {
            tracing::warn!("requests were cut off at the end");
        }
        self.stop.end();
        for platform in &self.platforms {
            // A platform that hangs does not keep the server.
            let _ = tokio::time::timeout(Duration::from_secs(1), platform.stop()).await;
        }
        self.core.store.close().await;
        self.tasks.shutdown().await;
        // Tasks that were told to end still hold the engine until they have been dropped; the data directory is held
        // until then, so that the next server finds all of it free.
        let _lock = self.lock.take();
        let core = Arc::downgrade(&self.core);
        let engine = Arc::downgrade(&self.core.engine);
        drop(self);
        let gone = async {
            while core.strong_count() + engine.strong_count() > 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if tokio::time::timeout(LET_GO, gone).await.is_err() {
            tracing::warn!("something still holds the engine");
        }
    }

    /// Runs until SIGTERM, SIGINT or [`Running::end_asked`], then ends in order.
    ///
    /// # Errors
    ///
    /// When signals cannot be listened for.
    pub async fn until_ended(self) -> io::Result<()> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let mut term = signal(SignalKind::terminate())?;
            let mut int = signal(SignalKind::interrupt())?;
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
                () = self.end_asked() => {}
            }
        }
        #[cfg(not(unix))]
        tokio::select! {
            result = tokio::signal::ctrl_c() => result?,
            () = self.end_asked() => {}
        }
        self.shutdown().await;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.end();
        for path in &self.sockets {
            let _ = std::fs::remove_file(path);
        }
    }
}
