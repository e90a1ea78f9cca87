//! Incus: a container or virtual machine is an instance, and its name, which no other has in its project, the id.

mod calls;
mod copy;
mod exec;
mod facts;

use std::any::Any;
use std::collections::BTreeMap;
use std::time::Duration;

use boxrig_incus::models::{
    InstanceFull, InstancePut, InstanceSnapshotsPost, InstanceSource, InstanceStatePut,
    InstancesPost,
};
use boxrig_incus::{Client, List, Sync, ops};
use boxrig_wire::{BoxFuture, BoxStream, Error, Json, Kind, NoBody, Operation, Result, Untrusted};
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use crate::{
    Capabilities, Capability, Compute, CopyReport, CopySpec, ExecSession, ExecSpec, ForkSpec,
    Instance, LaunchSpec, ListOptions, LogOptions, Platform, Power, Snapshot, SnapshotSpec, Source,
    State, ready,
};

/// The configuration key under which a launch leaves its token.
pub const TOKEN_KEY: &str = "user.boxrig.token";

/// Configuration keys that people and programs label instances with.
const LABELS: &str = "user.";

/// How long an instance may take to stop by itself, in seconds, when nothing is said: what the standard tool gives it.
const GRACE: i64 = 30;

/// The distance of looks at a console that is followed.
const FOLLOW: Duration = Duration::from_millis(500);

const CAPABILITIES: &[Capability] = &[
    Capability::List,
    Capability::Launch,
    Capability::LaunchFromSnapshot,
    Capability::ExactlyOnce,
    Capability::Delete,
    Capability::Start,
    Capability::Stop,
    Capability::Restart,
    Capability::Pause,
    Capability::Resume,
    Capability::Exec,
    Capability::ExecStdin,
    Capability::ExecTty,
    Capability::ExecSignal,
    Capability::ExecStderr,
    Capability::Copy,
    Capability::Logs,
    Capability::LogsFollow,
    Capability::Snapshot,
    Capability::SnapshotFiles,
    Capability::Restore,
    Capability::Fork,
];

/// A project of an Incus server as a context.
#[derive(Clone, Debug)]
pub struct Incus {
    context: String,
    client: Client,
    image: Option<String>,
}

impl Incus {
    /// Through `client`, shown as `context`, in the client's project.
    pub fn new(context: impl Into<String>, client: Client) -> Self {
        Self {
            context: context.into(),
            client,
            image: None,
        }
    }

    /// Starting from this image (alias or fingerprint) when a launch names none.
    pub fn image(mut self, image: impl Into<String>) -> Self {
        self.image = Some(image.into());
        self
    }

    /// The complete native client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// An instance as it is kept, which the server has at hand.
    async fn kept(&self, name: &str) -> Result<InstanceFull> {
        let got = self
            .call::<ops::instances::InstanceGet>((name.to_owned(),), Default::default(), NoBody)
            .await?;
        Ok(got.metadata)
    }

    /// An instance with its addresses and what else the server has to look for in the instance itself.
    async fn full(&self, name: &str) -> Result<InstanceFull> {
        let query = ops::queries::ProjectRecursionQuery {
            recursion: Some(1),
            ..Default::default()
        };
        let got = self
            .call::<ops::instances::InstanceGet>((name.to_owned(),), query, NoBody)
            .await?;
        Ok(got.metadata)
    }

    /// The image that a launch starts from, and what kind of instance it makes.
    async fn source(&self, source: &Source) -> Result<(InstanceSource, String)> {
        let image = match source {
            Source::Snapshot(id) => {
                let copy = with(|p: &mut InstanceSource| {
                    p.r#type = "copy".to_owned();
                    p.source = id.clone();
                });
                let (instance, _) = split_snapshot(id)?;
                return Ok((copy, self.kept(instance).await?.r#type));
            }
            Source::Image(image) => image,
            Source::Default => self.image.as_ref().ok_or_else(|| {
                Error::new(
                    Kind::Invalid,
                    "Incus has no image that is meant when none is named",
                )
                .with_hint(
                    "name one with --image, or one for the context: `boxrig ctx add … --image`",
                )
            })?,
        };
        let mut source = with(|p: &mut InstanceSource| {
            p.r#type = "image".to_owned();
        });
        let alias = self
            .call::<ops::images::ImageAliasGet>((image.clone(),), Default::default(), NoBody)
            .await;
        let kind = match alias {
            Ok(alias) => {
                source.fingerprint = alias.metadata.target;
                alias.metadata.r#type
            }
            Err(e) if e.kind() == Kind::NotFound && is_fingerprint(image) => {
                source.fingerprint.clone_from(image);
                String::new()
            }
            Err(e) if e.kind() == Kind::NotFound => {
                let image = Untrusted::new(image.as_str());
                return Err(e
                    .context(format!("no image is called {image}"))
                    .with_hint("`boxrig incus images-aliases-get` lists them"));
            }
            Err(e) => return Err(e),
        };
        Ok((source, kind))
    }

    async fn make(&self, spec: LaunchSpec) -> Result<Instance> {
        if spec.ttl.is_some() {
            return Err(Error::new(Kind::Unsupported, "incus has no time to live")
                .with_hint("snapshots can expire; an instance is removed by `boxrig rm`"));
        }
        let name = match &spec.name {
            Some(name) => name.clone(),
            None => facts::name_of(&spec.token),
        };
        if spec.may_be_known()
            && let Some(found) = self.launched(&name, &spec.token).await?
        {
            return self.running(found, spec.wait_timeout).await;
        }
        let (source, kind) = self.source(&spec.source).await?;
        let mut config: BTreeMap<String, String> = spec
            .labels
            .iter()
            .map(|(k, v)| (format!("{LABELS}{k}"), v.clone()))
            .collect();
        config.extend(
            spec.env
                .iter()
                .map(|(k, v)| (format!("environment.{k}"), v.clone())),
        );
        facts::limits(&spec, &mut config)?;
        config.insert(TOKEN_KEY.to_owned(), spec.token.clone());
        let mut post = with(|p: &mut InstancesPost| {
            p.name = name.clone();
            p.source = source;
            p.config = config;
            p.start = true;
        });
        post.r#type = kind;
        if let Some(bytes) = spec.disk {
            post.devices = self.root_of_size(bytes).await?;
        }
        self.create(post, &spec.token, spec.wait_timeout).await
    }

    /// Makes an instance once: where the answer is lost, or the name is taken, the token says whose it is.
    async fn create(&self, post: InstancesPost, token: &str, limit: Duration) -> Result<Instance> {
        let name = post.name.clone();
        let made = async {
            let started = self
                .call::<ops::instances::InstancesPost>((), Default::default(), Json(post))
                .await?;
            self.ended(started, limit).await
        };
        if let Err(e) = made.await {
            let certain = matches!(
                e.kind(),
                Kind::Invalid | Kind::Denied | Kind::Unauthenticated | Kind::Unsupported
            );
            if certain {
                return Err(e);
            }
            // What was asked for may be there all the same, or the name be somebody else's.
            match self.launched(&name, token).await {
                Ok(Some(_)) => {}
                Err(taken) if taken.kind() == Kind::Conflict => return Err(taken),
                _ => return Err(e),
            }
        }
        let made = self.kept(&name).await?;
        self.running(made, limit).await
    }

    /// The instance of an earlier launch under this token.
    ///
    /// # Errors
    ///
    /// [`Kind::Conflict`] when somebody else's has the name.
    async fn launched(&self, name: &str, token: &str) -> Result<Option<InstanceFull>> {
        match self.kept(name).await {
            Ok(found) if found.config.get(TOKEN_KEY).is_some_and(|t| t == token) => Ok(Some(found)),
            Ok(_) => {
                let name = Untrusted::new(name);
                let e = format!("an instance called {name} is there already");
                Err(Error::new(Kind::Conflict, e))
            }
            Err(e) if e.kind() == Kind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Starts it where the server did not do so by itself.
    async fn running(&self, found: InstanceFull, limit: Duration) -> Result<Instance> {
        if facts::state(found.status_code) == State::Running {
            return Ok(self.instance(found));
        }
        let put = with(|p: &mut InstanceStatePut| {
            p.action = "start".to_owned();
            p.timeout = -1;
        });
        self.change_state(&found.name, put, State::Running, limit)
            .await
    }

    /// Asks for a state and gives the instance in it. That it is in that state already is no error.
    async fn change_state(
        &self,
        name: &str,
        put: InstanceStatePut,
        wanted: State,
        limit: Duration,
    ) -> Result<Instance> {
        let done = async {
            let path = (name.to_owned(),);
            let started = self
                .call::<ops::instances::InstanceStatePut>(path, Default::default(), Json(put))
                .await?;
            self.ended(started, limit).await
        };
        let failed = done.await.err();
        match self.kept(name).await {
            Ok(now) if failed.is_none() || facts::state(now.status_code) == wanted => {
                Ok(self.instance(now))
            }
            Ok(_) => {
                Err(failed.unwrap_or_else(|| Error::new(Kind::Failed, "its state is another")))
            }
            Err(e) => Err(failed.unwrap_or(e)),
        }
    }

    async fn power_to(&self, name: &str, power: Power) -> Result<Instance> {
        let now = self.kept(name).await?;
        let state = facts::state(now.status_code);
        let (action, wanted) = match power {
            Power::Start if state == State::Paused => ("unfreeze", State::Running),
            Power::Start => ("start", State::Running),
            Power::Stop { .. } => ("stop", State::Stopped),
            Power::Restart { .. } => ("restart", State::Running),
            Power::Pause => ("freeze", State::Paused),
            Power::Resume => ("unfreeze", State::Running),
        };
        let restart = matches!(power, Power::Restart { .. });
        if state == wanted && !restart {
            return Ok(self.instance(now));
        }
        let (force, grace) = match power {
            Power::Stop { force, grace } => (force, grace),
            Power::Restart { force } => (force, None),
            _ => (false, None),
        };
        let grace = grace.map_or(GRACE, |g| i64::try_from(g.as_secs()).unwrap_or(i64::MAX));
        let put = with(|p: &mut InstanceStatePut| {
            p.action = action.to_owned();
            p.force = force;
            p.timeout = grace;
        });
        let limit = Duration::from_secs(300);
        // A restart is done only when it is done: the state before it is the wanted one too.
        let wanted = if restart { State::from("") } else { wanted };
        self.change_state(name, put, wanted, limit).await
    }

    async fn remove(&self, name: &str) -> Result<()> {
        let now = self.kept(name).await?;
        if facts::state(now.status_code) != State::Stopped {
            let put = with(|p: &mut InstanceStatePut| {
                p.action = "stop".to_owned();
                p.force = true;
                p.timeout = -1;
            });
            let limit = Duration::from_secs(60);
            match self.change_state(name, put, State::Stopped, limit).await {
                // An ephemeral one is gone with its stop.
                Err(e) if e.kind() == Kind::NotFound => return Ok(()),
                other => other?,
            };
        }
        let path = (name.to_owned(),);
        let started = self
            .call::<ops::instances::InstanceDelete>(path, Default::default(), NoBody)
            .await?;
        self.ended(started, Duration::from_secs(300))
            .await
            .map(drop)
    }

    async fn snapshot_of(&self, name: &str, spec: SnapshotSpec) -> Result<Snapshot> {
        let own = || format!("snap-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
        let snapshot = spec.name.unwrap_or_else(own);
        let post = with(|p: &mut InstanceSnapshotsPost| {
            p.name = snapshot.clone();
        });
        let started = self
            .call::<ops::instance_snapshots::InstanceSnapshotsPost>(
                (name.to_owned(),),
                Default::default(),
                Json(post),
            )
            .await?;
        self.ended(started, Duration::from_secs(600)).await?;
        let path = (name.to_owned(), snapshot.clone());
        let got = self
            .call::<ops::instance_snapshots::InstanceSnapshotGet>(path, Default::default(), NoBody)
            .await?;
        let mut made = Snapshot::new(format!("{name}/{snapshot}"));
        made.name = Untrusted::new(snapshot);
        made.instance = Some(name.to_owned());
        made.state = Untrusted::new("ready");
        made.created = facts::time(&got.metadata.created_at);
        made.raw = serde_json::to_value(&got.metadata).unwrap_or_default();
        Ok(made)
    }

    async fn back_to(&self, name: &str, snapshot: &str) -> Result<Instance> {
        let snapshot = match split_snapshot(snapshot) {
            Ok((of, snapshot)) if of == name => snapshot,
            Ok((of, _)) => {
                let (of, name) = (Untrusted::new(of), Untrusted::new(name));
                let why = format!("that is a snapshot of {of}, not of {name}");
                return Err(Error::new(Kind::Invalid, why));
            }
            Err(_) => snapshot,
        };
        // With `restore` the server takes nothing else of the document.
        let put = with(|p: &mut InstancePut| {
            p.restore = snapshot.to_owned();
        });
        let started = self
            .call::<ops::instances::InstancePut>((name.to_owned(),), Default::default(), Json(put))
            .await?;
        self.ended(started, Duration::from_secs(600)).await?;
        Ok(self.instance(self.kept(name).await?))
    }

    async fn copy_of(&self, name: &str, spec: ForkSpec) -> Result<Instance> {
        let original = self.kept(name).await?;
        let token = uuid::Uuid::new_v4().simple().to_string();
        let copy = spec.name.unwrap_or_else(|| facts::name_of(&token));
        let mut config: BTreeMap<String, String> = spec
            .labels
            .iter()
            .map(|(k, v)| (format!("{LABELS}{k}"), v.clone()))
            .collect();
        // The copy is no launch of the original's token.
        config.insert(TOKEN_KEY.to_owned(), token.clone());
        let mut post = with(|p: &mut InstancesPost| {
            p.name = copy;
            p.config = config;
            p.start = true;
            p.source = with(|p: &mut InstanceSource| {
                p.r#type = "copy".to_owned();
                p.source = name.to_owned();
                p.instance_only = true;
                // Files may change while a running instance is copied: no reason to give up.
                p.allow_inconsistent = true;
            });
        });
        post.r#type = original.r#type;
        self.create(post, &token, Duration::from_secs(600)).await
    }

    /// The console's log as it is now.
    async fn console(&self, name: &str) -> Result<Bytes> {
        let reply = self
            .call::<ops::instances::InstanceConsoleGet>(
                (name.to_owned(),),
                Default::default(),
                NoBody,
            )
            .await?;
        reply
            .body
            .collect(64 << 20)
            .await
            .map_err(|e| Error::new(Kind::Transport, "the log broke off").with_source(e))
    }
}

/// A document that is empty but for what is set.
fn with<T: Default>(set: impl FnOnce(&mut T)) -> T {
    let mut document = T::default();
    set(&mut document);
    document
}

/// `instance/snapshot`.
fn split_snapshot(id: &str) -> Result<(&str, &str)> {
    id.split_once('/')
        .ok_or_else(|| Error::new(Kind::Invalid, "a snapshot's id is INSTANCE/SNAPSHOT"))
}

fn is_fingerprint(text: &str) -> bool {
    (12..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The last lines of a text.
fn tail(text: &Bytes, lines: u64) -> Bytes {
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let mut left = lines;
    for (at, byte) in body.iter().enumerate().rev() {
        if left == 0 {
            return Bytes::new();
        }
        if *byte == b'\n' {
            left -= 1;
            if left == 0 {
                return text.slice(at + 1..);
            }
        }
    }
    if left == 0 {
        Bytes::new()
    } else {
        text.clone()
    }
}

/// What is new in a console's log. The log is a ring: when it has dropped its beginning, the end of what was seen is
/// looked for in it.
fn news(seen: &Bytes, now: &Bytes) -> Bytes {
    if now.starts_with(seen) {
        return now.slice(seen.len()..);
    }
    let known = &seen[seen.len().saturating_sub(4096)..];
    let found = now
        .windows(known.len().max(1))
        .rposition(|window| window == known);
    match found {
        Some(at) => now.slice(at + known.len()..),
        None => now.clone(),
    }
}

impl Compute for Incus {
    fn platform(&self) -> Platform {
        Platform::Incus
    }

    fn context(&self) -> &str {
        &self.context
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new("incus", CAPABILITIES).with_native(
            Capability::ExecDetach,
            "have the output recorded: `boxrig incus instance-exec-post NAME -d record-output=true …`",
        )
    }

    fn native(&self) -> &dyn Any {
        &self.client
    }

    fn names_are_ids(&self) -> bool {
        true
    }

    fn list(&self, options: ListOptions) -> BoxStream<'_, Result<Instance>> {
        let query = ops::instances::InstancesGetQuery {
            // Addresses are part of the state, which the server has to ask every instance for.
            recursion: Some(if options.addresses { 2 } else { 1 }),
            filter: facts::filter(&options),
            ..Default::default()
        };
        stream::once(async move {
            self.call::<ops::instances::InstancesGet>((), query, NoBody)
                .await
        })
        .flat_map(move |listed| {
            let options = options.clone();
            let items: Vec<Result<Instance>> = match listed {
                Ok(Sync { metadata, .. }) => List::items(metadata)
                    .into_iter()
                    .map(|i| self.instance(i))
                    .filter(|i| options.matches(i))
                    .map(Ok)
                    .collect(),
                Err(e) => vec![Err(e)],
            };
            stream::iter(items)
        })
        .boxed()
    }

    fn get<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Instance>> {
        Box::pin(async move { Ok(self.instance(self.full(id).await?)) })
    }

    fn look<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Instance>> {
        Box::pin(async move { Ok(self.instance(self.kept(id).await?)) })
    }

    fn launch(&self, spec: LaunchSpec) -> BoxFuture<'_, Result<Operation<Instance>>> {
        Box::pin(async move {
            let made = self.make(spec).await?;
            Ok(ready(made.id.clone(), made))
        })
    }

    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.remove(id))
    }

    fn power<'a>(&'a self, id: &'a str, power: Power) -> BoxFuture<'a, Result<Instance>> {
        Box::pin(self.power_to(id, power))
    }

    fn exec<'a>(&'a self, id: &'a str, spec: ExecSpec) -> BoxFuture<'a, Result<ExecSession>> {
        Box::pin(self.command(id, spec))
    }

    fn copy<'a>(&'a self, id: &'a str, spec: CopySpec) -> BoxFuture<'a, Result<CopyReport>> {
        Box::pin(self.transfer(id, spec))
    }

    fn logs<'a>(
        &'a self,
        id: &'a str,
        options: LogOptions,
    ) -> BoxFuture<'a, Result<BoxStream<'static, Result<Bytes>>>> {
        Box::pin(async move {
            // The main process of an instance writes to its console: there is one log.
            let whole = self.console(id).await?;
            let first = match options.tail {
                Some(lines) => tail(&whole, lines),
                None => whole.clone(),
            };
            let first = stream::once(async move { Ok(first) });
            if !options.follow {
                return Ok(first.boxed());
            }
            let follow = Follow {
                backend: self.clone(),
                id: id.to_owned(),
                seen: whole,
                keeps: None,
            };
            Ok(first.chain(stream::unfold(follow, Follow::next)).boxed())
        })
    }

    fn snapshot<'a>(
        &'a self,
        id: &'a str,
        spec: SnapshotSpec,
    ) -> BoxFuture<'a, Result<Operation<Snapshot>>> {
        Box::pin(async move {
            let made = self.snapshot_of(id, spec).await?;
            Ok(ready(made.id.clone(), made))
        })
    }

    fn restore<'a>(
        &'a self,
        id: &'a str,
        snapshot: &'a str,
    ) -> BoxFuture<'a, Result<Operation<Instance>>> {
        Box::pin(async move { Ok(ready(id, self.back_to(id, snapshot).await?)) })
    }

    fn fork<'a>(
        &'a self,
        id: &'a str,
        spec: ForkSpec,
    ) -> BoxFuture<'a, Result<Operation<Instance>>> {
        Box::pin(async move {
            let made = self.copy_of(id, spec).await?;
            Ok(ready(made.id.clone(), made))
        })
    }
}

/// A console's log that is followed.
struct Follow {
    backend: Incus,
    id: String,
    seen: Bytes,
    /// Whether the server shows what it has shown again: that of a running container (6.0) shows each line once.
    keeps: Option<bool>,
}

impl Follow {
    async fn next(mut self) -> Option<(Result<Bytes>, Self)> {
        loop {
            tokio::time::sleep(FOLLOW).await;
            match self.backend.console(&self.id).await {
                Ok(now) => {
                    if !self.seen.is_empty() && self.keeps.is_none() {
                        self.keeps = Some(now.starts_with(&self.seen));
                    }
                    let new = match self.keeps {
                        Some(true) => news(&self.seen, &now),
                        _ => now.clone(),
                    };
                    self.seen = now;
                    if !new.is_empty() {
                        return Some((Ok(new), self));
                    }
                }
                // An instance that has stopped or is gone writes nothing any more.
                Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Invalid) => return None,
                Err(e) if e.is_retryable() => {}
                Err(e) => return Some((Err(e), self)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines() {
        let text = Bytes::from_static(b"a\nb\nc\n");
        for (lines, wanted) in [
            (0, ""),
            (1, "c\n"),
            (2, "b\nc\n"),
            (3, "a\nb\nc\n"),
            (9, "a\nb\nc\n"),
        ] {
            assert_eq!(tail(&text, lines), wanted, "{lines}");
        }
        assert_eq!(tail(&Bytes::from_static(b"a\nb"), 1), "b");
        assert_eq!(tail(&Bytes::new(), 3), "");
    }

    #[test]
    fn a_ring_that_dropped_its_beginning_repeats_nothing() {
        let bytes = |s: &'static str| Bytes::from_static(s.as_bytes());
        assert_eq!(news(&bytes("ab"), &bytes("abc")), "c");
        assert_eq!(news(&bytes("xab"), &bytes("abc")), "abc");
        let seen = Bytes::from("x".repeat(10) + &"0123456789".repeat(500));
        let now = Bytes::from("0123456789".repeat(450) + "new");
        assert_eq!(news(&seen, &now), "new");
        assert_eq!(news(&bytes(""), &bytes("abc")), "abc");
    }

    #[test]
    fn snapshots_and_fingerprints_are_told_apart() {
        assert_eq!(split_snapshot("c1/s").unwrap(), ("c1", "s"));
        assert_eq!(split_snapshot("c1").unwrap_err().kind(), Kind::Invalid);
        assert!(is_fingerprint("916e1449f31b"));
        assert!(!is_fingerprint("debian/12") && !is_fingerprint("abc"));
    }
}
