//! A build from its beginning to its image.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use boxrig_engine::{
    Engine, ImageInfo, InstanceId, Isolation, Kind, Limits, NetworkPolicy, SnapshotId,
};
use tokio::sync::mpsc;

use crate::cache::{self, InUse, Key};
use crate::error::{BuildError, Cause, Result};
use crate::expand::expand;
use crate::instruction::{Copy, Dockerfile, Instruction, parse};
use crate::stage::{Files, Job, State};
use crate::tree::Tree;

/// The name a Dockerfile has when none is given.
const DOCKERFILE: &str = "Dockerfile";

/// What to build.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BuildSpec {
    /// The name the image gets. One that has it loses it.
    pub image: String,
    /// The folder that COPY takes files from. Nobody else may change it during the build. `None`: there is nothing to copy.
    pub context: Option<PathBuf>,
    /// The Dockerfile's path in the context.
    pub dockerfile: String,
    /// The Dockerfile's text, instead of a file of the context.
    pub text: Option<String>,
    /// The stage to build; the last one when `None`.
    pub target: Option<String>,
    /// Values for ARG.
    pub args: BTreeMap<String, String>,
    /// Labels of the image, besides those of the Dockerfile.
    pub labels: BTreeMap<String, String>,
    /// Take steps that were carried out before from the cache.
    pub cache: bool,
    /// What RUN may reach.
    pub network: NetworkPolicy,
    /// What RUN may use.
    pub limits: Limits,
}

impl BuildSpec {
    /// A build of `Dockerfile` without a context.
    pub fn new(image: impl Into<String>) -> Self {
        Self {
            image: image.into(),
            context: None,
            dockerfile: DOCKERFILE.to_owned(),
            text: None,
            target: None,
            args: BTreeMap::new(),
            labels: BTreeMap::new(),
            cache: true,
            network: NetworkPolicy::Default,
            limits: Limits::default(),
        }
    }
}

/// Where a line of a build's log comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// The builder: steps, warnings.
    Step,
    /// A command's output.
    Out,
    /// A command's errors.
    Err,
}

/// A line of a build's log, without its end. What a program wrote is hostile text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Where it comes from.
    pub stream: Stream,
    /// The text.
    pub text: String,
}

/// What a build gave.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Built {
    /// The image, with how it is meant to be run.
    pub image: ImageInfo,
    /// Steps that changed files.
    pub steps: usize,
    /// How many of them were carried out before.
    pub cached: usize,
}

/// Builds images. Cheap to clone; clones know of each other's builds, and one data folder's builders must be clones of one.
#[derive(Clone, Debug)]
pub struct Builder {
    engine: Arc<dyn Engine>,
    in_use: InUse,
}

impl Builder {
    /// A builder on an engine.
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        Self {
            engine,
            in_use: InUse::default(),
        }
    }

    /// Whether the engine can build at all.
    ///
    /// # Errors
    ///
    /// `Unsupported`, with the way on.
    pub fn check(&self) -> Result<()> {
        let able = self.engine.capabilities();
        if able.exec
            && able.files
            && able.snapshot
            && able.images
            && able.isolation != Isolation::None
        {
            return Ok(());
        }
        let words = format!(
            "the {} engine builds no images: that takes layers and isolated instances, which the sandbox engine has",
            self.engine.name()
        );
        Err(BuildError::new(Cause::Unsupported, words))
    }

    /// Builds an image. Lines are sent to `log` as they come; the build waits for a reader that is slow, and does not care when
    /// there is none. Dropping the future cancels the build and leaves nothing running.
    ///
    /// # Errors
    ///
    /// [`BuildError`], with the line of the Dockerfile when the failure has one. No image is made then; what was built stays in the
    /// cache.
    pub async fn build(&self, spec: BuildSpec, log: mpsc::Sender<LogLine>) -> Result<Built> {
        self.check()?;
        let context = match &spec.context {
            Some(folder) => Some(Arc::new(Tree::context(folder, &spec.dockerfile)?)),
            None => None,
        };
        let text = dockerfile_text(&spec, context.as_deref())?;
        let file = parse(&text)?;
        let target = file.target(spec.target.as_deref())?;
        let known = if spec.cache {
            cache::index(&*self.engine).await?
        } else {
            HashMap::new()
        };
        let mut work = Work {
            engine: &self.engine,
            in_use: &self.in_use,
            spec: &spec,
            file: &file,
            context,
            known,
            log,
            args: BTreeMap::new(),
            used: BTreeSet::new(),
            done: BTreeMap::new(),
            steps: 0,
            cached: 0,
        };
        let image = work.run(target).await?;
        let built = Built {
            image,
            steps: work.steps,
            cached: work.cached,
        };
        drop(work);
        cache::prune(&*self.engine, &self.in_use, false).await?;
        Ok(built)
    }

    /// Removes what builds that were cut off with their process left: their instances.
    ///
    /// # Errors
    ///
    /// The engine's.
    pub async fn sweep(&self) -> Result<usize> {
        let mut gone = 0;
        for instance in self.engine.list().await? {
            let labels = &instance.spec.labels;
            if labels
                .get(cache::LABEL)
                .is_some_and(|v| v == cache::LABEL_VALUE)
            {
                self.engine.delete(instance.id()).await?;
                gone += 1;
            }
        }
        Ok(gone)
    }

    /// Empties the cache, and tells how many steps were in it. Images are not affected.
    ///
    /// # Errors
    ///
    /// The engine's.
    pub async fn clear_cache(&self) -> Result<usize> {
        cache::prune(&*self.engine, &self.in_use, true).await
    }
}

fn dockerfile_text(spec: &BuildSpec, context: Option<&Tree>) -> Result<String> {
    if let Some(text) = &spec.text {
        return Ok(text.clone());
    }
    let Some(context) = context else {
        return Err(BuildError::context(
            "there is neither a Dockerfile nor a folder with one",
        ));
    };
    let bytes = context.small_file(spec.dockerfile.as_bytes())?;
    String::from_utf8(bytes)
        .map_err(|_| BuildError::dockerfile(format!("{:?} is not UTF-8", spec.dockerfile)))
}

/// A build under way.
pub(crate) struct Work<'a> {
    pub(crate) engine: &'a Arc<dyn Engine>,
    pub(crate) in_use: &'a InUse,
    pub(crate) spec: &'a BuildSpec,
    pub(crate) file: &'a Dockerfile,
    pub(crate) context: Option<Arc<Tree>>,
    /// What was carried out before.
    pub(crate) known: HashMap<Key, SnapshotId>,
    log: mpsc::Sender<LogLine>,
    /// Arguments before the first stage.
    pub(crate) args: BTreeMap<String, String>,
    /// Names of arguments that the Dockerfile asked for.
    pub(crate) used: BTreeSet<String>,
    /// Stages that are done.
    pub(crate) done: BTreeMap<usize, State>,
    pub(crate) steps: usize,
    pub(crate) cached: usize,
}

impl Work<'_> {
    pub(crate) async fn say(&self, stream: Stream, text: impl Into<String>) {
        let line = LogLine {
            stream,
            text: text.into(),
        };
        // Nobody reads: the build goes on.
        let _ = self.log.send(line).await;
    }

    async fn run(&mut self, target: usize) -> Result<ImageInfo> {
        self.global_args()?;
        for stage in self.needed(target)? {
            let state = self.stage(stage).await?;
            self.done.insert(stage, state);
        }
        let unknown: Vec<_> = self
            .spec
            .args
            .keys()
            .filter(|name| !self.used.contains(*name))
            .collect();
        if !unknown.is_empty() {
            let words =
                format!("warning: arguments that the Dockerfile does not declare: {unknown:?}");
            self.say(Stream::Step, words).await;
        }
        let Some(mut state) = self.done.remove(&target) else {
            return Err(BuildError::dockerfile("the stage is missing"));
        };
        let held = match &state.files {
            Files::Step(held) => held.clone(),
            // Nothing changed a file.
            Files::Image(_) => {
                let key = cache::key(&[state.key.as_bytes(), b"same"]);
                self.layer(&state, &key, None, Job::Nothing).await?
            }
        };
        state.config.labels.extend(self.spec.labels.clone());
        let image = self
            .engine
            .commit_image(&self.spec.image, held.id(), state.config)
            .await?;
        self.say(Stream::Step, format!("image {}", image.name))
            .await;
        Ok(image)
    }

    fn global_args(&mut self) -> Result<()> {
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        for side in ["TARGET", "BUILD"] {
            for (name, value) in [
                ("PLATFORM", format!("linux/{arch}")),
                ("OS", "linux".into()),
                ("ARCH", arch.into()),
            ] {
                self.args.insert(format!("{side}{name}"), value);
            }
        }
        for (line, name, default) in &self.file.args {
            self.used.insert(name.clone());
            let value = match (self.spec.args.get(name), default) {
                (Some(given), _) => given.clone(),
                (None, Some(default)) => {
                    let args = &self.args;
                    let lookup = |name: &str| args.get(name).cloned();
                    expand(default, self.file.escape, &lookup).map_err(|e| e.at(*line))?
                }
                (None, None) => continue,
            };
            self.args.insert(name.clone(), value);
        }
        Ok(())
    }

    /// A text of a FROM or `--from` with its variables.
    pub(crate) fn with_args(&self, text: &str) -> Result<String> {
        let lookup = |name: &str| self.args.get(name).cloned();
        expand(text, self.file.escape, &lookup)
    }

    /// The stages that lead to `target`, in order.
    fn needed(&self, target: usize) -> Result<BTreeSet<usize>> {
        let mut needed = BTreeSet::new();
        let mut todo = vec![target];
        while let Some(at) = todo.pop() {
            if !needed.insert(at) {
                continue;
            }
            let stage = &self.file.stages[at];
            let from = self.with_args(&stage.from).map_err(|e| e.at(stage.line))?;
            todo.extend(
                self.file
                    .stage(&from, at)
                    .filter(|_| from.parse::<usize>().is_err()),
            );
            for step in &stage.steps {
                if let Instruction::Copy(copy) = &step.instruction {
                    let found = self.copied_stage(copy, at).map_err(|e| e.at(step.line))?;
                    todo.extend(found);
                }
            }
        }
        Ok(needed)
    }

    /// The stage that a COPY copies from, if it is one.
    pub(crate) fn copied_stage(&self, copy: &Copy, before: usize) -> Result<Option<usize>> {
        let Some(from) = &copy.from else {
            return Ok(None);
        };
        let from = self.with_args(from)?;
        let found = self.file.stage(&from, before);
        if found.is_none() && self.file.stage(&from, self.file.stages.len()).is_some() {
            let words = format!("COPY --from={from}: the stage comes later");
            return Err(BuildError::dockerfile(words));
        }
        Ok(found)
    }
}

/// An instance of a build, removed with its guard, whenever that is.
pub(crate) struct Instance<'a> {
    engine: &'a Arc<dyn Engine>,
    id: Option<InstanceId>,
}

impl<'a> Instance<'a> {
    pub(crate) fn new(engine: &'a Arc<dyn Engine>, id: InstanceId) -> Self {
        Self {
            engine,
            id: Some(id),
        }
    }

    /// Removes it now.
    pub(crate) async fn remove(mut self) -> Result<()> {
        let Some(id) = self.id.clone() else {
            return Ok(());
        };
        self.engine.delete(&id).await?;
        self.id = None;
        Ok(())
    }
}

impl Drop for Instance<'_> {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else {
            return;
        };
        let engine = Arc::clone(self.engine);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            // A creation that was under way when the build was dropped comes to its end first.
            for _ in 0..100 {
                match engine.delete(&id).await {
                    Err(e) if e.kind() == Kind::NotFound => {}
                    Ok(()) => return,
                    Err(e) => tracing::warn!(%id, error = %e, "an instance of a build remains"),
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        });
    }
}
