//! Background operations.

use boxrig_wire::{Error, Kind, Result, endpoint, params};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Incus;
use crate::envelope::Sync;
use crate::protocol::classify;

/// A background operation as the server shows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct OperationView {
    /// Its UUID.
    pub id: String,
    /// `task`, `websocket` or `token`.
    pub class: String,
    /// What it does, in the server's words.
    pub description: String,
    /// Its state in words; the spelling varies, use the code.
    pub status: String,
    /// Its state: 103 running, 200 success, 400 failure, 401 cancelled; final from 200 on.
    pub status_code: u16,
    /// Free-form; results of an exec are in it.
    pub metadata: Option<Map<String, Value>>,
    /// Whether DELETE cancels it.
    pub may_cancel: bool,
    /// Why it failed.
    pub err: String,
    /// Members that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl OperationView {
    /// Whether it has ended.
    pub fn is_final(&self) -> bool {
        self.status_code >= 200
    }

    /// The operation when it succeeded.
    ///
    /// # Errors
    ///
    /// Its own failure, by meaning.
    pub fn succeeded(self) -> Result<Self> {
        match self.status_code {
            200 => Ok(self),
            401 => Err(Error::new(Kind::Cancelled, "the operation was cancelled")),
            _ => Err(classify(
                Error::new(Kind::Failed, "the operation failed"),
                400,
                &self.err,
            )
            .with_kind(if self.err.contains("not found") {
                Kind::NotFound
            } else {
                Kind::Failed
            })),
        }
    }
}

params! {
    /// How long to wait.
    pub struct OperationWaitQuery {
        /// Seconds; -1: for ever.
        pub timeout: Option<i64> = "timeout",
    }
}

endpoint! {
    /// Waits for an operation to end. Answers 200 at once; the body comes at the end.
    pub OperationWait = "operation_wait_get": Incus, GET "/1.0/operations/{id}/wait" {
        path: (String,),
        query: OperationWaitQuery,
        reply: Sync<OperationView>,
    }
}
