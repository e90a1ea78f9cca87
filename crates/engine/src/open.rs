//! Choosing and opening an engine.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use crate::{Clock, Engine, Error, Kind, Memory, ProbeReport, RealClock, Result, Timings};

/// Which engine to open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Selection {
    /// The sandbox, or a refusal that names the failing step. Never anything with less isolation.
    #[default]
    Auto,
    /// The sandbox.
    Sandbox,
    /// Plain processes: no isolation.
    Process,
    /// The simulation.
    Memory,
}

impl FromStr for Selection {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "sandbox" => Ok(Self::Sandbox),
            "process" => Ok(Self::Process),
            "memory" => Ok(Self::Memory),
            other => Err(Error::new(
                Kind::Invalid,
                format!("engine {other:?}: one of auto, sandbox, process, memory"),
            )),
        }
    }
}

/// How an engine behaves; the default is right for a server.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// Bytes kept of each log of an instance.
    pub log_bytes: u64,
    /// Run a trial instance before answering, so that a machine that cannot run any is found out at once.
    pub probe: bool,
    /// The clock that times are taken from; a virtual one makes sense with the memory engine.
    pub clock: Arc<dyn Clock>,
    /// How long the memory engine's changes of state take.
    pub timings: Timings,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            log_bytes: 16 << 20,
            probe: true,
            clock: Arc::new(RealClock),
            timings: Timings::default(),
        }
    }
}

/// Opens an engine whose state lives under `data_dir` (made if missing, mode 0700). Instances that an
/// earlier process left running are taken over; what it left half-made is removed.
///
/// # Errors
/// [`Kind::NotPermittedHere`] with the failing step and the ways on, when instances cannot run here;
/// [`Kind::InvalidState`] when another process has the directory open; `Io`.
pub async fn open(
    selection: Selection,
    data_dir: &Path,
    options: Options,
) -> Result<Arc<dyn Engine>> {
    match selection {
        Selection::Memory => {
            let engine = Memory::open(data_dir, options.clock, options.timings)?;
            Ok(Arc::new(engine))
        }
        #[cfg(agent)]
        Selection::Auto | Selection::Sandbox => {
            let engine = crate::sandbox::Sandbox::open(data_dir, options).await?;
            Ok(Arc::new(engine))
        }
        #[cfg(not(agent))]
        Selection::Auto | Selection::Sandbox => Err(no_sandbox()),
        #[cfg(unix)]
        Selection::Process => Ok(Arc::new(crate::Process::open(data_dir, options).await?)),
        #[cfg(not(unix))]
        Selection::Process => Err(Error::new(
            Kind::Unsupported,
            "the process engine needs a Unix system",
        )),
    }
}

/// Starts a trial instance under `data_dir`, runs a command in it, removes it, and tells step by step what
/// worked. Nothing is left behind.
pub async fn probe(data_dir: &Path) -> ProbeReport {
    #[cfg(agent)]
    return crate::sandbox::probe(data_dir).await;
    #[cfg(not(agent))]
    {
        let _ = data_dir;
        ProbeReport {
            steps: vec![crate::ProbeStep {
                name: "find the sandbox".to_owned(),
                failure: Some(crate::StepFailure {
                    errno: 0,
                    message: no_sandbox().to_string(),
                }),
                note: None,
            }],
            remedies: Vec::new(),
        }
    }
}

#[cfg(not(agent))]
fn no_sandbox() -> Error {
    Error::new(
        Kind::NotPermittedHere,
        "instances need Linux; this build has no sandbox",
    )
}
