//! The terminal: raw while a remote one is shown, and always put back.

use boxrig_compute::TtySize;

/// The terminal in raw mode; dropping it, also while panicking, puts it back.
#[cfg(unix)]
pub(crate) struct Raw(rustix::termios::Termios);

#[cfg(unix)]
impl Raw {
    /// Makes standard input raw, if it is a terminal.
    pub(crate) fn enter() -> Option<Self> {
        use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

#[cfg(unix)]
impl Drop for Raw {
    fn drop(&mut self) {
        use rustix::termios::{OptionalActions, tcsetattr};
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Raw mode is not known here; the terminal stays as it is.
#[cfg(not(unix))]
pub(crate) struct Raw;

#[cfg(not(unix))]
impl Raw {
    pub(crate) fn enter() -> Option<Self> {
        None
    }
}

/// The size of our terminal.
pub(crate) fn size() -> Option<TtySize> {
    #[cfg(unix)]
    {
        use rustix::termios::tcgetwinsize;
        [
            tcgetwinsize(std::io::stdout()),
            tcgetwinsize(std::io::stdin()),
            tcgetwinsize(std::io::stderr()),
        ]
        .into_iter()
        .flatten()
        .find(|size| size.ws_col > 0 && size.ws_row > 0)
        .map(|size| TtySize {
            cols: size.ws_col,
            rows: size.ws_row,
        })
    }
    #[cfg(not(unix))]
    {
        None
    }
}

/// What the user or the system asks of us while a command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// `^C`.
    Interrupt,
    /// To end: SIGTERM, SIGHUP or SIGQUIT, by number.
    End(i32),
    /// The terminal has another size.
    Resized,
}

/// Signals as events. Once made, they do not end the program any more.
#[cfg(unix)]
pub(crate) struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    quit: tokio::signal::unix::Signal,
    resized: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    pub(crate) fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            resized: signal(SignalKind::window_change())?,
        })
    }

    /// The next one. Safe to drop and call again.
    pub(crate) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::Interrupt,
            _ = self.terminate.recv() => Asked::End(15),
            _ = self.hangup.recv() => Asked::End(1),
            _ = self.quit.recv() => Asked::End(3),
            _ = self.resized.recv() => Asked::Resized,
        }
    }
}

/// Signals as events: here only `^C`.
#[cfg(not(unix))]
pub(crate) struct Signals;

#[cfg(not(unix))]
impl Signals {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    pub(crate) async fn next(&mut self) -> Asked {
        match tokio::signal::ctrl_c().await {
            Ok(()) => Asked::Interrupt,
            Err(_) => std::future::pending().await,
        }
    }
}
