//! Generation 1's shapes of the same things.

use std::collections::BTreeMap;

use boxrig_convox::{Done, Reply, Text, ops};
use boxrig_wire::{ApiError, Request};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::Cx;
use super::releases::{Change, make, parse_env};

pub(super) async fn parameters(
    cx: Cx,
    rq: Request<ops::v2_classic::AppParametersGet>,
) -> Result<Reply<BTreeMap<String, String>>, ApiError> {
    let app = cx.app(&rq.path.0)?;
    Ok(Reply(super::apps::view(&cx, &app).parameters))
}

/// A release with another environment; its id is in a header.
async fn release(cx: &Cx, app: &str, env: String) -> Result<Text, ApiError> {
    let id = cx.id('R');
    let change = Change {
        env: Some(env.clone()),
        ..Change::default()
    };
    cx.write(app, |tx| make(cx, tx, app, &id, change)).await?;
    let mut headers = HeaderMap::new();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(HeaderName::from_static("release-id"), id);
    }
    Ok(Text { text: env, headers })
}

pub(super) async fn set_environment(
    cx: Cx,
    rq: Request<ops::v2_classic::EnvironmentSet>,
) -> Result<Text, ApiError> {
    let (app,) = rq.path;
    cx.app(&app)?;
    let bytes = rq.body.body.collect(1 << 20).await;
    let bytes = bytes.map_err(|e| ApiError::invalid(format!("the environment: {e}")))?;
    release(&cx, &app, String::from_utf8_lossy(&bytes).into_owned()).await
}

pub(super) async fn unset_environment(
    cx: Cx,
    rq: Request<ops::v2_classic::EnvironmentUnset>,
) -> Result<Text, ApiError> {
    let (app, key) = rq.path;
    cx.app(&app)?;
    let newest = cx
        .releases_of(&app)
        .first()
        .map(|r| r.env.clone())
        .unwrap_or_default();
    let mut env = parse_env(&newest);
    if env.remove(&key).is_none() {
        return Err(ApiError::not_found(format!("no such variable: {key}")));
    }
    let lines: Vec<String> = env.iter().map(|(k, v)| format!("{k}={v}")).collect();
    release(&cx, &app, lines.join("\n")).await
}

pub(super) async fn set_parameters(
    cx: Cx,
    rq: Request<ops::v2_classic::AppParametersSet>,
) -> Result<Done, ApiError> {
    let (app,) = rq.path;
    super::apps::set_parameters(&cx, &app, rq.body.0.0.into_iter().collect()).await?;
    Ok(Done)
}

/// No service has a certificate of its own set by hand here.
pub(super) async fn ssl(
    cx: Cx,
    rq: Request<ops::v2_classic::SslList>,
) -> Result<Reply<Vec<boxrig_convox::SslEntry>>, ApiError> {
    cx.app(&rq.path.0)?;
    Ok(Reply(Vec::new()))
}
