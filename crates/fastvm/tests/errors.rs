//! What the SDK's exception classes are here: the table at [`FastVm`], and how errors are read and written.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use boxrig_fastvm::FastVm;
use boxrig_wire::{ApiError, Error, Kind, Protocol};
use http::{HeaderMap, StatusCode};

fn read(status: u16, body: &str) -> Error {
    let error = Error::from_status(StatusCode::from_u16(status).unwrap());
    FastVm::decode_error(error, &HeaderMap::new(), body.as_bytes())
}

#[test]
fn statuses_and_tokens_have_their_kind() {
    // The class of the SDK, status, body, kind, code.
    let table: &[(&str, u16, &str, Kind, Option<&str>)] = &[
        (
            "BadRequestError",
            400,
            r#"{"error":"bad name"}"#,
            Kind::Invalid,
            None,
        ),
        (
            "UnprocessableEntityError",
            422,
            r#"{"error":"no"}"#,
            Kind::Invalid,
            None,
        ),
        (
            "AuthenticationError",
            401,
            r#"{"error":"unauthorized"}"#,
            Kind::Unauthenticated,
            None,
        ),
        ("PermissionDeniedError", 403, "", Kind::Denied, None),
        (
            "NotFoundError",
            404,
            r#"{"error":"vm not found"}"#,
            Kind::NotFound,
            None,
        ),
        (
            "ConflictError",
            409,
            r#"{"error":"no ttl"}"#,
            Kind::Conflict,
            None,
        ),
        (
            "ConflictError VOL_NOT_READY",
            409,
            r#"{"error":"VOL_NOT_READY"}"#,
            Kind::Conflict,
            Some("VOL_NOT_READY"),
        ),
        (
            "VOL_NOT_READY with another status",
            400,
            r#"{"error":"VOL_NOT_READY"}"#,
            Kind::Conflict,
            Some("VOL_NOT_READY"),
        ),
        (
            "RateLimitError",
            429,
            r#"{"error":"slow down"}"#,
            Kind::RateLimited,
            None,
        ),
        (
            "RateLimitError services",
            429,
            r#"{"error":"vm_service_quota_exceeded","count":16}"#,
            Kind::Quota,
            Some("vm_service_quota_exceeded"),
        ),
        (
            "RateLimitError quota",
            429,
            r#"{"error":"quota","dimension":"vcpu"}"#,
            Kind::Quota,
            None,
        ),
        (
            "InternalServerError",
            500,
            r#"{"error":"boom"}"#,
            Kind::Failed,
            None,
        ),
        (
            "InternalServerError 502",
            502,
            "<html>",
            Kind::Unavailable,
            None,
        ),
        (
            "InternalServerError 503",
            503,
            r#"{"message":"no capacity"}"#,
            Kind::Unavailable,
            None,
        ),
        (
            "InternalServerError 504",
            504,
            r#"{"detail":"late"}"#,
            Kind::Unavailable,
            None,
        ),
        (
            "501 of boxrig's server",
            501,
            r#"{"error":"x is not implemented"}"#,
            Kind::Unsupported,
            None,
        ),
    ];
    for (class, status, body, kind, code) in table {
        let e = read(*status, body);
        assert_eq!(e.kind(), *kind, "{class}");
        assert_eq!(e.code().map(|c| c.raw()), *code, "{class}");
        assert_eq!(e.status().unwrap().as_u16(), *status);
    }
    assert!(read(409, r#"{"error":"VOL_NOT_READY"}"#).is_retryable());
    assert!(
        read(429, r#"{"error":"q","dimension":"vcpu"}"#)
            .to_string()
            .contains("vcpu")
    );
    assert_eq!(
        read(503, r#"{"message":"no capacity"}"#)
            .server_message()
            .unwrap()
            .raw(),
        "no capacity"
    );
    let e = read(400, r#"{"error":"bad_input_token","message":"the words"}"#);
    assert_eq!(
        (e.code().unwrap().raw(), e.server_message().unwrap().raw()),
        ("bad_input_token", "the words")
    );
}

#[test]
fn no_body_does_harm() {
    for body in [
        "",
        "null",
        "[]",
        "{",
        r#"{"error":{"deep":[1]}}"#,
        r#"{"error":null}"#,
        "\u{0}",
        r#"{"error":"\u001b[2J\nx"}"#,
    ] {
        let e = read(400, body);
        assert_eq!(e.kind(), Kind::Invalid, "{body:?}");
        assert!(!e.to_string().contains(['\u{1b}', '\n']), "{e}");
    }
}

#[tokio::test]
async fn errors_that_are_written_are_read_as_they_were() {
    let cases = [
        ApiError::not_found("vm not found"),
        ApiError::invalid("name: too long"),
        ApiError::conflict("not running"),
        ApiError::new(Kind::Unauthenticated, "who are you"),
        ApiError::new(Kind::Quota, "no quota left").with_detail("dimension", "memory_mib"),
        ApiError::new(Kind::Quota, "")
            .with_code("vm_service_quota_exceeded")
            .with_detail("count", 16),
        ApiError::new(Kind::RateLimited, "slow down"),
        ApiError::new(Kind::Unavailable, "no capacity"),
        ApiError::not_implemented("createBuild"),
    ];
    for error in cases {
        let (parts, body) = FastVm::encode_error(&error).into_parts();
        let body = body.collect(10_000).await.unwrap();
        let read = FastVm::decode_error(Error::from_status(parts.status), &parts.headers, &body);
        assert_eq!(read.kind(), error.kind, "{error}");
        assert_eq!(read.code().map(|c| c.raw()), error.code, "{error}");
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert!(json["error"].is_string(), "{json}");
        for (k, v) in &error.details {
            assert_eq!(&json[k], v);
        }
        if error.code.is_none() {
            assert_eq!(read.server_message().unwrap().raw(), error.message);
        }
    }
}
