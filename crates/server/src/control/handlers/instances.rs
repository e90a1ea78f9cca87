//! Instances as the engine sees them, their logs and what they use.

use boxrig_engine::{InstanceInfo, LogOptions, LogSource, SnapshotId};
use boxrig_wire::{ApiError, ByteReply, JsonReply, Request};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use serde_json::Value;

use super::super::ops::{GetInstance, GetInstanceLogs, GetInstanceStats, ListInstances, Restore};
use super::super::types::{InstanceView, StatsView};
use super::{Called, api, instance_id, ms};
use crate::streams::reader_body;

pub(super) async fn list(
    call: Called,
    _: Request<ListInstances>,
) -> Result<JsonReply<Vec<InstanceView>>, ApiError> {
    let all = call.core.engine.list().await.map_err(api)?;
    Ok(JsonReply::ok(all.iter().map(view).collect()))
}

pub(super) async fn get(
    call: Called,
    request: Request<GetInstance>,
) -> Result<JsonReply<InstanceView>, ApiError> {
    let id = instance_id(&request.path.0)?;
    let info = call.core.engine.get(&id).await.map_err(api)?;
    Ok(JsonReply::ok(view(&info)))
}

pub(super) async fn stats(
    call: Called,
    request: Request<GetInstanceStats>,
) -> Result<JsonReply<StatsView>, ApiError> {
    let id = instance_id(&request.path.0)?;
    let stats = call.core.engine.stats(&id).await.map_err(api)?;
    Ok(JsonReply::ok(StatsView {
        cpu_ms: stats
            .cpu_time
            .map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX)),
        memory_bytes: stats.memory_bytes,
        pids: stats.pids,
        disk_bytes: stats.disk_bytes,
        sent_bytes: stats.net_sent_bytes,
        received_bytes: stats.net_received_bytes,
    }))
}

pub(super) async fn restore(
    call: Called,
    request: Request<Restore>,
) -> Result<JsonReply<InstanceView>, ApiError> {
    let id = instance_id(&request.path.0)?;
    let snapshot = SnapshotId::new(request.body.0.snapshot)
        .map_err(|_| ApiError::not_found("no such snapshot"))?;
    let info = call
        .core
        .engine
        .restore(&id, &snapshot)
        .await
        .map_err(api)?;
    Ok(JsonReply::ok(view(&info)))
}

pub(super) async fn logs(
    call: Called,
    request: Request<GetInstanceLogs>,
) -> Result<ByteReply, ApiError> {
    let id = instance_id(&request.path.0)?;
    let source = match request.query.source.as_deref() {
        None | Some("main") => LogSource::Main,
        Some("console") => LogSource::Console,
        Some(_) => return Err(ApiError::invalid("source: main or console")),
    };
    let options = LogOptions {
        source,
        since: request.query.since,
        tail: request.query.tail,
        follow: request.query.follow.unwrap_or(false),
    };
    let log = call.core.engine.logs(&id, options).await.map_err(api)?;
    let mut headers = HeaderMap::new();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(
        HeaderName::from_static("x-boxrig-offset"),
        HeaderValue::from(log.offset),
    );
    Ok(ByteReply {
        status: StatusCode::OK,
        headers,
        body: reader_body(log.content),
    })
}

/// The lower-case name that a unit variant is written as.
fn word(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(text)) => text,
        _ => String::new(),
    }
}

pub(super) fn view(info: &InstanceInfo) -> InstanceView {
    InstanceView {
        id: info.id().to_string(),
        state: word(info.state),
        reason: info.reason.clone(),
        source: serde_json::to_value(&info.spec.source).unwrap_or_default(),
        labels: info.spec.labels.clone(),
        created_at_ms: ms(info.created_at),
        started_at_ms: info.started_at.map(ms),
        enforced: serde_json::to_value(info.enforced).unwrap_or_default(),
        host_pid: info.host_pid,
    }
}
