//! One stage, step by step.

use std::collections::BTreeMap;

use boxrig_engine::{
    BASE_IMAGE, ExecSpec, ImageConfig, InstanceId, InstanceSpec, Kind, NetworkPolicy,
    SCRATCH_IMAGE, SnapshotId, SnapshotSpec, Source, StopMode,
};
use sha2::{Digest, Sha256};

use crate::build::{Instance, Stream, Work};
use crate::cache::{self, Held, Key, hex};
use crate::copy::{self, Plan, Text};
use crate::error::{BuildError, Cause, Result};
use crate::expand::{expand, expand_document};
use crate::instruction::{Command, Copy, Instruction, Step};
use crate::lines::Document;
use crate::run::{argv, script, shell};
use crate::tree::Tree;
use crate::users::{Accounts, User};

/// Most bytes of all variables together.
const MAX_ENV: usize = 1 << 20;
/// Longest text of a step in the log.
const SHOWN: usize = 300;

/// The files a stage has at some point.
#[derive(Clone, Debug)]
pub(crate) enum Files {
    /// Those of an image.
    Image(String),
    /// Those that a step left.
    Step(Held),
}

/// What a step changes files by.
pub(crate) enum Job<'a> {
    Nothing,
    Run(&'a ExecSpec),
    Copy {
        plan: &'a Plan<'a>,
        chown: Option<&'a str>,
        add: bool,
    },
    /// Makes a folder.
    Folder(&'a str),
}

/// What a stage is at some point.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) files: Files,
    pub(crate) key: Key,
    pub(crate) config: ImageConfig,
    args: BTreeMap<String, String>,
    user: Option<User>,
    /// The command is this stage's own: an entry point does not take it away.
    own_cmd: bool,
}

fn random() -> String {
    // Names must be new, not secret.
    let mut digest = Sha256::new();
    digest.update(std::process::id().to_le_bytes());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    digest.update(now.unwrap_or_default().as_nanos().to_le_bytes());
    static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    digest.update(count.to_le_bytes());
    hex(&digest.finalize()[..8])
}

fn brief(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// An absolute path: `path` seen from `base`, without `.` and `..`.
fn absolute(base: &str, path: &str) -> String {
    let whole = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("{base}/{path}")
    };
    let mut steps: Vec<&str> = Vec::new();
    for step in whole.split('/') {
        match step {
            "" | "." => {}
            ".." => drop(steps.pop()),
            step => steps.push(step),
        }
    }
    format!("/{}", steps.join("/"))
}

impl State {
    fn lookup(&self, name: &str) -> Option<String> {
        let set = self.config.env.iter().find(|(known, _)| known == name);
        set.map(|(_, value)| value.clone())
            .or_else(|| self.args.get(name).cloned())
    }

    fn workdir(&self) -> &str {
        self.config.workdir.as_deref().unwrap_or("/")
    }

    fn source(&self) -> Source {
        match &self.files {
            Files::Image(name) => Source::Image(name.clone()),
            Files::Step(held) => Source::Snapshot(held.id().clone()),
        }
    }
}

impl Work<'_> {
    /// Carries out one stage.
    pub(crate) async fn stage(&mut self, at: usize) -> Result<State> {
        let file = self.file;
        let stage = &file.stages[at];
        let label = stage.name.clone().unwrap_or_else(|| at.to_string());
        self.say(Stream::Step, format!("[{label}] FROM {}", stage.from))
            .await;
        let mut state = self.start(at).await.map_err(|e| e.at(stage.line))?;
        let count = stage.steps.len();
        for (n, step) in stage.steps.iter().enumerate() {
            let name = format!("[{label} {}/{count}] {}", n + 1, brief(&step.text));
            self.say(Stream::Step, name).await;
            self.step(&mut state, step, at)
                .await
                .map_err(|e| e.at(step.line))?;
        }
        Ok(state)
    }

    /// What a stage starts from.
    async fn start(&self, at: usize) -> Result<State> {
        let stage = &self.file.stages[at];
        if let Some(platform) = &stage.platform {
            let asked = self.with_args(platform)?;
            let own = self.args.get("TARGETPLATFORM").cloned().unwrap_or_default();
            if asked != own && asked != "linux" {
                let words = format!("FROM --platform={asked}: this machine is {own}");
                return Err(BuildError::dockerfile(words));
            }
        }
        let from = self.with_args(&stage.from)?;
        // A number is no name here: `FROM 1` would be an image.
        let earlier = self
            .file
            .stage(&from, at)
            .filter(|_| from.parse::<usize>().is_err());
        if let Some(done) = earlier.and_then(|earlier| self.done.get(&earlier)) {
            let mut state = done.clone();
            state.own_cmd = false;
            return Ok(state);
        }
        self.image(&from).await
    }

    async fn image(&self, from: &str) -> Result<State> {
        let mut state = State {
            files: Files::Image(from.to_owned()),
            key: String::new(),
            config: ImageConfig::default(),
            args: BTreeMap::new(),
            user: None,
            own_cmd: false,
        };
        if from == SCRATCH_IMAGE {
            state.key = cache::key(&[b"scratch"]);
            return Ok(state);
        }
        // The names of the usual registry's own images are written in several ways.
        let bare = ["docker.io/library/", "docker.io/"]
            .iter()
            .find_map(|prefix| from.strip_prefix(prefix))
            .unwrap_or(from);
        let names = [from, bare, bare.strip_suffix(":latest").unwrap_or(bare)];
        for name in names {
            match self.engine.get_image(name).await {
                Ok(info) => {
                    let digest = info.digest.unwrap_or_default();
                    state.files = Files::Image(info.name.clone());
                    state.key = cache::key(&[b"image", info.name.as_bytes(), digest.as_bytes()]);
                    state.user = info.config.uid.map(|uid| User {
                        uid,
                        gid: info.config.gid.unwrap_or(0),
                        home: None,
                    });
                    state.config = info.config;
                    return Ok(state);
                }
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) => return Err(e.into()),
            }
        }
        let words = format!(
            "no image {from:?} in the local store, and none is fetched from a registry by this version: import it, or start from {BASE_IMAGE}"
        );
        Err(BuildError::new(Cause::Image, words))
    }

    async fn step(&mut self, state: &mut State, step: &Step, at: usize) -> Result<()> {
        let escape = self.file.escape;
        let now = state.clone();
        let value = |text: &str| expand(text, escape, &|name| now.lookup(name));
        match &step.instruction {
            Instruction::Run {
                command,
                no_network,
                documents,
            } => {
                self.run_step(state, command, *no_network, documents)
                    .await?
            }
            Instruction::Copy(copy) => self.copy_step(state, copy, at).await?,
            Instruction::Env(pairs) => {
                for (name, text) in pairs {
                    let (name, text) = (value(name)?, value(text)?);
                    if name.is_empty() || name.contains(['=', '\0']) || text.contains('\0') {
                        let words = format!("ENV {name:?}: no name or value of a variable");
                        return Err(BuildError::dockerfile(words));
                    }
                    state.config.set_env(&name, &text);
                }
                let all: usize = state
                    .config
                    .env
                    .iter()
                    .map(|(k, v)| k.len() + v.len())
                    .sum();
                if all > MAX_ENV {
                    let words = format!("ENV: more than {MAX_ENV} bytes of variables");
                    return Err(BuildError::dockerfile(words));
                }
            }
            Instruction::Arg(args) => {
                for (name, default) in args {
                    self.used.insert(name.clone());
                    let given = self.spec.args.get(name).cloned();
                    let value = match (given, default) {
                        (Some(given), _) => Some(given),
                        (None, Some(default)) => Some(value(default)?),
                        (None, None) => self.args.get(name).cloned(),
                    };
                    if let Some(value) = value {
                        state.args.insert(name.clone(), value);
                    }
                }
            }
            Instruction::Label(pairs) => {
                for (name, text) in pairs {
                    state.config.labels.insert(value(name)?, value(text)?);
                }
            }
            Instruction::Workdir(path) => self.workdir_step(state, &value(path)?).await?,
            Instruction::User(user) => self.user_step(state, &value(user)?).await?,
            Instruction::Cmd(command) => {
                state.config.cmd = Some(argv(&state.config, command));
                state.own_cmd = true;
            }
            Instruction::Entrypoint(command) => {
                state.config.entrypoint = Some(argv(&state.config, command));
                if !state.own_cmd {
                    state.config.cmd = None;
                }
            }
            Instruction::Expose(ports) => {
                for port in ports {
                    let port = exposed(&value(port)?)?;
                    if !state.config.exposed.contains(&port) {
                        state.config.exposed.push(port);
                    }
                }
            }
            Instruction::Volume(paths) => {
                for path in paths {
                    let path = absolute("/", &value(path)?);
                    if !state.config.volumes.contains(&path) {
                        state.config.volumes.push(path);
                    }
                }
            }
            Instruction::StopSignal(signal) => state.config.stop_signal = Some(value(signal)?),
            Instruction::Shell(shell) => state.config.shell = Some(shell.clone()),
            Instruction::Healthcheck(check) => state.config.healthcheck = check.clone(),
        }
        Ok(())
    }

    async fn run_step(
        &mut self,
        state: &mut State,
        command: &Command,
        no_network: bool,
        documents: &[Document],
    ) -> Result<()> {
        let argv = match command {
            Command::Exec(argv) => argv.clone(),
            Command::Shell(text) => shell(&state.config, &script(text, documents)?),
        };
        let mut spec = ExecSpec::new(argv.clone());
        spec.env.extend(state.args.clone());
        if let Some(home) = state.user.as_ref().and_then(|u| u.home.clone()) {
            spec.env.insert("HOME".to_owned(), home);
        }
        spec.env.extend(state.config.env.iter().cloned());
        spec.cwd = Some(state.workdir().as_bytes().to_vec());
        (spec.uid, spec.gid) = match &state.user {
            Some(user) => (Some(user.uid), Some(user.gid)),
            None => (None, None),
        };
        let facts = format!(
            "{argv:?} {:?} {:?} {:?} {:?} {no_network}",
            spec.env, spec.cwd, spec.uid, spec.gid
        );
        let key = cache::key(&[state.key.as_bytes(), b"RUN", facts.as_bytes()]);
        let network = no_network.then_some(NetworkPolicy::None);
        let held = self.layer(state, &key, network, Job::Run(&spec)).await?;
        (state.files, state.key) = (Files::Step(held), key);
        Ok(())
    }

    async fn copy_step(&mut self, state: &mut State, copy: &Copy, at: usize) -> Result<()> {
        let escape = self.file.escape;
        let now = state.clone();
        let lookup = |name: &str| now.lookup(name);
        let value = |text: &str| expand(text, escape, &lookup);
        let mode = copy.chmod.as_deref().map(value).transpose()?;
        let mode = mode.as_deref().map(octal).transpose()?;
        let chown = copy.chown.as_deref().map(value).transpose()?;
        let mut texts = Vec::new();
        for document in &copy.documents {
            let content = match document.expand {
                true => expand_document(&document.content, escape, &lookup)?,
                false => document.content.clone(),
            };
            texts.push(Text {
                name: document.name.clone(),
                content,
            });
        }
        let target = value(&copy.target)?;
        let sources: Vec<String> = copy
            .sources
            .iter()
            .map(|s| value(s))
            .collect::<Result<_>>()?;

        // Another stage's files, in an instance for as long as they are read.
        let mut other = None;
        let mut origin = Vec::new();
        if copy.from.is_some() {
            let from = match self.copied_stage(copy, at)? {
                Some(stage) => self.done.get(&stage).cloned(),
                None => None,
            };
            let from = match from {
                Some(from) => from,
                None => {
                    self.image(&self.with_args(copy.from.as_deref().unwrap_or_default())?)
                        .await?
                }
            };
            origin = from.key.clone().into_bytes();
            let id = self.instance_id()?;
            let guard = Instance::new(self.engine, id.clone());
            let mut spec = self.instance(&from, id.clone());
            spec.network = NetworkPolicy::None;
            self.engine.create(spec).await?;
            let tree = Tree::Guest {
                engine: self.engine.clone(),
                id,
            };
            other = Some((tree, guard));
        }
        let context = self.context.clone();
        let tree = match &other {
            Some((tree, _)) => Some(tree),
            None => context.as_deref(),
        };
        let mut pieces = Vec::new();
        for source in &sources {
            let Some(tree) = tree else {
                return Err(BuildError::context("this build has no folder to copy from"));
            };
            pieces.extend(copy::pieces(tree, source).await?);
        }
        let into = target.ends_with('/') || target == "." || target.ends_with("/.");
        let absolute = absolute(state.workdir(), &target);
        let plan = Plan {
            pieces,
            texts,
            target: absolute.into_bytes(),
            into,
            mode,
        };
        let mut digest = Sha256::new();
        copy::digest(&plan, &mut digest).await?;
        let content = digest.finalize();
        let owner = chown.clone().unwrap_or_default();
        let what: &[u8] = if copy.add { b"ADD" } else { b"COPY" };
        let key = cache::key(&[
            state.key.as_bytes(),
            what,
            &origin,
            &content,
            owner.as_bytes(),
        ]);
        let job = Job::Copy {
            plan: &plan,
            chown: chown.as_deref(),
            add: copy.add,
        };
        let held = self
            .layer(state, &key, Some(NetworkPolicy::None), job)
            .await?;
        drop(plan);
        if let Some((_, guard)) = other {
            guard.remove().await?;
        }
        (state.files, state.key) = (Files::Step(held), key);
        Ok(())
    }

    async fn workdir_step(&mut self, state: &mut State, path: &str) -> Result<()> {
        let path = absolute(state.workdir(), path);
        state.config.workdir = Some(path.clone());
        if path == "/" {
            return Ok(());
        }
        let key = cache::key(&[state.key.as_bytes(), b"WORKDIR", path.as_bytes()]);
        let job = Job::Folder(&path);
        let held = self
            .layer(state, &key, Some(NetworkPolicy::None), job)
            .await?;
        (state.files, state.key) = (Files::Step(held), key);
        Ok(())
    }

    async fn user_step(&mut self, state: &mut State, user: &str) -> Result<()> {
        let found = if matches!(user, "root" | "0" | "root:root" | "0:0") {
            User {
                uid: 0,
                gid: 0,
                home: None,
            }
        } else {
            let id = self.instance_id()?;
            let guard = Instance::new(self.engine, id.clone());
            let mut spec = self.instance(state, id.clone());
            spec.network = NetworkPolicy::None;
            self.engine.create(spec).await?;
            let accounts = Accounts::read(&**self.engine, &id).await?;
            guard.remove().await?;
            accounts.user(user)?
        };
        state.config.user = Some(user.to_owned());
        (state.config.uid, state.config.gid) = (Some(found.uid), Some(found.gid));
        state.user = Some(found);
        Ok(())
    }

    async fn carry_out(&self, id: &InstanceId, job: Job<'_>) -> Result<()> {
        match job {
            Job::Nothing => Ok(()),
            Job::Run(spec) => self.exec(id, spec).await,
            Job::Copy { plan, chown, add } => {
                let owner = match chown {
                    Some(chown) => Accounts::read(&**self.engine, id).await?.owner(chown)?,
                    None => (0, 0),
                };
                let left_out = copy::run(plan, &**self.engine, id, owner, add).await?;
                for words in left_out {
                    self.say(Stream::Step, format!("warning: {words}")).await;
                }
                Ok(())
            }
            Job::Folder(path) => {
                let made = self.engine.make_dir(id, path.as_bytes(), 0o755, true).await;
                made.map_err(|e| match e.kind() {
                    Kind::Exists => {
                        BuildError::context(format!("{path}: a file is in the folder's place"))
                    }
                    _ => e.into(),
                })
            }
        }
    }

    fn instance_id(&self) -> Result<InstanceId> {
        Ok(InstanceId::new(format!("build-{}", random()))?)
    }

    fn instance(&self, state: &State, id: InstanceId) -> InstanceSpec {
        let mut spec = InstanceSpec::new(id);
        spec.hostname = "build".to_owned();
        spec.labels = cache::labels(None);
        spec.source = state.source();
        spec.limits = self.spec.limits.clone();
        spec.network = self.spec.network.clone();
        spec
    }

    /// The files that a step leaves: those of a former time, or made now in an instance of its own.
    pub(crate) async fn layer(
        &mut self,
        state: &State,
        key: &str,
        network: Option<NetworkPolicy>,
        job: Job<'_>,
    ) -> Result<Held> {
        self.steps += 1;
        if let Some(id) = self.known.get(key) {
            let held = self.in_use.hold(id);
            // Held first, looked for then: it cannot go in between.
            let there = cache::index(&**self.engine).await?;
            if there.values().any(|known| known == id) {
                self.cached += 1;
                self.say(Stream::Step, "cached").await;
                return Ok(held);
            }
        }
        let id = self.instance_id()?;
        let guard = Instance::new(self.engine, id.clone());
        let mut spec = self.instance(state, id.clone());
        if let Some(network) = network {
            spec.network = network;
        }
        self.engine.create(spec).await?;
        self.carry_out(&id, job).await?;
        // What is stopped becomes a layer as it is; a running one would be copied.
        self.engine.stop(&id, StopMode::default()).await?;
        let snapshot = SnapshotId::new(format!("build-{}", random()))?;
        let held = self.in_use.hold(&snapshot);
        let spec = SnapshotSpec {
            id: snapshot.clone(),
            labels: cache::labels(Some(key)),
        };
        self.engine.snapshot(&id, spec).await?;
        guard.remove().await?;
        self.known.insert(key.to_owned(), snapshot);
        Ok(held)
    }
}

fn octal(text: &str) -> Result<u32> {
    let digits =
        !text.is_empty() && text.len() <= 5 && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| digits && *mode <= 0o7777)
        .ok_or_else(|| {
            BuildError::dockerfile(format!(
                "--chmod={text}: octal digits such as 755 are possible"
            ))
        })
}

/// `8080` as `8080/tcp`; ranges stay ranges.
fn exposed(text: &str) -> Result<String> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    let port = |text: &str| text.parse::<u16>().is_ok_and(|p| p > 0);
    let good = match ports.split_once('-') {
        Some((first, last)) => port(first) && port(last),
        None => port(ports),
    };
    if !good || !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        let words = format!("EXPOSE {text}: a port such as 8080 or 53/udp");
        return Err(BuildError::dockerfile(words));
    }
    Ok(format!("{ports}/{protocol}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_absolute() {
        assert_eq!(absolute("/", "app"), "/app");
        assert_eq!(absolute("/app", "./x/../y/"), "/app/y");
        assert_eq!(absolute("/app", "/../b"), "/b");
        assert_eq!(absolute("/app", "../../.."), "/");
    }

    #[test]
    fn ports_and_modes() {
        assert_eq!(exposed("80").unwrap(), "80/tcp");
        assert_eq!(exposed("53/UDP").unwrap(), "53/udp");
        assert_eq!(exposed("7000-7005").unwrap(), "7000-7005/tcp");
        for bad in ["", "x", "0", "70000", "80/http", "80-"] {
            assert!(exposed(bad).is_err(), "{bad}");
        }
        assert_eq!(octal("0755").unwrap(), 0o755);
        for bad in ["", "u+x", "8", "77777"] {
            assert!(octal(bad).is_err(), "{bad}");
        }
    }
}
