//! Snapshots from images and Dockerfiles.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use boxrig_wire::{BoxFuture, BoxStream, Error, Kind, Operation, Progress, Result, Secret, Work};
use futures_util::stream;
use tokio::time::sleep;

use super::Client;
use super::transfer::{TransferOptions, blocking};
use super::upload::{again, put_file, send_directory};
use crate::archive::ignore::Ignore;
use crate::archive::pack::cannot;
use crate::archive::zip;
use crate::types::*;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What a snapshot is built from, and how.
///
/// ```
/// use boxrig_fastvm::Build;
/// let image = Build::image("python:3.13-slim").name("python");
/// let app = Build::dockerfile("./my-app").build_arg("VERSION", "2").target("release");
/// let text = Build::dockerfile("./my-app").dockerfile_text("FROM alpine\nCOPY . /app\n");
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Build {
    source: Source,
    machine_type: Option<MachineType>,
    disk_gib: Option<u64>,
    name: Option<String>,
    platform: Option<String>,
    registry: Option<(Option<String>, String, Secret)>,
    build_args: BTreeMap<String, String>,
    target: Option<String>,
    /// How the context is sent.
    pub transfer: TransferOptions,
}

#[derive(Clone, Debug)]
enum Source {
    Image(String),
    Dockerfile {
        context: PathBuf,
        path: String,
        text: Option<String>,
    },
}

impl Build {
    fn new(source: Source) -> Self {
        Self {
            source,
            machine_type: None,
            disk_gib: None,
            name: None,
            platform: None,
            registry: None,
            build_args: BTreeMap::new(),
            target: None,
            transfer: TransferOptions::default(),
        }
    }
    /// From an image of a registry.
    pub fn image(reference: impl Into<String>) -> Self {
        Self::new(Source::Image(reference.into()))
    }
    /// From a directory with a Dockerfile. What its `.dockerignore` names is not sent.
    pub fn dockerfile(context: impl Into<PathBuf>) -> Self {
        Self::new(Source::Dockerfile {
            context: context.into(),
            path: "Dockerfile".to_owned(),
            text: None,
        })
    }
    /// Where the Dockerfile is in the directory; `Dockerfile` by default.
    pub fn dockerfile_path(mut self, at: impl Into<String>) -> Self {
        if let Source::Dockerfile { path, .. } = &mut self.source {
            *path = at.into();
        }
        self
    }
    /// The Dockerfile's text, instead of the one in the directory.
    pub fn dockerfile_text(mut self, content: impl Into<String>) -> Self {
        if let Source::Dockerfile { text, .. } = &mut self.source {
            *text = Some(content.into());
        }
        self
    }
    /// The size of the machine that the snapshot is made with.
    pub fn machine_type(mut self, machine_type: impl Into<MachineType>) -> Self {
        self.machine_type = Some(machine_type.into());
        self
    }
    /// Disk in GiB.
    pub fn disk_gib(mut self, gib: u64) -> Self {
        self.disk_gib = Some(gib);
        self
    }
    /// The snapshot's name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }
    /// The image's platform, `linux/amd64` by default; for images.
    pub fn platform(mut self, platform: impl Into<String>) -> Self {
        self.platform = Some(platform.into());
        self
    }
    /// Credentials of a registry: its `host[:port]`, which a Dockerfile needs and an image does not, user and password.
    pub fn registry(
        mut self,
        host: Option<&str>,
        user: impl Into<String>,
        password: impl Into<Secret>,
    ) -> Self {
        self.registry = Some((host.map(str::to_owned), user.into(), password.into()));
        self
    }
    /// A build argument more; for Dockerfiles, at most 64 and 8 KiB in all.
    pub fn build_arg(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.build_args.insert(name.into(), value.into());
        self
    }
    /// The stage to build; for Dockerfiles.
    pub fn target(mut self, stage: impl Into<String>) -> Self {
        self.target = Some(stage.into());
        self
    }
}

impl Client {
    /// Builds a snapshot: sends the context, if there is one, and begins the import. What it gives is the import at work; wait
    /// for it, watch it, or cancel it.
    ///
    /// ```no_run
    /// # async fn f(client: boxrig_fastvm::Client) -> boxrig_wire::Result<()> {
    /// use boxrig_fastvm::Build;
    /// let snapshot = client.build(Build::image("python:3.13-slim")).await?.wait().await?;
    /// println!("{}", snapshot.id);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// * [`Kind::Invalid`]: what is asked for does not fit together, or the context is too large.
    /// * Local files that cannot be read, and the service's own errors.
    /// * Waiting: [`Kind::Failed`] with the service's words when the build failed, [`Kind::Cancelled`].
    pub async fn build(&self, build: Build) -> Result<Operation<Snapshot>> {
        let source = self.import_source(&build).await?;
        let request = CreateSnapshotImportRequest {
            source,
            machine_type: build.machine_type,
            disk_gib: build.disk_gib,
            name: build.name,
            ..CreateSnapshotImportRequest::default()
        };
        let import = self.snapshot_imports().create(request).await?;
        Ok(self.import_operation(import.id))
    }

    /// An import that was begun earlier, by its id, as work that can be waited for.
    pub fn import_operation(&self, import_id: impl Into<String>) -> Operation<Snapshot> {
        Operation::new(Import {
            client: self.clone(),
            id: import_id.into(),
        })
    }

    async fn import_source(&self, build: &Build) -> Result<ImportSource> {
        let invalid =
            |why: &str| Error::new(Kind::Invalid, why).with_operation("createSnapshotImport");
        let mut spec = match &build.source {
            Source::Image(image) => {
                if build.target.is_some() || !build.build_args.is_empty() {
                    return Err(invalid("an image has no build arguments and no stages"));
                }
                let mut spec = ImportSource::image(image);
                spec.platform = build.platform.clone();
                spec
            }
            Source::Dockerfile {
                context,
                path,
                text,
            } => {
                if build.platform.is_some() {
                    return Err(invalid("the platform is a member of images"));
                }
                if matches!(&build.registry, Some((None, ..))) {
                    return Err(invalid(
                        "credentials for a Dockerfile need the registry's host",
                    ));
                }
                check_arguments(&build.build_args)?;
                check_relative(path)?;
                let context_ref = self
                    .send_context(context, path, text.as_deref(), &build.transfer)
                    .await?;
                let mut spec = ImportSource::dockerfile(context_ref);
                spec.dockerfile_path = (path != "Dockerfile").then(|| path.clone());
                spec.build_args = (!build.build_args.is_empty()).then(|| build.build_args.clone());
                spec.target = build.target.clone();
                spec
            }
        };
        if let Some((host, user, password)) = &build.registry {
            spec.registry_host = host.clone();
            spec.registry_username = Some(user.clone());
            spec.registry_password = Some(password.clone());
        }
        Ok(spec)
    }

    /// Packs and sends a context; gives its token, which is good for one import.
    async fn send_context(
        &self,
        context: &Path,
        path: &str,
        text: Option<&str>,
        options: &TransferOptions,
    ) -> Result<Secret> {
        let root = context.to_owned();
        let (at, content) = (path.to_owned(), text.map(str::to_owned));
        let (zip, size) = blocking(move || {
            let ignore = rules(&root, &at, content.is_some())?;
            let dockerfile = content.as_deref().map(|text| (at.as_str(), text));
            let zip = zip::context(&root, &ignore, dockerfile)?;
            let size = zip.metadata().map_err(|e| cannot("pack", &root, e))?.len();
            Ok((zip, size))
        })
        .await?;
        let staging = self.snapshot_imports().presign_context(Some(size)).await?;
        if staging.max_upload_bytes != 0 && size > staging.max_upload_bytes {
            return Err(Error::new(
                Kind::Invalid,
                format!(
                    "the build context has {size} bytes, more than the {} that the service takes",
                    staging.max_upload_bytes
                ),
            ));
        }
        let file = (zip, size, context.to_owned());
        let url = &staging.upload_url;
        put_file(self, url, "application/zip", file, options).await?;
        Ok(staging.context_ref)
    }

    /// Builds a snapshot through the older API (`/v1/builds`), for services that have no imports: an image, or a Dockerfile with
    /// its context as `tar.gz`. It cannot be cancelled there.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build); [`Kind::Unsupported`] for settings that the older API does not have.
    pub async fn build_older(&self, build: Build) -> Result<Operation<Snapshot>> {
        let foreign = build.platform.is_some()
            || build.registry.is_some()
            || build.target.is_some()
            || !build.build_args.is_empty();
        if foreign {
            return Err(Error::new(
                Kind::Unsupported,
                "the older build API has no platform, credentials, build arguments or stages",
            )
            .with_operation("createBuild"));
        }
        let mut request = BuildCreateRequest {
            machine_type: build.machine_type,
            disk_gib: build.disk_gib,
            name: build.name,
            ..BuildCreateRequest::default()
        };
        match build.source {
            Source::Image(image) => request.image_ref = Some(image),
            Source::Dockerfile {
                context,
                path,
                text,
            } => {
                let (root, own) = (context.clone(), text.is_some());
                let (ignore, text) = blocking(move || {
                    let ignore = rules(&root, &path, own)?;
                    let text = match text {
                        Some(text) => text,
                        None => {
                            let file = root.join(&path);
                            std::fs::read_to_string(&file).map_err(|e| cannot("read", &file, e))?
                        }
                    };
                    Ok((ignore, text))
                })
                .await?;
                let staging = self.builds().presign_context().await?;
                let options = &build.transfer;
                again(self, || {
                    let source = (context.clone(), ignore.clone());
                    send_directory(self, &staging, "application/gzip", source, options)
                })
                .await?;
                request.dockerfile_content = Some(text);
                request.context_download_url = Some(staging.download_url);
            }
        }
        let begun = self.builds().create(request).await?;
        Ok(Operation::new(OlderBuild {
            client: self.clone(),
            id: begun.id,
        }))
    }
}

/// The rules of a context whose Dockerfile is there, unless its text is given.
fn rules(root: &Path, dockerfile: &str, has_text: bool) -> Result<Ignore> {
    let file = root.join(dockerfile);
    if !has_text && !file.is_file() {
        let why = std::io::Error::from(std::io::ErrorKind::NotFound);
        return Err(cannot("read", &file, why));
    }
    Ignore::of_context(root, dockerfile).map_err(|e| cannot("read the rules of", root, e))
}

fn check_arguments(arguments: &BTreeMap<String, String>) -> Result<()> {
    let bytes: usize = arguments.iter().map(|(k, v)| k.len() + v.len()).sum();
    if arguments.len() > 64 || bytes > 8 * 1024 {
        return Err(Error::new(
            Kind::Invalid,
            "more than 64 build arguments, or more than 8 KiB of them",
        )
        .with_operation("createSnapshotImport"));
    }
    Ok(())
}

fn check_relative(path: &str) -> Result<()> {
    let bad = path.is_empty() || path.starts_with('/') || path.split('/').any(|s| s == "..");
    if bad {
        return Err(Error::new(
            Kind::Invalid,
            "the Dockerfile's path is relative to the context, without '..'",
        )
        .with_operation("createSnapshotImport"));
    }
    Ok(())
}

/// Asks with growing pauses until there is a result. The service may be away for a moment.
async fn wait(work: &dyn Work<Snapshot>) -> Result<Snapshot> {
    let mut pause = FIRST_PAUSE;
    let mut failures = 0;
    loop {
        match work.poll().await {
            Ok(Some(done)) => return Ok(done),
            Ok(None) => failures = 0,
            Err(e) if e.is_retryable() && failures < 10 => failures += 1,
            Err(e) => return Err(e),
        }
        sleep(pause).await;
        pause = pause.mul_f64(1.6).min(LONGEST_PAUSE);
    }
}

struct Import {
    client: Client,
    id: String,
}

impl Import {
    async fn outcome(&self, import: SnapshotImport) -> Result<Option<Snapshot>> {
        let failed = |kind, what: &str| {
            let mut e = Error::new(kind, what).with_operation("getSnapshotImport");
            e = e.with_retryable(false);
            if let Some(words) = &import.error {
                e = e.with_server_message(words.clone());
            }
            match serde_json::to_vec(&import) {
                Ok(body) => e.with_body(&body),
                Err(_) => e,
            }
        };
        match &import.status {
            ImportStatus::Succeeded => match &import.snapshot_id {
                Some(id) => self.client.snapshots().get(id).await.map(Some),
                None => Err(failed(
                    Kind::Protocol,
                    "the import succeeded without a snapshot",
                )),
            },
            ImportStatus::Failed => Err(failed(Kind::Failed, "the import failed")),
            ImportStatus::Cancelled => Err(failed(Kind::Cancelled, "the import was cancelled")),
            _ => Ok(None),
        }
    }

    async fn ask(&self) -> Result<Option<Snapshot>> {
        let import = self.client.snapshot_imports().get(&self.id).await?;
        self.outcome(import).await
    }
}

impl Work<Snapshot> for Import {
    fn id(&self) -> &str {
        &self.id
    }
    fn poll(&self) -> BoxFuture<'_, Result<Option<Snapshot>>> {
        Box::pin(self.ask())
    }
    fn wait(&self) -> BoxFuture<'_, Result<Snapshot>> {
        Box::pin(wait(self))
    }
    fn cancel(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            let cancelled = self.client.snapshot_imports().cancel(&self.id).await;
            cancelled.map(drop)
        })
    }
    fn progress(&self) -> BoxStream<'_, Result<Progress>> {
        struct State<'a> {
            import: &'a Import,
            seen: usize,
            queue: std::collections::VecDeque<ImportEvent>,
            over: bool,
            pause: Duration,
        }
        let state = State {
            import: self,
            seen: 0,
            queue: std::collections::VecDeque::new(),
            over: false,
            pause: Duration::ZERO,
        };
        Box::pin(stream::unfold(state, |mut s| async move {
            loop {
                if let Some(event) = s.queue.pop_front() {
                    let mut step = Progress::phase(event.phase.as_str());
                    let status = event.status.as_str();
                    step.message = Some(match &event.message {
                        Some(words) => format!("{status}: {}", words.raw()).into(),
                        None => status.into(),
                    });
                    return Some((Ok(step), s));
                }
                if s.over {
                    return None;
                }
                sleep(s.pause).await;
                s.pause = (s.pause.max(FIRST_PAUSE)).mul_f64(1.6).min(LONGEST_PAUSE);
                let got = s.import.client.snapshot_imports().get(&s.import.id).await;
                match got {
                    Ok(import) => {
                        s.over = import.status.is_terminal();
                        let events = import.events.unwrap_or_default();
                        s.queue.extend(events.iter().skip(s.seen).cloned());
                        s.seen = s.seen.max(events.len());
                    }
                    Err(e) => {
                        s.over = true;
                        return Some((Err(e), s));
                    }
                }
            }
        }))
    }
}

struct OlderBuild {
    client: Client,
    id: String,
}

impl OlderBuild {
    async fn ask(&self) -> Result<Option<Snapshot>> {
        let build = self.client.builds().get(&self.id).await?;
        let failed = |kind, what: &str| {
            let e = Error::new(kind, what)
                .with_operation("getBuild")
                .with_retryable(false);
            match &build.error {
                Some(words) => e.with_server_message(words.clone()),
                None => e,
            }
        };
        match &build.status {
            BuildStatus::Completed => match &build.snapshot_id {
                Some(id) => self.client.snapshots().get(id).await.map(Some),
                None => Err(failed(
                    Kind::Protocol,
                    "the build completed without a snapshot",
                )),
            },
            BuildStatus::Failed => Err(failed(Kind::Failed, "the build failed")),
            _ => Ok(None),
        }
    }
}

impl Work<Snapshot> for OlderBuild {
    fn id(&self) -> &str {
        &self.id
    }
    fn poll(&self) -> BoxFuture<'_, Result<Option<Snapshot>>> {
        Box::pin(self.ask())
    }
    fn wait(&self) -> BoxFuture<'_, Result<Snapshot>> {
        Box::pin(wait(self))
    }
    fn cancel(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            Err(Error::new(
                Kind::Unsupported,
                "builds of the older API cannot be cancelled",
            )
            .with_operation("getBuild"))
        })
    }
    fn progress(&self) -> BoxStream<'_, Result<Progress>> {
        let state = (self, None::<String>, false, Duration::ZERO);
        Box::pin(stream::unfold(
            state,
            |(work, mut last, over, mut pause)| async move {
                if over {
                    return None;
                }
                loop {
                    sleep(pause).await;
                    pause = pause.max(FIRST_PAUSE).mul_f64(1.6).min(LONGEST_PAUSE);
                    let build = match work.client.builds().get(&work.id).await {
                        Ok(build) => build,
                        Err(e) => return Some((Err(e), (work, last, true, pause))),
                    };
                    let over = matches!(build.status, BuildStatus::Completed | BuildStatus::Failed);
                    let phase = build.progress.as_ref().map_or_else(
                        || build.status.as_str().to_owned(),
                        |words| words.raw().to_owned(),
                    );
                    if over {
                        let step = Progress::phase(build.status.as_str());
                        return Some((Ok(step), (work, last, true, pause)));
                    }
                    if last.as_ref() != Some(&phase) {
                        last = Some(phase.clone());
                        return Some((Ok(Progress::phase(phase)), (work, last, false, pause)));
                    }
                }
            },
        ))
    }
}
