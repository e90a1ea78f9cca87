//! How Convox writes errors: plain text or `{"error": …}`.

use boxrig_wire::{ApiError, Error, Kind, Protocol, WireBody};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::{HeaderMap, Response, StatusCode};
use serde::Deserialize;

use crate::reply::{PAGE_HINT, is_page};

/// The Convox protocol.
///
/// Its errors by meaning, with the exception classes of the vendor's Python SDK:
///
/// | answer | [`Kind`] | class of the SDK |
/// | --- | --- | --- |
/// | 400, 422 | `Invalid` | `ConvoxValidationError` (422: the base class) |
/// | 401 | `Unauthenticated` | `ConvoxAuthError` |
/// | 401 with "unauthorized to access" | `Denied` | `ConvoxForbiddenError` |
/// | 403 | `Denied` | the base class |
/// | 403 because of an app that is, or is not, updating | `Conflict` | the base class |
/// | 404 with words | `NotFound` | `ConvoxNotFoundError` |
/// | 404 with nothing at all: the rack has no such route | `Unsupported` | `ConvoxNotFoundError` |
/// | 409 | `Conflict` | `ConvoxConflictError` |
/// | 429 | `RateLimited` | the base class |
/// | 500 | `Failed` | `ConvoxServerError` |
/// | 501 | `Unsupported` | `ConvoxNotImplementedError` |
/// | 502, 503, 504 | `Unavailable`, or `OutcomeUnknown` where it may have happened | `ConvoxGatewayError` |
/// | no connection | `Transport` | `ConvoxConnectionError` |
/// | the deadline | `Timeout`, or `OutcomeUnknown` where it may have happened | `ConvoxTimeoutError` |
///
/// All of them are [`Error`], the SDK's `ConvoxAPIError`: `status`, `server_message`, `request_id`. A 500 is not sorted
/// by words in its text, as the SDK does: a program's own "not found" must not pass for the rack's.
#[derive(Clone, Copy, Debug)]
pub struct Convox;

#[derive(Deserialize)]
struct ErrorBody {
    error: String,
}

/// What every matched route of a rack sets.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

impl Protocol for Convox {
    const PLATFORM: &'static str = "convox";

    fn decode_error(error: Error, headers: &HeaderMap, body: &[u8]) -> Error {
        let text = String::from_utf8_lossy(body);
        let text = text.trim();
        if is_page(headers, body) {
            return error.with_hint(PAGE_HINT);
        }
        let words = match serde_json::from_str::<ErrorBody>(text) {
            Ok(b) => b.error,
            Err(_) => text.to_owned(),
        };
        let status = error.status();
        let operation = error.operation();
        let error = match status {
            Some(StatusCode::UNAUTHORIZED) if words.contains("unauthorized to access") => error
                .with_kind(Kind::Denied)
                .with_hint("the credentials are right, their role is too low for this"),
            Some(StatusCode::UNAUTHORIZED) => challenge(error, headers),
            Some(StatusCode::FORBIDDEN) if words.contains("updating") => error
                .with_kind(Kind::Conflict)
                .with_hint("look at the app's status; a promotion can be forced"),
            Some(StatusCode::NOT_FOUND)
                if words.is_empty()
                    && !headers.contains_key(REQUEST_ID)
                    && operation != Some("ObjectExists") =>
            {
                error
                    .with_kind(Kind::Unsupported)
                    .with_hint("the rack does not have this route: it may be too old for it")
            }
            _ => error,
        };
        if words.is_empty() {
            error
        } else {
            error.with_server_message(words)
        }
    }

    fn encode_error(error: &ApiError) -> Response<WireBody> {
        // Plain text; an unknown route is an empty 404.
        let text = if error.message.is_empty() {
            String::new()
        } else {
            format!("{}\n", error.message)
        };
        let mut r = Response::new(WireBody::full(text));
        *r.status_mut() = error.http_status();
        r.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        r
    }
}

/// Says what a 401 asks for.
fn challenge(error: Error, headers: &HeaderMap) -> Error {
    match Challenge::read(headers) {
        Some(challenge) if challenge.token => error.with_hint(
            "the console asks for a hardware key, which is not supported here: log in with the vendor's \
             tool (its session is used), or take a deploy key",
        ),
        Some(_) => error.with_hint("the console did not take the session: log in again, or take a deploy key"),
        None => error.with_hint(
            "the key is not this host's; on a console a deploy key goes with its organisation (ORG/RACK)",
        ),
    }
}

/// A console's challenge: `WWW-Authenticate: Session path="/session" token="false"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// Where a session is asked for.
    pub(crate) path: String,
    /// Whether a hardware key must answer.
    pub(crate) token: bool,
}

impl Challenge {
    /// The challenge of an answer, if it has one.
    pub(crate) fn read(headers: &HeaderMap) -> Option<Self> {
        headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .find_map(|text| {
                let rest = text.trim().strip_prefix("Session")?;
                let value = |name: &str| {
                    let at = rest.find(&format!("{name}=\""))? + name.len() + 2;
                    rest[at..].split('"').next().map(str::to_owned)
                };
                Some(Self {
                    path: value("path")?,
                    token: value("token").is_some_and(|t| t == "true"),
                })
            })
    }
}
