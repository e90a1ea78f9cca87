//! Environment variables: read from the newest release, changed by making another.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Deref;

use boxrig_wire::{Error, Kind, Result, Secret, Untrusted};

use super::group;
use crate::models::Release;
use crate::ops::releases::ReleaseCreateForm;

group! {
    /// Environment variables of an app.
    Environment by environment,
}

/// Variables of an app. `Debug` shows their names only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Variables(BTreeMap<String, String>);

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Deref for Variables {
    type Target = BTreeMap<String, String>;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Variables {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(k, v)| (k.into(), v.into()))
                .collect(),
        )
    }
}

impl Variables {
    /// Reads lines `KEY=value` as racks do: split at the first `=`, no quoting, no comments; what has no `=` is nothing.
    ///
    /// ```
    /// use boxrig_convox::Variables;
    /// let vars = Variables::parse("A=1\n#B=x=y\n\nC=\n");
    /// assert_eq!(vars.get("#B").unwrap(), "x=y");
    /// assert_eq!(vars.len(), 3);
    /// ```
    pub fn parse(text: &str) -> Self {
        text.lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.trim(), value))
            .filter(|(key, _)| !key.is_empty())
            .collect()
    }

    /// The lines that a release is made with.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] for a name or value that one line cannot hold: racks would read the rest of a value as further
    /// variables, without an error.
    pub fn to_lines(&self) -> Result<Secret> {
        let mut text = String::new();
        for (key, value) in &self.0 {
            let invalid = |why: &str| {
                let shown = Untrusted::new(&**key);
                Error::new(Kind::Invalid, format!("the variable {shown} {why}"))
                    .with_operation("ReleaseCreate")
            };
            if key.is_empty() || key.trim() != key || key.contains(['=', '\n', '\r', '\0']) {
                return Err(invalid("has a name that racks cannot keep"));
            }
            if value.contains(['\n', '\r', '\0']) {
                return Err(invalid(
                    "has a value with a line break, and racks keep one line for a variable",
                )
                .with_hint(
                    "encode it (base64), or make it a config: `boxrig convox app-config-set`",
                ));
            }
            text.push_str(&format!("{key}={value}\n"));
        }
        Ok(Secret::new(text))
    }
}

impl Variables {
    /// Does what was done from `before` to `after`.
    fn follow(&mut self, before: &Self, after: Self) {
        self.0
            .retain(|key, _| after.contains_key(key) || !before.contains_key(key));
        let changed = after
            .0
            .into_iter()
            .filter(|(key, value)| before.get(key) != Some(value));
        self.0.extend(changed);
    }
}

/// A change of an app's variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvChange {
    set: Variables,
    unset: BTreeSet<String>,
    replace: bool,
    of: Option<String>,
    promote: bool,
}

impl EnvChange {
    /// No change yet.
    pub fn new() -> Self {
        Self::default()
    }
    /// Sets a variable.
    pub fn set(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.set.0.insert(key.into(), value.into());
        self
    }
    /// Takes a variable away.
    pub fn unset(mut self, key: impl Into<String>) -> Self {
        self.unset.insert(key.into());
        self
    }
    /// Takes all others away.
    pub fn replace(mut self) -> Self {
        self.replace = true;
        self
    }
    /// Only when this is still the newest release.
    pub fn of(mut self, release: impl Into<String>) -> Self {
        self.of = Some(release.into());
        self
    }
    /// Makes the new release the active one too. Answers at once: see [`crate::Apps::settle`].
    pub fn promote(mut self) -> Self {
        self.promote = true;
        self
    }

    fn apply(&self, to: Variables) -> Variables {
        let mut out = if self.replace {
            Variables::default()
        } else {
            to
        };
        out.0.retain(|key, _| !self.unset.contains(key));
        out.0.extend(self.set.0.clone());
        out
    }
}

/// How often a change is made anew because somebody else's came between.
const TRIES: u32 = 3;
/// How many of the newest releases are looked at for those of others.
const LOOKED_AT: u32 = 50;

impl Environment<'_> {
    /// The variables of the newest release: those that the next change begins with. (The active release may have others:
    /// see [`active`](Self::active).)
    ///
    /// # Errors
    ///
    /// The rack's.
    pub async fn get(&self, app: &str) -> Result<Variables> {
        let releases = self.releases();
        let newest = releases.newest(app).await?;
        self.variables(app, newest.as_ref().map(|r| &*r.id)).await
    }

    /// The variables that the running processes have.
    ///
    /// # Errors
    ///
    /// The rack's.
    pub async fn active(&self, app: &str) -> Result<Variables> {
        let of = self
            .client
            .apps()
            .with(self.options.clone())
            .get(app)
            .await?;
        if of.release.is_empty() {
            return Ok(Variables::default());
        }
        Ok(Variables::parse(
            self.releases().get(app, &of.release).await?.env.expose(),
        ))
    }

    /// Sets variables: a new release, which is not promoted. (The vendor's SDK promotes it; see [`EnvChange::promote`].)
    ///
    /// # Errors
    ///
    /// As [`change`](Self::change).
    pub async fn set<K: Into<String>, V: Into<String>>(
        &self,
        app: &str,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Release> {
        let set = variables.into_iter().collect();
        self.change(
            app,
            EnvChange {
                set,
                ..EnvChange::new()
            },
        )
        .await
    }

    /// Takes variables away: a new release, which is not promoted.
    ///
    /// # Errors
    ///
    /// As [`change`](Self::change).
    pub async fn unset(&self, app: &str, keys: &[&str]) -> Result<Release> {
        let unset = keys.iter().map(|k| (*k).to_owned()).collect();
        self.change(
            app,
            EnvChange {
                unset,
                ..EnvChange::new()
            },
        )
        .await
    }

    /// Makes a release with changed variables, from the newest one. Racks take no condition along, so it is looked
    /// afterwards whether somebody else's release came between; then another is made that has both changes, and
    /// nothing is lost. Gives the last release that was made.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] for a name or value that racks cannot keep, [`Kind::Precondition`] when another release is the
    /// newest than [`EnvChange::of`] says, [`Kind::Conflict`] when others' releases came between again and again.
    pub async fn change(&self, app: &str, change: EnvChange) -> Result<Release> {
        // What is wrong in itself is said before anything is asked.
        change.apply(Variables::default()).to_lines()?;
        let releases = self.releases();
        let mut base = releases.newest(app).await?.map(|r| r.id);
        if let Some(of) = &change.of
            && base.as_ref() != Some(of)
        {
            let newest = Untrusted::new(base.unwrap_or_else(|| "none".to_owned()));
            return Err(Error::new(
                Kind::Precondition,
                format!(
                    "the newest release is {newest}, not {}",
                    Untrusted::new(&**of)
                ),
            )
            .with_operation("ReleaseCreate")
            .with_hint("read the variables again, and make the change on those"));
        }
        let before = self.variables(app, base.as_deref()).await?;
        let mut wanted = change.apply(before);
        for _ in 0..TRIES {
            let form = ReleaseCreateForm {
                env: Some(wanted.to_lines()?),
                ..Default::default()
            };
            let made = releases.create(app, form).await?;
            let list = releases.list(app, Some(LOOKED_AT)).await?;
            let ids: Vec<&str> = list.iter().map(|r| &*r.id).collect();
            let ours = ids.iter().position(|id| *id == made.id);
            let begun = match &base {
                Some(base) => ids.iter().position(|id| id == base),
                None => Some(ids.len()),
            };
            let Some((ours, begun)) = ours.zip(begun) else {
                break;
            };
            if begun == ours + 1 {
                if change.promote {
                    releases.promote(app, &made.id).await.map_err(|e| {
                        e.context(format!(
                            "the release {} was made and not promoted",
                            Untrusted::new(&*made.id)
                        ))
                    })?;
                }
                return Ok(made);
            }
            // What the others changed, each on the release before it, goes on top of ours; where both changed the same,
            // ours counts.
            for at in (ours + 1..begun).rev() {
                let theirs = self.variables(app, ids.get(at).copied()).await?;
                let before = self.variables(app, ids.get(at + 1).copied()).await?;
                wanted.follow(&before, theirs);
            }
            wanted = EnvChange {
                replace: false,
                ..change.clone()
            }
            .apply(wanted);
            base = Some(made.id);
        }
        Err(Error::new(
            Kind::Conflict,
            "releases of somebody else came between, again and again; nothing was promoted",
        )
        .with_operation("ReleaseCreate")
        .with_retryable(true)
        .with_hint("look at the releases, and make the change again when it is quiet"))
    }

    /// The variables of a release; none of none.
    async fn variables(&self, app: &str, release: Option<&str>) -> Result<Variables> {
        match release {
            None => Ok(Variables::default()),
            Some(id) => Ok(Variables::parse(
                self.releases().get(app, id).await?.env.expose(),
            )),
        }
    }

    fn releases(&self) -> super::Releases<'_> {
        self.client.releases().with(self.options.clone())
    }
}
