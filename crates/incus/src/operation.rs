//! Background operations.

use boxrig_wire::{Error, Kind, Result};

use crate::models::Operation;
use crate::protocol::classify;

impl Operation {
    /// Whether it has ended.
    pub fn is_final(&self) -> bool {
        self.status_code.is_final()
    }

    /// The operation when it succeeded.
    ///
    /// # Errors
    ///
    /// Its own failure, by meaning.
    pub fn succeeded(self) -> Result<Self> {
        match self.status_code.0 {
            200 => Ok(self),
            401 => Err(Error::new(Kind::Cancelled, "the operation was cancelled")),
            _ => Err(classify(
                Error::new(Kind::Failed, "the operation failed"),
                0,
                &self.err,
            )),
        }
    }
}
