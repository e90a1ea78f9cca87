//! An instance from its launch to its end.

use std::collections::BTreeMap;
use std::time::Duration;

use boxrig_incus::models::{InstanceFull, InstanceSource, InstanceStatePut, InstancesPost};
use boxrig_incus::ops;
use boxrig_wire::{Error, Json, Kind, NoBody, Result, Untrusted};

use super::snapshots::split_snapshot;
use super::{Incus, LABELS, TOKEN_KEY, facts, with};
use crate::{Instance, LaunchSpec, Power, Source, State};

/// How long an instance may take to stop by itself, in seconds, when nothing is said: what the standard tool gives it.
const GRACE: i64 = 30;

impl Incus {
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

    pub(super) async fn make(&self, spec: LaunchSpec) -> Result<Instance> {
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
    pub(super) async fn create(
        &self,
        post: InstancesPost,
        token: &str,
        limit: Duration,
    ) -> Result<Instance> {
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

    pub(super) async fn power_to(&self, name: &str, power: Power) -> Result<Instance> {
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

    pub(super) async fn remove(&self, name: &str) -> Result<()> {
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
}

fn is_fingerprint(text: &str) -> bool {
    (12..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_told_from_aliases() {
        assert!(is_fingerprint("916e1449f31b"));
        assert!(!is_fingerprint("debian/12") && !is_fingerprint("abc"));
    }
}
