//! Processes and their files.

use boxrig_wire::{ByteReply, Result, WireBody};

use super::{one, two};
use crate::client::{Parts, calls, group};
use crate::models::Process;
use crate::ops;
use crate::ops::files::{FilesDeleteQuery, FilesDownloadQuery};
use crate::ops::processes::{ProcessListQuery, ProcessRunHeaders};
use crate::values::Csv;

group! {
    /// Processes of an app.
    Processes by processes,
    /// Files in a process, as tar streams.
    Files by files,
}

calls! { Processes {
    /// The processes of an app.
    list(app: &str) -> Vec<Process> = ops::processes::ProcessList { path: one(app) };
    /// The processes of a service, of a release, or of both.
    list_where(app: &str, which: ProcessListQuery) -> Vec<Process> = ops::processes::ProcessList { path: one(app), query: which };
    /// One process.
    get(app: &str, process: &str) -> Process = ops::processes::ProcessGet { path: two(app, process) };
    /// Stops a process. One of a service is replaced by a new one.
    stop(app: &str, process: &str) -> () = ops::processes::ProcessStop { path: two(app, process) };
    /// Starts a one-off process of a service and leaves it alone; all 17 settings are there. Never sent twice. See
    /// [`run_attached`](Self::run_attached) for its output and status.
    run(app: &str, service: &str, settings: ProcessRunHeaders) -> Process = ops::processes::ProcessRun { path: two(app, service), headers: settings };
} }

calls! { Files {
    /// A file or directory of a process, as a tar stream.
    download(app: &str, process: &str, file: &str) -> ByteReply = ops::files::FilesDownload { path: two(app, process), query: FilesDownloadQuery { file: file.to_owned() } };
    /// Unpacks a tar stream at the root of a process.
    upload(app: &str, process: &str, tar: WireBody) -> () = ops::files::FilesUpload { path: two(app, process), body: tar.into() };
} }

impl Files<'_> {
    /// Removes files of a process.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`](boxrig_wire::Kind::Invalid) for a name with a comma, which racks cannot be sent; else the rack's.
    pub async fn delete(&self, app: &str, process: &str, files: &[&str]) -> Result<()> {
        let query = FilesDeleteQuery {
            files: Csv::new(files.iter().copied())?,
        };
        let request = Parts::<ops::files::FilesDelete> {
            path: two(app, process),
            query,
            ..Default::default()
        };
        self.client.send(request, &self.options).await
    }
}
