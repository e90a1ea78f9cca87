//! Waiting, with the reason when it does not come to an end.

use std::time::Duration;

use boxrig_wire::{Error, Kind, Result, Untrusted};
use tokio::time::{Instant, sleep};

use super::{Apps, Builds, Releases};
use crate::models::{App, Build};
use crate::ops::releases::ReleasePromoteForm;

/// How long is waited, and how often asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    timeout: Duration,
    poll: Duration,
}

impl Default for Wait {
    /// Half an hour; asked often at first, then every two seconds.
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(1800),
            poll: Duration::from_secs(2),
        }
    }
}

impl Wait {
    /// At most this long.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
    /// Asked at most this seldom.
    pub fn poll(mut self, poll: Duration) -> Self {
        self.poll = poll;
        self
    }

    fn begin(self) -> Waiting {
        Waiting {
            end: Instant::now() + self.timeout,
            pause: Duration::from_millis(50).min(self.poll),
            wait: self,
        }
    }
}

struct Waiting {
    end: Instant,
    pause: Duration,
    wait: Wait,
}

impl Waiting {
    /// Waits a little; false at the deadline.
    async fn again(&mut self) -> bool {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        sleep(self.pause.min(left)).await;
        self.pause = self.pause.mul_f64(1.6).min(self.wait.poll);
        true
    }
}

/// Whether an app is on its way to somewhere.
fn is_moving(status: &str) -> bool {
    matches!(status, "creating" | "updating" | "rollback" | "deleting")
}

impl Apps<'_> {
    /// Waits until an app is not being created, updated or deleted any more.
    ///
    /// # Errors
    ///
    /// [`Kind::Timeout`] with what holds it up, [`Kind::NotFound`] when it is gone.
    pub async fn settle(&self, app: &str, wait: Wait) -> Result<App> {
        let mut waiting = wait.begin();
        loop {
            let now = self.get(app).await?;
            if !is_moving(&now.status) {
                return Ok(now);
            }
            if !waiting.again().await {
                return Err(self
                    .stuck(app, "", &format!("still {}", now.status), Kind::Timeout)
                    .await);
            }
        }
    }

    /// Waits until an app is gone.
    ///
    /// # Errors
    ///
    /// [`Kind::Timeout`] with what holds it up.
    pub async fn gone(&self, app: &str, wait: Wait) -> Result<()> {
        let mut waiting = wait.begin();
        loop {
            match self.get(app).await {
                Err(e) if e.kind() == Kind::NotFound => return Ok(()),
                Err(e) => return Err(e),
                Ok(now) if !waiting.again().await => {
                    return Err(self
                        .stuck(app, "", &format!("still {}", now.status), Kind::Timeout)
                        .await);
                }
                Ok(_) => {}
            }
        }
    }

    /// An error with the reasons that can be found: what is told of `release`, if one is meant, before what else is wrong.
    async fn stuck(&self, app: &str, release: &str, how: &str, kind: Kind) -> Error {
        let mut words = format!("the app {} is {}", Untrusted::new(app), Untrusted::new(how));
        if let Ok(why) = self.why(app).await {
            let of_it = why.findings.iter().filter(|f| f.about.raw() == release);
            for finding in of_it.chain(why.problems()).take(3) {
                words.push_str(&format!("; {finding}"));
            }
        }
        Error::new(kind, words)
            .with_operation("AppGet")
            .with_retryable(false)
            .with_hint(format!("`boxrig why {}` tells more", Untrusted::new(app)))
    }
}

impl Releases<'_> {
    /// Makes a release the active one and waits until its processes have taken over.
    ///
    /// # Errors
    ///
    /// [`Kind::Failed`] when the rack went back to another release, with the reasons that can be found;
    /// [`Kind::Timeout`] when it does not come to an end; else those of [`promote`](Self::promote).
    pub async fn promote_and_wait(
        &self,
        app: &str,
        release: &str,
        form: ReleasePromoteForm,
        wait: Wait,
    ) -> Result<App> {
        self.promote_with(app, release, form).await?;
        self.promoted(app, release, wait).await
    }

    /// Waits until a promotion that was begun has come to its end.
    pub(crate) async fn promoted(&self, app: &str, release: &str, wait: Wait) -> Result<App> {
        let apps = self.client.apps().with(self.options.clone());
        let mut waiting = wait.begin();
        let begun = Instant::now();
        let mut moved = false;
        loop {
            let now = apps.get(app).await?;
            let moving = is_moving(&now.status);
            moved |= moving;
            if !moving && now.release == release {
                return Ok(now);
            }
            // A rack takes a moment until its status shows the promotion.
            if !moving && (moved || begun.elapsed() > Duration::from_secs(5)) {
                let how = format!(
                    "{} with the release {}, not {release}",
                    now.status, now.release
                );
                return Err(apps.stuck(app, release, &how, Kind::Failed).await);
            }
            if !waiting.again().await {
                return Err(apps
                    .stuck(app, "", &format!("still {}", now.status), Kind::Timeout)
                    .await);
            }
        }
    }
}

impl Builds<'_> {
    /// Waits until a build is done.
    ///
    /// # Errors
    ///
    /// [`Kind::Failed`] when it failed, with the rack's reason; [`Kind::Timeout`] when it does not come to an end.
    pub async fn wait(&self, app: &str, build: &str, wait: Wait) -> Result<Build> {
        let mut waiting = wait.begin();
        loop {
            let now = self.get(app, build).await?;
            let shown = Untrusted::new(build);
            let hint = format!(
                "its log: `boxrig convox build-logs {} {shown}`",
                Untrusted::new(app)
            );
            match &*now.status {
                "created" | "running" => {}
                "complete" => return Ok(now),
                other => {
                    let e = Error::new(
                        Kind::Failed,
                        format!("the build {shown} is {}", Untrusted::new(other)),
                    );
                    let e = e.with_operation("BuildGet").with_hint(hint);
                    return Err(match now.reason.is_empty() {
                        true => e,
                        false => e.with_server_message(now.reason),
                    });
                }
            }
            if !waiting.again().await {
                let e = Error::new(
                    Kind::Timeout,
                    format!(
                        "the build {shown} is still {}",
                        Untrusted::new(&*now.status)
                    ),
                );
                return Err(e
                    .with_operation("BuildGet")
                    .with_retryable(false)
                    .with_hint(hint));
            }
        }
    }
}
