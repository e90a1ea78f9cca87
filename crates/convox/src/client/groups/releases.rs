//! Releases.

use boxrig_wire::{Error, Form, Kind, Result, Untrusted};

use super::{one, two};
use crate::client::{calls, group};
use crate::models::Release;
use crate::ops;
use crate::ops::releases::{ReleaseCreateForm, ReleaseListQuery, ReleasePromoteForm};

group! {
    /// Releases: what is, was or can be run of an app.
    Releases by releases,
}

calls! { Releases {
    /// One release, with its environment and manifest.
    get(app: &str, release: &str) -> Release = ops::releases::ReleaseGet { path: two(app, release) };
    /// Makes a release of the newest one, or of that named as parent, with another build or environment. Never sent twice.
    create(app: &str, form: ReleaseCreateForm) -> Release = ops::releases::ReleaseCreate { path: one(app), body: Form(form) };
    /// Makes a release the active one, with settings. Answers at once: see [`crate::Apps::settle`]. Never sent twice.
    promote_with(app: &str, release: &str, form: ReleasePromoteForm) -> () = ops::releases::ReleasePromote { path: two(app, release), body: Form(form) };
} }

impl Releases<'_> {
    /// The releases of an app, the newest first; ten when no limit is given.
    ///
    /// # Errors
    ///
    /// The rack's.
    pub async fn list(&self, app: &str, limit: Option<u32>) -> Result<Vec<Release>> {
        let query = ReleaseListQuery {
            limit: limit.map(i64::from),
        };
        self.client
            .send(
                super::apps::parts::<ops::releases::ReleaseList>(one(app), query),
                &self.options,
            )
            .await
    }

    /// The newest release, whether it is active or not; nothing when the app has none.
    ///
    /// # Errors
    ///
    /// The rack's.
    pub async fn newest(&self, app: &str) -> Result<Option<Release>> {
        Ok(self.list(app, Some(1)).await?.into_iter().next())
    }

    /// Makes a release the active one. Answers at once: see [`crate::Apps::settle`]. Never sent twice.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] for a release that is older than the active one (see [`rollback`](Self::rollback)) or has no
    /// manifest, [`Kind::Conflict`] while the app is updating.
    pub async fn promote(&self, app: &str, release: &str) -> Result<()> {
        self.promote_with(app, release, ReleasePromoteForm::default())
            .await
    }

    /// Goes back to an earlier release: makes a new one with its build and environment, and promotes that. (Racks refuse
    /// to promote the old one itself.) Gives the new release.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] when the old release has no build; when the new release was made and not promoted, the error
    /// names it.
    pub async fn rollback(&self, app: &str, release: &str) -> Result<Release> {
        let old = self.get(app, release).await?;
        if old.build.is_empty() {
            return Err(Error::new(
                Kind::Invalid,
                format!(
                    "the release {} has no build to go back to",
                    Untrusted::new(release)
                ),
            )
            .with_operation("ReleaseCreate"));
        }
        let form = ReleaseCreateForm {
            build: Some(old.build.clone()),
            env: Some(old.env.clone()),
            description: Some(format!("rollback to {release}")),
            ..Default::default()
        };
        let new = self.create(app, form).await?;
        self.promote(app, &new.id).await.map_err(|e| {
            e.context(format!(
                "the release {} was made and not promoted",
                Untrusted::new(&*new.id)
            ))
        })?;
        Ok(new)
    }
}
