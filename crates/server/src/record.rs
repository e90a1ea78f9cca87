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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::Peer;
    use boxrig_wire::{Idempotency, PathTemplate, ReplyShape};

    static LIST: Meta = Meta {
        platform: "fastvm",
        id: "listVms",
        method: &http::Method::GET,
        path: PathTemplate::new("/v1/vms"),
        doc: "",
        idempotency: Idempotency::Safe,
        max_retries: None,
        reply: ReplyShape::Whole,
    };

    #[tokio::test]
    async fn a_line_for_each_request() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        for (header, status) in [
            (Some("fastvm::lists"), 200),
            (None, 501),
            (Some("a\tb"), 500),
        ] {
            let recorder = Recorder::open(&path).unwrap();
            let mut request = http::Request::get("/v1/vms");
            if let Some(test) = header {
                request = request.header(TEST_HEADER, test);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            let info = RequestInfo::new(Peer::Guest("x".into()), &parts);
            let mut answer = Response::new(WireBody::empty());
            *answer.status_mut() = http::StatusCode::from_u16(status).unwrap();
            let next: BoxFuture<'_, _> = Box::pin(async { answer });
            recorder.around(&info, &LIST, next).await;
        }
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "fastvm\tlistVms\t200\tfastvm::lists\nfastvm\tlistVms\t501\t-\nfastvm\tlistVms\t500\t-\n"
        );
    }
}
