//! Native operations and requests of the user's own making.

use std::io::{self, IsTerminal, Write};

use boxrig_wire::{Error, Kind, RawBody, RawRequest, Result, Untrusted, WireBody};
use bytes::Bytes;
use clap::ArgMatches;
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt;
use serde_json::Value;

use super::{text, texts};
use crate::cli::contexts::Context;
use crate::cli::escaped::Escaped;
use crate::cli::exit::{Failure, Outcome};
use crate::cli::native::{self, Natives};
use crate::cli::output::{self, Format, Style};
use crate::cli::session::Session;

/// The context of a native operation.
///
/// # Errors
///
/// [`Kind::Invalid`] when it speaks another protocol.
pub(crate) fn spoken<P: Natives>(s: &Session) -> Result<Context> {
    let context = s.context()?;
    let platform = context.target.platform().as_str();
    if P::is_spoken_by(platform) {
        return Ok(context);
    }
    let wanted = P::PLATFORM;
    Err(Error::new(
        Kind::Invalid,
        format!(
            "the context {} speaks {platform}, not {wanted}",
            context.name
        ),
    )
    .with_hint("choose another with --on"))
}

/// A native operation of a platform.
pub(crate) async fn native<P: Natives>(s: &Session, m: &ArgMatches) -> Outcome {
    let (native, mut given) = native::given::<P>(m)?;
    let context = spoken::<P>(s)?;
    let what = format!("call {} on {}", native.meta.id, context.name);
    if !native.is_safe() && !s.may_change(&context, &what)? {
        return Ok(());
    }
    if let Some(project) = &context.project {
        native.in_project(&mut given, project);
    }
    let connection = s.connect(&context).await?;
    let options = s.call_options().retries_of(native.is_safe());
    let Some((_, m)) = m.subcommand() else {
        return Err(Failure::Code(2));
    };
    let reply = P::call(native, connection.caller, given, options, m).await?;
    print(s, reply).await
}

trait RetriesOf {
    fn retries_of(self, safe: bool) -> Self;
}

impl RetriesOf for boxrig_wire::CallOptions {
    /// What only reads is tried again as usual; a change is sent once, and its outcome told.
    fn retries_of(self, safe: bool) -> Self {
        if safe { self } else { self.retries(0) }
    }
}

/// Prints a reply: JSON as rows, other text escaped, a stream as it comes.
async fn print(s: &Session, reply: native::Reply) -> Outcome {
    let (parts, mut body) = reply.into_parts();
    let kind = parts
        .headers
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("");
    if !kind.starts_with("application/json") {
        // Bytes that no reader of words asked for: a file keeps them as they are.
        let bytes = kind == "application/octet-stream" && !io::stdout().is_terminal();
        let mut text = Escaped::new(s.style.format == Format::Table && !bytes);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| broken(&*e))?;
            if let Ok(data) = frame.into_data() {
                text.write(&mut io::stdout().lock(), &data)?;
            }
        }
        return Ok(text.finish(&mut io::stdout().lock())?);
    }
    let bytes = body.collect(usize::MAX).await.map_err(|e| broken(&*e))?;
    if bytes.is_empty() {
        return Ok(());
    }
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|e| Error::new(Kind::Protocol, format!("the reply is not JSON: {e}")))?;
    Ok(show(&s.style, value)?)
}

fn broken(e: &(dyn std::error::Error + Send + Sync)) -> Failure {
    let words = Untrusted::new(e.to_string());
    Error::new(Kind::Transport, format!("the reply broke off: {words}")).into()
}

/// A table of a document of any form: the plain members of its objects are the columns.
pub(crate) fn show(style: &Style, value: Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let wide = style.format == Format::Wide;
    match value {
        Value::Array(rows) if rows.iter().all(Value::is_object) => {
            let style = with_columns(style, rows.first(), wide);
            output::list(&mut out, &style, &[], rows)
        }
        Value::Object(_) => {
            let style = with_columns(style, Some(&value), true);
            output::one(&mut out, &style, &[], value)
        }
        other if style.format == Format::Yaml => output::one(&mut out, style, &[], other),
        other => output::json(&mut out, &other),
    }
}

fn with_columns(style: &Style, row: Option<&Value>, wide: bool) -> Style {
    let table = matches!(style.format, Format::Table | Format::Wide | Format::Csv);
    let mut style = style.clone();
    if table && style.columns.is_empty() {
        let members = row.and_then(Value::as_object).into_iter().flatten();
        style.columns = members
            .filter(|(_, v)| wide || !(v.is_object() || v.is_array()))
            .map(|(k, _)| k.clone())
            .take(if wide { usize::MAX } else { 7 })
            .collect();
    }
    style
}

/// Sends a request of the user's own making and prints the answer, whatever its status; an error status is still the
/// command's failure.
pub(crate) async fn raw(s: &Session, m: &ArgMatches) -> Outcome {
    let name = text(m, "context");
    let context = s.config.context(name)?;
    let method: http::Method = text(m, "method")
        .to_ascii_uppercase()
        .parse()
        .map_err(|_| Error::new(Kind::Invalid, "that is no method"))?;
    let path = text(m, "path");
    if !path.starts_with('/') {
        return Err(Error::new(Kind::Invalid, "the path does not begin with /").into());
    }
    let what = format!("send {method} to {}", context.name);
    if !method.is_safe() && !s.may_change(&context, &what)? {
        return Ok(());
    }
    let connection = s.connect(&context).await?;
    let mut options = s.call_options();
    for header in texts(m, "header") {
        let (name, value) = parse_header(&header)?;
        options = options.header(name, value);
    }
    let has_type = options.headers.contains_key(CONTENT_TYPE);
    let mut request = RawRequest::new(method, path).options(options);
    if let Some(body) = native::body(m)? {
        request = match serde_json::from_slice::<Value>(&body) {
            Ok(json) if !has_type => request.body(RawBody::Json(json)),
            _ => request.body(RawBody::Bytes(WireBody::full(Bytes::from(body)))),
        };
    }
    let reply = connection.caller.raw_stream(request).await?;
    let (parts, mut body) = reply.into_parts();
    if m.get_flag("include") {
        let mut head = format!("HTTP {}\n", parts.status.as_u16());
        for (name, value) in &parts.headers {
            let value = String::from_utf8_lossy(value.as_bytes());
            head.push_str(&format!("{name}: {}\n", boxrig_wire::escape_line(&value)));
        }
        writeln!(io::stdout().lock(), "{head}")?;
    }
    let terminal = io::stdout().is_terminal();
    let mut text = Escaped::new(terminal);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| broken(&*e))?;
        if let Ok(data) = frame.into_data() {
            text.write(&mut io::stdout().lock(), &data)?;
        }
    }
    text.finish(&mut io::stdout().lock())?;
    if terminal {
        writeln!(io::stdout().lock())?;
    }
    if parts.status.is_client_error() || parts.status.is_server_error() {
        let code = crate::cli::exit::code(Kind::of_status(parts.status));
        s.say(&format!("error: HTTP {}", parts.status.as_u16()));
        return Err(Failure::Code(code));
    }
    Ok(())
}

fn parse_header(text: &str) -> Result<(http::HeaderName, http::HeaderValue)> {
    let invalid = || Error::new(Kind::Invalid, "--header is not NAME: VALUE");
    let (name, value) = text.split_once(':').ok_or_else(invalid)?;
    Ok((
        name.trim().parse().map_err(|_| invalid())?,
        value.trim().parse().map_err(|_| invalid())?,
    ))
}
