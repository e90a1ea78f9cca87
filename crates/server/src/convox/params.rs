//! The rack's way of reading parameters, brought to the form that the descriptions have.
//!
//! A rack reads a form field from the body (a form, or multipart), else from the query, and some of them else from a
//! header; any text but `true` is a false; a number that is none is its own error, 500. The old shapes of generation 1
//! have other names for the same.

use boxrig_wire::{ApiError, Kind, Meta, WireBody};
use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};

/// What is read of a form, in bytes.
const FORM_LIMIT: usize = 8 * 1024 * 1024;

/// Operations whose body is no form.
const RAW: [&str; 7] = [
    "ObjectStore",
    "BuildImport",
    "FilesUpload",
    "ResourceImport",
    "LetsEncryptConfigApply",
    "v2.EnvironmentSet",
    "v2.ResourceUpdateClassic",
];
/// Fields that are read from a header of the same name when the form has none.
const FALL_BACK: [&str; 16] = [
    "name",
    "url",
    "command",
    "domains",
    "kind",
    "app",
    "id",
    "pub",
    "key",
    "server",
    "username",
    "password",
    "action",
    "role",
    "durationInHour",
    "value",
];
/// Fields that are `true` or false.
const BOOLS: [&str; 26] = [
    "lock",
    "development",
    "external",
    "no-cache",
    "wildcard-domain",
    "force",
    "idle",
    "all",
    "generated",
    "active",
    "events",
    "previous",
    "reset_period",
    "force_clear_cooldown",
    "entrypoint",
    "tty",
    "disable-stdin",
    "follow",
    "prefix",
    "public",
    "use-service-volume",
    "privileged",
    "system-critical",
    "cache",
    "rotate",
    "tls",
];
/// Fields that are whole numbers.
const INTS: [&str; 22] = [
    "count",
    "cpu",
    "gpu",
    "memory",
    "min",
    "max",
    "timeout",
    "limit",
    "age",
    "lines",
    "period",
    "alert-threshold-percent",
    "height",
    "width",
    "tail",
    "maxlogrequests",
    "cpu-limit",
    "memory-limit",
    "x-port",
    "monthly",
    "duration",
    "expiry",
];

type Pairs = Vec<(String, String)>;

/// The 500 that a rack answers to what its parser does not take.
pub(super) fn failed(words: impl Into<String>) -> ApiError {
    ApiError::new(Kind::Failed, words)
}

/// Checks values as the rack's parser does.
fn values(pairs: &mut Pairs) -> Result<(), ApiError> {
    for (name, value) in pairs.iter_mut() {
        let lower = name.to_ascii_lowercase();
        // `Prefix` is an option of logs, `prefix` a text of objects.
        if lower != "prefix" && BOOLS.contains(&lower.as_str()) {
            *value = (value == "true").to_string();
        } else if INTS.contains(&lower.as_str()) && lower != "duration" {
            // Go's parser takes a sign; so does Rust's.
            if value.parse::<i64>().is_err() {
                return Err(failed(format!(
                    "strconv.Atoi: parsing {value:?}: invalid syntax"
                )));
            }
        } else if ["start", "end", "started", "ended"].contains(&lower.as_str())
            && super::time::parse_sortable(value).is_none()
        {
            return Err(failed(format!(
                "parsing time {value:?} as \"20060102.150405.000000000\": cannot parse it"
            )));
        }
    }
    Ok(())
}

fn parse_form(text: &[u8]) -> Pairs {
    let decode = |s: &str| {
        let s = s.replace('+', " ");
        percent_encoding::percent_decode_str(&s)
            .decode_utf8_lossy()
            .into_owned()
    };
    String::from_utf8_lossy(text)
        .split('&')
        .filter(|p| !p.is_empty())
        .map(|p| {
            let (k, v) = p.split_once('=').unwrap_or((p, ""));
            (decode(k), decode(v))
        })
        .collect()
}

fn write_form(pairs: &Pairs) -> String {
    let encode = |s: &str| {
        percent_encoding::utf8_percent_encode(s, percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    let all: Vec<String> = pairs
        .iter()
        .map(|(k, v)| format!("{}={}", encode(k), encode(v)))
        .collect();
    all.join("&")
}

/// A file of a multipart body.
pub(super) struct Part {
    pub(super) name: String,
    pub(super) content: Bytes,
}

/// The parts of a multipart body: plain fields and files (RFC 7578).
fn multipart(body: &Bytes, boundary: &str) -> (Pairs, Vec<Part>) {
    let (mut fields, mut files) = (Pairs::new(), Vec::new());
    let mark = format!("--{boundary}");
    let find = |from: usize, what: &[u8]| {
        let rest = body.get(from..)?;
        let at = rest.windows(what.len()).position(|w| w == what)?;
        Some(from + at)
    };
    let mut at = find(0, mark.as_bytes());
    while let Some(start) = at {
        let start = start + mark.len();
        let next = find(start, format!("\r\n{mark}").as_bytes());
        let Some(end) = next else { break };
        at = Some(end + 2);
        let Some(head_end) = find(start, b"\r\n\r\n").filter(|h| *h <= end) else {
            continue;
        };
        let head = String::from_utf8_lossy(&body[start..head_end]);
        let attribute = |name: &str| {
            let key = format!("{name}=\"");
            let mut found = None;
            for (i, _) in head.match_indices(&key) {
                // `filename=` ends in `name=` too.
                if i > 0 && head.as_bytes()[i - 1].is_ascii_alphanumeric() {
                    continue;
                }
                found = head[i + key.len()..].split('"').next().map(str::to_owned);
            }
            found
        };
        let content = body.slice(head_end + 4..end);
        match (attribute("name"), attribute("filename")) {
            (Some(name), Some(_)) => files.push(Part { name, content }),
            (Some(name), None) => {
                fields.push((name, String::from_utf8_lossy(&content).into_owned()));
            }
            _ => {}
        }
    }
    (fields, files)
}

/// Brings a request to the form its description has. Files of a multipart body are given back.
///
/// # Errors
///
/// 413 when the form is too large, 500 for numbers and times that are none.
pub(super) async fn bring(
    meta: &Meta,
    request: http::Request<WireBody>,
) -> Result<(http::Request<WireBody>, Vec<Part>), ApiError> {
    let (mut parts, body) = request.into_parts();
    let mut query = parse_form(parts.uri.query().unwrap_or("").as_bytes());
    headers(&mut parts.headers)?;
    if RAW.contains(&meta.id) {
        return Ok((http::Request::from_parts(parts, body), Vec::new()));
    }
    let method = parts.method.as_str();
    let has_form = matches!(method, "POST" | "PUT") || meta.id == "CertificateList";
    if !has_form {
        values(&mut query)?;
        rewrite_query(&mut parts, &query);
        return Ok((http::Request::from_parts(parts, body), Vec::new()));
    }
    let bytes = body.collect(FORM_LIMIT).await.map_err(|_| {
        ApiError::new(Kind::Invalid, "the form is too large")
            .with_status(http::StatusCode::PAYLOAD_TOO_LARGE)
    })?;
    let kind = parts.headers.get(CONTENT_TYPE);
    let kind = kind.and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
    let media = kind.split(';').next().unwrap_or("").trim();
    let (mut pairs, mut files) = (Pairs::new(), Vec::new());
    if media.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        pairs = parse_form(&bytes);
    } else if media.eq_ignore_ascii_case("multipart/form-data")
        && let Some(boundary) = kind.split("boundary=").nth(1)
    {
        (pairs, files) = multipart(
            &bytes,
            boundary.split(';').next().unwrap_or("").trim_matches('"'),
        );
    }
    let from_query = query
        .iter()
        .filter(|(k, _)| !pairs.iter().any(|(p, _)| p == k));
    let from_query: Pairs = from_query.cloned().collect();
    pairs.extend(from_query);
    for name in FALL_BACK {
        let given = pairs.iter().any(|(k, v)| k == name && !v.is_empty());
        let header = parts.headers.get(name).and_then(|v| v.to_str().ok());
        if let (false, Some(value)) = (given, header) {
            pairs.retain(|(k, _)| k != name);
            pairs.push((name.to_owned(), value.to_owned()));
        }
    }
    old_names(meta, &mut pairs);
    values(&mut pairs)?;
    parts.headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-www-form-urlencoded"),
    );
    parts.headers.remove(CONTENT_LENGTH);
    let body = WireBody::full(write_form(&pairs));
    Ok((http::Request::from_parts(parts, body), files))
}

/// The names of generation 1 for the same.
fn old_names(meta: &Meta, pairs: &mut Pairs) {
    let rename = |pairs: &mut Pairs, old: &str, new: &str| {
        if !pairs.iter().any(|(k, _)| k == new) {
            for (k, _) in pairs.iter_mut().filter(|(k, _)| k == old) {
                *k = new.to_owned();
            }
        }
    };
    match meta.id {
        "CertificateCreate" => {
            rename(pairs, "public", "pub");
            rename(pairs, "private", "key");
        }
        "SystemResourceCreate" if !pairs.iter().any(|(k, _)| k == "kind") => {
            rename(pairs, "type", "kind");
            loose(pairs, &["kind", "name", "parameters"]);
        }
        "SystemResourceUpdate" => loose(pairs, &["parameters"]),
        _ => {}
    }
}

/// Gathers fields that are parameters by themselves into the one field for them.
fn loose(pairs: &mut Pairs, known: &[&str]) {
    let loose = pairs.iter().filter(|(k, _)| !known.contains(&k.as_str()));
    let loose: Pairs = loose.cloned().collect();
    if !loose.is_empty() {
        pairs.push(("parameters".to_owned(), write_form(&loose)));
    }
}

/// The fields of a form.
pub(super) fn form(text: &[u8]) -> Vec<(String, String)> {
    parse_form(text)
}

/// Options in headers: the same rules for their values.
fn headers(headers: &mut HeaderMap) -> Result<(), ApiError> {
    for name in BOOLS {
        if let Some(value) = headers.get_mut(name)
            && value != "true"
        {
            *value = HeaderValue::from_static("false");
        }
    }
    for name in [
        "height",
        "width",
        "tail",
        "maxlogrequests",
        "cpu",
        "cpu-limit",
        "gpu",
        "memory",
        "memory-limit",
        "timeout",
    ] {
        if let Some(value) = headers.get(name) {
            let text = String::from_utf8_lossy(value.as_bytes());
            if text.parse::<i64>().is_err() {
                return Err(failed(format!(
                    "strconv.Atoi: parsing {text:?}: invalid syntax"
                )));
            }
        }
    }
    Ok(())
}

fn rewrite_query(parts: &mut http::request::Parts, query: &Pairs) {
    if query.is_empty() {
        return;
    }
    let target = format!("{}?{}", parts.uri.path(), write_form(query));
    let mut uri = parts.uri.clone().into_parts();
    if let Ok(target) = target.parse() {
        uri.path_and_query = Some(target);
        if let Ok(uri) = http::Uri::from_parts(uri) {
            parts.uri = uri;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use boxrig_convox::ops;
    use boxrig_wire::Endpoint;

    async fn form(meta: &Meta, request: http::Request<WireBody>) -> Result<Pairs, ApiError> {
        let (request, _) = bring(meta, request).await?;
        Ok(parse_form(
            &request.into_body().collect(1 << 20).await.unwrap(),
        ))
    }

    #[tokio::test]
    async fn body_then_query_then_header() {
        let request = http::Request::post("/apps?name=query&timeout=3")
            .header("Name", "header")
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(WireBody::full("name=body+x&lock=yes"))
            .unwrap();
        let pairs = form(ops::apps::AppCreate::META, request).await.unwrap();
        let get = |n: &str| pairs.iter().find(|(k, _)| k == n).map(|(_, v)| v.as_str());
        assert_eq!(get("name"), Some("body x"));
        assert_eq!(get("timeout"), Some("3"));
        assert_eq!(get("lock"), Some("false"), "every text but true is false");
        let request = http::Request::post("/apps").header("Name", "header");
        let request = request.body(WireBody::empty()).unwrap();
        let pairs = form(ops::apps::AppCreate::META, request).await.unwrap();
        assert_eq!(pairs, [("name".to_owned(), "header".to_owned())]);
    }

    #[tokio::test]
    async fn a_bad_number_is_a_500() {
        let request = http::Request::put("/apps/a/services/web?count=x");
        let request = request.body(WireBody::empty()).unwrap();
        let e = form(ops::services::ServiceUpdate::META, request).await;
        let e = e.unwrap_err();
        assert_eq!(e.http_status().as_u16(), 500);
        assert!(e.message.contains("parsing \"x\""), "{}", e.message);
    }

    #[tokio::test]
    async fn multipart_is_read() {
        let text = "--B\r\nContent-Disposition: form-data; name=\"description\"\r\n\r\nhi\r\n--B\r\n\
            Content-Disposition: form-data; filename=\"s.tgz\"; name=\"source\"\r\n\r\n\0\x01\r\n--B--\r\n";
        let request = http::Request::post("/apps/a/builds")
            .header("Content-Type", "multipart/form-data; boundary=B")
            .body(WireBody::full(text))
            .unwrap();
        let (request, files) = bring(ops::builds::BuildCreate::META, request)
            .await
            .unwrap();
        let body = request.into_body().collect(1 << 20).await.unwrap();
        assert_eq!(
            parse_form(&body),
            [("description".to_owned(), "hi".to_owned())]
        );
        assert_eq!(files.len(), 1);
        assert_eq!(files[0].name, "source");
        assert_eq!(&files[0].content[..], b"\0\x01");
    }
}
