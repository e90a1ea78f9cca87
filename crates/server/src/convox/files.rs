//! Files of processes, in and out as tar.

use boxrig_convox::{Done, ops};
use boxrig_engine::ExecSpec;
use boxrig_wire::{ApiError, ByteReply, Request};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::records::Phase;
use super::state::instance;
use super::{Cx, exec, params};
use crate::core::engine_error;
use crate::streams::{BodyReader, reader_body};

/// Options of `tar` that a caller may add.
const EXTRA: [&str; 4] = [
    "--no-same-owner",
    "--no-same-permissions",
    "--no-overwrite-dir",
    "--keep-old-files",
];
/// Whether a caller may add an option of `tar`: none that runs a program or reads another file.
fn may_be_added(option: &str) -> bool {
    let levels = option.strip_prefix("--strip-components=");
    EXTRA.contains(&option)
        || levels.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}
/// What is kept of a command's complaints.
const WORDS: u64 = 4096;

async fn start(
    cx: &Cx,
    app: &str,
    pid: &str,
    argv: Vec<String>,
    stdin: bool,
) -> Result<boxrig_engine::Exec, ApiError> {
    let process = exec::target(cx, app, pid)?;
    let mut spec = ExecSpec::new(argv);
    spec.stdin = stdin;
    let id = instance(&process.id)?;
    cx.core
        .engine
        .exec(&id, spec)
        .await
        .map_err(|e| match e.kind() {
            boxrig_engine::Kind::CommandNotFound => params::failed(format!(
                "the image of process {} has no tar, which this takes",
                process.id
            )),
            _ => engine_error(&e),
        })
}

pub(super) async fn download(
    cx: Cx,
    rq: Request<ops::files::FilesDownload>,
) -> Result<ByteReply, ApiError> {
    let (app, pid) = rq.path;
    let file = rq.query.file;
    if file.is_empty() {
        return Err(params::failed("parameter required: file"));
    }
    let argv = ["tar", "-cf", "-", "--", &file].map(str::to_owned);
    let mut exec = start(&cx, &app, &pid, argv.into(), false).await?;
    // What cannot be read is known before the first byte of the archive.
    let mut first = vec![0; 64 * 1024];
    let n = exec.stdout.read(&mut first).await.unwrap_or(0);
    first.truncate(n);
    if n == 0 || first.iter().all(|b| *b == 0) {
        let mut words = String::new();
        if let Some(err) = exec.stderr.take() {
            let _ = err.take(WORDS).read_to_string(&mut words).await;
        }
        return Err(ApiError::not_found(format!("{file}: {}", words.trim())));
    }
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    cx.background(async move {
        let send = async {
            near.write_all(&first).await?;
            tokio::io::copy(&mut exec.stdout, &mut near).await
        };
        // A reader that goes away ends the command too.
        let _ = send.await;
        drop(exec);
    });
    Ok(ByteReply {
        status: StatusCode::OK,
        headers,
        body: reader_body(far),
    })
}

pub(super) async fn upload(cx: Cx, rq: Request<ops::files::FilesUpload>) -> Result<Done, ApiError> {
    let (app, pid) = rq.path;
    let mut argv: Vec<String> = ["tar", "-C", "/", "-xf", "-"].map(str::to_owned).into();
    for option in rq.query.tar_extra.unwrap_or_default().split([',', ' ']) {
        if option.is_empty() {
            continue;
        }
        if !may_be_added(option) {
            return Err(params::failed(format!("unsupported tar flag: {option}")));
        }
        argv.push(option.to_owned());
    }
    let mut exec = start(&cx, &app, &pid, argv, true).await?;
    let (stdin, err) = (exec.stdin.take(), exec.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin {
            let mut body = BodyReader::new(rq.body.body);
            let copied = tokio::io::copy(&mut body, &mut stdin).await;
            let _ = stdin.shutdown().await;
            return copied.map(|_| ());
        }
        Ok(())
    };
    let mut words = String::new();
    let errors = async {
        if let Some(err) = err {
            let mut err = err.take(WORDS);
            let _ = err.read_to_string(&mut words).await;
            let _ = tokio::io::copy(&mut err.into_inner(), &mut tokio::io::sink()).await;
        }
    };
    let (fed, ()) = tokio::join!(feed, errors);
    let status = exec.wait().await.map_err(|e| engine_error(&e))?;
    match (status.success(), fed) {
        (true, Ok(())) => Ok(Done),
        (true, Err(e)) => Err(ApiError::invalid(format!("the upload broke off: {e}"))),
        (false, _) => Err(params::failed(format!("tar: {}", words.trim()))),
    }
}

pub(super) async fn delete(cx: Cx, rq: Request<ops::files::FilesDelete>) -> Result<Done, ApiError> {
    let (app, pid) = rq.path;
    let process = exec::target(&cx, &app, &pid)?;
    let files = rq.query.files.0;
    if files.is_empty() {
        return Err(params::failed("parameter required: files"));
    }
    if process.phase != Phase::Running {
        return Err(ApiError::conflict(format!(
            "process {} does not run",
            process.id
        )));
    }
    let id = instance(&process.id)?;
    for file in files {
        if !file.starts_with('/') || file == "/" {
            return Err(ApiError::invalid(format!(
                "not the absolute path of a file: {file:?}"
            )));
        }
        match cx.core.engine.remove(&id, file.as_bytes(), false).await {
            Ok(()) => {}
            // As `rm -f`: what is not there need not be removed.
            Err(e) if e.kind() == boxrig_engine::Kind::NotFound => {}
            Err(e) => return Err(params::failed(format!("{file}: {e}"))),
        }
    }
    Ok(Done)
}
