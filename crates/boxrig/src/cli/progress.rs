//! Progress on stderr, when somebody is there to see it.

use std::sync::Arc;
use std::time::Duration;

use boxrig_compute::CopyProgress;
use boxrig_wire::{Operation, Result, escape_line};
use futures_util::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};

use super::session::Session;

/// A sign of life, taken away when dropped.
pub(crate) struct Spinner(Option<ProgressBar>);

impl Spinner {
    fn say(&self, text: &str) {
        if let Some(bar) = &self.0 {
            bar.set_message(escape_line(text).into_owned());
        }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Shows that something goes on; nothing is drawn in the first moment.
pub(crate) fn spinner(s: &Session, text: &str) -> Spinner {
    if !s.shows_progress() {
        return Spinner(None);
    }
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(Duration::from_millis(120));
    bar.set_message(escape_line(text).into_owned());
    Spinner(Some(bar))
}

/// Waits for long work and shows what the platform says of it.
pub(crate) async fn wait<T>(s: &Session, text: &str, operation: &Operation<T>) -> Result<T> {
    if !s.shows_progress() {
        return operation.wait().await;
    }
    let spinner = spinner(s, text);
    let watch = async {
        let mut progress = std::pin::pin!(operation.progress());
        while let Some(Ok(p)) = progress.next().await {
            let part = p
                .fraction
                .map_or_else(String::new, |f| format!(" {:.0}%", f * 100.0));
            let message = p.message.map_or_else(String::new, |m| format!(": {m}"));
            spinner.say(&format!("{text}: {}{part}{message}", p.phase));
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        result = operation.wait() => result,
        () = watch => unreachable_wait().await,
    }
}

/// The watcher never ends by itself.
async fn unreachable_wait<T>() -> Result<T> {
    std::future::pending().await
}

/// A bar of bytes.
pub(crate) struct Bytes(ProgressBar);

impl Bytes {
    /// A bar for `text`, hidden when nobody looks.
    pub(crate) fn new(s: &Session, text: &str) -> Self {
        let bar = if s.shows_progress() {
            ProgressBar::new(0)
        } else {
            ProgressBar::hidden()
        };
        if let Ok(style) = ProgressStyle::with_template(
            "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        ) {
            bar.set_style(style);
        }
        bar.set_message(escape_line(text).into_owned());
        Self(bar)
    }

    /// What moves the bar.
    pub(crate) fn callback(&self) -> CopyProgress {
        let bar = self.0.clone();
        Arc::new(move |done, total| {
            if let Some(total) = total {
                bar.set_length(total);
            } else if done > bar.length().unwrap_or(0) {
                bar.set_length(done);
            }
            bar.set_position(done);
        })
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
