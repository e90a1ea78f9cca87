//! Long work as a value.

use std::fmt;

use futures_core::Stream;

use crate::{BoxFuture, BoxStream, Result, Untrusted};

/// How far long work has come.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// The platform's word for what it is doing.
    pub phase: Untrusted,
    /// A line about it.
    pub message: Option<Untrusted>,
    /// Part done, 0.0 to 1.0, where the platform says.
    pub fraction: Option<f64>,
}

impl Progress {
    /// Progress in a named phase.
    pub fn phase(phase: impl Into<Untrusted>) -> Self {
        Self {
            phase: phase.into(),
            ..Self::default()
        }
    }
}

/// What stands behind an [`Operation`]: how a platform is asked about it.
pub trait Work<T>: Send + Sync {
    /// The platform's id of the work, for people and for taking it up again.
    fn id(&self) -> &str;
    /// Asks once: `None` while it goes on.
    fn poll(&self) -> BoxFuture<'_, Result<Option<T>>>;
    /// Waits until it ends; an error of the work is an `Err`.
    fn wait(&self) -> BoxFuture<'_, Result<T>>;
    /// Ends the work on the platform. Waiting less is not cancelling: drop the future for that.
    fn cancel(&self) -> BoxFuture<'_, Result<()>>;
    /// What it is doing, as it goes; ends with the work.
    fn progress(&self) -> BoxStream<'_, Result<Progress>>;
}

/// Long work on a platform. Dropping it leaves the work alone.
pub struct Operation<T>(Box<dyn Work<T>>);

impl<T> Operation<T> {
    /// Wraps a platform's work.
    pub fn new(work: impl Work<T> + 'static) -> Self {
        Self(Box::new(work))
    }
    /// The platform's id of the work.
    pub fn id(&self) -> &str {
        self.0.id()
    }
    /// Asks once whether it has ended.
    ///
    /// # Errors
    ///
    /// The work's own failure, or that of asking.
    pub async fn poll(&self) -> Result<Option<T>> {
        self.0.poll().await
    }
    /// Waits until it ends. Dropping the future stops the waiting, not the work.
    ///
    /// # Errors
    ///
    /// The work's own failure, or that of asking.
    pub async fn wait(&self) -> Result<T> {
        self.0.wait().await
    }
    /// Ends the work on the platform.
    ///
    /// # Errors
    ///
    /// [`Kind::Unsupported`](crate::Kind::Unsupported) where the platform cannot.
    pub async fn cancel(&self) -> Result<()> {
        self.0.cancel().await
    }
    /// What it is doing, as a stream that ends with the work.
    pub fn progress(&self) -> impl Stream<Item = Result<Progress>> + '_ {
        self.0.progress()
    }
}

impl<T> fmt::Debug for Operation<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Operation({})", crate::escape_line(self.0.id()))
    }
}
