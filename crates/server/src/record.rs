//! The record of exercised operations: what `boxrig coverage` calls `exercised` is made from it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use boxrig_wire::{BoxFuture, Meta, WireBody};
use http::Response;

use crate::router::{Around, RequestInfo};

/// Names the file; several servers may share it.
pub const RECORD_ENV: &str = "BOXRIG_RECORD";
/// The header by which a test names itself.
pub const TEST_HEADER: &str = "x-boxrig-test";

/// Appends one line for each finished request: `platform<TAB>operation<TAB>status<TAB>test`.
#[derive(Debug)]
pub struct Recorder(File);

impl Recorder {
    /// The recorder that the environment asks for.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened.
    pub fn from_env() -> io::Result<Option<Self>> {
        match std::env::var_os(RECORD_ENV) {
            Some(path) if !path.is_empty() => Self::open(Path::new(&path)).map(Some),
            _ => Ok(None),
        }
    }

    /// Appends to `path`.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path);
        file.map(Self)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
    }
}

impl Around for Recorder {
    fn around<'a>(
        &'a self,
        info: &'a RequestInfo,
        meta: &'static Meta,
        next: BoxFuture<'a, Response<WireBody>>,
    ) -> BoxFuture<'a, Response<WireBody>> {
        Box::pin(async move {
            let response = next.await;
            let test = info
                .header(TEST_HEADER)
                .filter(|t| !t.is_empty() && !t.contains('\t'))
                .unwrap_or("-");
            let status = response.status().as_u16();
            let line = format!("{}\t{}\t{status}\t{test}\n", meta.platform, meta.id);
            // One write, so that lines of several servers do not mix. Coverage must not fail a request.
            if let Err(e) = (&self.0).write_all(line.as_bytes()) {
                tracing::warn!(error = %e, "{RECORD_ENV}");
            }
            response
        })
    }
}
