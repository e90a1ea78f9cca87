//! Structures that the rack's description gives no name.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::models::{AppBudget, AppBudgetState};
use boxrig_wire::nullable;

/// An app's budget and how far it is used up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct AppBudgetReport {
    /// What was set; nothing when there is no budget.
    pub config: Option<AppBudget>,
    /// What was counted.
    pub state: Option<AppBudgetState>,
    /// Members that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A certificate at a port, as generation 1 lists them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SslEntry {
    /// The certificate's id.
    #[serde(deserialize_with = "nullable")]
    pub certificate: String,
    /// The service.
    #[serde(deserialize_with = "nullable")]
    pub process: String,
    /// The port.
    #[serde(deserialize_with = "nullable")]
    pub port: i64,
    /// Members that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What generation 1 answers to a detached run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Started {
    /// The process.
    #[serde(deserialize_with = "nullable")]
    pub pid: String,
    /// Members that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}
