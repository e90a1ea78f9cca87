//! What a machine lets the sandbox do, found by doing it.

use std::fmt;

use serde::Serialize;

/// The steps of really starting an instance and running a command in it, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProbeReport {
    /// The steps; after the first failed one there are none.
    pub steps: Vec<ProbeStep>,
    /// What could be done about the failure, most likely first; empty when all went well.
    pub remedies: Vec<Remedy>,
}

/// One step of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProbeStep {
    /// What was tried, as a short phrase ("make a user namespace").
    pub name: String,
    /// `None` when it worked.
    pub failure: Option<StepFailure>,
    /// Something worth knowing though the step worked (a limit that is not enforced).
    pub note: Option<String>,
}

/// Why a step failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StepFailure {
    /// The kernel's error number, 0 if it was not a system call.
    pub errno: i32,
    /// In words.
    pub message: String,
}

/// A way on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Remedy {
    /// What it is about, one sentence.
    pub text: String,
    /// A command to run, if there is one.
    pub command: Option<String>,
}

impl ProbeReport {
    /// Whether instances can run.
    pub fn ok(&self) -> bool {
        self.failed().is_none()
    }

    /// The step that failed.
    pub fn failed(&self) -> Option<&ProbeStep> {
        self.steps.iter().find(|step| step.failure.is_some())
    }
}

impl fmt::Display for ProbeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((step, failure)) = self
            .failed()
            .and_then(|step| Some((step, step.failure.as_ref()?)))
        else {
            return f.write_str("instances can run here");
        };
        write!(
            f,
            "instances cannot run here: the step \"{}\" failed: {}",
            step.name, failure.message
        )?;
        for remedy in &self.remedies {
            write!(f, "\n  - {}", remedy.text)?;
            if let Some(command) = &remedy.command {
                write!(f, ": {command}")?;
            }
        }
        Ok(())
    }
}
