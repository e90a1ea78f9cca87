//! From a folder to a running release: pack, upload, build, promote.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use boxrig_archive::channel::Writer;
use boxrig_archive::gzip::{Level, Member, compress};
use boxrig_archive::ignore::Ignore;
use boxrig_archive::pack::{Packed, pack};
use boxrig_wire::{Error, Kind, Result, Timeout, Untrusted, WireBody};
use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use tokio::sync::mpsc;

use super::{Client, LogLine, LogOptions, LogStream, Wait};
use crate::models::{App, Build};
use crate::ops::builds::BuildCreateForm;
use crate::ops::releases::ReleasePromoteForm;

/// The manifest's name, when no other is said.
const MANIFEST: &str = "convox.yml";

type OnEvent = Arc<dyn Fn(DeployEvent) + Send + Sync>;

/// A deployment to make.
#[derive(Clone)]
pub struct Deploy {
    dir: PathBuf,
    build: BuildCreateForm,
    promote: bool,
    release: ReleasePromoteForm,
    create: bool,
    wait: Wait,
    on_event: Option<OnEvent>,
}

impl fmt::Debug for Deploy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deploy")
            .field("dir", &self.dir)
            .field("promote", &self.promote)
            .finish_non_exhaustive()
    }
}

/// What a deployment is doing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum DeployEvent {
    /// The folder is packed and sent: entries and bytes of content so far.
    Sending {
        /// Files, directories and links.
        entries: u64,
        /// Bytes of content, before compression.
        bytes: u64,
    },
    /// The folder is on the rack.
    Sent {
        /// Files, directories and links.
        entries: u64,
        /// Bytes that travelled.
        bytes: u64,
        /// How many things were left out because no archive can hold them.
        left_out: u64,
    },
    /// The build was begun.
    Building {
        /// Its id.
        build: String,
    },
    /// A line of the build's log.
    BuildLog(LogLine),
    /// The build is done.
    Built {
        /// Its id.
        build: String,
        /// The release that it made.
        release: String,
    },
    /// The promotion was begun.
    Promoting {
        /// The release.
        release: String,
    },
    /// A line of the app's log during the promotion.
    AppLog(LogLine),
    /// The release is the active one, and its processes have taken over.
    Promoted {
        /// The release.
        release: String,
    },
}

/// What a deployment has made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Deployed {
    /// The build.
    pub build: Build,
    /// The release.
    pub release: String,
    /// The app after the promotion, when one was asked for.
    pub app: Option<App>,
}

impl Deploy {
    /// Of this folder.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            build: BuildCreateForm::default(),
            promote: false,
            release: ReleasePromoteForm::default(),
            create: false,
            wait: Wait::default(),
            on_event: None,
        }
    }
    /// Settings of the build: description, arguments, manifest, cache.
    pub fn build(mut self, form: BuildCreateForm) -> Self {
        self.build = form;
        self
    }
    /// Makes the release the active one, and waits for it.
    pub fn promote(mut self, promote: bool) -> Self {
        self.promote = promote;
        self
    }
    /// Settings of the promotion.
    pub fn promotion(mut self, form: ReleasePromoteForm) -> Self {
        self.release = form;
        self
    }
    /// Creates the app when it is not there.
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }
    /// How long build and promotion may take, each.
    pub fn wait(mut self, wait: Wait) -> Self {
        self.wait = wait;
        self
    }
    /// Calls this with what is being done, as it goes.
    pub fn on_event(mut self, tell: impl Fn(DeployEvent) + Send + Sync + 'static) -> Self {
        self.on_event = Some(Arc::new(tell));
        self
    }

    fn tell(&self, event: DeployEvent) {
        if let Some(tell) = &self.on_event {
            tell(event);
        }
    }
}

impl Client {
    /// Deploys a folder: packs it (what `.dockerignore` names is left out), uploads it, builds it, and promotes the release
    /// when that is asked for. Dropping the future stops the waiting; a build or promotion that was begun goes on.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] without a folder, manifest or app; [`Kind::Failed`] for a build or promotion that failed, with the
    /// rack's reason; else the rack's.
    pub async fn deploy(&self, app: &str, deploy: &Deploy) -> Result<Deployed> {
        let manifest = deploy.build.manifest.as_deref().unwrap_or(MANIFEST);
        if !deploy.dir.join(manifest).is_file() {
            let dir = Untrusted::new(deploy.dir.to_string_lossy());
            return Err(Error::new(
                Kind::NotFound,
                format!("there is no {} in {dir}", Untrusted::new(manifest)),
            )
            .with_operation("BuildCreate")
            .with_hint("give the folder that the manifest is in"));
        }
        deploy.build.build_args.check()?;
        match self.apps().get(app).await {
            Err(e) if e.kind() == Kind::NotFound && deploy.create => {
                self.apps().create(app).await?;
                self.apps().settle(app, deploy.wait).await?;
            }
            Err(e) if e.kind() == Kind::NotFound => {
                return Err(e.with_hint(format!(
                    "create it with `boxrig convox app-create --name {}`, or deploy with --create",
                    Untrusted::new(app)
                )));
            }
            Err(e) => return Err(e),
            Ok(_) => {}
        }
        let url = self.send_source(app, deploy, manifest).await?;
        let build = self
            .builds()
            .create(app, &url, deploy.build.clone())
            .await?;
        deploy.tell(DeployEvent::Building {
            build: build.id.clone(),
        });
        let builds = self.builds();
        let log = builds.logs(app, &build.id, LogOptions::new().follow(true).reconnect(0));
        let build = along(
            builds.wait(app, &build.id, deploy.wait),
            log.await.ok(),
            |line| {
                deploy.tell(DeployEvent::BuildLog(line));
            },
        )
        .await?;
        let release = build.release.clone();
        if release.is_empty() {
            return Err(Error::new(
                Kind::Protocol,
                format!(
                    "the build {} is complete and made no release",
                    Untrusted::new(&*build.id)
                ),
            )
            .with_operation("BuildGet"));
        }
        deploy.tell(DeployEvent::Built {
            build: build.id.clone(),
            release: release.clone(),
        });
        let mut deployed = Deployed {
            build,
            release,
            app: None,
        };
        if deploy.promote {
            deployed.app = Some(self.promote_telling(app, &deployed.release, deploy).await?);
            deploy.tell(DeployEvent::Promoted {
                release: deployed.release.clone(),
            });
        }
        Ok(deployed)
    }

    async fn promote_telling(&self, app: &str, release: &str, deploy: &Deploy) -> Result<App> {
        let releases = self.releases();
        deploy.tell(DeployEvent::Promoting {
            release: release.to_owned(),
        });
        releases
            .promote_with(app, release, deploy.release.clone())
            .await?;
        let since = std::time::Duration::from_secs(5);
        let apps = self.apps();
        let log = apps.logs(app, LogOptions::new().follow(true).since(since));
        along(
            releases.promoted(app, release, deploy.wait),
            log.await.ok(),
            |line| {
                deploy.tell(DeployEvent::AppLog(line));
            },
        )
        .await
    }

    /// Sends the folder as a gzip tar, compressed as it goes; gives the object's URL. An upload that broke is made again
    /// from the start, under another name: nothing is taken for whole that is not.
    async fn send_source(&self, app: &str, deploy: &Deploy, manifest: &str) -> Result<String> {
        let mut left = self.caller().retry().max_retries;
        loop {
            match self.send_once(app, deploy, manifest).await {
                Err(e) if left > 0 && (e.is_retryable() || e.kind() == Kind::OutcomeUnknown) => {
                    left -= 1
                }
                done => return done,
            }
        }
    }

    async fn send_once(&self, app: &str, deploy: &Deploy, manifest: &str) -> Result<String> {
        let ignore = ignore(&deploy.dir, manifest)?;
        let (writer, pieces) = Writer::new();
        let (dir, tell) = (deploy.dir.clone(), deploy.clone());
        let packing = tokio::task::spawn_blocking(move || {
            let mut told = 0;
            pack(&dir, &ignore, writer, &mut |entries, bytes| {
                // Not for every file: people read it.
                if bytes - told >= 1 << 20 || entries == 1 {
                    told = bytes;
                    tell.tell(DeployEvent::Sending { entries, bytes });
                }
            })
        });
        let (outcome, packed) = tokio::sync::oneshot::channel();
        let sent = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let count = sent.clone();
        let body = gzip(
            pieces,
            packing.map(|joined| joined.unwrap_or_else(|e| Err(gone(e)))),
            outcome,
        )
        .inspect(move |piece| {
            if let Ok(piece) = piece {
                count.fetch_add(piece.len() as u64, std::sync::atomic::Ordering::Relaxed);
            }
        });
        // A large folder takes its time: the deadline is of the packing, which ends.
        let options = boxrig_wire::CallOptions::new().timeout(Timeout::Never);
        let objects = self.objects().with(options);
        let object = objects.upload(app, WireBody::from_stream(body)).await;
        let packed: Packed = match packed.await {
            Ok(Err(e)) => return Err(e),
            Ok(Ok(packed)) => packed,
            Err(_) => Packed::default(),
        };
        let object = object?;
        deploy.tell(DeployEvent::Sent {
            entries: packed.entries,
            bytes: sent.load(std::sync::atomic::Ordering::Relaxed),
            left_out: packed.left_out.count,
        });
        Ok(object.url)
    }
}

/// What is left out of the source: what `.dockerignore` names, but never the manifest and the Dockerfiles that it names.
fn ignore(dir: &Path, manifest: &str) -> Result<Ignore> {
    let cannot = |e: std::io::Error| {
        Error::new(Kind::Invalid, "manifest or .dockerignore cannot be read").with_source(e)
    };
    let ignore = Ignore::of_context(dir, manifest).map_err(cannot)?;
    let text = std::fs::read_to_string(dir.join(manifest)).map_err(cannot)?;
    let named = dockerfiles(&text);
    Ok(named
        .iter()
        .fold(ignore, |i, name| i.and_always(name.as_bytes())))
}

/// The Dockerfiles of a manifest's services. One that cannot be read names none: the rack says what is wrong with it.
fn dockerfiles(manifest: &str) -> Vec<String> {
    let manifest: serde_json::Value = serde_saphyr::from_str(manifest).unwrap_or_default();
    let services = manifest["services"].as_object().into_iter().flatten();
    services
        .map(|(_, service)| {
            let build = &service["build"];
            let path = build.as_str().or(build["path"].as_str()).unwrap_or(".");
            let file = build["manifest"].as_str().unwrap_or("Dockerfile");
            format!("{path}/{file}")
        })
        .collect()
}

fn gone(e: tokio::task::JoinError) -> Error {
    Error::new(Kind::Failed, "the packing was ended").with_source(e)
}

/// Pieces of an archive, compressed as one gzip member; ends in an error when the packing does, which is told to `outcome`.
fn gzip(
    pieces: mpsc::Receiver<Vec<u8>>,
    packing: impl Future<Output = Result<Packed>> + Send + 'static,
    outcome: tokio::sync::oneshot::Sender<Result<Packed>>,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send {
    enum Step<F> {
        Head(F),
        Pieces(F, Member),
        Over,
    }
    let cut = || std::io::Error::other("the folder could not be packed");
    let state = (pieces, Step::Head(Box::pin(packing)), Some(outcome));
    stream::unfold(state, move |(mut pieces, step, mut outcome)| async move {
        match step {
            Step::Head(packing) => {
                let head = Bytes::from_static(&Member::HEADER);
                Some((
                    Ok(head),
                    (pieces, Step::Pieces(packing, Member::new()), outcome),
                ))
            }
            Step::Pieces(packing, mut member) => match pieces.recv().await {
                Some(piece) => {
                    let done =
                        tokio::task::spawn_blocking(move || compress(&piece, Level::Fast)).await;
                    match done {
                        Ok(piece) => {
                            let bytes = Bytes::from(member.add(piece));
                            Some((Ok(bytes), (pieces, Step::Pieces(packing, member), outcome)))
                        }
                        Err(_) => Some((Err(cut()), (pieces, Step::Over, None))),
                    }
                }
                None => {
                    let packed = packing.await;
                    let end = match &packed {
                        Ok(_) => Ok(Bytes::copy_from_slice(&member.trailer())),
                        Err(_) => Err(cut()),
                    };
                    if let Some(outcome) = outcome.take() {
                        let _ = outcome.send(packed);
                    }
                    Some((end, (pieces, Step::Over, None)))
                }
            },
            Step::Over => None,
        }
    })
}

/// Waits for `work`, handing on the lines of a log meanwhile; what is there when the work ends is still handed on.
async fn along<T>(
    work: impl Future<Output = T>,
    log: Option<LogStream>,
    mut line: impl FnMut(LogLine),
) -> T {
    let mut log = match log {
        Some(log) => log.boxed(),
        None => stream::empty().boxed(),
    };
    let mut work = std::pin::pin!(work.fuse());
    let mut open = true;
    let done = loop {
        tokio::select! {
            biased;
            next = log.next(), if open => match next {
                Some(Ok(next)) => line(next),
                // The log is a courtesy: without it the work is waited for all the same.
                Some(Err(_)) | None => open = false,
            },
            done = &mut work => break done,
        }
    };
    let rest = async {
        while open {
            match log.next().await {
                Some(Ok(next)) => line(next),
                _ => open = false,
            }
        }
    };
    let _ = tokio::time::timeout(std::time::Duration::from_millis(300), rest).await;
    done
}

#[cfg(test)]
mod tests {
    use super::dockerfiles;

    #[test]
    fn dockerfiles_are_those_of_the_services() {
        let text = "services:\n  web:\n    build: .\n  api:\n    build:\n      path: ./api\n      manifest: Dockerfile.prod\n  db:\n    image: x\n";
        let mut found = dockerfiles(text);
        found.sort();
        assert_eq!(
            found,
            ["./Dockerfile", "./Dockerfile", "./api/Dockerfile.prod"]
        );
        assert!(dockerfiles("a: [").is_empty() && dockerfiles("").is_empty());
    }
}
